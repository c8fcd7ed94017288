//! Expressions with their columns and types found: what `evaluate` computes.
//!
//! Owns the rules of types: what a column of an input is here, what an operation makes of its operands, which conversions
//! happen by themselves. Parsing is `sqlparser`'s, the names of the flags are `query`'s.
//!
//! - Integers are 64 bits (unsigned ones of 64 bits are decimals), decimals have 38 digits, floats are doubles. Exact numbers
//!   meet as `exact` says; where one meets a float, it becomes a float.
//! - Floats compare as numbers do, with −0 equal to 0; a NaN equals a NaN and is larger than anything else.
//! - Text compares by bytes. A quoted text next to a date or a timestamp is one; text never becomes a number by itself.
//! - `and`, `or`, `not` and comparisons know three values. The right side of `and` (`or`) can fail only in rows that the left
//!   side leaves open, a branch of `case` only in its own: `x <> 0 and 1 / x > 2` divides by no zero.
//! - Names of columns are matched exactly; `"unit price"` in double quotes names any column.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, new_null_array};
use arrow::compute::{CastOptions, DatePart, cast_with_options};
use arrow::datatypes::{DataType, Schema, TimeUnit};
use sqlparser::ast::{
    self, BinaryOperator, DateTimeField, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator,
    Value,
};

use crate::exact::{self, Operator};
use crate::query::QueryError;

/// The type of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// The literal `null`, before it is known what it is a null of.
    Null,
    Boolean,
    Integer,
    /// A decimal of 38 digits, so many of them after the point.
    Decimal(u8),
    Float,
    Text,
    Date,
    Timestamp(TimeUnit, Option<Arc<str>>),
}

