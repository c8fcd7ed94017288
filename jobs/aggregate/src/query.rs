//! The flags of the job as a query: parsed without the input, then resolved against its columns.
//!
//! Owns the meaning of `--group-by`, `--aggregate` and `--where`: what may stand in each, how the columns of the output are
//! called. Expressions are resolved in `expression`; what an aggregate needs of a group's state is decided in `accumulate`.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use sqlparser::ast::{Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, SelectItem};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::accumulate::Aggregate;
use crate::expression::{Expression, Resolver, Type};
use crate::plan::Plan;

/// What is wrong with a query, before any record is read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is no expression.
    #[error("cannot parse `{expression}`: {source}")]
    Syntax {
        /// The flag and its value.
        expression: String,
        /// What the parser met, and where.
        source: ParserError,
    },
    /// A column is named that the input does not have.
    #[error("`{expression}`: there is no column `{column}`; the input has {columns}")]
    UnknownColumn {
        /// The flag and its value.
        expression: String,
        /// The name that was not found.
        column: String,
        /// All names, separated by commas.
        columns: String,
    },
    /// The expression makes no sense, or none that is supported.
    #[error("`{expression}`: {problem}")]
    Meaning {
        /// The flag and its value.
        expression: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two columns of the output would have the same name.
    #[error("two columns of the output are called `{name}`; name one of them with `as`")]
    SameName {
        /// The name.
        name: String,
    },
    /// There is nothing to compute.
    #[error("nothing to compute: give --group-by or --aggregate")]
    Empty,
}

/// A column of the output, parsed.
#[derive(Clone, Debug)]
struct Item {
    expr: Expr,
    name: String,
    /// The flag it came in, for errors.
    context: String,
}

/// A parsed query, not yet resolved against an input.
///
/// ```
/// # use aggregate::Query;
/// let query = Query::parse(&["city"], &["sum(price * quantity) as revenue"], Some("discount > 0.1"))?;
/// assert_eq!(query.columns(), ["city", "discount", "price", "quantity"]);
/// # Ok::<(), aggregate::QueryError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Query {
    groups: Vec<Item>,
    aggregates: Vec<Item>,
    filter: Option<Item>,
}

impl Query {
    /// Parses the values of `--group-by`, `--aggregate` and `--where`.
    ///
    /// Each of the first two may hold several expressions separated by commas, each with a name after `as`.
    pub fn parse(group_by: &[impl AsRef<str>], aggregates: &[impl AsRef<str>], filter: Option<&str>) -> Result<Self, QueryError> {
        let groups = group_by.iter().map(|text| parse_items("--group-by", text.as_ref()));
        let aggregates = aggregates.iter().map(|text| parse_items("--aggregate", text.as_ref()));
        let query = Self {
            groups: groups.collect::<Result<Vec<_>, _>>()?.concat(),
            aggregates: aggregates.collect::<Result<Vec<_>, _>>()?.concat(),
            filter: filter.map(parse_filter).transpose()?,
        };
        let mut names = BTreeSet::new();
        let mut items = query.groups.iter().chain(&query.aggregates);
        if let Some(twice) = items.find(|item| !names.insert(item.name.as_str())) {
            return Err(QueryError::SameName { name: twice.name.clone() });
        }
        if names.is_empty() { Err(QueryError::Empty) } else { Ok(query) }
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.groups.iter().chain(&self.aggregates).chain(&self.filter)
    }

    /// The names of the input's columns that the query reads, sorted.
    pub fn columns(&self) -> Vec<String> {
        let mut columns = BTreeSet::new();
        for item in self.items() {
            collect_columns(&item.expr, &mut columns);
        }
        columns.into_iter().collect()
    }

    /// Finds columns and types in an input's schema.
    pub fn resolve(&self, schema: &Schema) -> Result<Plan, QueryError> {
        let group = |item: &'_ Item| -> Result<Expression, QueryError> {
            let resolver = Resolver { schema, context: &item.context };
            let resolved = resolver.resolve(&item.expr)?;
            // A column without any value is as good as one of text.
            if resolved.kind == Type::Null { resolver.convert(resolved, &Type::Text) } else { Ok(resolved) }
        };
        let groups = self.groups.iter().map(|item| Ok((item.name.clone(), group(item)?)));
        let groups = groups.collect::<Result<Vec<_>, QueryError>>()?;
        let aggregates = self.aggregates.iter().map(|item| Ok((item.name.clone(), resolve_aggregate(schema, item)?)));
        let aggregates = aggregates.collect::<Result<Vec<_>, QueryError>>()?;
        let filter = self.filter.as_ref().map(|item| Resolver { schema, context: &item.context }.truth(&item.expr)).transpose()?;
        Ok(Plan::new(groups, aggregates, filter))
    }
}

