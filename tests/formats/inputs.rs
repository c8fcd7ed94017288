//! Tables: the same sales in every format give the same groups.

use shardmill_tests::oracle::GROUP_FLAGS;
use shardmill_tests::sales::{COLUMNS, batch, delimited, json_lines, sales};
use shardmill_tests::{Job, Output, Place, Summary};

use crate::write::{arrow, gzip, parquet, zstd};

fn group(place: &Place, name: &str, flags: &str) -> (Summary, Output) {
    let job = Job::new("aggregate", &place.path("out")).with("--overwrite --partitions 2").with(flags).input(place.path(name));
    job.args(GROUP_FLAGS).run().success()
}

#[test]
fn all_formats_give_the_same_groups() {
    let place = Place::new();
    let sales = sales(40, 5_000, 100);
    let (text, rows) = (delimited(&sales, ',', 41), batch(&sales));
    let expected = {
        place.write("sales.csv", &text);
        group(&place, "sales.csv", "").1.parts()
    };
    for (name, content, least_shards) in [
        ("sales.tsv", delimited(&sales, '\t', 42).into_bytes(), 10),
        ("sales.jsonl", json_lines(&sales).into_bytes(), 10),
        ("sales.parquet", parquet(&rows, 300), 17),
        ("sales.arrow", arrow(&rows, 250), 20),
        ("sales.csv.gz", gzip(&[&text]), 1),
        ("sales.jsonl.zst", zstd(&[&json_lines(&sales)]), 1),
    ] {
        place.write(name, content);
        let (summary, output) = group(&place, name, "--shard-bytes 4000");
        assert!(output.parts() == expected, "{name}");
        assert!(summary.shards >= least_shards, "{name}: {} shards", summary.shards);
        assert_eq!(summary.input_records, 5_000, "{name}");
    }
    let parts = [&sales[..2_000], &sales[2_000..2_001], &sales[2_001..]];
    parts.iter().zip(["a", "b", "c"]).for_each(|(part, name)| drop(place.write(&format!("many/{name}.csv"), delimited(part, ',', 43))));
    assert!(group(&place, "many", "").1.parts() == expected, "each file has a header of its own");
}

#[test]
fn a_format_can_be_given_where_the_name_says_none() {
    let place = Place::new();
    let sales = sales(44, 200, 10);
    place.write("sales.csv", delimited(&sales, ',', 45));
    let expected = group(&place, "sales.csv", "").1.parts();
    place.write("sales.data", delimited(&sales, ',', 46));
    assert_eq!(group(&place, "sales.data", "--input-format csv").1.parts(), expected);
    place.write("sales.dat", parquet(&batch(&sales), 100));
    assert_eq!(group(&place, "sales.dat", "--input-format parquet").1.parts(), expected);
}

#[test]
fn columns_are_found_by_name_in_each_file() {
    let place = Place::new();
    place.write("in/a.csv", "city,n\nFaro,1\nEssen,2\n");
    place.write("in/b.csv", "n,more,city\r\n10,x,Faro\r\n");
    place.write("in/c.jsonl", "{\"city\":\"Essen\",\"n\":20}\n{\"n\":5,\"city\":\"Faro\"}\n");
    let job = Job::new("aggregate", &place.path("out")).input(place.path("in"));
    let (_, output) = job.with("--group-by city").arg("--aggregate=sum(n) as n").run().success();
    assert_eq!(output.text(), "city,n\nEssen,22\nFaro,16\n");
}

#[test]
fn a_file_without_a_header_has_numbered_columns() {
    let place = Place::new();
    let input = place.write("in.csv", "Faro,1\nEssen,2\nFaro,3\n");
    let job = Job::new("aggregate", &place.path("out")).input(input).with("--csv-header none --group-by column_1");
    let (_, output) = job.arg("--aggregate=sum(column_2) as n").run().success();
    assert_eq!(output.text(), "column_1,n\nEssen,2\nFaro,4\n");
}

#[test]
fn without_quotes_a_quote_is_a_character_like_any_other() {
    let place = Place::new();
    let input = place.write("in.csv", "name,n\n\"a,1\nb\",2\n");
    let job = Job::new("aggregate", &place.path("out")).input(input).with("--csv-quotes none --group-by name");
    let (_, output) = job.arg("--aggregate=sum(n) as n").run().success();
    assert_eq!(output.csv_parts().1.concat(), [["\"a", "1"], ["b\"", "2"]]);
}

#[test]
fn a_table_without_rows_gives_a_header() {
    let place = Place::new();
    place.write("empty.csv", COLUMNS.join(",") + "\n");
    place.write("empty.parquet", parquet(&batch(&[]), 10));
    place.write("empty.arrow", arrow(&batch(&[]), 10));
    for name in ["empty.parquet", "empty.arrow"] {
        let (summary, output) = group(&place, name, "");
        assert_eq!((summary.input_records, summary.output_records), (0, 0), "{name}");
        assert_eq!(output.csv_parts().0.len(), 9);
    }
    let (_, output) = Job::new("sort", &place.path("out")).input(place.path("empty.csv")).with("--overwrite --key id").run().success();
    assert_eq!(output.text(), COLUMNS.join(",") + "\n");
}
