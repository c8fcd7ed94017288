//! The engine as a whole: whatever the shards, threads, memory and runs, the same output; whatever goes wrong, a typed fault.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use shardmill_datasets::{CsvOptions, Draft, PlanOptions, RunRequest, Shape as Kind, index, list};

use super::*;
use crate::fault::Fault;
use crate::job::{MapReduce, Partitioning, Result};
use crate::local::{Options, Planned};
use crate::testing::Case;
use crate::{Combine, Lines, NoCombine, Sum, Text};

/// Groups the words of lines by their first letter, in input order.
#[derive(Args, Serialize, Deserialize)]
struct Gather {
    #[arg(long)]
    by_range: bool,
}

#[derive(Serialize, Deserialize)]
struct Gathered {
    letter: String,
    words: String,
}

impl MapReduce for Gather {
    type Input = Lines;
    type Key = String;
    type Value = Text;
    type Combine = NoCombine;
    type Output = Gathered;

    fn partitioning(&self) -> Partitioning {
        if self.by_range { Partitioning::Range } else { Partitioning::Hash }
    }

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            match word {
                "error" => return Err("an error was asked for".into()),
                "panic" => panic!("a panic was asked for"),
                word => out.emit(&word[..word.chars().next().map_or(0, char::len_utf8)], word),
            }
        }
        out.count("lines", 1);
        Ok(())
    }

    fn reduce(&self, letter: &str, mut words: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        let mut joined = String::new();
        while let Some(word) = words.next_ref() {
            joined.push_str(word);
            joined.push('.');
        }
        out.write(Gathered { letter: letter.to_owned(), words: joined })
    }
}

/// Counts words, with values that own memory.
#[derive(Args, Serialize, Deserialize)]
struct Spell {}

#[derive(Default)]
struct Longest;

