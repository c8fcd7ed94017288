//! Trees of processes, as /proc shows them: who descends from whom, and how much memory they have together.

use std::collections::BTreeMap;
use std::fs;

/// A process, as its line in /proc says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    parent: i32,
    state: char,
}

/// All processes of the machine, by their parents.
fn by_parent() -> BTreeMap<i32, Vec<(i32, char)>> {
    let mut children: BTreeMap<i32, Vec<(i32, char)>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some(status) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(parse_stat) {
            children.entry(status.parent).or_default().push((pid, status.state));
        }
    }
    children
}

/// The children of a process, ended ones that nobody has waited for included.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    by_parent().remove(&parent).unwrap_or_default().into_iter().map(|(pid, _)| pid).collect()
}

/// All descendants of a process that are alive, each with whether it is stopped.
///
/// Looks at every process of the machine, so it misses none that exists all the while: for killing, not for watching.
pub(crate) fn descendants(root: i32) -> Vec<(i32, bool)> {
    let mut children = by_parent();
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(parent) = next.pop() {
        for (pid, state) in children.remove(&parent).unwrap_or_default() {
            next.push(pid);
            if !matches!(state, 'Z' | 'X') {
                found.push((pid, matches!(state, 'T' | 't')));
            }
        }
    }
    found
}

/// Reads `pid (name) state parent …`. The name is the process's own choice and may hold anything, parentheses included.
fn parse_stat(line: &str) -> Option<Status> {
    let mut words = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    Some(Status { parent: words.next()?.parse().ok()?, state })
}

/// The memory of a process and of all that descends from it: what cannot be given back to a file.
///
/// Mapped files are left out, as the system takes their pages back when it needs them. Cheap: it reads what the tree itself
/// has in /proc. Processes that come and go meanwhile may be missed.
pub(crate) fn memory_bytes(root: i32) -> u64 {
    let (mut total, mut next) = (0, vec![root]);
    while let Some(pid) = next.pop() {
        total += own_memory_bytes(pid);
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for children in threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()) {
            next.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    total
}

fn own_memory_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kibibytes = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    let counted = status.lines().filter(|line| ["RssAnon:", "RssShmem:", "VmSwap:"].iter().any(|name| line.starts_with(name)));
    counted.filter_map(kibibytes).sum::<u64>() << 10
}

/// How many processes the system has killed for want of memory since it started.
pub(crate) fn killed_for_memory() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let counter = counters.lines().find_map(|line| line.strip_prefix("oom_kill "));
    counter.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        assert_eq!(parse_stat("7 (a) Z 1 (b) S 12 7 7 0"), Some(Status { parent: 12, state: 'S' }));
        assert_eq!(parse_stat("7 (cut"), None);
    }

    #[test]
    fn a_child_and_its_memory_are_seen_from_here() {
        let here = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let found = descendants(here);
        let (own, with_child) = (own_memory_bytes(here), memory_bytes(here));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&(pid, false)), "{found:?}");
        assert!(own > 0 && with_child > 0);
        assert!(!descendants(here).iter().any(|(found, _)| *found == pid));
    }
}
