//! Paths in messages: names of files are bytes, not text, and a file whose name is no UTF-8 may be the bad one.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serializer};

/// Writes the bytes; where people read, text.
pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        return serializer.collect_str(&path.display());
    }
    serializer.serialize_bytes(path.as_os_str().as_bytes())
}

/// Reads what was written.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    if deserializer.is_human_readable() {
        return PathBuf::deserialize(deserializer);
    }
    Vec::<u8>::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

    #[test]
    fn a_name_that_is_no_text_arrives_as_it_is_and_is_shown_as_far_as_it_can_be() {
        let fault = Fault::InputChanged { path: OsString::from_vec(b"/in/\xff.csv".to_vec()).into() };
        let wire = postcard::to_stdvec(&fault).unwrap();
        assert_eq!(postcard::from_bytes::<Fault>(&wire).unwrap(), fault);
        assert_eq!(serde_json::to_string(&fault).unwrap(), "{\"input-changed\":{\"path\":\"/in/\u{fffd}.csv\"}}");
    }
}
