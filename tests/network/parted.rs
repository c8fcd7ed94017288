//! Machines between which nothing passes, or in one direction only.

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, JobView, WorkerState};
use shardmill_tests::cluster::{counts, naive, units_accepted};
use shardmill_tests::{Output, Place};

use crate::machines::{Machine, Network};
use crate::site::{Shared, Site};

/// How often workers are looked at: each time a command is run.
const LOOKS: usize = 3_000;

fn words() -> Vec<String> {
    (0..20_000).map(|at| format!("word{:x}", at % 7_000 * 7_919)).collect()
}

/// The output is right, and each unit counts once, by whomever it was done.
fn is_whole(place: &Place, view: &JobView, text: &str) {
    assert_eq!(counts(&Output::whole(&place.path("out/words"))), naive(text));
    for (kind, (_, units)) in view.status.units.iter().filter(|(kind, _)| **kind != TaskKind::Map) {
        assert_eq!(units_accepted(view, *kind), *units, "{kind:?} of {view:#?}");
    }
}

/// While two workers map, one of them and the coordinator are parted in a direction, until that worker is lost. The other one does
/// all there is to do, and when the way is open again the lost one is there again.
fn parted_for_longer_than_the_lease(lose: impl FnOnce(&Machine, &Machine), find: impl FnOnce(&Machine, &Machine)) {
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let [home, second, third] = &network.machines;
    let site = Site::start(&place, &network);
    let _workers = [site.worker(second, &[]), site.worker(third, &[])];
    let (shared, text) = Shared::among(&place, &words());
    let job = site.submit(third, &text);
    let until = |state: WorkerState| {
        let is_so = (0..LOOKS).any(|_| site.worker_of(third, second).state == state);
        assert!(is_so, "the worker is not {state:?} but {:?}", site.worker_of(third, second));
    };
    shared.pass_maps(|| {
        lose(home, second);
        until(WorkerState::Lost);
    });
    let view = site.succeeds(third, job);
    is_whole(&place, &view, &text);
    assert_eq!(units_accepted(&view, TaskKind::Map), view.status.units[&TaskKind::Map].1, "{view:#?}");
    let lost = site.worker_of(third, second).worker;
    let ended = |attempt: &&AttemptView| attempt.worker == lost && attempt.state == AttemptState::Ended;
    assert!(view.attempts.iter().filter(ended).count() > 0, "{view:#?}");
    assert_eq!(view.status.retries, 0, "nobody is to blame");

    find(home, second);
    until(WorkerState::Live);
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
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let [home, second, third] = &network.machines;
    let site = Site::start(&place, &network);
    let _workers = [site.worker(second, &[]), site.worker(third, &[])];
    let (shared, text) = Shared::among(&place, &words());
    let job = site.submit(third, &text);
    let mut between = None;
    shared.pass_maps(|| {
        second.part_from(third);
        third.part_from(second);
        between = Some(site.worker(home, &[]));
    });
    let view = site.succeeds(third, job);
    is_whole(&place, &view, &text);
    assert!(!view.lost.is_empty(), "{view:#?}");
}
