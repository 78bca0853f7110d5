//! A disk in memory that fails on demand: for this crate's tests and for the simulator.
//!
//! It models what a file system owes after a power cut: synced bytes and synced names survive; of
//! the rest, each write may be kept, lost or kept in part, in any combination, and a prefix of the
//! directory's changes survives. It never keeps less than was synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile};

/// Writes are torn at this granularity, in bytes: what drives promise at least.
const SECTOR: u64 = 512;

/// A small deterministic generator (splitmix64), so that a crash replays from its seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

#[derive(Clone, Debug)]
enum DataChange {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl DataChange {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            DataChange::Write(offset, data) => write_into(bytes, *offset, data),
            DataChange::Truncate(len) => bytes.resize(*len as usize, 0),
        }
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(data);
}

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<DataChange>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Unlink(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
    fn dir(&self) -> &str {
        match self {
            NameChange::Link(name, _) | NameChange::Unlink(name) | NameChange::Rename(name, _) => {
                name.rsplit_once('/').map_or("", |(dir, _)| dir)
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    capacity: Option<u64>,
    fail_syncs: u64,
    fail_reads: u64,
    misdirect_reads: u64,
    syncs: u64,
    /// Counts down with each change; the change that finds zero does not happen, nor any later.
    steps_left: Option<u64>,
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().filter_map(|i| self.inodes.get(i)).map(|i| i.now.len() as u64).sum()
    }

    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("killed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

/// A disk in memory. Clones share the same content; handles from before a [`MemDisk::crash`] are dead.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
    generation: u64,
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

fn no_space() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl MemDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }

    fn live(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the disk was power-cycled"));
        }
        Ok(state)
    }

    /// The next `count` calls of `sync_data` fail, and sync nothing.
    pub fn fail_syncs(&self, count: u64) {
        self.lock().fail_syncs = count;
    }

    /// The next `count` reads fail.
    pub fn fail_reads(&self, count: u64) {
        self.lock().fail_reads = count;
    }

    /// The files together may hold `bytes` bytes; a write beyond is cut there and fails with
    /// `StorageFull`. `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// How many `sync_data` calls succeeded so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Lets `changes` more changes (writes, cuts, creations, syncs...) happen, then fails every one:
    /// together with [`MemDisk::kill`] or [`MemDisk::crash`] this stops a process at any step.
    pub fn stop_after(&self, changes: Option<u64>) {
        self.lock().steps_left = changes;
    }

    /// Whether the changes that [`MemDisk::stop_after`] allowed are used up.
    pub fn is_stopped(&self) -> bool {
        self.lock().steps_left == Some(0)
    }

    /// The next `count` reads give back other bytes of the same file than those asked for, if it has
    /// any: what a drive does whose head went astray.
    pub fn misdirect_reads(&self, count: u64) {
        self.lock().misdirect_reads = count;
    }

    /// Flips one bit of the file, durably: what a failing disk does.
    pub fn flip_bit(&self, name: &str, bit: u64) {
        let mut state = self.lock();
        let inode = state.names[name];
        let inode = state.inodes.get_mut(&inode).expect("named inodes exist");
        let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        inode.now[byte] ^= mask;
        if byte < inode.synced.len() {
            inode.synced[byte] ^= mask;
        }
    }

    /// The current content of every file.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[inode].now.clone())).collect()
    }

    /// The process is killed, the machine stays up: everything written is kept, handles die and
    /// faults are lifted. Returns the disk as the next process finds it.
    #[must_use]
    pub fn kill(&self) -> MemDisk {
        let mut state = self.lock();
        state.generation += 1;
        state.steps_left = None;
        state.fail_syncs = 0;
        state.fail_reads = 0;
        state.misdirect_reads = 0;
        let generation = state.generation;
        drop(state);
        MemDisk { state: self.state.clone(), generation }
    }

    /// The power goes: of what was not synced, `seed` decides what is kept, lost or torn. Returns
    /// the disk as the next boot finds it.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemDisk {
        let mut dice = Dice(seed);
        let mut state = self.lock();
        let State { inodes, names, synced_names, unsynced_names, .. } = &mut *state;
        let kept = dice.below(unsynced_names.len() as u64 + 1) as usize;
        for change in unsynced_names.drain(..).take(kept) {
            change.apply(synced_names);
        }
        *names = synced_names.clone();
        let linked: std::collections::BTreeSet<u64> = names.values().copied().collect();
        inodes.retain(|inode, _| linked.contains(inode));
        for inode in inodes.values_mut() {
            for change in inode.unsynced.drain(..) {
                match (dice.below(3), &change) {
                    (0, _) => {}
                    (1, DataChange::Write(offset, data)) if !data.is_empty() => {
                        // Torn at a sector boundary of the file, as the drive sees it.
                        let cut = offset + dice.below(data.len() as u64 + 1);
                        let cut = (cut / SECTOR * SECTOR).max(*offset);
                        write_into(&mut inode.synced, *offset, &data[..(cut - offset) as usize]);
                    }
                    _ => change.apply(&mut inode.synced),
                }
            }
            inode.now = inode.synced.clone();
        }
        drop(state);
        self.kill()
    }
}

