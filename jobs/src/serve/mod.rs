//! A job process: what a job's executable does when a worker has started it as `JOB task`.
//!
//! ```text
//!  fd 3 ─▶ listener ─▶ [ one message ] ─▶ main thread: parameters, tasks (tasks.rs) ─▶ outcome or failure ─▶ fd 3
//!             │                              └▶ teller: how far it is, ten times a second ─────────────────▶ fd 3
//!             └ the worker is gone: the process ends at once, whatever it is at
//! ```
//! It speaks with its worker alone, in the messages of `shardmill_protocol::process`, and writes only where an order says. What the files
//! between tasks hold is decided in `tasks.rs`, whose fault a failure is in `failure.rs`.

mod failure;
mod staged;
mod tasks;

use std::io::{self, BufReader};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use shardmill_protocol::process::{DESCRIPTOR, ExchangeError, FromProcess, Order, Progress, ToProcess, read_message, write_message};
use shardmill_protocol::slots::{self, Slots};

use self::failure::{TaskError, failure};
use self::tasks::JobProcess;
use crate::catch::catch;
use crate::engine::{self, Tight};
use crate::fault::Fault;
use crate::job::MapReduce;

/// How often it is told how far an attempt is, at most.
const TELLING: Duration = Duration::from_millis(100);

/// Serves a worker until that closes the socket.
pub(crate) fn serve<J: MapReduce + Args>(tight: Option<Tight>) -> ExitCode {
    let worker = match Worker::find() {
        Ok(worker) => worker,
        Err(error) => {
            eprintln!("error: descriptor {DESCRIPTOR} is no socket ({error}): this command is for workers, who bring one");
            return ExitCode::from(2);
        }
    };
    crate::heap::give_back_at_once();
    allow_open_files();
    let (sender, messages) = sync_channel(1);
    let busy = worker.listen(sender);
    let mut process: Option<JobProcess<J>> = None;
    while let Ok(message) = messages.recv() {
        let answer = match (message, &mut process) {
            (ToProcess::Setup(setup), _) => match JobProcess::new(setup, tight) {
                Ok(set_up) => {
                    process = Some(set_up);
                    FromProcess::Ready { version: shardmill_protocol::VERSION }
                }
                Err(error) => FromProcess::Failed { attempt: None, failure: failure(error, 0) },
            },
            (ToProcess::Run(order), Some(process)) => run(process, &order, &worker),
            (ToProcess::Run(order), None) => {
                let error = TaskError::Unexpected("an order came before the job was set up".to_owned());
                FromProcess::Failed { attempt: Some(order.attempt), failure: failure(error, 0) }
            }
        };
        // From here on the worker may say something, or leave.
        busy.store(false, Relaxed);
        worker.say(answer);
    }
    ExitCode::FAILURE
}

/// Runs one attempt.
fn run<J: MapReduce + Args>(process: &mut JobProcess<J>, order: &Order, worker: &Worker) -> FromProcess {
    let attempt = order.attempt;
    let result = Slots::create(&order.directory.join(slots::FILE_NAME), order.threads.max(1) as usize)
        .map_err(|source| TaskError::Fault(Fault::disk(&order.directory.join(slots::FILE_NAME), source)))
        .and_then(|slots| {
            let (progress, slots) = (Arc::new(engine::Progress::default()), Arc::new(slots));
            let teller = Teller::start(worker, Arc::clone(&progress), Arc::clone(&slots));
            // The panics of a job's own code are caught where it is called, and told from this one.
            let result = catch(|| process.perform(order, progress, slots)).unwrap_or_else(|panic| {
                process.forget();
                Err(TaskError::Panicked(panic.message))
            });
            teller.stop();
            result
        });
    match result {
        Ok(outcome) => FromProcess::Done { attempt, outcome },
        Err(error) => FromProcess::Failed { attempt: Some(attempt), failure: failure(error, order.memory_bytes) },
    }
}

/// The worker at the other end of the socket.
#[derive(Clone)]
struct Worker {
    socket: Arc<UnixStream>,
    /// Held while a message is written.
    turn: Arc<Mutex<()>>,
}

