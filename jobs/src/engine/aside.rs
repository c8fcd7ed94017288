//! Records that were set aside: written as they come, so that hundreds of thousands of them take no memory.
//!
//! A shard is mapped by one thread from its first record to its last. So each thread writes what it sets aside to a file of its own, as the
//! lines of which the quarantine consists, and remembers where those of each shard begin and end. In the order of the input they are put
//! together in the end, by copying.
//!
//! ```text
//! TEMP/aside-THREAD   line*        the lines of one shard after the other
//! quarantine          line*        all of them, by shard
//! line                a JSON object with file, shard, record, offset, cause, and the record as text, or in hexadecimal if it is none
//! ```

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::fault::{BadRecord, Fault};

/// What one thread has set aside. There is a file only once there is a record.
pub(super) struct Aside {
    path: PathBuf,
    lines: Option<BufWriter<File>>,
    /// Bytes written.
    end: u64,
    stretches: Vec<Stretch>,
}

/// The lines of one shard, in one file.
struct Stretch {
    shard: u32,
    start: u64,
    end: u64,
    records: u64,
}

impl Aside {
    /// What the thread with this number sets aside, in a directory that no other attempt uses.
    pub(super) fn new(directory: &Path, thread: usize) -> Self {
        Self { path: directory.join(format!("aside-{thread}")), lines: None, end: 0, stretches: Vec::new() }
    }

    /// Writes a record, which must come behind those of its shard that were written before.
    pub(super) fn add(&mut self, record: &BadRecord) -> Result<(), Fault> {
        let Self { path, lines, end, stretches } = self;
        let failed = |source| Fault::disk(path, source);
        if lines.is_none() {
            *lines = Some(BufWriter::new(File::options().read(true).write(true).create_new(true).open(&*path).map_err(failed)?));
        }
        let lines = lines.as_mut().expect("just made");
        let line = line(record);
        lines.write_all(&line).map_err(failed)?;
        let start = *end;
        *end += line.len() as u64;
        match stretches.last_mut() {
            Some(last) if last.shard == record.shard => (last.end, last.records) = (*end, last.records + 1),
            _ => stretches.push(Stretch { shard: record.shard, start, end: *end, records: 1 }),
        }
        Ok(())
    }
}

/// What all threads have set aside.
pub(crate) struct SetAside {
    files: Vec<(PathBuf, File)>,
    /// In the order of the input, each with the number of its file.
    stretches: Vec<(usize, Stretch)>,
}

impl SetAside {
    /// Puts together what the threads have written.
    pub(super) fn of(threads: impl IntoIterator<Item = Aside>) -> Result<Self, Fault> {
        let (mut files, mut stretches) = (Vec::new(), Vec::new());
        for Aside { path, lines, stretches: of_thread, .. } in threads {
            let Some(lines) = lines else { continue };
            let file = lines.into_inner().map_err(|error| Fault::disk(&path, error.into_error()))?;
            stretches.extend(of_thread.into_iter().map(|stretch| (files.len(), stretch)));
            files.push((path, file));
        }
        stretches.sort_by_key(|(_, stretch)| stretch.shard);
        Ok(Self { files, stretches })
    }

    /// How many records there are.
    pub(crate) fn records(&self) -> u64 {
        self.stretches.iter().map(|(_, stretch)| stretch.records).sum()
    }

    /// Writes all lines in the order of the input to a new file.
    pub(crate) fn write(&self, path: &Path, durable: bool) -> Result<(), Fault> {
        let failed = |source| Fault::disk(path, source);
        let mut out = File::create_new(path).map_err(failed)?;
        let mut buffer = vec![0; 64 << 10];
        for (file, stretch) in &self.stretches {
            let (from, file) = &self.files[*file];
            let mut at = stretch.start;
            while at < stretch.end {
                let piece = &mut buffer[..(stretch.end - at).min(64 << 10) as usize];
                file.read_exact_at(piece, at).map_err(|source| Fault::disk(from, source))?;
                out.write_all(piece).map_err(failed)?;
                at += piece.len() as u64;
            }
        }
        if durable { out.sync_all().map_err(failed) } else { Ok(()) }
    }
}

/// A record as a line of the quarantine.
fn line(bad: &BadRecord) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        file: String,
        shard: u32,
        record: u64,
        offset: u64,
        cause: &'a str,
        /// The record as text, where it is UTF-8; else in hexadecimal.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hex: Option<String>,
    }
    let text = std::str::from_utf8(&bad.bytes).ok();
    let hex = text.is_none().then(|| hexadecimal(&bad.bytes));
    let BadRecord { shard, record, offset, .. } = *bad;
    let line = Line { file: bad.file.display().to_string(), shard, record, offset, cause: &bad.cause, text, hex };
    let mut bytes = serde_json::to_vec(&line).expect("names, numbers and text have a JSON form");
    bytes.push(b'\n');
    bytes
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |number: u8| char::from(b"0123456789abcdef"[usize::from(number)]);
    let mut digits = String::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|byte| digits.extend([digit(byte >> 4), digit(byte & 15)]));
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(shard: u32, record: u64, bytes: &[u8]) -> BadRecord {
        BadRecord { shard, record, offset: 10 * record, file: "in.txt".into(), cause: "no \"good\"".to_owned(), bytes: bytes.to_vec() }
    }

    #[test]
    fn records_come_in_the_order_of_the_input_whoever_has_set_them_aside() {
        let directory = tempfile::tempdir().unwrap();
        let mut threads = [0, 1, 2].map(|thread| Aside::new(directory.path(), thread));
        let long = vec![b'x'; 200_000];
        for (thread, shard, number) in [(1, 0, 3), (0, 2, 0), (1, 0, 7), (0, 2, 1), (1, 5, 0), (0, 3, 9)] {
            threads[thread].add(&record(shard, number, &long)).unwrap();
        }
        let aside = SetAside::of(threads).unwrap();
        assert_eq!(aside.records(), 6);
        let path = directory.path().join("quarantine");
        aside.write(&path, true).unwrap();
        let lines = std::fs::read_to_string(&path).unwrap();
        let place = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["text"].as_str().unwrap().len(), long.len());
            (line["shard"].as_u64().unwrap(), line["record"].as_u64().unwrap())
        };
        assert_eq!(lines.lines().map(place).collect::<Vec<_>>(), [(0, 3), (0, 7), (2, 0), (2, 1), (3, 9), (5, 0)]);
        assert!(!directory.path().join("aside-2").exists(), "a thread without bad records needs no file");
    }

    #[test]
    fn a_line_holds_the_record_as_text_or_in_hexadecimal() {
        let text = r#"{"file":"in.txt","shard":1,"record":2,"offset":20,"cause":"no \"good\"","text":"a\tb"}"#;
        assert_eq!(line(&record(1, 2, b"a\tb")), [text.as_bytes(), b"\n"].concat());
        let hex = r#"{"file":"in.txt","shard":1,"record":2,"offset":20,"cause":"no \"good\"","hex":"00afff"}"#;
        assert_eq!(line(&record(1, 2, b"\x00\xaf\xff")), [hex.as_bytes(), b"\n"].concat());
    }
}
