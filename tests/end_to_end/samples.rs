//! The bundled samples give what stands beside them.

use std::fs;
use std::path::PathBuf;

use shardmill_tests::{Job, Place, repository};

fn sample(name: &str) -> PathBuf {
    repository().join("datasets/samples").join(name)
}

fn assert_gives(job: &str, flags: &[&str], input: &str, expected: &str) {
    let place = Place::new();
    let job = flags.iter().fold(Job::new(job, &place.path("out")).input(sample(input)), |job, flag| job.arg(flag));
    let (_, output) = job.run().success();
    assert_eq!(output.text(), fs::read_to_string(sample("expected").join(expected)).unwrap(), "{input}");
}

#[test]
fn word_count_gives_the_expected_words() {
    assert_gives("word-count", &[], "harbour.txt", "words.csv");
}

#[test]
fn aggregate_gives_the_expected_groups_from_csv_and_json_lines() {
    for input in ["sales.csv", "sales.jsonl"] {
        let by_place = [
            "--group-by=city,category",
            "--aggregate=count() as sales",
            "--aggregate=sum(quantity) as units",
            "--aggregate=sum(price * quantity) as revenue",
            "--aggregate=avg(discount) as average_discount",
            "--aggregate=max(price) as highest_price",
        ];
        assert_gives("aggregate", &by_place, input, "sales-by-city-category.csv");
        let by_customer = ["--group-by=customer", "--aggregate=count() as sales", "--aggregate=sum(price * quantity) as revenue"];
        assert_gives("aggregate", &by_customer, input, "sales-by-customer.csv");
    }
}

#[test]
fn sort_gives_the_expected_order() {
    assert_gives("sort", &["--key=city,price:desc"], "sales.csv", "sales-sorted.csv");
}