impl Type {
    /// What a column of this type is here.
    fn of(column: &DataType) -> Option<Type> {
        Some(match column {
            DataType::Null => Type::Null,
            DataType::Boolean => Type::Boolean,
            DataType::UInt64 => Type::Decimal(0),
            integer if integer.is_integer() => Type::Integer,
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale)
                if *scale <= exact::DIGITS as i8 =>
            {
                Type::Decimal(u8::try_from(*scale).unwrap_or(0))
            }
            float if float.is_floating() => Type::Float,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Type::Text,
            DataType::Date32 | DataType::Date64 => Type::Date,
            DataType::Timestamp(unit, zone) => Type::Timestamp(*unit, zone.clone()),
            DataType::Dictionary(_, values) => return Type::of(values),
            _ => return None,
        })
    }

    /// The arrow type that values of this type are held in.
    pub(crate) fn arrow(&self) -> DataType {
        match self {
            Type::Null => DataType::Null,
            Type::Boolean => DataType::Boolean,
            Type::Integer => DataType::Int64,
            Type::Decimal(scale) => exact::decimal(*scale),
            Type::Float => DataType::Float64,
            Type::Text => DataType::Utf8,
            Type::Date => DataType::Date32,
            Type::Timestamp(unit, zone) => DataType::Timestamp(*unit, zone.clone()),
        }
    }

    /// The scale of an exact number.
    pub(crate) fn scale(&self) -> Option<u8> {
        match self {
            Type::Integer => Some(0),
            Type::Decimal(scale) => Some(*scale),
            _ => None,
        }
    }

    fn is_number(&self) -> bool {
        self.scale().is_some() || *self == Type::Float
    }

    /// The type in which values of two types meet.
    fn common(&self, other: &Type) -> Option<Type> {
        Some(match (self, other) {
            (left, right) if left == right => left.clone(),
            (Type::Null, known) | (known, Type::Null) => known.clone(),
            (left, right) if left.is_number() && right.is_number() => match (left.scale(), right.scale()) {
                (Some(left), Some(right)) => Type::Decimal(left.max(right)),
                _ => Type::Float,
            },
            (Type::Date, Type::Timestamp(..)) => other.clone(),
            (Type::Timestamp(..), Type::Date) => self.clone(),
            (Type::Timestamp(left, zone), Type::Timestamp(right, other)) if zone.is_some() == other.is_some() => {
                Type::Timestamp(*left.max(right), zone.clone())
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Null => f.write_str("null"),
            Type::Boolean => f.write_str("a truth value"),
            Type::Integer => f.write_str("an integer"),
            Type::Decimal(scale) => write!(f, "a decimal of scale {scale}"),
            Type::Float => f.write_str("a float"),
            Type::Text => f.write_str("text"),
            Type::Date => f.write_str("a date"),
            Type::Timestamp(..) => f.write_str("a timestamp"),
        }
    }
}

/// An expression over the columns of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    pub(crate) node: Node,
    pub(crate) kind: Type,
    /// As it was written, for errors.
    pub(crate) text: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Distinct,
    NotDistinct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextFunction {
    Lower,
    Upper,
    /// In characters.
    Length,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Column(usize),
    /// One element.
    Constant(ArrayRef),
    /// Both sides exact, or both floats.
    Arithmetic(Operator, Box<Expression>, Box<Expression>),
    Negate(Box<Expression>),
    /// Both sides of one type.
    Compare(Comparison, Box<Expression>, Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    IsNull(Box<Expression>),
    Like {
        text: Box<Expression>,
        pattern: Box<Expression>,
        ignores_case: bool,
    },
    /// The first branch whose condition is true; all results of one type.
    Case {
        branches: Vec<(Expression, Expression)>,
        otherwise: Option<Box<Expression>>,
    },
    /// To the type of the expression.
    Cast(Box<Expression>),
    /// The same, but a number that does not fit may take any value beyond all that do.
    CastToCompare(Box<Expression>),
    Text(TextFunction, Box<Expression>),
    DatePart(DatePart, Box<Expression>),
}

impl Expression {
    fn new(node: Node, kind: Type, text: &Expr) -> Self {
        Self { node, kind, text: text.to_string().into() }
    }

    fn over(self, node: impl FnOnce(Box<Expression>) -> Node, kind: Type) -> Self {
        let text = self.text.clone();
        Self { node: node(Box::new(self)), kind, text }
    }

    /// The same under the name of all of `text`.
    fn named(self, text: &Expr) -> Self {
        Self { text: text.to_string().into(), ..self }
    }
}

/// Finds the columns and types of expressions of one flag.
pub(crate) struct Resolver<'a> {
    pub(crate) schema: &'a Schema,
    /// What is to be named in errors: `--where discount > 0.1`.
    pub(crate) context: &'a str,
}

type Resolved = Result<Expression, QueryError>;

impl Resolver<'_> {
    pub(crate) fn error(&self, problem: impl fmt::Display) -> QueryError {
        QueryError::Meaning { expression: self.context.into(), problem: problem.to_string() }
    }

    /// The typed form of `expr`.
    pub(crate) fn resolve(&self, expr: &Expr) -> Resolved {
        match expr {
            Expr::Nested(inner) => self.resolve(inner),
            Expr::Identifier(name) => self.column(&name.value, expr),
            Expr::Value(value) => self.literal(&value.value, expr),
            Expr::TypedString(typed) => {
                let text = self.literal(&typed.value.value, expr)?;
                Ok(self.cast(text, self.named_type(&typed.data_type)?)?.named(expr))
            }
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => self.number(expr),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } => {
                // The least integer has no positive twin, so its sign belongs to the literal.
                if let Expr::Value(value) = &**operand
                    && let Value::Number(digits, _) = &value.value
                {
                    return self.number_literal(&format!("-{digits}"), expr);
                }
                let operand = self.number(operand)?;
                let kind = operand.kind.clone();
                Ok(Expression::new(Node::Negate(Box::new(operand)), kind, expr))
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr: operand } => {
                let operand = self.truth(operand)?;
                Ok(Expression::new(Node::Not(Box::new(operand)), Type::Boolean, expr))
            }
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right, expr),
            Expr::IsNull(operand) => self.is_null(operand, expr),
            Expr::IsNotNull(operand) => self.is_null(operand, expr).map(not),
            Expr::IsTrue(operand) => self.is_truth(operand, true, expr),
            Expr::IsNotTrue(operand) => self.is_truth(operand, true, expr).map(not),
            Expr::IsFalse(operand) => self.is_truth(operand, false, expr),
            Expr::IsNotFalse(operand) => self.is_truth(operand, false, expr).map(not),
            Expr::IsUnknown(operand) => self.truth(operand).and_then(|_| self.is_null(operand, expr)),
            Expr::IsNotUnknown(operand) => self.truth(operand).and_then(|_| self.is_null(operand, expr)).map(not),
            Expr::IsDistinctFrom(left, right) => self.compare(Comparison::Distinct, left, right, expr),
            Expr::IsNotDistinctFrom(left, right) => self.compare(Comparison::NotDistinct, left, right, expr),
            Expr::InList { expr: operand, list, negated } => {
                self.in_list(operand, list, expr).map(|found| if *negated { not(found) } else { found })
            }
            Expr::Between { expr: operand, negated, low, high } => {
                let low = self.compare(Comparison::GreaterOrEqual, operand, low, expr)?;
                let high = self.compare(Comparison::LessOrEqual, operand, high, expr)?;
                let both = Expression::new(Node::And(Box::new(low), Box::new(high)), Type::Boolean, expr);
                Ok(if *negated { not(both) } else { both })
            }
            Expr::Like { negated, any: false, expr: text, pattern, escape_char } => {
                self.like(text, pattern, escape_char.as_deref(), false, expr).map(|found| if *negated { not(found) } else { found })
            }
            Expr::ILike { negated, any: false, expr: text, pattern, escape_char } => {
                self.like(text, pattern, escape_char.as_deref(), true, expr).map(|found| if *negated { not(found) } else { found })
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                let branches = conditions.iter().map(|branch| {
                    let condition = match operand {
                        Some(operand) => self.compare(Comparison::Equal, operand, &branch.condition, expr)?,
                        None => self.truth(&branch.condition)?,
                    };
                    Ok((condition, self.resolve(&branch.result)?))
                });
                let otherwise = else_result.as_ref().map(|result| self.resolve(result)).transpose()?;
                self.case(branches.collect::<Result<_, _>>()?, otherwise, expr)
            }
            Expr::Cast { expr: operand, data_type, format: None, kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, .. } => {
                Ok(self.cast(self.resolve(operand)?, self.named_type(data_type)?)?.named(expr))
            }
            Expr::Extract { field, expr: operand, .. } => self.extract(field, operand, expr),
            Expr::Function(function) => self.function(function, expr),
            other => Err(self.error(format_args!("`{other}` is not supported"))),
        }
    }

    /// A condition: a truth value.
    pub(crate) fn truth(&self, expr: &Expr) -> Resolved {
        let resolved = self.resolve(expr)?;
        match resolved.kind {
            Type::Boolean => Ok(resolved),
            Type::Null => self.convert(resolved, &Type::Boolean),
            ref other => Err(self.error(format_args!("`{expr}` is {other}, where a condition is needed"))),
        }
    }

    fn number(&self, expr: &Expr) -> Resolved {
        let resolved = self.resolve(expr)?;
        match resolved.kind {
            Type::Null => self.convert(resolved, &Type::Integer),
            ref kind if kind.is_number() => Ok(resolved),
            ref other => Err(self.error(format_args!("`{expr}` is {other}, where a number is needed"))),
        }
    }

    fn text(&self, expr: &Expr) -> Resolved {
        let resolved = self.resolve(expr)?;
        match resolved.kind {
            Type::Text => Ok(resolved),
            Type::Null => self.convert(resolved, &Type::Text),
            ref other => Err(self.error(format_args!("`{expr}` is {other}, where text is needed"))),
        }
    }

    fn column(&self, name: &str, expr: &Expr) -> Resolved {
        let Some((index, field)) = self.schema.column_with_name(name) else {
            let columns = self.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            return Err(QueryError::UnknownColumn { expression: self.context.into(), column: name.into(), columns });
        };
        let kind = Type::of(field.data_type())
            .ok_or_else(|| self.error(format_args!("column `{name}` is of type {}, which is not supported", field.data_type())))?;
        Ok(Expression::new(Node::Column(index), kind, expr))
    }

    fn literal(&self, value: &Value, expr: &Expr) -> Resolved {
        let (array, kind): (ArrayRef, Type) = match value {
            Value::Null => (new_null_array(&DataType::Null, 1), Type::Null),
            Value::Boolean(value) => (Arc::new(BooleanArray::from(vec![*value])), Type::Boolean),
            Value::SingleQuotedString(text) => (Arc::new(StringArray::from(vec![text.as_str()])), Type::Text),
            Value::Number(digits, _) => return self.number_literal(digits, expr),
            other => return Err(self.error(format_args!("`{other}` is not supported"))),
        };
        Ok(Expression::new(Node::Constant(array), kind, expr))
    }

    /// `12` is an integer, `0.1` a decimal, `1e3` a float.
    fn number_literal(&self, digits: &str, expr: &Expr) -> Resolved {
        let (array, kind): (ArrayRef, Type) = if let Ok(integer) = digits.parse::<i64>() {
            (Arc::new(Int64Array::from(vec![integer])), Type::Integer)
        } else if digits.contains(['e', 'E']) {
            let float = digits.parse::<f64>().map_err(|_| self.error(format_args!("`{digits}` is no number")))?;
            (Arc::new(Float64Array::from(vec![float])), Type::Float)
        } else {
            let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
            let value = format!("{whole}{fraction}").parse::<i128>().ok().and_then(exact::checked);
            let scale = u8::try_from(fraction.len()).ok().filter(|&scale| scale <= exact::DIGITS);
            let (value, scale) = value.zip(scale).ok_or_else(|| self.error(format_args!("`{digits}` has more than 38 digits")))?;
            (Arc::new(Decimal128Array::from(vec![value]).with_data_type(exact::decimal(scale))), Type::Decimal(scale))
        };
        Ok(Expression::new(Node::Constant(array), kind, expr))
    }

    fn binary(&self, left: &Expr, operator: &BinaryOperator, right: &Expr, expr: &Expr) -> Resolved {
        let arithmetic = |operator| self.arithmetic(operator, left, right, expr);
        let compare = |comparison| self.compare(comparison, left, right, expr);
        match operator {
            BinaryOperator::Plus => arithmetic(Operator::Add),
            BinaryOperator::Minus => arithmetic(Operator::Subtract),
            BinaryOperator::Multiply => arithmetic(Operator::Multiply),
            BinaryOperator::Divide => arithmetic(Operator::Divide),
            BinaryOperator::Modulo => arithmetic(Operator::Remainder),
            BinaryOperator::Eq => compare(Comparison::Equal),
            BinaryOperator::NotEq => compare(Comparison::NotEqual),
            BinaryOperator::Lt => compare(Comparison::Less),
            BinaryOperator::LtEq => compare(Comparison::LessOrEqual),
            BinaryOperator::Gt => compare(Comparison::Greater),
            BinaryOperator::GtEq => compare(Comparison::GreaterOrEqual),
            BinaryOperator::And => {
                let (left, right) = (Box::new(self.truth(left)?), Box::new(self.truth(right)?));
                Ok(Expression::new(Node::And(left, right), Type::Boolean, expr))
            }
            BinaryOperator::Or => {
                let (left, right) = (Box::new(self.truth(left)?), Box::new(self.truth(right)?));
                Ok(Expression::new(Node::Or(left, right), Type::Boolean, expr))
            }
            other => Err(self.error(format_args!("operator `{other}` is not supported"))),
        }
    }

    fn arithmetic(&self, operator: Operator, left: &Expr, right: &Expr, expr: &Expr) -> Resolved {
        let (mut left, mut right) = (self.number(left)?, self.number(right)?);
        let kind = match (left.kind.scale(), right.kind.scale()) {
            (Some(left_scale), Some(right_scale)) => {
                let is_integer = left.kind == Type::Integer && right.kind == Type::Integer && operator != Operator::Divide;
                let scale = exact::scale_of(operator, left_scale, right_scale)
                    .ok_or_else(|| self.error(format_args!("`{expr}` would have more than 38 digits after the point")))?;
                if is_integer { Type::Integer } else { Type::Decimal(scale) }
            }
            _ => {
                left = self.convert(left, &Type::Float)?;
                right = self.convert(right, &Type::Float)?;
                Type::Float
            }
        };
        Ok(Expression::new(Node::Arithmetic(operator, Box::new(left), Box::new(right)), kind, expr))
    }

    fn compare(&self, comparison: Comparison, left: &Expr, right: &Expr, expr: &Expr) -> Resolved {
        let (left, right) = (self.resolve(left)?, self.resolve(right)?);
        let (left, right) = self.unified(left, right, expr)?;
        Ok(Expression::new(Node::Compare(comparison, Box::new(left), Box::new(right)), Type::Boolean, expr))
    }

    /// Both sides of a comparison in one type.
    fn unified(&self, left: Expression, right: Expression, expr: &Expr) -> Result<(Expression, Expression), QueryError> {
        let kind = self.common(&[&left, &right], expr)?;
        let fitted = |side: Expression| match kind {
            // A number beyond the other side's digits is no reason to fail: it is larger, or smaller.
            Type::Decimal(_) if side.kind != kind && side.kind != Type::Null => Ok(side.over(Node::CastToCompare, kind.clone())),
            _ => self.convert(side, &kind),
        };
        Ok((fitted(left)?, fitted(right)?))
    }

    /// The type in which all of these meet. A quoted text takes the type of a date or timestamp beside it.
    fn common(&self, expressions: &[&Expression], expr: &Expr) -> Result<Type, QueryError> {
        let is_quoted = |expression: &Expression| expression.kind == Type::Text && matches!(expression.node, Node::Constant(_));
        let has_time = expressions.iter().any(|expression| matches!(expression.kind, Type::Date | Type::Timestamp(..)));
        let mut kinds = expressions.iter().filter(|expression| !(has_time && is_quoted(expression))).map(|expression| &expression.kind);
        let first = kinds.next().cloned().unwrap_or(Type::Null);
        kinds.try_fold(first, |common, kind| {
            common.common(kind).ok_or_else(|| self.error(format_args!("`{expr}` mixes {common} and {kind}")))
        })
    }

    /// The same value in another type that it can meet others in.
    pub(crate) fn convert(&self, expression: Expression, kind: &Type) -> Resolved {
        if expression.kind == *kind {
            return Ok(expression);
        }
        self.cast(expression, kind.clone())
    }

    fn cast(&self, expression: Expression, kind: Type) -> Resolved {
        let is_possible = match (&expression.kind, &kind) {
            (from, to) if from == to => return Ok(expression),
            (Type::Null, _) | (Type::Text, _) | (_, Type::Text) => true,
            (from, to) if from.is_number() && to.is_number() => true,
            (Type::Boolean, Type::Integer) | (Type::Integer, Type::Boolean) => true,
            (Type::Date | Type::Timestamp(..), Type::Date | Type::Timestamp(..)) => true,
            _ => false,
        };
        if !is_possible {
            return Err(self.error(format_args!("`{}` is {}, which cannot become {kind}", expression.text, expression.kind)));
        }
        // A constant is converted once, and a bad one is an error of the query, not of a record.
        if let Node::Constant(array) = &expression.node
            && !(expression.kind.is_number() && kind.is_number())
        {
            let array = cast_with_options(array, &kind.arrow(), &CastOptions { safe: false, ..Default::default() })
                .map_err(|_| self.error(format_args!("`{}` is not {kind}", expression.text)))?;
            return Ok(Expression { node: Node::Constant(array), kind, text: expression.text });
        }
        Ok(expression.over(Node::Cast, kind))
    }

    fn is_null(&self, operand: &Expr, expr: &Expr) -> Resolved {
        Ok(Expression::new(Node::IsNull(Box::new(self.resolve(operand)?)), Type::Boolean, expr))
    }

    fn is_truth(&self, operand: &Expr, value: bool, expr: &Expr) -> Resolved {
        let value = Expression::new(Node::Constant(Arc::new(BooleanArray::from(vec![value]))), Type::Boolean, expr);
        let operand = Box::new(self.truth(operand)?);
        Ok(Expression::new(Node::Compare(Comparison::NotDistinct, operand, Box::new(value)), Type::Boolean, expr))
    }

    /// `x in (a, b)` is `x = a or x = b`, with its three values.
    fn in_list(&self, operand: &Expr, list: &[Expr], expr: &Expr) -> Resolved {
        // Under their own names: that of the whole is as long as the list.
        let found = list.iter().map(|item| self.compare(Comparison::Equal, operand, item, item));
        let mut found: Vec<Expression> = found.collect::<Result<_, _>>()?;
        // As a tree that is as flat as can be: a list may be long, and computing it must not go that deep.
        while found.len() > 1 {
            let mut rest = found.into_iter();
            let mut pairs = Vec::with_capacity(rest.len().div_ceil(2));
            while let Some(left) = rest.next() {
                pairs.push(match rest.next() {
                    Some(right) => left.over(|left| Node::Or(left, Box::new(right)), Type::Boolean),
                    None => left,
                });
            }
            found = pairs;
        }
        found.pop().map(|found| found.named(expr)).ok_or_else(|| self.error(format_args!("`{expr}` has an empty list")))
    }

    /// `%` is any text, `_` any character; `\` takes the meaning from the next character, or another one after `escape`.
    fn like(&self, text: &Expr, pattern: &Expr, escape: Option<&Expr>, ignores_case: bool, expr: &Expr) -> Resolved {
        let (text, mut pattern) = (Box::new(self.text(text)?), Box::new(self.text(pattern)?));
        if let Some(escape) = escape {
            let literal = |expression: &Expression| match &expression.node {
                Node::Constant(array) if array.is_valid(0) => Some(arrow::array::AsArray::as_string::<i32>(array).value(0).to_owned()),
                _ => None,
            };
            let escape = literal(&self.text(escape)?).and_then(|escape| {
                let mut characters = escape.chars();
                characters.next().filter(|_| characters.as_str().is_empty())
            });
            let (escape, found) = escape
                .zip(literal(&pattern))
                .ok_or_else(|| self.error(format_args!("`{expr}` needs one quoted character after `escape`, and a quoted pattern")))?;
            let array: ArrayRef = Arc::new(StringArray::from(vec![with_backslashes(&found, escape)]));
            pattern.node = Node::Constant(array);
        }
        Ok(Expression::new(Node::Like { text, pattern, ignores_case }, Type::Boolean, expr))
    }

    fn case(&self, branches: Vec<(Expression, Expression)>, otherwise: Option<Expression>, expr: &Expr) -> Resolved {
        let results: Vec<&Expression> = branches.iter().map(|(_, result)| result).chain(&otherwise).collect();
        let kind = self.common(&results, expr)?;
        if kind == Type::Null {
            return Err(self.error(format_args!("`{expr}` is always null")));
        }
        let branches = branches
            .into_iter()
            .map(|(condition, result)| Ok((condition, self.convert(result, &kind)?)))
            .collect::<Result<_, QueryError>>()?;
        let otherwise = otherwise.map(|result| self.convert(result, &kind).map(Box::new)).transpose()?;
        Ok(Expression::new(Node::Case { branches, otherwise }, kind, expr))
    }

    fn extract(&self, field: &DateTimeField, operand: &Expr, expr: &Expr) -> Resolved {
        let part = match field {
            DateTimeField::Year => DatePart::Year,
            DateTimeField::Month => DatePart::Month,
            DateTimeField::Week(None) => DatePart::Week,
            DateTimeField::Day => DatePart::Day,
            DateTimeField::Hour => DatePart::Hour,
            DateTimeField::Minute => DatePart::Minute,
            DateTimeField::Second => DatePart::Second,
            other => return Err(self.error(format_args!("`extract({other} from …)` is not supported"))),
        };
        let operand = self.resolve(operand)?;
        if !matches!(operand.kind, Type::Date | Type::Timestamp(..)) {
            return Err(self.error(format_args!("`{}` is {}, where a date or a timestamp is needed", operand.text, operand.kind)));
        }
        Ok(Expression::new(Node::DatePart(part, Box::new(operand)), Type::Integer, expr))
    }

    fn function(&self, function: &Function, expr: &Expr) -> Resolved {
        let name = function.name.to_string().to_ascii_lowercase();
        let arguments = self.arguments(function)?;
        let text_function = |which, kind| match arguments[..] {
            [argument] => Ok(Expression::new(Node::Text(which, Box::new(self.text(argument)?)), kind, expr)),
            _ => Err(self.error(format_args!("`{name}` takes one argument"))),
        };
        match name.as_str() {
            "lower" => text_function(TextFunction::Lower, Type::Text),
            "upper" => text_function(TextFunction::Upper, Type::Text),
            "length" | "char_length" | "character_length" => text_function(TextFunction::Length, Type::Integer),
            "coalesce" => {
                let Some((last, others)) = arguments.split_last() else {
                    return Err(self.error("`coalesce` takes at least one argument"));
                };
                if others.is_empty() {
                    return self.resolve(last);
                }
                let branches = others.iter().map(|argument| Ok((not(self.is_null(argument, expr)?), self.resolve(argument)?)));
                self.case(branches.collect::<Result<_, QueryError>>()?, Some(self.resolve(last)?), expr)
            }
            "nullif" => {
                let [value, other] = arguments[..] else { return Err(self.error("`nullif` takes two arguments")) };
                let equal = self.compare(Comparison::Equal, value, other, expr)?;
                let value = self.resolve(value)?;
                let null = Expression::new(Node::Constant(new_null_array(&DataType::Null, 1)), Type::Null, expr);
                self.case(vec![(equal, null)], Some(value), expr)
            }
            "count" | "sum" | "min" | "max" | "avg" => {
                Err(self.error(format_args!("`{expr}`: an aggregate stands alone, not within an expression")))
            }
            _ => Err(self.error(format_args!("there is no function `{name}`"))),
        }
    }

    /// The arguments of a plain call.
    pub(crate) fn arguments<'f>(&self, function: &'f Function) -> Result<Vec<&'f Expr>, QueryError> {
        let unsupported = || self.error(format_args!("`{function}` is not a plain call"));
        let FunctionArguments::List(list) = &function.args else { return Err(unsupported()) };
        let is_plain = list.duplicate_treatment.is_none()
            && list.clauses.is_empty()
            && function.filter.is_none()
            && function.over.is_none()
            && function.null_treatment.is_none()
            && function.within_group.is_empty();
        if !is_plain {
            return Err(unsupported());
        }
        list.args
            .iter()
            .map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
                _ => Err(unsupported()),
            })
            .collect()
    }

    fn named_type(&self, name: &ast::DataType) -> Result<Type, QueryError> {
        use ast::DataType as Named;
        Ok(match name {
            Named::Boolean | Named::Bool => Type::Boolean,
            Named::Int(_) | Named::Integer(_) | Named::BigInt(_) | Named::Int64 => Type::Integer,
            Named::Decimal(digits) | Named::Numeric(digits) | Named::Dec(digits) => match digits {
                ExactNumberInfo::None | ExactNumberInfo::Precision(_) => Type::Decimal(0),
                ExactNumberInfo::PrecisionAndScale(_, scale) => match u8::try_from(*scale) {
                    Ok(scale) if scale <= exact::DIGITS => Type::Decimal(scale),
                    _ => return Err(self.error(format_args!("`{name}` has no scale of 0 to 38"))),
                },
            },
            Named::Float(_) | Named::Float8 | Named::Double(_) | Named::DoublePrecision | Named::Float64 | Named::Real => Type::Float,
            Named::Text | Named::Varchar(None) | Named::String(None) => Type::Text,
            Named::Date => Type::Date,
            Named::Timestamp(None, ast::TimezoneInfo::None) => Type::Timestamp(TimeUnit::Microsecond, None),
            other => return Err(self.error(format_args!("type `{other}` is not supported"))),
        })
    }
}

fn not(expression: Expression) -> Expression {
    expression.over(Node::Not, Type::Boolean)
}

/// A pattern escaped by `escape` as one escaped by backslashes.
fn with_backslashes(pattern: &str, escape: char) -> String {
    let mut escaped = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            _ if character == escape => escaped.extend(['\\'].into_iter().chain(characters.next())),
            '\\' => escaped.push_str("\\\\"),
            _ => escaped.push(character),
        }
    }
    escaped
}
