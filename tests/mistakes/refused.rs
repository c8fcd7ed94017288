//! What is refused before any work is done: exit code 2, a message that says what would do, and no trace on the disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use shardmill_tests::{Job, Place, program};

/// A place with a text file and a table in it.
fn place() -> Place {
    let place = Place::new();
    place.write("text.txt", "some words\n");
    place.write("sales.csv", "city,price,n\nFaro,1.50,1\nEssen,2.25,2\n");
    place
}

/// Asserts that a run in `place` is refused, and that all of `named` stand in the message.
#[track_caller]
fn assert_refused(place: &Place, job: Job, named: &[&str]) {
    let before = place.names();
    let told = job.in_directory(place.path("text.txt").parent().unwrap()).run().failure(2);
    for name in named {
        assert!(told.contains(name), "{name:?} is not in: {told}");
    }
    assert_eq!(place.names(), before, "{told}");
}

fn job(place: &Place, name: &str) -> Job {
    Job::new(name, &place.path("out"))
}

#[test]
fn an_input_that_matches_nothing_is_named() {
    let place = place();
    assert_refused(&place, job(&place, "word-count").input("txet.txt"), &["txet.txt"]);
    assert_refused(&place, job(&place, "word-count").input("*.log"), &["*.log"]);
    assert_refused(&place, job(&place, "word-count").input("text.txt").input("[z"), &["[z"]);
    fs::create_dir(place.path("empty")).unwrap();
    assert_refused(&place, job(&place, "word-count").input("empty"), &["empty"]);
    let (_, output) = job(&place, "word-count").input(place.path("empty")).with("--allow-empty").run().success();
    assert_eq!(output.text(), "word,count\n");
}

#[test]
fn an_input_that_cannot_be_opened_or_read_is_named() {
    let place = place();
    symlink("nowhere", place.path("dangling.txt")).unwrap();
    assert_refused(&place, job(&place, "word-count").input("dangling.txt"), &["dangling.txt"]);
    // The system lets it be opened, and fails to read its first bytes.
    assert_refused(&place, job(&place, "word-count").input("/proc/self/mem"), &["/proc/self/mem"]);
    assert_refused(&place, job(&place, "word-count").input("/dev/null"), &["/dev/null"]);
}

#[test]
fn text_that_is_given_as_a_table_is_named_with_what_is_wrong() {
    let place = place();
    for format in ["parquet", "arrow"] {
        let job = job(&place, "aggregate").input("text.txt").with("--group-by city --input-format").arg(format);
        assert_refused(&place, job, &["text.txt", if format == "parquet" { "Parquet" } else { "Arrow" }]);
    }
    fs::copy(place.path("text.txt"), place.path("text.parquet")).unwrap();
    assert_refused(&place, job(&place, "aggregate").input("text.parquet").with("--group-by city"), &["text.parquet", "Parquet"]);
    fs::write(place.path("none.parquet"), "").unwrap();
    assert_refused(&place, job(&place, "aggregate").input("none.parquet").with("--group-by city"), &["none.parquet"]);
}

#[test]
fn a_format_that_a_job_cannot_read_or_write_is_told_with_those_it_can() {
    let place = place();
    fs::write(place.path("t.parquet"), "").unwrap();
    assert_refused(&place, job(&place, "word-count").input("sales.csv"), &["sales.csv", "lines", "text, jsonl", "not from csv"]);
    assert_refused(&place, job(&place, "word-count").input("t.parquet"), &["t.parquet", "text, jsonl"]);
    let tables = ["csv", "tsv", "jsonl", "parquet", "arrow"];
    assert_refused(&place, job(&place, "aggregate").input("text.txt").with("--group-by a"), &[&["text.txt"][..], &tables].concat());
    let text = job(&place, "word-count").input("text.txt").with("--output-format text");
    assert_refused(&place, text, &[&["text"][..], &tables].concat());
    let bytes = job(&place, "sort").input("sales.csv").with("--key city --output-format bytes");
    assert_refused(&place, bytes, &[&["bytes"][..], &tables].concat());
    let mixed = job(&place, "sort").input("text.txt").input("sales.csv").with("--key city --max-bad-records 9");
    assert_refused(&place, mixed, &["sales.csv has columns", "text.txt has none"]);
    let lines = job(&place, "sort").input("text.txt").with("--key 0..4 --output-format parquet");
    assert_refused(&place, lines, &["parquet", "text", "bytes"]);
    let arrow = job(&place, "word-count").input("text.txt").with("--output-format arrow --output-compression gzip");
    assert_refused(&place, arrow, &["arrow", "gzip", "zstd"]);
}

