//! Runs that are interrupted, killed, or not alone.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use shardmill_tests::text::distinct_words;
use shardmill_tests::{Ended, Job, Place, Running, names_in};

/// A place with enough text that a run takes seconds, and a run over it that spills from early on.
struct World {
    place: Place,
    text: PathBuf,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let text = place.write("text.txt", "");
        let mut file = std::io::BufWriter::new(fs::File::create(&text).unwrap());
        distinct_words(100 << 20).for_each(|word| std::io::Write::write_all(&mut file, word.as_bytes()).unwrap());
        Self { place, text }
    }

    fn long_job(&self) -> Job {
        Job::new("word-count", &self.place.path("out")).input(&self.text).with("--threads 2 --memory 24MiB --shard-bytes 4MiB")
    }

    /// A job that ends at once, with its output at the same place.
    fn short_job(&self) -> Job {
        Job::new("word-count", &self.place.path("out")).input(self.place.write("short.txt", "word\n"))
    }

    /// The staging directory of the run that is under way.
    fn staging(&self) -> Option<PathBuf> {
        let mut names = self.place.names().into_iter();
        names.find(|name| name.starts_with(".out.shardmill-") && !name.ends_with("claim")).map(|name| self.place.path(&name))
    }

    /// Waits until something was spilled.
    fn wait_for_spill(&self, run: &mut Running) {
        run.wait_for("it spilled", || self.staging().is_some_and(|staging| has_content(staging.join("runs/spill-0"))));
    }
}

fn has_content(path: PathBuf) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

/// Asserts that a run ended as one that was interrupted, and told so.
fn assert_interrupted(ended: Ended) {
    let told = ended.failure(130);
    assert!(told.contains("interrupted"), "{told}");
}

#[test]
fn an_interrupted_map_phase_leaves_nothing_and_exits_with_130() {
    let world = World::new();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut run = world.long_job().start();
        world.wait_for_spill(&mut run);
        run.signal(signal);
        assert_interrupted(run.wait());
        assert_eq!(world.place.names(), ["text.txt"]);
    }
}

#[test]
fn runs_are_spilled_beside_the_output_whatever_the_environment_calls_its_temporary_directory() {
    let world = World::new();
    let temp = world.place.path("temp");
    fs::create_dir(&temp).unwrap();
    let mut job = world.long_job();
    for name in ["TMPDIR", "TMP", "TEMP", "TEMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"] {
        job = job.env(name, &temp);
    }
    let mut run = job.start();
    world.wait_for_spill(&mut run);
    assert_eq!(names_in(&temp), [""; 0]);
    run.signal(libc::SIGINT);
    assert_interrupted(run.wait());
}

#[test]
fn an_interrupted_reduce_phase_leaves_nothing_and_exits_with_130() {
    let world = World::new();
    let temp = world.place.path("temp");
    fs::create_dir(&temp).unwrap();
    let mut run = world.long_job().with("--partitions 2").arg("--temp-dir").arg(&temp).start();
    run.wait_for("a part was begun", || world.staging().is_some_and(|staging| has_content(staging.join("attempts/reduce/part-00000.csv"))));
    run.signal(libc::SIGINT);
    assert_interrupted(run.wait());
    assert_eq!(world.place.names(), ["temp", "text.txt"]);
    assert_eq!(names_in(&temp), [""; 0]);
}

#[test]
fn an_interrupted_overwrite_keeps_the_old_output() {
    let world = World::new();
    let (_, old) = world.short_job().run().success();
    let mut run = world.long_job().with("--overwrite").start();
    world.wait_for_spill(&mut run);
    run.signal(libc::SIGINT);
    let ended = run.wait();
    assert_eq!((ended.code, ended.leftovers()), (Some(130), vec![]));
    assert_eq!(old.text(), "word,count\nword,1\n");
}

#[test]
fn the_next_run_sweeps_what_a_killed_one_has_left() {
    let world = World::new();
    let mut run = world.long_job().start();
    world.wait_for_spill(&mut run);
    run.signal(libc::SIGKILL);
    let ended = run.wait();
    assert_eq!((ended.code, ended.signal), (None, Some(libc::SIGKILL)));
    assert_eq!(ended.leftovers().len(), 2, "the claim and what was staged: {:?}", ended.leftovers());
    let (_, output) = world.short_job().run().success();
    assert_eq!(output.text(), "word,count\nword,1\n");
    assert_eq!(world.place.names(), ["out", "short.txt", "text.txt"]);
}

#[test]
fn the_next_run_sweeps_what_a_killed_one_has_left_in_a_temporary_directory() {
    let world = World::new();
    let temp = world.place.path("temp");
    fs::create_dir(&temp).unwrap();
    let mut run = world.long_job().arg("--temp-dir").arg(&temp).start();
    run.wait_for("it spilled", || names_in(&temp).iter().any(|name| has_content(temp.join(name).join("spill-0"))));
    run.signal(libc::SIGKILL);
    run.wait();
    world.short_job().arg("--temp-dir").arg(&temp).run().success();
    assert_eq!(names_in(&temp), [""; 0]);
}

#[test]
fn a_killed_overwrite_keeps_the_old_output_and_the_next_run_replaces_it() {
    let world = World::new();
    let (_, old) = world.short_job().run().success();
    let mut run = world.long_job().with("--overwrite").start();
    world.wait_for_spill(&mut run);
    run.signal(libc::SIGKILL);
    run.wait();
    assert_eq!(old.text(), "word,count\nword,1\n");
    let again = world.place.write("again.txt", "again\n");
    let (_, new) = Job::new("word-count", &old.path).input(again).with("--overwrite").run().success();
    assert_eq!(new.text(), "word,count\nagain,1\n");
}

#[test]
fn a_second_run_on_the_same_output_is_refused_and_the_first_one_goes_on() {
    let world = World::new();
    let mut first = world.long_job().start();
    world.wait_for_spill(&mut first);
    for output in ["out", "out/inner"] {
        let second = Job::new("word-count", &world.place.path(output)).input(world.place.write("short.txt", "word\n")).run();
        assert_eq!(second.code, Some(2), "{}", second.stderr);
        assert!(second.stderr.contains("/out is being written by"), "{}", second.stderr);
    }
    assert!(world.staging().is_some(), "what the first one has staged is still there");
    let (summary, _) = first.wait().success();
    assert_eq!(summary.output_records, (100 << 20) / 12);
}
