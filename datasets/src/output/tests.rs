//! Claims and publishing, with a death after every step.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::manifest::MANIFEST_NAME;
use crate::small_disk::SmallDisk;

struct World {
    dir: TempDir,
    output: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().canonicalize().unwrap().join("out");
        Self { dir, output }
    }

    fn with_output(content: &str) -> Self {
        let world = Self::new();
        fs::create_dir(&world.output).unwrap();
        fs::write(world.output.join("part-00000.csv"), content).unwrap();
        world
    }

    fn take(&self, job: &str, overwrite: bool) -> Result<OutputClaim, PublishError> {
        OutputClaim::take(&self.output, job, overwrite)
    }

    /// What is visible of the output's only part.
    fn visible(&self) -> Option<String> {
        fs::read_to_string(self.output.join("part-00000.csv")).ok()
    }

    /// The names beside the output that are not its own.
    fn left_over(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "out").collect()
    }
}

fn staged(claim: &OutputClaim, content: &str) -> Vec<(PathBuf, String)> {
    let path = claim.attempt("1").unwrap().join("staged");
    fs::write(&path, content).unwrap();
    vec![(path, "part-00000.csv".to_owned())]
}

fn manifest() -> Manifest {
    Manifest { job: "test".to_owned(), counters: BTreeMap::from([("lines".to_owned(), 1)]), ..Manifest::default() }
}

/// Ends a run as SIGKILL would: the lock goes, everything else stays.
fn die(claim: OutputClaim) {
    let claim = std::mem::ManuallyDrop::new(claim);
    claim.claim.unlock();
}

#[test]
fn an_output_appears_whole_with_its_manifest_and_nothing_is_left() {
    let world = World::new();
    let claim = world.take("a", false).unwrap();
    let mut files = staged(&claim, "new");
    let bad = claim.staging().join("bad");
    fs::write(&bad, "oops").unwrap();
    files.push((bad, "_quarantine/shard-00000".to_owned()));
    assert_eq!(world.visible(), None);
    let published = claim.publish(&files, &manifest(), true).unwrap();
    assert_eq!(published.replaced, Replaced::Nothing);
    assert!(published.left_behind.is_none());
    assert_eq!(world.visible().as_deref(), Some("new"));
    assert_eq!(fs::read_to_string(world.output.join("_quarantine/shard-00000")).unwrap(), "oops");
    assert_eq!(Manifest::read(&world.output).unwrap(), manifest());
    assert!(is_published(&world.output, manifest().digest()));
    assert!(world.left_over().is_empty());
}

#[test]
fn an_output_that_exists_is_refused_and_left_alone() {
    let world = World::with_output("old");
    assert!(matches!(world.take("a", false), Err(PublishError::Exists { path }) if path == world.output));
    assert_eq!(world.visible().as_deref(), Some("old"));
    assert!(world.left_over().is_empty());
}

#[test]
fn an_output_that_appears_meanwhile_is_not_replaced() {
    let world = World::new();
    let claim = world.take("a", false).unwrap();
    let files = staged(&claim, "new");
    fs::create_dir(&world.output).unwrap();
    assert!(matches!(claim.publish(&files, &manifest(), false), Err(PublishError::Exists { .. })));
    assert_eq!(world.visible(), None);
    assert!(world.left_over().is_empty());
}

#[test]
fn overwriting_keeps_the_old_output_until_the_new_one_is_whole() {
    let world = World::with_output("old");
    let claim = world.take("a", true).unwrap();
    let files = staged(&claim, "new");
    assemble(claim.staging(), &files, &manifest(), false).unwrap();
    assert_eq!(world.visible().as_deref(), Some("old"));
    let published = claim.publish(&files, &manifest(), false).unwrap();
    assert_eq!(published.replaced, Replaced::Exchanged);
    assert_eq!(world.visible().as_deref(), Some("new"));
    assert!(world.left_over().is_empty());
}

#[test]
fn a_claim_that_is_dropped_leaves_no_trace() {
    for overwrite in [false, true] {
        let world = if overwrite { World::with_output("old") } else { World::new() };
        let claim = world.take("a", overwrite).unwrap();
        let files = staged(&claim, "new");
        assemble(claim.staging(), &files, &manifest(), false).unwrap();
        drop(claim);
        assert_eq!(world.visible().as_deref(), overwrite.then_some("old"));
        assert!(world.left_over().is_empty());
    }
}

