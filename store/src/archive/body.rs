//! The bytes of an object of an archive.

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_heartbeat::types::Lsn;
use holdfast_replication::LogReader;
use md5::{Digest, Md5};

use super::{Archive, Found, Missing, Own, cut, lost};
use crate::backend::{Held, ReadError};
use crate::checksum::{Checksum, ChecksumPlan};
use crate::object::{Encryption, Etag, Traits};
use crate::seal::{Key, Opener, SALT, SealError, SealedRange, StoreKeys};

/// A part of an object's bytes that was stored by itself.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The part's number; zero for an object that was stored whole.
    pub number: u16,
    /// Bytes, as the client sees them.
    pub size: u64,
    /// Their MD5, where it is known.
    pub md5: Option<[u8; 16]>,
    /// Their checksums.
    pub checksums: Vec<Checksum>,
    pub(super) found: Vec<Found>,
}

/// An object of an archive, every byte of which has its place.
#[derive(Clone, Debug)]
pub struct Body {
    /// Where the operation that stores it begins.
    pub id: Lsn,
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// What comes with it.
    pub traits: Traits,
    /// Its bytes, as clients see them.
    pub size: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// Its checksums.
    pub checksums: Vec<Checksum>,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Whether it was made of parts.
    pub of_parts: bool,
    /// The checksum that its parts and it have, where the upload asked for one.
    pub plan: Option<ChecksumPlan>,
    /// Its bytes, in their order: at least one piece, unless it was made of parts.
    pub pieces: Vec<Piece>,
}

/// An object whose bytes can be read, for as long as this lives.
#[derive(Clone)]
pub struct Opened {
    /// What it is.
    pub body: Body,
    archive: Archive,
    log: LogReader,
    held: Option<Held>,
    key: Option<Key>,
}

impl Opened {
    pub(super) fn new(body: Body, archive: &Archive, own: &Own, keys: &StoreKeys) -> Result<Opened, Missing> {
        let key = match &body.traits.encryption {
            None => None,
            Some(Encryption::Customer { .. }) => {
                return lost("it is encrypted with a key that only its client has");
            }
            Some(Encryption::Store { key, wrapped }) => match keys.open(key, wrapped) {
                Ok(key) => Some(key),
                Err(error @ SealError::UnknownKey) => {
                    return lost(format!("{error}; add it to encryption_key_file"));
                }
                Err(error) => return lost(error.to_string()),
            },
        };
        Ok(Opened { body, archive: archive.clone(), log: own.log.clone(), held: own.view.held(), key })
    }

    /// Bytes `start..start + len` of the object; `None` where it has not that many.
    pub fn bytes(&self, start: u64, len: u64) -> Option<Bytewise> {
        if start.checked_add(len)? > self.body.size {
            return None;
        }
        let mut segments = VecDeque::new();
        let (mut skip, mut take) = (start, len);
        for piece in &self.body.pieces {
            if skip >= piece.size {
                skip -= piece.size;
                continue;
            }
            let here = (piece.size - skip).min(take);
            if here == 0 {
                break;
            }
            segments.push_back(self.segment(piece, skip, here)?);
            (skip, take) = (0, take - here);
        }
        (take == 0).then(|| self.reading(segments))
    }

    /// All bytes of one piece.
    pub fn piece(&self, number: usize) -> Option<Bytewise> {
        let piece = self.body.pieces.get(number)?;
        let segments = match piece.size {
            0 => VecDeque::new(),
            size => VecDeque::from([self.segment(piece, 0, size)?]),
        };
        Some(self.reading(segments))
    }

    /// Reads a piece through; its MD5, which is the one that was noted where one was.
    pub fn digest(&self, number: usize) -> Result<[u8; 16], ReadError> {
        let gone = || ReadError::Damaged("there is no such piece".to_owned());
        let piece = self.body.pieces.get(number).ok_or_else(gone)?;
        let (mut md5, mut len) = (Md5::new(), 0);
        for bytes in self.piece(number).ok_or_else(gone)? {
            let bytes = bytes?;
            len += bytes.len() as u64;
            md5.update(&bytes);
        }
        let md5: [u8; 16] = md5.finalize().into();
        if len != piece.size || piece.md5.is_some_and(|noted| noted != md5) {
            return Err(ReadError::Damaged("its bytes are not those of its entity tag".to_owned()));
        }
        Ok(md5)
    }

    fn reading(&self, segments: VecDeque<Segment>) -> Bytewise {
        Bytewise {
            segments,
            archive: self.archive.clone(),
            log: self.log.clone(),
            _held: self.held.clone(),
            failed: false,
        }
    }

    fn segment(&self, piece: &Piece, start: u64, len: u64) -> Option<Segment> {
        let Some(key) = &self.key else {
            return Some(Segment {
                sealed: None,
                opener: None,
                found: cut(&piece.found, start, len)?.into(),
            });
        };
        let range = SealedRange::new(start, len, piece.size);
        let salt = cut(&piece.found, 0, SALT)?;
        let found = cut(&piece.found, range.start, range.len)?.into();
        Some(Segment { sealed: Some((key.clone(), salt, range)), opener: None, found })
    }
}

/// Places of bytes that belong to one piece, with what opens them.
struct Segment {
    sealed: Option<(Key, Vec<Found>, SealedRange)>,
    opener: Option<Opener>,
    found: VecDeque<Found>,
}

/// Bytes of an object, record by record, each verified: to be read where waiting for the disk is allowed. Ends after an
/// error.
pub struct Bytewise {
    segments: VecDeque<Segment>,
    archive: Archive,
    log: LogReader,
    _held: Option<Held>,
    failed: bool,
}

impl Bytewise {
    fn read(&self, place: &Found) -> Result<Bytes, ReadError> {
        let extent = place.extent();
        let read = match place {
            Found::Here(_) => self.archive.reader.read_slice(extent.lsn, extent.offset, extent.len),
            Found::There(_) => self.log.read_slice(extent.lsn, extent.offset, extent.len),
        };
        read.map_err(|error| ReadError::Damaged(error.to_string()))
    }

    fn step(&mut self) -> Option<Result<Bytes, ReadError>> {
        loop {
            let mut segment = self.segments.pop_front()?;
            if let Some((key, salt, range)) = segment.sealed.take() {
                let salt: Result<Vec<Bytes>, _> = salt.iter().map(|place| self.read(place)).collect();
                match salt {
                    Ok(salt) => segment.opener = Some(Opener::new(&key, &salt.concat(), range)),
                    Err(error) => return Some(Err(error)),
                }
            }
            let Some(place) = segment.found.pop_front() else { continue };
            let read = self.read(&place).and_then(|bytes| match &mut segment.opener {
                None => Ok(bytes),
                Some(opener) => opener
                    .update(&bytes, segment.found.is_empty())
                    .map_err(|error| ReadError::Damaged(error.to_string())),
            });
            self.segments.push_front(segment);
            match read {
                Ok(bytes) if bytes.is_empty() => {}
                read => return Some(read),
            }
        }
    }
}

impl Iterator for Bytewise {
    type Item = Result<Bytes, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = matches!(step, Some(Err(_)));
        step
    }
}
