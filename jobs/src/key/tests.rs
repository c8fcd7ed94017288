//! The laws of keys, for every kind of key and a choice of combinations.

use std::cmp::Ordering;
use std::fmt::Debug;

use proptest::prelude::*;

use super::*;

/// A key that the tests can own, lend and compare.
trait Sample: Key + Debug {
    fn lend(&self) -> Self::Ref<'_>;
    fn own(key: Self::Ref<'_>) -> Self;
    fn order(&self, other: &Self) -> Ordering;
}

macro_rules! by_value {
    ($($key:ty),*) => {$(
        impl Sample for $key {
            fn lend(&self) -> $key { *self }
            fn own(key: $key) -> $key { key }
            fn order(&self, other: &$key) -> Ordering { self.cmp(other) }
        }
    )*};
}
by_value!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, bool, char, ());

macro_rules! by_total_order {
    ($($key:ty),*) => {$(
        impl Sample for $key {
            fn lend(&self) -> $key { *self }
            fn own(key: $key) -> $key { key }
            fn order(&self, other: &$key) -> Ordering { self.total_cmp(other) }
        }
    )*};
}
by_total_order!(f32, f64);

macro_rules! by_reference {
    ($($key:ty),*) => {$(
        impl Sample for $key {
            fn lend(&self) -> Self::Ref<'_> { self }
            fn own(key: Self::Ref<'_>) -> $key { key.to_owned() }
            fn order(&self, other: &$key) -> Ordering { self.cmp(other) }
        }
    )*};
}
by_reference!(String, Vec<u8>);

impl<K: Sample> Sample for Option<K> {
    fn lend(&self) -> Self::Ref<'_> {
        self.as_ref().map(K::lend)
    }
    fn own(key: Self::Ref<'_>) -> Self {
        key.map(K::own)
    }
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Some(one), Some(two)) => one.order(two),
            _ => self.is_some().cmp(&other.is_some()),
        }
    }
}

impl<K: Sample> Sample for Descending<K> {
    fn lend(&self) -> Self::Ref<'_> {
        Descending(self.0.lend())
    }
    fn own(key: Self::Ref<'_>) -> Self {
        Descending(K::own(key.0))
    }
    fn order(&self, other: &Self) -> Ordering {
        other.0.order(&self.0)
    }
}

macro_rules! tuple_sample {
    ($($part:ident $at:tt)+) => {
        impl<$($part: Sample),+> Sample for ($($part,)+) {
            fn lend(&self) -> Self::Ref<'_> { ($(self.$at.lend(),)+) }
            fn own(key: Self::Ref<'_>) -> Self { ($($part::own(key.$at),)+) }
            fn order(&self, other: &Self) -> Ordering {
                Ordering::Equal$(.then_with(|| self.$at.order(&other.$at)))+
            }
        }
    };
}
tuple_sample!(A 0 B 1);
tuple_sample!(A 0 B 1 C 2);
tuple_sample!(A 0 B 1 C 2 D 3);
tuple_sample!(A 0 B 1 C 2 D 3 E 4);
tuple_sample!(A 0 B 1 C 2 D 3 E 4 F 5);

fn whole<K: Sample>(key: &K) -> Vec<u8> {
    let mut bytes = vec![];
    K::encode(key.lend(), &mut bytes);
    bytes
}

fn part<K: Sample>(key: &K) -> Vec<u8> {
    let mut bytes = vec![];
    K::encode_part(key.lend(), &mut bytes);
    bytes
}

/// Everything that the engine relies on, for one pair of keys.
fn holds<K: Sample>(one: &K, two: &K) {
    let order = one.order(two);
    assert_eq!(whole(one).cmp(&whole(two)), order, "whole: {one:?} {two:?}");
    assert_eq!(part(one).cmp(&part(two)), order, "part: {one:?} {two:?}");
    assert_eq!(part(one).starts_with(&part(two)), order.is_eq(), "prefix: {one:?} {two:?}");
    for key in [one, two] {
        let (scratch, encoded) = (Bump::new(), whole(key));
        let back = K::own(K::decode(&encoded, &scratch).unwrap());
        assert!(back.order(key).is_eq(), "{key:?} came back as {back:?}");
        assert_eq!(K::bytes(key.lend(), &mut b"left over".to_vec()), encoded);

        let followed = [part(key).as_slice(), b"rest"].concat();
        let mut rest = followed.as_slice();
        let back = K::own(K::decode_part(&mut rest, &scratch).unwrap());
        assert!(back.order(key).is_eq(), "{key:?} came back as {back:?}");
        assert_eq!(rest, b"rest");
    }
}

/// Whatever is read must be written the same way again, or two encodings would name one key.
fn survives<K: Sample>(bytes: &[u8]) {
    let scratch = Bump::new();
    if let Ok(key) = K::decode(bytes, &scratch) {
        assert_eq!(whole(&K::own(key)), bytes);
    }
    let mut rest = bytes;
    if let Ok(key) = K::decode_part(&mut rest, &scratch) {
        assert_eq!(part(&K::own(key)), bytes[..bytes.len() - rest.len()]);
    }
}

/// Bytes among which those that are escaped, and their neighbours, are frequent.
fn dense_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![0u8..4, 250u8..=255, any::<u8>()], 0..12)
}

