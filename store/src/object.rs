//! What an object is besides its bytes: its versions' names, entity tag, checksums, and everything a
//! client stores with it.
//!
//! Vocabulary only. All of it travels in operations and lies in the index, so that every type here is
//! part of the format.

use holdfast_heartbeat::types::Lsn;
use serde::{Deserialize, Serialize};

use crate::access::Acl;

/// Names one version of a key.
///
/// Shown as 16 hexadecimal digits, or as `null` for a version that was stored while the bucket kept
/// none: at most one version of a key has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VersionId {
    /// The one that was stored while versions were off or suspended.
    Null,
    /// The one that the operation at this LSN stored.
    At(Lsn),
}

impl VersionId {
    /// Reads what a client sends. Nothing else was ever given out as the name of a version.
    pub fn parse(text: &str) -> Option<VersionId> {
        if text == "null" {
            return Some(VersionId::Null);
        }
        let digits =
            text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let lsn = u64::from_str_radix(text, 16).ok().filter(|_| digits)?;
        Some(VersionId::At(Lsn(lsn)))
    }
}

impl std::fmt::Display for VersionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            VersionId::Null => f.write_str("null"),
            VersionId::At(lsn) => write!(f, "{:016x}", lsn.0),
        }
    }
}

/// Identifies a multipart upload: random, drawn by the primary that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UploadId(pub [u8; 16]);

impl UploadId {
    /// Reads the 32 hexadecimal digits that S3 clients see.
    pub fn parse(text: &str) -> Option<UploadId> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some(UploadId(id))
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The entity tag: the MD5 of the bytes, or for a multipart object the MD5 of its parts' MD5s with
/// the number of parts behind a dash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etag {
    /// The digest.
    pub md5: [u8; 16],
    /// Number of parts; zero for an object that was put whole.
    pub parts: u32,
}

impl std::fmt::Display for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.md5, &mut digits).map_err(|_| std::fmt::Error)?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_| std::fmt::Error)?)?;
        if self.parts > 0 {
            write!(f, "-{}", self.parts)?;
        }
        Ok(())
    }
}

/// What a client stored beside the bytes, in headers that come back as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`, in seconds since 1970.
    pub expires_s: Option<i64>,
    /// `x-amz-website-redirect-location`.
    pub website_redirect: Option<String>,
    /// `x-amz-meta-*`, sorted by name.
    pub user: Vec<(String, String)>,
}

/// A tag, as key and value.
pub type Tag = (String, String);

/// How strictly a retention binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionMode {
    /// Who has the permission may shorten or pass over it.
    Governance,
    /// Nobody may.
    Compliance,
}

/// Until when a version must not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How strictly.
    pub mode: RetentionMode,
    /// In milliseconds since 1970.
    pub until_ms: u64,
}

/// What keeps a version from being removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// For a time.
    pub retention: Option<Retention>,
    /// Until it is taken away.
    pub legal_hold: bool,
}

impl Lock {
    /// Whether a version with this lock may be removed at `wall_ms`.
    pub fn lets_go(&self, wall_ms: u64, bypass_governance: bool) -> bool {
        let held = self.retention.is_some_and(|retention| {
            wall_ms < retention.until_ms
                && !(bypass_governance && retention.mode == RetentionMode::Governance)
        });
        !self.legal_hold && !held
    }
}

/// How the stored bytes are encrypted. The key that encrypts them is random for each object or upload and
/// lies here only wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// With the key file of the store (`x-amz-server-side-encryption: AES256`).
    Store {
        /// Which key of the file, by its fingerprint.
        key: [u8; 8],
        /// The object's key under it, with nonce and tag.
        wrapped: Vec<u8>,
    },
    /// With a key that the client keeps (SSE-C).
    Customer {
        /// MD5 of the client's key, as the protocol wants it shown.
        md5: [u8; 16],
        /// The object's key under the client's, with nonce and tag.
        wrapped: Vec<u8>,
    },
}

/// Everything that comes with an object's bytes, when it is put whole, copied or begun as an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    /// Who stored it; empty for the root user.
    pub owner: String,
    /// Headers.
    pub meta: Meta,
    /// Tags, in the order in which they were given.
    pub tags: Vec<Tag>,
    /// What keeps it.
    pub lock: Lock,
    /// Who else may use it; `None`: nobody.
    pub acl: Option<Acl>,
    /// How its bytes are encrypted.
    pub encryption: Option<Encryption>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_back_from_its_name() {
        for id in
            [VersionId::Null, VersionId::At(Lsn(0)), VersionId::At(Lsn(0xabc)), VersionId::At(Lsn(u64::MAX))]
        {
            assert_eq!(VersionId::parse(&id.to_string()), Some(id));
        }
        for text in ["", "NULL", "abc", "000000000000ABCD", "+00000000000000a", "00000000000000000"] {
            assert_eq!(VersionId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_lock_holds_until_its_time_and_compliance_against_everybody() {
        let lock = |mode| Lock { retention: Some(Retention { mode, until_ms: 10 }), legal_hold: false };
        assert!(!lock(RetentionMode::Governance).lets_go(9, false));
        assert!(lock(RetentionMode::Governance).lets_go(9, true));
        assert!(lock(RetentionMode::Governance).lets_go(10, false));
        assert!(!lock(RetentionMode::Compliance).lets_go(9, true));
        assert!(!Lock { retention: None, legal_hold: true }.lets_go(u64::MAX, true));
    }
}