#[test]
fn rows_whose_columns_are_not_known_before_there_are_rows_are_refused_whatever_the_format() {
    let place = place();
    for format in ["csv", "tsv", "jsonl", "parquet", "arrow"] {
        let job = job(&place, "shapeless").input("text.txt").with("--output-format").arg(format);
        assert_refused(&place, job, &["HashMap<alloc::string::String, u64>", "cannot be known beforehand"]);
    }
    assert_refused(&place, job(&place, "shapeless").input("text.txt").with("--explain"), &["cannot be known beforehand"]);
}

#[test]
fn an_existing_output_is_refused_and_stays_as_it_is() {
    let place = place();
    place.write("there/mine.txt", "mine");
    let told = Job::new("word-count", &place.path("there")).input(place.path("text.txt")).run();
    assert_eq!(told.code, Some(2));
    assert!(told.stderr.contains("there exists") && told.stderr.contains("--overwrite"), "{}", told.stderr);
    assert_eq!(told.leftovers(), [""; 0]);
    assert_eq!(fs::read_to_string(place.path("there/mine.txt")).unwrap(), "mine");
    let (_, output) = Job::new("word-count", &place.path("there")).input(place.path("text.txt")).with("--overwrite").run().success();
    assert_eq!(output.text(), "word,count\nsome,1\nwords,1\n");
}

#[test]
fn an_output_that_cannot_be_made_is_named() {
    let place = place();
    assert_refused(&place, Job::new("word-count", &place.path("text.txt/out")).input("text.txt"), &["text.txt"]);
    let Some(disk) = shardmill_tests::Disk::mount("ro") else { return };
    assert_refused(&place, Job::new("word-count", &disk.path().join("out")).input("text.txt"), &[disk.path().to_str().unwrap()]);
}

#[test]
fn a_temporary_directory_that_cannot_be_used_is_named() {
    let place = place();
    let temp = place.path("text.txt/temp");
    let job = job(&place, "word-count").input("text.txt").arg("--temp-dir").arg(&temp);
    assert_refused(&place, job, &[temp.to_str().unwrap(), "--temp-dir"]);
}

#[test]
fn a_budget_that_is_too_small_is_told_with_one_that_would_do() {
    let place = place();
    assert_refused(&place, job(&place, "word-count").input("text.txt").with("--threads 8 --memory 32MiB"), &["8 threads", "32 MiB"]);
    let told = job(&place, "word-count").input(place.path("text.txt")).with("--threads 8 --memory 32MiB").run().failure(2);
    let figure = told.split_once("--memory ").unwrap().1.split_whitespace().next().unwrap();
    job(&place, "word-count").input(place.path("text.txt")).with("--threads 8 --memory").arg(figure).run().success();
}

#[test]
fn a_column_that_is_not_there_is_told_with_those_that_are() {
    let place = place();
    let columns = ["city", "price", "n"];
    for (name, flags) in [
        ("aggregate", "--group-by town"),
        ("aggregate", "--group-by city --aggregate sum(town)"),
        ("aggregate", "--group-by city --where town>1"),
        ("sort", "--key town"),
        ("sort", "--key city,town:desc"),
    ] {
        assert_refused(&place, job(&place, name).input("sales.csv").with(flags), &[&["town"][..], &columns].concat());
    }
}

#[test]
fn an_expression_that_makes_no_sense_is_shown() {
    let place = place();
    for (flags, named) in [
        ("--aggregate sum(price", "sum(price"),
        ("--aggregate sum(city)", "sum(city)"),
        ("--aggregate median(price)", "median"),
        ("--group-by city --where price+1", "price"),
        ("--group-by city --aggregate price", "price"),
        ("--group-by city --aggregate count() --schema price:money", "money"),
    ] {
        assert_refused(&place, job(&place, "aggregate").input("sales.csv").with(flags), &[named]);
    }
    let endless = format!("sum(price{})", "+price".repeat(20_000));
    assert_refused(&place, job(&place, "aggregate").input("sales.csv").arg("--aggregate").arg(endless), &["20000 operators"]);
    assert_refused(&place, job(&place, "aggregate").input("sales.csv"), &["--group-by"]);
    for key in ["", "3..3", "city,,n"] {
        assert_refused(&place, job(&place, "sort").input("sales.csv").arg("--key").arg(key), &["--key"]);
    }
}

