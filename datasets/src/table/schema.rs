//! Column types as people write them: the syntax of `--schema`.
//!
//! Owns the names of the types, both ways, and how a given schema is laid over an inferred one. What text a type accepts is in
//! `number.rs`; how types are inferred in `infer.rs`.
//!
//! ```text
//!   schema   column [, column]…          price: decimal(12,2), "unit, long": text
//!   column   name : type                 a name with , : or " in it stands in double quotes, doubled inside
//!   type     text | int | float | bool | date | timestamp | decimal(digits, scale)
//! ```

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use std::sync::Arc;

/// Why the text of a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A piece between commas is not of the form `name: type`.
    #[error("'{piece}' in the schema is not of the form 'name: type'")]
    Form {
        /// The piece.
        piece: String,
    },
    /// There is no such type.
    #[error("column '{column}' has the unknown type '{name}'; the types are {TYPES}")]
    Type {
        /// The column it was given for.
        column: String,
        /// What stands in place of a type.
        name: String,
    },
    /// A column is named twice.
    #[error("column '{column}' is in the schema twice")]
    Twice {
        /// The column.
        column: String,
    },
    /// A type was given for a column that the input does not have.
    #[error("the schema names column '{column}', which the input does not have; its columns are {columns}")]
    Unknown {
        /// The column.
        column: String,
        /// Those that exist, joined by commas.
        columns: String,
    },
}

const TYPES: &str = "text, int, float, bool, date, timestamp and decimal(digits,scale) with at most 38 digits";

/// Reads the argument of `--schema`: types for some columns, all of them nullable.
///
/// ```
/// let schema = shardmill_datasets::table::parse_schema("city: text, price: decimal(12,2)").unwrap();
/// assert_eq!(schema.field(1).name(), "price");
/// assert!(shardmill_datasets::table::parse_schema("city: txt").is_err());
/// ```
pub fn parse_schema(text: &str) -> Result<Schema, SchemaError> {
    let mut fields: Vec<Field> = Vec::new();
    for piece in pieces(text) {
        let form = || SchemaError::Form { piece: piece.trim().to_owned() };
        let (name, rest) = name(piece.trim_start()).ok_or_else(form)?;
        let type_text = rest.trim_start().strip_prefix(':').ok_or_else(form)?.trim();
        let data_type = parse_type(type_text).ok_or_else(|| SchemaError::Type { column: name.clone(), name: type_text.to_owned() })?;
        if fields.iter().any(|field| *field.name() == name) {
            return Err(SchemaError::Twice { column: name });
        }
        fields.push(Field::new(name, data_type, true));
    }
    Ok(Schema::new(fields))
}

/// The name of a type in the syntax of `--schema`; types that have none there are named as Arrow names them.
///
/// ```
/// use arrow::datatypes::DataType;
/// assert_eq!(shardmill_datasets::table::type_name(&DataType::Decimal128(12, 2)), "decimal(12,2)");
/// ```
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "text".to_owned(),
        DataType::Int64 => "int".to_owned(),
        DataType::Float64 => "float".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        other => other.to_string(),
    }
}

/// A schema in the syntax that [`parse_schema`] reads, for people to look at, copy and change.
///
/// ```
/// use shardmill_datasets::table::{parse_schema, schema_text};
/// let text = "city: text, \"a:b\": int";
/// assert_eq!(schema_text(&parse_schema(text).unwrap()), text);
/// ```
pub fn schema_text(schema: &Schema) -> String {
    let columns = schema.fields().iter().map(|field| format!("{}: {}", quoted(field.name()), type_name(field.data_type())));
    columns.collect::<Vec<_>>().join(", ")
}

/// Puts the types of `given` in place of the inferred ones, column by column; the order stays that of `inferred`.
pub fn override_types(inferred: &Schema, given: &Schema) -> Result<Schema, SchemaError> {
    let unknown = |column: &String| {
        let columns = inferred.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        SchemaError::Unknown { column: column.clone(), columns }
    };
    if let Some(field) = given.fields().iter().find(|field| inferred.column_with_name(field.name()).is_none()) {
        return Err(unknown(field.name()));
    }
    let decided =
        |field: &Arc<Field>| given.column_with_name(field.name()).map_or_else(|| field.clone(), |(_, given)| Arc::new(given.clone()));
    Ok(Schema::new(inferred.fields().iter().map(decided).collect::<Vec<_>>()))
}

