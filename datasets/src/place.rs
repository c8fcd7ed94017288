//! Places: lines of files as people look for them, and where a file system keeps what is written to it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::format::{Compression, of_name};

/// Returns the line in which byte `offset` of a plain file lies, counted from one; nothing for a file that is compressed or gone.
pub fn line_of(path: &Path, offset: u64) -> Option<u64> {
    if of_name(path).1 != Compression::None {
        return None;
    }
    let mut file = File::open(path).ok()?.take(offset);
    let (mut buffer, mut line) = (vec![0; 256 << 10], 1);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(line),
            read => line += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64,
        }
    }
}

/// Tells whether what is written at `path`, which need not exist yet, would be kept in memory: by a tmpfs or a ramfs of Linux.
///
/// ```
/// assert!(!shardmill_datasets::is_in_memory(std::path::Path::new("/proc/no/such/thing")));
/// ```
pub fn is_in_memory(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        const TMPFS: u32 = 0x0102_1994;
        const RAMFS: u32 = 0x8584_58f6;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let there = absolute.ancestors().find_map(|above| rustix::fs::statfs(above).ok());
        // The field is wider on some platforms, and signed on some.
        there.is_some_and(|there| matches!(there.f_type as u32, TMPFS | RAMFS))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_lies_in_the_line_that_has_not_ended_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.txt");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!([0, 3, 4, 8].map(|offset| line_of(&path, offset)), [Some(1), Some(1), Some(2), Some(3)]);
        assert_eq!(line_of(&folder.path().join("in.txt.gz"), 0), None);
        assert_eq!(line_of(&folder.path().join("gone"), 0), None);
    }
}
