//! Words: what `str::split_whitespace` finds, several times faster.
//!
//! Owns finding white space in text of any length; `lanes` owns looking at 16 bytes at once. Which text, usually a line,
//! is for the caller to say.
//!
//! The text is covered by windows of 64 bytes. Each becomes one 64-bit mask in which a bit is set where a byte belongs to a
//! white-space character. The end of the text is one more set bit, so that the last word needs no code of its own:
//!
//! ```text
//! text   the  old\u{3000}man↵      ends at 15
//! mask   000110001110001 1         words are the stretches of zeros
//! ```
//!
//! Lines are about as long as a window, so the ragged end decides the speed: the last 64 bytes of the text are looked at
//! once more and the bits already used are shifted out, without a branch on the length. Only a text shorter than one window
//! is put together from smaller loads. Nothing outside of the text is ever read.
//!
//! White space beyond ASCII (19 characters of two or three bytes) is searched for only in windows that hold bytes above
//! 0x7F, and there only behind a byte that can begin one of them.

mod lanes;

use std::iter::FusedIterator;

use lanes::{Lanes, Native};

/// Splits text into the words between white space, in order: exactly those of [`str::split_whitespace`].
///
/// `words(line).for_each(…)` compiles to one loop around the closure, the fastest way to use it.
///
/// ```
/// use shardmill::words::words;
///
/// let mut longest = "";
/// words("  the old\u{3000}man\tand the sea\n").for_each(|word| {
///     if word.len() > longest.len() {
///         longest = word;
///     }
/// });
/// assert_eq!(longest, "the");
/// assert_eq!(words("the sea ").collect::<Vec<_>>(), ["the", "sea"]);
/// ```
#[inline]
pub fn words(text: &str) -> Words<'_> {
    Words { text, base: 0, start: 0, delimiters: delimiters::<Native>(text, 0) }
}

/// The words of a text; made by [`words`].
///
/// ```
/// let mut words = shardmill::words(" to  be\n");
/// assert_eq!([words.next(), words.next(), words.next()], [Some("to"), Some("be"), None]);
/// ```
#[derive(Clone, Debug)]
pub struct Words<'a> {
    text: &'a str,
    /// Where the window begins that `delimiters` describes.
    base: usize,
    /// One past the last delimiter that was seen.
    start: usize,
    /// The delimiters of the window that were not seen yet.
    delimiters: u64,
}

impl<'a> Words<'a> {
    /// Takes the next delimiter off the window and returns what lies before it, if anything does.
    #[inline]
    fn step(&mut self) -> Option<&'a str> {
        let end = self.base + self.delimiters.trailing_zeros() as usize;
        self.delimiters &= self.delimiters - 1;
        let start = std::mem::replace(&mut self.start, end + 1);
        // SAFETY: every delimiter is the end of the text or a byte of a white-space character, all of whose bytes are
        // delimiters. So `end` is at most the text's length, and as `start < end`, both are character boundaries: `start`
        // is 0 or follows the last byte of such a character, `end` is the first byte of one or the end of the text.
        (start < end).then(|| unsafe { self.text.get_unchecked(start..end) })
    }

    /// Moves to the next window; false after the one that holds the end of the text.
    #[inline]
    fn advance(&mut self) -> bool {
        let more = self.text.len() - self.base >= WINDOW;
        if more {
            self.base += WINDOW;
            self.delimiters = delimiters::<Native>(self.text, self.base);
        }
        more
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        loop {
            while self.delimiters != 0 {
                if let Some(word) = self.step() {
                    return Some(word);
                }
            }
            if !self.advance() {
                return None;
            }
        }
    }

    /// The loop of `next` without leaving it for each word: the window stays in registers.
    #[inline]
    fn fold<B, F: FnMut(B, &'a str) -> B>(mut self, init: B, mut f: F) -> B {
        let mut result = init;
        loop {
            while self.delimiters != 0 {
                if let Some(word) = self.step() {
                    result = f(result, word);
                }
            }
            if !self.advance() {
                return result;
            }
        }
    }
}

impl FusedIterator for Words<'_> {}

const WINDOW: usize = 64;

/// The delimiters of the window at `base`, which is a multiple of 64 and at most the text's length.
#[inline(always)]
fn delimiters<L: Lanes>(text: &str, base: usize) -> u64 {
    let bytes = text.as_bytes();
    let left = bytes.len() - base;
    if left >= WINDOW {
        return spaces::<L>(bytes, base);
    }
    let end = 1 << left;
    match bytes.len().checked_sub(WINDOW) {
        // Two shifts, as all 64 bits go when nothing is left.
        Some(at) => end | (spaces::<L>(bytes, at) >> 1 >> (WINDOW - 1 - left)),
        None => end | spaces::<L>(bytes, 0),
    }
}

