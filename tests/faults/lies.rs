//! Jobs that are not what they should be.

use shardmill_protocol::view::JobPhase;
use shardmill_tests::Place;
use shardmill_tests::gate::Gate;

use crate::world::{World, text_with, until_one_is_reduced};

#[test]
fn a_job_that_is_not_deterministic_fails_when_a_range_is_mapped_again() {
    let place = Place::new();
    let world = World::new(&place);
    // Reduce tasks stand at gates, so that one is accepted while others still need the map outputs.
    let gates: Vec<_> = (0..6).map(|at| world.gate(&format!("r{at}"))).collect();
    let orders: Vec<String> = (0..6).map(|at| format!("!reduce:gate:r{at}")).collect();
    let mut orders: Vec<(usize, &str)> = orders.iter().enumerate().map(|(at, order)| (at * 20, order.as_str())).collect();
    orders.push((3, "!map:differ"));
    let mut first = world.worker("first");
    let job = world.submit(&text_with(&orders), "--shard-bytes 64 --partitions 30");
    let (_, left) = until_one_is_reduced(&world, job, gates);
    let _second = world.worker("second");
    first.process().kill();
    left.into_iter().for_each(Gate::open);
    let status = world.cluster.end(job);
    assert_eq!(status.phase, JobPhase::Failed, "{status:#?}");
    let ending = status.ending.unwrap();
    assert!(ending.kind.contains("deterministic"), "{ending:#?}");
    world.nothing_is_left(&[]);
}
