//! Hears from the kernel that something changed in the directories of the sets (inotify).
//!
//! It says only that a set is to be looked at: what changed is found by looking. So nothing is lost where several
//! changes come as one notice, or none could be given: an overflow has everything looked at.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// Bytes of notices that are read at once.
const BUFFER: usize = 16 * 1024;

/// In what a set wants to know of a directory: all names, or one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Interest {
    All,
    Name(OsString),
}

type Wanted = HashMap<i32, HashSet<(usize, Interest)>>;

/// The watch over all sets.
pub(super) struct Watcher {
    kernel: Arc<OwnedFd>,
    wanted: Arc<Mutex<Wanted>>,
}

/// A word of the kernel.
pub(super) enum Word {
    /// Something changed in this set.
    Changed(usize),
    /// Something was not told.
    Overflowed,
}

impl Watcher {
    /// Begins to hear; `tell` is called on a thread of its own.
    pub(super) fn start(tell: impl Fn(Word) + Send + 'static) -> std::io::Result<Watcher> {
        let kernel = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
        let wanted: Arc<Mutex<Wanted>> = Arc::default();
        let watcher = Watcher { kernel: kernel.clone(), wanted: wanted.clone() };
        std::thread::Builder::new().name("files-watch".into()).spawn(move || {
            let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
            let mut reader = Reader::new(&*kernel, &mut buffer);
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => {
                        tracing::error!(%error, "the kernel tells of no more changes of files");
                        return;
                    }
                };
                if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                    tell(Word::Overflowed);
                    continue;
                }
                let name = event
                    .file_name()
                    .map(|name| OsString::from(std::ffi::OsStr::from_bytes(name.to_bytes())));
                let all = name.is_none();
                let mut wanted = wanted.lock();
                let told: HashSet<usize> = wanted
                    .get(&event.wd())
                    .into_iter()
                    .flatten()
                    .filter(|(_, interest)| match interest {
                        Interest::All => true,
                        Interest::Name(wanted) => all || Some(wanted) == name.as_ref(),
                    })
                    .map(|(set, _)| *set)
                    .collect();
                if event.events().contains(ReadFlags::IGNORED) {
                    wanted.remove(&event.wd());
                }
                drop(wanted);
                for set in told {
                    tell(Word::Changed(set));
                }
            }
        })?;
        Ok(watcher)
    }

    /// Hears of a directory from now on, for this set.
    pub(super) fn add(&self, directory: &Path, set: usize, interest: Interest) -> std::io::Result<i32> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        let mut wanted = self.wanted.lock();
        let number = inotify::add_watch(&*self.kernel, directory, flags)?;
        wanted.entry(number).or_default().insert((set, interest));
        Ok(number)
    }

    /// Of this set, only these are still of interest.
    pub(super) fn keep_only(&self, set: usize, numbers: &HashSet<i32>) {
        let mut wanted = self.wanted.lock();
        wanted.retain(|number, interests| {
            if !numbers.contains(number) {
                interests.retain(|(of, _)| *of != set);
            }
            if interests.is_empty() {
                let _ = inotify::remove_watch(&*self.kernel, *number);
            }
            !interests.is_empty()
        });
    }
}
