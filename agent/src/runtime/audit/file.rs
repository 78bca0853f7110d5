//! The files of an audit trail: `audit.jsonl` in the state directory, and the ones that were rotated.
//!
//! Only ever appended to, and synced. A file that has grown to its limit becomes `audit.1.jsonl`, and the next one
//! continues its chain; the oldest goes. What a crash left of a line is taken off before the next one is written,
//! and the trail says so.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::chain::{self, Head, Record, Sealed, Verified, Walk};

/// A file is rotated when it is larger, in bytes: some ten thousand lines.
pub const MAX_FILE_BYTES: u64 = 4 << 20;
/// Rotated files that are kept.
pub const KEPT: usize = 8;
/// Lines that are kept in memory and shown.
pub const SHOWN: usize = 1000;

const NAME: &str = "audit.jsonl";

fn rotated(number: usize) -> String {
    format!("audit.{number}.jsonl")
}

/// A trail that can be appended to.
#[derive(Debug)]
pub struct Trail {
    dir: PathBuf,
    file: File,
    /// Bytes of whole lines in it.
    length: u64,
    limit: u64,
    head: Head,
}

impl Trail {
    /// Opens the trail in `dir`, or begins one. Also gives the newest lines, and how many bytes of an unfinished
    /// one were taken off.
    ///
    /// # Errors
    /// A file cannot be read, or not be written.
    pub fn open(dir: &Path) -> io::Result<(Trail, VecDeque<Sealed>, u64)> {
        Trail::with_limit(dir, MAX_FILE_BYTES)
    }

    fn with_limit(dir: &Path, limit: u64) -> io::Result<(Trail, VecDeque<Sealed>, u64)> {
        let mut shown = VecDeque::new();
        let mut walk = Walk::default();
        let mut newest = Vec::new();
        for name in [rotated(1), NAME.to_owned()] {
            newest = read(&dir.join(&name))?.unwrap_or_default();
            walk.file(&name, &newest, name == NAME, |sealed| {
                shown.push_back(sealed);
                if shown.len() > SHOWN {
                    shown.pop_front();
                }
            });
        }
        let found = walk.end();
        for fault in &found.faults {
            let (file, line, what) = (&fault.file, fault.line, &fault.what);
            tracing::warn!(target: "audit", "{file}: line {line} {what}");
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join(NAME))?;
        let length = newest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        let torn = newest.len() as u64 - length;
        if torn > 0 {
            file.set_len(length)?;
        }
        // The file's name must outlive a power cut as its lines do.
        File::open(dir)?.sync_all()?;
        Ok((Trail { dir: dir.to_owned(), file, length, limit, head: found.head }, shown, torn))
    }

