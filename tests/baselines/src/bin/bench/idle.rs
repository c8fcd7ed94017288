//! What the processes of a cluster cost while there is nothing to do.

use std::error::Error;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::cluster::{Cluster, PAIR};
use crate::data::Data;

/// How long is looked.
const LOOK: Duration = Duration::from_secs(30);
const MUST_PERCENT: f64 = 1.0;
const MUST_BYTES: u64 = 40_000_000;

/// A line for each process: its part of a core, and what memory it holds.
pub fn measure(data: &Data) -> Result<String, Box<dyn Error>> {
    eprintln!("cluster: idle for {} s", LOOK.as_secs());
    let cluster = Cluster::start(data, PAIR)?;
    let before = cluster.processes().map(|(_, id)| ticks(id)).collect::<Result<Vec<_>, _>>()?;
    sleep(LOOK);
    let mut lines = String::from("\n| while idle | of a core | memory |\n|---|---|---|\n");
    for ((name, id), before) in cluster.processes().zip(before) {
        let seconds = (ticks(id)? - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
        let percent = seconds / LOOK.as_secs_f64() * 100.0;
        let bytes = resident_bytes(id)?;
        let reached = if percent < MUST_PERCENT && bytes < MUST_BYTES { "✓" } else { "✗" };
        lines += &format!("| {name} {reached} | {percent:.2} % | {:.1} MB |\n", bytes as f64 / 1e6);
    }
    Ok(lines)
}

/// The time that a process has computed so far.
fn ticks(process: u32) -> Result<u64, Box<dyn Error>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold blanks: the state is the third field, and these are the 14th and the 15th.
    let behind = stat.rsplit_once(')').ok_or("a process has a name")?.1;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn resident_bytes(process: u32) -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("a process has memory")?;
    Ok(line.split_whitespace().nth(1).ok_or("it has a size")?.parse::<u64>()? * 1024)
}