fn parse_items(flag: &str, text: &str) -> Result<Vec<Item>, QueryError> {
    let context = format!("{flag} {text}");
    let items = parse_whole(text, |parser| parser.parse_comma_separated(Parser::parse_select_item))
        .map_err(|source| QueryError::Syntax { expression: context.clone(), source })?;
    items
        .into_iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => {
                Ok(Item { name: column.value.clone(), expr: Expr::Identifier(column), context: context.clone() })
            }
            SelectItem::UnnamedExpr(expr) => Ok(Item { name: expr.to_string(), expr, context: context.clone() }),
            SelectItem::ExprWithAlias { expr, alias } => Ok(Item { name: alias.value, expr, context: context.clone() }),
            other => Err(QueryError::Meaning { expression: context.clone(), problem: format!("`{other}` is not supported") }),
        })
        .collect()
}

fn parse_filter(text: &str) -> Result<Item, QueryError> {
    let context = format!("--where {text}");
    match parse_whole(text, |parser| parser.parse_expr()) {
        Ok(expr) => Ok(Item { expr, name: String::new(), context }),
        Err(source) => Err(QueryError::Syntax { expression: context, source }),
    }
}

/// The most operators that a text may have. Each may be one level of what is computed by recursion.
const OPERATORS: usize = 100;

/// Parses all of `text`, and refuses what is left over.
fn parse_whole<T>(text: &str, parse: impl Fn(&mut Parser<'_>) -> Result<T, ParserError>) -> Result<T, ParserError> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location()?;
    let spoken = tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_)));
    let operators = spoken.clone().zip(spoken.skip(1)).filter(|(before, token)| ends_operand(before) && is_operator(token)).count();
    if operators > OPERATORS {
        return Err(ParserError::ParserError(format!(
            "it has {operators} operators, the limit is {OPERATORS}; a list of values is one `in (…)`"
        )));
    }
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens);
    let parsed = parse(&mut parser)?;
    parser.expect_token(&Token::EOF)?;
    Ok(parsed)
}

/// Whether an operand may end here, so that an operator behind it stands between two. Before one, its depth is the parser's to limit.
fn ends_operand(token: &Token) -> bool {
    matches!(token, Token::Word(_) | Token::Number(..) | Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) | Token::RParen)
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => word.quote_style.is_none() && ["and", "or", "is"].contains(&word.value.to_ascii_lowercase().as_str()),
        Token::Comma | Token::Period | Token::LParen | Token::EOF => false,
        other => !ends_operand(other),
    }
}

fn resolve_aggregate(schema: &Schema, item: &Item) -> Result<Aggregate, QueryError> {
    let resolver = Resolver { schema, context: &item.context };
    let Expr::Function(function) = &item.expr else {
        return Err(resolver.error(format_args!("`{}` is no aggregate: count, sum, min, max or avg", item.expr)));
    };
    let name = function.name.to_string().to_ascii_lowercase();
    if name == "count" && counts_rows(function) {
        return Ok(Aggregate::ROWS);
    }
    let is_aggregate = ["count", "sum", "min", "max", "avg"].contains(&name.as_str());
    if !is_aggregate {
        return Err(resolver.error(format_args!("`{name}` is no aggregate: count, sum, min, max or avg")));
    }
    let arguments = resolver.arguments(function)?;
    let [argument] = arguments[..] else { return Err(resolver.error(format_args!("`{name}` takes one argument"))) };
    Aggregate::new(&name, resolver.resolve(argument)?).map_err(|problem| resolver.error(problem))
}

/// `count()` or `count(*)`.
fn counts_rows(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    let is_plain = list.duplicate_treatment.is_none() && list.clauses.is_empty() && function.filter.is_none() && function.over.is_none();
    is_plain && matches!(list.args[..], [] | [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)])
}

/// Adds the names of all columns in `expr`.
///
/// Knows the expressions that `Resolver::resolve` does; the others are refused there.
fn collect_columns(expr: &Expr, columns: &mut BTreeSet<String>) {
    let mut visit = |expr: &Expr| collect_columns(expr, columns);
    match expr {
        Expr::Identifier(name) => {
            columns.insert(name.value.clone());
        }
        Expr::Nested(inner)
        | Expr::UnaryOp { expr: inner, .. }
        | Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotUnknown(inner)
        | Expr::Cast { expr: inner, .. }
        | Expr::Extract { expr: inner, .. } => visit(inner),
        Expr::BinaryOp { left, right, .. } | Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
            [left, right].into_iter().for_each(|side| visit(side));
        }
        Expr::Like { expr, pattern, .. } | Expr::ILike { expr, pattern, .. } => {
            [expr, pattern].into_iter().for_each(|side| visit(side));
        }
        Expr::InList { expr, list, .. } => std::iter::once(&**expr).chain(list).for_each(visit),
        Expr::Between { expr, low, high, .. } => [expr, low, high].into_iter().for_each(|side| visit(side)),
        Expr::Case { operand, conditions, else_result, .. } => {
            operand.iter().chain(else_result).for_each(|side| visit(side));
            for branch in conditions {
                visit(&branch.condition);
                visit(&branch.result);
            }
        }
        Expr::Function(function) => {
            if let FunctionArguments::List(list) = &function.args {
                for argument in &list.args {
                    if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument {
                        visit(expr);
                    }
                }
            }
        }
        _ => {}
    }
}
