//! How much memory a serde row will take as columns, roughly: what keeps a batch of rows in bounds
//! before it has been built.

use std::fmt::{self, Display, Write};

use serde::ser::{self, Serialize, Serializer};

/// The bytes that a row's values take, give or take their bookkeeping.
pub(super) fn bytes_of<T: Serialize + ?Sized>(row: &T) -> usize {
    let mut bytes = 0;
    // A row that fails to serialize fails again, with its message, where it is really written.
    let _ = row.serialize(Measure(&mut bytes));
    bytes
}

/// A value of fixed width, and what is kept beside one that is not.
const FIXED: usize = 16;

struct Measure<'a>(&'a mut usize);

#[derive(Debug, thiserror::Error)]
#[error("the row failed to serialize")]
struct Failed;

impl ser::Error for Failed {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

macro_rules! fixed {
    ($($method:ident($($type:ty),*)),* $(,)?) => {$(
        #[inline]
        fn $method(self $(, _: $type)*) -> Result<(), Failed> {
            *self.0 += FIXED;
            Ok(())
        }
    )*};
}

macro_rules! compounds {
    ($($method:ident($($type:ty),*) -> $name:ident),* $(,)?) => {$(
        #[inline]
        fn $method(self $(, _: $type)*) -> Result<Self::$name, Failed> {
            *self.0 += FIXED;
            Ok(self)
        }
    )*};
}

impl Serializer for Measure<'_> {
    type Ok = ();
    type Error = Failed;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fixed! {
        serialize_bool(bool), serialize_char(char), serialize_f32(f32), serialize_f64(f64),
        serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128),
        serialize_none(), serialize_unit(), serialize_unit_struct(&'static str),
        serialize_unit_variant(&'static str, u32, &'static str),
    }

    compounds! {
        serialize_seq(Option<usize>) -> SerializeSeq,
        serialize_tuple(usize) -> SerializeTuple,
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant,
        serialize_map(Option<usize>) -> SerializeMap,
        serialize_struct(&'static str, usize) -> SerializeStruct,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant,
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Failed> {
        self.serialize_bytes(value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Failed> {
        *self.0 += FIXED + value.len();
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, _: &'static str, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Failed> {
        *self.0 += FIXED;
        write!(Length(self.0), "{value}").map_err(|_| Failed)
    }
}

/// Counts a text that exists only while it is written.
struct Length<'a>(&'a mut usize);

impl fmt::Write for Length<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        *self.0 += text.len();
        Ok(())
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident($($key:ty)?)),* $(,)?) => {$(
        impl ser::$trait for Measure<'_> {
            type Ok = ();
            type Error = Failed;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $key,)? value: &T) -> Result<(), Failed> {
                value.serialize(Measure(self.0))
            }

            fn end(self) -> Result<(), Failed> {
                Ok(())
            }
        }
    )*};
}

elements! {
    SerializeSeq::serialize_element(),
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(&'static str),
    SerializeStructVariant::serialize_field(&'static str),
}

impl ser::SerializeMap for Measure<'_> {
    type Ok = ();
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        key.serialize(Measure(self.0))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        value.serialize(Measure(self.0))
    }

    fn end(self) -> Result<(), Failed> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_measures_at_least_what_its_texts_hold() {
        #[derive(serde::Serialize)]
        struct Row {
            name: String,
            tags: Vec<&'static str>,
            count: Option<u64>,
        }
        let row = Row { name: "x".repeat(1000), tags: vec!["ab"; 100], count: Some(1) };
        assert!((1200..4000).contains(&bytes_of(&row)));
    }
}
