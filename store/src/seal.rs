//! How stored bytes are encrypted: in chunks, so that a range can be read without the rest.
//!
//! ```text
//!   sealed   salt (32)   chunk 0 (65536 + tag 16)   chunk 1   ...   last chunk (1..=65536 + tag 16)
//! ```
//!
//! Each body (an object that was put whole, or a part) is sealed under a key of its own, which is
//! HMAC-SHA256 of its random salt under the object's key; so a number, the chunk's, is enough of a nonce,
//! and a part that is uploaded again never meets the nonces of before. The object's key is random and is
//! kept only wrapped: under a key of the store's key file, or under the key that the client sent. The
//! cipher is AES-256-GCM for both.
//!
//! Invariant: nothing comes out of [`Opener`] that was not put into [`Sealer`] at the same place of the same body.

use bytes::{Bytes, BytesMut};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::object::Encryption;

/// Bytes of a chunk in the clear.
pub const CHUNK: u64 = 64 * 1024;

/// What a sealed chunk is longer by.
const TAG: u64 = 16;

/// Bytes in front of the first chunk.
pub const SALT: u64 = 32;

/// Bytes of every key.
pub const KEY: usize = 32;

/// Why bytes cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is not the one that they were sealed with, or they were changed.
    #[error("the bytes do not open with this key")]
    Refused,
    /// No key of that fingerprint is in the key file.
    #[error("the key file has not the key that the object was encrypted with")]
    UnknownKey,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// Bytes that a body of `len` bytes takes when it is sealed.
pub fn sealed_len(len: u64) -> u64 {
    if len == 0 { 0 } else { SALT + len + TAG * len.div_ceil(CHUNK) }
}

/// A secret key; wiped when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY]>);

impl Key {
    /// A key of these bytes.
    pub fn new(bytes: [u8; KEY]) -> Key {
        Key(Zeroizing::new(bytes))
    }

    /// A new one.
    pub fn random() -> Result<Key, SealError> {
        let mut bytes = Zeroizing::new([0; KEY]);
        getrandom::fill(&mut *bytes).map_err(|_| SealError::NoRandom)?;
        Ok(Key(bytes))
    }

    /// Says which key it is without saying what it is.
    pub fn fingerprint(&self) -> [u8; 8] {
        let mut hash = Sha256::new();
        hash.update(b"holdfast store key");
        hash.update(*self.0);
        let hash: [u8; 32] = hash.finalize().into();
        std::array::from_fn(|at| hash[at])
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0).expect("the key has the cipher's length");
        LessSafeKey::new(key)
    }

    /// Wraps an object's key: nonce, ciphertext and tag, 60 bytes.
    fn wrap(&self, key: &Key) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandom)?;
        let mut wrapped = nonce.to_vec();
        let mut bytes = key.0.to_vec();
        let tag = self
            .cipher()
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(b"object key"),
                &mut bytes,
            )
            .map_err(|_| SealError::Refused)?;
        wrapped.extend_from_slice(&bytes);
        wrapped.extend_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Key, SealError> {
        let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Refused)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.cipher().open_in_place(nonce, Aad::from(b"object key"), &mut sealed);
        let opened: [u8; KEY] =
            opened.map_err(|_| SealError::Refused)?.as_ref().try_into().map_err(|_| SealError::Refused)?;
        Ok(Key::new(opened))
    }
}

/// The keys of the store's key file. The first one encrypts; the others only open what was encrypted
/// with them.
#[derive(Clone, Default)]
pub struct StoreKeys(Vec<Key>);

impl std::fmt::Debug for StoreKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| hex::encode(key.fingerprint()))).finish()
    }
}

impl StoreKeys {
    /// The keys in this order; with none, nothing can be encrypted by the store.
    pub fn new(keys: Vec<Key>) -> StoreKeys {
        StoreKeys(keys)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A new key for an object, and how it is kept. `None` where the file has no key.
    pub fn new_object(&self) -> Option<Result<(Key, Encryption), SealError>> {
        let first = self.0.first()?;
        Some(Key::random().and_then(|key| {
            let wrapped = first.wrap(&key)?;
            Ok((key, Encryption::Store { key: first.fingerprint(), wrapped }))
        }))
    }

    /// The key of an object that the store encrypted.
    pub fn open(&self, fingerprint: &[u8; 8], wrapped: &[u8]) -> Result<Key, SealError> {
        let key = self.0.iter().find(|key| key.fingerprint() == *fingerprint).ok_or(SealError::UnknownKey)?;
        key.unwrap(wrapped)
    }
}

/// A key that a client sent with a request, and the MD5 that shows it.
#[derive(Clone)]
pub struct CustomerKey {
    /// The key.
    pub key: Key,
    /// Its MD5.
    pub md5: [u8; 16],
}

impl CustomerKey {
    /// A new key for an object, and how it is kept.
    pub fn new_object(&self) -> Result<(Key, Encryption), SealError> {
        let key = Key::random()?;
        let wrapped = self.key.wrap(&key)?;
        Ok((key, Encryption::Customer { md5: self.md5, wrapped }))
    }

