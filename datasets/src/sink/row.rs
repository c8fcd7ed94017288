//! Rows of serde types as records of delimited text.
//!
//! A row is a struct, a tuple or a single value; its fields are single values. Values look as the
//! `csv` crate writes them: `None` is empty, floats are the shortest text that reads back as the same
//! number, a unit variant is its name. Where that crate flattens a nested sequence or tuple into more
//! fields, a row is refused here: the header comes from the type, and such fields have no names in it.

use std::fmt::{self, Display};

use serde::Serialize;
use serde::ser::{self, Impossible, Serializer};

use super::csv::Record;

/// Writes one row as a record. On an error nothing of it is left in `out`.
#[inline]
pub(super) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, delimiter: u8, header: Option<&[String]>, row: &T) -> Result<(), RowFault> {
    let mut writer = RowWriter { record: Record::begin(out, delimiter), header };
    match row.serialize(&mut writer).and_then(|()| writer.check_count()) {
        Ok(()) => {
            writer.record.end();
            Ok(())
        }
        Err(fault) => {
            writer.record.abandon();
            Err(fault)
        }
    }
}

/// Why a row cannot be written.
#[derive(Debug)]
pub(super) struct RowFault(String);

impl RowFault {
    #[cold]
    fn nested(what: &str) -> Self {
        Self(format!("{what} does not fit into one field; jsonl, parquet and arrow take it"))
    }

    #[cold]
    fn in_field(self, name: &str) -> Self {
        Self(format!("field `{name}`: {}", self.0))
    }
}

impl Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RowFault {}

impl ser::Error for RowFault {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct RowWriter<'a> {
    record: Record<'a>,
    header: Option<&'a [String]>,
}

impl RowWriter<'_> {
    #[inline]
    fn check_count(&self) -> Result<(), RowFault> {
        match self.header {
            Some(header) if header.len() != self.record.fields() => Err(RowFault(format!(
                "it has {} fields, the header has {}; a row type must not leave fields out",
                self.record.fields(),
                header.len()
            ))),
            _ => Ok(()),
        }
    }

    #[inline]
    fn named<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), RowFault> {
        if let Some(header) = self.header {
            let expected = header.get(self.record.fields());
            if expected.is_none_or(|expected| expected != name) {
                return Err(RowFault(format!(
                    "field `{name}` stands where the header has {}",
                    expected.map_or("nothing".to_owned(), |expected| format!("`{expected}`"))
                )));
            }
        }
        value.serialize(FieldWriter(&mut self.record)).map_err(|fault| fault.in_field(name))
    }

    #[inline]
    fn positioned<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), RowFault> {
        let position = self.record.fields();
        value.serialize(FieldWriter(&mut self.record)).map_err(|fault| fault.in_field(&position.to_string()))
    }
}

/// The methods of a row's serializer for a row that is a single value.
macro_rules! single_values {
    ($($method:ident($type:ty)),* $(,)?) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), RowFault> {
            FieldWriter(&mut self.record).$method(value)
        }
    )*};
}

impl<'w, 'a> Serializer for &'w mut RowWriter<'a> {
    type Ok = ();
    type Error = RowFault;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Impossible<(), RowFault>;
    type SerializeMap = Impossible<(), RowFault>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), RowFault>;

    single_values! {
        serialize_bool(bool), serialize_char(char), serialize_str(&str), serialize_bytes(&[u8]),
        serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128),
        serialize_f32(f32), serialize_f64(f64), serialize_unit_struct(&'static str),
    }

    fn serialize_none(self) -> Result<(), RowFault> {
        FieldWriter(&mut self.record).serialize_none()
    }

    fn serialize_unit(self) -> Result<(), RowFault> {
        FieldWriter(&mut self.record).serialize_unit()
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<(), RowFault> {
        FieldWriter(&mut self.record).serialize_unit_variant(name, index, variant)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), RowFault> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), RowFault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, _: &'static str, value: &T) -> Result<(), RowFault> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, RowFault> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Self, RowFault> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, RowFault> {
        Ok(self)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, RowFault> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, RowFault> {
        Err(RowFault::nested(&format!("the variant `{variant}`")))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, RowFault> {
        Err(RowFault::nested(&format!("the variant `{variant}`")))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, RowFault> {
        Err(RowFault("a map is no row: its columns are not known before its content".to_owned()))
    }
}

impl ser::SerializeStruct for &mut RowWriter<'_> {
    type Ok = ();
    type Error = RowFault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), RowFault> {
        self.named(name, value)
    }

    #[inline]
    fn end(self) -> Result<(), RowFault> {
        Ok(())
    }
}

/// The compounds whose values have a position and no name.
macro_rules! positional {
    ($($trait:ident::$method:ident),*) => {$(
        impl ser::$trait for &mut RowWriter<'_> {
            type Ok = ();
            type Error = RowFault;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), RowFault> {
                self.positioned(value)
            }

            #[inline]
            fn end(self) -> Result<(), RowFault> {
                Ok(())
            }
        }
    )*};
}

positional!(SerializeSeq::serialize_element, SerializeTuple::serialize_element, SerializeTupleStruct::serialize_field);

/// Writes one value as one field.
struct FieldWriter<'w, 'a>(&'w mut Record<'a>);

macro_rules! integers {
    ($($method:ident($type:ty)),* $(,)?) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), RowFault> {
            self.0.plain().extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            Ok(())
        }
    )*};
}

macro_rules! floats {
    ($($method:ident($type:ty)),* $(,)?) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), RowFault> {
            self.0.plain().extend_from_slice(ryu::Buffer::new().format(value).as_bytes());
            Ok(())
        }
    )*};
}

