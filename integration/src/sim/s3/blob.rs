//! The bodies that clients write: each tells by itself which write it comes from.
//!
//! A body is a function of one number, which stands in its first eight bytes and has the body's length in
//! its lowest bits. Whoever reads a body knows what was written, and sees any byte that is not as it was
//! written. An object that was joined of parts is a sequence of such bodies.

use std::fmt;

use bytes::Bytes;
use holdfast_replication::testing::Dice;
use holdfast_store::object::Etag;
use md5::{Digest, Md5};

/// The shortest body, in bytes: the number that it begins with.
pub const LEN_MIN: u64 = 8;

/// The longest body, in bytes: the number has 16 bits for it.
pub const LEN_MAX: u64 = 0xffff;

/// One body that a client made up; no two clients ever make up the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blob(u64);

impl Blob {
    /// The `number`th body of all, of `len` bytes (kept within [`LEN_MIN`] and [`LEN_MAX`]).
    pub fn new(number: u64, len: u64) -> Blob {
        Blob((number << 16) | len.clamp(LEN_MIN, LEN_MAX))
    }

    /// Its bytes' number.
    pub fn len(self) -> u64 {
        self.0 & LEN_MAX
    }

    /// Never: there are eight bytes at least.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Its bytes.
    pub fn bytes(self) -> Bytes {
        let len = self.len() as usize;
        let mut bytes = Vec::with_capacity(len + 8);
        bytes.extend_from_slice(&self.0.to_le_bytes());
        let mut dice = Dice(self.0);
        while bytes.len() < len {
            bytes.extend_from_slice(&dice.roll().to_le_bytes());
        }
        bytes.truncate(len);
        Bytes::from(bytes)
    }

    /// The entity tag of an object that is this body.
    pub fn etag(self) -> Etag {
        Etag { md5: Md5::digest(self.bytes()).into(), parts: 0 }
    }

    /// The entity tag of an object that was joined of `parts`.
    pub fn joined_etag(parts: impl IntoIterator<Item = Blob>) -> Etag {
        let (mut md5, mut count) = (Md5::new(), 0);
        for part in parts {
            md5.update(part.etag().md5);
            count += 1;
        }
        Etag { md5: md5.finalize().into(), parts: count }
    }

    /// The bodies that follow one another in `bytes`, or where they are not as any client wrote them.
    pub fn parse(bytes: &[u8]) -> Result<Vec<Blob>, Torn> {
        let (mut blobs, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let head = bytes[at..].first_chunk::<8>().ok_or(Torn { at })?;
            let blob = Blob(u64::from_le_bytes(*head));
            let len = blob.len() as usize;
            let body = bytes.get(at..at + len.max(8)).ok_or(Torn { at })?;
            let whole = blob.bytes();
            if let Some(off) = whole.iter().zip(body).position(|(a, b)| a != b) {
                return Err(Torn { at: at + off });
            }
            if (len as u64) < LEN_MIN {
                return Err(Torn { at });
            }
            blobs.push(blob);
            at += len;
        }
        Ok(blobs)
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}({} B)", self.0 >> 16, self.len())
    }
}

/// Bytes that nobody wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes from {at} on are not what any client wrote")]
pub struct Torn {
    /// The offset of the first wrong byte, or of the body that ends early.
    pub at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_what_it_is() {
        let (a, b) = (Blob::new(7, 100), Blob::new(8, 8));
        assert_eq!(Blob::parse(&a.bytes()), Ok(vec![a]));
        assert_eq!(Blob::parse(&[a.bytes(), b.bytes()].concat()), Ok(vec![a, b]));
        assert_eq!(a.bytes().len() as u64, a.len());
        assert_ne!(a.etag(), b.etag());
        assert_eq!(Blob::joined_etag([a]).parts, 1);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let body = Blob::new(7, 60).bytes();
        for at in 0..body.len() {
            let mut bytes = body.to_vec();
            bytes[at] ^= 1;
            // A changed number is another body, which nobody wrote: its other bytes tell.
            assert!(Blob::parse(&bytes).is_err(), "{at}");
            assert!(at == 0 || Blob::parse(&body[..at]).is_err(), "{at}");
        }
        let (a, b) = (Blob::new(1, 64).bytes(), Blob::new(2, 64).bytes());
        let mixed = [&a[..32], &b[32..]].concat();
        assert_eq!(Blob::parse(&mixed), Err(Torn { at: 32 }));
    }
}
