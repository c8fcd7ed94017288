//! What `--durable` asks of the disk, and that without it a run asks for nothing.

use std::fs;
use std::path::Path;

use shardmill_tests::text::distinct_words;
use shardmill_tests::{Job, Place};

/// Some words and a bad record, spilled, merged and reduced to three parts.
fn job(place: &Place) -> Job {
    let input = place.write("in.txt", [&b"caf\xe9\n"[..], distinct_words(200_000).collect::<String>().as_bytes()].concat());
    let job = Job::new("word-count", &place.path("out")).input(input).with("--partitions 3 --threads 2 --max-bad-records 1");
    job.with("--tight-buffers 12288,4096,2")
}

/// What was synced, by path, and where in between the output became visible: a `true`.
fn synced(log: &Path, output: &Path) -> Vec<(String, bool)> {
    let log = fs::read_to_string(log).unwrap();
    let reveals = format!("\"{}\"", output.display());
    let call = |line: &str| {
        // PID call(5</path/of/the/file>) = 0
        let (_, call) = line.split_once(' ')?;
        let (name, arguments) = call.trim_start().split_once('(')?;
        if name.starts_with("rename") {
            return arguments.contains(&reveals).then(|| (String::new(), true));
        }
        Some((arguments.split_once('<')?.1.split_once('>')?.0.to_owned(), false))
    };
    log.lines().filter_map(call).collect()
}

/// All that syncs, and what an output becomes visible by.
const CALLS: &str = "fsync,fdatasync,syncfs,sync,sync_file_range,?rename,renameat,renameat2";

#[test]
fn a_durable_run_syncs_each_part_the_quarantine_and_the_manifest_before_its_output_is_visible() {
    let place = Place::new();
    let (log, output) = (place.path("log"), place.path("out"));
    let Some(traced) = job(&place).with("--durable").traced(CALLS, &log) else { return };
    traced.run().success();
    let synced = synced(&log, &output);
    let reveal = synced.iter().position(|(_, is_reveal)| *is_reveal).unwrap();
    let (before, after) = synced.split_at(reveal);
    let is_synced = |name: &str| before.iter().any(|(path, _)| path.ends_with(name));
    for name in [
        "/attempts/reduce/part-00000.csv",
        "/attempts/reduce/part-00001.csv",
        "/attempts/reduce/part-00002.csv",
        "/quarantine",
        "/final/._SUCCESS",
        "/final/_quarantine",
        "/final",
    ] {
        assert!(is_synced(name), "{name} is not in {synced:?}");
    }
    let above = output.parent().unwrap().to_str().unwrap();
    assert!(after.iter().any(|(path, _)| path == above), "the rename itself: {synced:?}");
    assert!(!synced.iter().any(|(path, _)| path.contains("/runs/")), "spilled data can be made again: {synced:?}");
}

#[test]
fn without_the_flag_nothing_is_synced() {
    let place = Place::new();
    let log = place.path("log");
    let Some(traced) = job(&place).traced(CALLS, &log) else { return };
    let (summary, _) = traced.run().success();
    assert!(summary.spilled_runs > 1 && summary.merge_passes > 1, "{summary:?}");
    assert_eq!(synced(&log, &place.path("out")), [(String::new(), true)]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_cannot_sync_fails_a_durable_run_and_no_other() {
    let place = Place::new();
    let told = job(&place).with("--durable").with_failing_syncs().run().failure(1);
    assert!(told.contains("part-0000") && told.contains("Input/output error"), "{told}");
    assert_eq!(place.names(), ["in.txt"]);
    job(&place).with_failing_syncs().run().success();
}
