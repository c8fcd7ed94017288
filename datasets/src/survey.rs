//! Surveys: what a plan needs from the content of files, in units that any process can run.
//!
//! A unit asks about many small files or a stretch of a large one: where a CSV file's header ends and what it says, what
//! a stretch does to the CSV automaton, what a footer says, how the first records look. What follows from the answers is
//! decided in `plan.rs`. Both directions can be sent over a wire and kept in a journal.

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::block::{BOM, BlockReader, Framing, read_at};
use crate::error::ReadError;
use crate::format::csv::{CsvOptions, CsvState, Dialect, Transition};
use crate::limits::{Limits, Room};
use crate::listing::InputFile;
use crate::shard::Piece;
use crate::stream;
use crate::table;
use crate::table::csv::UNCLOSED;

/// A unit of surveying, see [`Survey::run`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    pub(crate) tasks: Vec<Task>,
    pub(crate) csv: CsvOptions,
    pub(crate) limits: Limits,
    /// The columns asked for, where they are known beforehand.
    pub(crate) columns: Option<Vec<String>>,
}

/// What a [`Survey`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurveyResult {
    pub(crate) findings: Vec<Finding>,
}

/// One question about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// The file's place in the listing.
    pub(crate) index: u32,
    pub(crate) file: InputFile,
    pub(crate) question: Question,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Its columns, if they stand in its first record, and about so many bytes of the records behind them.
    Head { prefix_bytes: u64 },
    /// What the chunks in `start..end` do to the CSV automaton.
    States { start: u64, end: u64, grid: Grid },
    /// Its footer, and whether its pages keep to the limit.
    Footer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Finding {
    Head(Head),
    States(Vec<Transition>),
    Footer(Footer),
}

/// What the footer of a Parquet or Arrow file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    #[serde(with = "schema_bytes")]
    pub(crate) schema: SchemaRef,
    /// The bytes of each row group or batch.
    pub(crate) weights: Vec<u64>,
    /// See [`PlannedFile::held_bytes`](crate::PlannedFile::held_bytes).
    pub(crate) held_bytes: u64,
}

/// The beginning of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The columns of a CSV or TSV file that has a record.
    pub(crate) columns: Option<Vec<String>>,
    /// Where the records behind the header begin.
    pub(crate) start: u64,
    /// The first of them, whole.
    pub(crate) prefix: Vec<u8>,
    /// The window of a zstd file.
    pub(crate) window_bytes: u64,
}

impl Survey {
    /// Returns about how many bytes the survey will read.
    pub fn bytes(&self) -> u64 {
        self.tasks.iter().map(Task::bytes).sum()
    }

    /// Reads what the survey asks for. A pure function of the files; units may run anywhere, in any order, where there is room.
    pub fn run(&self, room: Room) -> Result<SurveyResult, ReadError> {
        let mut blocks = BlockReader::with_limits(64 << 10, self.limits).within(room);
        let findings = self.tasks.iter().map(|task| match task.question {
            Question::Head { prefix_bytes } => self.head(&task.file, prefix_bytes, &mut blocks).map(Finding::Head),
            Question::States { start, end, grid } => self.states(&task.file, start, end, grid).map(Finding::States),
            Question::Footer => self.footer(&task.file).map(Finding::Footer),
        });
        Ok(SurveyResult { findings: findings.collect::<Result<_, _>>()? })
    }

    fn dialect(&self, file: &InputFile) -> Option<Dialect> {
        file.format.delimiter().map(|delimiter| Dialect { delimiter, quotes: self.csv.quotes })
    }

    fn head(&self, file: &InputFile, prefix_bytes: u64, blocks: &mut BlockReader) -> Result<Head, ReadError> {
        let dialect = self.dialect(file);
        let framing = dialect.map_or(Framing::Lines, |Dialect { delimiter, quotes }| Framing::Csv { delimiter, quotes });
        blocks.open(file, &Piece::Whole { start: 0 }, framing)?;
        let mut head = Head { window_bytes: stream::window_bytes(file, &file.open()?, self.limits)?, ..Head::default() };
        while head.columns.is_none() && dialect.is_some() || (head.prefix.len() as u64) < prefix_bytes {
            let Some(block) = blocks.next()? else { break };
            let mut body = 0;
            if let (None, Some(dialect)) = (&head.columns, dialect) {
                let Some((at, record)) = dialect.records(block.bytes).next() else { continue };
                let offset = block.offset + at as u64;
                head.columns = Some(columns(file, offset, record, dialect, self.csv.header)?);
                if self.csv.header {
                    if dialect.scan(record, CsvState::Record).state == CsvState::Quoted {
                        let detail = format!("the names of its columns do not end: {UNCLOSED}");
                        return Err(ReadError::Malformed { path: file.path.clone(), offset, detail });
                    }
                    body = (at + record.len() + 1).min(block.bytes.len());
                    head.start = block.offset + body as u64;
                }
            }
            if prefix_bytes > 0 {
                head.prefix.extend_from_slice(&block.bytes[body..]);
            }
        }
        Ok(head)
    }

    fn footer(&self, file: &InputFile) -> Result<Footer, ReadError> {
        let table::Footer { schema, groups } = table::footer(file)?;
        let held_bytes = table::check_pages(file, self.columns.as_deref(), self.limits.page_bytes)?;
        Ok(Footer { schema, weights: groups.iter().map(|group| group.bytes).collect(), held_bytes })
    }

