//! What `make demo` makes of an output before it shows it.

use std::cmp::Reverse;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use shardmill_tests::oracle::word_count;
use shardmill_tests::text::text;
use shardmill_tests::{Job, Place, repository};

/// The pipeline that the Makefile calls `MOST_FREQUENT`, as the shell gets it.
fn most_frequent() -> String {
    let makefile = fs::read_to_string(repository().join("Makefile")).unwrap();
    let line = makefile.lines().find_map(|line| line.strip_prefix("MOST_FREQUENT := ")).unwrap();
    line.replace("$$", "$")
}

#[test]
fn the_ten_most_frequent_words_are_those_of_a_naive_count() {
    let sample = fs::read_to_string(repository().join("datasets/samples/harbour.txt")).unwrap();
    // Words with commas, quotes and digits at their ends among the most frequent ones.
    let tricky = "x,7 x,7 \"q\" \"q\" \"q\" , , , , 12 ".repeat(40);
    for text in [sample, text(80, 60_000), text(81, 5_000) + &tricky] {
        let place = Place::new();
        let job = Job::new("word-count", &place.path("out")).input(place.write("text.txt", &text)).with("--partitions 3");
        let (_, output) = job.run().success();
        let mut shell = Command::new("sh").args(["-c", &most_frequent()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Read to its end before anything is printed, so nothing can be stuck here.
        shell.stdin.take().unwrap().write_all(&output.parts().concat()).unwrap();
        let shown = String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap();
        let mut expected = word_count([text.as_str()]);
        // As the CSV writes a word.
        let written = |word: &str| if word.contains([',', '"']) { format!("\"{}\"", word.replace('"', "\"\"")) } else { word.to_owned() };
        expected.sort_by_key(|row| (Reverse(row[1].parse::<u64>().unwrap()), written(&row[0])));
        let expected: String = expected.iter().take(10).map(|row| format!("  {} {}\n", row[1], written(&row[0]))).collect();
        assert_eq!(shown, expected);
    }
}
