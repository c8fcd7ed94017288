//! Computing expressions over record batches.
//!
//! Owns the way from a typed expression to an array. What the types are was decided in `expression`, how exact numbers are
//! computed is in `exact`; everything else is a kernel of arrow.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Datum, Float64Array, Int64Array, RecordBatch, Scalar, StringArray, UInt32Array,
    new_empty_array, new_null_array,
};
use arrow::compute::kernels::{boolean, cmp, numeric};
use arrow::compute::{CastOptions, cast_with_options, date_part, filter, ilike, interleave, like, take, take_record_batch};
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;

use crate::exact::{self, Failed, Failure, Operator, Side};
use crate::expression::{Comparison, Expression, Node, TextFunction, Type};

/// Why the rows of a batch have no value. Rows are counted from the batch's start.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// An exact number passes its 64 bits or 38 digits.
    #[error("`{expression}` overflows; cast an operand to double where rounding is acceptable")]
    Overflow {
        /// The expression as it was written.
        expression: String,
        /// The first such row.
        row: usize,
    },
    /// An exact number is divided by zero.
    #[error("`{expression}` divides by zero; `nullif(…, 0)` makes the result null")]
    DivisionByZero {
        /// The expression as it was written.
        expression: String,
        /// The first such row.
        row: usize,
    },
    /// A value cannot be converted.
    #[error("cannot compute `{expression}`: {source}")]
    Kernel {
        /// The expression as it was written.
        expression: String,
        /// What the kernel says.
        source: ArrowError,
    },
}

impl EvaluateError {
    /// The same error, where its row was counted among `rows` of a batch.
    pub(crate) fn among(mut self, rows: &UInt32Array) -> Self {
        if let EvaluateError::Overflow { row, .. } | EvaluateError::DivisionByZero { row, .. } = &mut self {
            *row = rows.value(*row) as usize;
        }
        self
    }
}

/// The values of an expression: one for each row, or one for all.
enum Values {
    Column(ArrayRef),
    Constant(ArrayRef),
}

impl Values {
    fn array(&self) -> &ArrayRef {
        match self {
            Values::Column(array) | Values::Constant(array) => array,
        }
    }

    fn map<E>(self, change: impl FnOnce(&ArrayRef) -> Result<ArrayRef, E>) -> Result<Values, E> {
        Ok(match self {
            Values::Column(array) => Values::Column(change(&array)?),
            Values::Constant(array) => Values::Constant(change(&array)?),
        })
    }

    fn into_array(self, rows: usize) -> Result<ArrayRef, ArrowError> {
        match self {
            Values::Column(array) => Ok(array),
            Values::Constant(array) => take(&array, &UInt32Array::from(vec![0; rows]), None),
        }
    }

    fn side(&self, kind: &Type) -> Side<'_> {
        let scale = kind.scale().expect("an exact number");
        Side { array: self.array(), scale, is_constant: matches!(self, Values::Constant(_)) }
    }
}

type Evaluated = Result<Values, EvaluateError>;

impl Expression {
    /// The value of every row of `batch`, in the expression's own type.
    pub(crate) fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, EvaluateError> {
        self.values(batch)?.into_array(batch.num_rows()).map_err(|source| self.kernel(source))
    }

    /// The same for a condition.
    pub(crate) fn evaluate_truth(&self, batch: &RecordBatch) -> Result<BooleanArray, EvaluateError> {
        Ok(self.evaluate(batch)?.as_boolean().clone())
    }

    pub(crate) fn kernel(&self, source: ArrowError) -> EvaluateError {
        EvaluateError::Kernel { expression: self.text.to_string(), source }
    }

    fn failed(&self, (failure, row): Failed) -> EvaluateError {
        let expression = self.text.to_string();
        match failure {
            Failure::Overflow => EvaluateError::Overflow { expression, row },
            Failure::DivisionByZero => EvaluateError::DivisionByZero { expression, row },
        }
    }

