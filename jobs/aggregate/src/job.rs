//! The job: each batch is computed, each row folded into its group, each group finished to a row of the output.
//!
//! As long as a shard has few groups, its rows are gathered by group, column by column, and each group is emitted once, at the end
//! of the shard. Otherwise each row is emitted, and the engine's table folds it.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use shardmill::output::Rows;
use shardmill::prelude::*;
use shardmill::table::parse_schema;

use crate::{Gathered, Plan, Query, Results, States};

/// Groups rows and computes count, sum, min, max and avg of each group.
#[derive(Args, Serialize, Deserialize)]
pub struct Aggregate {
    /// What to group by, as 'city,category'; without it all rows are one group.
    #[arg(long, value_name = "EXPRESSIONS")]
    pub group_by: Vec<String>,
    /// What to compute of each group, as 'sum(price * quantity) as revenue'; may be given several times.
    #[arg(long, value_name = "EXPRESSIONS")]
    pub aggregate: Vec<String>,
    /// Which rows count, as 'discount > 0.1'.
    #[arg(long = "where", value_name = "CONDITION", allow_hyphen_values = true)]
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// The types of columns that are not to be inferred, as 'price: decimal(12,2), code: text'.
    #[arg(long, value_name = "COLUMNS")]
    pub schema: Option<String>,
    /// The query, bound to the input's columns.
    #[arg(skip)]
    #[serde(skip)]
    plan: Option<Plan>,
}

impl Aggregate {
    /// A job with these flags.
    pub fn new(group_by: &[&str], aggregate: &[&str], filter: Option<&str>) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self { group_by: owned(group_by), aggregate: owned(aggregate), filter: filter.map(str::to_owned), schema: None, plan: None }
    }

    fn query(&self) -> Result<Query> {
        Ok(Query::parse(&self.group_by, &self.aggregate, self.filter.as_deref())?)
    }

    fn plan(&self) -> &Plan {
        self.plan.as_ref().expect("a job is bound before it runs")
    }
}

/// Folds the states of a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Merge;

impl Combine<States> for Merge {
    #[inline]
    fn combine(&self, states: &mut States, next: States) {
        states.combine(&next);
    }
}

impl MapReduce for Aggregate {
    type Input = Batches;
    type Key = Vec<u8>;
    type Value = States;
    type Combine = Merge;
    type Output = Table<Results>;

    fn columns(&self) -> Result<Columns> {
        Ok(Columns::Named(self.query()?.columns()))
    }

    fn column_types(&self) -> Result<ColumnTypes> {
        Ok(match &self.schema {
            Some(text) => ColumnTypes::Given(parse_schema(text)?.into()),
            None => ColumnTypes::Inferred,
        })
    }

    fn takes_dictionaries(&self) -> bool {
        true
    }

    fn bind(&mut self, schema: Option<&SchemaRef>) -> Result {
        let schema = schema.ok_or("the input has no columns")?;
        self.plan = Some(self.query()?.resolve(schema)?);
        Ok(())
    }

    fn output_schema(&self) -> Option<SchemaRef> {
        Some(self.plan().output_schema().clone())
    }

    fn seed(&self, out: &mut Emitter<'_, Self>) -> Result {
        // Without groups there is one row, as in SQL, even where no record is.
        if self.group_by.is_empty() {
            out.emit(&[], self.plan().empty_state().clone());
        }
        Ok(())
    }

    fn map(&self, batch: &RecordBatch, out: &mut Emitter<'_, Self>) -> Result {
        let rows = self.plan().rows(batch)?;
        if out.local::<Gathered>().add(&rows) {
            return Ok(());
        }
        let mut key = Vec::new();
        for row in 0..rows.len() {
            key.clear();
            rows.push_key(row, &mut key);
            out.emit(&key, rows.state(row));
        }
        Ok(())
    }

    fn end_shard(&self, out: &mut Emitter<'_, Self>) -> Result {
        let mut gathered = std::mem::take(out.local::<Gathered>());
        gathered.drain(|key, states| out.emit(key, states))?;
        *out.local() = gathered;
        Ok(())
    }

    fn reduce(&self, key: &[u8], states: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        for states in states {
            out.add(|results| Ok(results.push(key, &states)?))?;
        }
        Ok(())
    }
}

impl Rows<Aggregate> for Results {
    fn new(job: &Aggregate) -> Self {
        job.plan().results()
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn is_full(&self) -> bool {
        self.len() >= 4096 || self.text_bytes() >= 1 << 20
    }

    fn take(&mut self) -> Result<RecordBatch> {
        Ok(self.take())
    }
}
