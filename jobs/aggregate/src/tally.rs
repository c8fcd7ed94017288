//! Slots of many groups side by side: what a batch's rows are added to where their groups have numbers.
//!
//! Owns sums, counts and extremes as plain columns, indexed by group, so that one short loop takes in a column of a batch. What such
//! a column cannot hold exactly (numbers beyond 64 bits, texts, infinite floats, floats of very different size) is *irregular* and
//! goes into a state of the group, as it would without a tally. Both are put together when the tally is drained: what the parts of
//! a sum come to is `state`'s.
//!
//! A sum of floats is held in fixed point, in units of 2^e for an e that is chosen when the first floats come: there is room for so
//! many binary digits between the largest and the smallest of them, and for 2³² of them.
//!
//! ```text
//!   127 ············ 94 │ 93 ······························· 0
//!   sign, 2³² addends   │ a double: 53 digits, shifted by 0–41
//! ```

use arrow::buffer::NullBuffer;

use crate::accumulate::{Input, SlotOf, Values};
use crate::float_sum::Finite;
use crate::state::{Kind, States};

/// So many rows may be tallied before a tally is drained.
pub(crate) const ROWS_MAX: u64 = 1 << 32;
/// By how much the digits of a float may be shifted.
const SHIFT_MAX: u64 = 41;
/// How much of that is kept for floats larger than the first ones.
const SHIFT_SPARE: u64 = 8;
/// The exponent of a double, biased, that is none: infinities and NaN have it.
const SPECIAL: u64 = 0x7ff;

/// The slots of all groups.
#[derive(Default)]
pub(crate) struct Tally {
    /// The number of rows of each group.
    rows: Vec<i64>,
    columns: Vec<Column>,
    /// What is irregular, for the first groups.
    irregular: Vec<States>,
}

/// One slot of all groups.
struct Column {
    sums: Sums,
    seen: Seen,
}

enum Sums {
    /// How many rows are null: counted are the others.
    Nulls(Vec<i64>),
    /// Sums of numbers of 64 bits: there is room for 2⁶⁴ of them.
    Numbers(Vec<i128>),
    Least(Vec<i64>),
    Most(Vec<i64>),
    Floats {
        sums: Vec<i128>,
        /// The biased exponent of floats that are not shifted.
        base: Option<u64>,
    },
    /// Everything is irregular.
    Texts,
}

/// Which groups have met a value. As long as no null was met, all of them have.
#[derive(Default)]
struct Seen(Option<Vec<bool>>);

impl Tally {
    /// Memory for each group, about.
    pub(crate) fn group_bytes(inputs: &[Input]) -> usize {
        inputs.len() * (size_of::<i128>() + 1) + size_of::<States>()
    }

    /// Adds the rows of a batch, given each row's group; those from `known` up to `count` are new.
    pub(crate) fn add(&mut self, groups: &[u32], known: usize, count: usize, inputs: &[Input], empty: &States) {
        if self.columns.is_empty() {
            self.columns = inputs.iter().map(|input| Column::new(input.slot)).collect();
        }
        self.rows.resize(count, 0);
        groups.iter().for_each(|&group| self.rows[group as usize] += 1);
        let irregular = &mut self.irregular;
        for (number, (column, input)) in self.columns.iter_mut().zip(inputs).enumerate() {
            column.add(groups, known, count, input, |row| {
                if irregular.len() < count {
                    irregular.resize_with(count, || empty.clone());
                }
                let states = &mut irregular[groups[row] as usize];
                let at = (0..number).fold(0, |at, _| states.after(at));
                input.fold(row, states, at);
            });
        }
    }

    /// The state of a group. Asked for once.
    pub(crate) fn take(&mut self, group: usize, empty: &States) -> States {
        let mut states = self.irregular.get_mut(group).map_or_else(|| empty.clone(), std::mem::take);
        let mut at = 0;
        for column in &self.columns {
            if column.seen.has(group) {
                column.sums.fold(group, self.rows[group], &mut states, at);
            }
            at = states.after(at);
        }
        states
    }

    /// Forgets everything, once all groups were taken.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.irregular.clear();
        self.columns.iter_mut().for_each(Column::clear);
    }
}

impl Column {
    fn new(slot: SlotOf) -> Self {
        let sums = match slot.kind {
            Kind::Sum if slot.is_count => Sums::Nulls(Vec::new()),
            Kind::Sum => Sums::Numbers(Vec::new()),
            Kind::Min => Sums::Least(Vec::new()),
            Kind::Max => Sums::Most(Vec::new()),
            Kind::FloatSum => Sums::Floats { sums: Vec::new(), base: None },
            Kind::MinText | Kind::MaxText => Sums::Texts,
        };
        Self { sums, seen: Seen::default() }
    }

    fn clear(&mut self) {
        self.seen = Seen::default();
        match &mut self.sums {
            Sums::Nulls(values) | Sums::Least(values) | Sums::Most(values) => values.clear(),
            Sums::Numbers(sums) => sums.clear(),
            Sums::Floats { sums, base } => {
                sums.clear();
                *base = None;
            }
            Sums::Texts => {}
        }
    }