#[test]
fn staging_that_is_swept_while_an_output_is_put_together_does_not_come_back() {
    for name in ["part-00000.csv", "_quarantine/records.jsonl"] {
        for swept_before in [true, false] {
            let world = World::new();
            let claim = world.take("a", false).unwrap();
            let (staging, output) = (claim.staging().to_owned(), claim.output().to_owned());
            let files = staged(&claim, "new").into_iter().take(1).map(|(path, _)| (path, name.to_owned())).collect::<Vec<_>>();
            let sweep = || sweep(&staging, &output).unwrap();
            if swept_before {
                sweep();
            }
            let refused = assemble(&staging, files.iter().inspect(|_| sweep()), &manifest(), false);
            assert!(matches!(refused, Err(PublishError::Io { .. })), "{refused:?}");
            assert!(!staging.exists(), "{name}");
        }
    }
}

type Step = fn(&OutputClaim, &[(PathBuf, String)]);

/// The steps of a run, each of which may be its last.
const STEPS: [Step; 4] = [
    |_, _| {},
    |claim, files| {
        // Killed in the middle of assembling.
        fs::create_dir(claim.staging().join("final")).unwrap();
        fs::hard_link(&files[0].0, claim.staging().join("final/part-00000.csv")).unwrap();
        fs::write(claim.staging().join("final/._SUCCESS"), "{").unwrap();
    },
    |claim, files| assemble(claim.staging(), files, &manifest(), false).unwrap(),
    |claim, _| {
        reveal(claim.staging(), claim.output(), claim.overwrite, false).unwrap();
    },
];

#[test]
fn after_a_death_at_any_step_the_output_is_the_old_or_the_new_one_and_the_next_run_sweeps() {
    for steps in 0..=STEPS.len() {
        for overwrite in [false, true] {
            let world = if overwrite { World::with_output("old") } else { World::new() };
            let claim = world.take("a", overwrite).unwrap();
            let files = staged(&claim, "new");
            STEPS[..steps].iter().for_each(|step| step(&claim, &files));
            let revealed = steps == STEPS.len();
            die(claim);
            let expected = if revealed { Some("new") } else { overwrite.then_some("old") };
            assert_eq!(world.visible().as_deref(), expected, "{steps} steps");
            assert!(!world.left_over().is_empty());

            let next = world.take("b", true).unwrap();
            assert_eq!(world.visible().as_deref(), expected);
            assert!(!staging_path(&world.output, "a").exists(), "what the dead run left is swept");
            drop(next);
            assert!(world.left_over().is_empty());
        }
    }
}

#[test]
fn a_recovery_repeats_the_steps_without_harm() {
    for steps in 0..STEPS.len() {
        let world = World::with_output("old");
        let claim = world.take("a", true).unwrap();
        let files = staged(&claim, "new");
        STEPS[..steps].iter().for_each(|step| step(&claim, &files));
        for _ in 0..2 {
            assemble(claim.staging(), &files, &manifest(), true).unwrap();
        }
        assert!(!is_published(&world.output, manifest().digest()));
        reveal(claim.staging(), &world.output, true, true).unwrap();
        assert!(is_published(&world.output, manifest().digest()));
        drop(claim);
        assert_eq!(world.visible().as_deref(), Some("new"));
        assert!(world.left_over().is_empty());
    }
}

#[test]
fn an_old_output_that_stepped_aside_for_one_that_never_came_is_put_back() {
    let world = World::with_output("old");
    let claim = world.take("a", true).unwrap();
    fs::rename(&world.output, claim.staging().join("replaced")).unwrap();
    die(claim);
    assert_eq!(world.visible(), None);
    assert!(matches!(world.take("b", false), Err(PublishError::Exists { .. })));
    assert_eq!(world.visible().as_deref(), Some("old"));
    assert!(world.left_over().is_empty());
}

#[test]
fn a_second_run_on_the_same_output_is_told_who_has_it() {
    let world = World::new();
    let first = world.take("first", false).unwrap();
    let error = world.take("second", true).unwrap_err();
    assert!(matches!(&error, PublishError::Claimed { holder, .. } if holder == "first"), "{error}");
    let elsewhere = OutputClaim::take(&world.dir.path().join("./x/../out/"), "second", false);
    assert!(matches!(elsewhere, Err(PublishError::Claimed { .. })), "by another name");
    assert!(first.staging().exists());
    drop(first);
    world.take("second", false).unwrap();
}

