//! The guard of a job process: a process of its own between worker and job, so that nothing a job starts outlives it.
//!
//! ```text
//! worker ── orders (descriptor 0) ──▶ guard ──▶ job process ──▶ whatever it starts
//!        ◀─────── notes ────────────
//! order   one byte: `T` ask the job process to end, `K` kill everything
//! note    kind: u32 │ value: i32 │ bytes: u64
//! ```
//! The guard is a subreaper: whatever leaves its parent, its group or its session becomes the guard's child, and the guard ends
//! only when it has none left. It kills them all once the job process has ended, when it is told to, and when the worker's end
//! of the socket closes, that is whenever the worker dies, of whatever cause. If the guard itself is killed, the job process dies
//! with it, and what it had started becomes the worker's, which is a subreaper too and starts nothing but guards.
//!
//! A worker that is the only subreaper could not tell its jobs' orphans apart and would leave them behind when it is killed.
//! Control groups and pid namespaces do the same without a process, where one may make them: most users may not.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use shardmill_protocol::process::DESCRIPTOR;

use crate::tree;

/// The first argument of a process that is to be a guard.
pub const VERB: &str = "guard";
/// How likely the system is to choose a job's processes when memory runs out: well before the worker.
const OOM_SCORE: &[u8] = b"500";
/// A file that is still being written elsewhere cannot be executed; that lasts until another fork has reached its exec.
const BUSY_TRIES: u32 = 50;

/// What a guard tells its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The job process runs, under this id.
    Started(i32),
    /// It could not be started, for this system error.
    NotStarted(i32),
    /// It has ended.
    Ended {
        /// Its status, as `wait` gives it.
        status: i32,
        /// The most memory that it had, files included.
        peak_bytes: u64,
    },
}

/// The length of a note.
pub(crate) const NOTE_BYTES: usize = 16;

impl Note {
    fn encode(self) -> [u8; NOTE_BYTES] {
        let (kind, value, bytes) = match self {
            Self::Started(pid) => (0u32, pid, 0),
            Self::NotStarted(error) => (1, error, 0),
            Self::Ended { status, peak_bytes } => (2, status, peak_bytes),
        };
        let mut note = [0; NOTE_BYTES];
        note[..4].copy_from_slice(&kind.to_le_bytes());
        note[4..8].copy_from_slice(&value.to_le_bytes());
        note[8..].copy_from_slice(&bytes.to_le_bytes());
        note
    }

    /// Reads a note; nothing if it is none.
    pub(crate) fn decode(note: [u8; NOTE_BYTES]) -> Option<Self> {
        let value = i32::from_le_bytes(note[4..8].try_into().expect("four bytes"));
        match u32::from_le_bytes(note[..4].try_into().expect("four bytes")) {
            0 => Some(Self::Started(value)),
            1 => Some(Self::NotStarted(value)),
            2 => Some(Self::Ended { status: value, peak_bytes: u64::from_le_bytes(note[8..].try_into().expect("eight bytes")) }),
            _ => None,
        }
    }
}

/// Is a guard, as the arguments after [`VERB`] say: `FILES PROCESSES PROGRAM ARGUMENT…`.
///
/// Descriptors: 0 to the worker, 1 and 2 the job's output, 3 the job's end of its conversation with the worker.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let mut number = || arguments.next()?.to_str()?.parse().ok();
    let (Some(files), Some(processes)) = (number(), number()) else {
        eprintln!("error: guards are started by workers only");
        return ExitCode::from(2);
    };
    let Some(program) = arguments.next() else { return ExitCode::from(2) };
    // SAFETY: the worker has put a socket there, and nothing else in this process uses the descriptor.
    let mut worker = unsafe { UnixStream::from_raw_fd(0) };
    let children = match confine(files, processes) {
        Ok(children) => children,
        Err(error) => {
            let _ = worker.write_all(&Note::NotStarted(error.raw_os_error().unwrap_or(libc::EIO)).encode());
            return ExitCode::FAILURE;
        }
    };
    match start(Path::new(&program), arguments) {
        Ok(job) => {
            // Whoever reads the job's output and its socket must see them end with the job, not with the guard.
            // SAFETY: closing descriptors that nothing in this process uses any more.
            (1..=DESCRIPTOR).for_each(|descriptor| drop(unsafe { OwnedFd::from_raw_fd(descriptor) }));
            Guard { worker, children, job, reported: false }.watch();
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = worker.write_all(&Note::NotStarted(error.raw_os_error().unwrap_or(libc::EIO)).encode());
            ExitCode::FAILURE
        }
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives up what neither guard nor job need, and returns where ended children are announced.
fn confine(files: u64, processes: u64) -> io::Result<File> {
    // SAFETY: system calls on numbers and on values that live on this stack. Descriptors above the job's are nobody's here.
    unsafe {
        check(libc::close_range(DESCRIPTOR as u32 + 1, u32::MAX, 0))?;
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // A terminal's Ctrl-C is for the worker, which then decides.
        check(libc::setsid())?;
        limit(libc::RLIMIT_CORE, 0)?;
        limit(libc::RLIMIT_NOFILE, files)?;
        limit(libc::RLIMIT_NPROC, processes)?;
        let mut signals = std::mem::zeroed();
        check(libc::sigemptyset(&mut signals))?;
        check(libc::sigaddset(&mut signals, libc::SIGCHLD))?;
        check(libc::sigprocmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()))?;
        let descriptor = libc::signalfd(-1, &signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(descriptor)?;
        Ok(File::from_raw_fd(descriptor))
    }
}

/// Lowers a limit for good.
unsafe fn limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write one value on this stack.
    unsafe {
        check(libc::getrlimit(resource, &mut now))?;
        let most = most.min(now.rlim_max);
        check(libc::setrlimit(resource, &libc::rlimit { rlim_cur: most.min(now.rlim_cur), rlim_max: most }))
    }
}

