//! What a grant, a report and a heartbeat cost, and what is kept in memory, with a million shards and ten thousand workers.
//!
//! `cargo bench -p shardmill-scheduler`. Prints figures and fails if one is beyond its limit: 20 µs for an event, 200 bytes for a shard.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use shardmill_protocol::process::Progress;
use shardmill_protocol::task::{Part, PlanFacts, Tally};
use shardmill_protocol::{Digest, Grant, JobId, Outcome, SessionId, Task, WorkerId};
use shardmill_scheduler::{Action, Answer, Config, Event, PublishResult, Registration, ReplyId, Scheduler, Submission, Tick};

const SHARDS: u32 = 1_000_000;
const WORKERS: u128 = 10_000;
const EVENT_LIMIT: Duration = Duration::from_micros(20);
const SHARD_LIMIT: usize = 200;
/// Where every shard is a task of its own, which no cluster does by itself: what is kept of an accepted range.
const RANGE_LIMIT: usize = 256;

/// Counts the bytes that are allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came; the counter does not touch memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How long events of a kind took.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn print(mut self, name: &str) -> Duration {
        self.0.sort_unstable();
        // Without the slowest hundredth: on a machine that is shared, those were interrupted.
        let usual = &self.0[..self.0.len() - self.0.len() / 100];
        let mean = usual.iter().sum::<Duration>() / usual.len() as u32;
        let at = |part: usize| self.0[(self.0.len() - 1) * part / 1000];
        println!(
            "{name:34} {:>8} times   mean {mean:>9.2?}   half {:>9.2?}   p99 {:>9.2?}   most {:>9.2?}",
            self.0.len(),
            at(500),
            at(990),
            at(1000)
        );
        mean
    }
}

struct Bench {
    scheduler: Scheduler,
    now: Tick,
    replies: u64,
}

impl Bench {
    fn new(config: Config) -> Self {
        let mut scheduler = Scheduler::new(config);
        let actions = scheduler.start(Tick::default());
        let mut bench = Self { scheduler, now: Tick::default(), replies: 0 };
        bench.sync(&actions);
        bench
    }

    fn sync(&mut self, actions: &[Action]) -> Vec<Action> {
        let last = actions.iter().filter_map(|action| if let Action::Journal { number, .. } = action { Some(*number) } else { None }).max();
        last.map_or_else(Vec::new, |fact| self.scheduler.handle(self.now, Event::Synced { fact }))
    }

    /// Handles a question and syncs what it journals; only that counts, not the making of the event.
    fn ask(&mut self, event: impl FnOnce(ReplyId) -> Event, times: &mut Times) -> Vec<Answer> {
        self.replies += 1;
        let event = event(ReplyId(self.replies));
        let begun = Instant::now();
        let mut actions = self.scheduler.handle(self.now, event);
        actions.extend(self.sync(&actions));
        times.0.push(begun.elapsed());
        let answers = actions.into_iter().filter_map(|action| if let Action::Answer { answer, .. } = action { Some(answer) } else { None });
        answers.collect()
    }

    fn next(&mut self, session: SessionId, number: u64, times: &mut Times) -> Option<Box<Grant>> {
        let answers = self.ask(|reply| Event::NextTask { reply, session, number, ahead: false }, times);
        answers.into_iter().find_map(|answer| if let Answer::Grant(grant) = answer { Some(grant) } else { None })
    }

    fn report(&mut self, grant: &Grant, outcome: Outcome, times: &mut Times) {
        let (session, attempt, fence) = (grant.fence.session, grant.attempt, grant.fence);
        let answers = self.ask(|reply| Event::Report { reply, session, attempt, fence, result: Ok(outcome) }, times);
        assert!(answers.contains(&Answer::Accepted));
    }
}