    fn values(&self, batch: &RecordBatch) -> Evaluated {
        match &self.node {
            Node::Column(index) => self.column(batch.column(*index)).map(Values::Column),
            Node::Constant(array) => Ok(Values::Constant(array.clone())),
            Node::Arithmetic(operator, left, right) => self.arithmetic(*operator, left, right, batch),
            Node::Negate(operand) => {
                let is_float = self.kind == Type::Float;
                operand.values(batch)?.map(|array| {
                    if is_float {
                        numeric::neg_wrapping(array).map_err(|source| self.kernel(source))
                    } else {
                        exact::negated(array).map_err(|failed| self.failed(failed))
                    }
                })
            }
            Node::Compare(comparison, left, right) => self.compare(*comparison, left, right, batch),
            Node::And(left, right) => self.connect(left, right, false, batch),
            Node::Or(left, right) => self.connect(left, right, true, batch),
            Node::Not(operand) => self.truth_of(operand.values(batch)?, |array| boolean::not(array.as_boolean())),
            Node::IsNull(operand) => self.truth_of(operand.values(batch)?, |array| {
                // A column of type null has no null buffer; its nulls are logical.
                let nulls = array.logical_nulls();
                Ok(nulls.map_or_else(|| BooleanArray::from(vec![false; array.len()]), |nulls| BooleanArray::new(!nulls.inner(), None)))
            }),
            Node::Like { text, pattern, ignores_case } => {
                let (text, pattern) = (text.values(batch)?, pattern.values(batch)?);
                let kernel = if *ignores_case { ilike } else { like };
                self.pairwise(&text, &pattern, |left, right| kernel(left, right))
            }
            Node::Case { branches, otherwise } => self.case(branches, otherwise.as_deref(), batch).map(Values::Column),
            Node::Cast(operand) => operand.values(batch)?.map(|array| self.cast(array, &operand.kind)),
            Node::CastToCompare(operand) => {
                let from = operand.kind.scale().expect("an exact number");
                let to = self.kind.scale().expect("an exact number");
                operand.values(batch)?.map(|array| Ok(exact::rescaled_to_compare(array, from, to)))
            }
            Node::Text(function, operand) => operand.values(batch)?.map(|array| Ok(text_function(*function, array.as_string()))),
            Node::DatePart(part, operand) => operand.values(batch)?.map(|array| {
                let parts = date_part(array, *part).and_then(|parts| cast(&parts, &DataType::Int64));
                parts.map_err(|source| self.kernel(source))
            }),
        }
    }

    /// A column of the input in the type it has here.
    fn column(&self, array: &ArrayRef) -> Result<ArrayRef, EvaluateError> {
        let wanted = self.kind.arrow();
        match (array.data_type(), &self.kind) {
            (found, _) if *found == wanted => Ok(array.clone()),
            // The same numbers under a wider name.
            (DataType::Decimal128(_, scale), Type::Decimal(to)) if i16::from(*scale) == i16::from(*to) => {
                Ok(Arc::new(array.as_primitive::<arrow::datatypes::Decimal128Type>().clone().with_data_type(wanted)))
            }
            _ => cast(array, &wanted).map_err(|source| self.kernel(source)),
        }
    }

    fn arithmetic(&self, operator: Operator, left: &Expression, right: &Expression, batch: &RecordBatch) -> Evaluated {
        let (left_values, right_values) = (left.values(batch)?, right.values(batch)?);
        let is_constant = matches!((&left_values, &right_values), (Values::Constant(_), Values::Constant(_)));
        let rows = if is_constant { 1 } else { batch.num_rows() };
        let array = match &self.kind {
            Type::Float => {
                let kernel = match operator {
                    Operator::Add => numeric::add,
                    Operator::Subtract => numeric::sub,
                    Operator::Multiply => numeric::mul,
                    Operator::Divide => numeric::div,
                    Operator::Remainder => numeric::rem,
                };
                with_datums(&left_values, &right_values, kernel).map_err(|source| self.kernel(source))
            }
            Type::Integer => exact::integers(operator, &left_values.side(&left.kind), &right_values.side(&right.kind), rows)
                .map_err(|failed| self.failed(failed)),
            _ => exact::decimals(operator, &left_values.side(&left.kind), &right_values.side(&right.kind), rows)
                .map_err(|failed| self.failed(failed)),
        }?;
        Ok(if is_constant { Values::Constant(array) } else { Values::Column(array) })
    }

