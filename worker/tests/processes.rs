//! Whatever a job process does, it ends in a result or in exactly one fault, and nothing of it is left.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shardmill_protocol::fault::{Breach, Suspect, Unstartable};
use shardmill_protocol::process::{Order, Progress, Setup};
use shardmill_protocol::slots::{FILE_NAME, suspects};
use shardmill_protocol::{AttemptId, Digest, Epoch, Failure, Fault, JobId, Outcome, Task, VERSION};
use tempfile::TempDir;
use worker::process::{Launch, Process, Rules};

/// A place for one job process.
struct Place {
    directory: TempDir,
    rules: Rules,
    launch: Launch,
}

/// The program next to this one that misbehaves.
fn hostile() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.parent().unwrap().parent().unwrap().join("examples/hostile")
}

impl Place {
    fn new(way: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rules = Rules { guard: PathBuf::from(env!("CARGO_BIN_EXE_worker")), ..Rules::default() };
        let arguments = vec![OsString::from(way), directory.path().join("ids").into()];
        let launch = Launch { program: hostile(), arguments, directory: directory.path().to_owned() };
        Self { directory, rules, launch }
    }

    fn order(&self, number: u64) -> Order {
        Order {
            attempt: AttemptId { job: JobId(7), epoch: Epoch(1), number },
            task: Task::Survey(0..1),
            threads: 1,
            memory_bytes: 64 << 20,
            directory: self.directory.path().to_owned(),
            staged: self.directory.path().to_owned(),
            inputs: vec![],
            set_aside: vec![],
            sources: None,
            memory: None,
            durable: false,
        }
    }

    async fn start(&self) -> Result<Process, Failure> {
        let setup = Setup {
            version: VERSION,
            job: JobId(7),
            name: "hostile".to_owned(),
            parameters: vec![],
            request: vec![],
            staging: self.directory.path().to_owned(),
        };
        Process::start(&self.rules, &self.launch, &setup, 64 << 20).await
    }

    /// Runs one attempt, and makes sure that nothing is left of the process.
    async fn run(&self) -> Result<Outcome, Fault> {
        let mut process = self.start().await.map_err(|failure| failure.fault)?;
        let result = process.run(&self.order(1), |_| (), pending()).await;
        assert!(process.end().await, "something cannot be killed");
        assert_eq!(self.survivors(), Vec::<String>::new());
        result.map_err(|failure| failure.fault)
    }

    fn suspects(&self) -> Vec<Suspect> {
        suspects(&self.directory.path().join(FILE_NAME)).unwrap()
    }

    /// Processes that still run in this place, other than zombies.
    fn survivors(&self) -> Vec<String> {
        let entries = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let here = |path: &PathBuf| std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == self.directory.path());
        entries.filter(here).map(|path| std::fs::read_to_string(path.join("stat")).unwrap_or_default()).collect()
    }
}

fn done(number: u64) -> Outcome {
    Outcome::Surveyed { surveys: Digest::of(format!("{}/1-{number}", JobId(7)).as_bytes()) }
}

fn hostile_record() -> Vec<Suspect> {
    vec![Suspect { unit: 7, record: 42, offset: 4096 }]
}

#[tokio::test]
async fn one_process_serves_one_attempt_after_another() {
    let place = Place::new("behave");
    let mut process = place.start().await.unwrap();
    for number in 1..=3 {
        assert!(process.is_alive());
        assert_eq!(process.run(&place.order(number), |_| (), pending()).await.unwrap(), done(number));
    }
    assert!(process.end().await);
    assert_eq!(place.survivors(), Vec::<String>::new());
}

#[tokio::test]
async fn a_signal_is_named_with_the_last_words_and_the_record() {
    for (way, signal, words) in [
        ("abort", libc::SIGABRT, ""),
        ("segfault", libc::SIGSEGV, ""),
        ("illegal-instruction", libc::SIGILL, ""),
        ("overflow", libc::SIGABRT, "overflowed its stack"),
    ] {
        let place = Place::new(way);
        match place.run().await {
            Err(Fault::Signalled { signal: got, stderr }) if got == signal => assert!(stderr.contains(words), "{way}: {stderr}"),
            other => panic!("{way}: {other:?}"),
        }
        assert_eq!(place.suspects(), hostile_record(), "{way}");
    }
}

