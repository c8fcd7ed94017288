//! A job process that misbehaves as it is told to: for the tests of what watches over job processes.
#![allow(clippy::unwrap_used)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use shardmill_datasets::index;
use shardmill_datasets::run::{Layout, RunWriter};
use shardmill_protocol::fault::Suspect;
use shardmill_protocol::process::{DESCRIPTOR, FromProcess, Order, Progress, ToProcess, read_message, write_message};
use shardmill_protocol::slots::{FILE_NAME, Slots};
use shardmill_protocol::task::{Outcome, Tally, Task};
use shardmill_protocol::{Digest, VERSION};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut way = arguments.first().cloned().unwrap_or_default();
    // SAFETY: the worker has put a socket there, and nothing else in this process uses the descriptor.
    let mut worker = unsafe { File::from_raw_fd(DESCRIPTOR) };
    before_ready(&way, &mut worker);
    let Ok(ToProcess::Setup(setup)) = read_message(&mut worker) else { panic!("the first message is no setup") };
    // Started as a job it is told as a job is.
    if let Some(parameter) = setup.parameters.first() {
        way.clone_from(parameter);
    }
    let version = if way == "other-version" { (VERSION.0 + 1, 0) } else { VERSION };
    write_message(&mut worker, &FromProcess::Ready { version }).unwrap();
    while let Ok(ToProcess::Run(order)) = read_message(&mut worker) {
        attempt(&way, &arguments[1..], &order, &mut worker);
        let outcome = outcome(&way, &order);
        write_message(&mut worker, &FromProcess::Done { attempt: order.attempt, outcome }).unwrap();
        if way == "leave-when-done" {
            return;
        }
    }
}

/// Does what is asked, or says that it has.
fn outcome(way: &str, order: &Order) -> Outcome {
    let content = order.attempt.to_string();
    let digest = Digest::of(content.as_bytes());
    match &order.task {
        Task::Map(_) => {
            let layout = Layout { sequenced: false, digested: true };
            let mut writer = RunWriter::create(&order.directory.join("map.run"), layout, 1 << 10).unwrap();
            writer.push(b"key", 0, b"value").unwrap();
            writer.end_segment().unwrap();
            let run = writer.end_run().unwrap();
            std::fs::write(order.directory.join("map.index"), index::encode(run.segments())).unwrap();
            let (index, partition_bytes) = (Digest(index::digest(run.segments())), vec![run.segments()[0].content_bytes]);
            Outcome::Mapped { index, partition_bytes, tally: Tally::default(), set_aside: None }
        }
        _ if way == "lie" => Outcome::Surveyed { surveys: digest },
        _ => {
            std::fs::write(order.staged.join("surveys"), content).unwrap();
            Outcome::Surveyed { surveys: digest }
        }
    }
}

fn before_ready(way: &str, worker: &mut File) {
    match way {
        "illegal-instruction-at-start" => raise(libc::SIGILL),
        "loader-error" => {
            eprintln!("hostile: /lib/libc.so.6: version `GLIBC_9.99' not found (required by hostile)");
            std::process::exit(1);
        }
        "exit-at-start" => std::process::exit(3),
        "garbage-at-start" => worker.write_all(&[0xee; 64]).unwrap(),
        _ => {}
    }
}

fn raise(signal: i32) {
    // SAFETY: raising a signal has no precondition.
    unsafe { libc::raise(signal) };
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn attempt(way: &str, arguments: &[String], order: &Order, worker: &mut File) {
    let slots = Slots::create(&order.directory.join(FILE_NAME), order.threads as usize).unwrap();
    slots.of(0).enter(Suspect { unit: 7, record: 42, offset: 4096 });
    match way {
        "panic" => panic!("out of ideas"),
        "abort" => std::process::abort(),
        "segfault" => {
            // SAFETY: none: this is what is asked for.
            unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
        }
        "illegal-instruction" => raise(libc::SIGILL),
        "overflow" => drop(overflow(0)),
        "loop" => forever(),
        "loop-deaf" => {
            // SAFETY: ignoring a signal has no precondition.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            forever()
        }
        "exit" => std::process::exit(0),
        "flood" => flood(),
        "close" => {
            // SAFETY: the descriptor is closed and not used again.
            unsafe { libc::close(worker.as_raw_fd()) };
            forever()
        }
        "garbage" => {
            worker.write_all(&8u32.to_le_bytes()).unwrap();
            worker.write_all(&[0xff; 8]).unwrap();
            forever()
        }
        "huge" => {
            worker.write_all(&u32::MAX.to_le_bytes()).unwrap();
            forever()
        }
        "ready-again" => {
            write_message(worker, &FromProcess::Ready { version: VERSION }).unwrap();
            forever()
        }
        "orphans" => {
            leave_orphans(Path::new(&arguments[0]));
            std::process::exit(0)
        }
        "orphans-and-kill-guard" => {
            leave_orphans(Path::new(&arguments[0]));
            // SAFETY: a signal to the parent, which is the guard.
            unsafe { libc::kill(libc::getppid(), libc::SIGKILL) };
            forever()
        }
        "orphans-and-hang" => {
            leave_orphans(Path::new(&arguments[0]));
            write_message(worker, &FromProcess::Progress(Progress { bytes: 1, ..Progress::default() })).unwrap();
            forever()
        }
        "eat" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(vec![1u8; 16 << 20]);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        "give-up-memory" => {
            eprintln!("memory allocation of 99 bytes failed");
            std::process::abort();
        }
        "show" => show(order),
        "wait" => {
            let go = order.staged.ancestors().nth(3).unwrap().join("go");
            while !go.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        _ => {}
    }
    slots.of(0).leave();
}

#[allow(unconditional_recursion, reason = "this is what is asked for")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + frame[511]
}

/// A gigabyte on stdout and some last words on stderr.
fn flood() {
    let block = vec![b'x'; 1 << 20];
    let mut stdout = io::stdout().lock();
    for _ in 0..1024 {
        stdout.write_all(&block).unwrap();
    }
    drop(stdout);
    eprintln!("that was a lot");
}

/// Starts processes that leave group, session and parent, and notes their ids in a file.
fn leave_orphans(ids: &Path) {
    for _ in 0..3 {
        // The shell in between ends at once, so the sleeper's parent is gone.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg("sleep 3600 & echo $! >> \"$0\"").arg(ids);
        // SAFETY: a system call that touches nothing else.
        unsafe {
            shell.pre_exec(|| {
                libc::setsid();
                Ok(())
            });
        }
        shell.status().unwrap();
    }
}

/// Writes down what the process finds around itself.
fn show(order: &Order) {
    let mut out = OpenOptions::new().create_new(true).write(true).open(order.directory.join("shown")).unwrap();
    for (name, value) in std::env::vars() {
        writeln!(out, "{name}={value}").unwrap();
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap());
    for entry in descriptors {
        writeln!(out, "fd {} {}", entry.file_name().display(), std::fs::read_link(entry.path()).unwrap_or_default().display()).unwrap();
    }
    out.write_all(&std::fs::read("/proc/self/status").unwrap()).unwrap();
    out.write_all(&std::fs::read("/proc/self/limits").unwrap()).unwrap();
    writeln!(out, "cwd={}", std::env::current_dir().unwrap().display()).unwrap();
}
