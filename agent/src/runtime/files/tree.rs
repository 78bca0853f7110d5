//! The hosts' directories, looked at without following any symbolic link.
//!
//! Every path is walked from `/` one name at a time, each opened relative to the one before with `O_NOFOLLOW`: whoever
//! can write to a directory on the way cannot lead the agent elsewhere by a link. What is looked at is what was
//! opened, never a name a second time.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use holdfast_config::{SyncFiles, TEMPORARY_PREFIX};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, unlinkat};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file that was changed so shortly before it was looked at may change again within the same tick of the kernel's
/// clock, and look the same.
const RACY: Duration = Duration::from_millis(50);

/// Permission bits that are carried of a file: never those that run it as somebody else.
pub(super) const FILE_BITS: u32 = 0o777;
/// Permission bits that are carried of a directory.
pub(super) const DIRECTORY_BITS: u32 = 0o1777;

/// What a file looks like from outside: where that is the same, its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outside {
    dev: u64,
    ino: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Outside {
    fn of(metadata: &std::fs::Metadata) -> Outside {
        let ns = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Outside {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change right after this look would show.
    pub(super) fn would_show_a_change(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        now - self.changed_ns > RACY.as_nanos() as i128
    }
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Link(String),
    /// A device, a pipe, a socket, or a link whose target is no text: never carried and never touched.
    Other,
}

/// Something at a path.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub kind: Kind,
    /// The bits that are carried.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub modified_ns: i64,
    pub outside: Outside,
}

impl Found {
    /// What `opened` is, which may be an `O_PATH` descriptor.
    fn of(opened: &File) -> io::Result<Found> {
        let metadata = opened.metadata()?;
        let file_type = FileType::from_raw_mode(metadata.mode());
        let (kind, bits) = match file_type {
            FileType::RegularFile => (Kind::File, FILE_BITS),
            FileType::Directory => (Kind::Directory, DIRECTORY_BITS),
            FileType::Symlink => {
                let target = readlinkat(opened, "", Vec::new())?.into_string();
                (target.map_or(Kind::Other, Kind::Link), 0)
            }
            _ => (Kind::Other, 0),
        };
        let outside = Outside::of(&metadata);
        Ok(Found {
            kind,
            mode: metadata.mode() & bits,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: metadata.size(),
            modified_ns: i64::try_from(outside.modified_ns).unwrap_or(0),
            outside,
        })
    }

    /// All that makes two copies the same on this host, for one of this content.
    pub(super) fn print(&self, content: Option<&[u8; 32]>) -> String {
        let target = match &self.kind {
            Kind::Link(target) => target.as_str(),
            _ => "",
        };
        print(&self.kind, self.mode, (self.uid, self.gid), target, content)
    }
}

/// See [`Found::print`].
pub(super) fn print(
    kind: &Kind,
    mode: u32,
    (uid, gid): (u32, u32),
    target: &str,
    content: Option<&[u8; 32]>,
) -> String {
    let word = match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        // Whose a link is makes no difference to anybody.
        Kind::Link(_) => return hex::encode(Sha256::digest(format!("link {target}"))),
        Kind::Other => "other",
    };
    let mut hash = Sha256::new();
    hash.update(format!("{word} {mode:o} {uid} {gid} "));
    hash.update(content.map_or(&[][..], |content| &content[..]));
    hex::encode(hash.finalize())
}

/// A name in a directory that was reached without a link.
pub(super) struct Spot {
    pub dir: File,
    pub name: OsString,
}

fn words(what: &Path, error: rustix::io::Errno) -> io::Error {
    match error {
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => io::Error::other(format!(
            "{} is a symbolic link or no directory, and links are not followed",
            what.display()
        )),
        error => {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{}: {error}", what.display()))
        }
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory without following a link anywhere on the way.
pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    let root =
        rustix::fs::open("/", DIRECTORY, Mode::empty()).map_err(|error| words(Path::new("/"), error))?;
    let (mut at, mut so_far) = (File::from(root), PathBuf::from("/"));
    for part in path.components() {
        let name = match part {
            Component::RootDir => continue,
            Component::Normal(name) => name,
            _ => return Err(io::Error::other(format!("{} is not written plainly", path.display()))),
        };
        so_far.push(name);
        at = openat(&at, name, DIRECTORY, Mode::empty()).map_err(|error| words(&so_far, error))?.into();
    }
    Ok(at)
}

impl Spot {
    /// The place of a path; its directory must be there.
    pub(super) fn of(path: &Path) -> io::Result<Spot> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other(format!("{} is no place for a file", path.display())));
        };
        Ok(Spot { dir: open_directory(parent)?, name: name.to_owned() })
    }

    /// What is there; `None` for nothing.
    pub(super) fn look(&self) -> io::Result<Option<Found>> {
        match openat(&self.dir, &self.name, LOOK, Mode::empty()) {
            Ok(opened) => Found::of(&opened.into()).map(Some),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(words(Path::new(&self.name), error)),
        }
    }

    /// Opens a regular file to read it.
    pub(super) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(&self.dir, &self.name, flags, Mode::empty());
        Ok(opened.map_err(|error| words(Path::new(&self.name), error))?.into())
    }
}

/// Why a file's content is not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// It was changed while it was read.
    #[error("it is being changed")]
    Changing,
    /// It is larger than may be.
    #[error("it is larger than max_file_size")]
    TooLarge,
    /// It is no regular file any more, or gone.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads a whole regular file that nobody changes meanwhile.
