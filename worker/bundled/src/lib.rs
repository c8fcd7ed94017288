//! The jobs that are linked into the worker: run by name, with no toolchain and no upload.
//!
//! A package of its own, as the engine is compiled once for each of them: that takes minutes, and nothing of the worker changes it.

use std::ffi::OsString;
use std::process::ExitCode;

use shardmill::main_named;

/// The first argument of a process that is to be one of these jobs.
pub const VERB: &str = "job";

/// A bundled job.
struct Bundled {
    name: &'static str,
    summary: &'static str,
    main: fn(&str, Vec<OsString>) -> ExitCode,
}

const JOBS: [Bundled; 3] = [
    Bundled {
        name: "aggregate",
        summary: "group-by over tables: count, sum, min, max, avg of expressions",
        main: main_named::<aggregate::Aggregate>,
    },
    Bundled { name: "sort", summary: "records in total order, by columns or by a range of bytes", main: main_named::<sort::Sort> },
    Bundled { name: "word-count", summary: "how often each word occurs in text", main: main_named::<word_count::WordCount> },
];

/// Whether there is a bundled job of this name.
pub fn exists(name: &str) -> bool {
    JOBS.iter().any(|job| job.name == name)
}

/// Is one of the jobs, as the arguments after [`VERB`] say: `NAME run|describe|task …`.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_default();
    match JOBS.iter().find(|job| name == job.name) {
        // The job's command line begins with the program's name, as any other does.
        Some(job) => (job.main)(job.name, std::iter::once(name).chain(arguments).collect()),
        None => {
            let names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
            let wanted = name.to_string_lossy();
            let problem = if wanted.is_empty() { "name a bundled job".to_owned() } else { format!("there is no bundled job {wanted:?}") };
            eprintln!("error: {problem}; there are {}", names.join(", "));
            ExitCode::from(2)
        }
    }
}

/// The names of the bundled jobs, one in a line, with what they do.
pub fn list() -> String {
    JOBS.iter().map(|job| format!("{:12} {}\n", job.name, job.summary)).collect()
}
