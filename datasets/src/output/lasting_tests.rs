//! Claims that outlive their process.

use super::*;
use crate::manifest::Manifest;

struct World {
    dir: tempfile::TempDir,
    output: PathBuf,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().canonicalize().unwrap().join("out");
    World { dir, output }
}

impl World {
    fn take(&self, job: &str) -> Result<LastingClaim, PublishError> {
        LastingClaim::take(&self.output, job, "here", false)
    }

    fn left_over(&self) -> usize {
        fs::read_dir(self.dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "out").count()
    }
}

fn holder(refused: Result<impl std::fmt::Debug, PublishError>) -> String {
    match refused {
        Err(PublishError::Claimed { holder, .. }) => holder,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lasting_claim_keeps_everybody_away_until_it_is_released() {
    let world = world();
    let claim = world.take("one").unwrap();
    assert_eq!(holder(OutputClaim::take(&world.output, "run", false)), "coordinator job one of here");
    assert_eq!(holder(OutputClaim::take(&world.output.join("deep/inner"), "run", false)), "coordinator job one of here");
    assert_eq!(holder(OutputClaim::take(&world.output, "run", true)), "coordinator job one of here");
    assert_eq!(holder(world.take("two")), "coordinator job one of here");
    assert!(claim.staging().join("attempts").is_dir(), "a refusal has removed what is staged");
    claim.release(false).unwrap();
    claim.release(false).unwrap();
    assert_eq!(world.left_over(), 0);
    OutputClaim::take(&world.output, "run", false).unwrap();
}

#[test]
fn a_refusal_says_how_to_get_rid_of_a_claim_whose_coordinator_is_gone_and_that_is_enough() {
    let world = world();
    world.take("one").unwrap();
    let beside = |what: &str| world.output.with_file_name(format!(".out.shardmill-{what}"));
    let remedy = format!(
        "; if that coordinator is gone for good, remove {}, and {} where its job has staged files",
        beside("claim").display(),
        beside("one").display()
    );
    for (output, overwrite) in [(world.output.clone(), false), (world.output.join("deep/inner"), false)] {
        let refusal = OutputClaim::take(&output, "run", overwrite).unwrap_err().to_string();
        let whose = format!("output {} is being written by coordinator job one of here", world.output.display());
        assert_eq!(refusal, format!("{whose}{remedy}"));
    }
    let around = world.output.parent().unwrap();
    let refusal = OutputClaim::take(around, "run", true).unwrap_err().to_string();
    assert!(refusal.ends_with(&remedy) && refusal.contains(&format!("output {} is", world.output.display())), "{refusal}");
    fs::remove_file(beside("claim")).unwrap();
    fs::remove_dir_all(beside("one")).unwrap();
    OutputClaim::take(&world.output, "run", false).unwrap();
    let run = OutputClaim::take(&world.output, "run", false).unwrap();
    let refusal = OutputClaim::take(&world.output, "another", false).unwrap_err().to_string();
    assert!(refusal.ends_with("is being written by run"), "a local run's claim goes with the run: {refusal}");
    drop(run);
}

#[test]
fn a_claim_inside_of_an_output_that_would_be_replaced_refuses_it() {
    let world = world();
    LastingClaim::take(&world.output.join("inner"), "one", "here", false).unwrap();
    assert_eq!(holder(OutputClaim::take(&world.output, "run", true)), "coordinator job one of here");
}

#[test]
fn a_local_run_keeps_a_coordinator_away_while_it_lives_and_not_when_it_is_dead() {
    let world = world();
    let run = OutputClaim::take(&world.output, "run", false).unwrap();
    assert_eq!(holder(world.take("one")), "run");
    let run = std::mem::ManuallyDrop::new(run);
    run.claim.unlock();
    let claim = world.take("one").unwrap();
    assert!(!run.staging().exists(), "what a dead run left is swept");
    claim.release(false).unwrap();
    assert_eq!(world.left_over(), 0);
}

#[test]
fn a_claim_is_released_by_its_own_job_alone() {
    let world = world();
    let claim = world.take("one").unwrap();
    LastingClaim::taken(&world.output, "on").release(false).unwrap();
    LastingClaim::taken(&world.output, "two").release(false).unwrap();
    assert_eq!(holder(world.take("two")), "coordinator job one of here");
    claim.release(false).unwrap();
    world.take("two").unwrap();
}

#[test]
fn releasing_puts_an_old_output_back_and_keeps_what_is_to_be_looked_at() {
    let world = world();
    fs::create_dir(&world.output).unwrap();
    fs::write(world.output.join("part"), "old").unwrap();
    let claim = LastingClaim::take(&world.output, "one", "here", true).unwrap();
    fs::rename(&world.output, claim.staging().join("replaced")).unwrap();
    claim.release(true).unwrap();
    assert_eq!(fs::read(world.output.join("part")).unwrap(), b"old");
    assert!(claim.staging().exists());
    assert!(!claim_path(&world.output).exists());
}

#[test]
fn a_job_publishes_under_a_claim_that_an_earlier_process_took() {
    let world = world();
    world.take("one").unwrap();
    let claim = LastingClaim::taken(&world.output, "one");
    let staged = claim.staging().join("attempts/part");
    fs::write(&staged, "new").unwrap();
    let manifest = Manifest::default();
    assemble(claim.staging(), &[(staged, "part-0".to_owned())], &manifest, true).unwrap();
    reveal(claim.staging(), claim.output(), false, true).unwrap();
    claim.release(false).unwrap();
    assert!(is_published(&world.output, manifest.digest()));
    assert_eq!(world.left_over(), 0);
}
