//! Inputs: from what the user named to a sorted list of files, each with a fingerprint.
//!
//! A job reads its inputs long after they were listed, maybe twice, maybe on several machines. So each file carries
//! what tells it from a changed one, and [`InputFile::open`] and [`InputFile::check`] compare. What is in the files is
//! not looked at here, beyond the first bytes for the fingerprint.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::error::{Change, ReadError};
use crate::format::{Compression, Format, of_name};

/// One file to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Where it is, as the user named it or the folder it was found in.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// Its size on disk.
    pub bytes: u64,
    /// How its records lie.
    pub format: Format,
    /// How it is compressed.
    pub compression: Compression,
    /// What it was like when it was listed.
    pub fingerprint: Fingerprint,
    /// What to do if it is no more like that.
    pub drift: Drift,
}

/// What becomes of a run if a file was changed after it was listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Drift {
    /// It fails.
    #[default]
    Fail,
    /// If the file has only grown, that is told, and what was listed of it is read. One that is shorter, begins with other bytes or is
    /// another file by now is an error all the same, and so is any change of a file that is read from its end: Parquet, Arrow.
    Warn,
}

/// What tells a file from a changed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Its size.
    pub bytes: u64,
    /// Its last modification, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// BLAKE3 of its first 4 KiB.
    pub head: [u8; 32],
    /// Device and inode; of use on the machine that listed the file only.
    pub place: Option<(u64, u64)>,
}

impl Fingerprint {
    /// Takes the fingerprint of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Self { bytes: metadata.len(), modified_ns, head: head(file, HEAD_BYTES)?, place: Some(place(&metadata)) })
    }

    /// Returns the part that holds on any machine which sees the file.
    pub fn portable(self) -> Self {
        Self { place: None, ..self }
    }

    /// Says in what `now` differs.
    pub fn difference(&self, now: &Self) -> Option<Change> {
        if self.bytes != now.bytes {
            return Some(Change::Size { was: self.bytes, is: now.bytes });
        }
        if self.place.is_some() && now.place.is_some() && self.place != now.place {
            return Some(Change::Replaced);
        }
        if self.head != now.head {
            return Some(Change::Head);
        }
        (self.modified_ns != now.modified_ns).then_some(Change::Modified)
    }
}

/// So much of the beginning is in a fingerprint.
const HEAD_BYTES: usize = 4096;

fn head(file: &File, length: usize) -> io::Result<[u8; 32]> {
    let mut bytes = [0; HEAD_BYTES];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..length], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(*blake3::hash(&bytes[..filled]).as_bytes())
}

fn place(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl InputFile {
    /// Lists the one file at `path`; `format` overrides what its name says.
    pub fn at(path: &Path, format: Option<Format>) -> io::Result<Self> {
        let (named, compression) = of_name(path);
        let fingerprint = Fingerprint::of(&File::open(path)?)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: fingerprint.bytes,
            format: format.unwrap_or(named),
            compression,
            fingerprint,
            drift: Drift::Fail,
        })
    }

    /// Opens the file, and refuses one that changed since it was listed.
    pub fn open(&self) -> Result<File, ReadError> {
        let file = File::open(&self.path).map_err(|source| ReadError::Open { path: self.path.clone(), source })?;
        self.check(&file)?;
        Ok(file)
    }

    /// Checks that the open `file` is still as it was listed; whoever has read from it asks again at the end.
    pub fn check(&self, file: &File) -> Result<(), ReadError> {
        let now = Fingerprint::of(file).map_err(|source| self.io_error(0, source))?;
        match self.fingerprint.difference(&now) {
            None => Ok(()),
            Some(change) if self.drift == Drift::Warn && self.has_only_grown(file, &now)? => {
                self.warn(change);
                Ok(())
            }
            Some(change) => Err(ReadError::Changed { path: self.path.clone(), change }),
        }
    }

    /// As far as can be told without reading all of it.
    fn has_only_grown(&self, file: &File, now: &Fingerprint) -> Result<bool, ReadError> {
        let is_another = self.fingerprint.place.is_some() && now.place.is_some() && self.fingerprint.place != now.place;
        if is_another || now.bytes < self.bytes || self.format.is_columnar() {
            return Ok(false);
        }
        let listed = self.bytes.min(HEAD_BYTES as u64) as usize;
        Ok(head(file, listed).map_err(|source| self.io_error(0, source))? == self.fingerprint.head)
    }

    /// Tells people, once in a process.
    fn warn(&self, change: Change) {
        static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
        if TOLD.lock().expect("nothing panics while it holds the names").insert(self.path.clone()) {
            // Nobody may be there any more to read it.
            let _ = writeln!(io::stderr(), "warning {}: {change}; what was listed of it is read", self.path.display());
        }
    }

    pub(crate) fn io_error(&self, offset: u64, source: io::Error) -> ReadError {
        ReadError::Io { path: self.path.clone(), offset, source }
    }
}

