//! A job crate as somebody else would write it: lines and their words, with ways to go wrong.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use shardmill::prelude::*;

/// Collects what stands on lines `key value`: how many values a key has, and the first and last one.
#[derive(Args, Serialize, Deserialize)]
struct Witness {
    /// Panic in `map` on lines that contain this.
    #[arg(long)]
    panic_on: Option<String>,
    /// Fail in `map` on lines that contain this.
    #[arg(long)]
    fail_on: Option<String>,
    /// Fail in `reduce` on this key.
    #[arg(long)]
    fail_on_key: Option<String>,
    /// Panic in `reduce` on this key.
    #[arg(long)]
    panic_on_key: Option<String>,
    /// Fail in `finish`.
    #[arg(long)]
    fail_to_finish: bool,
    /// Append to this file when a line says `append`.
    #[arg(long)]
    append_to: Option<PathBuf>,
    /// Remove this file when a line says `remove`.
    #[arg(long)]
    remove: Option<PathBuf>,
    /// Never return from a line that says `stay`, and make this file when there.
    #[arg(long)]
    stay_at: Option<PathBuf>,
    /// Leave a line in this file when an attempt starts and when it finishes.
    #[arg(long)]
    log: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    values: u64,
    first: String,
    last: String,
}

impl Witness {
    fn note(&self, what: &str) -> Result {
        if let Some(log) = &self.log {
            writeln!(OpenOptions::new().create(true).append(true).open(log)?, "{what}")?;
        }
        Ok(())
    }
}

impl MapReduce for Witness {
    type Input = Lines;
    type Key = String;
    type Value = Text;
    type Combine = NoCombine;
    type Output = Row;

    const VERSION: &'static str = "7.8.9";

    fn start(&self) -> Result {
        self.note("start")
    }

    fn finish(&self) -> Result {
        if self.fail_to_finish {
            return Err("cannot finish".into());
        }
        self.note("finish")
    }

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        let holds = |text: &Option<String>| text.as_deref().is_some_and(|text| line.contains(text));
        out.count("lines", 1);
        match line.split_once(' ') {
            Some((key, value)) => out.emit(key, value),
            None if line.is_empty() => out.count("blank lines", 1),
            None => {}
        }
        assert!(!holds(&self.panic_on), "this line is not to my liking");
        if holds(&self.fail_on) {
            return Err("this line has failed".into());
        }
        match (line, &self.append_to, &self.remove, &self.stay_at) {
            ("append", Some(path), ..) => OpenOptions::new().append(true).open(path)?.write_all(b"more\n")?,
            ("remove", _, Some(path), _) => fs::remove_file(path)?,
            ("stay", .., Some(path)) => {
                fs::write(path, "")?;
                loop {
                    std::thread::yield_now();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn reduce(&self, key: &str, mut values: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        assert_ne!(self.panic_on_key.as_deref(), Some(key), "this key is not to my liking");
        if self.fail_on_key.as_deref() == Some(key) {
            return Err("this key has failed".into());
        }
        let (mut first, mut last, mut count) = (None, String::new(), 0);
        while let Some(value) = values.next_ref() {
            last = value.to_owned();
            first.get_or_insert_with(|| value.to_owned());
            count += 1;
        }
        out.write(Row { key: key.to_owned(), values: count, first: first.unwrap_or_default(), last })
    }
}

fn main() -> ExitCode {
    shardmill::main::<Witness>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_the_order_of_the_input() {
        let job = Witness {
            panic_on: None,
            fail_on: None,
            fail_on_key: None,
            panic_on_key: None,
            fail_to_finish: false,
            append_to: None,
            remove: None,
            stay_at: None,
            log: None,
        };
        let rows = shardmill::testing::run(job, "b 3\na 2\n\na 1\nb 1\na 9\n").unwrap();
        assert_eq!(rows, "key,values,first,last\na,3,2,9\nb,2,3,1\n");
        shardmill::testing::check_parameters::<Witness>();
    }
}
