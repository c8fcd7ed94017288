//! One job process: start it, speak to it, watch over it, kill it with all that it has started.
//!
//! Whatever it does, the outcome is a result or exactly one fault. It is the worker's child by way of a guard
//! ([`guard`](crate::guard)), which reports its end and leaves nothing behind; its conversation with the worker is
//! `protocol::process` on a socket of its own; what it writes to stdout and stderr is captured and decides nothing.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use shardmill_protocol::fault::{Breach, Unstartable};
use shardmill_protocol::process::{DESCRIPTOR, FromProcess, MAX_FRAME, Order, Progress, Setup, ToProcess, write_message};
use shardmill_protocol::{Failure, Fault, Outcome, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep_until, timeout};

use crate::death::{Death, refused};
use crate::guard::{NOTE_BYTES, Note, VERB};
use crate::log::Captured;
use crate::{orphans, tree};

/// What passes from the worker's environment to job processes. None of it is secret.
const PASSED_ON: [&str; 4] = ["PATH", "LANG", "LC_ALL", "TZ"];
/// How often memory and progress are looked at.
const WATCH: Duration = Duration::from_millis(250);
/// A job process that has closed its socket has this long to end by itself: how it ended says more.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// What watching over job processes depends on.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The program that is a guard when it is told so: this one.
    pub guard: PathBuf,
    /// Progress may be flat for this long.
    pub stall_after: Duration,
    /// A process that was asked to end has this long.
    pub kill_after: Duration,
    /// What is killed and still there after this long cannot be killed.
    pub unkillable_after: Duration,
    /// Descriptors that a job process may have.
    pub files: u64,
    /// Processes that the user may have when a job process starts another one.
    pub processes: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            guard: PathBuf::from("/proc/self/exe"),
            stall_after: Duration::from_secs(300),
            kill_after: Duration::from_secs(5),
            unkillable_after: Duration::from_secs(30),
            files: 1 << 16,
            processes: 1 << 12,
        }
    }
}

/// What a job process is started from.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its working directory, and where its temporary files belong.
    pub directory: PathBuf,
}

/// A process's memory limit for a grant: what engines may exceed a budget by, and some more.
fn limit_bytes(memory_bytes: u64) -> u64 {
    memory_bytes.saturating_add(memory_bytes / 4).saturating_add(128 << 20)
}

/// A job process that is ready for attempts.
#[derive(Debug)]
pub struct Process {
    rules: Rules,
    guard: Child,
    /// To the guard and back.
    orders: UnixStream,
    notes: Vec<u8>,
    /// To the job process and back.
    socket: UnixStream,
    frames: Vec<u8>,
    /// When the socket was seen to be closed.
    closed: Option<Instant>,
    pid: i32,
    ended: Option<(i32, u64)>,
    was_ready: bool,
    stdout: Captured,
    stderr: Captured,
    captures: Vec<JoinHandle<()>>,
    is_gone: bool,
    kills_before: u64,
    peak_bytes: u64,
    limit_bytes: u64,
}

/// What is noticed of a job process.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
enum Heard {
    Message(FromProcess),
    Broken(Breach),
    Ended,
}

impl Process {
    /// Starts a job process and sets it up. On failure nothing of it is left.
    pub async fn start(rules: &Rules, launch: &Launch, setup: &Setup, memory_bytes: u64) -> Result<Self, Failure> {
        let mut process = Self::spawn(rules, launch, memory_bytes)
            .map_err(|error| Fault::SpawnFailed { reason: Unstartable::System, cause: format!("cannot start a guard: {error}") })?;
        match process.set_up(launch, setup).await {
            Ok(()) => Ok(process),
            Err(fault) => {
                process.end().await;
                Err(fault)
            }
        }
    }