impl Combine<String> for Longest {
    fn combine(&self, longest: &mut String, next: String) {
        assert!(next != "unfoldable", "cannot be folded");
        if (next.len(), &*longest) > (longest.len(), &next) {
            *longest = next;
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Spelling {
    length: u64,
    word: String,
}

impl MapReduce for Spell {
    type Input = Lines;
    type Key = (u64, String);
    type Value = String;
    type Combine = Longest;
    type Output = Spelling;

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        for word in line.split_whitespace() {
            out.emit((word.len() as u64 % 5, &word[..word.chars().next().map_or(0, char::len_utf8)]), word.to_owned());
        }
        Ok(())
    }

    fn reduce(&self, (length, _): (u64, &str), mut longest: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        let word = longest.next().ok_or("a group has a value")?;
        out.write(Spelling { length, word })
    }
}

fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![4 => "[a-f]{1,3}", 1 => "[a-f]{1,200}", 1 => "[éß東]{1,4}"];
    let line = prop::collection::vec(word, 0..8).prop_map(|words| words.join(" "));
    prop::collection::vec(line, 0..60).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // `Case` compares all ways of running a job with the naive reference; these add an oracle of their own.
    #[test]
    fn values_of_a_key_come_in_input_order(text in text(), by_range in any::<bool>()) {
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        for word in text.split_whitespace() {
            let joined = expected.entry(word.chars().take(1).collect()).or_default();
            joined.push_str(word);
            joined.push('.');
        }
        let expected: String = expected.iter().map(|(letter, words)| format!("{letter},{words}\n")).collect();
        let found = Case::new(text.as_bytes()).run(Gather { by_range }).unwrap();
        prop_assert_eq!(found.strip_prefix("letter,words\n").unwrap(), expected);
    }

    #[test]
    fn values_that_own_memory_are_folded_wherever_they_are(text in text()) {
        Case::new(text.as_bytes()).run(Spell {}).unwrap();
    }
}

/// What mapping and sealing one file gives, in some way, with what attempts before have left.
fn sealed_digest<J: MapReduce>(
    job: &J,
    input: &Path,
    directory: &Path,
    spares: &Spares,
    (threads, collect_bytes): (usize, usize),
) -> [u8; 32] {
    let files = list(&[input.display().to_string()], None).unwrap();
    let options = PlanOptions { shard_bytes: Some(100), partitions: Some(70), csv: CsvOptions::default(), ..PlanOptions::new(Kind::Lines) };
    let draft = Draft::new(files, options).unwrap();
    let surveys = draft.surveys().iter().map(|survey| survey.run(Room::ENDLESS).unwrap()).collect();
    let plan = draft.finish(surveys).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let directory = tempfile::tempdir_in(directory).unwrap().keep();
    let settings = Settings {
        threads,
        collect_bytes,
        merge_bytes: 4096,
        total_bytes: collect_bytes,
        block_bytes: 1024,
        fan_in: 3,
        room: Room::ENDLESS,
        max_bad_records: 0,
        temp_directory: directory.clone(),
        durable: false,
        progress: Arc::default(),
        slots: Arc::new(Slots::unwatched(threads).unwrap()),
        spares: spares.clone(),
    };
    let partitioner = Partitioner::Hash { partitions: plan.partitions };
    let mapped = map_shards(job, &plan, 0..plan.shards.len() as u32, &LeftOut::new(), &partitioner, &settings, &pool).unwrap();
    let (sources, _) = Sources::new(mapped.collectors, &partitioner, &settings, &pool).unwrap();
    let path = directory.join("sealed");
    let place = Place { path: &path, memory: None, held_bytes: 2_000 };
    let run = seal(job, &sources, plan.partitions, &place, &settings, &pool).unwrap();
    sources.retire(&settings);
    index::digest(run.segments())
}

#[test]
fn a_sealed_output_depends_on_neither_threads_nor_memory() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input.txt");
    let text: String = (0..3000u32).map(|n| format!("w{} {}\n", n * 7919 % 1000, "x".repeat((n % 50) as usize))).collect();
    std::fs::write(&input, text).unwrap();
    let ways = [(1, 64 << 20), (2, 64 << 20), (3, 20 << 10), (1, 8 << 10), (2, 64 << 20)];
    let spares = Spares::default();
    let folded = ways.map(|way| sealed_digest(&Spell {}, &input, directory.path(), &spares, way));
    assert_eq!(folded, [folded[0]; 5]);
    assert!(spares.take(usize::MAX).is_some(), "the last attempt has left its tables");
    let kept = ways.map(|way| sealed_digest(&Gather { by_range: false }, &input, directory.path(), &spares, way));
    assert_eq!(kept, [kept[0]; 5]);
    assert!(!spares.take_all(usize::MAX).is_empty(), "the last attempt has left its buffers");
    // An attempt that has spilled keeps nothing, be it that it had no use for all that was left to it.
    for way in [(2, 64 << 20), (1, 8 << 10)] {
        assert_eq!(sealed_digest(&Spell {}, &input, directory.path(), &spares, way), folded[0]);
    }
    assert!(spares.take(usize::MAX).is_none());
}

#[test]
fn bad_records_leave_nothing_behind_and_are_set_aside_up_to_the_limit() {
    let text = "a1 b1\na2 error b2\nc1 panic\nb3\n";
    let found = Case::new(text.as_bytes()).max_bad_records(2).run(Gather { by_range: false }).unwrap();
    assert_eq!(found, "letter,words\na,a1.\nb,b1.b3.\n");
    let refused = Case::new(text.as_bytes()).max_bad_records(1).run(Gather { by_range: false }).unwrap_err().to_string();
    assert!(refused.contains("panicked at jobs/src/engine/tests.rs") && refused.contains("a panic was asked for"), "{refused}");
    let refused = Case::new(text.as_bytes()).run(Gather { by_range: false }).unwrap_err().to_string();
    assert!(refused.contains("line 2, byte 6; record 1 of shard 0") && refused.contains("an error was asked for"), "{refused}");
}

#[test]
fn a_panic_in_a_combiner_is_no_bad_record() {
    let text = "unfoldable unfoldable\nunfoldable\n".repeat(40);
    let refused = Case::new(text.as_bytes()).max_bad_records(1000).run(Spell {}).unwrap_err().to_string();
    assert!(refused.contains("combine failed") && refused.contains("cannot be folded"), "{refused}");
}

/// Fails in the phase that it is told to.
#[derive(Args, Serialize, Deserialize)]
struct Fails {
    #[arg(long)]
    phase: String,
}

impl MapReduce for Fails {
    type Input = Lines;
    type Key = String;
    type Value = u64;
    type Combine = Sum;
    type Output = Gathered;

    fn start(&self) -> Result {
        if self.phase == "start" { Err("no start".into()) } else { Ok(()) }
    }

