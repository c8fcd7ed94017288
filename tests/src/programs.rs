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
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--workspace", "--bins", "--quiet"]).arg("--target-dir").arg(target());
        let built = cargo.current_dir(repository()).status().unwrap();
        assert!(built.success(), "the executables cannot be built");
        target().join("release")
    });
    directory.join(name)
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