    fn spawn(rules: &Rules, launch: &Launch, memory_bytes: u64) -> io::Result<Self> {
        let (socket, theirs) = StdUnixStream::pair()?;
        let (orders, guards) = StdUnixStream::pair()?;
        let mut command = Command::new(&rules.guard);
        command.arg(VERB).arg(rules.files.to_string()).arg(rules.processes.to_string()).arg(&launch.program).args(&launch.arguments);
        command.current_dir(&launch.directory).env_clear();
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("TMPDIR", &launch.directory).env("RUST_BACKTRACE", "1");
        command.stdin(OwnedFd::from(guards)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let inherited = theirs.as_raw_fd();
        // SAFETY: system calls only. All other descriptors of this process are closed on exec.
        unsafe {
            command.pre_exec(move || {
                let done = match inherited == DESCRIPTOR {
                    true => libc::fcntl(inherited, libc::F_SETFD, 0),
                    false => libc::dup2(inherited, DESCRIPTOR),
                };
                if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let mut guard = orphans::spawn(&mut command)?;
        drop(theirs);
        let (stdout, out) = Captured::begin(guard.stdout.take().expect("it is piped").into_owned_fd()?)?;
        let (stderr, err) = Captured::begin(guard.stderr.take().expect("it is piped").into_owned_fd()?)?;
        socket.set_nonblocking(true)?;
        orders.set_nonblocking(true)?;
        Ok(Self {
            rules: rules.clone(),
            guard,
            orders: UnixStream::from_std(orders)?,
            notes: Vec::new(),
            socket: UnixStream::from_std(socket)?,
            frames: Vec::new(),
            closed: None,
            pid: 0,
            ended: None,
            was_ready: false,
            stdout,
            stderr,
            captures: vec![out, err],
            is_gone: false,
            kills_before: tree::killed_for_memory(),
            peak_bytes: 0,
            limit_bytes: limit_bytes(memory_bytes),
        })
    }

    async fn set_up(&mut self, launch: &Launch, setup: &Setup) -> Result<(), Failure> {
        match self.note().await {
            Some(Note::Started(pid)) => self.pid = pid,
            Some(Note::NotStarted(errno)) => return Err(refused(&launch.program, errno).into()),
            Some(Note::Ended { .. }) | None => {
                let cause = format!("its guard has ended; it last said: {}", self.stderr.last_lines());
                return Err(Fault::SpawnFailed { reason: Unstartable::System, cause }.into());
            }
        }
        let mut unsent = encode(&ToProcess::Setup(setup.clone()))?;
        match timeout(self.rules.stall_after, self.exchange(&mut unsent)).await {
            Ok(Heard::Message(FromProcess::Ready { version })) if version.0 == VERSION.0 => {
                self.was_ready = true;
                Ok(())
            }
            Ok(Heard::Message(FromProcess::Ready { .. })) => Err(self.broken(Breach::Version).await),
            Ok(Heard::Message(FromProcess::Failed { failure, .. })) => Err(failure),
            Ok(Heard::Message(_)) => Err(self.broken(Breach::Unexpected).await),
            Ok(Heard::Broken(breach)) => Err(self.broken(breach).await),
            Ok(Heard::Ended) => Err(self.death().await.fault().into()),
            Err(_) => Err(self.stalled().await),
        }
    }

    /// Whether it can be given another attempt.
    pub fn is_alive(&self) -> bool {
        // Between attempts nobody has anything to say: whatever there is to be read means an end, or a job that cannot be trusted.
        self.ended.is_none() && self.frames.is_empty() && is_silent(&self.socket) && is_silent(&self.orders)
    }

    /// Runs one attempt, until it is done, has failed, or `stop` says with which fault it is to be ended.
    ///
    /// After an error the process is of no more use, and all that is left to do is [`end`](Self::end).
    pub async fn run(
        &mut self,
        order: &Order,
        mut progress: impl FnMut(Progress),
        stop: impl Future<Output = Fault>,
    ) -> Result<Outcome, Failure> {
        self.limit_bytes = limit_bytes(order.memory_bytes);
        self.peak_bytes = 0;
        let mut stop = std::pin::pin!(stop);
        let mut watch = tokio::time::interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut moved = Instant::now();
        let mut unsent = encode(&ToProcess::Run(order.clone()))?;
        loop {
            let heard = tokio::select! {
                heard = self.exchange(&mut unsent) => heard,
                fault = &mut stop => {
                    self.kill().await;
                    return Err(fault.into());
                }
                _ = watch.tick() => {
                    if self.is_over_memory().await {
                        self.kill().await;
                        let fault = Fault::OutOfMemory { limit_bytes: self.limit_bytes, peak_bytes: self.peak_bytes };
                        return Err(fault.into());
                    }
                    if moved.elapsed() >= self.rules.stall_after {
                        return Err(self.stalled().await);
                    }
                    continue;
                }
            };
            match heard {
                // Said only when something has moved, even if nothing that is counted.
                Heard::Message(FromProcess::Progress(now)) => {
                    moved = Instant::now();
                    progress(now);
                }
                Heard::Message(FromProcess::Done { attempt, outcome }) if attempt == order.attempt => return Ok(outcome),
                Heard::Message(FromProcess::Failed { attempt: Some(attempt), failure }) if attempt == order.attempt => return Err(failure),
                Heard::Message(_) => return Err(self.broken(Breach::Unexpected).await),
                Heard::Broken(breach) => return Err(self.broken(breach).await),
                Heard::Ended => return Err(self.death().await.fault().into()),
            }
        }
    }

    /// What it writes to stderr.
    pub(crate) fn stderr(&self) -> Captured {
        self.stderr.clone()
    }

    /// What it has written since it was last asked: stderr, then stdout if there is any.
    pub fn take_log(&self) -> Vec<u8> {
        let (mut log, stdout) = (self.stderr.take(), self.stdout.take());
        if !stdout.is_empty() {
            log.extend_from_slice(b"[on stdout:]\n");
            log.extend_from_slice(&stdout);
        }
        log
    }

    /// Kills it with all that it has started, and waits until nothing of it is left; false if something cannot be killed.
    pub async fn end(&mut self) -> bool {
        self.kill().await;
        self.is_gone
    }

    /// Sends what is unsent, and meanwhile waits for what comes next. Can be dropped and called again.
    async fn exchange(&mut self, unsent: &mut Vec<u8>) -> Heard {
        loop {
            match take_frame(&mut self.frames) {
                Ok(Some(message)) => return Heard::Message(message),
                Ok(None) => {}
                Err(breach) => return Heard::Broken(breach),
            }
            // What it has said before its end counts, so both are waited for.
            let is_open = self.closed.is_none();
            if !is_open && self.ended.is_some() {
                return Heard::Ended;
            }
            let last_moment = self.closed.unwrap_or_else(Instant::now) + LAST_MOMENT;
            let (mut reading, mut writing) = self.socket.split();
            tokio::select! {
                biased;
                read = reading.read_buf(&mut self.frames), if is_open => if !matches!(read, Ok(1..)) {
                    self.closed = Some(Instant::now());
                },
                written = writing.write(unsent), if is_open && !unsent.is_empty() => match written {
                    Ok(bytes) => drop(unsent.drain(..bytes)),
                    // Whoever reads finds out what has happened.
                    Err(_) => unsent.clear(),
                },
                note = next_note(&mut self.orders, &mut self.notes), if self.ended.is_none() => match note {
                    Some(Note::Ended { status, peak_bytes }) => self.ended = Some((status, peak_bytes)),
                    Some(_) => {}
                    // The guard was killed, and with it the job process.
                    None => return Heard::Broken(Breach::Closed),
                },
                // Closed by a process that goes on: one that is ending has ended by now.
                () = sleep_until(last_moment), if !is_open => return Heard::Broken(Breach::Closed),
            }
        }
    }

    async fn note(&mut self) -> Option<Note> {
        next_note(&mut self.orders, &mut self.notes).await
    }

    async fn is_over_memory(&mut self) -> bool {
        let pid = self.pid;
        let bytes = tokio::task::spawn_blocking(move || tree::memory_bytes(pid)).await.expect("reading /proc does not panic");
        self.peak_bytes = self.peak_bytes.max(bytes);
        bytes > self.limit_bytes
    }

    async fn broken(&mut self, breach: Breach) -> Failure {
        self.kill().await;
        Fault::ProtocolBroken { breach, stderr: self.stderr.last_lines() }.into()
    }

    async fn stalled(&mut self) -> Failure {
        let _ = self.orders.write_all(b"T").await;
        let _ = timeout(self.rules.kill_after, self.note()).await;
        self.kill().await;
        Fault::Stalled { seconds: self.rules.stall_after.as_secs() }.into()
    }

    /// How it ended, once all that it has written is read.
    async fn death(&mut self) -> Death {
        self.kill().await;
        let (status, peak_bytes) = self.ended.unwrap_or_default();
        Death {
            status,
            stderr: self.stderr.last_lines(),
            was_ready: self.was_ready,
            system_out_of_memory: tree::killed_for_memory() > self.kills_before,
            limit_bytes: self.limit_bytes,
            peak_bytes: if self.peak_bytes > 0 { self.peak_bytes } else { peak_bytes },
        }
    }

    /// Kills the whole tree, and waits until it is gone.
    async fn kill(&mut self) {
        if self.is_gone {
            return;
        }
        let _ = self.orders.write_all(b"K").await;
        let gone = timeout(self.rules.unkillable_after, async {
            while let Some(note) = self.note().await {
                if let Note::Ended { status, peak_bytes } = note {
                    self.ended.get_or_insert((status, peak_bytes));
                }
            }
            let guard = self.guard.id();
            let _ = self.guard.wait().await;
            orphans::forget(guard);
            if self.pid != 0 && self.ended.is_none() {
                // The guard was killed before its work was done, so what the job had started is now this process's.
                tokio::task::spawn_blocking(orphans::kill).await.expect("killing does not panic");
            }
            // With nobody left to write, the pipes end.
            for capture in self.captures.drain(..) {
                let _ = capture.await;
            }
        });
        self.is_gone = gone.await.is_ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that was not ended is left to its guard, which sees that nobody holds it any more.
        orphans::forget(self.guard.id());
    }
}

/// A guard's next note; nothing once the guard is gone. Can be dropped and called again.
async fn next_note(orders: &mut UnixStream, arrived: &mut Vec<u8>) -> Option<Note> {
    while arrived.len() < NOTE_BYTES {
        if !matches!(orders.read_buf(arrived).await, Ok(1..)) {
            return None;
        }
    }
    let rest = arrived.split_off(NOTE_BYTES);
    Note::decode(std::mem::replace(arrived, rest).try_into().expect("as long as a note"))
}

/// Whether a stream is open and has nothing to be read, as the system knows it now.
fn is_silent(stream: &UnixStream) -> bool {
    let mut byte = 0u8;
    // SAFETY: one byte is written, to this stack, and the descriptor is open while it is borrowed.
    let peeked = unsafe { libc::recv(stream.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    peeked < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

fn encode(message: &ToProcess) -> Result<Vec<u8>, Failure> {
    let mut frame = Vec::new();
    let refused = |error| Fault::Refused { message: format!("the job cannot be told what to do: {error}") };
    write_message(&mut frame, message).map_err(refused)?;
    Ok(frame)
}

/// Takes the first message out of what has arrived, if it is all there.
fn take_frame<M: DeserializeOwned>(arrived: &mut Vec<u8>) -> Result<Option<M>, Breach> {
    let Some(length) = arrived.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_FRAME {
        return Err(Breach::Oversized);
    }
    let Some(frame) = arrived.get(4..4 + length) else { return Ok(None) };
    match postcard::take_from_bytes(frame) {
        Ok((message, [])) => {
            arrived.drain(..4 + length);
            Ok(Some(message))
        }
        _ => Err(Breach::Malformed),
    }
}
