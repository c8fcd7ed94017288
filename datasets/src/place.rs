//! Places in files, as people look for them.

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
