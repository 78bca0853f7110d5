//! Files of the hosts that the log carries from the primary to the standby, in sets with a name.
//!
//! They lie in a table of their own beside the buckets. No request of S3 leads there: it cannot be listed, read, written,
//! counted against a quota or given to anybody. Their bytes are extents like those of objects, so that what wins
//! space back, scrubs, restores and encrypts does it for them too.
//!
//! Of a path the log says what is there, that it is gone, or nothing. Nothing never means gone: a member whose index
//! is being built anew must not take a file for deleted.
//!
//! This module decides nothing about the hosts' directories: which paths are looked at and written is the agent's.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use holdfast_heartbeat::types::{Epoch, Lsn};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::apply::{Outcome, Refusal};
use crate::backend::{Backend, ReadError, ReadLog, WriteError};
use crate::index::{Index, IndexError, Lookup, Tables, decode};
use crate::keys;
use crate::object::Encryption;
use crate::op::{BadOp, CHUNK_LEN, Extent, INLINE_MAX, Op, PutFile, Source};
use crate::s3::Receiving;
use crate::seal::{Opener, SALT, SealError, SealedRange, Sealer, StoreKeys};
use crate::state::FileState;

/// Whose a file is: users and groups need not have the same numbers on each host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The number on the primary.
    pub id: u32,
    /// The name there, where it has one.
    pub name: Option<String>,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// What it says.
        target: String,
    },
    /// Nothing any more.
    Gone,
}

/// What a file is besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTraits {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// The user.
    pub owner: Owner,
    /// The group.
    pub group: Owner,
    /// When its content was changed, in nanoseconds since 1970.
    pub modified_ns: i64,
}

impl FileTraits {
    /// Of a path at which nothing is any more.
    pub fn gone() -> FileTraits {
        let (owner, group) = (Owner::default(), Owner::default());
        FileTraits { kind: FileKind::Gone, mode: 0, owner, group, modified_ns: 0 }
    }
}

/// Why a file could not be read from the log or written to it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The log gives the bytes back no more.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The bytes cannot be encrypted, or opened with the keys of this member.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It is not in the log any more as it was: look again.
    #[error("the log says something else of it meanwhile")]
    Changed,
    /// The bytes are not those that were written down.
    #[error("its bytes do not have the checksum that they had on the primary")]
    Altered,
    /// The log did not take it, or nobody knows.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The operation was answered otherwise.
    #[error("the log does not take it: {0}")]
    Refused(Refusal),
    /// The operation cannot be written.
    #[error(transparent)]
    Op(#[from] BadOp),
    /// Never the answer to such an operation.
    #[error("an operation on files was answered with {0:?}")]
    Unexpected(Outcome),
}

/// The replicated files of this member's log. Reading works on every member that has it; writing where it leads.
#[derive(Clone)]
pub struct Files {
    /// The store's index.
    pub index: Index,
    /// Reads records back.
    pub log: Arc<dyn ReadLog>,
    /// Takes records.
    pub backend: Arc<dyn Backend>,
    /// With these, contents are encrypted in the log; with none they lie there as they are.
    pub keys: StoreKeys,
    /// What must not be given up while it is nobody's yet.
    pub receiving: Receiving,
}

impl Files {
    /// When the log last said something about any file; zero for never. Reads the index.
    pub fn changed_at(&self) -> Result<Lsn, IndexError> {
        self.index.view().number(keys::FILES_CHANGED).map(Lsn)
    }

    /// What the log says of the files of a set, in the order of paths. Reads the index.
    pub fn of_set(&self, set: &str) -> Result<Vec<(String, FileState)>, IndexError> {
        self.below(&keys::file(set, ""), |_, path, file| (path.to_owned(), file))
    }

    /// The sets of which the log says something, with how many paths of each are there. Reads the index.
    pub fn sets(&self) -> Result<Vec<(String, u64)>, IndexError> {
        let mut sets: Vec<(String, u64)> = Vec::new();
        for set in self.below(keys::FILES, |set, _, file| (set.to_owned(), file.traits.kind))? {
            if set.1 == FileKind::Gone {
                continue;
            }
            match sets.last_mut().filter(|last| last.0 == set.0) {
                Some(last) => last.1 += 1,
                None => sets.push((set.0, 1)),
            }
        }
        Ok(sets)
    }

    fn below<T>(
        &self,
        prefix: &[u8],
        make: impl Fn(&str, &str, FileState) -> T,
    ) -> Result<Vec<T>, IndexError> {
        let view = self.index.view();
        let end = keys::after_prefix(prefix);
        let mut found = Vec::new();
        for entry in view.scan(prefix, end.as_deref()) {
            let (key, value) = entry?;
            let malformed = || IndexError::Malformed { what: "key", key: key.escape_ascii().to_string() };
            let (set, path) = keys::parse_file(&key).ok_or_else(malformed)?;
            found.push(make(set, path, decode("file", &key, &value)?));
        }
        Ok(found)
    }

