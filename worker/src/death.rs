//! Why a job process is dead, or never lived: one fault, from its wait status, its last words and its executable.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use shardmill_protocol::Fault;
use shardmill_protocol::fault::Unstartable;

/// How a process ended, with what is known of its surroundings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Death {
    /// Its status, as `wait` gives it.
    pub(crate) status: i32,
    /// The last lines of its stderr.
    pub(crate) stderr: String,
    /// It had said that it is ready.
    pub(crate) was_ready: bool,
    /// Meanwhile the system has killed some process for want of memory.
    pub(crate) system_out_of_memory: bool,
    /// What it was allowed.
    pub(crate) limit_bytes: u64,
    /// The most memory that it was seen with.
    pub(crate) peak_bytes: u64,
}

impl Death {
    /// The fault that it amounts to.
    pub(crate) fn fault(self) -> Fault {
        let Self { status, stderr, was_ready, limit_bytes, peak_bytes, .. } = self;
        let unstartable = |reason| Fault::SpawnFailed { reason, cause: unstartable_line(reason, &stderr) };
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            let gave_up = signal == libc::SIGABRT && stderr.contains("memory allocation of ");
            return match signal {
                _ if gave_up => Fault::OutOfMemory { limit_bytes, peak_bytes },
                libc::SIGKILL if self.system_out_of_memory => Fault::OutOfMemory { limit_bytes, peak_bytes },
                libc::SIGILL if !was_ready => unstartable(Unstartable::Cpu),
                signal => Fault::Signalled { signal, stderr },
            };
        }
        let code = libc::WEXITSTATUS(status);
        // The dynamic loader's words; it exits with 127, or with 1 where a version is missing.
        let loader = ["error while loading shared libraries", "GLIBC_", "symbol lookup error"];
        if !was_ready && matches!(code, 1 | 127) && loader.iter().any(|words| stderr.contains(words)) {
            return unstartable(Unstartable::Library);
        }
        Fault::ExitedWithoutResult { code, stderr }
    }
}

fn unstartable_line(reason: Unstartable, stderr: &str) -> String {
    let last = stderr.lines().last().unwrap_or_default();
    match reason {
        Unstartable::Library => format!("the executable needs a library that this machine does not have: {last}"),
        Unstartable::Cpu => {
            "the executable uses CPU instructions that this machine does not have: build it without target-cpu=native".to_owned()
        }
        Unstartable::Platform | Unstartable::System => last.to_owned(),
    }
}

/// The fault of an executable that the system refuses to start.
pub(crate) fn refused(program: &Path, errno: i32) -> Fault {
    let error = std::io::Error::from_raw_os_error(errno);
    let (reason, cause) = match (errno, other_platform(program)) {
        (_, Some(cause)) => (Unstartable::Platform, cause),
        (libc::ENOEXEC, None) => (Unstartable::Platform, format!("{} is no executable of this system", program.display())),
        (libc::ENOENT, None) if program.exists() => (
            Unstartable::Library,
            "the executable's loader or interpreter is not on this machine: it was linked for another libc".to_owned(),
        ),
        _ => (Unstartable::System, format!("{}: {error}", program.display())),
    };
    Fault::SpawnFailed { reason, cause }
}

/// A line that says for which other platform an executable was built; nothing if it was built for this one, or is no ELF file.
pub(crate) fn other_platform(program: &Path) -> Option<String> {
    let mut head = [0; 20];
    File::open(program).ok()?.read_exact(&mut head).ok()?;
    if !head.starts_with(b"\x7fELF") {
        let other = match &head[..4] {
            b"\xcf\xfa\xed\xfe" | b"\xca\xfe\xba\xbe" => "macOS",
            [b'M', b'Z', ..] => "Windows",
            _ => return None,
        };
        return Some(format!("the executable was built for {other}, this machine runs Linux on {}", std::env::consts::ARCH));
    }
    let machine = match head[5] {
        1 => u16::from_le_bytes([head[18], head[19]]),
        _ => u16::from_be_bytes([head[18], head[19]]),
    };
    let name = match machine {
        3 => "x86",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        _ => "another processor",
    };
    (name != std::env::consts::ARCH).then(|| format!("the executable was built for {name}, this machine is {}", std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(status: i32, stderr: &str) -> Death {
        Death { status, stderr: stderr.to_owned(), limit_bytes: 10, peak_bytes: 9, ..Death::default() }
    }

    fn exit(code: i32) -> i32 {
        code << 8
    }

    #[test]
    fn a_status_is_a_signal_or_an_exit_code() {
        let fault = Death { was_ready: true, ..death(libc::SIGSEGV | 0x80, "boom") }.fault();
        assert_eq!(fault, Fault::Signalled { signal: libc::SIGSEGV, stderr: "boom".to_owned() });
        let fault = Death { was_ready: true, ..death(exit(0), "") }.fault();
        assert_eq!(fault, Fault::ExitedWithoutResult { code: 0, stderr: String::new() });
    }

    #[test]
    fn a_want_of_memory_is_told_from_other_ends() {
        let out_of_memory = Fault::OutOfMemory { limit_bytes: 10, peak_bytes: 9 };
        assert_eq!(death(libc::SIGABRT, "memory allocation of 7 bytes failed").fault(), out_of_memory);
        assert_eq!(Death { system_out_of_memory: true, ..death(libc::SIGKILL, "") }.fault(), out_of_memory);
        assert!(matches!(death(libc::SIGKILL, "").fault(), Fault::Signalled { signal: libc::SIGKILL, .. }));
    }

    #[test]
    fn what_cannot_start_here_is_told_from_what_fails() {
        let missing = "job: /lib/libc.so.6: version `GLIBC_2.99' not found (required by job)";
        let Fault::SpawnFailed { reason: Unstartable::Library, cause } = death(exit(1), missing).fault() else { panic!() };
        assert!(cause.contains("GLIBC_2.99"), "{cause}");
        assert!(matches!(Death { was_ready: true, ..death(exit(1), missing) }.fault(), Fault::ExitedWithoutResult { code: 1, .. }));
        assert!(matches!(death(libc::SIGILL, "").fault(), Fault::SpawnFailed { reason: Unstartable::Cpu, .. }));
        assert!(matches!(Death { was_ready: true, ..death(libc::SIGILL, "") }.fault(), Fault::Signalled { .. }));
    }

    #[test]
    fn an_executable_of_another_machine_is_recognized() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("job");
        let mut elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        elf.truncate(64);
        std::fs::write(&program, &elf).unwrap();
        assert_eq!(other_platform(&program), None);
        // s390x is big-endian, and this is its number.
        (elf[5], elf[18], elf[19]) = (2, 0, 22);
        std::fs::write(&program, &elf).unwrap();
        assert!(other_platform(&program).unwrap().contains("another processor"));
        std::fs::write(&program, b"#!/bin/missing\necho a script is none of ours").unwrap();
        assert_eq!(other_platform(&program), None);
        assert!(matches!(refused(&program, libc::ENOENT), Fault::SpawnFailed { reason: Unstartable::Library, .. }));
        assert!(matches!(refused(&program, libc::EAGAIN), Fault::SpawnFailed { reason: Unstartable::System, .. }));
    }
}
