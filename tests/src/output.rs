//! An output as it lies on the disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::place::names_in;

/// A published output, checked against its manifest.
#[derive(Debug)]
pub struct Output {
    /// The directory.
    pub path: PathBuf,
    /// `_SUCCESS`, parsed.
    pub manifest: Value,
}

impl Output {
    /// The output in `path`.
    ///
    /// # Panics
    /// If it is not what its manifest says: the parts with their lengths and digests, the quarantine where there is one, and nothing else.
    pub fn whole(path: &Path) -> Self {
        let manifest: Value = serde_json::from_slice(&fs::read(path.join("_SUCCESS")).unwrap()).unwrap();
        let mut expected = BTreeSet::from(["_SUCCESS".to_owned()]);
        for part in manifest["parts"].as_array().unwrap() {
            let name = part["name"].as_str().unwrap();
            let file = File::open(path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(part["bytes"].as_u64().unwrap(), file.metadata().unwrap().len(), "the length of {name}");
            let mut digest = blake3::Hasher::new();
            digest.update_reader(file).unwrap();
            assert_eq!(part["digest"].as_str().unwrap(), digest.finalize().to_hex().as_str(), "the digest of {name}");
            expected.insert(name.to_owned());
        }
        if !manifest["set_aside"].as_array().unwrap().is_empty() {
            expected.insert("_quarantine".to_owned());
        }
        assert_eq!(names_in(path), expected.into_iter().collect::<Vec<_>>());
        Self { path: path.to_owned(), manifest }
    }

    /// The paths of the parts, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        let parts = self.manifest["parts"].as_array().unwrap();
        parts.iter().map(|part| self.path.join(part["name"].as_str().unwrap())).collect()
    }

    /// The bytes of the parts, in order.
    pub fn parts(&self) -> Vec<Vec<u8>> {
        self.paths().iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// The text of the only part.
    pub fn text(&self) -> String {
        let [part] = <[_; 1]>::try_from(self.parts()).unwrap_or_else(|parts| panic!("there are {} parts", parts.len()));
        String::from_utf8(part).unwrap()
    }

    /// The records of each part in CSV, behind its header, which is the same in all.
    pub fn csv_parts(&self) -> (Vec<String>, Vec<Vec<Vec<String>>>) {
        let mut headers = BTreeSet::new();
        let read = |part: Vec<u8>| {
            let mut reader = csv::Reader::from_reader(part.as_slice());
            headers.insert(fields(reader.headers().unwrap()));
            reader.records().map(|record| fields(&record.unwrap())).collect()
        };
        let parts = self.parts().into_iter().map(read).collect();
        assert_eq!(headers.len(), 1, "every part has the same header: {headers:?}");
        (headers.pop_first().unwrap(), parts)
    }
}

fn fields(record: &csv::StringRecord) -> Vec<String> {
    record.iter().map(str::to_owned).collect()
}
