//! What the footers of columnar files say: their columns, and how heavy the pieces are that they can be cut into.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::ipc;
use serde::{Deserialize, Serialize};

use crate::error::ReadError;
use crate::format::Format;
use crate::listing::InputFile;

/// What the footer of one file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    #[serde(with = "super::schema_bytes")]
    pub(crate) schema: SchemaRef,
    /// The bytes on disk of each row group or batch.
    pub(crate) weights: Vec<u64>,
}

impl Footer {
    /// Reads the footer of a Parquet or Arrow file.
    pub(crate) fn read(input: &InputFile) -> Result<Self, ReadError> {
        let file = input.open()?;
        let footer = if input.format == Format::Arrow { arrow(&file, input.bytes) } else { parquet(input, &file)? };
        footer.map_err(|detail| {
            let detail = format!("this is no readable {} file: {detail}", input.format);
            ReadError::Malformed { path: input.path.clone(), offset: input.bytes, detail }
        })
    }
}

#[cfg(feature = "parquet")]
fn parquet(_: &InputFile, file: &File) -> Result<Result<Footer, String>, ReadError> {
    use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

    Ok(ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).map_err(|error| error.to_string()).map(|footer| {
        let groups = footer.metadata().row_groups().iter();
        let weights = groups.map(|group| u64::try_from(group.compressed_size()).unwrap_or(0)).collect();
        Footer { schema: footer.schema().clone(), weights }
    }))
}

#[cfg(not(feature = "parquet"))]
fn parquet(input: &InputFile, _: &File) -> Result<Result<Footer, String>, ReadError> {
    Err(ReadError::Unsupported { path: input.path.clone(), feature: "parquet" })
}

fn arrow(file: &File, bytes: u64) -> Result<Footer, String> {
    let read = |length: usize, behind: u64| -> io::Result<Vec<u8>> {
        let start = bytes.checked_sub(behind).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, start)?;
        Ok(buffer)
    };
    let end = read(10, 10).map_err(|error| error.to_string())?;
    let length = ipc::reader::read_footer_length(end.try_into().expect("ten bytes were read")).map_err(|error| error.to_string())?;
    if length as u64 > bytes {
        return Err("its footer is longer than the file".to_owned());
    }
    let footer = read(length, length as u64 + 10).map_err(|error| error.to_string())?;
    let footer = ipc::root_as_footer(&footer).map_err(|error| error.to_string())?;
    let schema = footer.schema().ok_or("its footer has no schema")?;
    let schema = ipc::convert::try_fb_to_schema(schema).map_err(|error| error.to_string())?;
    let batches = footer.recordBatches().into_iter().flatten();
    let weights =
        batches.map(|batch| u64::try_from(batch.bodyLength()).unwrap_or(0) + batch.metaDataLength().unsigned_abs() as u64).collect();
    Ok(Footer { schema: Arc::new(schema), weights })
}
