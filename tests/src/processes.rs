//! Processes that others have started.

use std::fs;

/// The processes that were started by this one, and by those.
pub fn descendants(process: u32) -> Vec<u32> {
    // Each thread has its own children.
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|children| children.split_whitespace().map(|child| child.parse().unwrap()).collect::<Vec<_>>()).collect();
    let further = children.iter().flat_map(|child| descendants(*child)).collect::<Vec<_>>();
    children.into_iter().chain(further).collect()
}

/// Whether a process is there and is not just waited for.
pub fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
