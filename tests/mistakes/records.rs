//! Bad records: the card that a person gets, and what `--max-bad-records` makes of them.

use std::fs;

use serde_json::Value;
use shardmill_tests::{Job, Place};

/// Three lines that are no UTF-8 among good ones: bytes, and where each bad line begins.
fn text_with_bad_lines() -> (Vec<u8>, [usize; 3]) {
    let (mut bytes, mut bad) = (vec![], [0; 3]);
    for number in 0..3_000 {
        bytes.extend_from_slice(b"good word ");
        if number % 1_000 == 700 {
            bad[number / 1_000] = bytes.len() - 10;
            bytes.extend_from_slice(b"caf\xe9");
        }
        bytes.push(b'\n');
    }
    (bytes, bad)
}

#[test]
fn a_line_that_is_no_utf_8_ends_the_run_with_a_card_that_names_it() {
    let place = Place::new();
    let (bytes, bad) = text_with_bad_lines();
    let input = place.write("text.txt", bytes);
    for flags in ["--threads 1", "--threads 3 --shard-bytes 500"] {
        let told = Job::new("word-count", &place.path("out")).input(&input).with(flags).run().failure(1);
        assert!(told.contains(input.to_str().unwrap()), "{told}");
        assert!(told.contains("UTF-8") && told.contains("good word caf") && told.contains("--max-bad-records"), "{told}");
        assert!(told.contains("line "), "{told}");
        if flags == "--threads 1" {
            assert!(told.contains("line 701,") && told.contains(&format!("byte {};", bad[0])) && told.contains("record 700 "), "{told}");
        }
    }
    assert_eq!(place.names(), ["text.txt"]);
}

#[test]
fn bad_lines_within_the_limit_are_set_aside_with_their_bytes() {
    let place = Place::new();
    let (bytes, bad) = text_with_bad_lines();
    let input = place.write("text.txt", bytes);
    for flags in ["--threads 1", "--threads 3 --shard-bytes 500", "--threads 3 --shard-bytes 500 --tight-buffers 12288,4096,2"] {
        let job = Job::new("word-count", &place.path("out")).input(&input).with("--overwrite --max-bad-records 3").with(flags);
        let (summary, output) = job.run().success();
        assert_eq!((summary.bad_records, summary.input_records), (3, 3_000));
        assert_eq!(output.text(), "word,count\ngood,2997\nword,2997\n", "nothing of a bad record counts");
        let quarantine = fs::read_to_string(output.path.join("_quarantine/records.jsonl")).unwrap();
        let records: Vec<Value> = quarantine.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 3);
        for (record, offset) in records.iter().zip(bad) {
            assert_eq!(record["offset"], offset);
            assert_eq!(record["file"], input.to_str().unwrap());
            assert_eq!(record["hex"], "676f6f6420776f726420636166e9");
            assert!(record["cause"].as_str().unwrap().contains("UTF-8"));
        }
        assert_eq!(output.manifest["set_aside"].as_array().unwrap().len(), 3);
    }
    let job = Job::new("word-count", &place.path("fails")).input(&input).with("--threads 3 --shard-bytes 500 --max-bad-records 2");
    let told = job.run().failure(1);
    assert!(told.contains("UTF-8"), "{told}");
}

#[test]
fn bytes_take_what_is_no_utf_8() {
    let place = Place::new();
    let input = place.write("lines.txt", b"b\xff\nb\x00\n\xfe\na\n");
    let (_, output) = Job::new("sort", &place.path("out")).input(input).with("--key 0..2").run().success();
    assert_eq!(output.parts(), [b"a\nb\x00\nb\xff\n\xfe\n"]);
}

#[test]
fn a_value_that_is_not_of_its_columns_type_is_a_bad_record_that_names_the_schema_flag() {
    let place = Place::new();
    // The type is inferred from the first mebibyte.
    let mut text = String::from("city,n\n");
    (0..200_000).for_each(|number| text += &format!("Faro,{number}\n"));
    let offset = text.len();
    text += "Essen,many\nFaro,1\n";
    let input = place.write("sales.csv", text);
    let job = || Job::new("aggregate", &place.path("out")).input(&input).with("--group-by city --aggregate count() --overwrite");
    let job = || job().arg("--aggregate=sum(n) as n");
    let told = job().run().failure(1);
    for named in ["sales.csv", "many", "--schema", "n", &format!("byte {offset};"), "line 200002"] {
        assert!(told.contains(named), "{named:?} is not in: {told}");
    }
    let (summary, output) = job().with("--max-bad-records 1").run().success();
    assert_eq!(summary.bad_records, 1);
    let (_, parts) = output.csv_parts();
    assert_eq!(parts.concat(), [["Faro", "200001", "19999900001"]]);
    let quarantine = fs::read_to_string(output.path.join("_quarantine/records.jsonl")).unwrap();
    assert!(quarantine.contains("Essen,many"), "{quarantine}");
}

#[test]
fn a_number_with_more_digits_than_its_column_is_a_bad_record_in_every_text_format() {
    let place = Place::new();
    for (name, content) in [("n.csv", "key,n\na,1.505\na,2.25\n"), ("n.jsonl", "{\"key\":\"a\",\"n\":1.505}\n{\"key\":\"a\",\"n\":2.25}\n")]
    {
        let input = place.write(name, content);
        let job = || Job::new("aggregate", &place.path("out")).input(&input).with("--group-by key --overwrite");
        let job = || job().args(["--aggregate", "sum(n) as n", "--schema", "n: decimal(10,2)"]);
        let told = job().run().failure(1);
        assert!(told.contains(name) && told.contains("1.505") && told.contains("--schema"), "{told}");
        let (summary, output) = job().with("--max-bad-records 1").run().success();
        assert_eq!((summary.bad_records, output.text()), (1, "key,n\na,2.25\n".to_owned()));
        std::fs::remove_dir_all(&output.path).unwrap();
    }
}

