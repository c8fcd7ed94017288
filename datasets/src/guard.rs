//! Panics of readers that are not ours: a damaged file must be an error that names it, never the end of the process.
//!
//! Whatever the code was in the middle of changing must not be used afterwards: a reader that has panicked is opened anew or dropped.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::ReadError;
use crate::listing::InputFile;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Says whether a panic of this thread would become an error, so that a panic hook need not tell of it.
pub fn is_guarded() -> bool {
    DEPTH.get() > 0
}

/// Runs `code`; its panic is returned as what it said.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(code));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| message(payload.as_ref()).to_owned())
}

/// Reads something of `file`; a panic says that the file is malformed.
pub(crate) fn reading<T>(file: &InputFile, read: impl FnOnce() -> Result<T, ReadError>) -> Result<T, ReadError> {
    guarded(read).unwrap_or_else(|message| {
        let detail = format!("it cannot be read as {}: the reader panicked: {message}", file.format);
        Err(ReadError::Malformed { path: file.path.clone(), offset: 0, detail })
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_a_file_is_read_is_an_error_that_names_it() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let file = InputFile::at(&path, None).unwrap();
        for (code, said) in
            [((|| panic!("row {} of none", 7)) as fn() -> Result<(), ReadError>, "row 7 of none"), (|| panic!("plain"), "plain")]
        {
            let error = reading(&file, || {
                assert!(is_guarded());
                code()
            })
            .unwrap_err();
            assert!(matches!(&error, ReadError::Malformed { detail, .. } if detail.contains(said)), "{error}");
            assert_eq!(error.path(), &*path);
            assert!(!is_guarded());
        }
    }
}