struct MemFile {
    disk: MemDisk,
    inode: u64,
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.live()?;
        if state.fail_reads > 0 {
            state.fail_reads -= 1;
            return Err(io::Error::other("read failed on demand"));
        }
        let astray = state.misdirect_reads > 0;
        if astray {
            state.misdirect_reads -= 1;
        }
        let Some(inode) = state.inodes.get(&self.inode) else { return Ok(0) };
        let mut from = inode.now.len().min(offset as usize);
        if astray && inode.now.len() - from >= buf.len() {
            let elsewhere = inode.now.len() - buf.len();
            from = if from >= SECTOR as usize {
                from - SECTOR as usize
            } else {
                elsewhere.min(from + SECTOR as usize)
            };
        }
        let len = buf.len().min(inode.now.len() - from);
        buf[..len].copy_from_slice(&inode.now[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.live()?;
        state.step()?;
        let room = state.capacity.map(|capacity| capacity.saturating_sub(state.used()));
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(not_found("(removed)")) };
        let growth = (offset + data.len() as u64).saturating_sub(inode.now.len() as u64);
        let missing = room.map_or(0, |room| growth.saturating_sub(room));
        let fits = data.len() - (missing as usize).min(data.len());
        let change = DataChange::Write(offset, data[..fits].to_vec());
        change.apply(&mut inode.now);
        inode.unsynced.push(change);
        if missing > 0 { Err(no_space()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.live()?;
        state.step()?;
        if state.fail_syncs > 0 {
            state.fail_syncs -= 1;
            return Err(io::Error::other("sync failed on demand"));
        }
        state.syncs += 1;
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            let Inode { synced, unsynced, .. } = inode;
            for change in unsynced.drain(..) {
                change.apply(synced);
            }
        }
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.live()?;
        state.step()?;
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(not_found("(removed)")) };
        let change = DataChange::Truncate(len);
        change.apply(&mut inode.now);
        inode.unsynced.push(change);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.live()?;
        Ok(state.inodes.get(&self.inode).map_or(0, |inode| inode.now.len() as u64))
    }
}

impl Disk for MemDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.live()?;
        state.step()?;
        let inode = match state.names.get(name) {
            Some(inode) => {
                let inode = *inode;
                let content = state.inodes.get_mut(&inode).expect("named inodes exist");
                content.now.clear();
                content.unsynced.push(DataChange::Truncate(0));
                inode
            }
            None => {
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                let change = NameChange::Link(name.to_owned(), inode);
                change.apply(&mut state.names);
                state.unsynced_names.push(change);
                inode
            }
        };
        drop(state);
        Ok(Arc::new(MemFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = *self.live()?.names.get(name).ok_or_else(|| not_found(name))?;
        Ok(Arc::new(MemFile { disk: self.clone(), inode }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.live()?;
        let in_dir = |name: &String| match name.rsplit_once('/') {
            Some((d, file)) => (d == dir).then(|| file.to_owned()),
            None => dir.is_empty().then(|| name.clone()),
        };
        Ok(state.names.keys().filter_map(in_dir).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.live()?;
        state.step()?;
        if !state.names.contains_key(name) {
            return Err(not_found(name));
        }
        let change = NameChange::Unlink(name.to_owned());
        change.apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.live()?;
        state.step()?;
        if !state.names.contains_key(from) {
            return Err(not_found(from));
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        change.apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.live()?;
        state.step()?;
        let (now, later) =
            std::mem::take(&mut state.unsynced_names).into_iter().partition(|change| change.dir() == dir);
        state.unsynced_names = later;
        let changes: Vec<NameChange> = now;
        for change in changes {
            change.apply(&mut state.synced_names);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_bytes_survive_every_crash_and_others_may_not() {
        let mut lost = 0;
        for seed in 0..100 {
            let disk = MemDisk::new();
            let file = disk.create("a").unwrap();
            file.write_at(&[1; 1000], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(&[2; 2000], 1000).unwrap();
            let after = disk.crash(seed);
            assert!(file.write_at(b"x", 0).is_err(), "old handles are dead");
            let bytes = &after.files()["a"];
            assert_eq!(&bytes[..1000], &[1; 1000]);
            lost += u64::from(bytes.len() < 3000);
        }
        assert!((20..100).contains(&lost));
    }

    #[test]
    fn a_full_disk_writes_what_fits_and_says_so() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        disk.set_capacity(Some(10));
        let error = file.write_at(&[1; 15], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.size().unwrap(), 10);
    }
}