/// The white space among the 64 bytes at `at`, or among all bytes where there are fewer.
#[inline(always)]
fn spaces<L: Lanes>(bytes: &[u8], at: usize) -> u64 {
    let mut seen = L::load(&[0; 16]);
    let ascii = gather(bytes, at, |lanes: L| {
        seen = seen.or(lanes);
        lanes.spaces()
    });
    if seen.any_above_ascii() { ascii | wide_spaces::<L>(bytes, at) } else { ascii }
}

/// The bytes of white-space characters beyond ASCII in the same window.
#[inline(never)]
fn wide_spaces<L: Lanes>(bytes: &[u8], at: usize) -> u64 {
    let mut mask = 0;
    // A character of three bytes may have begun one or two bytes before the window.
    for before in 1..=at.min(2) {
        let within = wide_space(&bytes[at - before..]).saturating_sub(before);
        mask |= (1 << within) - 1;
    }
    let mut leads = leads::<L>(bytes, at);
    while leads != 0 {
        let i = leads.trailing_zeros() as usize;
        leads &= leads - 1;
        // Where it ends beyond the window, its last bits drop out.
        mask |= ((1 << wide_space(&bytes[at + i..])) - 1) << i;
    }
    mask
}

/// The bytes of the window that may begin a white-space character beyond ASCII.
///
/// In some languages half of all letters begin with E1 or E3: these two count only with their next byte.
#[inline(always)]
fn leads<L: Lanes>(bytes: &[u8], at: usize) -> u64 {
    let equal = |byte| gather(bytes, at, |lanes: L| lanes.equal(byte));
    // The byte behind the window is not known, so it may be the one.
    let before = |byte| (equal(byte) >> 1) | (1 << (WINDOW - 1));
    equal(0xC2) | equal(0xE2) | (equal(0xE1) & before(0x9A)) | (equal(0xE3) & before(0x80))
}

/// The length of the white-space character beyond ASCII that `bytes` begin with, 0 if there is none.
#[inline]
fn wide_space(bytes: &[u8]) -> usize {
    match bytes {
        [0xC2, 0x85 | 0xA0, ..] => 2,
        [0xE1, 0x9A, 0x80, ..] | [0xE2, 0x80, 0x80..=0x8A | 0xA8 | 0xA9 | 0xAF, ..] | [0xE2, 0x81, 0x9F, ..] | [0xE3, 0x80, 0x80, ..] => 3,
        _ => 0,
    }
}

/// One bit for each of the 64 bytes at `at`, or for each byte where there are fewer in all.
#[inline(always)]
fn gather<L: Lanes>(bytes: &[u8], at: usize, mut bits: impl FnMut(L) -> u64) -> u64 {
    if let Some(window) = bytes[at..].first_chunk::<WINDOW>() {
        let (quarters, _) = window.as_chunks::<16>();
        return quarters.iter().rev().fold(0, |mask, quarter| mask << 16 | bits(L::load(quarter)));
    }
    // Both ends, which overlap: a bit that is set twice is set.
    let mut half = |half: &[u8; 32]| {
        let (quarters, _) = half.as_chunks::<16>();
        bits(L::load(&quarters[0])) | bits(L::load(&quarters[1])) << 16
    };
    if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return half(head) | half(tail) << (bytes.len() - 32);
    }
    if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return bits(L::load(head)) | bits(L::load(tail)) << (bytes.len() - 16);
    }
    bits(L::load(&padded(bytes)))
}

