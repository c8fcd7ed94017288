//! A directory of one test's own.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::programs::target;

/// A directory of one test's own, below cargo's target directory: on a disk, with room. Gone when dropped.
pub struct Place(TempDir);

impl Place {
    /// Makes one.
    #[allow(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let above = target().join("tests");
        fs::create_dir_all(&above).unwrap();
        Self(tempfile::tempdir_in(above).unwrap())
    }

    /// The path of what is or will be called `name` here.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// All names in it, sorted, hidden ones included.
    pub fn names(&self) -> Vec<String> {
        names_in(self.0.path())
    }
}

/// All names in a directory, sorted, hidden ones included.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
