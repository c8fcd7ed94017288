//! Machines between which nothing passes, or in one direction only.

use shardmill_protocol::view::{AttemptState, AttemptView, JobView, WorkerState};
use shardmill_tests::cluster::{counts, each_unit_counts_once, naive};
use shardmill_tests::{Output, Place};

use crate::machines::{Machine, Network};
use crate::site::{Shared, Site, until};

/// While the workers of the second and the third machine map, something happens. The job goes on to its end then, with each unit counting
/// once and the output right, and that is looked at before what has happened is over.
fn while_two_map<T>(happen: impl FnOnce(&Site<'_>, &[Machine; 3]) -> T, look: impl FnOnce(&Site<'_>, &[Machine; 3], &JobView)) {
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let machines = &network.machines;
    let [_, second, third] = machines;
    let site = Site::start(&place, &network);
    let _workers = [site.worker(second, &[]), site.worker(third, &[])];
    let words: Vec<String> = (0..20_000).map(|at| format!("word{:x}", at % 7_000 * 7_919)).collect();
    let (shared, text) = Shared::among(&place, &words);
    let job = site.submit(third, &text);
    let mut happened = None;
    shared.pass_maps(|| happened = Some(happen(&site, machines)));
    let view = site.succeeds(third, job);
    assert_eq!(counts(&Output::whole(&place.path("out/words"))), naive(&text));
    each_unit_counts_once(&view);
    look(&site, machines, &view);
}

/// A worker and the coordinator are parted in a direction until the worker is lost. The other one does all there is to do, and when the
/// way is open again the lost one is there again.
fn parted_for_longer_than_the_lease(lose: impl FnOnce(&Machine, &Machine), find: impl FnOnce(&Machine, &Machine)) {
    let until_it_is = |site: &Site<'_>, [_, second, third]: &[Machine; 3], state: WorkerState| {
        until(&format!("the worker is {state:?}"), || site.worker_of(third, second).state == state);
    };
    while_two_map(
        |site, machines| {
            lose(&machines[0], &machines[1]);
            until_it_is(site, machines, WorkerState::Lost);
        },
        |site, machines, view| {
            let lost = site.worker_of(&machines[2], &machines[1]).worker;
            let ended = |attempt: &AttemptView| attempt.worker == lost && attempt.state == AttemptState::Ended;
            assert!(view.attempts.iter().any(ended), "{view:#?}");
            assert_eq!(view.status.retries, 0, "nobody is to blame");
            find(&machines[0], &machines[1]);
            until_it_is(site, machines, WorkerState::Live);
        },
    );
}

#[test]
fn a_worker_that_hears_the_coordinator_and_is_not_heard_is_lost_and_comes_back() {
    parted_for_longer_than_the_lease(|home, worker| worker.lose(home), |home, worker| worker.find(home));
}

#[test]
fn a_worker_that_is_heard_and_hears_nothing_is_lost_and_comes_back() {
    parted_for_longer_than_the_lease(Machine::lose, Machine::find);
}

#[test]
fn outputs_that_a_reducer_cannot_reach_are_made_where_it_can() {
    while_two_map(
        |site, [home, second, third]| {
            second.part_from(third);
            third.part_from(second);
            site.worker(home, &[])
        },
        |_, _, view| assert!(!view.lost.is_empty(), "{view:#?}"),
    );
}