/// Starts the job process, which inherits directory and environment as the worker has set them.
fn start(program: &Path, arguments: impl Iterator<Item = OsString>) -> io::Result<i32> {
    let words = std::iter::once(program.as_os_str().to_owned()).chain(arguments).map(|word| CString::new(word.into_vec()));
    let words: Vec<CString> = words.collect::<Result<_, _>>().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    let guard = std::process::id() as i32;
    // SAFETY: this process has one thread, so what the closure allocates and opens after the fork cannot be locked by another.
    unsafe {
        command.pre_exec(move || {
            check(libc::setsid())?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            if libc::getppid() != guard {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // Refused where /proc is not writable: the watch over memory does not depend on it.
            let _ = File::options().write(true).open("/proc/self/oom_score_adj").and_then(|mut file| file.write_all(OOM_SCORE));
            // Not left to `Command`, which gives what the system takes for no executable to a shell.
            let pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
            libc::execv(pointers[0], pointers.as_ptr());
            Err(io::Error::last_os_error())
        });
    }
    let mut tries = 0;
    loop {
        match command.spawn() {
            Ok(child) => return Ok(child.id() as i32),
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

/// A guard at work.
struct Guard {
    worker: UnixStream,
    /// Readable when a child has ended.
    children: File,
    job: i32,
    reported: bool,
}

impl Guard {
    fn watch(mut self) {
        self.tell(Note::Started(self.job));
        loop {
            let (asked, ended) = self.wait(-1);
            if ended {
                self.reap();
            }
            if self.reported {
                break;
            }
            if asked {
                match self.order() {
                    Some(b'T') => self.terminate(),
                    _ => break,
                }
            }
        }
        self.clear();
    }

    /// Waits until the worker says something or a child has ended; which of both it was.
    fn wait(&mut self, milliseconds: i32) -> (bool, bool) {
        let entry = |descriptor| libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        let mut watched = [entry(self.worker.as_raw_fd()), entry(self.children.as_raw_fd())];
        // SAFETY: the array lives on this stack and has the length that is told.
        unsafe { libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, milliseconds) };
        // What is announced is of no interest: whoever has ended is asked for.
        let _ = self.children.read(&mut [0; 4096]);
        (watched[0].revents != 0, watched[1].revents != 0)
    }

    /// What the worker wants; nothing if it is gone.
    fn order(&mut self) -> Option<u8> {
        let mut order = [0];
        matches!(self.worker.read(&mut order), Ok(1)).then_some(order[0])
    }

    fn terminate(&self) {
        // SAFETY: signals to processes that this one is responsible for; the job process leads a group of its own, and is no
        // zombie whose number could be another's: it would have been reported.
        unsafe { libc::kill(-self.job, libc::SIGTERM) };
    }

    /// Takes note of all children that have ended; true while there are others.
    fn reap(&mut self) -> bool {
        loop {
            let mut status = 0;
            // SAFETY: the call writes two values on this stack, and all zeros are a valid `rusage`.
            let (pid, usage) = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                (libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage), usage)
            };
            match pid {
                0 => return true,
                pid if pid < 0 => return false,
                pid if pid == self.job => {
                    self.reported = true;
                    self.tell(Note::Ended { status, peak_bytes: (usage.ru_maxrss as u64) << 10 });
                }
                _ => {}
            }
        }
    }

    /// Kills everything that descends from here, until nothing does.
    fn clear(&mut self) {
        let here = std::process::id() as i32;
        let signal = |pid: i32, signal| {
            // SAFETY: a signal to a process that descends from this one.
            unsafe { libc::kill(pid, signal) };
        };
        loop {
            // What is stopped cannot fork: a tree that grows while it is being felled is stopped first, as a whole.
            for _ in 0..8 {
                let running: Vec<i32> = tree::descendants(here).into_iter().filter(|(_, stopped)| !stopped).map(|(pid, _)| pid).collect();
                if running.is_empty() {
                    break;
                }
                running.into_iter().for_each(|pid| signal(pid, libc::SIGSTOP));
            }
            tree::descendants(here).into_iter().for_each(|(pid, _)| signal(pid, libc::SIGKILL));
            if !self.reap() {
                return;
            }
            self.wait_for_children();
        }
    }

    /// Waits until another child has ended, or for a moment: a process may have changed its parent unseen.
    fn wait_for_children(&mut self) {
        let mut watched = libc::pollfd { fd: self.children.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, on this stack.
        unsafe { libc::poll(&mut watched, 1, 20) };
        let _ = self.children.read(&mut [0; 4096]);
    }

    fn tell(&mut self, note: Note) {
        // A worker that is gone is noticed where its orders are read.
        let _ = self.worker.write_all(&note.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_out_as_they_went_in() {
        for note in [Note::Started(7), Note::NotStarted(libc::ENOEXEC), Note::Ended { status: 139, peak_bytes: 1 << 40 }] {
            assert_eq!(Note::decode(note.encode()), Some(note));
        }
        assert_eq!(Note::decode([0xff; NOTE_BYTES]), None);
    }
}
