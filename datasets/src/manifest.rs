//! `_SUCCESS`: what an output holds and what it was made from, as JSON.
//!
//! Holds no time and no host, so that the same job over the same input has the same manifest. Its own
//! digest is what a coordinator journals before it publishes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sink::PartSummary;

/// The name of the manifest in an output directory. Written last: where it stands, the output is whole.
pub const MANIFEST_NAME: &str = "_SUCCESS";

/// The most records that a manifest lists of those that were set aside.
pub const SET_ASIDE_LISTED: usize = 1_000;
/// The most characters that it quotes of what was wrong with one.
const CAUSE_CHARACTERS: usize = 500;

/// The content of `_SUCCESS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The job's name.
    pub job: String,
    /// The job's version.
    pub version: String,
    /// The digest of the executable, where it is known.
    pub executable_digest: Option<Digest>,
    /// The input files, in the order in which they were planned.
    pub inputs: Vec<ManifestInput>,
    /// The parts, by partition.
    pub parts: Vec<ManifestPart>,
    /// The sums of the job's counters.
    pub counters: BTreeMap<String, u64>,
    /// How many records were bad and set aside.
    pub bad_records: u64,
    /// The first of them in input order, at most [`SET_ASIDE_LISTED`]; the quarantine has all.
    pub set_aside: Vec<SetAside>,
}

/// An input file, with what it is recognised by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestInput {
    /// Where it was read.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// The digest of its first 4 KiB.
    pub head: Digest,
}

/// A part of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPart {
    /// The file's name in the output directory.
    pub name: String,
    /// How many rows or records it holds.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

impl ManifestPart {
    /// Makes the entry of a finished part.
    pub fn new(name: String, part: &PartSummary) -> Self {
        Self { name, records: part.records, bytes: part.bytes, digest: Digest(part.digest) }
    }
}

/// A record that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The input file.
    pub file: String,
    /// The shard's number in the plan.
    pub shard: u64,
    /// The record's number in the shard.
    pub record: u64,
    /// Where it begins in the file (in its decompressed content, where it is compressed).
    pub offset: u64,
    /// What was wrong with it.
    pub cause: String,
}

impl SetAside {
    /// Reads what a manifest lists of a quarantine: its first records.
    ///
    /// ```
    /// use shardmill_datasets::manifest::SetAside;
    ///
    /// let quarantine = tempfile::NamedTempFile::new()?;
    /// std::fs::write(&quarantine, r#"{"file":"in.txt","shard":0,"record":3,"offset":17,"cause":"no price","text":"Faro,"}"#)?;
    /// assert_eq!(SetAside::first_of(quarantine.path())?[0].cause, "no price");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn first_of(quarantine: &Path) -> io::Result<Vec<Self>> {
        let lines = BufReader::new(File::open(quarantine)?);
        let records = serde_json::Deserializer::from_reader(lines).into_iter::<Self>().take(SET_ASIDE_LISTED);
        let shortened = |record: Self| match record.cause.char_indices().nth(CAUSE_CHARACTERS) {
            Some((end, _)) => Self { cause: format!("{} …", &record.cause[..end]), ..record },
            None => record,
        };
        Ok(records.map(|record| record.map(shortened)).collect::<Result<_, _>>()?)
    }
}

impl Manifest {
    /// Returns the bytes of the file: the same for equal manifests.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("names and numbers always have a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Returns the digest of the file's bytes.
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(&self.to_bytes()).as_bytes())
    }

    /// Reads the manifest of the output in `directory`.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(directory.join(MANIFEST_NAME))?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// A BLAKE3 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, blake3::HexError> {
        Ok(Self(*blake3::Hash::from_hex(text)?.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_as_it_was_and_always_has_the_same_bytes() {
        let manifest = Manifest {
            job: "word-count".to_owned(),
            version: "0.1.0".to_owned(),
            executable_digest: Some(Digest([0xab; 32])),
            inputs: vec![ManifestInput {
                path: "/in/ä.txt".to_owned(),
                bytes: 5,
                modified_ns: 1_700_000_000_123_456_789,
                head: Digest([1; 32]),
            }],
            parts: vec![ManifestPart { name: "part-00000.csv".to_owned(), records: 1, bytes: 2, digest: Digest([2; 32]) }],
            counters: BTreeMap::from([("b".to_owned(), 2), ("a".to_owned(), 1)]),
            bad_records: 1,
            set_aside: vec![SetAside { file: "/in/ä.txt".to_owned(), shard: 0, record: 3, offset: 4, cause: "not utf-8".to_owned() }],
        };
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(MANIFEST_NAME), manifest.to_bytes()).unwrap();
        let back = Manifest::read(directory.path()).unwrap();
        assert_eq!(back, manifest);
        assert_eq!(back.digest(), manifest.digest());
        let text = String::from_utf8(manifest.to_bytes()).unwrap();
        assert!(text.contains(&"ab".repeat(32)) && text.ends_with("}\n"));
        assert!(text.find("\"a\"").unwrap() < text.find("\"b\"").unwrap(), "counters are sorted");
    }

    #[test]
    fn of_a_long_quarantine_only_the_first_records_are_listed_and_of_long_causes_the_beginning() {
        let record =
            |number: usize| SetAside { file: "in".to_owned(), shard: 0, record: number as u64, offset: 9, cause: "é".repeat(number) };
        let quarantine = tempfile::NamedTempFile::new().unwrap();
        let line = |number| serde_json::to_string(&record(number)).unwrap() + "\n";
        std::fs::write(&quarantine, (0..SET_ASIDE_LISTED + 5).map(line).collect::<String>()).unwrap();
        let listed = SetAside::first_of(quarantine.path()).unwrap();
        assert_eq!(listed.len(), SET_ASIDE_LISTED);
        assert_eq!(listed[..=CAUSE_CHARACTERS], (0..=CAUSE_CHARACTERS).map(record).collect::<Vec<_>>());
        assert!(listed[CAUSE_CHARACTERS + 1..].iter().all(|record| record.cause == "é".repeat(CAUSE_CHARACTERS) + " …"));
    }

    #[test]
    fn a_digest_that_is_no_digest_is_refused() {
        assert!(serde_json::from_str::<Digest>("\"abc\"").is_err());
    }
}
