//! A place, a cluster on it, and jobs of the probe.

use std::fs;

use shardmill_protocol::JobId;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, JobView};
use shardmill_tests::cluster::{Cluster, Worker};
pub(crate) use shardmill_tests::cluster::{counts, naive};
use shardmill_tests::gate::Gate;
use shardmill_tests::{Place, names_in, program, wait_until};

/// Flags of a worker of one thread.
pub(crate) const ONE_THREAD: &str = "--threads 1 --memory 128MiB";

/// One test's cluster.
pub(crate) struct World<'p> {
    pub(crate) place: &'p Place,
    pub(crate) cluster: Cluster<'p>,
}

impl<'p> World<'p> {
    pub(crate) fn new(place: &'p Place) -> Self {
        Self::with(place, "--lease 3s")
    }

    pub(crate) fn with(place: &'p Place, flags: &str) -> Self {
        Self::with_once(place, flags, "")
    }

    /// With further flags for the coordinator, which it has no more when it is started again.
    pub(crate) fn with_once(place: &'p Place, flags: &str, once: &str) -> Self {
        fs::create_dir_all(place.path("gates")).unwrap();
        fs::create_dir_all(place.path("out")).unwrap();
        Self { place, cluster: Cluster::with_once(place, flags, once) }
    }

    pub(crate) fn worker(&self, name: &str) -> Worker {
        self.cluster.worker(name, ONE_THREAD)
    }

    pub(crate) fn gate(&self, name: &str) -> Gate {
        Gate::close(self.place, name)
    }

    /// Submits the probe over `text`, with its output at `out/words`.
    pub(crate) fn submit(&self, text: &str, flags: &str) -> JobId {
        let input = self.place.write("in/text.txt", text);
        let gates = self.place.path("gates");
        let arguments: Vec<&str> = ["--input", input.to_str().unwrap()]
            .into_iter()
            .chain(flags.split_whitespace())
            .chain(["--", "--gates", gates.to_str().unwrap()])
            .collect();
        self.cluster.submit(&program("probe"), &self.place.path("out/words"), &arguments)
    }

    /// Waits for the job's good end. Its words must be those of `text`, and nothing may lie beside the output.
    pub(crate) fn succeeds_with(&self, job: JobId, text: &str) -> JobView {
        let (view, output) = self.cluster.success(job);
        assert_eq!(counts(&output), naive(text));
        self.nothing_is_left(&["words"]);
        view
    }

    /// Waits until the directory of outputs holds these names alone, hidden ones included: a job's leftovers are swept behind its end.
    pub(crate) fn nothing_is_left(&self, names: &[&str]) {
        wait_until("nothing else is left", || names_in(&self.place.path("out")) == names);
    }

    /// The attempt of this kind that stands at a gate, which is reached: the oldest one that runs, as others are only granted ahead.
    pub(crate) fn running(&self, job: JobId, kind: TaskKind) -> AttemptView {
        let view = self.cluster.job(job);
        let mut running = view.attempts.iter().filter(|attempt| attempt.task.kind() == kind && attempt.state == AttemptState::Running);
        running.next().unwrap_or_else(|| panic!("{view:#?}")).clone()
    }
}

/// Opens gates in reduce, each when it is reached, until a reduce task is accepted. Returns that and the gates that are left.
pub(crate) fn until_one_is_reduced(world: &World<'_>, job: JobId, mut gates: Vec<Gate>) -> (AttemptView, Vec<Gate>) {
    let mut accepted = None;
    wait_until("a reduce task is accepted", || {
        let view = world.cluster.job(job);
        let mut reduced = view.attempts.iter().filter(|attempt| attempt.task.kind() == TaskKind::Reduce);
        accepted = reduced.find(|attempt| attempt.state == AttemptState::Accepted).cloned();
        assert!(accepted.is_some() || !gates.is_empty(), "none is accepted before the last gate: {view:#?}");
        if let Some(at) = gates.iter().position(|gate| gate.is_reached().is_some()).filter(|_| accepted.is_none()) {
            gates.remove(at).open();
        }
        accepted.is_some()
    });
    (accepted.unwrap(), gates)
}

/// The attempt as it stands in a view.
pub(crate) fn attempt_in<'v>(view: &'v JobView, attempt: &AttemptView) -> &'v AttemptView {
    view.attempts.iter().find(|other| other.attempt == attempt.attempt).unwrap_or_else(|| panic!("{view:#?}"))
}

/// The kind of an attempt's fault, as `job ID` shows it.
pub(crate) fn fault_of(view: &JobView, attempt: &AttemptView) -> Option<&'static str> {
    attempt_in(view, attempt).failure.as_ref().map(|failure| failure.fault.kind())
}

/// Lines of a few words, so many that they are dozens of shards of 64 bytes, with orders in chosen lines.
pub(crate) fn text_with(orders: &[(usize, &str)]) -> String {
    let mut lines: Vec<String> = (0..120).map(|at| format!("line {} of the text w{}", at % 7, at % 31)).collect();
    orders.iter().for_each(|(at, order)| {
        lines[*at].push(' ');
        lines[*at].push_str(order);
    });
    lines.join("\n") + "\n"
}

/// Small shards, several partitions.
pub(crate) const CUT: &str = "--shard-bytes 64 --partitions 5";
