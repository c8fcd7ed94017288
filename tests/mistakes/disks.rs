//! Disks that are full or that fail: the path is named, there is no output, and nothing is left anywhere.

use shardmill_tests::text::distinct_words;
use shardmill_tests::{Disk, Job, Place, names_in};

/// More than a thread with the least of memory can hold.
fn large_text(place: &Place) -> std::path::PathBuf {
    place.write("text.txt", distinct_words(40 << 20).collect::<String>())
}

#[test]
fn a_full_disk_for_spilled_data_is_named_and_cleaned() {
    let Some(disk) = Disk::mount("size=2m") else { return };
    let place = Place::new();
    let input = large_text(&place);
    for flags in ["--threads 1 --memory 16MiB", "--threads 3 --memory 36MiB --shard-bytes 1MiB"] {
        let job = Job::new("word-count", &place.path("out")).input(&input).with(flags).arg("--temp-dir").arg(disk.path());
        let told = job.run().failure(1);
        assert!(told.contains("no space left") && told.contains(disk.path().to_str().unwrap()), "{told}");
        assert!(told.contains("--temp-dir"), "what to do about it: {told}");
        assert_eq!(names_in(disk.path()), [""; 0]);
        assert_eq!(place.names(), ["text.txt"]);
    }
}

#[test]
fn a_disk_that_fills_up_while_runs_are_merged_is_named_and_cleaned() {
    let Some(disk) = Disk::mount("size=3m") else { return };
    let place = Place::new();
    let input = place.write("text.txt", distinct_words(2 << 20).collect::<String>());
    // The runs themselves fit: about as much as the input. The one partition is too large to be folded in memory.
    let job = |out: &str| Job::new("word-count", &place.path(out)).input(&input).arg("--temp-dir").arg(disk.path());
    let job = |out: &str| job(out).with("--threads 2 --partitions 1");
    let (summary, _) = job("fits").with("--tight-buffers 65536,8388608,1000").run().success();
    assert!(summary.spilled_runs > 10, "{summary:?}");
    let told = job("out").with("--tight-buffers 65536,8388608,2").run().failure(1);
    assert!(told.contains("no space left") && told.contains(disk.path().to_str().unwrap()), "{told}");
    assert_eq!(names_in(disk.path()), [""; 0]);
}

#[test]
fn a_full_disk_for_the_output_is_named_and_cleaned() {
    let Some(disk) = Disk::mount("size=2m") else { return };
    let place = Place::new();
    let input = place.write("text.txt", distinct_words(8 << 20).collect::<String>());
    let temp = place.path("temp");
    std::fs::create_dir(&temp).unwrap();
    for format in ["csv", "parquet", "arrow"] {
        let job = Job::new("word-count", &disk.path().join("out")).input(&input).arg("--temp-dir").arg(&temp);
        let told = job.with("--partitions 3 --output-format").arg(format).run().failure(1);
        assert!(told.contains("no space left") && told.contains(disk.path().to_str().unwrap()), "{told}");
        assert_eq!(names_in(disk.path()), [""; 0], "{format}");
    }
    let old = Job::new("word-count", &disk.path().join("out")).input(place.write("small.txt", "word")).run().success().1;
    let ended = Job::new("word-count", &old.path).input(&input).with("--overwrite").run();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(old.text(), "word,count\nword,1\n", "the old output stays until the new one is whole");
    assert_eq!(names_in(disk.path()), ["out"]);
}

#[test]
fn runs_that_would_be_spilled_into_memory_are_told_unless_a_place_for_them_is_given() {
    let Some(disk) = Disk::mount("size=2m") else { return };
    let place = Place::new();
    let input = place.write("text.txt", "word\n");
    let told = |output: &std::path::Path, flags: &str| {
        let job = Job::new("word-count", output).input(&input).with("--overwrite").with(flags).run();
        assert_eq!(job.code, Some(0), "{}", job.stderr);
        job.stderr
    };
    let (out, deep) = (disk.path().join("out"), disk.path().join("not/there/yet"));
    for (output, flags) in [(&out, ""), (&deep, ""), (&out, "-v"), (&out, "-q")] {
        let told = told(output, flags);
        assert!(told.contains("in memory") && told.contains("--temp-dir"), "{flags}: {told}");
    }
    let told_with_place = told(&out, &format!("--temp-dir {}", place.path(".").display()));
    assert!(!told_with_place.contains("in memory"), "{told_with_place}");
    if !Disk::is_memory(&place.path(".")) {
        let told = told(&place.path("out"), "");
        assert!(!told.contains("in memory"), "{told}");
    }
}

#[test]
fn few_open_files_are_enough_for_many_runs_and_many_inputs() {
    let place = Place::new();
    let text: Vec<String> = distinct_words(6 << 20).collect();
    text.chunks(1_000).enumerate().for_each(|(number, words)| drop(place.write(&format!("in/{number}.txt"), words.concat())));
    let job = |out: &str| Job::new("word-count", &place.path(out)).input(place.path("in")).with("--threads 8 --partitions 40");
    let (_, expected) = job("plain").run().success();
    let (summary, output) = job("few").with("--tight-buffers 12288,8388608,100000").open_files(64).run().success();
    assert!(summary.spilled_runs >= 100 && summary.input_files > 500 && summary.merge_passes == 1, "{summary:?}");
    assert_eq!(output.parts(), expected.parts());
    let (summary, output) = job("fewer").with("--tight-buffers 12288,4096,3").open_files(64).run().success();
    assert!(summary.merge_passes > 2, "{summary:?}");
    assert_eq!(output.parts(), expected.parts());
}