#[test]
fn outputs_inside_each_other_are_refused() {
    let world = World::new();
    let inner = world.output.join("deep/inner");
    let claim = world.take("outer", false).unwrap();
    assert!(matches!(OutputClaim::take(&inner, "inner", false), Err(PublishError::Claimed { path, .. }) if path == world.output));
    assert!(!world.output.exists(), "a directory there would keep the claim's run from publishing");
    drop(claim);
    let claim = OutputClaim::take(&inner, "inner", false).unwrap();
    assert!(matches!(world.take("outer", true), Err(PublishError::Claimed { .. })));
    die(claim);
    // A dead run inside is no obstacle: its leftovers are replaced with the rest.
    world.take("outer", true).unwrap();
}

#[test]
fn only_one_of_many_threads_gets_a_claim() {
    let world = World::new();
    let barrier = std::sync::Barrier::new(8);
    let claims: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (world, barrier) = (&world, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    world.take(&format!("job-{thread}"), false)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
    drop(claims);
    assert!(world.left_over().is_empty());
}

#[test]
fn places_that_cannot_be_outputs_are_refused_by_name() {
    let world = World::new();
    let take = |path: &Path, overwrite| OutputClaim::take(path, "a", overwrite);
    assert!(matches!(take(Path::new("/"), true), Err(PublishError::Invalid { .. })));
    assert!(matches!(take(&world.dir.path().join(".."), true), Err(PublishError::Invalid { .. })));
    fs::write(&world.output, "a file").unwrap();
    assert!(matches!(take(&world.output, true), Err(PublishError::Invalid { .. })));
    assert!(matches!(take(&world.output.join("below"), false), Err(PublishError::Io { path, .. }) if path == world.output));
    assert_eq!(fs::read_to_string(&world.output).unwrap(), "a file");
    for job in ["", "a/b", "claim", "..", "ä"] {
        assert!(matches!(OutputClaim::take(&world.dir.path().join("x"), job, false), Err(PublishError::Name { .. })));
    }
    assert!(world.left_over().is_empty());
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_names_it() {
    // Not even root creates files here.
    let error = OutputClaim::take(Path::new("/proc/shardmill-output"), "a", false).unwrap_err();
    assert!(matches!(&error, PublishError::Io { path, .. } if path.starts_with("/proc")), "{error}");
}

#[test]
fn names_that_lead_out_of_the_output_are_refused_and_so_are_strangers_in_it() {
    let world = World::new();
    let claim = world.take("a", false).unwrap();
    let file = staged(&claim, "new").remove(0).0;
    for name in ["", "../x", "/x", "a/../../x", "_SUCCESS"] {
        let refused = assemble(claim.staging(), &[(file.clone(), name.to_owned())], &manifest(), false);
        assert!(matches!(refused, Err(PublishError::Name { .. })), "{name}");
    }
    fs::write(claim.staging().join("final/part-00000.csv"), "other").unwrap();
    let refused = assemble(claim.staging(), &[(file, "part-00000.csv".to_owned())], &manifest(), false);
    assert!(matches!(refused, Err(PublishError::Conflict { .. })));
    let missing = vec![(claim.staging().join("missing"), "x".to_owned())];
    assert!(matches!(claim.publish(&missing, &manifest(), false), Err(PublishError::Io { path, .. }) if path.ends_with("missing")));
    assert!(world.left_over().is_empty());
    assert!(!world.output.join(MANIFEST_NAME).exists());
}

#[test]
fn a_full_disk_leaves_the_old_output_and_no_trace() {
    let Some(disk) = SmallDisk::mount() else { return };
    let output = disk.path().join("out");
    fs::create_dir(&output).unwrap();
    fs::write(output.join("part-00000.csv"), "old").unwrap();
    let claim = OutputClaim::take(&output, "a", true).unwrap();
    let files = staged(&claim, "new");
    let huge = Manifest { counters: (0..100_000).map(|n| (format!("counter {n}"), n)).collect(), ..manifest() };
    let error = claim.publish(&files, &huge, true).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert_eq!(fs::read_to_string(output.join("part-00000.csv")).unwrap(), "old");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1);
}
