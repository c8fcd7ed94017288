//! The journal, with its file cut, flipped and put back.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use shardmill_protocol::view::{JobPhase, JobStatus, JobView};
use shardmill_protocol::{AttemptId, Epoch, WorkerId};
use shardmill_scheduler::{Ending, Submission};
use tempfile::TempDir;

use super::*;

const HISTORY: usize = 3;

/// What the journal has told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Synced(u64),
    Forgotten(Vec<JobId>),
}

/// Passes on what the journal tells, and holds it up until it is let go on.
struct Teller {
    told: Sender<Told>,
    go_on: Receiver<()>,
}

impl Listener for Teller {
    fn synced(&mut self, fact: u64) {
        self.told.send(Told::Synced(fact)).unwrap();
        // Whoever does not want to hold it up has let go of the other end.
        let _ = self.go_on.recv();
    }

    fn forgotten(&mut self, jobs: Vec<JobId>) {
        self.told.send(Told::Forgotten(jobs)).unwrap();
    }

    fn failed(&mut self, error: JournalError) {
        panic!("{error}");
    }
}

fn open(directory: &Path) -> Result<(Opened, Vec<(u64, Fact)>), JournalError> {
    let mut opened = Opened::open(directory, HISTORY)?;
    let mut facts = vec![];
    opened.replay(|number, fact| facts.push((number, fact)))?;
    Ok((opened, facts))
}

/// Writes each group of entries after the one before is on the disk.
fn write(directory: &Path, groups: Vec<Vec<Entry>>) -> Vec<Told> {
    let (opened, _) = open(directory).unwrap();
    let (told, hears) = channel();
    let mut last = opened.last();
    let journal = opened.start(Teller { told, go_on: channel().1 }, FaultPoint::default());
    let mut all = vec![];
    for group in groups {
        last = group.iter().fold(last, |last, entry| if let Entry::Fact(number, _) = entry { *number } else { last });
        group.into_iter().for_each(|entry| journal.write(entry));
        loop {
            all.push(hears.recv().unwrap());
            if all.last() == Some(&Told::Synced(last)) {
                break;
            }
        }
    }
    drop(journal);
    all.extend(hears.try_iter());
    all
}

fn entry(number: u64, fact: Fact) -> Entry {
    Entry::Fact(number, Box::new(fact))
}

fn attempt(job: u128, number: u64) -> AttemptId {
    AttemptId { job: JobId(job), epoch: Epoch(1), number }
}

fn submitted(job: u128) -> Fact {
    let spec = (0..2000u32).flat_map(u32::to_le_bytes).collect();
    Fact::Submitted(Submission { job: JobId(job), key: format!("key {job}"), output: "/out".to_owned(), max_bad_records: 0, spec })
}

fn lost(job: u128, number: u64) -> Fact {
    Fact::OutputLost { attempt: attempt(job, number), shards: 0..7, damaged: false }
}

fn retired(job: u128) -> Entry {
    let status = JobStatus {
        job: JobId(job),
        name: "word-count".to_owned(),
        output: "/out".to_owned(),
        phase: JobPhase::Succeeded,
        elapsed_ms: 5,
        version: 9,
        plan: None,
        units: BTreeMap::new(),
        bytes: BTreeMap::new(),
        shuffle_bytes: 0,
        running: 0,
        retries: 0,
        spilled_bytes: 0,
        bad_records: 0,
        workers_live: 0,
        workers_lost: 0,
        tally: shardmill_protocol::task::Tally::default(),
        output_records: 0,
        output_bytes: 0,
        ending: None,
        is_swept: true,
    };
    let view = JobView { status, phases: vec![], attempts: vec![], attempt_count: 0, set_aside: vec![], lost: vec![] };
    Entry::Retired(JobId(job), Box::new(Ended { key: format!("key {job}"), view }))
}

/// A journal of three jobs, written in ten commits, and what is in it.
fn filled() -> (TempDir, Vec<(u64, Fact)>) {
    let directory = tempfile::tempdir().unwrap();
    let facts: Vec<Fact> = std::iter::once(Fact::Epoch(Epoch(1)))
        .chain((1..=3).map(submitted))
        .chain((0..40).map(|number| lost(1 + u128::from(number) % 3, number)))
        .collect();
    let numbered: Vec<(u64, Fact)> = (1..).zip(facts).collect();
    let entries: Vec<Entry> = numbered.iter().map(|(number, fact)| entry(*number, fact.clone())).collect();
    write(directory.path(), entries.chunks(5).map(<[_]>::to_vec).collect());
    (directory, numbered)
}

#[test]
fn facts_come_back_in_their_order_after_a_restart() {
    let (directory, facts) = filled();
    let (opened, found) = open(directory.path()).unwrap();
    assert_eq!(found, facts);
    assert_eq!(opened.last(), facts.len() as u64);
}