/// Fewer than 16 bytes, and zeros behind them.
#[inline(never)]
fn padded(bytes: &[u8]) -> [u8; 16] {
    let packed = if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (head, tail) = (u64::from_le_bytes(*head), u64::from_le_bytes(*tail));
        u128::from(head) | u128::from(tail) << (8 * (bytes.len() - 8))
    } else {
        bytes.iter().rev().fold(0, |packed, &byte| packed << 8 | u128::from(byte))
    };
    packed.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::lanes::Portable;
    use super::*;

    /// All white space, and characters that begin or end like it.
    const ALPHABET: &[char] = &[
        ' ',
        '\t',
        '\n',
        '\u{b}',
        '\u{c}',
        '\r',
        '\u{85}',
        '\u{a0}',
        '\u{1680}',
        '\u{2000}',
        '\u{2003}',
        '\u{200a}',
        '\u{2028}',
        '\u{2029}',
        '\u{202f}',
        '\u{205f}',
        '\u{3000}',
        '\0',
        '\u{8}',
        '\u{e}',
        '\u{1c}',
        '\u{1f}',
        '!',
        '\u{84}',
        '\u{86}',
        '\u{9f}',
        '\u{a1}',
        '\u{c5}',
        '\u{1681}',
        '\u{1640}',
        '\u{180e}',
        '\u{200b}',
        '\u{2010}',
        '\u{2027}',
        '\u{2030}',
        '\u{2060}',
        '\u{205e}',
        '\u{3001}',
        '\u{3040}',
        '\u{4e00}',
        '\u{feff}',
        '\u{10ffff}',
    ];

    /// Text of about `length` characters: mostly letters, mostly the alphabet, or anything.
    fn text(length: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = String> {
        let character = |letters, dense, other| {
            prop_oneof![
                letters => prop::char::range('a', 'z'),
                dense => prop::sample::select(ALPHABET),
                other => any::<char>(),
            ]
        };
        let length = length.into();
        prop_oneof![
            prop::collection::vec(character(8, 1, 1), length.clone()),
            prop::collection::vec(character(1, 8, 1), length.clone()),
            prop::collection::vec(character(1, 1, 8), length),
        ]
        .prop_map(String::from_iter)
    }

    fn same(text: &str) {
        let expected: Vec<_> = text.split_whitespace().collect();
        assert_eq!(words(text).collect::<Vec<_>>(), expected, "next: {text:?}");
        let mut folded = vec![];
        words(text).for_each(|word| folded.push(word));
        assert_eq!(folded, expected, "fold: {text:?}");
        for base in (0..=text.len()).step_by(WINDOW) {
            assert_eq!(delimiters::<Native>(text, base), naive(text, base), "native at {base}: {text:?}");
            assert_eq!(delimiters::<Portable>(text, base), naive(text, base), "portable at {base}: {text:?}");
        }
    }

    fn naive(text: &str, base: usize) -> u64 {
        let space = text
            .char_indices()
            .filter(|(_, character)| character.is_whitespace())
            .flat_map(|(start, character)| start..start + character.len_utf8());
        space.chain([text.len()]).filter(|at| (base..base + WINDOW).contains(at)).fold(0, |mask, at| mask | 1 << (at - base))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 2_000 }))]

        #[test]
        fn words_are_those_of_split_whitespace(text in text(0..200), skip in 0usize..20) {
            same(&text);
            // The same at another alignment.
            same(text.char_indices().nth(skip).map_or("", |(at, _)| &text[at..]));
        }

        #[test]
        fn part_of_an_iteration_and_a_fold_of_the_rest_are_the_whole(text in text(0..200), first in 0usize..40) {
            let mut rest = words(&text);
            let mut found: Vec<_> = rest.by_ref().take(first).collect();
            rest.for_each(|word| found.push(word));
            prop_assert_eq!(found, text.split_whitespace().collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_length_up_to_three_windows_is_covered() {
        let longest = if cfg!(miri) { 70 } else { 200 };
        for length in 0..longest {
            for (word, space) in [("x", " "), ("ab ", "\n"), ("é", "\u{a0}"), ("語", "\u{3000}"), (" ", "\u{2003}")] {
                let mut text = word.repeat(length);
                same(&text);
                text.push_str(space);
                same(&text);
                text.insert_str(0, space);
                same(&text);
            }
        }
    }

    #[test]
    fn white_space_may_lie_across_any_border() {
        for before in (0..70).chain(120..130) {
            for space in ["\u{85}", "\u{1680}", "\u{2028}", "\u{205f}", "\u{3000}", "\u{2003}\u{2003}"] {
                for after in [0, 1, 14, 15, 16, 17, 61, 62, 63, 64] {
                    if !cfg!(miri) || (60..66).contains(&before) {
                        same(&["a".repeat(before), space.to_owned(), "b".repeat(after)].concat());
                    }
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million characters")]
    fn every_character_is_white_space_or_not_as_std_says() {
        let mut text = String::new();
        for character in '\0'..=char::MAX {
            text.clear();
            text.extend(['a', character, 'b']);
            let expected: &[&str] = if character.is_whitespace() { &["a", "b"] } else { &[&text] };
            assert!(words(&text).eq(expected.iter().copied()), "{character:?}");
        }
    }

    #[test]
    fn nothing_is_found_in_nothing_and_the_end_stays_the_end() {
        let mut none = words("");
        assert_eq!((none.next(), none.next()), (None, None));
        let mut one = words("one");
        assert_eq!((one.next(), one.next(), one.next()), (Some("one"), None, None));
    }
}
