//! Looking for bytes among bytes.

/// Whether `text` stands anywhere in `bytes`.
///
/// # Panics
/// If the text is empty: that it is found would say nothing.
pub fn contains(bytes: &[u8], text: &[u8]) -> bool {
    let first = *text.first().expect("something is looked for");
    bytes.iter().enumerate().filter(|(_, byte)| **byte == first).any(|(at, _)| bytes[at..].starts_with(text))
}
