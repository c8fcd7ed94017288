//! A query resolved against an input: what the map and reduce sides of the job call.
//!
//! Map: `Plan::rows` computes a batch once, column by column; `Rows` then gives each row's key and folds the row into the state of
//! its group, or all of them are gathered at once where there are few groups (`gather`). Reduce: `Results` collects groups and gives them out as batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;

use crate::accumulate::{Aggregate, Input, Layout};
use crate::column::Column;
use crate::evaluate::EvaluateError;
use crate::expression::{Expression, Node, Type};
use crate::key::{KeyError, Keys, read_key};
use crate::state::States;

/// A query over inputs of one schema.
#[derive(Clone, Debug)]
pub struct Plan {
    groups: Vec<Expression>,
    filter: Option<Expression>,
    layout: Layout,
    schema: SchemaRef,
    /// Of all columns of the output.
    kinds: Vec<Type>,
}

impl Plan {
    pub(crate) fn new(groups: Vec<(String, Expression)>, aggregates: Vec<(String, Aggregate)>, filter: Option<Expression>) -> Self {
        let group_fields = groups.iter().map(|(name, group)| Field::new(name, group.kind.arrow(), true));
        let results = aggregates.iter().map(|(name, aggregate)| Field::new(name, aggregate.kind().arrow(), !aggregate.is_never_null()));
        let schema = Arc::new(Schema::new(group_fields.chain(results).collect::<Vec<_>>()));
        let groups: Vec<Expression> = groups.into_iter().map(|(_, group)| group).collect();
        let aggregates: Vec<Aggregate> = aggregates.into_iter().map(|(_, aggregate)| aggregate).collect();
        let kinds = groups.iter().map(|group| group.kind.clone()).chain(aggregates.iter().map(Aggregate::kind)).collect();
        Self { layout: Layout::new(&aggregates), groups, filter, schema, kinds }
    }

    /// The columns of the output: groups first, then aggregates, each in the order they were given.
    pub fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The state of a group that no row has met: what a query without groups has to say about an empty input.
    pub fn empty_state(&self) -> &States {
        self.layout.empty()
    }

    /// Computes a batch: the condition first, everything else for the rows that meet it.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Rows, EvaluateError> {
        let Some(filter) = &self.filter else { return self.rows_of(batch) };
        let mask = filter.evaluate_truth(batch)?;
        let mask = if mask.null_count() > 0 { prep_null_mask_filter(&mask) } else { mask };
        if mask.true_count() == batch.num_rows() {
            return self.rows_of(batch);
        }
        let batch = filter_record_batch(batch, &mask).map_err(|source| filter.kernel(source))?;
        self.rows_of(&batch).map_err(|error| {
            let rows = UInt32Array::from_iter_values(mask.values().set_indices().map(|row| row as u32));
            error.among(&rows)
        })
    }

    fn rows_of(&self, batch: &RecordBatch) -> Result<Rows, EvaluateError> {
        let group = |group: &Expression| match &group.node {
            // Keys are made of text as it comes, dictionaries included.
            Node::Column(index) if group.kind == Type::Text => Ok(batch.column(*index).clone()),
            _ => group.evaluate(batch),
        };
        let groups = self.groups.iter().map(group).collect::<Result<Vec<ArrayRef>, _>>()?;
        let arguments = self.layout.arguments.iter().map(|argument| argument.evaluate(batch));
        let arguments = arguments.collect::<Result<Vec<ArrayRef>, _>>()?;
        Ok(Rows {
            count: batch.num_rows(),
            keys: Keys::new(groups.into_iter().zip(self.groups.iter().map(|group| &group.kind))),
            inputs: self.layout.inputs(&arguments),
            empty: self.layout.empty().clone(),
        })
    }

    /// A collector of finished groups.
    pub fn results(&self) -> Results {
        Results { plan: self.clone(), columns: self.kinds.iter().cloned().map(Column::new).collect(), offsets: Vec::new(), count: 0 }
    }
}

/// The rows of a batch that meet the condition, ready to be folded.
pub struct Rows {
    count: usize,
    pub(crate) keys: Keys,
    pub(crate) inputs: Vec<Input>,
    pub(crate) empty: States,
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no row meets the condition.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the key of `row` to `key`: equal for rows of one group, and in the order of the groups.
    #[inline]
    pub fn push_key(&self, row: usize, key: &mut Vec<u8>) {
        self.keys.push(row, key);
    }

    /// The state of a group of `row` alone.
    #[inline]
    pub fn state(&self, row: usize) -> States {
        let mut states = self.empty.clone();
        self.fold(row, &mut states);
        states
    }

    /// Folds `row` into the state of its group.
    #[inline]
    pub fn fold(&self, row: usize, states: &mut States) {
        let mut at = 0;
        for input in &self.inputs {
            at = input.fold(row, states, at);
        }
    }
}

/// Why a group has no result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// An exact result has more than 38 digits.
    #[error("`{column}` overflows{group}: it has more than 38 digits")]
    Overflow {
        /// The name of the column.
        column: String,
        /// Where: " in the group city = Gent", or nothing where there are no groups.
        group: String,
    },
    /// The key is none of this plan's.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Names the group that was read last, by the columns in front; they are empty then.
fn last_group(schema: &Schema, groups: &mut [Column]) -> String {
    let values = groups.iter_mut().zip(schema.fields()).map(|(column, field)| {
        let values = column.take();
        let last = values.len() - 1;
        let value = if values.is_null(last) { Ok("null".to_owned()) } else { array_value_to_string(&values, last) };
        format!("{} = {}", field.name(), value.unwrap_or_default())
    });
    let values: Vec<String> = values.collect();
    if values.is_empty() { String::new() } else { format!(" in the group {}", values.join(", ")) }
}

/// Finished groups, gathered into batches.
pub struct Results {
    plan: Plan,
    columns: Vec<Column>,
    /// Scratch: where the slots of the current state are.
    offsets: Vec<usize>,
    count: usize,
}

impl Results {
    /// Adds a group. After an error the collector is of no further use.
    pub fn push(&mut self, key: &[u8], states: &States) -> Result<(), ResultError> {
        let group_count = self.plan.groups.len();
        let (groups, results) = self.columns.split_at_mut(group_count);
        read_key(key, &self.plan.kinds[..group_count], groups)?;
        let schema = &self.plan.schema;
        let overflowed = |number: usize| ResultError::Overflow {
            column: schema.field(group_count + number).name().clone(),
            group: last_group(schema, groups),
        };
        self.plan.layout.finish(states, &mut self.offsets, results).map_err(overflowed)?;
        self.count += 1;
        Ok(())
    }

    /// How many groups are held.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no group is held.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of text held, of all columns; take a batch before they pass 2 GiB.
    pub fn text_bytes(&self) -> usize {
        self.columns.iter().map(Column::text_bytes).sum()
    }

    /// The groups held, as a batch of the output schema.
    pub fn take(&mut self) -> RecordBatch {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.count)));
        let columns = self.columns.iter_mut().map(Column::take).collect();
        RecordBatch::try_new_with_options(self.plan.schema.clone(), columns, &options).expect("columns are of the schema's types")
    }
}
