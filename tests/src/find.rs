//! Looking for bytes among bytes.

use memchr::memmem;

/// Whether `text` stands anywhere in `bytes`.
///
/// # Panics
/// If the text is empty: that it is found would say nothing.
pub fn contains(bytes: &[u8], text: &[u8]) -> bool {
    assert!(!text.is_empty(), "something is looked for");
    memmem::find(bytes, text).is_some()
}