    fn finish(&self) -> Result {
        assert!(self.phase != "finish", "no finish");
        Ok(())
    }

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        out.emit(line, if self.phase == "overflow" { u64::MAX } else { 1 });
        Ok(())
    }

    fn reduce(&self, key: &str, _: Values<'_, Self>, _: &mut Output<'_, Self>) -> Result {
        if self.phase == "reduce" { Err(format!("no {key}").into()) } else { Ok(()) }
    }
}

#[test]
fn what_fails_outside_of_map_is_named_with_its_phase_or_key() {
    for (phase, expected) in [
        ("start", "start failed: no start"),
        ("finish", "finish failed: panicked at"),
        ("overflow", "combine failed: panicked at"),
        ("reduce", "reduce failed on key \"some key\": no some key"),
    ] {
        let refused = crate::testing::run(Fails { phase: phase.to_owned() }, "some key\nsome key\n").unwrap_err().to_string();
        assert!(refused.contains(expected), "{phase}: {refused}");
    }
    crate::testing::run(Fails { phase: "none".to_owned() }, "some key\n").unwrap();
}

#[test]
fn keys_and_values_above_their_limits_make_the_record_bad() {
    let long = "x".repeat(70_000);
    let refused = crate::testing::run(Fails { phase: "none".to_owned() }, &format!("short\n{long}\n")).unwrap_err().to_string();
    assert!(refused.contains("a key has 70000 bytes, the limit is 65536") && refused.contains("line 2"), "{refused}");
}

#[test]
fn a_fault_of_the_disk_keeps_its_kind() {
    let full = Fault::disk(Path::new("/tmp/x"), std::io::ErrorKind::StorageFull.into());
    assert!(matches!(full, Fault::DiskFull { .. }));
    assert!(matches!(Fault::disk(Path::new("/tmp/x"), std::io::ErrorKind::NotFound.into()), Fault::DiskFailed { .. }));
}

#[test]
fn a_budget_too_small_names_one_that_would_do() {
    let reading = memory::Reading { bytes: 2 << 20, because: None };
    let error = Budget::new(64 << 20, 8, &reading, 4 << 20).unwrap_err().to_string();
    assert!(error.contains("at least 96 MiB, not 64 MiB"), "{error}");
    assert!(Budget::new(256 << 20, 8, &reading, 4 << 20).is_ok());
}

/// 2,000 times `to be or not to be`, compressed.
const GZIP: &str = "\
    1f8b0800000000000203edc8b10900201004b0de296e36c1d607f9fd1157b04e997465aed4c9ae4e3f8c564a29a594524a29a594524a29a594524a29\
    a594524a29a594524a29a594524a29a594524a29a594524a29a594524a29a594524a29a594524a29a594524a29a594524a29a594524a29a594524a29\
    a594524a29a594524a29a594524afdd505d6869ff170940000";

#[test]
fn progress_is_counted_in_bytes_as_they_lie_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let gzip: Vec<u8> = (0..GZIP.len() / 2).map(|at| u8::from_str_radix(&GZIP[2 * at..2 * at + 2], 16).unwrap()).collect();
    let plain = "to be or not to be\n".repeat(2_000).into_bytes();
    for (name, content) in [("text.txt.gz", &gzip), ("text.txt", &plain)] {
        let input = directory.path().join(name);
        std::fs::write(&input, content).unwrap();
        let options = options(&input, &directory.path().join("out"));
        let progress = Arc::new(Progress::default());
        let summary = Planned::new("test", Gather { by_range: false }, options, Arc::clone(&progress)).unwrap().run(|_, _| {}).unwrap();
        assert_eq!(summary.input_records, 2_000);
        assert_eq!(progress.input_bytes.load(Relaxed), content.len() as u64, "{name}");
        // Pairs in memory are shared out evenly over the partitions.
        assert_eq!(progress.reduced_bytes.load(Relaxed), progress.collected_bytes.load(Relaxed));
    }
}

fn options(input: &Path, output: &Path) -> Options {
    Options {
        request: RunRequest { overwrite: true, shard_bytes: Some(1_000), ..RunRequest::new([input.display().to_string()], output) },
        threads: 2,
        memory_bytes: Some(64 << 20),
        temp_directory: None,
        durable: false,
        tight: None,
        is_reference: false,
    }
}

