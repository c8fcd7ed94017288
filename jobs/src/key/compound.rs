//! Keys made of other keys.

use std::cmp::Ordering;

use bumpalo::Bump;

use super::{Key, KeyError, flag};

/// `None` comes before every `Some`.
impl<K: Key> Key for Option<K> {
    type Ref<'a> = Option<K::Ref<'a>>;

    #[inline]
    fn encode_part(key: Self::Ref<'_>, out: &mut Vec<u8>) {
        out.push(u8::from(key.is_some()));
        if let Some(key) = key {
            K::encode_part(key, out);
        }
    }

    #[inline]
    fn encode(key: Self::Ref<'_>, out: &mut Vec<u8>) {
        out.push(u8::from(key.is_some()));
        if let Some(key) = key {
            K::encode(key, out);
        }
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
        flag(bytes, "option")?.then(|| K::decode_part(bytes, scratch)).transpose()
    }

    #[inline]
    fn decode<'a>(mut bytes: &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
        match (flag(&mut bytes, "option")?, bytes.len()) {
            (true, _) => K::decode(bytes, scratch).map(Some),
            (false, 0) => Ok(None),
            (false, count) => Err(KeyError::Trailing { count }),
        }
    }
}

/// Compares part by part, the first one first.
macro_rules! tuple {
    ($($part:ident)+, $last:ident) => {
        impl<$($part: Key,)+ $last: Key> Key for ($($part,)+ $last) {
            type Ref<'a> = ($($part::Ref<'a>,)+ $last::Ref<'a>);

            #[inline]
            #[allow(non_snake_case, reason = "a part is bound to the name of its type")]
            fn encode_part(key: Self::Ref<'_>, out: &mut Vec<u8>) {
                let ($($part,)+ $last) = key;
                $($part::encode_part($part, out);)+
                $last::encode_part($last, out);
            }

            #[inline]
            #[allow(non_snake_case, reason = "a part is bound to the name of its type")]
            fn encode(key: Self::Ref<'_>, out: &mut Vec<u8>) {
                let ($($part,)+ $last) = key;
                $($part::encode_part($part, out);)+
                $last::encode($last, out);
            }

            #[inline]
            fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
                Ok(($($part::decode_part(bytes, scratch)?,)+ $last::decode_part(bytes, scratch)?))
            }

            #[inline]
            fn decode<'a>(mut bytes: &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
                Ok(($($part::decode_part(&mut bytes, scratch)?,)+ $last::decode(bytes, scratch)?))
            }
        }
    };
}

tuple!(A, B);
tuple!(A B, C);
tuple!(A B C, D);
tuple!(A B C D, E);
tuple!(A B C D E, F);

/// Turns the order of a key round: the largest comes first.
///
/// ```
/// use shardmill::key::{Descending, Key};
///
/// let bytes = |city, revenue| {
///     let mut bytes = Vec::new();
///     <(String, Descending<u64>)>::encode((city, Descending(revenue)), &mut bytes);
///     bytes
/// };
/// assert!(bytes("Essen", 900) < bytes("Essen", 30));
/// assert!(bytes("Essen", 30) < bytes("Faro", 900));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Descending<K>(pub K);

impl<K: Ord> Ord for Descending<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}

impl<K: PartialOrd> PartialOrd for Descending<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        other.0.partial_cmp(&self.0)
    }
}

/// Inverting bytes turns the order round only where no encoding begins with another one, so even a whole key is written
/// like a part.
impl<K: Key> Key for Descending<K> {
    type Ref<'a> = Descending<K::Ref<'a>>;

    #[inline]
    fn encode_part(Descending(key): Self::Ref<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        K::encode_part(key, out);
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
        let inverted: &[u8] = scratch.alloc_slice_fill_with(bytes.len(), |i| !bytes[i]);
        let mut rest = inverted;
        let key = K::decode_part(&mut rest, scratch)?;
        *bytes = &bytes[inverted.len() - rest.len()..];
        Ok(Descending(key))
    }
}