    /// Adds what is regular, and gives the rows that are not to `irregular`.
    fn add(&mut self, groups: &[u32], known: usize, count: usize, input: &Input, mut irregular: impl FnMut(usize)) {
        let nulls = input.nulls.as_ref();
        let values = &input.values;
        if let Sums::Nulls(found) = &mut self.sums {
            found.resize(count, 0);
            let nulls = nulls.map(|nulls| !nulls.inner());
            nulls.iter().flat_map(|nulls| nulls.set_indices()).for_each(|row| found[groups[row] as usize] += 1);
            return;
        }
        let is_regular = matches!(values, Values::Numbers { .. } | Values::Floats(_));
        self.seen.make_ready(known, count, is_regular && nulls.is_none());
        match (&mut self.sums, values) {
            (Sums::Numbers(sums), Values::Numbers { numbers, .. }) => {
                sums.resize(count, 0);
                each(groups, nulls, |row, group| sums[group] += i128::from(numbers[row]));
            }
            (Sums::Least(least), Values::Numbers { numbers, .. }) => {
                least.resize(count, i64::MAX);
                each(groups, nulls, |row, group| least[group] = least[group].min(numbers[row]));
            }
            (Sums::Most(most), Values::Numbers { numbers, .. }) => {
                most.resize(count, i64::MIN);
                each(groups, nulls, |row, group| most[group] = most[group].max(numbers[row]));
            }
            (Sums::Floats { sums, base }, Values::Floats(floats)) => {
                sums.resize(count, 0);
                let base = *base.get_or_insert_with(|| base_of(floats));
                each(groups, nulls, |row, group| match shifted(floats[row], base) {
                    Some(digits) => sums[group] += digits,
                    None => irregular(row),
                });
            }
            _ => return each(groups, nulls, |row, _| irregular(row)),
        }
        self.seen.note(groups, nulls);
    }
}

impl Sums {
    /// Folds what a group of so many rows has come to into its slot at `at`.
    fn fold(&self, group: usize, rows: i64, states: &mut States, at: usize) {
        match self {
            Sums::Nulls(found) => states.add_wide(at, (rows - found[group]).into()),
            Sums::Numbers(sums) => states.add_wide(at, sums[group]),
            Sums::Least(values) | Sums::Most(values) => states.meet_wide(at, values[group].into()),
            Sums::Floats { sums, base } => {
                let exponent = base.expect("chosen with the first floats") as i16 - 1075;
                states.add_finite(at, Finite { mantissa: sums[group], exponent });
            }
            Sums::Texts => {}
        }
    }
}

impl Seen {
    /// Makes ready for rows that give each new group a value, or may not.
    fn make_ready(&mut self, known: usize, count: usize, is_sure: bool) {
        if !is_sure {
            self.0.get_or_insert_with(|| vec![true; known]);
        }
        if let Some(seen) = &mut self.0 {
            seen.resize(count, false);
        }
    }

    fn note(&mut self, groups: &[u32], nulls: Option<&NullBuffer>) {
        if let Some(seen) = &mut self.0 {
            each(groups, nulls, |_, group| seen[group] = true);
        }
    }

    fn has(&self, group: usize) -> bool {
        self.0.as_ref().is_none_or(|seen| seen[group])
    }
}

/// Calls `visit` with each row that is not null, and its group.
#[inline(always)]
fn each(groups: &[u32], nulls: Option<&NullBuffer>, mut visit: impl FnMut(usize, usize)) {
    match nulls {
        None => groups.iter().enumerate().for_each(|(row, &group)| visit(row, group as usize)),
        Some(nulls) => nulls.valid_indices().for_each(|row| visit(row, groups[row] as usize)),
    }
}

fn biased_exponent(float: f64) -> u64 {
    float.to_bits() >> 52 & SPECIAL
}

/// The exponent that leaves all of these some room, or at least the largest.
fn base_of(floats: &[f64]) -> u64 {
    let largest = floats.iter().map(|&float| biased_exponent(float)).filter(|&exponent| exponent < SPECIAL).max();
    // Subnormal numbers, of exponent 0, stay below every base, and special ones above.
    largest.unwrap_or(0).saturating_sub(SHIFT_MAX - SHIFT_SPARE).clamp(1, SPECIAL - 1 - SHIFT_MAX)
}

/// A float in units of 2^(base − 1075), if it has its digits in range.
#[inline(always)]
fn shifted(float: f64, base: u64) -> Option<i128> {
    let bits = float.to_bits();
    let shift = biased_exponent(float).wrapping_sub(base);
    if shift > SHIFT_MAX {
        return (float == 0.0).then_some(0);
    }
    let digits = (bits & ((1 << 52) - 1) | 1 << 52) as i64;
    let sign = bits as i64 >> 63;
    Some(i128::from((digits ^ sign) - sign) << shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_shifted_float_is_the_float(float: f64, base in 1u64..2005) {
            if let Some(digits) = shifted(float, base) {
                let back = Finite { mantissa: digits, exponent: base as i16 - 1075 };
                prop_assert_eq!(back.round(), float);
                prop_assert!(digits.unsigned_abs() < 1 << 94);
            }
        }

        #[test]
        fn floats_of_similar_size_are_all_in_range(floats in prop::collection::vec(prop_oneof![1e-3..1e5f64, -1e5..-1e-3f64, Just(0.0)], 1..40)) {
            let base = base_of(&floats);
            prop_assert!(floats.iter().all(|&float| shifted(float, base).is_some()));
        }
    }

    #[test]
    fn what_is_not_finite_or_not_normal_is_out_of_range() {
        for base in [1, 1000, SPECIAL - 1 - SHIFT_MAX] {
            for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 2.0] {
                assert_eq!(shifted(float, base), None);
            }
        }
    }
}
