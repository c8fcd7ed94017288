//! What a person reads of a run where stderr is no terminal: the plan, the phases, the summary; less with `-q`, more with `-v`.

use std::path::PathBuf;
use std::process::Command;

use shardmill_tests::text::distinct_words;
use shardmill_tests::{Place, program};

/// Runs a job over `text.txt` in `place` as it is typed, and returns the lines that it has told. It prints nothing.
fn told(place: &Place, job: &str, flags: &[&str], code: i32) -> Vec<String> {
    let mut command = Command::new(program(job));
    command.args(["run", "--input", "text.txt", "--output", "out", "--overwrite"]).args(flags).current_dir(place.path("."));
    let ended = command.output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(code), &b""[..]), "{told}");
    // Where the tests themselves are run in memory, there is a line about that.
    told.lines().filter(|line| !line.trim_start().starts_with("warning ")).map(str::to_owned).collect()
}

fn place(text: impl AsRef<[u8]>) -> (Place, PathBuf) {
    let place = Place::new();
    place.write("text.txt", text);
    let output = place.path("out");
    (place, output)
}

/// Whether this is the line with time, rate and memory.
fn is_time(line: &str) -> bool {
    let fields = line.strip_prefix("time    ").map(|rest| rest.split(", ").collect::<Vec<_>>());
    matches!(fields.as_deref(), Some([time, rate, memory]) if time.ends_with(" s") && rate.ends_with("B/s") && memory.ends_with("iB memory at most"))
}

#[test]
fn a_run_tells_its_plan_its_phases_and_what_it_has_done() {
    let (place, output) = place("to be or\nnot to be\n");
    let mut lines = told(&place, "probe", &["--partitions", "2", "--threads", "1"], 0);
    assert!(is_time(&lines.remove(6)), "{lines:?}");
    let expected = [
        "plan    19 B in 1 file, 1 shard, 2 partitions",
        "map",
        "reduce",
        "records 2 in, 4 groups, 4 rows out",
        // A header in each part, and four words with their counts.
        "bytes   19 B in, 43 B out, 0 B spilled in 0 runs",
        "counter lines: 2",
        &format!("output  {}", output.display()),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn spilled_data_and_records_that_were_set_aside_are_told() {
    let (place, output) = place([&b"caf\xe9\n"[..], distinct_words(100_000).collect::<String>().as_bytes()].concat());
    let lines = told(&place, "word-count", &["--tight-buffers", "12288,4096,9", "--threads", "1", "--max-bad-records", "1"], 0);
    let spilled = lines.iter().find_map(|line| line.strip_prefix("bytes   ")?.split(", ").nth(2)).unwrap();
    let runs = spilled.strip_suffix(" runs").and_then(|text| text.split_once("iB spilled in ")).unwrap().1;
    assert!(runs.parse::<u64>().unwrap() > 1, "{lines:?}");
    assert!(lines.contains(&format!("bad     1 record set aside in {}", output.join("_quarantine").display())), "{lines:?}");
}

#[test]
fn with_v_a_run_tells_the_whole_plan_and_how_long_each_phase_took() {
    let (place, output) = place("to be or\nnot to be\n");
    let explained = told(&place, "word-count", &["--explain", "--threads", "2", "--memory", "64MiB"], 0);
    assert!(!output.exists());
    for beginning in [
        "plan",
        "  input       19 B in 1 file",
        "  shards      1",
        "  partitions  1, each a part: part-00000.csv",
        "  output      word: text, ",
    ] {
        assert!(explained.iter().any(|line| line.starts_with(beginning)), "{beginning:?} is not in {explained:?}");
    }
    assert!(explained.last().unwrap().starts_with("  memory      64.00 MiB, of which "), "{explained:?}");
    let lines = told(&place, "word-count", &["-v", "--threads", "2", "--memory", "64MiB"], 0);
    assert_eq!(lines[..explained.len()], explained, "with -v the plan is told as --explain tells it");
    assert_eq!(lines[explained.len()..explained.len() + 3], ["map", "reduce", "records 2 in, 4 groups, 4 rows out"]);
    let [.., time, phases, output_line] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(is_time(time), "{time}");
    let names = phases.strip_prefix("phases  ").unwrap().split(", ").map(|phase| phase.split(' ').next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["plan", "map", "reduce", "publish"]);
    assert_eq!(*output_line, format!("output  {}", output.display()));
}

#[test]
fn with_q_a_run_tells_nothing_unless_it_fails() {
    let (place, output) = place(b"to be or\nnot to b\xe9\n");
    assert_eq!(told(&place, "word-count", &["-q", "--max-bad-records", "1"], 0), [""; 0]);
    assert!(output.exists());
    let lines = told(&place, "word-count", &["-q"], 1);
    assert_eq!(lines[0], "error: a bad record in text.txt");
    assert!(lines[1].starts_with("  where   line 2, byte 9; record 1 of shard 0"), "{lines:?}");
}
