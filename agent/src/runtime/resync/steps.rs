//! The steps of a copy that begins anew, each durable before the next one, so that whatever dies on the way goes on where
//! it was when the agent starts again.
//!
//! ```text
//!   ordered ──> moving ──> copying ──> dropping ──> (no file)
//!      │          │           └───────────────────> (no file)     where the old copy stays
//!      │          └ the member is a new one; its log goes to `log/before-resync-*`, file by file, by renaming
//!      └ the agent ends and starts again. An order that was not taken up at once is void: nothing has changed yet
//! ```
//!
//! What was set aside stays where it is. The order lies in a file beside the log; the new incarnation is durable before the
//! first byte leaves the log, so that at no moment a member says of itself that it holds what it does not (rule R3).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_heartbeat::Time;
use serde::{Deserialize, Serialize};

use crate::runtime::state_file;

/// The order, in the data directory.
const FILE: &str = "resync.json";
/// What the directory of an old copy begins with. It lies in that of the log, which may be a disk of its own: renaming stays
/// within one.
const OLD: &str = "before-resync-";
/// Where the log is.
const LOG: &str = "log";
/// The format that this build writes.
const FORMAT: u32 = 1;
/// An order is taken up within this time, or not at all: later, the primary may be another one, or none.
pub const TAKEN_UP_WITHIN: Duration = Duration::from_secs(60);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The agent is to start again.
    Ordered,
    /// The old copy is put out of the way.
    Moving,
    /// The new copy comes from the primary.
    Copying,
    /// The new copy is in sync, and the old one is being deleted.
    Dropping,
}

/// What becomes of the old copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is deleted when the new one is in sync.
    DeletedWhenInSync,
    /// It is deleted as the new one begins: there is no room for both.
    DeletedFirst,
    /// It stays until somebody deletes it.
    Kept,
}

/// What was ordered, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    format: u32,
    /// How far it is.
    pub phase: Phase,
    /// When it was ordered, in milliseconds since 1970.
    pub ordered_ms: u64,
    /// The same by the clock of that boot of the host, and which boot it was.
    ordered_at: u64,
    boot: String,
    /// The directory of the old copy, in that of the log.
    pub old: String,
    /// Bytes of the log in it.
    pub old_bytes: u64,
    /// What becomes of it.
    pub fate: Fate,
}

impl Marker {
    /// An order that is given now.
    pub fn new(now: Time, wall_ms: u64, old_bytes: u64, fate: Fate) -> Marker {
        Marker {
            format: FORMAT,
            phase: Phase::Ordered,
            ordered_ms: wall_ms,
            ordered_at: now.0,
            boot: boot_id(),
            old: format!("{OLD}{wall_ms}"),
            old_bytes,
            fate,
        }
    }

    /// Where the old copy is.
    pub fn old_path(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(LOG).join(&self.old)
    }