    /// Where the chain stands.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Numbers, seals and appends `record`. Durable only after [`Trail::sync`].
    ///
    /// # Errors
    /// The disk refused; the trail is what it was.
    pub fn append(&mut self, mut record: Record) -> io::Result<Sealed> {
        record.seq = self.head.seq + 1;
        record.prev.clone_from(&self.head.hash);
        let (mut line, hash) = chain::seal(&record).map_err(io::Error::other)?;
        line.push('\n');
        if self.length > 0 && self.length + line.len() as u64 > self.limit {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // A part of it may stand there; what cannot be taken off now is taken off at the next start.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += line.len() as u64;
        self.head = Head { seq: record.seq, hash: hash.clone() };
        Ok(Sealed { record, hash })
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(test)]
    pub(super) fn exchange_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        for number in (1..KEPT).rev() {
            match fs::rename(self.dir.join(rotated(number)), self.dir.join(rotated(number + 1))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(self.dir.join(NAME), self.dir.join(rotated(1)))?;
        // Never over one that is there: a rename that failed half way must not cost a file.
        self.file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(self.dir.join(NAME))?;
        self.length = 0;
        File::open(&self.dir)?.sync_all()
    }
}

/// Reads a file of a trail; `None` where there is none.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        // Twice the limit: one who wrote another program's output there shall not take the memory too.
        Ok(file) => file.take(2 * MAX_FILE_BYTES).read_to_end(&mut bytes).map(|_| Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks every line of the trail in `dir`. Changes nothing.
///
/// # Errors
/// There is no trail, or a file cannot be read.
pub fn verify(dir: &Path) -> io::Result<Verified> {
    let mut walk = Walk::default();
    let mut found = false;
    let names = (1..=KEPT).rev().map(rotated).chain([NAME.to_owned()]);
    for name in names {
        if let Some(content) = read(&dir.join(&name))? {
            found = true;
            walk.file(&name, &content, name == NAME, drop);
        }
    }
    if !found {
        let why = format!("there is no audit trail in {} (the member's state_dir)", dir.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(walk.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(action: &str) -> Record {
        Record { action: action.to_owned(), ..Record::default() }
    }

    #[test]
    fn the_chain_is_carried_over_restarts_and_rotations() {
        let dir = tempfile::tempdir().unwrap();
        for start in 0..4 {
            let (mut trail, shown, torn) = Trail::with_limit(dir.path(), 2000).unwrap();
            assert_eq!((trail.head().seq, torn), (start * 10, 0));
            assert_eq!(shown.back().map_or(0, |last| last.record.seq), start * 10);
            for n in 0..10 {
                trail.append(record(&format!("{start}-{n}"))).unwrap();
            }
            trail.sync().unwrap();
        }
        let verified = verify(dir.path()).unwrap();
        assert!(verified.intact && verified.lines == 40 && verified.first_seq == 1, "{verified:?}");
        assert!(dir.path().join(rotated(2)).exists());
        // A file that is gone leaves a hole.
        fs::remove_file(dir.path().join(rotated(2))).unwrap();
        assert!(!verify(dir.path()).unwrap().intact);
    }

    #[test]
    fn the_oldest_file_goes_and_the_rest_still_proves_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (mut trail, ..) = Trail::with_limit(dir.path(), 1000).unwrap();
        for n in 0..100 {
            trail.append(record(&n.to_string())).unwrap();
        }
        let verified = verify(dir.path()).unwrap();
        assert!(verified.intact && verified.first_seq > 1 && verified.head.seq == 100, "{verified:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT + 1);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(dir.path().join(NAME)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_unfinished_line_is_taken_off_and_the_chain_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut trail, ..) = Trail::open(dir.path()).unwrap();
        trail.append(record("one")).unwrap();
        let two = trail.append(record("two")).unwrap();
        drop(trail);
        let path = dir.path().join(NAME);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"seq\":3,\"at\":\"20");
        fs::write(&path, &text).unwrap();
        assert!(verify(dir.path()).unwrap().torn);
        let (mut trail, shown, torn) = Trail::open(dir.path()).unwrap();
        assert_eq!((torn, shown.len(), trail.head().seq), (17, 2, 2));
        assert_eq!(trail.append(record("three")).unwrap().record.prev, two.hash);
        let verified = verify(dir.path()).unwrap();
        assert!(verified.intact && !verified.torn && verified.lines == 3, "{verified:?}");
    }

    #[test]
    fn a_changed_line_stays_where_it_is_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (mut trail, ..) = Trail::open(dir.path()).unwrap();
        for action in ["one", "two", "three"] {
            trail.append(record(action)).unwrap();
        }
        drop(trail);
        let path = dir.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"two\"", "\"owt\"")).unwrap();
        let (mut trail, ..) = Trail::open(dir.path()).unwrap();
        trail.append(record("four")).unwrap();
        let verified = verify(dir.path()).unwrap();
        assert_eq!((verified.intact, verified.faults[0].line), (false, 2), "{verified:?}");
        assert!(verify(&dir.path().join("nowhere")).is_err());
    }
}
