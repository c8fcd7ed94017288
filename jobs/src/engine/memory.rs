//! The memory budget: how much there is, and how it is shared out.
//!
//! A budget holds for the whole process but for 64 MiB of program. Each thread gets an equal share. While mapping, a share is the reader's
//! blocks and what is collected; while reducing, the blocks that are merged and the writer of the part. What is left unassigned is
//! what allocators, stacks and rounding take.

use std::fs;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use shardmill_datasets::{Compression, Format, InputFile, Plan, PlannedFile, ReadError, Room, RunRequest};

/// The smallest share with which a thread can work, whatever it reads and writes.
const LEAST_SHARE: usize = Room::LEAST_SHARE as usize;

/// A budget that the threads cannot work in.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}{threads} threads need a memory budget of at least {least_mib} MiB, not {given_mib} MiB; give --memory {least_mib}MiB or fewer --threads",
    because.as_ref().map(|cause| format!("{cause}: ")).unwrap_or_default()
)]
pub(crate) struct BudgetTooSmall {
    because: Option<String>,
    threads: usize,
    least_mib: usize,
    given_mib: usize,
}

/// What reading takes on one thread.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) bytes: usize,
    /// What of the input makes it more than usual.
    pub(crate) because: Option<String>,
}

/// What reading the files of a plan takes on one thread, given the memory of all.
///
/// Blocks are of 256 to 512 KiB; for batches their columns come on top, and those that the job computes from them. What a file makes a
/// reader hold (pages, batches, windows) is known from the survey.
pub(crate) fn reading(plan: &Plan, room: Room) -> Result<Reading, ReadError> {
    let share = room.memory_bytes / room.threads;
    let has_batches = plan.schema.is_some() || plan.files.iter().any(|planned| planned.file.format.is_columnar());
    let mut most: (u64, Option<&PlannedFile>) = (0, None);
    for planned in &plan.files {
        // Where the bound does no harm the pages need no look.
        let held = if planned.held_bytes > share / 16 { plan.held_by(planned)? } else { planned.held_bytes };
        if held > most.0 {
            most = (held, Some(planned));
        }
    }
    let because = most.1.map(|planned| {
        let what = match planned.file.format {
            Format::Parquet => "a page of each column",
            Format::Arrow => "a batch",
            _ => "decompressing",
        };
        format!("{what} of {} takes {} MiB in each thread", planned.file.path.display(), most.0.div_ceil(1 << 20))
    });
    let usual: usize = if has_batches { 8 << 20 } else { 3 << 20 };
    Ok(Reading { bytes: usual.saturating_add(usize::try_from(most.0).unwrap_or(usize::MAX)), because })
}

impl BudgetTooSmall {
    fn new(because: Option<String>, least_bytes: usize, given_bytes: usize, threads: usize) -> Self {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        Self { because, threads, least_mib: mib(least_bytes), given_mib: mib(given_bytes) }
    }

    /// Refuses records as long as the request allows where there is no room for them; none of a plain file is longer than that.
    pub(crate) fn check_records(request: &RunRequest, files: &[InputFile], room: Room) -> Result<(), Self> {
        let Some(asked) = request.max_record_bytes else { return Ok(()) };
        let longest = |file: &InputFile| if file.compression == Compression::None { file.bytes } else { u64::MAX };
        let needed = files.iter().map(longest).max().unwrap_or(0).min(asked);
        if needed <= room.record_bytes() {
            return Ok(());
        }
        let because = format!("--max-record-bytes allows records of {} MiB", needed.div_ceil(1 << 20));
        let [least, given, threads] =
            [room.enough_for_record(needed), room.memory_bytes, room.threads].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        Err(Self::new(Some(because), least, given, threads))
    }
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

/// Sizes that no budget would give, for tests: so little data spills, merges and merges again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tight {
    pub(crate) collect_bytes: usize,
    pub(crate) merge_bytes: usize,
    pub(crate) fan_in: usize,
}

impl FromStr for Tight {
    type Err = String;

    /// Reads `12288,4096,3`.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[collect_bytes, merge_bytes, fan_in]) => Ok(Self { collect_bytes, merge_bytes, fan_in }),
            _ => Err("three numbers are wanted: COLLECT,MERGE,FAN_IN".to_owned()),
        }
    }
}

impl Budget {
    /// The smallest share with which a thread can work.
    pub(crate) fn least_share(reading: &Reading, writer_bytes: usize) -> usize {
        LEAST_SHARE.max(writer_bytes / 2 * 3).max(reading.bytes.saturating_mul(2))
    }

    /// Shares `total_bytes` out among `threads`, each of which needs `reading` while it maps and `writer_bytes` while it reduces.
    pub(crate) fn new(total_bytes: usize, threads: usize, reading: &Reading, writer_bytes: usize) -> Result<Self, BudgetTooSmall> {
        let share = total_bytes / threads;
        let least = Self::least_share(reading, writer_bytes);
        if share < least {
            let because = reading.because.clone().filter(|_| least > Self::least_share(&Reading::default(), writer_bytes));
            return Err(BudgetTooSmall::new(because, least.saturating_mul(threads), total_bytes, threads));
        }
        Ok(Self {
            total_bytes,
            collect_bytes: share - share / 8 - reading.bytes,
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
