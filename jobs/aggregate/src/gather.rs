//! Gathering: the rows of many batches folded into few groups, before anything is emitted.
//!
//! `numbering` gives the rows of a batch the numbers of their groups, `tally` adds them up by number, column by column: a row costs a
//! few nanoseconds for each aggregate, where a key and a state of its own would cost many more. This decides for how long: as soon as
//! a batch would bring too many groups, nothing more is gathered until what there is was drained.

use crate::numbering::Numbering;
use crate::plan::Rows;
use crate::state::States;
use crate::tally::{ROWS_MAX, Tally};

/// The most groups that are gathered, and the most memory for them: small enough for the second-level cache and for any budget.
const GROUPS_MAX: usize = 1 << 14;
const BYTES_MAX: usize = 2 << 20;

/// Groups gathered so far.
///
/// ```
/// use std::sync::Arc;
/// use aggregate::{Gathered, Query};
/// use arrow::array::{ArrayRef, Int64Array, RecordBatch};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let n: ArrayRef = Arc::new(Int64Array::from(vec![7, 8, 7]));
/// let batch = RecordBatch::try_from_iter([("n", n)])?;
/// let plan = Query::parse(&["n"], &["count()"], None)?.resolve(&batch.schema())?;
///
/// let mut gathered = Gathered::default();
/// assert!(gathered.add(&plan.rows(&batch)?));
/// let mut groups = 0;
/// gathered.drain(|_, _| groups += 1)?;
/// assert_eq!(groups, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Gathered {
    numbering: Numbering,
    tally: Tally,
    empty: States,
    rows: u64,
    /// There were more groups than can be gathered.
    is_full: bool,
    /// A batch is being added. If that was left by a panic, nothing here can be trusted.
    is_torn: bool,
}

/// A panic has left a batch half added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rows gathered are not whole: a panic came between")]
pub struct Torn;

impl Gathered {
    /// Adds the rows of a batch of the same plan as those before; false, and nothing is changed, where there are too many groups.
    pub fn add(&mut self, rows: &Rows) -> bool {
        let count = rows.len() as u64;
        if self.is_full || self.is_torn || self.rows + count > ROWS_MAX {
            return false;
        }
        let limit = GROUPS_MAX.min(BYTES_MAX / Tally::group_bytes(&rows.inputs));
        let known = self.numbering.len();
        if self.numbering.find(&rows.keys, rows.len(), limit).is_none() {
            self.is_full = true;
            return false;
        }
        if self.rows == 0 {
            self.empty = rows.empty.clone();
        }
        self.rows += count;
        self.is_torn = true;
        self.tally.add(self.numbering.numbers(), known, self.numbering.len(), &rows.inputs, &self.empty);
        self.is_torn = false;
        true
    }

    /// Gives out each group's key and state, in no order; then there are none.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8], States)) -> Result<(), Torn> {
        if self.is_torn {
            return Err(Torn);
        }
        let mut key = Vec::new();
        for group in 0..self.numbering.len() {
            key.clear();
            self.numbering.push_key(group, &mut key);
            each(&key, self.tally.take(group, &self.empty));
        }
        self.numbering.clear(!self.is_full);
        self.tally.clear();
        (self.rows, self.is_full) = (0, false);
        Ok(())
    }
}
