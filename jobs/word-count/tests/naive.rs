//! The job against the plainest way of counting words.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shardmill::testing;
use word_count::WordCount;

/// Words with white space of all kinds between them, some of it at line ends.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![4 => "[a-cA-C]{1,3}", 1 => "[éÉßſ東京]{1,3}", 1 => "[a-z,\"]{1,30}"];
    let space = prop_oneof![4 => Just(" "), 2 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\t\u{3000}"), 1 => Just("\u{a0}\r")];
    prop::collection::vec((word, space), 0..200).prop_map(|pairs| pairs.into_iter().map(|(word, space)| word + space).collect())
}

/// As the csv crate would quote it.
fn quoted(word: &str) -> String {
    if word.contains([',', '"']) { format!("\"{}\"", word.replace('"', "\"\"")) } else { word.to_owned() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_totals_are_those_of_a_map_filled_word_by_word(text in text(), lowercase in any::<bool>(), min_count in 1u64..4) {
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        for line in text.split('\n') {
            let line = if lowercase { line.to_lowercase() } else { line.to_owned() };
            for word in line.split_whitespace() {
                *totals.entry(word.to_owned()).or_default() += 1;
            }
        }
        let rows = totals.iter().filter(|(_, count)| **count >= min_count).map(|(word, count)| format!("{},{count}\n", quoted(word)));
        let expected = "word,count\n".to_owned() + &rows.collect::<String>();
        prop_assert_eq!(testing::run(WordCount { lowercase, min_count }, &text).unwrap(), expected);
    }
}

#[test]
fn no_parameter_has_the_name_of_a_flag() {
    testing::check_parameters::<WordCount>();
}