    fn is_void(&self, now: Time) -> bool {
        self.phase == Phase::Ordered
            && (self.boot != boot_id() || now.since(Time(self.ordered_at)) > TAKEN_UP_WITHIN)
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What a start makes of an order.
#[derive(Debug)]
pub enum Found {
    /// There is none.
    Nothing,
    /// It came too late, and is void.
    Void,
    /// The member begins anew with this start.
    Begins(Marker),
    /// It has begun before.
    GoesOn(Marker),
}

/// Writes the order down.
pub fn write(data_dir: &Path, marker: &Marker) -> io::Result<()> {
    state_file::replace(data_dir, FILE, &serde_json::to_vec_pretty(marker).map_err(io::Error::other)?)
}

/// The order as it stands, if there is one. One that cannot be read is put out of the way: the log is opened as it is then,
/// and what is missing in it is noticed there.
pub fn read(data_dir: &Path) -> io::Result<Option<Marker>> {
    let text = match fs::read(data_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match serde_json::from_slice::<Marker>(&text) {
        Ok(marker) if marker.format <= FORMAT && is_old(&marker.old) => Ok(Some(marker)),
        _ => {
            tracing::error!(path = %data_dir.join(FILE).display(), "the order of a resync cannot be read, and is put out of the way");
            fs::rename(data_dir.join(FILE), data_dir.join(format!("{FILE}.damaged")))?;
            Ok(None)
        }
    }
}

fn is_old(name: &str) -> bool {
    name.strip_prefix(OLD).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Takes an order up, before anything of the log is opened. `renew` makes the member a new one, durably.
pub fn at_start<E: From<io::Error>>(
    data_dir: &Path,
    now: Time,
    renew: impl FnOnce(&Marker) -> Result<(), E>,
) -> Result<Found, E> {
    let Some(mut marker) = read(data_dir)? else { return Ok(Found::Nothing) };
    if marker.is_void(now) {
        remove(data_dir)?;
        return Ok(Found::Void);
    }
    let begins = marker.phase == Phase::Ordered;
    if begins {
        renew(&marker)?;
        marker.phase = Phase::Moving;
        write(data_dir, &marker)?;
    }
    if marker.phase == Phase::Moving {
        put_away(data_dir, &marker)?;
        marker.phase = Phase::Copying;
        write(data_dir, &marker)?;
    }
    Ok(if begins { Found::Begins(marker) } else { Found::GoesOn(marker) })
}

/// Renames the files of the log. What lies in directories beside them stays: what was set aside, and older copies.
fn put_away(data_dir: &Path, marker: &Marker) -> io::Result<()> {
    let (log, old) = (data_dir.join(LOG), marker.old_path(data_dir));
    fs::create_dir_all(&old)?;
    for entry in fs::read_dir(&log)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::rename(entry.path(), old.join(entry.file_name()))?;
        }
    }
    for dir in [&old, &log, data_dir] {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Deletes the old copy, where it is to give room to the new one. Not at the start, which nothing may hold up for long.
pub fn make_room(data_dir: &Path, marker: &Marker) -> io::Result<()> {
    if marker.fate == Fate::DeletedFirst { delete(&marker.old_path(data_dir)) } else { Ok(()) }
}

/// The new copy is in sync: what was kept for its sake goes.
pub fn finish(data_dir: &Path, marker: &Marker) -> io::Result<()> {
    if marker.fate != Fate::Kept {
        write(data_dir, &Marker { phase: Phase::Dropping, ..marker.clone() })?;
        delete(&marker.old_path(data_dir))?;
    }
    remove(data_dir)
}

fn delete(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove(data_dir: &Path) -> io::Result<()> {
    fs::remove_file(data_dir.join(FILE))?;
    File::open(data_dir)?.sync_all()
}

/// Where the log is.
pub fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join(LOG)
}

/// Old copies of the log, and their sizes in bytes.
pub fn old_copies(data_dir: &Path) -> Vec<(PathBuf, u64)> {
    let Ok(entries) = fs::read_dir(data_dir.join(LOG)) else { return Vec::new() };
    let dirs = entries.filter_map(Result::ok).filter(|entry| entry.file_name().to_str().is_some_and(is_old));
    let mut found: Vec<(PathBuf, u64)> = dirs.map(|dir| (dir.path(), size_of(&dir.path()))).collect();
    found.sort();
    found
}

fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.filter_map(Result::ok).filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("log/set-aside")).unwrap();
        for name in ["0000.log", "4000.log", "map", "durable", "set-aside/1-2-3.log"] {
            fs::write(dir.path().join("log").join(name), name).unwrap();
        }
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn start(dir: &Path, now: Time) -> (Found, usize) {
        let mut renewed = 0;
        let found = at_start(dir, now, |_| {
            renewed += 1;
            io::Result::Ok(())
        });
        (found.unwrap(), renewed)
    }

    #[test]
    fn the_old_copy_is_put_away_once_and_goes_when_the_new_one_is_in_sync() {
        let dir = data();
        let path = dir.path();
        assert!(matches!(start(path, at(1)), (Found::Nothing, 0)));
        let order = Marker::new(at(10), 77, 5, Fate::DeletedWhenInSync);
        write(path, &order).unwrap();
        let (Found::Begins(marker), 1) = start(path, at(11)) else { panic!("it begins") };
        assert_eq!(names(&path.join("log")), ["before-resync-77", "set-aside"]);
        assert_eq!(names(&path.join("log/set-aside")), ["1-2-3.log"]);
        assert_eq!(names(&marker.old_path(path)), ["0000.log", "4000.log", "durable", "map"]);
        assert_eq!(old_copies(path), [(path.join("log/before-resync-77"), 26)]);
        // The new copy is under way, and the agent is started again: what there is of it stays.
        fs::write(path.join("log/0000.log"), "new").unwrap();
        let (Found::GoesOn(marker), 0) = start(path, at(9999)) else { panic!("it goes on") };
        assert_eq!(names(&path.join("log")), ["0000.log", "before-resync-77", "set-aside"]);
        finish(path, &marker).unwrap();
        assert_eq!(
            (names(path), names(&path.join("log"))),
            (vec!["log".into()], vec!["0000.log".into(), "set-aside".into()])
        );
        assert!(matches!(start(path, at(10_000)), (Found::Nothing, 0)));
    }

    #[test]
    fn whatever_dies_in_the_middle_goes_on_where_it_was() {
        // The member was renewed, and the order still stands as given: it is renewed again, which does no harm.
        let dir = data();
        let order = Marker::new(at(10), 77, 5, Fate::DeletedWhenInSync);
        write(dir.path(), &order).unwrap();
        let died = at_start(dir.path(), at(11), |_| Err(io::Error::other("killed")));
        assert!(died.is_err() && names(&dir.path().join("log")).len() == 5, "nothing was touched");
        assert!(matches!(start(dir.path(), at(12)), (Found::Begins(_), 1)));

        // Half of the files have been moved.
        let dir = data();
        let path = dir.path();
        write(path, &Marker { phase: Phase::Moving, ..order.clone() }).unwrap();
        fs::create_dir(order.old_path(path)).unwrap();
        fs::rename(path.join("log/4000.log"), order.old_path(path).join("4000.log")).unwrap();
        assert!(matches!(start(path, at(99_999)), (Found::GoesOn(_), 0)), "no order is void that has begun");
        assert_eq!(names(&path.join("log")), ["before-resync-77", "set-aside"]);
        assert_eq!(names(&order.old_path(path)).len(), 4);

        // Half of the old copy is gone.
        let marker = Marker { phase: Phase::Dropping, ..order };
        write(path, &marker).unwrap();
        fs::remove_file(marker.old_path(path).join("map")).unwrap();
        let (Found::GoesOn(marker), 0) = start(path, at(99_999)) else { panic!("it goes on") };
        finish(path, &marker).unwrap();
        assert_eq!((names(path), names(&path.join("log"))), (vec!["log".into()], vec!["set-aside".into()]));
    }

    #[test]
    fn an_order_that_was_not_taken_up_at_once_is_void_and_changes_nothing() {
        let order = Marker::new(at(10), 77, 5, Fate::DeletedFirst);
        let elsewhere = Marker { boot: "another boot".to_owned(), ..order.clone() };
        for (order, now) in [(order, at(71)), (elsewhere, at(11))] {
            let dir = data();
            write(dir.path(), &order).unwrap();
            assert!(matches!(start(dir.path(), now), (Found::Void, 0)));
            assert_eq!(names(&dir.path().join("log")).len(), 5);
            assert_eq!(names(dir.path()), ["log"]);
        }
    }

    #[test]
    fn an_old_copy_is_kept_or_given_up_first_as_it_was_ordered() {
        for (fate, left) in [(Fate::Kept, 1), (Fate::DeletedFirst, 0)] {
            let dir = data();
            write(dir.path(), &Marker::new(at(10), 77, 5, fate)).unwrap();
            let (Found::Begins(marker), 1) = start(dir.path(), at(11)) else { panic!("it begins") };
            make_room(dir.path(), &marker).unwrap();
            assert_eq!(old_copies(dir.path()).len(), left);
            finish(dir.path(), &marker).unwrap();
            assert_eq!(old_copies(dir.path()).len(), left);
            assert_eq!(read(dir.path()).unwrap(), None);
            // Another one leaves what is kept alone.
            fs::write(dir.path().join("log/0000.log"), "new").unwrap();
            write(dir.path(), &Marker::new(at(20), 88, 5, Fate::Kept)).unwrap();
            assert!(matches!(start(dir.path(), at(21)), (Found::Begins(_), 1)));
            assert_eq!(old_copies(dir.path()).len(), left + 1);
        }
    }

    #[test]
    fn what_is_no_order_is_put_out_of_the_way() {
        let order = Marker::new(at(10), 77, 5, Fate::Kept);
        let outside = Marker { old: "../../etc".to_owned(), ..order };
        for text in [b"{".to_vec(), serde_json::to_vec(&outside).unwrap()] {
            let dir = data();
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(matches!(start(dir.path(), at(11)), (Found::Nothing, 0)));
            assert_eq!(names(dir.path()), ["log", "resync.json.damaged"]);
        }
    }
}
