//! What a run is asked to do: inputs, output, and the flags that the plan depends on.
//!
//! The same flags stand on the command line of a job's `run` and of a coordinator's `submit` (feature `cli`), and the same value travels
//! to whoever plans. What depends on the machine (threads, memory, directories for temporary files) is not in it.

use std::io;
use std::path::{Path, PathBuf, absolute};

use serde::{Deserialize, Serialize};

use crate::format::csv::CsvOptions;
use crate::format::{Compression, Format};
use crate::limits::Limits;
use crate::listing::Drift;
use crate::sink::OutputFormat;

/// Inputs, output and the flags that decide what a run gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct RunRequest {
    /// A file, a directory or a glob to read; may be given several times.
    #[cfg_attr(
        feature = "cli",
        arg(id = "input", long = "input", short = 'i', required = true, value_name = "PATH", help_heading = "Input")
    )]
    pub inputs: Vec<String>,
    /// text, csv, tsv, jsonl, parquet, arrow or fixed:N; by the file's name if not given.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FORMAT", help_heading = "Input"))]
    pub input_format: Option<Format>,
    /// How CSV files are to be understood.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub csv: CsvOptions,
    /// The longest line, record or field [default: 16MiB].
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Input"))]
    pub max_record_bytes: Option<u64>,
    /// How many times its size a compressed file may expand to, above 16 MiB [default: 200].
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Input"))]
    pub max_expansion: Option<u64>,
    /// What to do with a file that is changed while it is read: fail, or warn if it has only grown.
    #[cfg_attr(feature = "cli", arg(long, value_name = "WHAT", value_enum, default_value_t = Drift::Fail, hide_possible_values = true, help_heading = "Input"))]
    pub input_drift: Drift,
    /// Set up to this many bad records aside, in _quarantine/, instead of failing.
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", default_value_t = 0, help_heading = "Input"))]
    pub max_bad_records: u64,
    /// Take an input that matches nothing as empty.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Input"))]
    pub allow_empty: bool,
    /// The directory that will hold the parts; must not exist.
    #[cfg_attr(feature = "cli", arg(long, short, value_name = "DIR", help_heading = "Output"))]
    pub output: PathBuf,
    /// csv, tsv, jsonl, parquet, arrow, text or bytes [default: csv, or bytes for fixed:N].
    #[cfg_attr(feature = "cli", arg(long, value_name = "FORMAT", help_heading = "Output"))]
    pub output_format: Option<OutputFormat>,
    /// How parts are compressed: none, gzip or zstd.
    #[cfg_attr(feature = "cli", arg(long, value_name = "HOW", default_value_t = Compression::None, value_parser = output_compression, help_heading = "Output"))]
    pub output_compression: Compression,
    /// Replace the output if it exists, at once and only when the new one is whole.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Output"))]
    pub overwrite: bool,
    /// The number of partitions and so of parts [default: one per 64 MiB of input].
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Resources"))]
    pub partitions: Option<u32>,
    /// The size of shards [default: 32MiB].
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Resources"))]
    pub shard_bytes: Option<u64>,
}

impl RunRequest {
    /// Makes a request with the usual flags.
    ///
    /// ```
    /// use shardmill_datasets::RunRequest;
    ///
    /// let request = RunRequest { overwrite: true, ..RunRequest::new(["logs/**/*.gz".to_owned()], "counts") };
    /// assert_eq!(request.max_bad_records, 0);
    /// ```
    pub fn new(inputs: impl IntoIterator<Item = String>, output: impl Into<PathBuf>) -> Self {
        Self {
            inputs: inputs.into_iter().collect(),
            input_format: None,
            csv: CsvOptions::default(),
            max_record_bytes: None,
            max_expansion: None,
            input_drift: Drift::Fail,
            max_bad_records: 0,
            allow_empty: false,
            output: output.into(),
            output_format: None,
            output_compression: Compression::None,
            overwrite: false,
            partitions: None,
            shard_bytes: None,
        }
    }

    /// Returns the same request with paths that do not depend on where a process was started.
    pub fn absolute(mut self) -> io::Result<Self> {
        for input in &mut self.inputs {
            *input = absolute(&*input)?
                .into_os_string()
                .into_string()
                .map_err(|path| io::Error::other(format!("{} is not UTF-8", path.display())))?;
        }
        self.output = absolute(&self.output)?;
        Ok(self)
    }

    /// Returns the caps that the plan has: those asked for, and the usual ones.
    pub fn limits(&self) -> Limits {
        let usual = Limits::default();
        let record_bytes = self.max_record_bytes.map_or(usual.record_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let expansion = self.max_expansion.unwrap_or(usual.expansion);
        Limits { record_bytes, field_bytes: record_bytes, expansion, ..usual }
    }

    /// Finds an input file that lies in the output and would be replaced with it.
    pub fn overlap<'f>(&self, mut files: impl Iterator<Item = &'f Path>) -> Option<&'f Path> {
        let output = self.output.canonicalize().ok()?;
        files.find(|file| file.canonicalize().is_ok_and(|file| file.starts_with(&output)))
    }
}

/// Reads a size: `512`, `64KiB`, `1.5GiB`, `2GB`.
///
/// ```
/// use shardmill_datasets::request::parse_bytes;
///
/// assert_eq!(parse_bytes("1.5 KiB"), Ok(1536));
/// assert!(parse_bytes("much").is_err());
/// ```
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(format!("{text:?} is no size: write it as 512MiB or 2GiB")),
    };
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor),
        Err(_) => number.parse::<f64>().ok().map(|number| (number * factor as f64) as u64),
    };
    bytes.ok_or_else(|| format!("{text:?} is no size: write it as 512MiB or 2GiB"))
}

#[cfg(feature = "cli")]
fn output_compression(word: &str) -> Result<Compression, String> {
    match word.parse() {
        Ok(Compression::Bzip2) | Err(_) => Err("parts are compressed with none, gzip or zstd".to_owned()),
        Ok(compression) => Ok(compression),
    }
}
