//! The inputs, made once and kept, and the place for outputs.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::process::Program;

/// The directory of inputs and outputs.
pub struct Data {
    directory: PathBuf,
}

/// A file that `generate` or `to_parquet` makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// 1 GiB of words by Zipf's law, 2.5 million distinct.
    Zipf,
    /// The Zipf text eighteen times over: as many links to the one file, for jobs of a minute.
    ZipfManifold,
    /// 1 GiB of words about as often as in natural text, 0.3 million distinct.
    Natural,
    /// 1 GiB of sales.
    SalesCsv,
    /// The same sales, 480 MB.
    SalesParquet,
    /// 2 GiB of 100-byte records.
    Records2,
    /// 10 GiB of 100-byte records.
    Records10,
    /// The first lines of the Zipf text, at most 1 KiB.
    Kilobyte,
    /// 10,000 lines of a word each, all equally long.
    Lines,
}

/// The bytes of each line of [`Input::Lines`].
pub const LINE_BYTES: usize = 11;

impl Input {
    fn name(self) -> &'static str {
        match self {
            Input::Zipf => "zipf.txt",
            Input::ZipfManifold => "zipf18",
            Input::Natural => "nat.txt",
            Input::SalesCsv => "sales.csv",
            Input::SalesParquet => "sales.parquet",
            Input::Records2 => "tera2.bin",
            Input::Records10 => "tera10.bin",
            Input::Kilobyte => "kilobyte.txt",
            Input::Lines => "lines.txt",
        }
    }

    /// What makes the file, as arguments with `OUT` for the file; none for the files made from others.
    fn recipe(self) -> Option<&'static str> {
        match self {
            Input::Zipf => Some("text OUT 1024 1000000 1.0 1"),
            Input::Natural => Some("text OUT 1024 50000 1.07 2"),
            Input::SalesCsv => Some("csv OUT 1024 3"),
            Input::Records2 => Some("tera OUT 2048 4"),
            Input::Records10 => Some("tera OUT 10240 7"),
            Input::ZipfManifold | Input::SalesParquet | Input::Kilobyte | Input::Lines => None,
        }
    }
}

impl Data {
    /// Makes the directory if it is not there.
    pub fn prepare(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Data { directory: directory.canonicalize()? })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn path(&self, input: Input) -> String {
        self.directory.join(input.name()).display().to_string()
    }

    /// What programs print, for when one fails.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub fn output(&self) -> PathBuf {
        self.directory.join("out")
    }

    /// Leaves an empty directory for outputs.
    pub fn clear_output(&self) -> io::Result<PathBuf> {
        let output = self.output();
        remove(&output)?;
        fs::create_dir(&output)?;
        Ok(output)
    }

    /// Makes the file if it is not there. A file appears under its name only when it is whole.
    pub fn make(&self, input: Input) -> Result<(), Box<dyn Error>> {
        let path = PathBuf::from(self.path(input));
        if path.exists() {
            return Ok(());
        }
        eprintln!("making {}", path.display());
        let unfinished = format!("{}.unfinished", path.display());
        if let Some(recipe) = input.recipe() {
            Program::ours("generate", &recipe.replace("OUT", &unfinished))?.run(&self.log())?;
        } else if input == Input::SalesParquet {
            self.make(Input::SalesCsv)?;
            let arguments = format!("{} {unfinished}", self.path(Input::SalesCsv));
            Program::ours("to_parquet", &arguments)?.run(&self.log())?;
        } else if input == Input::ZipfManifold {
            self.make(Input::Zipf)?;
            remove(Path::new(&unfinished))?;
            fs::create_dir(&unfinished)?;
            for number in 1..=18 {
                fs::hard_link(self.path(Input::Zipf), Path::new(&unfinished).join(format!("{number:02}.txt")))?;
            }
        } else if input == Input::Lines {
            let lines: String = (0..10_000).map(|number| format!("word-{number:05}\n")).collect();
            fs::write(&unfinished, lines)?;
        } else {
            self.make(Input::Zipf)?;
            let mut head = [0; 1024];
            File::open(self.path(Input::Zipf))?.read_exact(&mut head)?;
            let lines = head.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
            File::create(&unfinished)?.write_all(&head[..lines])?;
        }
        Ok(fs::rename(unfinished, path)?)
    }

    /// Reads the files once, so that the next program finds them in the page cache.
    pub fn warm(&self, inputs: &[Input]) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        for &input in inputs {
            let file = if input == Input::ZipfManifold { Input::Zipf } else { input };
            let mut file = File::open(self.path(file))?;
            while file.read(&mut buffer)? > 0 {}
        }
        Ok(())
    }
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
