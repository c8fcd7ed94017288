//! A line between a worker and its coordinator on which a test can keep the answers to heartbeats back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A worker's second connection: it makes one for its calls, and then one for its heartbeats.
const HEARTBEATS: usize = 1;

/// A line to a coordinator. It is there until the test's process ends.
pub struct Line {
    address: String,
    is_deaf: Arc<AtomicBool>,
}

impl Line {
    /// A line to whoever listens at `target`.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self { address: listener.local_addr().unwrap().to_string(), is_deaf: Arc::default() };
        let (target, is_deaf) = (target.to_owned(), Arc::clone(&line.is_deaf));
        std::thread::spawn(move || {
            for (number, worker) in listener.incoming().enumerate() {
                let (worker, Ok(coordinator)) = (worker.unwrap(), TcpStream::connect(&target)) else { continue };
                let (calls, answers) = (worker.try_clone().unwrap(), coordinator.try_clone().unwrap());
                let is_deaf = Arc::clone(&is_deaf);
                std::thread::spawn(move || pass_on(calls, coordinator, || false));
                std::thread::spawn(move || pass_on(answers, worker, || number == HEARTBEATS && is_deaf.load(Ordering::SeqCst)));
            }
        });
        line
    }

    /// Where the worker is to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on the worker gets no answer to a heartbeat, and is heard all the same.
    pub fn keep_answers_to_heartbeats(&self) {
        self.is_deaf.store(true, Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_kept: impl Fn() -> bool) {
    let mut bytes = [0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !is_kept() && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Whichever side is gone, the other one learns of it.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
