//! The crate as a cluster gets it: by its directory.

use std::fs;

use serde_json::Value;
use shardmill_tests::cluster::Cluster;
use shardmill_tests::{Output, Place, target};

use crate::{OutsideCrate, job, witness};

#[test]
fn it_is_built_and_submitted_and_its_job_is_seen_by_every_command() {
    let place = Place::new();
    let text = "or not\n".to_owned() + &"to be\n".repeat(1_100_000);
    // What is built first is what the crate depends on.
    assert!(witness().exists());
    let (_, local) = job(&place, &text).run().success();

    let submitted = OutsideCrate::new("submitted");
    let cluster = Cluster::start(&place);
    let worker = cluster.worker("worker", "--threads 1 --memory 128MiB");
    let told = |verb: &str, arguments: &[&str]| {
        let mut command = cluster.command(verb);
        let told = command.args(arguments).env("CARGO_TARGET_DIR", target()).env("CARGO_NET_OFFLINE", "true").output().unwrap();
        assert_eq!(told.status.code(), Some(0), "{verb} {arguments:?}: {}", String::from_utf8_lossy(&told.stderr));
        told
    };
    let json = |verb: &str, arguments: &[&str]| -> Value {
        serde_json::from_slice(&told(verb, &[arguments, &["--format", "json"]].concat()).stdout).unwrap()
    };
    let (input, output, log) = (place.path("in.txt"), place.path("cluster"), place.path("log"));
    let paths = [submitted.0.path(), &input, &output, &log].map(|path| path.to_str().unwrap());
    told("submit", &[paths[0], "--input", paths[1], "--output", paths[2], "--", "--log", paths[3]]);
    let output = Output::whole(&output);
    assert_eq!(output.parts(), local.parts());
    assert_eq!(output.manifest["counters"], local.manifest["counters"]);
    assert_eq!(fs::read_to_string(log).unwrap(), "start\nfinish\nstart\nfinish\n", "its parameters came with it");

    let jobs = json("jobs", &[]);
    let id = jobs[0]["job"].as_str().unwrap().to_owned();
    assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs}");
    // The beginning of an id is enough.
    let job = json("job", &[&id[..20]]);
    assert_eq!(job["status"]["phase"], "succeeded", "{job}");
    assert_eq!(json("workers", &[])[0]["worker"].as_str().unwrap(), worker.id().to_string());
    for verb in [vec!["jobs"], vec!["job", &id], vec!["workers"], vec!["logs", &id], vec!["watch", &id]] {
        told(verb[0], &verb[1..]);
    }
    let logs = String::from_utf8(told("logs", &[&id]).stdout).unwrap();
    assert!(logs.contains("\"to\", has 1100000 of 1100001 values"), "{logs}");
}
