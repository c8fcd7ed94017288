//! Where the executables are, and that they are those of the source as it stands.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of a bundled job's executable, built by cargo's release profile.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        // `cargo test` builds a test and what it links, not what it runs. Where all is built this takes half a second.
        let mut cargo = cargo();
        cargo.args(["build", "--release", "--workspace", "--bins", "--quiet"]).arg("--target-dir").arg(target());
        let built = cargo.current_dir(repository()).status().unwrap();
        assert!(built.success(), "the executables cannot be built");
        target().join("release")
    });
    directory.join(name)
}

/// Cargo, as it would be from a shell. What the one that runs the tests has told them of their own package is left out: there are build
/// scripts that look at that, and run again if it is another one (ring's does, and all that speaks TLS was built anew).
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = |name: &str| name.starts_with("CARGO_") && name != "CARGO_HOME" && !name.starts_with("CARGO_PROFILE_");
    for (name, _) in env::vars_os().filter(|(name, _)| told(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    cargo
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Cargo's target directory: the one that this test was built in.
pub fn target() -> PathBuf {
    // TARGET/PROFILE/deps/TEST
    env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}
