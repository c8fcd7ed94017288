//! The table of medians, as Markdown.

use crate::Outcome;
use crate::process::Measured;
use crate::rows::Goal;

/// One line per row: medians of the fastest limit and of the job, the median of their ratios with its range, and the goals.
pub fn render(outcomes: &[Outcome]) -> String {
    let head = "| job | limit | shardmill | ratio (range) | must | aim | peak memory, limit | peak memory, shardmill |\n\
                |---|---|---|---|---|---|---|---|\n";
    head.to_owned() + &outcomes.iter().map(line).collect::<String>()
}

/// The line of one row.
pub fn line(outcome: &Outcome) -> String {
    let job = seconds(&outcome.job);
    let limit =
        outcome.limits.iter().min_by(|one, two| median(seconds(one)).total_cmp(&median(seconds(two)))).expect("every row has a limit");
    let ratios: Vec<f64> = job.iter().zip(seconds(limit)).map(|(job, limit)| job / limit).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0), |(least, most): (f64, f64), &ratio| (least.min(ratio), most.max(ratio)));
    let ratio = median(ratios);
    let (reached, must, aim) = match outcome.row.goal {
        Goal::Ratio { must, aim } => (verdict(ratio, must, aim), format!("{must} ×"), format!("{aim} ×")),
        Goal::Seconds { must, aim } => (verdict(median(job.clone()), must, aim), time(must), time(aim)),
    };
    format!(
        "| {} | {} | {} | {ratio:.2} ({least:.2}–{most:.2}) {reached} | {must} | {aim} | {} | {} |\n",
        outcome.row.name,
        time(median(seconds(limit))),
        time(median(job)),
        // That of a client that submits says nothing.
        if outcome.row.strike.is_some() { "–".to_owned() } else { memory(limit) },
        if outcome.row.cluster.is_some() { "–".to_owned() } else { memory(&outcome.job) },
    )
}

fn verdict(value: f64, must: f64, aim: f64) -> &'static str {
    if value <= aim {
        "✓✓"
    } else if value <= must {
        "✓"
    } else {
        "✗"
    }
}

fn seconds(runs: &[Measured]) -> Vec<f64> {
    runs.iter().map(|run| run.seconds).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let (middle, odd) = (values.len() / 2, values.len() % 2 == 1);
    if odd { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn time(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// The largest of all runs: a bound that is broken once is broken.
fn memory(runs: &[Measured]) -> String {
    let peak = runs.iter().map(|run| run.peak_bytes).max().unwrap_or(0);
    format!("{} MiB", peak >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middle_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
