//! Gates: places in a job at which a test makes it stand still.
//!
//! The job `probe` obeys orders among its words; `!map:gate:NAME` stops an attempt at the FIFO `NAME` until it was opened here. Opening a
//! FIFO waits for its other side, so a test knows without sleeping that an attempt has come to the gate.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::look::look_for;
use crate::place::Place;

/// A closed gate.
pub struct Gate {
    path: PathBuf,
}

impl Gate {
    /// Closes the gate `name` of the directory `gates` in `place`.
    pub fn close(place: &Place, name: &str) -> Self {
        let directory = place.path("gates");
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(name);
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0, "{}", io::Error::last_os_error());
        Self { path }
    }

    /// Waits until an attempt stands before the gate. It goes on when the answer is dropped.
    ///
    /// # Panics
    /// If none comes for minutes.
    pub fn reached(&self) -> Reached {
        look_for(|| self.is_reached()).unwrap_or_else(|| panic!("nobody came to the gate {}", self.path.display()))
    }

    /// An attempt that stands before the gate now, if there is one.
    pub fn is_reached(&self) -> Option<Reached> {
        // Without waiting, a FIFO can be opened to write only while somebody has it open to read.
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.path) {
            Ok(file) => Some(Reached { _file: file }),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => None,
            Err(error) => panic!("{}: {error}", self.path.display()),
        }
    }

    /// Opens the gate for good: whoever stands there or comes later passes.
    pub fn open(self) {
        // Open for both, a FIFO waits for nobody. Those who open it from here on wait for nobody either, until the name is gone.
        let both = OpenOptions::new().read(true).write(true).open(&self.path).unwrap();
        fs::remove_file(&self.path).unwrap();
        drop(both);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// An attempt that stands before a gate, until this is dropped.
pub struct Reached {
    _file: File,
}
