//! Word count of real text: the documentation of the standard library that comes with the Rust toolchain, against a naive count.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use shardmill_tests::{Job, Place};

/// The documentation of the toolchain's standard library, if it is installed: thousands of files.
fn documentation() -> Option<PathBuf> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let path = Path::new(std::str::from_utf8(&sysroot.stdout).ok()?.trim()).join("share/doc/rust/html/std");
    path.is_dir().then_some(path)
}

/// All HTML files below a folder; like a run, not those whose names begin with `_` or `.`, or that lie in such a folder.
fn html_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with(['_', '.']) {
            continue;
        }
        if path.is_dir() {
            html_below(&path, found);
        } else if name.ends_with(".html") {
            found.push(path);
        }
    }
}

/// The words of some files with how often they occur, and how many bytes were read.
fn count(files: &[PathBuf]) -> (HashMap<String, u64>, u64) {
    let (mut counts, mut bytes) = (HashMap::new(), 0);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        bytes += text.len() as u64;
        for word in text.split_whitespace() {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.to_owned(), 1)),
            }
        }
    }
    (counts, bytes)
}

#[test]
fn the_words_of_the_standard_library_s_documentation_are_those_of_a_naive_count() {
    let Some(folder) = documentation() else {
        eprintln!("skipped: the toolchain has no documentation; rustup component add rust-docs installs it");
        return;
    };
    let mut files = vec![];
    html_below(&folder, &mut files);
    assert!(!files.is_empty());
    let (counts, bytes) = count(&files);
    let place = Place::new();
    let job = Job::new("word-count", &place.path("out")).input(folder.join("**/*.html")).with("--threads 2 --memory 256MiB");
    let (summary, output) = job.run().success();
    assert_eq!((summary.input_files, summary.input_bytes), (files.len() as u64, bytes));
    assert_eq!(summary.groups, counts.len() as u64);
    let (_, parts) = output.csv_parts();
    for row in parts.iter().flatten() {
        assert_eq!(counts.get(&row[0]).map(u64::to_string).as_ref(), Some(&row[1]), "{:?}", row[0]);
    }
    eprintln!("{} files, {} MiB, {} distinct words", files.len(), bytes >> 20, counts.len());
}
