//! Aggregates: what each keeps of a group, how a row is folded in, and what comes of it in the end.
//!
//! Owns the layout, which gives every aggregate its slots in a group's state, and shares those that two aggregates have in
//! common: `avg(x)` is the sum of x and its count, and `sum(x)` beside it costs nothing. How a slot holds its value is `state`'s.
//!
//! | aggregate | of | gives |
//! |---|---|---|
//! | `count()`, `count(*)`, `count(x)` | anything | an integer; rows, or those where x is not null |
//! | `sum(x)` | integers, decimals | a decimal of 38 digits of x's scale; beyond them an overflow |
//! | | floats | the exact sum, rounded once |
//! | `avg(x)` | integers, decimals | a decimal, the exact quotient rounded half-even at x's scale + 6 |
//! | | floats | the rounded sum divided by the count |
//! | `min(x)`, `max(x)` | anything | x's type; text by bytes, false before true, NaN above every float |
//!
//! Nulls are passed over; where nothing is left, a count is 0 and everything else null.

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::Float64Type;

use crate::column::{Column, Numbers, numbers};
use crate::exact;
use crate::expression::{Expression, Type};
use crate::state::{Kind, Slot, States, is_narrow};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Count,
    Sum,
    Min,
    Max,
    Avg,
}

/// One aggregate of a query, typed.
#[derive(Clone, Debug)]
pub(crate) struct Aggregate {
    function: Function,
    /// None for `count()`.
    argument: Option<Expression>,
}

impl Aggregate {
    /// `count()`.
    pub(crate) const ROWS: Aggregate = Aggregate { function: Function::Count, argument: None };

    /// An aggregate by its name, or what is wrong with it.
    pub(crate) fn new(name: &str, argument: Expression) -> Result<Self, String> {
        let function = match name {
            "count" => Function::Count,
            "sum" => Function::Sum,
            "min" => Function::Min,
            "max" => Function::Max,
            "avg" => Function::Avg,
            _ => return Err(format!("`{name}` is no aggregate: count, sum, min, max or avg")),
        };
        let is_number = argument.kind.scale().is_some() || argument.kind == Type::Float;
        match function {
            Function::Sum | Function::Avg if !is_number => {
                Err(format!("`{}` is {}, where a number is needed", argument.text, argument.kind))
            }
            _ if argument.kind == Type::Null => Err(format!("`{}` is always null", argument.text)),
            _ => Ok(Self { function, argument: Some(argument) }),
        }
    }

    /// The type of the result.
    pub(crate) fn kind(&self) -> Type {
        let Some(argument) = &self.argument else { return Type::Integer };
        match (self.function, argument.kind.scale()) {
            (Function::Count, _) => Type::Integer,
            (Function::Sum, Some(scale)) => Type::Decimal(scale),
            (Function::Avg, Some(scale)) => Type::Decimal(exact::quotient_scale(scale)),
            _ => argument.kind.clone(),
        }
    }

    /// Whether there is always a result.
    pub(crate) fn is_never_null(&self) -> bool {
        self.function == Function::Count
    }
}

/// A slot of the state and what goes into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotOf {
    pub(crate) kind: Kind,
    pub(crate) is_count: bool,
    argument: Option<usize>,
}

/// Where the result of an aggregate is read, by number of slot.
#[derive(Clone, Copy, Debug)]
enum Source {
    Slot(usize),
    /// The sum and the count; the digits that the quotient of exact numbers gains.
    Average {
        sum: usize,
        count: usize,
        gained: u8,
    },
}

/// The slots of a state, and how results come from them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Each argument once.
    pub(crate) arguments: Vec<Expression>,
    slots: Vec<SlotOf>,
    sources: Vec<Source>,
    empty: States,
}

impl Layout {
    pub(crate) fn new(aggregates: &[Aggregate]) -> Self {
        let mut layout = Self { arguments: Vec::new(), slots: Vec::new(), sources: Vec::new(), empty: States::default() };
        for aggregate in aggregates {
            let source = layout.add(aggregate);
            layout.sources.push(source);
        }
        for slot in &layout.slots {
            layout.empty.push_empty(slot.kind, slot.is_count);
        }
        layout
    }

    fn add(&mut self, aggregate: &Aggregate) -> Source {
        let argument = aggregate.argument.as_ref().map(|argument| self.argument(argument));
        let of = aggregate.argument.as_ref().map_or(&Type::Integer, |argument| &argument.kind);
        let sum = if *of == Type::Float { Kind::FloatSum } else { Kind::Sum };
        match aggregate.function {
            Function::Count => Source::Slot(self.slot(SlotOf { kind: Kind::Sum, is_count: true, argument })),
            Function::Sum => Source::Slot(self.slot(SlotOf { kind: sum, is_count: false, argument })),
            Function::Min | Function::Max => {
                let kind = match (aggregate.function, of) {
                    (Function::Min, Type::Text) => Kind::MinText,
                    (Function::Min, _) => Kind::Min,
                    (_, Type::Text) => Kind::MaxText,
                    _ => Kind::Max,
                };
                Source::Slot(self.slot(SlotOf { kind, is_count: false, argument }))
            }
            Function::Avg => Source::Average {
                sum: self.slot(SlotOf { kind: sum, is_count: false, argument }),
                count: self.slot(SlotOf { kind: Kind::Sum, is_count: true, argument }),
                gained: of.scale().map_or(0, |scale| exact::quotient_scale(scale) - scale),
            },
        }
    }