pub(super) fn read(path: &Path, most: u64) -> Result<(Found, Vec<u8>), Unread> {
    let opened = Spot::of(path)?.open()?;
    let before = Found::of(&opened)?;
    if before.kind != Kind::File {
        return Err(Unread::Io(io::Error::other("it is no regular file")));
    }
    if before.size > most {
        return Err(Unread::TooLarge);
    }
    let mut content = Vec::with_capacity(before.size as usize);
    (&opened).take(most + 1).read_to_end(&mut content)?;
    let after = Found::of(&opened)?;
    if after.outside != before.outside || content.len() as u64 != after.size {
        return Err(Unread::Changing);
    }
    Ok((after, content))
}

/// What a set is on this host.
#[derive(Default)]
pub(super) struct Scan {
    /// By path, which are those that the set names.
    pub found: std::collections::BTreeMap<String, Found>,
    /// What could not be looked at, and why: nothing is known of it nor of what lies below.
    pub unknown: Vec<(String, String)>,
    /// For each path of the configuration, what identifies the directory that it is or lies in.
    pub roots: Vec<Option<(u64, u64)>>,
    /// It holds more than it may: nothing follows from what is missing.
    pub cut_short: bool,
}

/// Looks through all that the set names. `entering` is called before a directory is read.
pub(super) fn scan(set: &SyncFiles, entering: &mut dyn FnMut(&Path)) -> Scan {
    let mut scan = Scan::default();
    for root in &set.paths {
        let known = scan_root(set, root, &mut scan, entering).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                scan.unknown.push((root.display().to_string(), error.to_string()));
            }
            None
        });
        scan.roots.push(known);
    }
    scan
}

fn scan_root(
    set: &SyncFiles,
    root: &Path,
    scan: &mut Scan,
    entering: &mut dyn FnMut(&Path),
) -> io::Result<Option<(u64, u64)>> {
    if let Some(parent) = root.parent() {
        entering(parent);
    }
    let spot = Spot::of(root)?;
    clear_leftovers(&spot.dir);
    let found = spot.look()?;
    let Some(found) = found else { return identity(&spot.dir).map(Some) };
    let is_directory = found.kind == Kind::Directory;
    let known = match is_directory {
        true => Some((found.outside.dev, found.outside.ino)),
        false => identity(&spot.dir).map(Some)?,
    };
    scan.found.insert(root.to_string_lossy().into_owned(), found);
    if is_directory {
        scan_directory(set, root, scan, entering);
    }
    Ok(known)
}

fn identity(dir: &File) -> io::Result<(u64, u64)> {
    let metadata = dir.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn scan_directory(set: &SyncFiles, path: &Path, scan: &mut Scan, entering: &mut dyn FnMut(&Path)) {
    entering(path);
    let listed = open_directory(path).and_then(|dir| {
        clear_leftovers(&dir);
        Ok((names(&dir)?, dir))
    });
    let (names, dir) = match listed {
        Ok(listed) => listed,
        Err(error) => return scan.unknown.push((path.display().to_string(), error.to_string())),
    };
    for name in names {
        let below = path.join(&name);
        let Some(text) = below.to_str() else {
            let shown = below.to_string_lossy().escape_default().to_string();
            scan.unknown.push((shown, "its name is no UTF-8".to_owned()));
            continue;
        };
        if text.chars().any(char::is_control) {
            scan.unknown.push((text.escape_default().to_string(), "its name does not print".to_owned()));
            continue;
        }
        if !set.names(text) {
            continue;
        }
        if scan.found.len() as u64 >= set.max_files {
            scan.cut_short = true;
            return;
        }
        let found = openat(&dir, &name, LOOK, Mode::empty()).map_err(io::Error::from);
        match found.and_then(|opened| Found::of(&opened.into())) {
            Ok(found) => {
                let is_directory = found.kind == Kind::Directory;
                scan.found.insert(text.to_owned(), found);
                if is_directory {
                    scan_directory(set, &below, scan, entering);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => scan.unknown.push((text.to_owned(), error.to_string())),
        }
    }
}

/// The names in a directory, in order.
fn names(dir: &File) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Takes away what a placing that was cut short left. Nobody else places at the same time.
fn clear_leftovers(dir: &File) {
    let Ok(names) = names(dir) else { return };
    for name in names.iter().filter(|name| name.as_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())) {
        let _ = unlinkat(dir, name, AtFlags::empty());
        let _ = unlinkat(dir, name, AtFlags::REMOVEDIR);
    }
}

/// Whether a link at `path` leads to something that the set names, however it is followed: links on its way are the
/// set's own, of which the same holds. `..` is taken at the beginning alone, where it cannot lead through a link.
pub(super) fn link_stays(set: &SyncFiles, path: &str, target: &str) -> bool {
    let within = |whole: &Path| whole.to_str().is_some_and(|whole| set.names(whole));
    if target.starts_with('/') {
        return within(Path::new(target));
    }
    let mut whole = Path::new(path).parent().map(Path::to_owned).unwrap_or_default();
    let mut rest = target;
    while let Some(after) = rest.strip_prefix("../") {
        whole.pop();
        rest = after;
        if !within(&whole) {
            return false;
        }
    }
    if rest == ".." {
        return whole.pop() && within(&whole);
    }
    within(&whole.join(rest))
}
