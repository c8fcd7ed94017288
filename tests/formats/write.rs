//! Input files in the formats that are not plain text.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::ipc::writer::FileWriter;
use bzip2::write::BzEncoder;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

/// A gzip file with one member for each of `pieces`.
pub(crate) fn gzip(pieces: &[&str]) -> Vec<u8> {
    let member = |piece: &&str| {
        let mut encoder = GzEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(piece.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    pieces.iter().flat_map(member).collect()
}

/// A zstd file with one frame for each of `pieces`.
pub(crate) fn zstd(pieces: &[&str]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| zstd::encode_all(piece.as_bytes(), 3).unwrap()).collect()
}

/// A bzip2 file with one stream for each of `pieces`.
pub(crate) fn bzip2(pieces: &[&str]) -> Vec<u8> {
    let stream = |piece: &&str| {
        let mut encoder = BzEncoder::new(vec![], bzip2::Compression::fast());
        encoder.write_all(piece.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    pieces.iter().flat_map(stream).collect()
}

/// A Parquet file in row groups of `rows`.
pub(crate) fn parquet(batch: &RecordBatch, rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build();
    let mut file = vec![];
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    file
}

/// An Arrow file in batches of `rows`.
pub(crate) fn arrow(batch: &RecordBatch, rows: usize) -> Vec<u8> {
    let mut file = vec![];
    let mut writer = FileWriter::try_new(&mut file, &batch.schema()).unwrap();
    for start in (0..batch.num_rows()).step_by(rows) {
        writer.write(&batch.slice(start, rows.min(batch.num_rows() - start))).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    file
}
