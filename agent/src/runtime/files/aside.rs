//! Keeps what an edit of this host left before it is written over: in the state directory, with a note of where it
//! belongs. Nothing is taken away from there but the oldest, once there is very much of it.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::{Found, Kind, Spot};
use crate::runtime::history::rfc3339;
use crate::runtime::log_thread::wall_ms;

/// Characters of a file's name that its copy has: the copy's own name has bounds, too.
const MOST_OF_NAME: usize = 50;

/// Copies of one set that are kept.
const MOST: usize = 512;

/// A copy that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where it was.
    pub path: String,
    /// Where it is.
    pub copy: PathBuf,
    /// When it was put there.
    pub kept: String,
    /// Permission bits.
    pub mode: u32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes.
    pub bytes: u64,
}

/// Where the copies of one set are.
pub(super) struct Aside {
    dir: PathBuf,
    kept: Vec<Kept>,
    number: u64,
}

impl Aside {
    /// The copies of `set` in the state directory.
    pub(super) fn open(state_dir: &Path, set: &str) -> Aside {
        let dir = state_dir.join("files-set-aside").join(set);
        let mut kept: Vec<Kept> = Vec::new();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "json")
                && let Ok(text) = std::fs::read(&path)
                && let Ok(read) = serde_json::from_slice(&text)
            {
                kept.push(read);
            }
        }
        kept.sort_by(|a, b| (&a.kept, &a.copy).cmp(&(&b.kept, &b.copy)));
        Aside { dir, kept, number: 0 }
    }

    /// How many there are, and the newest of them.
    pub(super) fn shown(&self, most: usize) -> (u64, Vec<Kept>) {
        let newest = self.kept.iter().rev().take(most).cloned().collect();
        (self.kept.len() as u64, newest)
    }

    /// Copies what is at `path` here: durable when this returns. A directory has nothing to be kept.
    pub(super) fn keep(&mut self, path: &str) -> io::Result<Option<Kept>> {
        let spot = Spot::of(Path::new(path))?;
        let Some(found) = spot.look()? else { return Ok(None) };
        if !matches!(found.kind, Kind::File | Kind::Link(_)) {
            return Ok(None);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        self.number += 1;
        let now = wall_ms();
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name: String = name.chars().take(MOST_OF_NAME).collect();
        let copy = self.dir.join(format!("{now}-{}-{name}", self.number));
        let mut file = create(&copy)?;
        match &found.kind {
            Kind::Link(target) => file.write_all(target.as_bytes())?,
            _ => drop(io::copy(&mut spot.open()?, &mut file)?),
        }
        file.sync_all()?;
        let Found { mode, uid, gid, size, .. } = found;
        let kept = Kept { path: path.to_owned(), copy, kept: rfc3339(now), mode, uid, gid, bytes: size };
        let mut note = create(&note_of(&kept.copy))?;
        note.write_all(&serde_json::to_vec_pretty(&kept).map_err(io::Error::other)?)?;
        note.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        self.kept.push(kept.clone());
        if self.kept.len() > MOST {
            let oldest = self.kept.remove(0);
            tracing::warn!(copy = %oldest.copy.display(), "more than {MOST} copies are kept aside: the oldest is removed");
            let _ = std::fs::remove_file(note_of(&oldest.copy));
            let _ = std::fs::remove_file(&oldest.copy);
        }
        Ok(Some(kept))
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn note_of(copy: &Path) -> PathBuf {
    let mut name = copy.as_os_str().to_owned();
    name.push(".json");
    name.into()
}
