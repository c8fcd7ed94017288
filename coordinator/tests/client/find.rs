//! Which coordinator a command speaks with, and what it says when there is none.

use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::rpc::tls::Identity;
use shardmill_protocol::view::JobPhase;

use crate::fake::{Fake, JOB, coordinator, status};
use crate::{ended, err};

#[test]
fn a_coordinator_is_found_by_flag_by_environment_and_where_it_keeps_its_state() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 1));
    let file = fake.state().join("read.join");
    std::fs::create_dir(fake.path("home")).unwrap();
    std::os::unix::fs::symlink(fake.state(), fake.path("home/shardmill")).unwrap();
    let ways = [
        coordinator().arg("jobs").arg("--coordinator").arg(fake.state()).output(),
        coordinator().arg("jobs").arg("--coordinator").arg(&file).output(),
        coordinator().arg("jobs").env("SHARDMILL_COORDINATOR", &file).output(),
        coordinator().arg("jobs").env("XDG_STATE_HOME", fake.path("home")).output(),
        // The flag counts more than the environment.
        coordinator().arg("jobs").arg("--coordinator").arg(&file).env("SHARDMILL_COORDINATOR", "/nowhere").output(),
    ];
    for told in ways {
        let told = told.unwrap();
        ended(&told, 0);
        assert!(crate::out(&told).contains(&JOB.to_string()), "{}", crate::out(&told));
    }
}

#[test]
fn a_command_takes_the_least_role_that_will_do() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 1));
    // Files that cannot be read are noticed, so the one that is chosen is seen.
    let spoil = |role: Role| std::fs::write(fake.state().join(JoinFile::name(role)), "spoilt").unwrap();
    spoil(Role::Submit);
    spoil(Role::Admin);
    ended(&fake.command(&["jobs"]).output().unwrap(), 0);
    let told = ended(&fake.command(&["cancel", "01"]).output().unwrap(), 2);
    assert!(told.contains("submit.join is no join file"), "{told}");
    std::fs::remove_file(fake.state().join("submit.join")).unwrap();
    let told = ended(&fake.command(&["cancel", "01"]).output().unwrap(), 2);
    assert!(told.contains("admin.join is no join file"), "{told}");
    std::fs::remove_file(fake.state().join("admin.join")).unwrap();
    let told = ended(&fake.command(&["drain", "01"]).output().unwrap(), 4);
    assert!(told.contains("has no join file for the role admin") && told.contains("next:"), "{told}");
}

#[test]
fn a_role_that_does_not_do_is_refused_by_name() {
    let fake = Fake::start();
    let told = coordinator().args(["drain", "01", "--coordinator"]).arg(fake.state().join("submit.join")).output().unwrap();
    let told = ended(&told, 4);
    assert!(told.contains("this needs the role admin, and the secret that was given is for submit"), "{told}");
    assert!(told.contains("next: use the coordinator's admin.join"), "{told}");
    assert!(fake.world.told.lock().unwrap().drained.is_empty());
}

#[test]
fn without_a_coordinator_it_says_how_to_start_one() {
    let mut fake = Fake::start();
    fake.fall();
    let told = ended(&fake.command(&["jobs"]).output().unwrap(), 3);
    assert!(told.contains("no coordinator can be reached at 127.0.0.1:") && told.contains("coordinator serve"), "{told}");
    let mut nowhere = coordinator();
    let told = ended(&nowhere.arg("jobs").arg("--coordinator").arg(fake.path("nowhere")).output().unwrap(), 3);
    assert!(told.contains("nowhere") && told.contains("coordinator serve"), "{told}");
    let told = ended(&coordinator().arg("jobs").output().unwrap(), 3);
    assert!(told.contains("/nonexistent/shardmill") && told.contains("coordinator serve"), "{told}");
    let told = coordinator().arg("jobs").env_remove("XDG_STATE_HOME").env_remove("HOME").output().unwrap();
    ended(&told, 3);
}

#[test]
fn a_stranger_and_a_refusal_are_told_apart_and_no_secret_is_shown() {
    let fake = Fake::start();
    let path = fake.path("mine.join");
    let join = JoinFile::read(&fake.state().join("read.join")).unwrap();
    let jobs = || coordinator().arg("jobs").arg("--coordinator").arg(&path).output().unwrap();

    JoinFile { fingerprint: Identity::generate().unwrap().fingerprint(), ..join.clone() }.write(&path).unwrap();
    let told = ended(&jobs(), 4);
    assert!(told.contains("is not the coordinator that the join file is of") && told.contains("next:"), "{told}");
    assert!(told.contains(&fake.identity.fingerprint().to_string()), "{told}");

    JoinFile { secret: Secret::random().unwrap(), ..join.clone() }.write(&path).unwrap();
    let told = ended(&jobs(), 4);
    assert!(told.contains("does not know the secret"), "{told}");

    join.write(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let told = jobs();
    ended(&told, 2);
    assert!(err(&told).contains("others than its owner can read") && !err(&told).contains(&join.secret.expose_hex()), "{}", err(&told));
}
