//! What a build that leaves formats out says of their files: `cargo test -p shardmill-datasets --no-default-features --test without_features`.
#![cfg(not(any(feature = "bzip2", feature = "parquet", feature = "zstd")))]
#![allow(clippy::unwrap_used)]

use shardmill_datasets::{Compression, Draft, InputFile, OutputFormat, PlanOptions, Shape, SinkSpec};

#[test]
fn files_of_formats_that_were_left_out_are_refused_before_any_work_by_the_features_name() {
    let folder = tempfile::tempdir().unwrap();
    for (name, shape, feature) in
        [("a.parquet", Shape::Batches, "parquet"), ("a.txt.zst", Shape::Lines, "zstd"), ("a.csv.bz2", Shape::Rows, "bzip2")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, "whatever").unwrap();
        let file = InputFile::at(&path, None).unwrap();
        let told = Draft::new(vec![file], PlanOptions::new(shape)).unwrap_err().to_string();
        assert!(told.contains(name) && told.contains(&format!("without the feature '{feature}'")), "{told}");
    }
}

#[test]
fn parts_that_cannot_be_written_are_refused_by_the_features_name() {
    let refused = |format, compression| SinkSpec { format, compression, schema: None }.check().unwrap_err().to_string();
    assert!(refused(OutputFormat::Parquet, Compression::None).contains("without the feature 'parquet'"));
    assert!(refused(OutputFormat::Csv, Compression::Zstd).contains("without the feature 'zstd'"));
}

#[test]
fn what_is_left_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv.gz");
    std::fs::write(&path, "").unwrap();
    assert!(Draft::new(vec![InputFile::at(&path, None).unwrap()], PlanOptions::new(Shape::Rows)).is_ok());
    assert!(SinkSpec { format: OutputFormat::Csv, compression: Compression::Gzip, schema: None }.check().is_ok());
}