/// Says why the inputs could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// There is nothing under this name, or a folder without files in it, or a pattern that fits none.
    #[error("no input files match '{input}'")]
    Nothing {
        /// What the user named.
        input: String,
    },
    /// The pattern itself is wrong.
    #[error("'{input}' is not a valid pattern")]
    Pattern {
        /// What the user named.
        input: String,
        /// What is wrong with it.
        source: globset::Error,
    },
    /// It is neither a file nor a folder.
    #[error("input {} is neither a file nor a folder", path.display())]
    Special {
        /// Where.
        path: PathBuf,
    },
    /// The system failed.
    #[error("cannot list input {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Lists the files that `inputs` name: files, folders (with all below them) and patterns like `logs/**/*.csv`.
///
/// Sorted by path, each file once however many ways lead to it, so the list depends on the files alone. In folders,
/// names that begin with `_` or `.` are skipped; a pattern finds them where it spells the `_` or `.` out. Links are
/// followed. An input that names nothing is an error. `format` overrides what the files' names say.
pub fn list(inputs: &[String], format: Option<Format>) -> Result<Vec<InputFile>, ListError> {
    let mut paths = BTreeSet::new();
    for input in inputs {
        let found = find(input)?;
        if found.is_empty() {
            return Err(ListError::Nothing { input: input.clone() });
        }
        paths.extend(found);
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        files.push(InputFile::at(&path, format).map_err(|source| ListError::Io { path, source })?);
    }
    drop_aliases(&mut files)?;
    Ok(files)
}

/// Keeps the first of several paths that lead to the same name; two hard links are two names.
fn drop_aliases(files: &mut Vec<InputFile>) -> Result<(), ListError> {
    let mut names: HashMap<_, u32> = HashMap::new();
    for file in &*files {
        *names.entry(file.fingerprint.place).or_default() += 1;
    }
    let mut seen = HashSet::new();
    let mut error = None;
    files.retain(|file| {
        names[&file.fingerprint.place] == 1
            || fs::canonicalize(&file.path).map(|name| seen.insert(name)).unwrap_or_else(|source| {
                error.get_or_insert(ListError::Io { path: file.path.clone(), source });
                false
            })
    });
    error.map_or(Ok(()), Err)
}

