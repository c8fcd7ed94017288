//! Counts words, and obeys those of them that are orders: a job that stops, dies or lies at a place that a test has chosen.
//!
//! ```text
//! !PHASE:ACTION           done by every attempt that comes by
//! !PHASE:ACTION:NAME      done by the first attempt that comes by, whichever it is; NAME is the order's own
//! ```
//! PHASE is `map` or `reduce`; for an order of `reduce` the word is the key. Without `--gates DIR` orders are words like any others, so a
//! run that obeys must give the bytes of one that does not.
//!
//! The gate called `bind` stands where a process is told what the input looks like, which happens while a job is planned.
//!
//! `slow` has a gate, too, at which only one process stands: the first of all that meets such an order is slow for the rest of its life.
//!
//! `gate` is the action that tests wait with. It always has a NAME, and every attempt obeys it: while `DIR/NAME` is a FIFO, the attempt
//! stands still until somebody has opened it to write and closed it. Opening a FIFO waits for the other side, so the test knows that
//! the attempt has come to this place, and nobody sleeps. Where there is no such file the gate is open.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shardmill::arrow::datatypes::SchemaRef;
use shardmill::prelude::*;

/// Counts words and obeys orders.
#[derive(Args, Serialize, Deserialize)]
struct Probe {
    /// Obey orders; gates and marks are in this directory.
    #[arg(long)]
    gates: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Counted {
    word: String,
    count: u64,
}

impl MapReduce for Probe {
    type Input = Lines;
    type Key = String;
    type Value = u64;
    type Combine = Sum;
    type Output = Counted;

    fn bind(&mut self, _: Option<&SchemaRef>) -> Result {
        match &self.gates {
            Some(directory) => Ok(pass(&directory.join("bind"))?),
            None => Ok(()),
        }
    }

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        for word in line.split_whitespace() {
            out.emit(word, 1);
            if let Some(marker) = self.obey("map", word)? {
                out.emit(&marker, 1);
            }
        }
        out.count("lines", 1);
        Ok(())
    }

    fn reduce(&self, word: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        self.obey("reduce", word)?;
        out.write(Counted { word: word.to_owned(), count: counts.sum() })
    }
}

impl Probe {
    /// Does what a word says, if it is an order for this phase. The answer is a word to emit, in an attempt that lies.
    fn obey(&self, phase: &str, word: &str) -> Result<Option<String>> {
        let Some(directory) = &self.gates else { return Ok(None) };
        let Some(order) = word.strip_prefix('!').and_then(|order| order.strip_prefix(phase)?.strip_prefix(':')) else { return Ok(None) };
        let (action, name) = order.split_once(':').map_or((order, None), |(action, name)| (action, Some(name)));
        eprintln!("obeying {word}");
        match (action, name) {
            ("gate", Some(name)) => pass(&directory.join(name))?,
            ("slow", Some(name)) => {
                if is_slow(&directory.join("slow"))? {
                    pass(&directory.join(name))?;
                }
            }
            (_, Some(name)) if !is_first(&directory.join(name))? => {}
            ("fail", _) => return Err("it was told to".into()),
            ("panic", _) => panic!("it was told to"),
            ("abort", _) => std::process::abort(),
            ("exit", _) => std::process::exit(0),
            ("segfault", _) => raise(libc::SIGSEGV),
            ("overflow", _) => drop(deeper(0)),
            ("hang", _) => hang(),
            ("flood", _) => flood()?,
            ("close", _) => close(3),
            ("garbage", _) => {
                garbage()?;
                // The worker is to end the process for that alone.
                hang();
            }
            ("differ", _) => return Ok(Some(format!("attempt-{}", std::process::id()))),
            _ => return Err(format!("no such order: {word}").into()),
        }
        Ok(None)
    }
}

/// Stands before a gate until it is opened; passes where there is none.
fn pass(gate: &Path) -> io::Result<()> {
    match std::fs::File::open(gate).and_then(|mut gate| gate.read_to_end(&mut Vec::new())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether nobody has come by this mark before.
fn is_first(mark: &Path) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(mark) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this is the process that came by this mark first.
fn is_slow(mark: &Path) -> io::Result<bool> {
    let me = PathBuf::from(std::process::id().to_string());
    // A link is made with what it says in one step.
    match std::os::unix::fs::symlink(&me, mark) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(std::fs::read_link(mark)? == me),
        made => made.map(|()| true),
    }
}

/// Ends the process by a signal, as the kernel would, whatever handler there is.
fn raise(signal: i32) {
    // SAFETY: both calls take numbers alone.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Never returns.
fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// Uses up the stack.
#[allow(unconditional_recursion, reason = "that is what it is for")]
fn deeper(depth: u64) -> [u64; 512] {
    let mut frame = [depth; 512];
    frame[std::hint::black_box(0)] += deeper(depth + 1)[1];
    std::hint::black_box(frame)
}

/// Writes 64 MiB to stdout and as much to stderr.
fn flood() -> io::Result<()> {
    let line = [b'x'; 1 << 16];
    for _ in 0..1 << 10 {
        io::stdout().write_all(&line)?;
        io::stderr().write_all(&line)?;
    }
    Ok(())
}

/// Closes a descriptor that belongs to somebody else.
fn close(descriptor: i32) {
    // SAFETY: not for this process's sake: losing the descriptor is what is tested, and nothing of it is used afterwards but to fail.
    unsafe { libc::close(descriptor) };
}

/// Says to the worker what is no message.
fn garbage() -> io::Result<()> {
    // SAFETY: the bytes are there, and the descriptor is only written to.
    let written = unsafe { libc::write(3, [0xffu8; 64].as_ptr().cast(), 64) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn main() -> ExitCode {
    shardmill::main::<Probe>()
}