impl Serializer for FieldWriter<'_, '_> {
    type Ok = ();
    type Error = RowFault;
    type SerializeSeq = Impossible<(), RowFault>;
    type SerializeTuple = Impossible<(), RowFault>;
    type SerializeTupleStruct = Impossible<(), RowFault>;
    type SerializeTupleVariant = Impossible<(), RowFault>;
    type SerializeMap = Impossible<(), RowFault>;
    type SerializeStruct = Impossible<(), RowFault>;
    type SerializeStructVariant = Impossible<(), RowFault>;

    integers! {
        serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128),
    }

    floats! { serialize_f32(f32), serialize_f64(f64) }

    fn serialize_bool(self, value: bool) -> Result<(), RowFault> {
        self.0.plain().extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), RowFault> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), RowFault> {
        self.0.field(value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), RowFault> {
        self.0.field(value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), RowFault> {
        self.0.plain();
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), RowFault> {
        self.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), RowFault> {
        value.serialize(self)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), RowFault> {
        self.serialize_str(name)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), RowFault> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), RowFault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, _: &'static str, value: &T) -> Result<(), RowFault> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, RowFault> {
        Err(RowFault::nested("a sequence"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, RowFault> {
        Err(RowFault::nested("a tuple"))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, RowFault> {
        Err(RowFault::nested("a tuple"))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, RowFault> {
        Err(RowFault::nested(&format!("the variant `{variant}`")))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, RowFault> {
        Err(RowFault::nested("a map"))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Self::SerializeStruct, RowFault> {
        Err(RowFault::nested(&format!("the struct `{name}`")))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, RowFault> {
        Err(RowFault::nested(&format!("the variant `{variant}`")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;

    #[derive(Clone, Debug, Serialize)]
    enum Grade {
        Good,
        Other(String),
    }

    #[derive(Clone, Debug, Serialize)]
    struct Sale {
        city: String,
        note: Option<String>,
        mark: char,
        sold: bool,
        count: u64,
        delta: Option<i64>,
        wide: i128,
        price: f64,
        weight: Option<f32>,
        grade: Grade,
        nothing: (),
    }

    fn sale() -> impl Strategy<Value = Sale> {
        let text = || prop_oneof!["[a-z]{0,12}", "[ ,\"\n\rä;]{0,6}"];
        let grade = prop_oneof![Just(Grade::Good), text().prop_map(Grade::Other)];
        (
            (text(), prop::option::of(text()), any::<char>(), any::<bool>(), any::<u64>()),
            (any::<Option<i64>>(), any::<i128>(), any::<f64>(), any::<Option<f32>>(), grade),
        )
            .prop_map(|((city, note, mark, sold, count), (delta, wide, price, weight, grade))| Sale {
                city,
                note,
                mark,
                sold,
                count,
                delta,
                wide,
                price,
                weight,
                grade,
                nothing: (),
            })
    }

    proptest! {
        #[test]
        fn rows_are_the_bytes_that_the_csv_crate_writes(
            sales in prop::collection::vec(sale(), 0..6), delimiter in prop::sample::select(b",\t".to_vec()),
        ) {
            let mut ours = Vec::new();
            let mut theirs = ::csv::WriterBuilder::new()
                .delimiter(delimiter).has_headers(false).from_writer(Vec::new());
            for sale in &sales {
                write(&mut ours, delimiter, None, sale).unwrap();
                theirs.serialize(sale).unwrap();
            }
            prop_assert_eq!(ours, theirs.into_inner().unwrap());
        }

        #[test]
        fn tuples_and_single_values_are_the_bytes_that_the_csv_crate_writes(
            pairs in prop::collection::vec(any::<(Option<String>, f32)>(), 0..6), words: Vec<String>,
        ) {
            let mut ours = Vec::new();
            let mut theirs = ::csv::WriterBuilder::new().has_headers(false).flexible(true).from_writer(Vec::new());
            for pair in &pairs {
                write(&mut ours, b',', None, pair).unwrap();
                theirs.serialize(pair).unwrap();
            }
            for word in &words {
                write(&mut ours, b',', None, word).unwrap();
                theirs.serialize(word).unwrap();
            }
            prop_assert_eq!(ours, theirs.into_inner().unwrap());
        }
    }

    fn refusal<T: Serialize>(header: Option<&[&str]>, row: &T) -> String {
        let header: Option<Vec<String>> = header.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        let mut out = b"before\n".to_vec();
        let fault = write(&mut out, b',', header.as_deref(), row).unwrap_err();
        assert_eq!(out, b"before\n", "a refused row leaves nothing behind");
        fault.to_string()
    }

    #[test]
    fn a_nested_value_is_refused_with_its_field_named() {
        #[derive(Serialize)]
        struct Tagged {
            id: u32,
            tags: Vec<String>,
        }
        let row = Tagged { id: 1, tags: vec![] };
        assert!(refusal(None, &row).starts_with("field `tags`: a sequence does not fit into one field"));
        assert!(refusal(None, &(1, (2, 3))).starts_with("field `1`: a tuple does not fit"));
        assert!(refusal(None, &BTreeMap::from([(1, 2)])).contains("map"));
    }

    #[test]
    fn a_row_that_departs_from_the_header_is_refused() {
        #[derive(Serialize)]
        struct Row {
            word: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            count: Option<u64>,
        }
        let row = Row { word: "a", count: None };
        assert!(refusal(Some(&["word", "count"]), &row).contains("1 fields, the header has 2"));
        let row = Row { word: "a", count: Some(1) };
        assert!(refusal(Some(&["word", "total"]), &row).contains("field `count` stands where the header has `total`"));
        assert!(refusal(Some(&["word"]), &row).contains("stands where the header has nothing"));
    }
}