impl Worker {
    /// Takes the socket that the worker has left at its descriptor. Processes that the job starts do not get it.
    fn find() -> io::Result<Self> {
        // SAFETY: `fcntl` only looks at the descriptor, and marks it.
        if unsafe { libc::fcntl(DESCRIPTOR, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, as was just seen; nothing in this process has opened or owns it, and this is done once, by `task`.
        let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(DESCRIPTOR) });
        socket.peer_addr()?;
        Ok(Self { socket: Arc::new(socket), turn: Arc::default() })
    }

    /// Says something. Where that cannot be done there is nothing left to do: the worker is gone, or the job has closed its socket.
    fn say(&self, message: FromProcess) {
        let _turn = self.turn.lock().expect("nothing panics while it writes");
        let mut to = &*self.socket;
        let said = match write_message(&mut to, &message) {
            Err(ExchangeError::Oversized(bytes)) => {
                let attempt = match message {
                    FromProcess::Done { attempt, .. } => Some(attempt),
                    FromProcess::Failed { attempt, .. } => attempt,
                    FromProcess::Ready { .. } | FromProcess::Progress(_) => None,
                };
                let failure = failure(TaskError::Unexpected(format!("a report of {bytes} bytes is too long")), 0);
                write_message(&mut to, &FromProcess::Failed { attempt, failure })
            }
            said => said,
        };
        if let Err(error) = said {
            eprintln!("error: the worker cannot be spoken to: {error}");
            end(1);
        }
    }

    /// Hands on what the worker says, from a thread of its own; returns whether it waits for an answer.
    ///
    /// One message at a time: a worker that speaks while it is to wait, or gibberish, or leaves, has no use for this process any more.
    fn listen(&self, to: SyncSender<ToProcess>) -> Arc<AtomicBool> {
        let busy = Arc::new(AtomicBool::new(false));
        let (socket, is_busy) = (Arc::clone(&self.socket), Arc::clone(&busy));
        std::thread::spawn(move || {
            let mut from = BufReader::new(&*socket);
            loop {
                match read_message(&mut from) {
                    Ok(message) if !is_busy.swap(true, Relaxed) => {
                        if to.send(message).is_err() {
                            end(1);
                        }
                    }
                    Ok(_) => {
                        eprintln!("error: the worker speaks while it is to wait");
                        end(1);
                    }
                    Err(ExchangeError::Closed) => end(if is_busy.load(Relaxed) { 1 } else { 0 }),
                    Err(error) => {
                        eprintln!("error: the worker cannot be understood: {error}");
                        end(1);
                    }
                }
            }
        });
        busy
    }
}

/// Ends the process at once, whatever its other threads are at: what they write is of no use to anybody.
fn end(code: i32) -> ! {
    // SAFETY: nothing of this process is looked at any more.
    unsafe { libc::_exit(code) }
}

/// Tells the worker how far an attempt is, from a thread of its own, while something moves.
struct Teller {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Teller {
    fn start(worker: &Worker, progress: Arc<engine::Progress>, slots: Arc<Slots>) -> Self {
        let (stop, stopped) = channel();
        let worker = worker.clone();
        let thread = std::thread::spawn(move || {
            let mut told = None;
            while stopped.recv_timeout(TELLING).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
                let seen = (told_of(&progress), progress.steps.load(Relaxed), slots.pulse());
                if told.replace(seen) != Some(seen) {
                    worker.say(FromProcess::Progress(seen.0));
                }
            }
        });
        Self { stop, thread }
    }

    /// Returns once nothing more will be told.
    fn stop(self) {
        drop(self.stop);
        // If it has panicked, it tells nothing more either.
        let _ = self.thread.join();
    }
}

fn told_of(progress: &engine::Progress) -> Progress {
    let of = |number: &AtomicU64| number.load(Relaxed);
    Progress {
        // An attempt either maps or reduces.
        bytes: of(&progress.input_bytes) + of(&progress.reduced_bytes),
        records: of(&progress.input_records) + of(&progress.groups),
        spilled_bytes: of(&progress.spilled_bytes),
        bad_records: of(&progress.bad_records),
    }
}

/// Raises the limit of open files to what the system allows: merges have use for them.
fn allow_open_files() {
    // SAFETY: both calls read or fill the struct that they are given, for which all zeroes are valid.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            // Where that is refused, less must do.
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
