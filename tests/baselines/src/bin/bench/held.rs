//! Processes that get a part of a core and no more, whatever is free: by a control group of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Where groups are made, in the first and in the second version of control groups.
const V1: &str = "/sys/fs/cgroup/cpu";
const V2: &str = "/sys/fs/cgroup";
/// The time over which the part is measured, in microseconds.
const PERIOD: u32 = 100_000;

/// A control group; removed when dropped.
pub struct Held(PathBuf);

/// Holds a process, and all that it starts from now on, to so many percent of a core.
pub fn hold(process: u32, percent: u32) -> io::Result<Held> {
    let held = group(&format!("shardmill-bench-{process}"), percent)?;
    fs::write(held.0.join("cgroup.procs"), process.to_string())?;
    Ok(held)
}

/// Says why no process can be held here, if so.
pub fn cannot_hold() -> Option<String> {
    let tried = group("shardmill-bench", 50);
    tried.err().map(|error| format!("as it needs control groups for processors: {error}"))
}

fn group(name: &str, percent: u32) -> io::Result<Held> {
    let is_v1 = Path::new(V1).is_dir();
    let held = Held(Path::new(if is_v1 { V1 } else { V2 }).join(name));
    fs::create_dir(&held.0)?;
    let quota = PERIOD * percent / 100;
    if is_v1 {
        fs::write(held.0.join("cpu.cfs_period_us"), PERIOD.to_string())?;
        fs::write(held.0.join("cpu.cfs_quota_us"), quota.to_string())?;
    } else {
        fs::write(held.0.join("cpu.max"), format!("{quota} {PERIOD}"))?;
    }
    Ok(held)
}

impl Drop for Held {
    fn drop(&mut self) {
        // Job processes end a moment after their worker, and a group is removed when nothing is in it.
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(Duration::from_millis(20)),
                _ => break,
            }
        }
    }
}