    fn states(&self, file: &InputFile, start: u64, end: u64, grid: Grid) -> Result<Vec<Transition>, ReadError> {
        let dialect = self.dialect(file).expect("only CSV has states");
        let handle = file.open()?;
        let mut buffer = vec![0; 256 << 10];
        let mut transitions = vec![];
        let mut position = start;
        let mut chunk_end = start;
        while position < end {
            let wanted = usize::try_from(end - position).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = read_at(file, &handle, &mut buffer[..wanted], position)?;
            let mut rest = &buffer[..read];
            // A byte order mark is no part of any record.
            let mut body = if position == 0 && rest.starts_with(BOM) { BOM.len() } else { 0 };
            while !rest.is_empty() {
                if position == chunk_end {
                    transitions.push(Transition::identity());
                    chunk_end = grid.chunk_end(position).min(end);
                }
                let length = usize::try_from(chunk_end - position).map_or(rest.len(), |left| left.min(rest.len()));
                let (piece, after) = rest.split_at(length);
                let last = transitions.last_mut().expect("a chunk was begun");
                last.extend(dialect, &piece[body.min(length)..]);
                body = body.saturating_sub(length);
                position += length as u64;
                rest = after;
            }
        }
        file.check(&handle)?;
        Ok(transitions)
    }
}

impl Task {
    pub(crate) fn bytes(&self) -> u64 {
        const OPENING: u64 = 64 << 10;
        match self.question {
            Question::Head { prefix_bytes } => OPENING + prefix_bytes,
            Question::States { start, end, .. } => OPENING + end - start,
            Question::Footer => 4 * OPENING,
        }
    }
}

/// How a CSV file is cut: into shards, and these into chunks, from which samples can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grid {
    pub(crate) shard_bytes: u64,
    /// At most that of a shard.
    pub(crate) chunk_bytes: u64,
}

impl Grid {
    /// Returns where the chunk that holds byte `position` ends.
    pub(crate) fn chunk_end(self, position: u64) -> u64 {
        let shard = position / self.shard_bytes * self.shard_bytes;
        let chunks = (position - shard) / self.chunk_bytes + 1;
        shard + (chunks * self.chunk_bytes).min(self.shard_bytes)
    }

    /// Returns the number of the chunk that holds byte `position`.
    pub(crate) fn chunk_at(self, position: u64) -> usize {
        let per_shard = self.shard_bytes.div_ceil(self.chunk_bytes);
        (position / self.shard_bytes * per_shard + position % self.shard_bytes / self.chunk_bytes) as usize
    }

    /// Returns where the chunk that holds byte `position` begins.
    pub(crate) fn chunk_start(self, position: u64) -> u64 {
        position - position % self.shard_bytes % self.chunk_bytes
    }
}

/// Names the columns by the fields of a file's first record, or by their numbers if that is no header.
fn columns(file: &InputFile, offset: u64, record: &[u8], dialect: Dialect, header: bool) -> Result<Vec<String>, ReadError> {
    let name = |(at, field)| match String::from_utf8(field) {
        _ if !header => Ok(format!("column_{}", at + 1)),
        Ok(name) => Ok(name),
        Err(_) => {
            let detail = format!("the name of column {} is not utf-8", at + 1);
            Err(ReadError::Malformed { path: file.path.clone(), offset, detail })
        }
    };
    dialect.fields(record).into_iter().enumerate().map(name).collect()
}

/// Schemas in the encoding of Arrow's own files.
pub mod schema_bytes {
    use std::sync::Arc;

    use arrow::datatypes::SchemaRef;
    use arrow::ipc::convert::{IpcSchemaEncoder, try_fb_to_schema};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a schema.
    pub fn serialize<S: Serializer>(schema: &SchemaRef, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(IpcSchemaEncoder::new().schema_to_fb(schema).finished_data())
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SchemaRef, D::Error> {
        decode(&Vec::deserialize(deserializer)?)
    }

    fn decode<E: Error>(bytes: &[u8]) -> Result<SchemaRef, E> {
        let schema = arrow::ipc::root_as_schema(bytes).map_err(E::custom)?;
        try_fb_to_schema(schema).map(Arc::new).map_err(E::custom)
    }

    /// The same for a schema that may be missing; no encoded schema is empty.
    pub mod optional {
        use super::*;

        /// Writes a schema, or that there is none.
        pub fn serialize<S: Serializer>(schema: &Option<SchemaRef>, serializer: S) -> Result<S::Ok, S::Error> {
            match schema {
                Some(schema) => super::serialize(schema, serializer),
                None => serializer.serialize_bytes(&[]),
            }
        }

        /// Reads what may be one.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SchemaRef>, D::Error> {
            let bytes = Vec::<u8>::deserialize(deserializer)?;
            if bytes.is_empty() { Ok(None) } else { decode(&bytes).map(Some) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_cut_every_shard_evenly((shard_bytes, chunk_bytes) in (1..50u64).prop_flat_map(|most| (Just(most), 1..=most)), bytes in 1..400u64) {
            let grid = Grid { shard_bytes, chunk_bytes };
            let (mut position, mut number) = (0, 0);
            while position < bytes {
                let end = grid.chunk_end(position);
                prop_assert!(position < end && end - position <= chunk_bytes);
                prop_assert!(position / shard_bytes == (end - 1) / shard_bytes);
                for inside in position..end {
                    prop_assert_eq!((grid.chunk_at(inside), grid.chunk_start(inside)), (number, position));
                }
                (position, number) = (end, number + 1);
            }
            prop_assert_eq!(grid.chunk_at(shard_bytes) as u64, shard_bytes.div_ceil(chunk_bytes));
        }
    }
}