    fn argument(&mut self, argument: &Expression) -> usize {
        let found = self.arguments.iter().position(|known| known.text == argument.text);
        found.unwrap_or_else(|| {
            self.arguments.push(argument.clone());
            self.arguments.len() - 1
        })
    }

    fn slot(&mut self, slot: SlotOf) -> usize {
        self.slots.iter().position(|known| *known == slot).unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        })
    }

    /// The state of a group that no row has met.
    pub(crate) fn empty(&self) -> &States {
        &self.empty
    }

    /// The inputs of a batch, of the values of `arguments`.
    pub(crate) fn inputs(&self, arguments: &[ArrayRef]) -> Vec<Input> {
        let input = |slot: &SlotOf| match slot.argument {
            None => Input { slot: *slot, values: Values::Rows, nulls: None },
            Some(argument) => Input::new(*slot, &arguments[argument], &self.arguments[argument].kind),
        };
        self.slots.iter().map(input).collect()
    }

    /// Appends the results of a group to `columns`, one for each aggregate; the number of the one that overflows.
    pub(crate) fn finish(&self, states: &States, offsets: &mut Vec<usize>, columns: &mut [Column]) -> Result<(), usize> {
        offsets.clear();
        let mut at = 0;
        for _ in &self.slots {
            offsets.push(at);
            at = states.after(at);
        }
        for (number, (source, column)) in self.sources.iter().zip(columns).enumerate() {
            match *source {
                Source::Slot(slot) => match states.slot(offsets[slot]) {
                    Slot::Empty => column.push_null(),
                    Slot::Number(value) => column.push_number(exact::checked(value).ok_or(number)?),
                    Slot::Float(value) => column.push_float(value),
                    Slot::Text(text) => column.push_text(|bytes| bytes.extend_from_slice(text)),
                    Slot::Huge => return Err(number),
                },
                Source::Average { sum, count, gained } => {
                    let Slot::Number(count) = states.slot(offsets[count]) else { return Err(number) };
                    match states.slot(offsets[sum]) {
                        Slot::Number(sum) => column.push_number(exact::quotient(sum, gained, count).ok_or(number)?),
                        Slot::Float(sum) => column.push_float(sum / count as f64),
                        Slot::Huge => return Err(number),
                        Slot::Empty | Slot::Text(_) => column.push_null(),
                    }
                }
            }
        }
        Ok(())
    }
}

/// What goes into one slot, for the rows of a batch.
pub(crate) struct Input {
    pub(crate) slot: SlotOf,
    pub(crate) values: Values,
    pub(crate) nulls: Option<NullBuffer>,
}

pub(crate) enum Values {
    /// One for each row.
    Rows,
    Numbers {
        numbers: ScalarBuffer<i64>,
        /// All of them fit the word of a slot.
        are_narrow: bool,
    },
    /// Numbers not all of which fit 64 bits.
    Wide(ScalarBuffer<i128>),
    Floats(ScalarBuffer<f64>),
    Texts(StringArray),
}

impl Input {
    fn new(slot: SlotOf, array: &ArrayRef, kind: &Type) -> Self {
        let values = if slot.is_count {
            Values::Rows
        } else if slot.kind == Kind::FloatSum {
            Values::Floats(array.as_primitive::<Float64Type>().values().clone())
        } else {
            match numbers(array, kind) {
                Some(Numbers::Short(numbers)) => {
                    // Without an early exit, so that many are looked at at once.
                    let are_narrow = numbers.iter().fold(true, |are, &number| are & is_narrow(number.into()));
                    Values::Numbers { numbers, are_narrow }
                }
                Some(Numbers::Long(numbers)) => shortened(numbers),
                None => Values::Texts(array.as_string().clone()),
            }
        };
        Self { slot, values, nulls: array.nulls().cloned() }
    }

    /// Folds `row` into the slot at `at`, and returns where the next slot is.
    #[inline]
    pub(crate) fn fold(&self, row: usize, states: &mut States, at: usize) -> usize {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return states.after(at);
        }
        let is_sum = self.slot.kind == Kind::Sum;
        match &self.values {
            Values::Rows => return states.add_narrow(at, 1),
            Values::Numbers { numbers, are_narrow: true } if is_sum => return states.add_narrow(at, numbers[row]),
            Values::Numbers { numbers, are_narrow: true } => return states.meet_narrow(at, numbers[row]),
            Values::Numbers { numbers, .. } if is_sum => states.add_wide(at, numbers[row].into()),
            Values::Numbers { numbers, .. } => states.meet_wide(at, numbers[row].into()),
            Values::Wide(numbers) if is_sum => states.add_wide(at, numbers[row]),
            Values::Wide(numbers) => states.meet_wide(at, numbers[row]),
            Values::Floats(values) => states.add_float(at, values[row]),
            Values::Texts(values) => states.meet_text(at, values.value(row).as_bytes()),
        }
        states.after(at)
    }
}

/// Numbers in 64 bits where all of them fit.
fn shortened(wide: ScalarBuffer<i128>) -> Values {
    let (mut are_short, mut are_narrow) = (true, true);
    let short = |&number: &i128| {
        are_short &= i128::from(number as i64) == number;
        are_narrow &= is_narrow(number);
        number as i64
    };
    let numbers: Vec<i64> = wide.iter().map(short).collect();
    if are_short { Values::Numbers { numbers: numbers.into(), are_narrow } } else { Values::Wide(wide) }
}
