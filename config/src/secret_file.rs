//! Reads a secret from a file of its own, and refuses one that others can read too.
//!
//! Invariant: no message holds anything of the file's content.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::report::Notes;
use crate::secret::Secret;
use crate::section::At;

/// Largest secret file, in bytes: anything larger is some other file.
pub(crate) const MAX_SECRET_FILE_BYTES: u64 = 4096;

/// Permission bits by which everybody gets at a file.
const WORLD: u32 = 0o007;
/// Permission bits by which a group gets at a file.
const GROUP: u32 = 0o070;
/// The group may change what it may only read.
const GROUP_WRITE: u32 = 0o020;

/// Reads the secret, without the line end that editors put after it. A relative path starts at `dir`.
pub(crate) fn read(notes: &mut Notes, key: &str, path: &At<String>, dir: &Path) -> Option<At<Secret>> {
    let whole: PathBuf = dir.join(&path.value);
    let shown = whole.display();
    let metadata = match fs::metadata(&whole) {
        Ok(metadata) => metadata,
        Err(error) => {
            let mend = match error.kind() {
                std::io::ErrorKind::NotFound => format!(
                    "create it with `install -m 600 /dev/null {shown}` and put the same secret there on every member"
                ),
                _ => "let the agent's user read it, and the directories above it".to_owned(),
            };
            notes.error(&path.span, format!("`{key}`: cannot read {shown}: {error}"), mend);
            return None;
        }
    };
    if !metadata.is_file() || metadata.len() > MAX_SECRET_FILE_BYTES {
        let message = format!("`{key}`: {shown} is not a file of {MAX_SECRET_FILE_BYTES} bytes or fewer");
        notes.error(&path.span, message, "write the path of a file that holds the secret and nothing else");
        return None;
    }
    let mode = metadata.mode();
    if mode & (WORLD | GROUP_WRITE) != 0 {
        let message = format!("`{key}`: others can get at {shown} (mode {:03o})", mode & 0o777);
        notes.error(
            &path.span,
            message,
            format!("run `chmod 600 {shown}`, and change the secret if it was exposed"),
        );
        return None;
    }
    if mode & GROUP != 0 {
        let message =
            format!("`{key}`: the group {} can read {shown} (mode {:03o})", metadata.gid(), mode & 0o777);
        notes.warn(&path.span, message, format!("run `chmod 600 {shown}` unless that is meant"));
    }
    let mut text = String::new();
    let read =
        fs::File::open(&whole).and_then(|file| file.take(MAX_SECRET_FILE_BYTES).read_to_string(&mut text));
    if let Err(error) = read {
        let message = format!("`{key}`: cannot read {shown}: {error}");
        notes.error(&path.span, message, "let the agent's user read it; it must hold text");
        return None;
    }
    let whole_text = Secret::new(text);
    let secret = Secret::new(whole_text.expose().trim_end_matches(['\n', '\r']));
    if secret.len_bytes() == 0 {
        let message = format!("`{key}`: {shown} is empty");
        notes.error(
            &path.span,
            message,
            format!("put a secret there: `head -c 32 /dev/urandom | base64 > {shown}`"),
        );
        return None;
    }
    Some(At { value: secret, span: path.span.clone() })
}