    fn compare(&self, comparison: Comparison, left: &Expression, right: &Expression, batch: &RecordBatch) -> Evaluated {
        let is_float = left.kind == Type::Float;
        let (left, right) = (left.values(batch)?, right.values(batch)?);
        // The kernels order floats by their bits, where −0 is below 0 and NaNs differ.
        let canonical = |values: Values| if is_float { values.map(|array| Ok(canonical_floats(array))) } else { Ok(values) };
        let (left, right) = (canonical(left)?, canonical(right)?);
        let kernel = match comparison {
            Comparison::Equal => cmp::eq,
            Comparison::NotEqual => cmp::neq,
            Comparison::Less => cmp::lt,
            Comparison::LessOrEqual => cmp::lt_eq,
            Comparison::Greater => cmp::gt,
            Comparison::GreaterOrEqual => cmp::gt_eq,
            Comparison::Distinct => cmp::distinct,
            Comparison::NotDistinct => cmp::not_distinct,
        };
        self.pairwise(&left, &right, |left, right| kernel(left, right))
    }

    /// `and`, or `or` where `settled` is true: a left side of that value settles the row.
    fn connect(&self, left: &Expression, right: &Expression, settled: bool, batch: &RecordBatch) -> Evaluated {
        let left = left.evaluate_truth(batch)?;
        // All rows at once is the fast way. Only where that fails does it matter which rows the left side leaves open.
        let right = match right.evaluate_truth(batch) {
            Ok(right) => right,
            Err(_) => self.evaluate_open(&left, right, settled, batch)?,
        };
        let kernel = if settled { boolean::or_kleene } else { boolean::and_kleene };
        let array = kernel(&left, &right).map_err(|source| self.kernel(source))?;
        Ok(Values::Column(Arc::new(array)))
    }

    /// The values of `right` in the rows that `left` does not settle; what stands in the others does not matter.
    fn evaluate_open(
        &self,
        left: &BooleanArray,
        right: &Expression,
        settled: bool,
        batch: &RecordBatch,
    ) -> Result<BooleanArray, EvaluateError> {
        let is_open: BooleanArray = left.iter().map(|value| Some(value != Some(settled))).collect();
        let rows = rows_of(&is_open);
        let part = take_record_batch(batch, &rows).map_err(|source| self.kernel(source))?;
        let found = right.evaluate_truth(&part).map_err(|error| error.among(&rows))?;
        let mut all = vec![Some(settled); batch.num_rows()];
        for (row, value) in rows.values().iter().zip(found.iter()) {
            all[*row as usize] = value;
        }
        Ok(BooleanArray::from(all))
    }

    fn truth_of(&self, values: Values, kernel: impl FnOnce(&ArrayRef) -> Result<BooleanArray, ArrowError>) -> Evaluated {
        values.map(|array| kernel(array).map(|array| Arc::new(array) as ArrayRef).map_err(|source| self.kernel(source)))
    }

    fn pairwise(
        &self,
        left: &Values,
        right: &Values,
        kernel: impl FnOnce(&dyn Datum, &dyn Datum) -> Result<BooleanArray, ArrowError>,
    ) -> Evaluated {
        let is_constant = matches!((left, right), (Values::Constant(_), Values::Constant(_)));
        let array = with_datums(left, right, kernel).map_err(|source| self.kernel(source))?;
        let array: ArrayRef = Arc::new(array);
        Ok(if is_constant { Values::Constant(array) } else { Values::Column(array) })
    }

