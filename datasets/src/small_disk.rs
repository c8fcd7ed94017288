//! A file system of a mebibyte, for tests of what happens when it is full.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A mounted file system; gone when dropped.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts one, or says on stderr why the test that wants it is skipped: mounting takes root.
    pub(crate) fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(disk.path()).stderr(Stdio::null()).status();
        let mounted = mount.is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: no small file system could be mounted");
        }
        mounted.then_some(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Fails where mounting failed.
        let _ = Command::new("umount").arg(self.0.path()).stderr(Stdio::null()).status();
    }
}
