//! Reads a secret from a file of its own, and refuses one that others can read too.
//!
//! Invariant: no message holds anything of the file's content.

use std::fs::{self, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

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
/// Others may change it: of a directory, put other files in the place of those that are there.
const OTHERS_WRITE: u32 = 0o022;
/// Nobody replaces files of others in such a directory.
const STICKY: u32 = 0o1000;

/// Reads the secret, without the line end that editors put after it. A relative path starts at `dir`.
pub(crate) fn read(notes: &mut Notes, key: &str, path: &At<String>, dir: &Path) -> Option<At<Secret>> {
    let whole: PathBuf = dir.join(&path.value);
    let shown = whole.display();
    notes.own_files.extend(std::path::absolute(&whole));
    // Looked at as it is opened: what is judged is what is read, whatever becomes of the path meanwhile.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&whole);
    let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = match opened {
        Ok(opened) => opened,
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
    if let Some((message, mend)) = replaceable(&whole, &metadata, geteuid().as_raw()) {
        notes.error(&path.span, format!("`{key}`: {message}"), mend);
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
    if let Err(error) = file.take(MAX_SECRET_FILE_BYTES).read_to_string(&mut text) {
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

/// Whether somebody besides root and `uid` could put another secret there, and what to do about it: who owns the file
/// can change it, and who writes to its directory can replace it.
fn replaceable(path: &Path, metadata: &Metadata, uid: u32) -> Option<(String, String)> {
    let trusted = |owner: u32| owner == 0 || owner == uid;
    let shown = path.display();
    if !trusted(metadata.uid()) {
        let message = format!("{shown} belongs to the user {}, who can change it", metadata.uid());
        return Some((message, format!("run `chown root {shown}`, and change the secret if it was exposed")));
    }
    // Where the path is a link, its own directory and that of the file.
    let real = fs::canonicalize(path).ok();
    let dirs = [Some(path), real.as_deref()].into_iter().flatten().filter_map(Path::parent);
    for dir in dirs.filter(|dir| !dir.as_os_str().is_empty()) {
        let Ok(of_dir) = fs::metadata(dir) else { continue };
        let open = of_dir.mode() & OTHERS_WRITE != 0 && of_dir.mode() & STICKY == 0;
        if open || !trusted(of_dir.uid()) {
            let message = format!(
                "others can replace {shown}: its directory {} belongs to the user {} (mode {:03o})",
                dir.display(),
                of_dir.uid(),
                of_dir.mode() & 0o777
            );
            let mend = format!("run `chown root {0}` and `chmod go-w {0}`", dir.display());
            return Some((message, mend));
        }
    }
    None
}
