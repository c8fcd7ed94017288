//! A machine that does not see the directory in which the output is to appear.

use shardmill_protocol::Fault;
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::view::{AttemptState, AttemptView};
use shardmill_tests::cluster::{counts, naive};
use shardmill_tests::gate::Gate;
use shardmill_tests::{Output, Place, names_in};

use crate::machines::Network;
use crate::site::{Site, stderr, until};

#[test]
fn a_job_whose_output_no_worker_sees_fails_at_once_and_names_worker_and_path() {
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let [_, second, third] = &network.machines;
    let site = Site::start(&place, &network);
    third.hide(&place.path("out"));
    let _blind = site.worker(third, &[]);
    let told = site.submission(second, Role::Submit, "a b a\n").output().unwrap();
    assert_eq!(told.status.code(), Some(1), "{}", stderr(&told));
    let (worker, _) = site.workers(second).pop_first().unwrap();
    let card = stderr(&told);
    assert!(card.contains(&format!("on worker {worker}")), "{card}");
    assert!(card.contains(&format!("cannot see {}/.words.shardmill-", place.path("out").display())), "{card}");
    assert_eq!(names_in(&place.path("out")), [""; 0]);
}

#[test]
fn a_worker_that_joins_without_seeing_the_output_is_left_out_and_the_others_finish() {
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let [_, second, third] = &network.machines;
    let site = Site::start(&place, &network);
    let _sees = site.worker(second, &[]);
    let gate = Gate::close(&place, "held");
    let text = format!("{}!map:gate:held\n{}", "a few words\n".repeat(5_000), "and some more\n".repeat(5_000));
    let job = site.submit(second, &text);
    let reached = gate.reached();
    third.hide(&place.path("out"));
    let _blind = site.worker(third, &[]);
    let is_blind =
        |attempt: &AttemptView| matches!(attempt.failure.as_ref().map(|failure| &failure.fault), Some(Fault::OutputUnseen { .. }));
    until("the other worker was given something and says what is wrong", || site.job(second, job).attempts.iter().any(is_blind));
    gate.open();
    drop(reached);
    let view = site.succeeds(second, job);
    assert_eq!(counts(&Output::whole(&place.path("out/words"))), naive(&text));
    // What it was given went to the other one, and the job was not charged for it.
    let (failed, good): (Vec<&AttemptView>, Vec<_>) = view.attempts.iter().partition(|attempt| is_blind(attempt));
    assert!(good.iter().all(|attempt| attempt.state == AttemptState::Accepted && attempt.worker != failed[0].worker), "{view:#?}");
    assert_eq!(view.status.retries, 0);
}
