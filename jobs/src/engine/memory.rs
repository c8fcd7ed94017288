//! The memory budget: how much there is, and how it is shared out.
//!
//! A budget holds for the whole process but for 64 MiB of program. Each thread gets an equal share. While mapping, a share is the reader's
//! blocks and what is collected; while reducing, the blocks that are merged and the writer of the part. What is left unassigned is
//! what allocators, stacks and rounding take.

use std::fs;

/// The smallest share with which a thread can work: blocks to read, a table, and blocks to merge.
const LEAST_SHARE: usize = 12 << 20;

/// A budget that the threads cannot work in.
#[derive(Debug, thiserror::Error)]
#[error(
    "{threads} threads need a memory budget of at least {least_mib} MiB, not {given_mib} MiB; give --memory {least_mib}MiB or fewer --threads"
)]
pub(crate) struct BudgetTooSmall {
    threads: usize,
    least_mib: usize,
    given_mib: usize,
}

/// A memory budget, shared out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) total_bytes: usize,
    /// What a thread may collect in memory.
    pub(crate) collect_bytes: usize,
    /// What a thread may use to merge.
    pub(crate) merge_bytes: usize,
    /// The size of blocks in runs.
    pub(crate) block_bytes: usize,
}

impl Budget {
    /// Shares `total_bytes` out among `threads`, each of which needs `reader_bytes` while it maps and `writer_bytes` while it reduces.
    pub(crate) fn new(total_bytes: usize, threads: usize, reader_bytes: usize, writer_bytes: usize) -> Result<Self, BudgetTooSmall> {
        let share = total_bytes / threads;
        let least = LEAST_SHARE.max(2 * reader_bytes).max(2 * writer_bytes);
        if share < least {
            let mib = |bytes: usize| bytes.div_ceil(1 << 20);
            return Err(BudgetTooSmall { threads, least_mib: mib(least * threads), given_mib: mib(total_bytes) });
        }
        Ok(Self {
            total_bytes,
            collect_bytes: share - share / 8 - reader_bytes,
            // Hundreds of buffers, each rounded up by the allocator: half of the share is what they may add up to.
            merge_bytes: share / 2 - writer_bytes / 2,
            block_bytes: (share / 512).clamp(16 << 10, 256 << 10),
        })
    }
}

/// The memory that this process may use: the machine's, or that of its control group where that is less.
///
/// ```
/// assert!(shardmill::system_memory() > 0);
/// ```
pub fn system_memory() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
    });
    [machine, control_group_limit()].into_iter().flatten().min().unwrap_or(4 << 30)
}

/// The smallest limit of the control groups that this process is in, under version 2 or 1.
fn control_group_limit() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let (root, file) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                list if list.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            // A limit may stand at any level above; inside a container the path may not exist, and the root is the own group.
            let mut limits = Vec::new();
            let mut level = Some(std::path::Path::new(path.trim_start_matches('/')));
            while let Some(group) = level {
                let limit = fs::read_to_string(std::path::Path::new(root).join(group).join(file)).ok();
                limits.extend(limit.and_then(|text| text.trim().parse::<usize>().ok()));
                level = group.parent();
            }
            limits.into_iter().min()
        })
        .min()
}