#[test]
fn all_facts_that_wait_during_a_commit_share_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let (told, hears) = channel();
    let (go_on, waits) = channel();
    let journal = open(directory.path()).unwrap().0.start(Teller { told, go_on: waits }, FaultPoint::default());
    journal.write(entry(1, submitted(1)));
    assert_eq!(hears.recv().unwrap(), Told::Synced(1));
    (2..=500).for_each(|number| journal.write(entry(number, lost(1, number))));
    go_on.send(()).unwrap();
    assert_eq!(hears.recv().unwrap(), Told::Synced(500));
    // The journal ends only once its listener goes on.
    drop(go_on);
}

#[test]
fn what_was_synced_is_there_after_a_death_without_any_goodbye() {
    let directory = tempfile::tempdir().unwrap();
    let (told, hears) = channel();
    let (go_on, waits) = channel();
    let journal = open(directory.path()).unwrap().0.start(Teller { told, go_on: waits }, FaultPoint::default());
    let copies = tempfile::tempdir().unwrap();
    for number in 1..20 {
        journal.write(entry(number, lost(1, number)));
        assert_eq!(hears.recv().unwrap(), Told::Synced(number));
        // The files as they are at this moment are what a killed process leaves.
        let copy = copies.path().join(number.to_string());
        fs::create_dir(&copy).unwrap();
        for name in ["journal.redb", "journal.mark"] {
            fs::copy(directory.path().join(name), copy.join(name)).unwrap();
        }
        go_on.send(()).unwrap();
        assert_eq!(open(&copy).unwrap().1.len() as u64, number);
    }
}

/// Opens a journal whose file was tampered with: it must be refused, or be what it was.
fn refused_or_whole(journal: &[u8], mark: &[u8], facts: &[(u64, Fact)], what: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("journal.redb"), journal).unwrap();
    fs::write(directory.path().join("journal.mark"), mark).unwrap();
    match open(directory.path()) {
        Ok((_, found)) => {
            assert!(found == facts, "{what}: {} facts of {}, and nothing is said", found.len(), facts.len());
            false
        }
        Err(JournalError::Damaged { .. } | JournalError::Behind { .. } | JournalError::Version { .. }) => true,
        Err(other) => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_journal_that_is_cut_short_anywhere_is_refused_or_whole() {
    let (directory, facts) = filled();
    let journal = fs::read(directory.path().join("journal.redb")).unwrap();
    let mark = fs::read(directory.path().join("journal.mark")).unwrap();
    let offsets = (0..64).chain((64..journal.len()).step_by(journal.len() / 200 + 1));
    let refused = offsets.filter(|cut| refused_or_whole(&journal[..*cut], &mark, &facts, &format!("cut at {cut}"))).count();
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_does_no_harm() {
    let (directory, facts) = filled();
    let journal = fs::read(directory.path().join("journal.redb")).unwrap();
    let mark = fs::read(directory.path().join("journal.mark")).unwrap();
    // All of the header's used part, and of each page a byte or two where content is.
    let used = |page: usize| journal[page..(page + 4096).min(journal.len())].iter().any(|byte| *byte != 0);
    let pages = (4096..journal.len()).step_by(4096).filter(|page| used(*page));
    let offsets: Vec<usize> = (0..320).chain(pages.flat_map(|page| [page, page + 9 + page / 4096 % 60])).collect();
    let mut refused = 0;
    for at in offsets.iter().filter(|at| **at < journal.len()) {
        let mut flipped = journal.clone();
        flipped[*at] ^= 1 << (at % 8);
        refused += usize::from(refused_or_whole(&flipped, &mark, &facts, &format!("byte {at}")));
    }
    assert!(refused > 20, "{refused} of {}", offsets.len());
}

#[test]
fn a_journal_that_was_put_back_is_noticed_and_goes_on_when_the_mark_is_removed() {
    let (directory, facts) = filled();
    let path = directory.path().join("journal.redb");
    let before = fs::read(&path).unwrap();
    write(directory.path(), vec![vec![entry(100, lost(1, 99))]]);
    fs::write(&path, before).unwrap();
    assert!(matches!(open(directory.path()), Err(JournalError::Behind { known: 100, .. })));
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(directory.path()), Err(JournalError::Behind { found: 0, known: 100, .. })), "it is gone");
    let (other, _) = filled();
    fs::copy(other.path().join("journal.redb"), &path).unwrap();
    fs::remove_file(directory.path().join("journal.mark")).unwrap();
    assert_eq!(open(directory.path()).unwrap().1, facts);
}

