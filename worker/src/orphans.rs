//! Orphans: processes that have come down to the worker because their guard was killed.
//!
//! The worker starts nothing but guards. So every other child that it has was some job's, and is killed.

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;

use tokio::process::{Child, Command};

use crate::tree;

/// The guards that live. Children belong to the process as a whole, and so does this.
static GUARDS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Makes this process the one that its descendants come down to.
pub fn adopt() -> io::Result<()> {
    // SAFETY: a system call on numbers.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts a guard.
pub(crate) fn spawn(guard: &mut Command) -> io::Result<Child> {
    // Held while it is started, or it could be taken for an orphan.
    let mut guards = GUARDS.lock().expect("no holder panics");
    let child = guard.spawn()?;
    guards.extend(child.id().map(|pid| pid as i32));
    Ok(child)
}

/// Takes note that a guard has ended.
pub(crate) fn forget(guard: Option<u32>) {
    if let Some(pid) = guard {
        GUARDS.lock().expect("no holder panics").remove(&(pid as i32));
    }
}

/// Kills all orphans and what they have started, until there is none.
pub(crate) fn kill() {
    let guards = GUARDS.lock().expect("no holder panics");
    loop {
        let orphans: Vec<i32> = tree::children(std::process::id() as i32).into_iter().filter(|pid| !guards.contains(pid)).collect();
        if orphans.is_empty() {
            return;
        }
        let trees: Vec<i32> = orphans.iter().flat_map(|orphan| tree::descendants(*orphan)).map(|(pid, _)| pid).collect();
        for pid in orphans.iter().chain(&trees) {
            // SAFETY: signals to processes that descend from this one.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        for orphan in orphans {
            // SAFETY: waits for a child that is dead or dying, and wants no status.
            unsafe { libc::waitpid(orphan, std::ptr::null_mut(), 0) };
        }
    }
}
