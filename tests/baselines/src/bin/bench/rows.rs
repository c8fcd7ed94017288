//! What is compared with what, and how near it must come.

use std::io;

use crate::cluster::{Cluster, PAIR, QUARTET, Shape, Strike};
use crate::data::{Data, Input, LINE_BYTES};
use crate::held::cannot_hold;
use crate::process::Program;

/// One job against its limits.
pub struct Row {
    pub name: &'static str,
    pub limits: Vec<Program>,
    pub job: Program,
    pub goal: Goal,
    /// The job gets a quarter of the memory that the last limit, which is the job itself, has used.
    pub quarter_of_memory: bool,
    /// The job is submitted to a cluster that is there already, and so is its limit if something befalls the cluster.
    pub cluster: Option<Shape>,
    /// What befalls the cluster when half the time is over that the job takes otherwise.
    pub strike: Option<Strike>,
    pub needs: Needs,
}

pub enum Goal {
    /// How many times the limit's time the job may take.
    Ratio { must: f64, aim: f64 },
    /// How long the job may take.
    Seconds { must: f64, aim: f64 },
}

/// What must be there before a row can run.
pub struct Needs {
    pub files: Vec<Input>,
    memory_gb: u64,
    disk_gb: u64,
}

impl Row {
    /// Says what the machine has too little of, if anything.
    pub fn lacks(&self, data: &Data) -> io::Result<Option<String>> {
        let (memory, disk) = (free_memory_gb(), free_disk_gb(data)?);
        let Needs { memory_gb, disk_gb, .. } = self.needs;
        let is_held = self.cluster.is_some_and(|shape| shape.core_percent.is_some());
        Ok(if let Some(reason) = is_held.then(cannot_hold).flatten() {
            Some(reason)
        } else if memory.is_some_and(|free| free < memory_gb) {
            Some(format!("as it needs {memory_gb} GB of free memory"))
        } else if disk < disk_gb {
            Some(format!("as it needs {disk_gb} GB of free disk"))
        } else {
            None
        })
    }
}

fn free_memory_gb() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024 / 1_000_000_000)
}

fn free_disk_gb(data: &Data) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(data.directory())?;
    Ok(disk.f_bavail * disk.f_frsize / 1_000_000_000)
}

const Q1: &str = "--group-by city,category --aggregate count() --aggregate sum(quantity) \
    --aggregate sum(price*quantity) --aggregate avg(discount) --aggregate max(price)";
const Q2: &str = "--group-by customer --aggregate count() --aggregate sum(price*quantity)";
const RECORDS: &str = "--input-format fixed:100 --key 0..10";

