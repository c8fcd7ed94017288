//! Shards down to a single byte, and shapes of input that have hardly any.

use std::fs;

use shardmill_tests::oracle::{sorted_by_city_and_price, word_count};
use shardmill_tests::sales::{delimited, sales};
use shardmill_tests::text::text;
use shardmill_tests::{Job, Place, names_in};

#[test]
fn shards_of_any_size_give_each_line_once() {
    let place = Place::new();
    let text = text(20, 12_000);
    let input = place.write("text.txt", &text);
    let expected = word_count([text.as_str()]);
    for shard_bytes in [1, 2, 3, 7, 64, 1_000, 11_999, 12_000, 1 << 30] {
        let job = Job::new("word-count", &place.path("out")).input(&input).with("--overwrite --threads 3 --shard-bytes");
        let (summary, output) = job.arg(shard_bytes.to_string()).run().success();
        assert_eq!(output.csv_parts().1.concat(), expected, "{shard_bytes}");
        assert_eq!(summary.shards, fs::metadata(&input).unwrap().len().div_ceil(shard_bytes));
    }
}

#[test]
fn shards_of_any_size_give_each_csv_record_once_and_in_order() {
    let place = Place::new();
    let sales = sales(21, 150, 7);
    let input = place.write("sales.csv", delimited(&sales, ',', 22));
    let expected = sorted_by_city_and_price(&sales);
    for shard_bytes in [1, 2, 5, 64, 1_000, 1 << 30] {
        let job = Job::new("sort", &place.path("out")).input(&input).with("--key city,price:desc --overwrite --threads 3 --shard-bytes");
        let (summary, output) = job.arg(shard_bytes.to_string()).run().success();
        assert_eq!(output.csv_parts().1.concat(), expected, "{shard_bytes}");
        assert_eq!(summary.input_records, 150, "{shard_bytes}");
    }
}

#[test]
fn a_record_longer_than_many_shards_is_read_once() {
    let place = Place::new();
    let long = "long ".repeat(100_000);
    let input = place.write("text.txt", format!("before\n{long}\nbehind"));
    let (summary, output) = Job::new("word-count", &place.path("out")).input(input).with("--shard-bytes 1000 --threads 3").run().success();
    assert_eq!(output.text(), "word,count\nbefore,1\nbehind,1\nlong,100000\n");
    assert_eq!(summary.input_records, 3);
}

#[test]
fn more_partitions_than_keys_give_valid_empty_parts() {
    let place = Place::new();
    let input = place.write("text.txt", "one two two");
    let (summary, output) = Job::new("word-count", &place.path("out")).input(input).with("--partitions 100").run().success();
    let (header, parts) = output.csv_parts();
    assert_eq!((header.len(), parts.len(), summary.groups), (2, 100, 2));
    let mut rows = parts.concat();
    rows.sort();
    assert_eq!(rows, [["one", "1"], ["two", "2"]]);
}

#[test]
fn ten_thousand_small_files_are_read_as_one_input() {
    let place = Place::new();
    for number in 0..10_000 {
        place.write(&format!("in/{}/{number}.txt", number % 50), format!("same w{}\n", number % 500));
    }
    let (summary, output) = Job::new("word-count", &place.path("out")).input(place.path("in")).with("--threads 3").run().success();
    assert_eq!((summary.input_files, summary.shards, summary.input_records), (10_000, 10_000, 10_000));
    let (_, parts) = output.csv_parts();
    let rows = parts.concat();
    assert_eq!(rows.len(), 501);
    assert_eq!(rows[0], ["same", "10000"]);
    assert!(rows[1..].iter().all(|row| row[1] == "20"));
}

#[test]
fn an_output_can_be_the_next_input() {
    let place = Place::new();
    let text = text(23, 50_000);
    let input = place.write("text.txt", &text);
    let (_, counted) = Job::new("word-count", &place.path("counts")).input(input).with("--partitions 3").run().success();
    assert_eq!(names_in(&counted.path).len(), 4, "three parts and what stands for success, which is no input");
    let job = Job::new("sort", &place.path("top")).input(&counted.path).with("--key count:desc,word --partitions 2");
    let (_, sorted) = job.run().success();
    let mut expected = word_count([text.as_str()]);
    expected.sort_by_key(|row| (std::cmp::Reverse(row[1].parse::<u64>().unwrap()), row[0].clone()));
    assert_eq!(sorted.csv_parts().1.concat(), expected);
}
