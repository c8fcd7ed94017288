//! The schema of a row type, from the type alone.

use arrow::datatypes::{Field, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};

/// A row type whose columns cannot be known before there are rows.
#[derive(Debug, thiserror::Error)]
#[error("the columns of `{type_name}` cannot be known beforehand: {cause}")]
pub struct SchemaUnknown {
    /// The row type.
    pub type_name: &'static str,
    /// Which part of it, and why.
    pub cause: String,
}

/// Finds the columns of a row type: their names, types, and whether they may be null.
///
/// Asks only the type, never a row, so that empty parts have the same header and schema as full ones.
/// Types whose shape depends on their content are refused: maps, untagged and flattened types,
/// `serde_json::Value`. So are rows that are no struct or tuple.
///
/// ```
/// use shardmill_datasets::schema_of;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct WordTotal {
///     word: String,
///     count: u64,
/// }
///
/// let schema = schema_of::<WordTotal>()?;
/// assert_eq!(schema.fields()[0].name(), "word");
/// assert!(!schema.fields()[1].is_nullable());
/// assert!(schema_of::<std::collections::HashMap<String, u64>>().is_err());
/// # Ok::<(), shardmill_datasets::SchemaUnknown>(())
/// ```
pub fn schema_of<T: Serialize + DeserializeOwned>() -> Result<Schema, SchemaUnknown> {
    // Offsets of 32 bits: batches are cut long before 2 GiB, and readers know these types best.
    let options = TracingOptions::default()
        .strings_as_large_utf8(false)
        .bytes_as_large_binary(false)
        .sequence_as_large_list(false)
        .enums_without_data_as_strings(true)
        // An enum is learnt variant by variant, and every variant of every enum takes a round.
        .from_type_budget(10_000);
    let fields = Vec::<Field>::from_type::<T>(options)
        .map_err(|error| SchemaUnknown { type_name: std::any::type_name::<T>(), cause: error.message().to_owned() })?;
    Ok(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::datatypes::DataType;
    use serde::Deserialize;

    use super::*;

    #[test]
    fn columns_come_from_the_type_with_their_names_types_and_nullability() {
        #[derive(Serialize, Deserialize)]
        enum Grade {
            Good,
            Bad,
        }
        #[derive(Serialize, Deserialize)]
        struct Row {
            #[serde(rename = "city name")]
            city: String,
            revenue: Option<f64>,
            tags: Vec<u32>,
            grade: Grade,
        }
        let schema = schema_of::<Row>().unwrap();
        let column = |at: usize| {
            let field = schema.field(at);
            (field.name().as_str(), field.data_type().clone(), field.is_nullable())
        };
        assert_eq!(column(0), ("city name", DataType::Utf8, false));
        assert_eq!(column(1), ("revenue", DataType::Float64, true));
        assert!(matches!(column(2), ("tags", DataType::List(_), false)));
        assert!(matches!(column(3), ("grade", DataType::Dictionary(..), false)));
    }

    #[test]
    fn types_whose_columns_depend_on_their_content_are_refused_by_name() {
        #[derive(Serialize, Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        #[derive(Serialize, Deserialize)]
        struct Row {
            either: Either,
        }
        #[derive(Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            rest: BTreeMap<String, u64>,
        }
        assert!(schema_of::<Row>().unwrap_err().to_string().contains("Row"));
        assert!(schema_of::<Flat>().is_err());
        assert!(schema_of::<serde_json::Value>().is_err());
        assert!(schema_of::<String>().is_err());
    }
}