#[test]
fn of_a_batch_the_rows_are_named_and_set_aside_that_cannot_be_computed() {
    let place = Place::new();
    let rows = || (0..20_000).filter(|n| n % 7 != 3);
    let csv: String = rows().map(|n| format!("{n},\"a, b\n\"\n")).collect();
    let json: String = rows().map(|n| format!("{{\"n\":{n}}}\n\n")).collect();
    // 9000 and 13000 are divided by zero; one of the rows before each is no row.
    for (name, content, lines) in [("n.csv", format!("n,t\nno row\n{csv}"), 2), ("n.jsonl", format!("no row\n{json}"), 2)] {
        let input = place.write(name, &content);
        let job = || Job::new("aggregate", &place.path("out")).input(&input).with("--overwrite --shard-bytes 60000");
        let job =
            || job().args(["--schema", "n: int", "--aggregate", "count() as rows", "--aggregate", "sum(1 / (n - 9000) + 1 / (n - 13000))"]);
        let before = rows().take_while(|n| *n < 9_000).count();
        let line = before * lines + if name == "n.csv" { 3 } else { 2 };
        let told = job().with("--max-bad-records 1 --threads 1").run().failure(1);
        let record = if name == "n.csv" { "9000,\\\"a, b" } else { "{\\\"n\\\":9000}" };
        for piece in [&format!("line {line}, "), record, "divides by zero", name] {
            assert!(told.contains(piece), "{piece} in {told}");
        }
        let (summary, output) = job().with("--max-bad-records 3 --threads 3").run().success();
        assert_eq!(summary.bad_records, 3);
        assert_eq!(output.text().lines().nth(1).unwrap().split(',').next(), Some((rows().count() - 2).to_string().as_str()));
        let quarantine = std::fs::read_to_string(output.path.join("_quarantine/records.jsonl")).unwrap();
        let offsets = [9_000, 13_000]
            .map(|n| content.find(&if name == "n.csv" { format!("\n{n},") } else { format!("\n{{\"n\":{n}}}") }).unwrap() + 1);
        let set_aside: Vec<serde_json::Value> = quarantine.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found: Vec<_> = set_aside[1..].iter().map(|bad| bad["offset"].as_u64().unwrap() as usize).collect();
        assert_eq!(found, offsets, "{quarantine}");
        assert!(set_aside[1]["text"].as_str().unwrap().contains("9000"), "{quarantine}");
        std::fs::remove_dir_all(&output.path).unwrap();
    }
}

#[test]
fn a_ragged_row_is_a_bad_record() {
    let place = Place::new();
    let input = place.write("sales.csv", "city,n\nFaro,1\nEssen\nFaro,2,3\nFaro,4\n");
    let job = || Job::new("aggregate", &place.path("out")).input(&input).with("--group-by city").arg("--aggregate=sum(n) as n");
    let told = job().run().failure(1);
    assert!(told.contains("line 3") && told.contains("Essen"), "{told}");
    let (summary, output) = job().with("--max-bad-records 2").run().success();
    assert_eq!((summary.bad_records, output.text()), (2, "city,n\nFaro,5\n".to_owned()));
}

#[test]
fn a_quote_that_is_never_closed_does_not_swallow_the_file() {
    let place = Place::new();
    let (row, open) = ("Faro,1\n", "\"Essen,2\n");
    // Within what is looked at beforehand it is found before any work is done, and else when it is met.
    for (rows_before, code) in [(1, 2), (300_000, 1)] {
        let input = place.write("sales.csv", "city,n\n".to_owned() + &row.repeat(rows_before) + open + &row.repeat(10_000));
        let job = Job::new("aggregate", &place.path("out")).input(&input).with("--group-by city --max-record-bytes 10KiB");
        let told = job.run().failure(code);
        let offset = (7 * (rows_before + 1)).to_string();
        assert!(told.contains("sales.csv") && told.contains("10240") && told.contains(&offset), "{told}");
    }
}

#[test]
fn a_sum_that_does_not_fit_is_an_error_and_not_another_number() {
    let place = Place::new();
    let number = "9".repeat(37);
    let input = place.write("numbers.csv", "key,n\n".to_owned() + &format!("small,1.0\nlarge,{number}.0\n").repeat(60));
    let job = Job::new("aggregate", &place.path("out")).input(&input).with("--group-by key").arg("--aggregate=sum(n) as total");
    let told = job.run().failure(1);
    assert!(told.contains("total") && told.contains("overflow") && told.contains("large"), "{told}");
}

#[test]
fn a_group_whose_sum_overflows_is_named_by_its_columns() {
    let place = Place::new();
    let most = "9".repeat(38);
    let input = place.write("sums.csv", format!("city,kind,n,d\nGent,a,1,{most}\nFaro,,7,{most}\nFaro,,7,1\n"));
    let job = Job::new("aggregate", &place.path("out")).input(&input).with("--group-by city,kind,n");
    let told = job.arg("--aggregate=sum(d) as total").arg("--schema=d: decimal(38,0)").run().failure(1);
    assert!(told.contains("`total` overflows in the group city = Faro, kind = null, n = 7: it has more than 38 digits"), "{told}");
}
