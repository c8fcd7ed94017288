//! What is checked of a submission here, before a worker is troubled: inputs, output, and that they are not one another.

use std::path::PathBuf;

use shardmill_datasets::{ListError, PublishError, RunRequest, list};

/// Why a submission would fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    /// The inputs cannot be listed.
    #[error(transparent)]
    Input(#[from] ListError),
    /// The output exists.
    #[error(transparent)]
    Output(PublishError),
    /// The output is or holds what is read.
    #[error("output {} holds the input {}: it would be replaced", output.display(), input.display())]
    Overlap {
        /// The output.
        output: PathBuf,
        /// The input.
        input: PathBuf,
    },
    /// A path cannot be sent as text.
    #[error("{} is not UTF-8, and paths of a cluster's jobs must be", .0.display())]
    NotText(PathBuf),
    /// A path cannot be made absolute.
    #[error("cannot find the current directory")]
    Directory(#[from] std::io::Error),
}

impl PreflightError {
    pub(crate) fn next(&self) -> Option<String> {
        match self {
            Self::Input(ListError::Nothing { .. }) => Some("--allow-empty takes it as empty".to_owned()),
            Self::Overlap { .. } => Some("choose another output".to_owned()),
            _ => None,
        }
    }
}

/// Checks a request, and makes its paths absolute.
///
/// An output that exists may be that of an earlier submission with the same key; then only the coordinator can tell.
pub(crate) fn check(request: RunRequest, has_key: bool) -> Result<RunRequest, PreflightError> {
    let request = request.absolute()?;
    if request.output.to_str().is_none() {
        return Err(PreflightError::NotText(request.output));
    }
    let files = match list(&request.inputs, request.input_format) {
        Err(ListError::Nothing { .. }) if request.allow_empty => Vec::new(),
        listed => listed?,
    };
    let is_there = std::fs::symlink_metadata(&request.output).is_ok();
    if is_there && !request.overwrite && !has_key {
        return Err(PreflightError::Output(PublishError::Exists { path: request.output }));
    }
    if let Some(input) = request.overlap(files.iter().map(|file| file.path.as_path())) {
        return Err(PreflightError::Overlap { output: request.output.clone(), input: input.to_owned() });
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_must_exist_outputs_must_not_and_neither_may_hold_the_other() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("in.txt"), "a\n").unwrap();
        std::fs::create_dir(path("out")).unwrap();
        std::fs::write(path("out/old.txt"), "a\n").unwrap();
        let request = |input: &str, output: &str| RunRequest::new([path(input).to_str().unwrap().to_owned()], path(output));

        assert!(check(request("in.txt", "new"), false).unwrap().output.is_absolute());
        assert!(matches!(check(request("none.txt", "new"), false), Err(PreflightError::Input(_))));
        check(RunRequest { allow_empty: true, ..request("none.txt", "new") }, false).unwrap();
        let exists = check(request("in.txt", "out"), false).unwrap_err();
        assert!(exists.to_string().contains("--overwrite"), "{exists}");
        check(request("in.txt", "out"), true).unwrap();
        check(RunRequest { overwrite: true, ..request("in.txt", "out") }, false).unwrap();
        let overlap = check(RunRequest { overwrite: true, ..request("out/old.txt", "out") }, false).unwrap_err();
        assert!(matches!(overlap, PreflightError::Overlap { .. }), "{overlap}");
    }
}
