//! Runs the bundled jobs and the hand-written limits side by side and prints a table of medians and ratios.
//!
//! Times on a shared machine wander by half, ratios much less. So all programs of a row run once to warm up, then in turn
//! (A B A B …), with their input read into the page cache before each run and their output removed after it, and the ratio
//! of a row is the median of the ratios of its rounds.

mod cluster;
mod data;
mod held;
mod idle;
mod process;
mod rows;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Parser;

use cluster::Cluster;
use data::Data;
use process::{Measured, Program};
use rows::{Goal, Row};

/// Compares the jobs with what the machine allows.
#[derive(Parser)]
struct Arguments {
    /// Rows to run: those whose name contains one of these words; all if none is given.
    only: Vec<String>,

    /// Where the data is kept (5.7 GB, made at the first run) and outputs are written.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,

    /// How often the programs of a row run in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Also sorts 10 GiB, which takes 45 GB of disk, and kills parts of a cluster in jobs of a minute.
    #[arg(long)]
    large: bool,
}

/// All rounds of one row, one list of runs per program: the limits, then the job.
struct Outcome {
    row: Row,
    limits: Vec<Vec<Measured>>,
    job: Vec<Measured>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let data = Data::prepare(&arguments.data)?;
    let wanted = |row: &Row| arguments.only.is_empty() || arguments.only.iter().any(|word| row.name.contains(word));
    let mut outcomes = vec![];
    for row in rows::all(&data, arguments.large)?.into_iter().filter(wanted) {
        match row.lacks(&data)? {
            Some(reason) => eprintln!("{}: left out, {reason}", row.name),
            None => {
                let outcome = measure(row, &data, arguments.rounds)?;
                // The table comes at the end, and that may be an hour away.
                eprint!("{}", table::line(&outcome));
                outcomes.push(outcome);
            }
        }
    }
    print!("{}", table::render(&outcomes));
    if arguments.only.is_empty() || arguments.only.iter().any(|word| "cluster: idle".contains(word)) {
        print!("{}", idle::measure(&data)?);
    }
    Ok(())
}

fn measure(mut row: Row, data: &Data, rounds: u32) -> Result<Outcome, Box<dyn Error>> {
    eprintln!("{}: warming up", row.name);
    for &file in &row.needs.files {
        data.make(file)?;
    }
    let mut cluster = row.cluster.map(|shape| Cluster::start(data, shape)).transpose()?;
    let run = |program: &Program, row: &Row| -> Result<Measured, Box<dyn Error>> {
        let output = data.clear_output()?;
        data.warm(&row.needs.files)?;
        let measured = program.run(&data.log())?;
        if program.name != "limit" && !output.join("job/_SUCCESS").exists() {
            return Err(format!("{} has published nothing", program.name).into());
        }
        std::fs::remove_dir_all(output)?;
        Ok(measured)
    };
    let mut peak = 0;
    for limit in &row.limits {
        peak = run(limit, &row)?.peak_bytes;
    }
    if row.quarter_of_memory {
        row.job.arguments.extend(["--memory".into(), format!("{}MiB", peak >> 22)]);
    }
    run(&row.job, &row)?;

    let mut outcome = Outcome { limits: vec![vec![]; row.limits.len()], job: vec![], row };
    // A run of milliseconds is repeated until its median means something.
    let rounds = if matches!(outcome.row.goal, Goal::Seconds { must, .. } if must < 1.0) { rounds * 20 } else { rounds };
    for round in 1..=rounds {
        for (limit, runs) in outcome.row.limits.iter().zip(&mut outcome.limits) {
            runs.push(run(limit, &outcome.row)?);
        }
        let struck = outcome.row.strike.zip(cluster.as_mut());
        let job = match (struck, outcome.limits.last().and_then(|runs| runs.last())) {
            (Some((strike, cluster)), Some(clean)) => {
                let half = Duration::from_secs_f64(clean.seconds / 2.0);
                thread::scope(|scope| {
                    let running = scope.spawn(|| run(&outcome.row.job, &outcome.row).map_err(|error| error.to_string()));
                    thread::sleep(half);
                    cluster.suffer(strike)?;
                    let job = running.join().expect("running a program does not panic")?;
                    cluster.complete()?;
                    Ok::<_, Box<dyn Error>>(job)
                })?
            }
            _ => run(&outcome.row.job, &outcome.row)?,
        };
        if rounds <= 20 {
            eprintln!("{}: round {round} of {rounds}, {:.2} s", outcome.row.name, job.seconds);
        }
        outcome.job.push(job);
    }
    Ok(outcome)
}