fn dense_text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof!["[\0\u{1}\u{2}a]", any::<char>().prop_map(String::from)], 0..8).prop_map(|parts| parts.concat())
}

macro_rules! laws {
    ($($name:ident: $key:ty, $strategy:expr;)*) => {$(
        mod $name {
            use super::*;

            proptest! {
                #[test]
                fn bytes_are_in_the_order_of_the_keys(one in $strategy, two in $strategy) {
                    holds::<$key>(&one, &two);
                    holds::<$key>(&one, &one);
                }

                #[test]
                fn reading_arbitrary_bytes_fails_or_gives_what_writes_them(bytes in dense_bytes()) {
                    survives::<$key>(&bytes);
                }
            }
        }
    )*};
}

laws! {
    unsigned_8: u8, any::<u8>();
    unsigned_16: u16, any::<u16>();
    unsigned_32: u32, any::<u32>();
    unsigned_64: u64, any::<u64>();
    unsigned_128: u128, any::<u128>();
    signed_8: i8, any::<i8>();
    signed_16: i16, any::<i16>();
    signed_32: i32, any::<i32>();
    signed_64: i64, any::<i64>();
    signed_128: i128, any::<i128>();
    float_32: f32, any::<u32>().prop_map(f32::from_bits);
    float_64: f64, any::<u64>().prop_map(f64::from_bits);
    truth: bool, any::<bool>();
    character: char, any::<char>();
    nothing: (), Just(());
    text: String, dense_text();
    bytes: Vec<u8>, dense_bytes();
    optional_text: Option<String>, prop::option::of(dense_text());
    nested_option: Option<Option<u8>>, prop::option::of(prop::option::of(any::<u8>()));
    text_and_text: (String, String), (dense_text(), dense_text());
    bytes_and_number: (Vec<u8>, i16), (dense_bytes(), any::<i16>());
    three: (Option<String>, bool, Vec<u8>), (prop::option::of(dense_text()), any::<bool>(), dense_bytes());
    four: ((), char, String, f64), (Just(()), any::<char>(), dense_text(), any::<u64>().prop_map(f64::from_bits));
    five: (u8, String, u8, String, u8), (0u8..2, dense_text(), 0u8..2, dense_text(), 0u8..2);
    six: (bool, bool, bool, bool, bool, Vec<u8>),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), dense_bytes());
    nested_tuple: ((String, String), String), ((dense_text(), dense_text()), dense_text());
    descending_text: Descending<String>, dense_text().prop_map(Descending);
    descending_twice: Descending<Descending<Vec<u8>>>, dense_bytes().prop_map(|key| Descending(Descending(key)));
    descending_before_text: (Descending<String>, String), (dense_text().prop_map(Descending), dense_text());
    descending_after_text: (String, Descending<Option<i32>>),
        (dense_text(), prop::option::of(any::<i32>()).prop_map(Descending));
}

#[test]
fn special_floats_are_in_total_order() {
    let ascending = [
        -f64::NAN,
        f64::NEG_INFINITY,
        f64::MIN,
        -1.0,
        -f64::MIN_POSITIVE,
        -5e-324,
        -0.0,
        0.0,
        5e-324,
        f64::MIN_POSITIVE,
        1.0,
        f64::MAX,
        f64::INFINITY,
        f64::NAN,
    ];
    for pair in ascending.windows(2) {
        assert!(whole(&pair[0]) < whole(&pair[1]), "{pair:?}");
    }
}

#[test]
fn text_and_bytes_are_their_own_encoding_and_borrowed() {
    let (word, mut scratch) = (String::from("word"), vec![]);
    assert_eq!(String::bytes(&word, &mut scratch).as_ptr(), word.as_ptr());
    assert_eq!(<Vec<u8>>::bytes(word.as_bytes(), &mut scratch).as_ptr(), word.as_ptr());
}

#[test]
fn text_without_escapes_is_read_where_it_lies() {
    let (mut bytes, scratch) = (vec![], Bump::new());
    <(String, String)>::encode(("Cádiz", "toys"), &mut bytes);
    assert_eq!(<(String, String)>::decode(&bytes, &scratch), Ok(("Cádiz", "toys")));
    assert_eq!(scratch.allocated_bytes(), 0);
}

#[test]
fn what_is_wrong_with_the_bytes_is_named() {
    let scratch = Bump::new();
    assert_eq!(u32::decode(&[1, 2], &scratch), Err(KeyError::Truncated { part: "u32" }));
    assert_eq!(u8::decode(&[1, 2], &scratch), Err(KeyError::Trailing { count: 1 }));
    assert_eq!(bool::decode(&[2], &scratch), Err(KeyError::Invalid { part: "bool", value: 2 }));
    assert_eq!(char::decode(&[0, 0, 0xD8, 0], &scratch), Err(KeyError::Invalid { part: "char", value: 0xD800 }));
    assert_eq!(String::decode(&[0xFF], &scratch), Err(KeyError::Encoding));
    assert_eq!(<(String, ())>::decode(b"open", &scratch), Err(KeyError::Truncated { part: "text" }));
    assert_eq!(<(Vec<u8>, ())>::decode(&[1, 7, 0], &scratch), Err(KeyError::Invalid { part: "bytes", value: 7 }));
}
