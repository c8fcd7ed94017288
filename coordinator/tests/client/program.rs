//! Crates that are built on the way to the coordinator.

use std::path::PathBuf;
use std::process::Output;

use crate::ended;
use crate::fake::{Fake, job_source};

/// A crate with these executables.
fn crate_with(fake: &Fake, sources: &[(&str, &str)]) -> PathBuf {
    let directory = fake.path("crate");
    std::fs::create_dir_all(directory.join("src/bin")).unwrap();
    let manifest =
        "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n[profile.release]\nopt-level = 0\n";
    std::fs::write(directory.join("Cargo.toml"), manifest).unwrap();
    for (name, source) in sources {
        std::fs::write(directory.join(format!("src/bin/{name}.rs")), source).unwrap();
    }
    directory
}

fn submit(fake: &Fake, directory: &PathBuf, more: &[&str]) -> Output {
    let input = fake.write("in.txt", b"a\n");
    let mut command = fake.command(&["submit"]);
    command.arg(directory).arg("--detach").arg("--input").arg(input).arg("--output").arg(fake.path("out")).args(more);
    command.env("CARGO_TARGET_DIR", "target").current_dir(fake.place.path()).output().unwrap()
}

#[test]
fn a_crate_is_built_and_its_executable_submitted() {
    let fake = Fake::start();
    let directory = crate_with(&fake, &[("one", &job_source())]);
    ended(&submit(&fake, &directory, &[]), 0);
    let world = fake.world.told.lock().unwrap();
    assert_eq!(world.specs[0].name, "fake");
    let built = std::fs::read(fake.path("target/release/one")).expect("a relative target directory is meant from where it was said");
    assert!(world.artifacts.values().any(|uploaded| *uploaded == built));
}

#[test]
fn of_several_executables_one_must_be_chosen() {
    let fake = Fake::start();
    let directory = crate_with(&fake, &[("one", &job_source()), ("two", &job_source())]);
    let told = ended(&submit(&fake, &directory, &[]), 2);
    assert!(told.contains("has several executables: one, two") && told.contains("--bin one"), "{told}");
    ended(&submit(&fake, &directory, &["--bin", "two"]), 0);
    assert_eq!(fake.world.told.lock().unwrap().specs.len(), 1);
}

#[test]
fn what_the_compiler_says_of_a_crate_that_does_not_build_is_shown() {
    let fake = Fake::start();
    let directory = crate_with(&fake, &[("one", "fn main() { nonsense }")]);
    let told = ended(&submit(&fake, &directory, &[]), 2);
    assert!(told.contains("cannot find value `nonsense`") && told.contains("does not build"), "{told}");
}

#[test]
fn a_directory_without_a_crate_and_a_crate_without_an_executable_are_called_that() {
    let fake = Fake::start();
    let told = ended(&submit(&fake, &fake.state(), &[]), 2);
    assert!(told.contains("there is no Cargo.toml in it"), "{told}");
    let directory = crate_with(&fake, &[]);
    std::fs::write(directory.join("src/lib.rs"), "").unwrap();
    let told = ended(&submit(&fake, &directory, &[]), 2);
    assert!(told.contains("has no executable"), "{told}");
}
