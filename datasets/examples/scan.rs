//! Measures how fast a file is surveyed and read as blocks, in CPU time of this one thread.
//!
//! `cargo run --release -p shardmill-datasets --example scan -- FILE…`

use std::error::Error;
use std::time::Instant;

use shardmill_datasets::{BlockReader, Draft, PlanOptions, Room, Shape, list};

fn main() -> Result<(), Box<dyn Error>> {
    let inputs: Vec<_> = std::env::args().skip(1).collect();
    for _ in 0..5 {
        let draft = Draft::new(list(&inputs, None)?, PlanOptions::new(Shape::Bytes))?;
        let start = Instant::now();
        let results = draft.surveys().iter().map(|survey| survey.run(Room::ENDLESS)).collect::<Result<_, _>>()?;
        let surveyed = start.elapsed();
        let plan = draft.finish(results)?;

        let mut blocks = BlockReader::new(256 << 10, plan.options.limits.record_bytes);
        let (mut count, mut bytes) = (0, 0);
        let start = Instant::now();
        for shard in &plan.shards {
            let framing = plan.framing(shard.file).ok_or("only formats that are read as blocks")?;
            blocks.open(&plan.files[shard.file as usize].file, &shard.piece, framing)?;
            while let Some(block) = blocks.next()? {
                count += 1;
                bytes += block.bytes.len();
            }
        }
        let read = start.elapsed();
        println!(
            "survey {surveyed:.3?}  blocks {read:.3?}  {:.1} GB/s  {count} blocks, {bytes} bytes, {} shards",
            bytes as f64 / read.as_secs_f64() / 1e9,
            plan.shards.len()
        );
    }
    Ok(())
}