    /// Each branch is computed for the rows that reach it, each result for the rows that take it.
    fn case(
        &self,
        branches: &[(Expression, Expression)],
        otherwise: Option<&Expression>,
        batch: &RecordBatch,
    ) -> Result<ArrayRef, EvaluateError> {
        let kernel = |source| self.kernel(source);
        let mut open = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
        // For every row, the array its value is in and its place there. The first array stands for rows without a branch.
        let mut places = vec![(0, 0); batch.num_rows()];
        let mut arrays = vec![new_null_array(&self.kind.arrow(), 1)];
        let mut settle = |rows: &UInt32Array, result: &Expression| -> Result<(), EvaluateError> {
            let part = take_record_batch(batch, rows).map_err(kernel)?;
            for (place, row) in rows.values().iter().enumerate() {
                places[*row as usize] = (arrays.len(), place);
            }
            arrays.push(result.evaluate(&part).map_err(|error| error.among(rows))?);
            Ok(())
        };
        for (condition, result) in branches {
            let part = take_record_batch(batch, &open).map_err(kernel)?;
            let truth = condition.evaluate_truth(&part).map_err(|error| error.among(&open))?;
            let is_true: BooleanArray = truth.iter().map(|value| Some(value == Some(true))).collect();
            let chosen = filter(&open, &is_true).map_err(kernel)?;
            settle(chosen.as_primitive(), result)?;
            let rest = boolean::not(&is_true).and_then(|is_false| filter(&open, &is_false)).map_err(kernel)?;
            open = rest.as_primitive().clone();
        }
        if let Some(result) = otherwise {
            settle(&open, result)?;
        }
        if places.is_empty() {
            return Ok(new_empty_array(&self.kind.arrow()));
        }
        let arrays: Vec<&dyn Array> = arrays.iter().map(|array| &**array).collect();
        interleave(&arrays, &places).map_err(kernel)
    }

    fn cast(&self, array: &ArrayRef, from: &Type) -> Result<ArrayRef, EvaluateError> {
        match (from.scale(), &self.kind) {
            (Some(from), Type::Decimal(to)) => exact::rescaled(array, from, *to).map_err(|failed| self.failed(failed)),
            (Some(from), Type::Integer) => exact::to_integers(array, from).map_err(|failed| self.failed(failed)),
            (None, Type::Integer) if *from == Type::Float => float_to_integer(array).map_err(|failed| self.failed(failed)),
            (_, kind) => cast(array, &kind.arrow()).map_err(|source| self.kernel(source)),
        }
    }
}

/// Converts, and fails where a value cannot be.
fn cast(array: &dyn Array, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..Default::default() })
}

fn with_datums<T>(left: &Values, right: &Values, kernel: impl FnOnce(&dyn Datum, &dyn Datum) -> T) -> T {
    match (left, right) {
        (Values::Column(left), Values::Constant(right)) => kernel(left, &Scalar::new(right)),
        (Values::Constant(left), Values::Column(right)) => kernel(&Scalar::new(left), right),
        // Two constants are columns of one row.
        _ => kernel(left.array(), right.array()),
    }
}

/// The rows in which `chosen` is true.
fn rows_of(chosen: &BooleanArray) -> UInt32Array {
    UInt32Array::from_iter_values(chosen.values().set_indices().map(|row| row as u32))
}

/// One bit pattern for each value: no −0, and one NaN, above everything.
pub(crate) fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

fn canonical_floats(array: &ArrayRef) -> ArrayRef {
    Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(canonical))
}

/// Rounds half-even.
fn float_to_integer(array: &ArrayRef) -> Result<ArrayRef, Failed> {
    let floats: &Float64Array = array.as_primitive();
    let mut integers = Vec::with_capacity(floats.len());
    for (row, float) in floats.iter().enumerate() {
        // −2^63 is an integer of 64 bits, 2^63 is none.
        integers.push(match float.map(f64::round_ties_even) {
            Some(float) if (-(2f64.powi(63))..2f64.powi(63)).contains(&float) => Some(float as i64),
            Some(_) => return Err((Failure::Overflow, row)),
            None => None,
        });
    }
    Ok(Arc::new(Int64Array::from(integers)))
}

fn text_function(function: TextFunction, texts: &StringArray) -> ArrayRef {
    match function {
        TextFunction::Lower => Arc::new(texts.iter().map(|text| text.map(str::to_lowercase)).collect::<StringArray>()),
        TextFunction::Upper => Arc::new(texts.iter().map(|text| text.map(str::to_uppercase)).collect::<StringArray>()),
        TextFunction::Length => Arc::new(texts.iter().map(|text| text.map(|text| text.chars().count() as i64)).collect::<Int64Array>()),
    }
}
