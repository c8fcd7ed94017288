//! Running a job's executable, and what came of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{io, mem, ptr};

use serde::Deserialize;

use crate::look::wait_until;
use crate::output::Output;
use crate::place::names_in;
use crate::programs::program;

/// A command line, `JOB run --output … --format json …`, that was not started yet.
pub struct Job {
    command: Command,
    output: PathBuf,
}

impl Job {
    /// The bundled job `name`, with its output at `output`.
    pub fn new(name: &str, output: &Path) -> Self {
        Self::of(&program(name), output)
    }

    /// The job in the executable at `path`.
    pub fn of(path: &Path, output: &Path) -> Self {
        let mut command = Command::new(path);
        command.arg("run").arg("--output").arg(output).args(["--format", "json"]);
        Self { command, output: output.to_owned() }
    }

    /// Adds `--input PATH`.
    pub fn input(self, path: impl AsRef<OsStr>) -> Self {
        self.arg("--input").arg(path)
    }

    /// Adds flags and values that stand between white space.
    pub fn with(mut self, flags: &str) -> Self {
        self.command.args(flags.split_whitespace());
        self
    }

    /// Adds one argument, whatever is in it.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments, whatever is in them.
    pub fn args<'a>(self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Runs it in this directory.
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Limits how many files it may have open at once, as `ulimit -n` does for good.
    pub fn open_files(mut self, most: u64) -> Self {
        limit_open_files(&mut self.command, most);
        self
    }

    /// Lets every call that syncs something to a disk fail, as if the disk were gone.
    #[cfg(target_os = "linux")]
    pub fn with_failing_syncs(mut self) -> Self {
        use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
        let step = |code: u32, k: u32, jt: u8| libc::sock_filter { code: code as u16, jt, jf: 0, k };
        let calls = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs, libc::SYS_sync, libc::SYS_sync_file_range];
        // The number of the call is loaded; one that is in the list jumps over the others and over what lets it pass.
        let mut filter = vec![step(BPF_LD | BPF_W | BPF_ABS, 0, 0)];
        filter.extend(
            calls.iter().zip((1..=calls.len() as u8).rev()).map(|(call, over)| step(BPF_JMP | BPF_JEQ | BPF_K, *call as u32, over)),
        );
        filter.push(step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0));
        filter.push(step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::EIO as u32, 0));
        // SAFETY: between fork and exec only `prctl` is called, which is safe there; the filter lives as long as the closure.
        unsafe {
            self.command.pre_exec(move || {
                let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
                let (one, none) = (1 as libc::c_ulong, 0 as libc::c_ulong);
                // Without new privileges, a process needs none to be filtered.
                if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, none, none, none) != 0
                    || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as libc::c_ulong, &raw const program) != 0
                {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            })
        };
        self
    }

    /// Has `strace` write the calls of these names to `log`, with the paths that they are about. None where it cannot trace; stderr says so.
    pub fn traced(mut self, calls: &str, log: &Path) -> Option<Self> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-e"]).arg(format!("trace={calls}")).arg("-o").arg(log);
        let can = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
        if !can.is_ok_and(|status| status.success()) {
            eprintln!("skipped: strace is missing or must not trace");
            return None;
        }
        strace.arg(self.command.get_program()).args(self.command.get_args());
        self.command = strace;
        Some(self)
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        self.command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let child = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command.get_program()));
        Running { child, is_over: false, stdout, stderr, output: self.output }
    }

    /// Runs it to its end.
    pub fn run(self) -> Ended {
        self.start().wait()
    }
}

/// Limits how many files a command may have open at once, as `ulimit -n` does for good.
pub fn limit_open_files(command: &mut Command, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: between fork and exec only `setrlimit` is called, which is safe there.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
}

/// A run that was started. Killed when dropped.
pub struct Running {
    child: Child,
    /// It was waited for, and its number may be another process's by now.
    is_over: bool,
    stdout: File,
    stderr: File,
    output: PathBuf,
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: `kill` touches no memory, and the child was not waited for, so that its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0, "{}", io::Error::last_os_error());
    }

    /// Waits until `event` can be seen.
    ///
    /// # Panics
    /// If the run ends before, or nothing happens for minutes.
    pub fn wait_for(&mut self, what: &str, event: impl Fn() -> bool) {
        wait_until(what, || {
            // Asked first: what happened in between can be seen.
            let has_ended = self.has_ended();
            let is_seen = event();
            assert!(is_seen || !has_ended, "the run ended before {what}: {}", text_of(&mut self.stderr));
            is_seen
        });
    }

    /// Whether it has.
    pub fn has_ended(&self) -> bool {
        // SAFETY: `waitid` fills the struct that it is given, for which all zeroes are valid. `WNOWAIT` leaves the child to `wait`.
        unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            assert_eq!(libc::waitid(libc::P_PID, self.child.id(), &mut info, options), 0);
            info.si_pid() != 0
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let mut status = 0;
        // SAFETY: `wait4` fills what it is given; nobody else waits for this child.
        let usage = unsafe {
            let mut usage: libc::rusage = mem::zeroed();
            while libc::wait4(self.child.id() as i32, ptr::from_mut(&mut status), 0, &mut usage) < 0 {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
            }
            usage
        };
        self.is_over = true;
        Ended {
            code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
            signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
            stdout: text_of(&mut self.stdout),
            stderr: text_of(&mut self.stderr),
            peak_memory_bytes: usage.ru_maxrss as u64 * if cfg!(target_os = "macos") { 1 } else { 1024 },
            output: mem::take(&mut self.output),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn text_of(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code, if it was not killed.
    pub code: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it told.
    pub stderr: String,
    /// The most memory that it had at any time, as the system has counted it.
    pub peak_memory_bytes: u64,
    output: PathBuf,
}

impl Ended {
    /// The summary and output of a run that has gone well; the output is what its manifest says.
    ///
    /// # Panics
    /// If it has not gone well, or left something beside its output.
    pub fn success(self) -> (Summary, Output) {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let summary = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in the summary {:?}", self.stdout));
        assert_eq!(self.leftovers(), [""; 0]);
        (summary, Output::whole(&self.output))
    }

    /// What a run that has failed with `code` told.
    ///
    /// # Panics
    /// If it has ended in another way, has printed data, or has left an output or anything else.
    pub fn failure(self, code: i32) -> String {
        assert_eq!((self.code, self.signal), (Some(code), None), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        assert!(!self.output.exists(), "a failed run has left {}", self.output.display());
        assert_eq!(self.leftovers(), [""; 0]);
        self.stderr
    }

    /// The names of claims and staging directories beside the output.
    pub fn leftovers(&self) -> Vec<String> {
        let beside = self.output.parent().unwrap();
        if beside.is_dir() { names_in(beside).into_iter().filter(|name| name.contains("shardmill")).collect() } else { vec![] }
    }
}

/// What `--format json` says of a run.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the program, and say it")]
pub struct Summary {
    pub job: String,
    pub output: PathBuf,
    pub input_files: u64,
    pub input_bytes: u64,
    pub input_records: u64,
    pub shards: u64,
    pub partitions: u64,
    pub groups: u64,
    pub output_records: u64,
    pub output_bytes: u64,
    pub spilled_bytes: u64,
    pub spilled_runs: u64,
    pub merge_passes: u64,
    pub bad_records: u64,
    pub skew: Option<serde_json::Value>,
    pub counters: BTreeMap<String, u64>,
    pub peak_memory_bytes: u64,
}