fn run(name: &str, config: Config, partitions: u32, threads: u32, shard_limit: usize) {
    println!("{name}: {SHARDS} shards, {partitions} partitions, {WORKERS} workers with {threads} threads");
    let mut bench = Bench::new(config);
    let mut none = Times::default();
    let (mut registering, mut granting, mut mapping, mut reducing, mut beating) =
        (Times::default(), Times::default(), Times::default(), Times::default(), Times::default());
    let mut sessions = Vec::new();
    for worker in 0..WORKERS {
        let registration = Registration { threads, memory_bytes: 64 << 30, ..Registration::default() };
        let answers = bench.ask(|reply| Event::Register { reply, worker: WorkerId(worker), registration }, &mut registering);
        let Some(Answer::Registered { session, .. }) = answers.first() else { unreachable!("it is registered") };
        sessions.push((*session, 0));
    }
    let empty = ALLOCATED.load(Relaxed);
    let submission = Submission { job: JobId(1), key: "1".to_owned(), output: "/out".to_owned(), max_bad_records: 0, spec: Vec::new() };
    bench.ask(|reply| Event::Submit { reply, submission }, &mut none);
    let mut most = 0;
    let mut grants = std::collections::VecDeque::new();
    let mut turn = 0;
    let mut tasks = 0;
    loop {
        // Nine workers of ten are always at work; the tenth asks.
        let (session, number) = sessions[turn % sessions.len()];
        turn += 1;
        if let Some(grant) = bench.next(session, number, &mut granting) {
            sessions[(turn - 1) % WORKERS as usize].1 += 1;
            grants.push_back(grant);
            tasks += 1;
            if grants.len() < WORKERS as usize * 9 / 10 && turn % 7 != 0 {
                continue;
            }
        } else {
            bench.scheduler.handle(bench.now, Event::PollClosed { reply: ReplyId(bench.replies) });
        }
        let Some(grant) = grants.pop_front() else {
            if bench.scheduler.manifest(JobId(1)).is_some() {
                break;
            }
            continue;
        };
        match &grant.task {
            Task::Draft => bench.report(&grant, Outcome::Drafted { draft: Digest::default(), surveys: 0 }, &mut none),
            Task::Plan => {
                let facts = PlanFacts { shards: SHARDS, partitions, ..PlanFacts::default() };
                bench.report(&grant, Outcome::Planned { plan: Digest::default(), weights: Digest::default(), facts }, &mut none);
                let shard_bytes = Some((0..SHARDS).map(|shard| (32 << 20) + u64::from(shard % 1000)).collect());
                bench.scheduler.handle(bench.now, Event::Weights { job: JobId(1), shard_bytes });
            }
            Task::Map(range) => {
                let tally = Tally { records: range.len() as u64, ..Tally::default() };
                let index = Digest::of(&range.start.to_le_bytes());
                let outcome = Outcome::Mapped { index, partition_bytes: vec![1 << 10; partitions as usize], tally, set_aside: None };
                bench.report(&grant, outcome, &mut mapping);
            }
            Task::Reduce(range) => {
                let part = |n| Part { name: format!("part-{n:05}.csv"), records: 1, bytes: 1, digest: Digest::default() };
                let parts = range.clone().map(part).collect();
                bench.report(
                    &grant,
                    Outcome::Reduced { list: grant.list.expect("reduce has one"), parts, tally: Tally::default() },
                    &mut reducing,
                );
            }
            Task::Survey(_) => unreachable!("there are none"),
        }
        if turn % 10 == 0 {
            let attempts = vec![(grant.attempt, Progress::default())];
            bench.ask(|reply| Event::Heartbeat { reply, session: grant.fence.session, attempts }, &mut beating);
        }
        most = most.max(ALLOCATED.load(Relaxed));
    }
    let per_shard = most.saturating_sub(empty) / SHARDS as usize;
    println!("{tasks} tasks; at most {} MiB for the job, {per_shard} bytes for a shard", (most - empty) >> 20);
    registering.print("register");
    let means = [("grant", granting), ("report of a map task", mapping), ("report of a reduce task", reducing), ("heartbeat", beating)];
    for (name, times) in means {
        assert!(times.print(name) < EVENT_LIMIT, "{name} takes longer than {EVENT_LIMIT:?}");
    }
    assert!(per_shard < shard_limit, "a shard takes more than {shard_limit} bytes");
    let published = Event::Revealed { job: JobId(1), result: PublishResult::Published };
    bench.scheduler.handle(bench.now, Event::Assembled { job: JobId(1), manifest: Ok(Digest::default()) });
    bench.scheduler.handle(bench.now, published);
    println!("{} KiB once the job is over\n", ALLOCATED.load(Relaxed).saturating_sub(empty) >> 10);
}

fn main() {
    run("usual", Config::default(), 1000, 8, SHARD_LIMIT);
    run("many partitions", Config::default(), 10_000, 8, SHARD_LIMIT);
    // As small as tasks can be: every shard is one.
    run("a task for each shard", Config { portion: 0, least_task: Duration::ZERO, ..Config::default() }, 10, 1, RANGE_LIMIT);
}
