//! From a crate's directory to its executable: cargo builds it, as its author would.
//!
//! Cargo's own messages, in colour where there is a terminal, go to stderr as they come.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cargo_metadata::{Message, TargetKind};

/// Why a crate gives no executable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// There is no crate.
    #[error("{} is no crate: there is no Cargo.toml in it", .0.display())]
    NoCrate(PathBuf),
    /// Cargo cannot be started.
    #[error("cannot start cargo to build {}", path.display())]
    NoCargo {
        /// The crate.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What cargo says cannot be read.
    #[error("cannot read what cargo says")]
    Output(#[source] io::Error),
    /// The crate does not build; cargo has said why.
    #[error("the crate in {} does not build", .0.display())]
    Failed(PathBuf),
    /// It is a library.
    #[error("{} has no executable", .0.display())]
    NoBinary(PathBuf),
    /// It has several executables.
    #[error("{} has several executables: {}", path.display(), names.join(", "))]
    SeveralBinaries {
        /// The crate.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
}

impl BuildError {
    pub(crate) fn next(&self) -> Option<String> {
        match self {
            Self::NoCrate(_) => Some("give a crate's directory, an executable, or the name of a bundled job".to_owned()),
            Self::NoCargo { .. } => Some("install Rust (https://rustup.rs), or give an executable that is built already".to_owned()),
            Self::NoBinary(_) => Some("a job needs a main: `fn main() -> ExitCode { shardmill::main::<MyJob>() }`".to_owned()),
            Self::SeveralBinaries { names, .. } => Some(format!("say which one, as in --bin {}", names[0])),
            Self::Output(_) | Self::Failed(_) => None,
        }
    }
}

/// Builds a crate in release mode; the answer is its executable.
pub(crate) fn build(directory: &Path, binary: Option<&str>, is_quiet: bool) -> Result<PathBuf, BuildError> {
    if !directory.join("Cargo.toml").is_file() {
        return Err(BuildError::NoCrate(directory.to_owned()));
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--message-format", "json-render-diagnostics"]);
    match binary {
        Some(name) => command.args(["--bin", name]),
        None => command.arg("--bins"),
    };
    if is_quiet {
        command.arg("--quiet");
    }
    // Cargo is started where the crate's own configuration counts; what was meant from here is said in full.
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR").and_then(|target| std::path::absolute(target).ok()) {
        command.env("CARGO_TARGET_DIR", target);
    }
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut cargo = command.spawn().map_err(|source| BuildError::NoCargo { path: directory.to_owned(), source })?;
    let messages = BufReader::new(cargo.stdout.take().expect("it was asked for"));
    let mut executables: Vec<(String, PathBuf)> = Vec::new();
    for message in Message::parse_stream(messages) {
        if let Message::CompilerArtifact(artifact) = message.map_err(BuildError::Output)?
            && artifact.target.kind.contains(&TargetKind::Bin)
            && let Some(executable) = artifact.executable
        {
            executables.push((artifact.target.name, executable.into()));
        }
    }
    let is_built = cargo.wait().map_err(BuildError::Output)?.success();
    if !is_built {
        return Err(BuildError::Failed(directory.to_owned()));
    }
    executables.sort();
    match executables.as_slice() {
        [] => Err(BuildError::NoBinary(directory.to_owned())),
        [(_, executable)] => Ok(executable.clone()),
        several => {
            let names = several.iter().map(|(name, _)| name.clone()).collect();
            Err(BuildError::SeveralBinaries { path: directory.to_owned(), names })
        }
    }
}