/// The table of speeds, row by row.
pub fn all(data: &Data, large: bool) -> io::Result<Vec<Row>> {
    use Input::{Kilobyte, Lines, Natural, Records2, Records10, SalesCsv, SalesParquet, Zipf, ZipfManifold};

    let job = |name, input, flags: &str| {
        let (input, output) = (data.path(input), data.output().join("job").display().to_string());
        let run = format!("run --input {input} --output {output} --overwrite -q --threads 2 {flags}");
        Program::ours(name, run.trim_end())
    };
    let limit = |program: &str, input, rest: &str| {
        let (input, output) = (data.path(input), data.output().join("limit").display().to_string());
        Program::ours("limit", format!("{program} {input} {output} 2 {rest}").trim_end())
    };
    let row = |name, limits, job, (must, aim), input, memory_gb, disk_gb| Row {
        name,
        limits,
        job,
        goal: Goal::Ratio { must, aim },
        quarter_of_memory: false,
        cluster: None,
        strike: None,
        needs: Needs { files: vec![input], memory_gb, disk_gb },
    };
    let spilling = |row: Row| Row { quarter_of_memory: true, ..row };
    let on_cluster = |row: Row| Row { cluster: Some(PAIR), ..row };
    // Its goals are times, whatever the limit takes.
    let in_seconds = |row: Row| match row.goal {
        Goal::Ratio { must, aim } => Row { goal: Goal::Seconds { must, aim }, ..row },
        Goal::Seconds { .. } => row,
    };
    let submit = |program: &str, input, flags: &str| {
        let (input, output) = (data.path(input), data.output().join("job").display().to_string());
        let to = Cluster::state(data).display().to_string();
        let run = format!("submit {program} --coordinator {to} --input {input} --output {output} --no-durable -q {flags}");
        Program::ours("coordinator", run.trim_end())
    };
    let executable = std::env::current_exe()?.with_file_name("word-count").display().to_string();
    let each_line = format!("--shard-bytes {LINE_BYTES} --partitions 2");

    let mut rows = vec![
        row(
            "word count, Zipf",
            vec![limit("words", Zipf, "")?, limit("emit", Zipf, "")?],
            job("word-count", Zipf, "")?,
            (1.5, 1.1),
            Zipf,
            3,
            2,
        ),
        row(
            "word count, natural",
            vec![limit("words", Natural, "")?, limit("emit", Natural, "")?],
            job("word-count", Natural, "")?,
            (1.6, 1.2),
            Natural,
            3,
            2,
        ),
        row("aggregate q1, CSV", vec![limit("groups q1", SalesCsv, "")?], job("aggregate", SalesCsv, Q1)?, (4.0, 1.6), SalesCsv, 3, 2),
        row("aggregate q2, CSV", vec![limit("groups q2", SalesCsv, "")?], job("aggregate", SalesCsv, Q2)?, (2.0, 1.4), SalesCsv, 5, 3),
        // Must: as fast as DuckDB, which took 1.7 and 1.9 times the limit where both were measured.
        row(
            "aggregate q1, Parquet",
            vec![limit("groups-parquet q1", SalesParquet, "")?],
            job("aggregate", SalesParquet, Q1)?,
            (1.7, 1.25),
            SalesParquet,
            3,
            3,
        ),
        row(
            "aggregate q2, Parquet",
            vec![limit("groups-parquet q2", SalesParquet, "")?],
            job("aggregate", SalesParquet, Q2)?,
            (1.9, 1.25),
            SalesParquet,
            5,
            4,
        ),
        row("sort 2 GiB", vec![limit("sort mem", Records2, "")?], job("sort", Records2, RECORDS)?, (2.0, 1.3), Records2, 8, 7),
        spilling(row(
            "spilling word count, Zipf",
            vec![job("word-count", Zipf, "")?],
            job("word-count", Zipf, "")?,
            (2.5, 1.7),
            Zipf,
            3,
            4,
        )),
        spilling(row(
            "spilling aggregate q2",
            vec![job("aggregate", SalesCsv, Q2)?],
            job("aggregate", SalesCsv, Q2)?,
            (2.5, 1.7),
            SalesCsv,
            5,
            5,
        )),
        in_seconds(row(
            "word count, 1 KB",
            vec![limit("words", Kilobyte, "")?],
            job("word-count", Kilobyte, "")?,
            (0.020, 0.008),
            Kilobyte,
            1,
            2,
        )),
        on_cluster(row(
            "cluster: word count, Zipf",
            vec![job("word-count", Zipf, "")?],
            submit("word-count", Zipf, "")?,
            (1.3, 1.08),
            Zipf,
            13,
            4,
        )),
        on_cluster(row(
            "cluster: sort 2 GiB",
            vec![job("sort", Records2, RECORDS)?],
            submit("sort", Records2, "--input-format fixed:100 -- --key 0..10")?,
            (1.7, 1.25),
            Records2,
            13,
            9,
        )),
        on_cluster(in_seconds(row(
            "cluster: word count, 1 KB",
            vec![job("word-count", Kilobyte, "")?],
            submit(&executable, Kilobyte, "")?,
            (0.150, 0.040),
            Kilobyte,
            1,
            2,
        ))),
        // A millisecond for each shard, or a fifth of one.
        on_cluster(in_seconds(row(
            "cluster: 10,000 shards of a record",
            vec![job("word-count", Lines, &each_line)?],
            submit("word-count", Lines, &each_line)?,
            (10.0, 2.0),
            Lines,
            1,
            2,
        ))),
    ];
    if large {
        let runs = data.output().display().to_string();
        rows.push(row(
            "sort 10 GiB in 1 GiB",
            vec![limit("sort ext", Records10, &format!("1024 {runs}"))?],
            job("sort", Records10, &format!("{RECORDS} --memory 1GiB"))?,
            (1.8, 1.2),
            Records10,
            13,
            45,
        ));
        let struck = |name, shape, strike, goal| -> io::Result<Row> {
            let submit = || submit("word-count", ZipfManifold, "");
            let row = row(name, vec![submit()?], submit()?, goal, ZipfManifold, 13, 6);
            Ok(Row { cluster: Some(shape), strike: Some(strike), ..row })
        };
        rows.push(struck("cluster: one of four workers killed", QUARTET, Strike::Worker, (1.5, 1.35))?);
        rows.push(struck("cluster: coordinator killed and started again", PAIR, Strike::Coordinator, (1.2, 1.05))?);
    }
    Ok(rows)
}