fn find(input: &str) -> Result<Vec<PathBuf>, ListError> {
    let path: PathBuf = Path::new(input).components().collect();
    let fail = |source| ListError::Io { path: path.clone(), source };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(vec![path]),
        Ok(metadata) if metadata.is_dir() => walk(&path, &|_| true, ['_', '.'].as_slice()),
        Ok(_) => Err(ListError::Special { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_pattern(input) => find_pattern(input, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(fail(error)),
    }
}

fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?', '[', '{'])
}

fn find_pattern(input: &str, path: &Path) -> Result<Vec<PathBuf>, ListError> {
    let glob = globset::GlobBuilder::new(&path.to_string_lossy()).literal_separator(true).build();
    let matcher = glob.map_err(|source| ListError::Pattern { input: input.to_owned(), source })?.compile_matcher();
    let plain = |part: &Component<'_>| !is_pattern(&part.as_os_str().to_string_lossy());
    let root: PathBuf = path.components().take_while(plain).collect();
    if !root.as_os_str().is_empty() && !root.is_dir() {
        return Ok(vec![]);
    }
    let marks = path.components().skip_while(plain).filter_map(|part| part.as_os_str().to_string_lossy().chars().next());
    let spelt: Vec<_> = marks.collect();
    let hidden: Vec<_> = ['_', '.'].into_iter().filter(|mark| !spelt.contains(mark)).collect();
    walk(&root, &|path| matcher.is_match(path), &hidden)
}

/// Finds the files below `root` that are `wanted`, and whose names below `root` do not begin with a mark of `hidden`.
fn walk(root: &Path, wanted: &dyn Fn(&Path) -> bool, hidden: &[char]) -> Result<Vec<PathBuf>, ListError> {
    let mut found = vec![];
    // Each folder with the places of those it lies in: a link back to one of them is a loop.
    let mut folders = vec![(root.to_owned(), vec![])];
    while let Some((folder, mut above)) = folders.pop() {
        let here = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let fail = |source| ListError::Io { path: here.to_owned(), source };
        let metadata = fs::metadata(here).map_err(fail)?;
        if above.contains(&place(&metadata)) {
            continue;
        }
        above.push(place(&metadata));
        for entry in fs::read_dir(here).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name().to_string_lossy().starts_with(hidden) {
                continue;
            }
            let path = folder.join(entry.file_name());
            let mut kind = entry.file_type().map_err(fail)?;
            if kind.is_symlink() {
                // A link to itself is a loop, and no file; one that leads nowhere is a mistake.
                match fs::metadata(&path) {
                    Ok(metadata) => kind = metadata.file_type(),
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => continue,
                    Err(source) => return Err(ListError::Io { path, source }),
                }
            }
            if kind.is_dir() {
                folders.push((path, above.clone()));
            } else if kind.is_file() && wanted(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Paths as bytes where a machine reads them: not every file name is UTF-8.
mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return path.serialize(serializer);
        }
        serializer.serialize_bytes(path.as_os_str().as_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        if deserializer.is_human_readable() {
            return PathBuf::deserialize(deserializer);
        }
        Vec::<u8>::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        folder
    }

    fn names(folder: &tempfile::TempDir, inputs: &[&str]) -> Vec<String> {
        let inputs: Vec<_> = inputs.iter().map(|input| folder.path().join(input).to_str().unwrap().to_owned()).collect();
        let files = list(&inputs, None).unwrap();
        files.iter().map(|file| file.path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_folder_is_listed_with_all_below_it_sorted_and_without_hidden_names() {
        let folder = folder(&["b.csv", "a/z", "a/c/y", "_SUCCESS", ".git/x", "a/_tmp/x", "a/.x", "A"]);
        assert_eq!(names(&folder, &["."]), ["A", "a/c/y", "a/z", "b.csv"]);
        assert_eq!(names(&folder, &["a", "b.csv", "a/z", "./a//z"]), ["a/c/y", "a/z", "b.csv"]);
        assert_eq!(names(&folder, &["a/_tmp", "_SUCCESS"]), ["_SUCCESS", "a/_tmp/x"]);
    }

    #[test]
    fn a_pattern_finds_what_fits_it() {
        let folder = folder(&["a.csv", "b.csv", "x/a.csv", "x/y/b.csv", "x/y/b.txt", "_a.csv", "x/_y/c.csv", "x/_y/_d.csv", "x/[1].csv"]);
        assert_eq!(names(&folder, &["*.csv"]), ["a.csv", "b.csv"]);
        assert_eq!(names(&folder, &["**/b.csv"]), ["b.csv", "x/y/b.csv"]);
        assert_eq!(names(&folder, &["x/*/*.{csv,txt}"]), ["x/y/b.csv", "x/y/b.txt"]);
        assert_eq!(names(&folder, &["_*.csv"]), ["_a.csv"]);
        assert_eq!(names(&folder, &["x/_y/*.csv"]), ["x/_y/c.csv"]);
        assert_eq!(names(&folder, &["x/[1].csv"]), ["x/[1].csv"]);
        assert_eq!(names(&folder, &["?.csv", "x/[a-c].csv"]), ["a.csv", "b.csv", "x/a.csv"]);
    }

    #[test]
    fn what_names_nothing_is_an_error_that_names_it() {
        let folder = folder(&["a/.hidden"]);
        fs::create_dir(folder.path().join("empty")).unwrap();
        for input in ["none", "*.csv", "none/*.csv", "empty", "a"] {
            let input = folder.path().join(input).to_str().unwrap().to_owned();
            let error = list(std::slice::from_ref(&input), None).unwrap_err();
            assert!(matches!(&error, ListError::Nothing { input: named } if *named == input), "{error}");
        }
        let error = list(&[folder.path().join("[a").to_str().unwrap().to_owned()], None).unwrap_err();
        assert!(matches!(error, ListError::Pattern { .. }), "{error}");
        assert!(matches!(list(&["/dev/null".to_owned()], None), Err(ListError::Special { .. })));
    }

    #[test]
    fn links_are_followed_loops_end_and_each_file_comes_once() {
        let folder = folder(&["a/x", "b/y"]);
        symlink("../a", folder.path().join("a/again")).unwrap();
        symlink("..", folder.path().join("b/up")).unwrap();
        symlink("self", folder.path().join("a/self")).unwrap();
        symlink("x", folder.path().join("a/w")).unwrap();
        fs::hard_link(folder.path().join("b/y"), folder.path().join("b/z")).unwrap();
        // `a/w` and `a/x` are one file, and so are all ways through `b/up`; two hard links are two files.
        assert_eq!(names(&folder, &["."]), ["a/w", "b/y", "b/z"]);
    }

    #[test]
    fn a_changed_file_is_not_opened() {
        let folder = folder(&["a"]);
        let path = folder.path().join("a");
        let listed = InputFile::at(&path, None).unwrap();
        let modified = listed.open().unwrap().metadata().unwrap().modified().unwrap();
        let change = || match listed.open() {
            Err(ReadError::Changed { change, .. }) => change,
            other => panic!("{other:?}"),
        };
        let at = |time: SystemTime| File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();

        at(modified + Duration::from_secs(1));
        assert_eq!(change(), Change::Modified);
        fs::write(&path, "b").unwrap();
        at(modified);
        assert_eq!(change(), Change::Head);
        fs::write(&path, "ab").unwrap();
        assert_eq!(change(), Change::Size { was: 1, is: 2 });
        fs::write(folder.path().join("b"), "a").unwrap();
        fs::rename(folder.path().join("b"), &path).unwrap();
        at(modified);
        assert_eq!(change(), Change::Replaced);
        assert!(InputFile { fingerprint: listed.fingerprint.portable(), ..listed.clone() }.open().is_ok());
        // Where drift is allowed, a file may have grown or be touched, and no more.
        let lax = InputFile { drift: Drift::Warn, ..listed.clone() };
        assert!(matches!(lax.open(), Err(ReadError::Changed { change: Change::Replaced, .. })));
        fs::write(&path, "a, and more, in another file").unwrap();
        assert!(matches!(lax.open(), Err(ReadError::Changed { .. })));
        let lax = InputFile { fingerprint: listed.fingerprint.portable(), ..lax };
        assert!(lax.open().is_ok());
        assert!(InputFile { format: Format::Parquet, ..lax.clone() }.open().is_err());
        fs::write(&path, "b, which is as long").unwrap();
        assert!(matches!(lax.open(), Err(ReadError::Changed { .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(lax.open(), Err(ReadError::Changed { change: Change::Size { was: 1, is: 0 }, .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(listed.open(), Err(ReadError::Open { .. })));
    }
}