    /// The key of an object that was encrypted with this one.
    pub fn open(&self, md5: &[u8; 16], wrapped: &[u8]) -> Result<Key, SealError> {
        if self.md5 != *md5 {
            return Err(SealError::Refused);
        }
        self.key.unwrap(wrapped)
    }
}

fn body_cipher(key: &Key, salt: &[u8]) -> LessSafeKey {
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*key.0), salt);
    let key =
        UnboundKey::new(&AES_256_GCM, derived.as_ref()).expect("the derived key has the cipher's length");
    LessSafeKey::new(key)
}

fn nonce_of(chunk: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&chunk.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Seals one body while it passes.
pub struct Sealer {
    cipher: LessSafeKey,
    chunk: u64,
    salt: Option<[u8; SALT as usize]>,
    filling: BytesMut,
}

impl Sealer {
    /// A body under the object's key.
    pub fn new(key: &Key) -> Result<Sealer, SealError> {
        let mut salt = [0; SALT as usize];
        getrandom::fill(&mut salt).map_err(|_| SealError::NoRandom)?;
        Ok(Sealer { cipher: body_cipher(key, &salt), chunk: 0, salt: Some(salt), filling: BytesMut::new() })
    }

    /// Takes bytes in and gives out what is sealed of them: whole chunks only.
    pub fn update(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            let taken = bytes.len().min(CHUNK as usize - self.filling.len());
            self.filling.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.filling.len() == CHUNK as usize {
                self.seal(out);
            }
        }
    }

    /// Gives out the rest.
    pub fn finish(mut self, out: &mut BytesMut) {
        if !self.filling.is_empty() {
            self.seal(out);
        }
    }

    fn seal(&mut self, out: &mut BytesMut) {
        if let Some(salt) = self.salt.take() {
            out.extend_from_slice(&salt);
        }
        let sealed =
            self.cipher.seal_in_place_separate_tag(nonce_of(self.chunk), Aad::empty(), &mut self.filling);
        let tag = sealed.expect("a chunk is far shorter than the cipher's limit");
        out.extend_from_slice(&self.filling);
        out.extend_from_slice(tag.as_ref());
        self.filling.clear();
        self.chunk += 1;
    }
}

/// Which sealed bytes hold a range of a body, the salt aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedRange {
    /// First sealed byte, that of a chunk.
    pub start: u64,
    /// Sealed bytes, of whole chunks.
    pub len: u64,
    /// The number of the first chunk.
    chunk: u64,
    /// Bytes to pass over in what comes out.
    skip: u64,
    /// Bytes to give out.
    take: u64,
}

impl SealedRange {
    /// For bytes `start..start + len` of a body of `size` bytes, of which they must be a part.
    pub fn new(start: u64, len: u64, size: u64) -> SealedRange {
        if len == 0 {
            return SealedRange { start: SALT, len: 0, chunk: 0, skip: 0, take: 0 };
        }
        let first = start / CHUNK;
        let after = (start + len).div_ceil(CHUNK);
        let sealed_start = SALT + first * (CHUNK + TAG);
        let sealed_end = (SALT + after * (CHUNK + TAG)).min(sealed_len(size));
        SealedRange {
            start: sealed_start,
            len: sealed_end - sealed_start,
            chunk: first,
            skip: start - first * CHUNK,
            take: len,
        }
    }
}

/// Opens a range of a body while its sealed bytes pass.
pub struct Opener {
    cipher: LessSafeKey,
    chunk: u64,
    skip: u64,
    take: u64,
    filling: BytesMut,
}

impl Opener {
    /// For a range of the body that begins with `salt`, under the object's key.
    pub fn new(key: &Key, salt: &[u8], range: SealedRange) -> Opener {
        Opener {
            cipher: body_cipher(key, salt),
            chunk: range.chunk,
            skip: range.skip,
            take: range.take,
            filling: BytesMut::new(),
        }
    }