#[test]
fn a_key_that_does_not_fit_the_input_is_told_with_one_that_would() {
    let place = place();
    assert_refused(&place, job(&place, "sort").input("sales.csv").with("--key 0..4"), &["columns"]);
    assert_refused(&place, job(&place, "sort").input("text.txt").with("--key city"), &["0..10"]);
    assert_refused(&place, job(&place, "sort").input("text.txt").with("--key 0..2 --input-format fixed:3"), &["text.txt", "11", "3"]);
}

#[test]
fn flags_that_make_no_sense_are_named() {
    let place = place();
    for flags in [
        "--memory much",
        "--threads 0",
        "--partitions 0",
        "--partitions 10001",
        "--input-format excel",
        "--output-format excel",
        "--input-format fixed:0",
        "--no-such-flag",
        "--quiet --verbose",
    ] {
        let named = flags.split_whitespace().next().unwrap();
        assert_refused(&place, job(&place, "word-count").input("text.txt").with(flags), &[named]);
    }
    assert_refused(&place, job(&place, "word-count").input("text.txt").with("--shard-bytes 0"), &["shard"]);
    assert_refused(&place, job(&place, "word-count"), &["--input"]);
}

#[test]
fn help_and_version_go_to_stdout_with_success() {
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["describe"]] {
        let output = Command::new(program("word-count")).args(arguments).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
    for arguments in [&[][..], &["walk"], &["run"]] {
        let output = Command::new(program("word-count")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn whoever_reads_what_is_told_may_leave_before_the_end() {
    let place = place();
    for what in [&["describe"][..], &["run", "--input", "text.txt", "--output", "out", "--format", "json"]] {
        let [closed, other] = [(); 2].map(|()| std::io::pipe().unwrap().1);
        let mut command = std::process::Command::new(program("word-count"));
        let status = command.current_dir(place.path(".")).args(what).stdout(closed).stderr(other).status().unwrap();
        assert!(status.success(), "{what:?}: {status}");
    }
    assert!(place.path("out/_SUCCESS").exists());
}

#[test]
fn the_plan_can_be_seen_without_any_work() {
    let place = place();
    let explained = job(&place, "aggregate").input(place.path("sales.csv")).with("--group-by city --aggregate sum(price) --explain").run();
    assert_eq!(explained.code, Some(0));
    let plan: serde_json::Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(plan["partitions"], 1);
    assert_eq!(plan["shards"].as_array().unwrap().len(), 1);
    assert_eq!(place.names(), ["sales.csv", "text.txt"]);
    let text = Command::new(program("aggregate"))
        .args(["run", "--explain", "--group-by", "city", "--aggregate", "sum(price)", "--output", "out", "--input", "sales.csv"])
        .current_dir(place.path("text.txt").parent().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(text.stderr).unwrap();
    for told in ["sales.csv", "city: text", "price: decimal(38,2)", "partitions  1"] {
        assert!(text.contains(told), "{told:?} is not in: {text}");
    }
}

#[test]
fn two_runs_cannot_have_outputs_of_which_one_lies_in_the_other() {
    let place = place();
    // A claim that somebody holds, as a run does for as long as it lives.
    let claim = place.write(".out.shardmill-claim", "another-run\n");
    let held = fs::File::open(&claim).unwrap();
    held.lock().unwrap();
    for output in ["out", "out/inner/most"] {
        let ended = Job::new("word-count", &place.path(output)).input(place.path("text.txt")).run();
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("another-run"), "{}", ended.stderr);
    }
    held.unlock().unwrap();
    let _ = fs::remove_dir(place.path("out/inner"));
    let _ = fs::remove_dir(place.path("out"));
    job(&place, "word-count").input(place.path("text.txt")).run().success();
    assert!(!Path::new(&claim).exists());
}
