//! Values: what `map` emits under a key and `reduce` receives.
//!
//! Any owned serde type is a value. In a spilled run or a sealed segment it stands as postcard bytes, so equal values should encode
//! equally (a `HashMap` does not; `testing` tells). [`Blob`] and [`Text`] are values that are borrowed on both sides.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that travels from `map` to `reduce`.
///
/// Implemented for every owned serde type; job authors have nothing to implement.
///
/// ```
/// use shardmill::Value;
///
/// let mut bytes = Vec::new();
/// ("Gent".to_owned(), 7u32).encode(&mut bytes);
/// assert_eq!(<(String, u32)>::decode(&bytes), Some(("Gent".to_owned(), 7)));
/// ```
pub trait Value: Sized + Send + Sync + 'static {
    /// The value as it is emitted and as [`Values::next_ref`](crate::Values::next_ref) hands it out: the value itself, or a borrow.
    type Ref<'a>;

    /// Makes an emitted value an owned one.
    fn own(value: Self::Ref<'_>) -> Self;

    /// An emitted value's encoding: borrowed where a value is its own encoding, else written into `scratch`, whose content is lost.
    fn bytes<'b, 'v: 'b>(value: Self::Ref<'v>, scratch: &'b mut Vec<u8>) -> &'b [u8];

    /// Appends the value's encoding.
    fn encode(&self, out: &mut Vec<u8>);

    /// Hands out an owned value as it is emitted; the place is empty or of no meaning afterwards.
    fn lend(value: &mut Option<Self>) -> Option<Self::Ref<'_>>;

    /// Reads what `encode` wrote; `None` where the bytes are no such value.
    fn decode(bytes: &[u8]) -> Option<Self::Ref<'_>>;
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Value for T {
    type Ref<'a> = T;

    #[inline(always)]
    fn own(value: T) -> T {
        value
    }

    #[inline]
    fn bytes<'b, 'v: 'b>(value: T, scratch: &'b mut Vec<u8>) -> &'b [u8] {
        scratch.clear();
        value.encode(scratch);
        scratch
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        let taken = std::mem::take(out);
        *out = postcard::to_extend(self, taken).expect("a value's Serialize implementation must not fail");
    }

    fn lend(value: &mut Option<T>) -> Option<T> {
        value.take()
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Option<T> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Bytes as a value, emitted and reduced as `&[u8]` without a copy for each.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// Sorts lines by their first three bytes; lines that share these keep their order.
/// #[derive(Args, Serialize, Deserialize)]
/// struct SortLines {}
///
/// impl MapReduce for SortLines {
///     type Input = Bytes;
///     type Key = Vec<u8>;
///     type Value = Blob;
///     type Combine = NoCombine;
///     type Output = Raw;
///
///     fn map(&self, line: &[u8], out: &mut Emitter<'_, Self>) -> Result {
///         out.emit(&line[..line.len().min(3)], line);
///         Ok(())
///     }
///
///     fn reduce(&self, _: &[u8], mut lines: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         while let Some(line) = lines.next_ref() {
///             out.write_record(line)?;
///         }
///         Ok(())
///     }
/// }
/// # fn main() -> Result {
/// assert_eq!(shardmill::testing::run(SortLines {}, "two 2\none 1\ntwo 1\n")?, "one 1\ntwo 2\ntwo 1\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(pub Box<[u8]>);

impl Value for Blob {
    type Ref<'a> = &'a [u8];

    fn own(value: &[u8]) -> Self {
        Self(value.into())
    }

    #[inline]
    fn bytes<'b, 'v: 'b>(value: &'v [u8], _: &'b mut Vec<u8>) -> &'b [u8] {
        value
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn lend(value: &mut Option<Self>) -> Option<&[u8]> {
        value.as_ref().map(|value| &*value.0)
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Option<&[u8]> {
        Some(bytes)
    }
}

/// Text as a value, emitted and reduced as `&str` without a copy for each.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// Joins the names of each letter.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Index {}
/// # #[derive(Serialize, Deserialize)] struct Entry { letter: char, names: String }
///
/// impl MapReduce for Index {
/// #     type Input = Lines; type Key = char; type Output = Entry; type Combine = NoCombine;
///     type Value = Text;
///     // …
///     fn map(&self, name: &str, out: &mut Emitter<'_, Self>) -> Result {
///         out.emit(name.chars().next().ok_or("an empty line")?, name);
///         Ok(())
///     }
///
///     fn reduce(&self, letter: char, mut values: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         let mut names = String::new();
///         while let Some(name) = values.next_ref() {
///             names.push_str(name);
///             names.push(' ');
///         }
///         out.write(Entry { letter, names })
///     }
/// }
/// # fn main() -> Result {
/// assert_eq!(shardmill::testing::run(Index {}, "Ben\nAda\nBo\n")?, "letter,names\nA,Ada \nB,Ben Bo \n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub Box<str>);

impl Value for Text {
    type Ref<'a> = &'a str;

    fn own(value: &str) -> Self {
        Self(value.into())
    }

    #[inline]
    fn bytes<'b, 'v: 'b>(value: &'v str, _: &'b mut Vec<u8>) -> &'b [u8] {
        value.as_bytes()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }

    fn lend(value: &mut Option<Self>) -> Option<&str> {
        value.as_ref().map(|value| &*value.0)
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Option<&str> {
        std::str::from_utf8(bytes).ok()
    }
}