    /// What the log says of one file.
    pub fn file(&self, set: &str, path: &str) -> Result<Option<FileState>, IndexError> {
        self.index.view().file(set, path)
    }

    /// The content of the file as the operation at `id` put it there, all of it, verified. Waits for the disk.
    pub fn read(&self, set: &str, path: &str, id: Lsn) -> Result<Bytes, FileError> {
        let held = self.log.hold();
        let view = self.index.view().holding(held);
        let file = view.file(set, path)?.filter(|file| file.id == id).ok_or(FileError::Changed)?;
        let stored = file.layout.stored_len();
        let extents = view.cut_layout(&file.layout, 0, stored)?.ok_or(FileError::Altered)?;
        let mut bytes = BytesMut::with_capacity(stored as usize);
        for Extent { lsn, offset, len } in extents {
            bytes.extend_from_slice(&self.log.read_slice(lsn, offset, len)?);
        }
        let content = match &file.encryption {
            None => bytes.freeze(),
            Some(Encryption::Store { key, wrapped }) if file.size > 0 => {
                let key = self.keys.open(key, wrapped)?;
                let salt = bytes.split_to(bytes.len().min(SALT as usize));
                let range = SealedRange::new(0, file.size, file.size);
                Opener::new(&key, &salt, range).update(&bytes, true)?
            }
            Some(Encryption::Store { .. }) => Bytes::new(),
            Some(Encryption::Customer { .. }) => return Err(FileError::Seal(SealError::UnknownKey)),
        };
        let whole =
            content.len() as u64 == file.size && <[u8; 32]>::from(Sha256::digest(&content)) == file.sha256;
        if whole { Ok(content) } else { Err(FileError::Altered) }
    }

    /// Notes in the log what is at a path, in the reign `epoch`. Ends when every member of the in-sync set has it on
    /// its disk; gives the LSN by which it is known.
    ///
    /// # Errors
    /// `Write` with `NotPrimary` or `Failed` leaves open whether the log has it; after every other one it has not.
    pub async fn put(
        &self,
        epoch: Epoch,
        set: &str,
        path: &str,
        traits: FileTraits,
        content: Bytes,
        wall_ms: u64,
    ) -> Result<Lsn, FileError> {
        let (size, sha256) = (content.len() as u64, Sha256::digest(&content).into());
        let (encryption, stored) = match self.keys.new_object().filter(|_| size > 0) {
            None => (None, content),
            Some(made) => {
                let (key, encryption) = made?;
                let mut sealer = Sealer::new(&key)?;
                let mut sealed = BytesMut::new();
                sealer.update(&content, &mut sealed);
                sealer.finish(&mut sealed);
                (Some(encryption), sealed.freeze())
            }
        };
        let (mut extents, mut kept) = (Vec::new(), None);
        let inline = if stored.len() <= INLINE_MAX {
            stored
        } else {
            self.append(stored, &mut extents, &mut kept).await?
        };
        let source = if extents.is_empty() { Source::Inline } else { Source::Extents { epoch, extents } };
        let (set_name, path_name) = (set.to_owned(), path.to_owned());
        let op =
            PutFile { set: set_name, path: path_name, traits, size, sha256, encryption, source, wall_ms };
        self.commit(&Op::PutFile(Box::new(op)), inline).await?;
        drop(kept);
        Ok(self.file(set, path)?.ok_or(FileError::Changed)?.id)
    }

    /// Appends content that is too large for one record; nothing of it is left to be inline.
    async fn append(
        &self,
        mut stored: Bytes,
        extents: &mut Vec<Extent>,
        kept: &mut Option<crate::s3::Kept>,
    ) -> Result<Bytes, FileError> {
        while !stored.is_empty() {
            let chunk = stored.split_to(stored.len().min(CHUNK_LEN));
            let len = chunk.len() as u32;
            let (lsn, _) = self.backend.append(chunk).await?;
            kept.get_or_insert_with(|| self.receiving.begin(lsn));
            extents.push(Extent { lsn, offset: 0, len });
        }
        Ok(Bytes::new())
    }

    /// Has the log say nothing any more of these paths. On the hosts nothing changes by it.
    pub async fn forget(&self, set: &str, paths: Vec<String>) -> Result<(), FileError> {
        self.commit(&Op::ForgetFiles { set: set.to_owned(), paths }, Bytes::new()).await
    }

    async fn commit(&self, op: &Op, inline: Bytes) -> Result<(), FileError> {
        match self.backend.commit(op.encode(inline)?).await? {
            Outcome::Changed => Ok(()),
            Outcome::Refused(refusal) => Err(FileError::Refused(refusal)),
            other => Err(FileError::Unexpected(other)),
        }
    }
}
