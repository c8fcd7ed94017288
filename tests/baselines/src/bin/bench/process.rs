//! One run of one program: how long it took and how much memory it had at most.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A program and its arguments.
pub struct Program {
    pub name: &'static str,
    pub executable: PathBuf,
    pub arguments: Vec<String>,
}

#[derive(Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    pub peak_bytes: u64,
}

impl Program {
    /// A program that lies beside this one. Arguments are separated by blanks.
    pub fn ours(name: &'static str, arguments: &str) -> io::Result<Self> {
        Ok(Program {
            name,
            executable: std::env::current_exe()?.with_file_name(name),
            arguments: arguments.split(' ').map(str::to_owned).collect(),
        })
    }

    /// Runs to the end. What it prints goes to `log`.
    pub fn run(&self, log: &Path) -> Result<Measured, Box<dyn Error>> {
        let printed = File::create(log)?;
        let mut command = Command::new(&self.executable);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(printed.try_clone()?).stderr(printed);
        let began = Instant::now();
        let child =
            command.spawn().map_err(|error| format!("cannot start {} ({error}); build it first: make bench", self.executable.display()))?;
        let (status, peak_bytes) = wait(child.id())?;
        let seconds = began.elapsed().as_secs_f64();
        if status != 0 {
            let printed = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!("{} {} failed:\n{printed}", self.name, self.arguments.join(" ")).into());
        }
        Ok(Measured { seconds, peak_bytes })
    }
}

/// Waits for a child and returns its status and its largest resident size, which the standard library does not tell.
fn wait(child: u32) -> io::Result<(i32, u64)> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::zeroed());
    // SAFETY: both pointers are to live memory of the right type; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::wait4(child as i32, &mut status, 0, usage.as_mut_ptr()) };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are a valid rusage, and the call has succeeded.
    let usage: libc::rusage = unsafe { usage.assume_init() };
    // In bytes on macOS, in KiB elsewhere.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Ok((status, usage.ru_maxrss as u64 * unit))
}