/// Cuts at the commas that stand in neither quotes nor parentheses; pieces of nothing are left out.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut depth) = (false, 0);
    text.split(move |symbol| {
        match symbol {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        symbol == ',' && !quoted && depth == 0
    })
    .filter(|piece| !piece.trim().is_empty())
}

/// The name at the front, quotes taken away, and what follows it.
fn name(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('"') else {
        let (name, _) = text.split_once(':')?;
        let rest = &text[name.len()..];
        return (!name.trim().is_empty()).then(|| (name.trim().to_owned(), rest));
    };
    let mut name = String::new();
    let mut parts = inner.split('"');
    let mut rest = parts.next()?;
    let mut used = 0;
    loop {
        name.push_str(rest);
        used += rest.len() + 1;
        match inner.get(used..)?.strip_prefix('"') {
            Some(_) => {
                name.push('"');
                used += 1;
                rest = inner[used..].split('"').next()?;
            }
            None => return Some((name, &inner[used..])),
        }
    }
}

/// A column name as it stands in a schema.
pub(super) fn quoted(name: &str) -> String {
    if name.contains([',', ':', '"', '(', ')']) || name.trim() != name || name.is_empty() {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}

fn parse_type(text: &str) -> Option<DataType> {
    Some(match text {
        "text" => DataType::Utf8,
        "int" => DataType::Int64,
        "float" => DataType::Float64,
        "bool" => DataType::Boolean,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => {
            let arguments = text.strip_prefix("decimal")?.trim_start().strip_prefix('(')?.strip_suffix(')')?;
            let (precision, scale) = arguments.split_once(',')?;
            let (precision, scale) = (precision.trim().parse::<u8>().ok()?, scale.trim().parse::<i8>().ok()?);
            let sound = (1..=38).contains(&precision) && (0..=38).contains(&scale) && scale.unsigned_abs() <= precision;
            sound.then_some(DataType::Decimal128(precision, scale))?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_type_can_be_written() {
        let schema = parse_schema("a: text, b: decimal( 12 , 2 ), c: int, d: timestamp, e: date, f: bool, g:float,").unwrap();
        let types = schema.fields().iter().map(|field| type_name(field.data_type())).collect::<Vec<_>>();
        assert_eq!(types, ["text", "decimal(12,2)", "int", "timestamp", "date", "bool", "float"]);
        assert!(schema.fields().iter().all(|field| field.is_nullable()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text| parse_schema(text).unwrap_err().to_string();
        assert_eq!(error("city"), "'city' in the schema is not of the form 'name: type'");
        assert_eq!(error("a: int, a: text"), "column 'a' is in the schema twice");
        assert_eq!(
            error("price: decimal(40,2)"),
            "column 'price' has the unknown type 'decimal(40,2)'; the types are text, int, float, bool, date, timestamp and decimal(digits,scale) with at most 38 digits"
        );
        assert!(matches!(parse_schema("\"open: int"), Err(SchemaError::Form { .. })));
        assert!(matches!(parse_schema("x: decimal(2,3)"), Err(SchemaError::Type { .. })));
    }

    #[test]
    fn a_given_type_takes_the_place_of_the_inferred_one() {
        let inferred = parse_schema("a: int, b: int, c: text").unwrap();
        let decided = override_types(&inferred, &parse_schema("b: float").unwrap()).unwrap();
        assert_eq!(schema_text(&decided), "a: int, b: float, c: text");
        let error = override_types(&inferred, &parse_schema("d: int").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the schema names column 'd', which the input does not have; its columns are a, b, c");
    }

    proptest! {
        #[test]
        fn a_schema_that_was_written_is_read_back(names in proptest::collection::btree_set("[a-z,:\"() é]{1,6}", 1..6)) {
            let schema = Schema::new(names.iter().map(|name| Field::new(name, DataType::Decimal128(9, 3), true)).collect::<Vec<_>>());
            prop_assert_eq!(parse_schema(&schema_text(&schema)), Ok(schema));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z,:\"() 0-9]{0,30}") {
            let _ = parse_schema(&text);
        }
    }
}
