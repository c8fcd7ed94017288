//! The commands that people type, as processes, against a coordinator that does what a test says.

#![allow(clippy::unwrap_used)]

mod fake;
mod find;
mod follow;
mod look;
mod program;
mod submit;

use std::process::Output;

/// What a command wrote to stdout.
fn out(told: &Output) -> String {
    String::from_utf8_lossy(&told.stdout).into_owned()
}

/// What a command wrote to stderr.
fn err(told: &Output) -> String {
    String::from_utf8_lossy(&told.stderr).into_owned()
}

/// Checks how a command ended, and gives what it wrote to stderr.
fn ended(told: &Output, code: i32) -> String {
    assert_eq!(told.status.code(), Some(code), "stdout: {}\nstderr: {}", out(told), err(told));
    err(told)
}