#[tokio::test]
async fn an_exit_without_a_result_is_named_with_its_code() {
    let exited = |code| move |fault: &Fault| matches!(fault, Fault::ExitedWithoutResult { code: got, .. } if *got == code);
    assert!(Place::new("exit").run().await.is_err_and(|fault| exited(0)(&fault)));
    assert!(Place::new("exit-at-start").run().await.is_err_and(|fault| exited(3)(&fault)));
    let Err(Fault::ExitedWithoutResult { code: 101, stderr }) = Place::new("panic").run().await else { panic!() };
    assert!(stderr.contains("out of ideas"), "{stderr}");
}

#[tokio::test]
async fn every_breach_of_the_protocol_has_its_name() {
    for (way, breach) in [
        ("close", Breach::Closed),
        ("garbage", Breach::Malformed),
        ("huge", Breach::Oversized),
        ("ready-again", Breach::Unexpected),
        ("other-version", Breach::Version),
        ("garbage-at-start", Breach::Oversized),
    ] {
        match Place::new(way).run().await {
            Err(Fault::ProtocolBroken { breach: got, .. }) => assert_eq!(got, breach, "{way}"),
            other => panic!("{way}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_process_that_does_not_move_is_ended_even_if_it_does_not_listen() {
    for way in ["loop", "loop-deaf"] {
        let mut place = Place::new(way);
        place.rules = Rules { stall_after: Duration::from_millis(300), kill_after: Duration::from_millis(100), ..place.rules };
        assert_eq!(place.run().await, Err(Fault::Stalled { seconds: 0 }), "{way}");
        assert_eq!(place.suspects(), hostile_record(), "{way}");
    }
}

#[tokio::test]
async fn a_gigabyte_of_output_neither_blocks_nor_grows() {
    let place = Place::new("flood");
    let mut process = place.start().await.unwrap();
    assert_eq!(process.run(&place.order(1), |_| (), pending()).await.unwrap(), done(1));
    let log = process.take_log();
    assert!(log.len() < 3 << 20, "{} bytes are kept", log.len());
    assert!(String::from_utf8_lossy(&log).starts_with("that was a lot\n[on stdout:]\nxxxx"));
    assert!(process.take_log().is_empty());
    assert!(process.end().await);
}

#[tokio::test]
async fn what_leaves_its_parents_and_its_session_is_killed_all_the_same() {
    for way in ["orphans", "orphans-and-hang", "orphans-and-kill-guard"] {
        worker::orphans::adopt().unwrap();
        let mut place = Place::new(way);
        place.rules.stall_after = Duration::from_millis(500);
        let result = place.run().await;
        match (way, result) {
            ("orphans", Err(Fault::ExitedWithoutResult { code: 0, .. })) => {}
            ("orphans-and-hang", Err(Fault::Stalled { .. })) => {}
            ("orphans-and-kill-guard", Err(Fault::ProtocolBroken { breach: Breach::Closed, .. })) => {}
            other => panic!("{other:?}"),
        }
        let ids = std::fs::read_to_string(place.directory.path().join("ids")).unwrap();
        assert_eq!(ids.lines().count(), 3);
        for id in ids.lines() {
            assert!(!Path::new("/proc").join(id).exists(), "{way}: {id} is alive");
        }
    }
}

#[tokio::test]
async fn a_process_dies_when_nobody_holds_it_any_more() {
    let place = Place::new("orphans-and-hang");
    let mut process = place.start().await.unwrap();
    let (moved, mut seen) = tokio::sync::mpsc::unbounded_channel::<Progress>();
    let order = place.order(1);
    tokio::select! {
        _ = process.run(&order, |progress| moved.send(progress).unwrap(), pending()) => panic!("it hangs"),
        progress = seen.recv() => assert_eq!(progress.unwrap().bytes, 1),
    }
    assert!(!place.survivors().is_empty());
    // As when the worker is killed: its descriptors are closed, and that is all that happens.
    drop(process);
    let begun = Instant::now();
    while !place.survivors().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", place.survivors());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn memory_is_limited_and_its_want_is_recognized() {
    let place = Place::new("eat");
    let Err(Fault::OutOfMemory { limit_bytes, peak_bytes }) = place.run().await else { panic!() };
    assert!(peak_bytes > limit_bytes && limit_bytes > 64 << 20, "{peak_bytes} of {limit_bytes}");
    assert_eq!(place.suspects(), hostile_record());
    assert!(matches!(Place::new("give-up-memory").run().await, Err(Fault::OutOfMemory { .. })));
}

#[tokio::test]
async fn an_attempt_that_is_called_off_ends_with_the_fault_that_is_given() {
    let place = Place::new("loop");
    let mut process = place.start().await.unwrap();
    let result = process.run(&place.order(1), |_| (), std::future::ready(Fault::Drained)).await;
    assert_eq!(result, Err(Fault::Drained.into()));
    assert!(process.end().await);
    assert_eq!(place.survivors(), Vec::<String>::new());
}

#[tokio::test]
async fn an_executable_that_cannot_start_here_gets_a_line_that_says_why() {
    let unstartable = async |place: Place, wanted: Unstartable, words: &str| match place.run().await {
        Err(Fault::SpawnFailed { reason, cause }) => {
            assert_eq!(reason, wanted, "{cause}");
            assert!(cause.contains(words), "{cause}");
        }
        other => panic!("{words}: {other:?}"),
    };
    unstartable(Place::new("illegal-instruction-at-start"), Unstartable::Cpu, "target-cpu=native").await;
    unstartable(Place::new("loader-error"), Unstartable::Library, "GLIBC_9.99").await;

    let with_program = |bytes: &[u8]| {
        let mut place = Place::new("behave");
        place.launch.program = place.directory.path().join("job");
        std::fs::write(&place.launch.program, bytes).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&place.launch.program, mode).unwrap();
        place
    };
    let mut elf = std::fs::read(hostile()).unwrap();
    unstartable(with_program(b"what is this"), Unstartable::Platform, "no executable").await;
    unstartable(with_program(b"#!/no/such/interpreter\n"), Unstartable::Library, "interpreter").await;
    (elf[18], elf[19]) = (243, 0);
    unstartable(with_program(&elf), Unstartable::Platform, "riscv64").await;
    let mut missing = Place::new("behave");
    missing.launch.program = missing.directory.path().join("nothing");
    unstartable(missing, Unstartable::System, "No such file").await;
}

#[tokio::test]
async fn a_job_process_finds_nothing_of_the_workers_around_it() {
    let secret = tempfile::tempfile().unwrap();
    // As if somebody had forgotten to close it on exec.
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&secret), libc::F_SETFD, 0) }, 0);
    let mut place = Place::new("show");
    place.rules = Rules { files: 100, processes: 1000, ..place.rules };
    assert_eq!(place.run().await, Ok(done(1)));
    let shown = std::fs::read_to_string(place.directory.path().join("shown")).unwrap();
    let lines = |prefix: &str| shown.lines().filter(|line| line.starts_with(prefix)).count();
    let names: Vec<&str> = shown.lines().take_while(|line| !line.starts_with("fd ")).map(|line| line.split('=').next().unwrap()).collect();
    assert!(names.iter().all(|name| ["PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "RUST_BACKTRACE"].contains(name)), "{names:?}");
    // 0 to 3, the file that is written, and the directory that is listed.
    assert_eq!(lines("fd "), 6, "{shown}");
    assert!(shown.contains("fd 0 /dev/null"));
    assert!(shown.contains("NoNewPrivs:\t1"));
    let limit = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), ["100", "100"]);
    assert_eq!(limit("Max processes"), ["1000", "1000"]);
    assert!(shown.contains(&format!("TMPDIR={}", place.directory.path().display())));
    assert!(shown.contains(&format!("cwd={}", place.directory.path().display())));
}

#[tokio::test]
async fn a_process_that_has_left_after_its_last_attempt_is_not_given_another_one() {
    let place = Place::new("leave-when-done");
    let mut process = place.start().await.unwrap();
    assert_eq!(process.run(&place.order(1), |_| (), pending()).await.unwrap(), done(1));
    while process.is_alive() {
        tokio::task::yield_now().await;
    }
    assert!(process.end().await);
}