#[test]
fn a_run_that_is_told_to_stop_while_it_looks_at_its_input_does_so() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("text.txt");
    std::fs::write(&input, "to be\n").unwrap();
    let progress = Arc::new(Progress::default());
    progress.interruption().store(true, Relaxed);
    let Err(error) = Planned::new("test", Gather { by_range: false }, options(&input, &directory.path().join("out")), progress) else {
        panic!("it goes on");
    };
    assert_eq!(crate::card::exit_code(&error), 130);
    assert_eq!(crate::card::card(&error), "interrupted: temporary files are removed, no output was written\n");
}

/// Puts the records of a file in order.
struct Order;

impl MapReduce for Order {
    type Input = crate::Bytes;
    type Key = Vec<u8>;
    type Value = ();
    type Combine = crate::Max;
    type Output = crate::Raw;

    fn partitioning(&self) -> Partitioning {
        Partitioning::Range
    }

    fn map(&self, record: &[u8], out: &mut Emitter<'_, Self>) -> Result {
        out.emit(record, ());
        Ok(())
    }

    fn reduce(&self, key: &[u8], _: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        out.write_record(key)
    }
}

#[test]
fn no_part_of_quoted_csv_is_above_one_and_a_half_times_the_mean_however_it_was_ordered() {
    const RECORDS: u64 = 30_000;
    let sorted = |at: u64| at;
    let reversed = |at: u64| RECORDS - 1 - at;
    // Neighbours stay together, in hundreds and in thousands, wherever they come to lie.
    let clustered = |size: u64| move |at: u64| (at / size * 7_919 % (RECORDS / size)) * size + at % size;
    let orders: [&dyn Fn(u64) -> u64; 4] = [&sorted, &reversed, &clustered(100), &clustered(1_000)];
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.csv");
    for (order, number) in orders.into_iter().zip(0..) {
        let text: String = (0..RECORDS).map(|at| format!("{:06},\"a \"\"quoted\"\",\nfield\"\n", order(at))).collect();
        std::fs::write(&input, text).unwrap();
        for (shard_bytes, partitions) in [(None, 2), (None, 7), (Some(100_000), 5)] {
            let output = directory.path().join("out");
            let usual = options(&input, &output);
            let csv = CsvOptions { header: false, quotes: true };
            let options = Options { request: RunRequest { csv, partitions: Some(partitions), shard_bytes, ..usual.request }, ..usual };
            let summary = crate::testing::run_once(Order, options).unwrap();
            assert_eq!(summary.groups, RECORDS);
            let mean = RECORDS as usize * 29 / partitions as usize;
            for part in 0..partitions {
                let bytes = std::fs::read(output.join(format!("part-{part:05}.txt"))).unwrap().len();
                assert!(
                    2 * bytes <= 3 * mean,
                    "order {number}, {shard_bytes:?}: part {part} of {partitions} has {bytes} bytes, {mean} on average"
                );
            }
        }
    }
}

/// Emits a long text under each of many keys, all from one record.
struct Flood;

impl MapReduce for Flood {
    type Input = Lines;
    type Key = u32;
    type Value = String;
    type Combine = crate::Max;
    type Output = Gathered;

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        for key in 0..1_000 {
            out.emit(key, line.repeat(10_000));
        }
        Ok(())
    }

    fn reduce(&self, key: u32, mut texts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        let words = texts.next().ok_or("no value")?.len().to_string();
        out.write(Gathered { letter: key.to_string(), words })
    }
}

#[test]
fn a_record_that_emits_more_than_the_share_holds_is_spilled_while_it_is_mapped() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.txt");
    std::fs::write(&input, "x\n").unwrap();
    let options = Options {
        request: RunRequest::new([input.display().to_string()], directory.path().join("out")),
        threads: 1,
        memory_bytes: Some(64 << 20),
        temp_directory: None,
        durable: false,
        tight: Some(Tight { collect_bytes: 1 << 20, merge_bytes: 4096, fan_in: 8 }),
        is_reference: false,
    };
    let summary = crate::testing::run_once(Flood, options).unwrap();
    assert_eq!(summary.groups, 1_000);
    // 10 MB in pieces of at most a megabyte and 64 values.
    assert!(summary.spilled_runs >= 6, "{} runs", summary.spilled_runs);
}
