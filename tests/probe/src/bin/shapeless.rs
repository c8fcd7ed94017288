//! A job whose rows are maps: which columns they have is known only when they are there. It is refused before any work.

use std::collections::HashMap;
use std::process::ExitCode;

use shardmill::prelude::*;

/// Counts words, each in a column of its own.
#[derive(Args, Serialize, Deserialize)]
struct Shapeless {}

impl MapReduce for Shapeless {
    type Input = Lines;
    type Key = String;
    type Value = u64;
    type Combine = Sum;
    type Output = HashMap<String, u64>;

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        words(line).for_each(|word| out.emit(word, 1));
        Ok(())
    }

    fn reduce(&self, word: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        out.write(HashMap::from([(word.to_owned(), counts.sum())]))
    }
}

fn main() -> ExitCode {
    shardmill::main::<Shapeless>()
}
