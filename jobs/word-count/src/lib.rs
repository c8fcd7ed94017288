//! Word count: how often each word occurs in text.

use shardmill::prelude::*;

/// Counts the words between white space.
#[derive(Args, Serialize, Deserialize)]
pub struct WordCount {
    /// Take upper and lower case for the same.
    #[arg(long)]
    pub lowercase: bool,
    /// Leave out words that occur less often.
    #[arg(long, default_value_t = 1)]
    pub min_count: u64,
}

/// A word, and how often it occurs.
#[derive(Debug, Serialize, Deserialize)]
pub struct WordTotal {
    /// The word.
    pub word: String,
    /// Its number of occurrences.
    pub count: u64,
}

impl MapReduce for WordCount {
    type Input = Lines;
    type Key = String;
    type Value = u64;
    type Combine = Sum;
    type Output = WordTotal;

    fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
        if self.lowercase {
            words(&line.to_lowercase()).for_each(|word| out.emit(word, 1));
        } else {
            words(line).for_each(|word| out.emit(word, 1));
        }
        Ok(())
    }

    fn reduce(&self, word: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        let count = counts.sum();
        if count >= self.min_count { out.write(WordTotal { word: word.to_owned(), count }) } else { Ok(()) }
    }
}

/// The README's code, compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
