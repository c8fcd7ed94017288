//! What is submitted: a crate to build, an executable, or a job that every worker has.
//!
//! Whichever it is, it is asked here to describe itself and to check its parameters, before anybody else has to do with it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use shardmill_protocol::{Digest, VERSION};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::build::build;
use super::error::ClientError;
use super::text::plain;

/// How long a program may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much it may say.
const MAX_SAID: u64 = 1 << 20;

/// What a job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// A job that is linked into the worker.
    Bundled(String),
    /// An executable.
    Executable(PathBuf),
}

/// What a job says of itself, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) version: String,
    protocol: String,
}

/// Why something is no job that could be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// Nothing is there.
    #[error("{} is neither a crate's directory nor an executable, and no bundled job has such a name", .0.display())]
    Nothing(PathBuf),
    /// `--bin` was given with something that is no crate.
    #[error("--bin is for crates, and {} is none", .0.display())]
    NoCrate(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The executable.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is for something else than this machine.
    #[error("{} cannot run here: {reason}", path.display())]
    Platform {
        /// The executable.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// It cannot be started.
    #[error("cannot start {}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no worker that could say something of bundled jobs.
    #[error("no `worker` is beside this program, so nothing is known of the bundled job {0}")]
    NoWorker(String),
    /// It does not describe itself as jobs do.
    #[error("{} does not describe itself as a job: {reason}", path.display())]
    NoJob {
        /// The executable.
        path: PathBuf,
        /// What it did instead.
        reason: String,
    },
    /// The worker beside this program has no job of this name, or cannot describe it.
    #[error("the `worker` beside this program does not know a job {name}: {said}")]
    NotBundled {
        /// The name.
        name: String,
        /// What the worker says.
        said: String,
    },
    /// It speaks another version.
    #[error("{name} speaks version {theirs} of the protocol, and this is version {}.{}", VERSION.0, VERSION.1)]
    Version {
        /// The job.
        name: String,
        /// Its version.
        theirs: String,
    },
    /// It does not like its parameters; what it said was shown.
    #[error("{name} refuses its parameters: {said}")]
    Parameters {
        /// The job.
        name: String,
        /// What it said.
        said: String,
    },
}

impl ProgramError {
    pub(crate) fn next(&self) -> Option<String> {
        match self {
            Self::Nothing(_) | Self::NotBundled { .. } => {
                Some("give a crate's directory, an executable, or the name of a bundled job; `worker jobs` lists those".to_owned())
            }
            Self::NoJob { .. } => Some("a job's main is `fn main() -> ExitCode { shardmill::main::<MyJob>() }`".to_owned()),
            Self::Version { .. } => Some("build it against the same release of shardmill".to_owned()),
            Self::Parameters { .. } => Some("parameters of the job follow `--`; `EXECUTABLE run --help` lists them".to_owned()),
            _ => None,
        }
    }
}

impl Program {
    /// Finds out what was named; a crate is built.
    pub(crate) fn of(named: &Path, binary: Option<&str>, is_quiet: bool) -> Result<Self, ClientError> {
        if named.is_dir() {
            return Ok(Self::Executable(build(named, binary, is_quiet)?));
        }
        if binary.is_some() {
            return Err(ProgramError::NoCrate(named.to_owned()).into());
        }
        match named.to_str() {
            _ if named.is_file() => Ok(Self::Executable(std::path::absolute(named)?)),
            Some(name) if !name.contains(['/', '.']) && !name.is_empty() => Ok(Self::Bundled(name.to_owned())),
            _ => Err(ProgramError::Nothing(named.to_owned()).into()),
        }
    }

    /// Lets the job say what it is.
    pub(crate) async fn describe(&self) -> Result<Description, ProgramError> {
        let (path, arguments) = self.command()?;
        if let Self::Executable(path) = self {
            check_platform(path)?;
        }
        let said = ask(&path, arguments.into_iter().chain(["describe".into()])).await?;
        let no_job = |reason: String| match self {
            Self::Bundled(name) => ProgramError::NotBundled { name: name.clone(), said: reason },
            Self::Executable(path) => ProgramError::NoJob { path: path.clone(), reason },
        };
        let description: Description = match said.code {
            Some(0) => serde_json::from_slice(&said.stdout).map_err(|error| no_job(error.to_string()))?,
            Some(code) => return Err(no_job(format!("it exits with code {code}: {}", said.stderr))),
            None => return Err(no_job(format!("it is ended by a signal, or takes too long: {}", said.stderr))),
        };
        if description.protocol.split('.').next() != Some(VERSION.0.to_string().as_str()) {
            return Err(ProgramError::Version { name: description.name, theirs: description.protocol });
        }
        Ok(description)
    }

    /// Lets the job look at its parameters, without any data. If they ask for its help, that is the answer.
    pub(crate) async fn check(
        &self,
        name: &str,
        input: &str,
        output: &Path,
        parameters: &[String],
    ) -> Result<Option<Vec<u8>>, ProgramError> {
        let (path, arguments) = self.command()?;
        let flags: [OsString; 5] = ["check".into(), "--input".into(), input.into(), "--output".into(), output.into()];
        let said = ask(&path, arguments.into_iter().chain(flags).chain(parameters.iter().map(OsString::from))).await?;
        match said.code {
            Some(0) => Ok(parameters.iter().any(|parameter| parameter == "--help" || parameter == "-h").then_some(said.stdout)),
            _ => Err(ProgramError::Parameters { name: name.to_owned(), said: said.stderr }),
        }
    }

    /// What is started to ask it something, and the arguments before the question.
    fn command(&self) -> Result<(PathBuf, Vec<OsString>), ProgramError> {
        match self {
            Self::Executable(path) => Ok((path.clone(), Vec::new())),
            Self::Bundled(name) => {
                let beside = std::env::current_exe().ok().map(|path| path.with_file_name("worker")).filter(|path| path.is_file());
                Ok((beside.ok_or_else(|| ProgramError::NoWorker(name.clone()))?, vec!["job".into(), name.into()]))
            }
        }
    }
}

/// The digest and length of an executable.
pub(crate) fn digest_of(path: &Path) -> Result<(Digest, u64), ProgramError> {
    let mut hasher = blake3::Hasher::new();
    let read = File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_err(|source| ProgramError::Read { path: path.to_owned(), source })?;
    Ok((Digest(*hasher.finalize().as_bytes()), hasher.count()))
}

/// What a program answered.
struct Said {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

/// Asks a program something. It may be anything, so it is believed neither to end nor to be brief.
async fn ask(path: &Path, arguments: impl IntoIterator<Item = OsString>) -> Result<Said, ProgramError> {
    let start = |source| ProgramError::Start { path: path.to_owned(), source };
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(start)?;
    let (out, err) = (child.stdout.take().expect("it was asked for"), child.stderr.take().expect("it was asked for"));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let answering = async {
        tokio::join!(read_some(out, &mut stdout), read_some(err, &mut stderr));
        child.wait().await
    };
    let code = match tokio::time::timeout(PATIENCE, answering).await {
        Ok(status) => status.map_err(start)?.code(),
        Err(_) => None,
    };
    Ok(Said { code, stdout, stderr: plain(String::from_utf8_lossy(&stderr).trim()) })
}

async fn read_some(from: impl AsyncRead + Unpin, into: &mut Vec<u8>) {
    // What cannot be read was not said.
    let _ = from.take(MAX_SAID).read_to_end(into).await;
}

/// Looks at an executable's header, so that what is for another machine is called that.
fn check_platform(path: &Path) -> Result<(), ProgramError> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let mut header = [0; 20];
    let mut file = File::open(path).map_err(|source| ProgramError::Read { path: path.to_owned(), source })?;
    let reason = match file.read_exact(&mut header) {
        Ok(()) => misfit(&header),
        Err(_) => Some("it is too short to be an executable"),
    };
    reason.map_or(Ok(()), |reason| Err(ProgramError::Platform { path: path.to_owned(), reason }))
}

/// Why an executable with this header does not run on this machine.
fn misfit(header: &[u8; 20]) -> Option<&'static str> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        "riscv64" => Some(243),
        _ => None,
    };
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    if !header.starts_with(b"\x7fELF") {
        Some("it is no ELF executable; scripts and programs for other systems cannot be submitted")
    } else if header[4..6] != [2, 1] {
        Some("it is not for a 64-bit little-endian machine")
    } else if !matches!(number(16), 2 | 3) {
        Some("it is an ELF file, and no executable")
    } else if machine.is_some_and(|machine| machine != number(18)) {
        Some("it is for another kind of processor")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_another_machine_is_called_that() {
        let mut header = [0; 20];
        File::open("/proc/self/exe").unwrap().read_exact(&mut header).unwrap();
        assert_eq!(misfit(&header), None);
        let changed = |at: usize, byte: u8| {
            let mut header = header;
            header[at] = byte;
            misfit(&header).unwrap()
        };
        assert!(changed(0, b'#').contains("scripts"));
        assert!(changed(4, 1).contains("64-bit"));
        assert!(changed(16, 1).contains("no executable"));
        assert!(changed(18, 8).contains("processor"));
    }

    #[test]
    fn a_name_is_a_bundled_job_and_a_path_is_not() {
        let of = |named: &str| Program::of(Path::new(named), None, true);
        assert_eq!(of("word-count").unwrap(), Program::Bundled("word-count".to_owned()));
        assert!(matches!(of("./word-count"), Err(ClientError::Program(ProgramError::Nothing(_)))));
        assert!(matches!(of("/proc/self/exe"), Ok(Program::Executable(_))));
        assert!(matches!(Program::of(Path::new("word-count"), Some("x"), true), Err(ClientError::Program(ProgramError::NoCrate(_)))));
    }
}
