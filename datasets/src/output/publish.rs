//! The steps from staged files to a visible output.
//!
//! ```text
//! assemble:  link files into final/ · write _SUCCESS · sync
//! reveal:    rename final/ to the output, or exchange the two · sync
//! sweep:     put back what stepped aside in vain · remove staging
//! ```
//! Each may be repeated after a crash at any point, in a new process: it finds what is done and does
//! the rest. A run that dies is swept, so its output is either the old one or the new one; whoever
//! would rather go on (having journaled that it began) repeats the first two.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{PublishError, parent_of};
use crate::manifest::{Digest, MANIFEST_NAME, Manifest};

/// How often a directory is removed again in which something appeared while it was being removed.
const REMOVALS: usize = 20;

/// A published output.
#[derive(Debug)]
pub struct Published {
    /// What became of an output that stood there.
    pub replaced: Replaced,
    /// What could not be removed after the output was out. It is harmless, and the next run on this
    /// output tries again.
    pub left_behind: Option<PublishError>,
}

/// What became of an older output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// There was none.
    Nothing,
    /// It was exchanged for the new one in a single step.
    Exchanged,
    /// It was moved aside first: the file system cannot exchange directories. Between the two renames
    /// there was no output.
    InTwoSteps,
}

/// Puts the output together in `staging/final`: links each file to its name, and writes the manifest.
pub fn assemble<'f>(
    staging: &Path,
    files: impl IntoIterator<Item = &'f (PathBuf, String)>,
    manifest: &Manifest,
    durable: bool,
) -> Result<(), PublishError> {
    let assembled = staging.join("final");
    let mut directories = vec![assembled.clone()];
    create(&assembled)?;
    for (staged, name) in files {
        let name = inner_name(name)?;
        let target = assembled.join(name);
        let above = name.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).map(|above| assembled.join(above));
        for directory in above.collect::<Vec<_>>().into_iter().rev() {
            if !directories.contains(&directory) {
                create(&directory)?;
                directories.push(directory);
            }
        }
        link(staged, &target)?;
    }
    write_manifest(&assembled, manifest, durable)?;
    if durable { directories.iter().rev().try_for_each(|directory| sync(directory)) } else { Ok(()) }
}

/// Makes a directory, but none of those above it: staging that was swept meanwhile does not come back.
fn create(directory: &Path) -> Result<(), PublishError> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(PublishError::io("create", directory)(error)),
        _ => Ok(()),
    }
}

/// Whether a name stays inside the output, and is not the manifest's.
fn inner_name(name: &str) -> Result<&Path, PublishError> {
    let path = Path::new(name);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if inside && !name.is_empty() && name != MANIFEST_NAME { Ok(path) } else { Err(PublishError::Name { name: name.to_owned() }) }
}

/// Gives a staged file its second name. One that has it already is left alone.
fn link(staged: &Path, target: &Path) -> Result<(), PublishError> {
    let linked = match fs::hard_link(staged, target) {
        // Without links, moving does; what it takes away is found at its target when this is repeated.
        Err(error) if is_unsupported(&error) && !target.exists() => fs::rename(staged, target),
        other => other,
    };
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || is_unsupported(&error) => match is_same_file(staged, target) {
            true => Ok(()),
            false => Err(PublishError::Conflict { path: target.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && target.exists() => Ok(()),
        other => other.map_err(PublishError::io("link", staged)),
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        // The source was moved, not linked, by an earlier try.
        (Err(error), Ok(_)) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Writes `_SUCCESS` whole or not at all.
fn write_manifest(directory: &Path, manifest: &Manifest, durable: bool) -> Result<(), PublishError> {
    let half = directory.join("._SUCCESS");
    let path = directory.join(MANIFEST_NAME);
    fs::write(&half, manifest.to_bytes()).map_err(PublishError::io("write", &half))?;
    if durable {
        sync(&half)?;
    }
    fs::rename(&half, &path).map_err(PublishError::io("write", &path))
}

pub(super) fn sync(path: &Path) -> Result<(), PublishError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(PublishError::io("sync", path))
}

/// Tells whether the output with this manifest is the one that is visible.
///
/// What a recovery asks first: `reveal` must not be repeated once it is done.
pub fn is_published(output: &Path, manifest: Digest) -> bool {
    fs::read(output.join(MANIFEST_NAME)).is_ok_and(|bytes| *blake3::hash(&bytes).as_bytes() == manifest.0)
}

/// Makes `staging/final` visible as the output.
///
/// What stood there before is in staging afterwards. On an error the output is as it was.
pub fn reveal(staging: &Path, output: &Path, overwrite: bool, durable: bool) -> Result<Replaced, PublishError> {
    let assembled = staging.join("final");
    let replaced = match rename_with(&assembled, output, RenameFlags::NOREPLACE) {
        Ok(()) => Replaced::Nothing,
        Err(Errno::EXIST | Errno::NOTEMPTY) if overwrite => replace(staging, &assembled, output)?,
        Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(PublishError::Exists { path: output.to_owned() }),
        Err(error) if is_unsupported(&error.into()) => reveal_plainly(staging, &assembled, output, overwrite)?,
        Err(error) => return Err(PublishError::io("publish", output)(error.into())),
    };
    if durable {
        sync(parent_of(output))?;
    }
    Ok(replaced)
}

/// Where the file system knows only plain renames. The claim keeps other runs away meanwhile.
fn reveal_plainly(staging: &Path, assembled: &Path, output: &Path, overwrite: bool) -> Result<Replaced, PublishError> {
    if fs::symlink_metadata(output).is_err() {
        return fs::rename(assembled, output).map(|()| Replaced::Nothing).map_err(PublishError::io("publish", output));
    }
    if overwrite { replace_in_two_steps(staging, assembled, output) } else { Err(PublishError::Exists { path: output.to_owned() }) }
}

fn replace(staging: &Path, assembled: &Path, output: &Path) -> Result<Replaced, PublishError> {
    match rename_with(assembled, output, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Replaced::Exchanged),
        Err(error) if is_unsupported(&error.into()) => replace_in_two_steps(staging, assembled, output),
        Err(error) => Err(PublishError::io("replace", output)(error.into())),
    }
}

fn replace_in_two_steps(staging: &Path, assembled: &Path, output: &Path) -> Result<Replaced, PublishError> {
    let aside = staging.join("replaced");
    fs::rename(output, &aside).map_err(PublishError::io("move aside", output))?;
    if let Err(error) = fs::rename(assembled, output) {
        restore(staging, output)?;
        return Err(PublishError::io("publish", output)(error));
    }
    Ok(Replaced::InTwoSteps)
}

/// Puts an output back that stepped aside for one that never came.
pub(super) fn restore(staging: &Path, output: &Path) -> Result<(), PublishError> {
    let aside = staging.join("replaced");
    if fs::symlink_metadata(&aside).is_ok() && fs::symlink_metadata(output).is_err() {
        fs::rename(&aside, output).map_err(PublishError::io("put back", output))?;
    }
    Ok(())
}

/// Removes a staging directory. An old output that is in it, with none in its place, is put back first.
pub fn sweep(staging: &Path, output: &Path) -> Result<(), PublishError> {
    restore(staging, output)?;
    let mut removed = fs::remove_dir_all(staging);
    for _ in 1..REMOVALS {
        match &removed {
            // Threads that have not yet noticed that the run is over may still create files.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => removed = fs::remove_dir_all(staging),
            _ => break,
        }
    }
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PublishError::io("remove", staging)(error)),
        _ => Ok(()),
    }
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

/// Whether a file system does not know what it was asked for, as opposed to having failed at it.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::MLINK))
}
