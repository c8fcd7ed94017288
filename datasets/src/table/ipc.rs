//! Batches of an Arrow IPC file.
//!
//! Owns which batches are read and the cap on their size; decoding is `arrow-ipc`'s. The footer lists where each batch lies;
//! the metadata in front of a batch says how large its buffers are, and a compressed buffer begins with its size:
//!
//! ```text
//!   ARROW1 │ schema │ dictionaries │ batch: metadata, buffers │ batch … │ footer: schema, blocks │ footer's length │ ARROW1
//! ```

use super::conform::{conform, positions};
use super::{Group, TableSpec};
use crate::error::ReadError;
use crate::listing::InputFile;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileReader, read_footer_length};
use arrow::ipc::{Block, Footer, root_as_footer, root_as_message};
use arrow::record_batch::RecordBatch;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What an Arrow file says of itself: its columns, its batches.
pub(crate) fn footer(file: &InputFile) -> Result<(SchemaRef, Vec<Group>), ReadError> {
    let handle = file.open()?;
    with_footer(file, &handle, |footer| {
        let schema = schema(footer)?;
        let group = |block| {
            let (rows, bytes) = batch_size(&handle, block)?;
            Ok(Group { rows, bytes })
        };
        let groups = footer.recordBatches().into_iter().flatten().map(group).collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
        Ok((Arc::new(schema), groups))
    })
}

/// Refuses a file with a batch of more than `limit` bytes, uncompressed, and returns what holding the largest takes. All columns
/// count: a batch is read as a whole.
pub(crate) fn check_batches(file: &InputFile, limit: u64) -> Result<u64, ReadError> {
    let (_, groups) = footer(file)?;
    match groups.iter().enumerate().find(|(_, group)| group.bytes > limit) {
        Some((number, group)) => {
            Err(ReadError::PageTooLarge { path: file.path.clone(), what: format!("batch {number}"), bytes: group.bytes, limit })
        }
        // As it stands in the file, and decompressed or converted.
        None => Ok(2 * groups.iter().map(|group| group.bytes).max().unwrap_or(0)),
    }
}

type Read<T> = Result<T, Box<dyn std::error::Error>>;

fn with_footer<T>(file: &InputFile, handle: &File, read: impl FnOnce(Footer<'_>) -> Read<T>) -> Result<T, ReadError> {
    let run = || -> Read<T> {
        let end = file.bytes.checked_sub(10).ok_or("the file is too short")?;
        let mut tail = [0; 10];
        handle.read_exact_at(&mut tail, end)?;
        let length = read_footer_length(tail)? as u64;
        let start = end.checked_sub(length).ok_or("the footer is longer than the file")?;
        let mut bytes = vec![0; length as usize];
        handle.read_exact_at(&mut bytes, start)?;
        let footer = root_as_footer(&bytes).map_err(|error| error.to_string())?;
        // Whoever reads a block sets as much memory aside as the footer says.
        let mut blocks = footer.recordBatches().into_iter().chain(footer.dictionaries()).flatten();
        if !blocks.all(|block| end_of(block).is_some_and(|end| end <= start)) {
            return Err("a block is longer than the file".into());
        }
        read(footer)
    };
    run().map_err(|error| malformed(file, error.to_string()))
}

/// Where a block ends in the file.
fn end_of(block: &Block) -> Option<u64> {
    let lengths = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
    lengths.into_iter().try_fold(0u64, |end, length| end.checked_add(u64::try_from(length).ok()?))
}

fn schema(footer: Footer<'_>) -> Read<Schema> {
    Ok(try_fb_to_schema(footer.schema().ok_or("the footer has no schema")?)?)
}

/// Rows of a batch and the bytes of its buffers once decompressed.
fn batch_size(handle: &File, block: &Block) -> Read<(u64, u64)> {
    let (start, metadata_bytes) = (u64::try_from(block.offset())?, usize::try_from(block.metaDataLength())?);
    let mut metadata = vec![0; metadata_bytes];
    handle.read_exact_at(&mut metadata, start)?;
    // The length in front of a message has a marker before it, except in files from before 2019.
    let prefix = if metadata.starts_with(&[0xff; 4]) { 8 } else { 4 };
    let message = root_as_message(metadata.get(prefix..).ok_or("a batch without metadata")?).map_err(|error| error.to_string())?;
    let batch = message.header_as_record_batch().ok_or("a block that is no batch")?;
    let mut bytes = 0;
    for buffer in batch.buffers().into_iter().flatten() {
        let stored = u64::try_from(buffer.length())?;
        bytes += match batch.compression() {
            Some(_) if stored >= 8 => {
                let mut length = [0; 8];
                handle.read_exact_at(&mut length, start + metadata_bytes as u64 + u64::try_from(buffer.offset())?)?;
                // Minus one: this buffer was not worth compressing.
                u64::try_from(i64::from_le_bytes(length)).unwrap_or(stored)
            }
            _ => stored,
        };
    }
    Ok((u64::try_from(batch.length())?, bytes))
}

/// Reads pieces of Arrow files; keeps the last file open, its dictionaries included.
#[derive(Default)]
pub(crate) struct IpcTable {
    known: Option<Known>,
    /// The batches that are left.
    batches: std::ops::Range<usize>,
    /// What is left of a batch that is longer than the job wants them.
    rest: Option<RecordBatch>,
}

struct Known {
    file: InputFile,
    handle: File,
    reader: FileReader<File>,
}

impl IpcTable {
    pub(crate) fn open(&mut self, file: &InputFile, batches: std::ops::Range<u32>, spec: &TableSpec) -> Result<(), ReadError> {
        (self.rest, self.batches) = (None, batches.start as usize..batches.end as usize);
        match &self.known {
            Some(known) if known.file == *file => file.check(&known.handle),
            _ => {
                self.known = Some(Known::open(file, spec)?);
                Ok(())
            }
        }
    }

    pub(crate) fn next(&mut self, spec: &TableSpec) -> Result<Option<RecordBatch>, ReadError> {
        let Some(known) = &mut self.known else { return Ok(None) };
        let fail = |detail: String| malformed(&known.file, detail);
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => {
                let Some(number) = self.batches.next() else {
                    return known.file.check(&known.handle).map(|()| None);
                };
                let read = known.reader.set_index(number).and_then(|()| known.reader.next().transpose());
                let batch =
                    read.map_err(|error: ArrowError| fail(error.to_string()))?.ok_or_else(|| fail(format!("batch {number} is missing")))?;
                conform(&batch, &spec.schema, spec.keep_dictionaries).map_err(fail)?
            }
        };
        if batch.num_rows() <= spec.batch_rows {
            return Ok(Some(batch));
        }
        self.rest = Some(batch.slice(spec.batch_rows, batch.num_rows() - spec.batch_rows));
        Ok(Some(batch.slice(0, spec.batch_rows)))
    }
}

impl Known {
    fn open(file: &InputFile, spec: &TableSpec) -> Result<Self, ReadError> {
        let fail = |detail: String| malformed(file, detail);
        let handle = file.open()?;
        let stored = with_footer(file, &handle, schema)?;
        let columns = positions(&spec.schema, stored.fields().iter().map(|field| field.name().as_str())).map_err(fail)?;
        let reading = handle.try_clone().map_err(|source| file.io_error(0, source))?;
        let reader = FileReader::try_new(reading, Some(columns)).map_err(|error| fail(error.to_string()))?;
        Ok(Self { file: file.clone(), handle, reader })
    }
}

fn malformed(file: &InputFile, detail: String) -> ReadError {
    ReadError::Malformed { path: file.path.clone(), offset: 0, detail }
}