#[test]
fn a_damaged_mark_is_no_reason_not_to_go_on() {
    let (directory, facts) = filled();
    for mark in [&b"x"[..], &[1; 16]] {
        fs::write(directory.path().join("journal.mark"), mark).unwrap();
        assert_eq!(open(directory.path()).unwrap().1, facts);
    }
}

#[test]
fn what_later_facts_make_useless_is_removed_and_numbers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (kept, left) = (WorkerId(1), WorkerId(2));
    let facts = [
        Fact::Epoch(Epoch(1)),
        Fact::WorkerKnown(kept),
        Fact::WorkerKnown(left),
        Fact::Epoch(Epoch(2)),
        Fact::WorkerKnown(kept),
        Fact::WorkerForgotten(left),
    ];
    let entries = (1..).zip(facts).map(|(number, fact)| entry(number, fact)).collect();
    write(directory.path(), vec![entries]);
    let (opened, found) = open(directory.path()).unwrap();
    assert_eq!(found, [(4, Fact::Epoch(Epoch(2))), (5, Fact::WorkerKnown(kept))]);
    assert_eq!(opened.last(), 6);
}

#[test]
fn ended_jobs_become_a_history_of_bounded_length() {
    let directory = tempfile::tempdir().unwrap();
    let mut told = vec![];
    for job in 1..=5u128 {
        let number = job as u64 * 10;
        let ended = Fact::Ended { job: JobId(job), ending: Ending::Succeeded };
        told.extend(write(
            directory.path(),
            vec![vec![entry(number, submitted(job)), entry(number + 1, lost(job, 1)), entry(number + 2, ended)], vec![retired(job)]],
        ));
    }
    let forgotten: Vec<&Told> = told.iter().filter(|told| matches!(told, Told::Forgotten(_))).collect();
    assert_eq!(forgotten, [&Told::Forgotten(vec![JobId(1)]), &Told::Forgotten(vec![JobId(2)])]);
    let (opened, facts) = open(directory.path()).unwrap();
    assert_eq!(facts, []);
    let history = opened.history();
    let keys: Vec<_> = (3..=5).map(|job| (JobId(job), format!("key {job}"))).collect();
    assert_eq!(history.keys().unwrap(), keys);
    assert_eq!(history.get(JobId(4)).unwrap().unwrap().view.status.job, JobId(4));
    assert_eq!(history.get(JobId(1)).unwrap(), None);
}

#[test]
fn the_file_does_not_grow_with_the_number_of_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let run = |jobs: std::ops::Range<u128>| {
        let groups = jobs.flat_map(|job| {
            let number = job as u64 * 2;
            [vec![entry(number, submitted(job)), entry(number + 1, lost(job, 1))], vec![retired(job)]]
        });
        write(directory.path(), groups.collect());
        fs::metadata(directory.path().join("journal.redb")).unwrap().len()
    };
    let after_few = run(1..50);
    let after_many = run(50..1000);
    assert!(after_many < 2 * after_few, "{after_few} bytes after 50 jobs, {after_many} after 1000");
}

/// A file system of this many MiB, for a test of what happens when it is full; skipped where none can be mounted.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", size, "none"]).arg(disk.0.path()).stderr(Stdio::null()).status();
        let mounted = mount.is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: no small file system could be mounted");
        }
        mounted.then_some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Fails where mounting failed.
        let _ = Command::new("umount").arg(self.0.path()).stderr(Stdio::null()).status();
    }
}

#[test]
fn on_a_full_disk_the_reserve_is_given_up_and_facts_are_still_written_until_there_is_room_again() {
    let Some(disk) = SmallDisk::mount("size=48m") else { return };
    let path = disk.0.path();
    let (told, hears) = channel();
    let (opened, _) = open(path).unwrap();
    let full = opened.is_full();
    let is_full = || full.load(std::sync::atomic::Ordering::Relaxed);
    let journal = opened.start(Teller { told, go_on: channel().1 }, FaultPoint::default());
    journal.write(entry(1, submitted(1)));
    assert_eq!(hears.recv().unwrap(), Told::Synced(1));
    assert!(!is_full() && path.join("reserve").exists(), "at first");

    let filler = path.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    for number in 2..200 {
        journal.write(entry(number, lost(1, number)));
        assert!(matches!(hears.recv().unwrap(), Told::Synced(_)));
    }
    assert!(is_full() && !path.join("reserve").exists(), "full");

    drop(file);
    fs::remove_file(&filler).unwrap();
    // It looks by itself, too; a fact makes it look at once.
    journal.write(entry(200, lost(1, 200)));
    while hears.recv().unwrap() != Told::Synced(200) {}
    assert!(!is_full() && path.join("reserve").exists(), "again");
    drop(journal);
    assert_eq!(open(path).unwrap().1.len(), 200);
}
