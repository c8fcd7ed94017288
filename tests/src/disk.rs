//! Disks with too little room, that may not be written to, or that are broken.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::place::Place;

/// A mounted tmpfs; gone when dropped.
pub struct Disk {
    mounted_at: PathBuf,
    _place: Place,
}

impl Disk {
    /// Mounts one with `options` such as `size=2m` or `ro`, or says on stderr why the test that wants it is skipped: mounting takes root.
    pub fn mount(options: &str) -> Option<Self> {
        let place = Place::new();
        let mounted_at = place.path("disk");
        std::fs::create_dir(&mounted_at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&mounted_at).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self { mounted_at, _place: place });
        }
        eprintln!("skipped: no file system could be mounted, which takes root");
        None
    }

    /// Whether what lies at `path` lies in memory, as it does on a tmpfs.
    pub fn is_memory(path: &Path) -> bool {
        let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output().unwrap();
        kind.stdout.starts_with(b"tmpfs") || kind.stdout.starts_with(b"ramfs")
    }

    /// Writes a file until there is no room for more of it. Returns the file: what is removed is free again.
    pub fn fill(&self) -> PathBuf {
        let path = self.mounted_at.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for piece in [1 << 20, 4096, 1] {
            let bytes = vec![1; piece];
            while file.write_all(&bytes).is_ok() {}
        }
        path
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted_at
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A disk that stays mounted would keep its place from being removed, which is seen by whoever looks into the target directory.
        let _ = Command::new("umount").arg(&self.mounted_at).stderr(Stdio::null()).status();
    }
}

/// Lets syncs of a program fail from some moment on, as those of a disk do that is broken.
///
/// The program is given a library of its own with the calls that sync, which look for a file first.
pub struct BrokenDisk {
    library: PathBuf,
    broken: PathBuf,
}

impl BrokenDisk {
    /// Makes one that is not broken yet. It takes the C compiler that linking takes.
    pub fn new(place: &Place) -> Self {
        let (source, library) = (place.write("broken.c", include_str!("broken_disk.c")), place.path("broken.so"));
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Self { library, broken: place.path("broken") }
    }

    /// Puts a program on it.
    pub fn hold(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("BROKEN", &self.broken);
    }

    /// Breaks it.
    pub fn break_down(&self) {
        std::fs::write(&self.broken, "").unwrap();
    }
}
