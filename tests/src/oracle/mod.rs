//! What jobs must give, computed in the plainest way: everything in memory, in ordered maps, with exact numbers.

mod exact;
mod groups;

use std::collections::BTreeMap;

pub use exact::{FloatSum, decimal, quotient_half_even};
pub use groups::{GROUP_FLAGS, group_by_city_and_category, sorted_by_city_and_price};

/// How often each word occurs, as rows of word-count, words in the order of their bytes.
pub fn word_count<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Vec<String>> {
    let mut counts = BTreeMap::<&str, u64>::new();
    for word in texts.into_iter().flat_map(str::split_whitespace) {
        *counts.entry(word).or_default() += 1;
    }
    counts.into_iter().map(|(word, count)| vec![word.to_owned(), count.to_string()]).collect()
}
