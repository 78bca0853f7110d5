//! Where the log's bytes live: named files in one directory, and one level of directories below it.
//!
//! The log never touches the file system except through [`Disk`], so that a simulator can lose
//! un-synced bytes, fill the disk and fail a sync at will. Nothing here decides anything; what is
//! durable is exactly what was followed by a `sync_data` of the file and a `sync_dir` of its directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file. Readers share it with the writer, hence `&self` everywhere.
pub trait DiskFile: Send + Sync + 'static {
    /// Fills `buf` from `offset`; fewer bytes come back only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The `len` bytes from `offset` on; fewer only at the end of the file.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let got = self.read_at(&mut bytes, offset)?;
        bytes.truncate(got);
        Ok(bytes)
    }
    /// The file as the kernel has it, for what the kernel itself can do with it; `None` where it has none.
    fn kernel_file(&self) -> Option<Arc<File>> {
        None
    }
    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file's bytes and its length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts (or extends with zeros) to `len` bytes; durable only after `sync_data`.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A directory of files. Names are relative and use `/` for the one level of directories.
pub trait Disk: Send + Sync + 'static {
    /// Creates `name`, or empties it if it is there. The name is durable only after `sync_dir`.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens `name` for reading and writing; `NotFound` if it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of the files directly in `dir` (`""` is the root), sorted, without the directory.
    /// A directory that does not exist is empty.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Removes `name`.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames within one directory, replacing what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, removals and renames in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
}

impl<T: Disk + ?Sized> Disk for Arc<T> {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        (**self).create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        (**self).open(name)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        (**self).list(dir)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        (**self).sync_dir(dir)
    }
}

/// Reads the whole of a small file.
pub(crate) fn read_all(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let len = file.size()?.min(limit);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// A real directory, locked against a second user for as long as this value lives: for a log that
/// is until its last [`crate::LogReader`] is gone too.
#[derive(Debug)]
pub struct FileDisk {
    root: PathBuf,
    /// Held, never read: the kernel releases the lock when the process ends, however it ends.
    _lock: File,
}

/// The file whose lock keeps a second agent out of the directory.
const LOCK_NAME: &str = "lock";

impl FileDisk {
    /// Opens (and makes, if need be) the directory `root`. Fails with `WouldBlock` when another
    /// process has it open.
    pub fn open(root: impl AsRef<Path>) -> io::Result<FileDisk> {
        let root = root.as_ref().to_path_buf();
        fs::create_dir_all(&root)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(LOCK_NAME))?;
        lock.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is in use, by another process or by a reader that still lives", root.display()),
            ),
            fs::TryLockError::Error(e) => e,
        })?;
        Ok(FileDisk { root, _lock: lock })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

#[derive(Debug)]
struct RealFile(Arc<File>);

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
    /// Into memory as it is, which need not be zeroed first.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&*self.0, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // The allocator may have given more room than was asked for.
        bytes.truncate(len);
        Ok(bytes)
    }
    fn kernel_file(&self) -> Option<Arc<File>> {
        Some(Arc::clone(&self.0))
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl Disk for FileDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.root.join(name);
        if let Some(dir) = path.parent().filter(|d| !d.exists()) {
            fs::create_dir_all(dir)?;
            File::open(&self.root)?.sync_all()?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(RealFile(Arc::new(file))))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.root.join(name))?;
        Ok(Arc::new(RealFile(Arc::new(file))))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(dir)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is not one of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_kept_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = FileDisk::open(dir.path()).unwrap();
        assert_eq!(FileDisk::open(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        FileDisk::open(dir.path()).unwrap();
    }

    #[test]
    fn files_are_written_read_cut_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path()).unwrap();
        let file = disk.create("sub/a").unwrap();
        file.write_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        file.truncate(6).unwrap();
        assert_eq!(read_all(&*disk.open("sub/a").unwrap(), 100).unwrap(), b"\0\0\0hel");
        disk.rename("sub/a", "sub/b").unwrap();
        disk.sync_dir("sub").unwrap();
        assert_eq!(disk.list("sub").unwrap(), ["b"]);
        disk.remove("sub/b").unwrap();
        assert!(disk.list("sub").unwrap().is_empty());
        assert!(disk.list("nowhere").unwrap().is_empty());
    }
}
