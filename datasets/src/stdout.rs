//! Standard output, for programs whose output may be cut short.

use std::io::{self, ErrorKind, Write};
use std::process;

/// Writes text, or bytes that may be none, to standard output. Whoever reads it may have seen enough and left, as `head` does; that is no error. Any other
/// failure ends the program with exit code 1: what was asked for cannot be told.
///
/// ```
/// shardmill_datasets::stdout::print("a line\n");
/// ```
pub fn print(text: impl AsRef<[u8]>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_ref()).and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("error: cannot write to standard output: {error}");
        process::exit(1);
    }
}

/// Writes a value as JSON to standard output, as [`print()`] does.
///
/// ```
/// shardmill_datasets::stdout::print_json(&[1, 2]);
/// ```
///
/// What JSON has no way to tell, such as a path that is not UTF-8, ends the program with exit code 1 too.
pub fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(format!("{text}\n")),
        Err(error) => {
            eprintln!("error: JSON cannot tell it: {error}");
            process::exit(1);
        }
    }
}
