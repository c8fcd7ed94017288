//! A job crate that lies outside of the repository, built with what its author has: `shardmill` by path, clap and serde.
//!
//! Built in the repository's own target directory, so that it shares what is built of the dependencies.
#![allow(clippy::unwrap_used)]

mod faults;
mod submitted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use serde_json::Value;
use shardmill_tests::{Job, Place, cargo, repository, target};
use tempfile::TempDir;

const SOURCE: &str = include_str!("witness.rs");

/// The crate, in a directory of its own.
struct OutsideCrate(TempDir);

impl OutsideCrate {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        assert!(!directory.path().starts_with(repository()));
        let manifest = format!(
            "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [dependencies]\nshardmill = {{ path = {:?} }}\nclap = {{ version = \"4\", features = [\"derive\"] }}\n\
             serde = {{ version = \"1\", features = [\"derive\"] }}\n\n[workspace]\n",
            repository().join("jobs")
        );
        fs::create_dir(directory.path().join("src")).unwrap();
        fs::write(directory.path().join("Cargo.toml"), manifest).unwrap();
        fs::write(directory.path().join("src/main.rs"), SOURCE).unwrap();
        // The same versions, which are there already: nothing is downloaded.
        fs::copy(repository().join("Cargo.lock"), directory.path().join("Cargo.lock")).unwrap();
        Self(directory)
    }

    fn cargo(&self, arguments: &[&str]) {
        let mut cargo = cargo();
        let ended =
            cargo.args(arguments).args(["--release", "--offline"]).arg("--target-dir").arg(target()).current_dir(self.0.path()).output();
        let ended = ended.unwrap();
        assert!(ended.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// The crate's executable. Built once, and built again after a change to see how long that takes.
fn witness() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let outside = OutsideCrate::new("witness");
        let write = |source: &str| fs::write(outside.0.path().join("src/main.rs"), source).unwrap();
        write(&SOURCE.replace("blank lines", "blank  lines"));
        outside.cargo(&["build"]);
        write(SOURCE);
        let begin = Instant::now();
        outside.cargo(&["build"]);
        eprintln!("built again after a change in {:.1} s", begin.elapsed().as_secs_f64());
        outside.cargo(&["test"]);
        target().join("release/witness")
    })
}

/// A run of it, on `text` in `place`.
fn job(place: &Place, text: &str) -> Job {
    Job::of(witness(), &place.path("out")).input(place.write("in.txt", text))
}

#[test]
fn it_runs_and_its_counters_and_hooks_are_heard() {
    let place = Place::new();
    let text: String =
        (0..5_000).map(|number| format!("k{} {number}\n{}", number % 10, ["", "\n"][usize::from(number % 5 == 0)])).collect();
    let log = place.path("log");
    let job = job(&place, &text).with("--threads 3 --shard-bytes 300 --partitions 2 --log").arg(&log);
    let (summary, output) = job.run().success();
    assert_eq!(summary.job, "witness");
    assert_eq!(summary.counters, [("blank lines".to_owned(), 1_000), ("lines".to_owned(), 6_000)].into());
    assert_eq!(output.manifest["counters"], serde_json::json!({"blank lines": 1_000, "lines": 6_000}));
    assert_eq!((output.manifest["job"].as_str(), output.manifest["version"].as_str()), (Some("witness"), Some("7.8.9")));
    let mut rows = output.csv_parts().1.concat();
    rows.sort();
    let expected = (0..10).map(|key| vec![format!("k{key}"), "500".to_owned(), key.to_string(), (4_990 + key).to_string()]);
    assert_eq!(rows, expected.collect::<Vec<_>>());
    // One attempt maps, one reduces.
    assert_eq!(fs::read_to_string(log).unwrap(), "start\nfinish\nstart\nfinish\n");
}

#[test]
fn a_key_that_has_most_of_the_values_is_told_of() {
    let place = Place::new();
    let run = |text: &str, flags: &str| job(&place, text).with("--threads 2 --partitions 3 --overwrite").with(flags).run().success().0;
    let heavy = "few 1\n".repeat(3) + &"many 1\n".repeat(1_100_000);
    let told = Some(serde_json::json!({"key": "\"many\"", "values": 1_100_000, "of": 1_100_003}));
    let held = run(&heavy, "");
    assert_eq!((held.skew, held.spilled_runs), (told.clone(), 0));
    // From runs they are counted elsewhere.
    let spilled = run(&heavy, "--memory 24MiB");
    assert_eq!(spilled.skew, told);
    assert!(spilled.spilled_runs > 0);
    assert_eq!(run(&(heavy.clone() + &heavy.replace("many", "even")), "").skew, None);
}

#[test]
fn it_describes_itself_as_json() {
    let told = Command::new(witness()).arg("describe").output().unwrap();
    assert!(told.status.success());
    let described: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&described["name"], &described["version"]), (&Value::from("witness"), &Value::from("7.8.9")));
    assert_eq!((&described["shape"], &described["combines"]), (&Value::from("lines"), &Value::from(false)));
    assert!(
        described["key"].as_str().unwrap().contains("String") && described["platform"].as_str().unwrap().contains("linux"),
        "{described}"
    );
    let (major, minor) = shardmill_protocol::VERSION;
    let protocol = format!("{major}.{minor}");
    assert_eq!((&described["protocol"], &described["sdk"]), (&Value::from(protocol), &Value::from("0.1.0")));
    let names: Vec<&str> = described["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"--panic-on") && names.len() == 9, "{names:?}");
}

#[test]
fn its_parameters_stand_in_its_help() {
    let told = Command::new(witness()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(told.stdout).unwrap();
    assert!(help.contains("--panic-on") && help.contains("Panic in `map` on lines that contain this"), "{help}");
}
