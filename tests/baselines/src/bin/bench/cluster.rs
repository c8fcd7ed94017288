//! A coordinator and its workers, on loopback, for the rows that are measured on a cluster.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::data::{Data, remove};
use crate::held::{Held, hold};

/// What a cluster consists of, besides its coordinator. Workers have one thread each.
#[derive(Clone, Copy)]
pub struct Shape {
    pub workers: usize,
    /// The memory of each.
    pub memory: &'static str,
    /// The part of a core that each has, if that is less than it can get, in percent.
    pub core_percent: Option<u32>,
}

/// Both workers have together what a local run has by itself, on a machine as large as the rows ask for.
pub const PAIR: Shape = Shape { workers: 2, memory: "5GiB", core_percent: None };
/// Four that stay as slow as they are when there are only three.
pub const QUARTET: Shape = Shape { workers: 4, memory: "2GiB", core_percent: Some(50) };

/// What befalls a cluster in the middle of a job.
#[derive(Clone, Copy)]
pub enum Strike {
    /// A worker is killed, and none takes its place.
    Worker,
    /// The coordinator is killed, and started again at once.
    Coordinator,
}

/// The processes; killed when dropped.
pub struct Cluster {
    shape: Shape,
    state: PathBuf,
    directory: PathBuf,
    coordinator: Child,
    workers: Vec<(Child, Option<Held>)>,
    /// Workers that were started so far.
    started: usize,
}

impl Cluster {
    /// Where the coordinator of a cluster on `data` keeps its state, and is found.
    pub fn state(data: &Data) -> PathBuf {
        data.directory().join("cluster/state")
    }

    /// Starts it, and waits until all workers are there.
    pub fn start(data: &Data, shape: Shape) -> Result<Self, Box<dyn Error>> {
        let state = Self::state(data);
        let directory = data.directory().join("cluster");
        remove(&directory)?;
        fs::create_dir(&directory)?;
        let coordinator = start_coordinator(&state)?;
        let mut cluster = Self { shape, state, directory, coordinator, workers: vec![], started: 0 };
        cluster.complete()?;
        Ok(cluster)
    }

    /// Lets it befall the cluster.
    pub fn suffer(&mut self, strike: Strike) -> Result<(), Box<dyn Error>> {
        match strike {
            Strike::Worker => {
                let (mut worker, _held) = self.workers.swap_remove(0);
                end(&mut worker);
            }
            Strike::Coordinator => {
                end(&mut self.coordinator);
                self.coordinator = start_coordinator(&self.state)?;
            }
        }
        Ok(())
    }

    /// Starts workers until there are as many as there should be, and waits for them.
    pub fn complete(&mut self) -> Result<(), Box<dyn Error>> {
        while self.workers.len() < self.shape.workers {
            // A new one each time, with nothing left of those that were killed.
            let directory = self.directory.join(format!("worker-{}", self.started));
            self.started += 1;
            let mut worker = program("worker")?;
            worker.arg("--coordinator").arg(self.state.join("worker.join"));
            worker.arg("--dir").arg(directory).args(["--threads", "1", "--memory", self.shape.memory]);
            let worker = worker.stdout(Stdio::null()).spawn()?;
            let held = self.shape.core_percent.map(|percent| hold(worker.id(), percent)).transpose();
            self.workers.push((worker, held?));
        }
        while self.live_workers()? < self.shape.workers {
            for (process, _) in &mut self.workers {
                if let Some(status) = process.try_wait()? {
                    return Err(format!("a worker ended with {status}").into());
                }
            }
        }
        Ok(())
    }

    /// The processes with what they are.
    pub fn processes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let workers = self.workers.iter().map(|(worker, _)| ("worker", worker.id()));
        std::iter::once(("coordinator", self.coordinator.id())).chain(workers)
    }

    fn live_workers(&self) -> io::Result<usize> {
        let mut command = program("coordinator")?;
        let told = command.args(["workers", "--format", "json", "--coordinator"]).arg(&self.state).stdout(Stdio::piped()).output()?;
        Ok(String::from_utf8_lossy(&told.stdout).matches("\"live\"").count())
    }
}

fn start_coordinator(state: &Path) -> Result<Child, Box<dyn Error>> {
    let mut coordinator = program("coordinator")?;
    coordinator.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(state).stdout(Stdio::piped());
    let mut coordinator = coordinator.spawn()?;
    let told = coordinator.stdout.take();
    // It says one line, when it is ready.
    BufReader::new(told.ok_or("stdout is piped")?).read_line(&mut String::new())?;
    Ok(coordinator)
}

fn program(name: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name(name));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(|(worker, _)| end(worker));
        end(&mut self.coordinator);
        let _ = remove(&self.directory);
    }
}