    /// Takes sealed bytes in and gives out what is in them. `last`: nothing follows.
    pub fn update(&mut self, bytes: &[u8], last: bool) -> Result<Bytes, SealError> {
        self.filling.extend_from_slice(bytes);
        let whole = (CHUNK + TAG) as usize;
        let mut out = BytesMut::new();
        while self.filling.len() >= whole || (last && !self.filling.is_empty()) {
            let len = self.filling.len().min(whole);
            let mut chunk = self.filling.split_to(len);
            let opened = self.cipher.open_in_place(nonce_of(self.chunk), Aad::empty(), &mut chunk);
            let opened = opened.map_err(|_| SealError::Refused)?;
            self.chunk += 1;
            let skipped = (self.skip as usize).min(opened.len());
            self.skip -= skipped as u64;
            let taken = (opened.len() - skipped).min(self.take as usize);
            self.take -= taken as u64;
            out.extend_from_slice(&opened[skipped..skipped + taken]);
        }
        Ok(out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal(key: &Key, body: &[u8], pieces: usize) -> Bytes {
        let mut sealer = Sealer::new(key).unwrap();
        let mut out = BytesMut::new();
        for piece in body.chunks(pieces.max(1)) {
            sealer.update(piece, &mut out);
        }
        sealer.finish(&mut out);
        out.freeze()
    }

    fn body(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 31 % 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
        #[test]
        fn any_range_comes_back(len in 1usize..300_000, a in 0usize..300_000, n in 0usize..300_000, pieces in 1usize..100_000) {
            let key = Key::random().unwrap();
            let body = body(len);
            let sealed = seal(&key, &body, pieces);
            prop_assert_eq!(sealed.len() as u64, sealed_len(len as u64));
            let start = a % len;
            let take = n % (len - start + 1);
            let range = SealedRange::new(start as u64, take as u64, len as u64);
            let mut opener = Opener::new(&key, &sealed[..SALT as usize], range);
            let part = &sealed[range.start as usize..(range.start + range.len) as usize];
            let mut out = Vec::new();
            let mut rest = part;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(pieces));
                rest = later;
                out.extend_from_slice(&opener.update(now, rest.is_empty()).unwrap());
            }
            prop_assert!(out == body[start..start + take]);
        }
    }

    #[test]
    fn changed_bytes_and_other_keys_are_refused() {
        let key = Key::random().unwrap();
        let sealed = seal(&key, &body(1000), 1000);
        let range = SealedRange::new(0, 1000, 1000);
        let open =
            |key: &Key, sealed: &[u8]| Opener::new(key, &sealed[..32], range).update(&sealed[32..], true);
        assert!(open(&key, &sealed).is_ok());
        for at in [0, 31, 32, 500, sealed.len() - 1] {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(open(&key, &changed), Err(SealError::Refused), "byte {at}");
        }
        assert_eq!(open(&Key::random().unwrap(), &sealed), Err(SealError::Refused));
    }

    #[test]
    fn an_objects_key_is_wrapped_by_a_key_of_the_file_and_opens_after_a_change_of_keys() {
        let old = StoreKeys::new(vec![Key::new([1; 32])]);
        let (key, kept) = old.new_object().unwrap().unwrap();
        let Encryption::Store { key: fingerprint, wrapped } = kept else { panic!("another kind") };
        let both = StoreKeys::new(vec![Key::new([2; 32]), Key::new([1; 32])]);
        assert_eq!(*both.open(&fingerprint, &wrapped).unwrap().0, *key.0);
        let new = StoreKeys::new(vec![Key::new([2; 32])]);
        assert!(matches!(new.open(&fingerprint, &wrapped), Err(SealError::UnknownKey)));
        assert!(StoreKeys::default().new_object().is_none());
    }

    #[test]
    fn a_customers_key_opens_only_its_own() {
        let customer = |byte| CustomerKey { key: Key::new([byte; 32]), md5: [byte; 16] };
        let (key, kept) = customer(1).new_object().unwrap();
        let Encryption::Customer { md5, wrapped } = kept else { panic!("another kind") };
        assert_eq!(*customer(1).open(&md5, &wrapped).unwrap().0, *key.0);
        assert!(matches!(customer(2).open(&md5, &wrapped), Err(SealError::Refused)));
    }
}
