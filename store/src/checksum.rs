//! The additional checksums of S3, and how those of parts become the one of the whole.
//!
//! Sources: "Checking object integrity" in the Amazon S3 user guide, for which kinds may be combined how;
//! a composite checksum is that of the parts' raw checksums one after the other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use s3s::crypto::Checksum as _;
use serde::{Deserialize, Serialize};

/// The additional checksums that S3 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// What a multipart object's checksum is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChecksumScope {
    /// Of all its bytes.
    FullObject,
    /// Of its parts' checksums; shown with the number of parts behind a dash.
    Composite,
}

/// A checksum that was verified when the bytes arrived, kept to be shown again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Which one.
    pub kind: ChecksumKind,
    /// Its value in base64, as S3 writes it.
    pub base64: String,
    /// Of what.
    pub scope: ChecksumScope,
}

/// What an upload's creator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksumPlan {
    /// Which checksum each part has.
    pub kind: ChecksumKind,
    /// What the object's is of.
    pub scope: ChecksumScope,
}

impl ChecksumKind {
    /// All of them, with the names of their headers.
    pub const ALL: [(ChecksumKind, &'static str); 5] = [
        (ChecksumKind::Crc32, "x-amz-checksum-crc32"),
        (ChecksumKind::Crc32c, "x-amz-checksum-crc32c"),
        (ChecksumKind::Crc64Nvme, "x-amz-checksum-crc64nvme"),
        (ChecksumKind::Sha1, "x-amz-checksum-sha1"),
        (ChecksumKind::Sha256, "x-amz-checksum-sha256"),
    ];

    /// The name of its header.
    pub fn header(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Reads `x-amz-checksum-algorithm`.
    pub fn parse(name: &str) -> Option<ChecksumKind> {
        let known = |kind: &ChecksumKind| kind.name().eq_ignore_ascii_case(name);
        Self::ALL.iter().map(|(kind, _)| *kind).find(known)
    }

    /// As S3 writes it.
    pub fn name(self) -> &'static str {
        match self {
            ChecksumKind::Crc32 => "CRC32",
            ChecksumKind::Crc32c => "CRC32C",
            ChecksumKind::Crc64Nvme => "CRC64NVME",
            ChecksumKind::Sha1 => "SHA1",
            ChecksumKind::Sha256 => "SHA256",
        }
    }

    /// Bytes of the raw value.
    pub fn raw_len(self) -> usize {
        match self {
            ChecksumKind::Crc32 | ChecksumKind::Crc32c => 4,
            ChecksumKind::Crc64Nvme => 8,
            ChecksumKind::Sha1 => 20,
            ChecksumKind::Sha256 => 32,
        }
    }

    /// Whether it can be of the parts' checksums: all but CRC-64/NVME.
    pub fn may_be_composite(self) -> bool {
        self != ChecksumKind::Crc64Nvme
    }

    /// Whether it can be computed for the whole from the parts: the CRCs.
    pub fn may_be_full_object(self) -> bool {
        self.crc().is_some()
    }

    /// What it is of where the creator of an upload did not say.
    pub fn default_scope(self) -> ChecksumScope {
        if self == ChecksumKind::Crc64Nvme { ChecksumScope::FullObject } else { ChecksumScope::Composite }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            ChecksumKind::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            ChecksumKind::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            ChecksumKind::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            ChecksumKind::Sha1 | ChecksumKind::Sha256 => None,
        }
    }

    fn of(self, bytes: &[u8]) -> Vec<u8> {
        use s3s::crypto::{Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
        match self {
            ChecksumKind::Crc32 => Crc32::checksum(bytes).to_vec(),
            ChecksumKind::Crc32c => Crc32c::checksum(bytes).to_vec(),
            ChecksumKind::Crc64Nvme => Crc64Nvme::checksum(bytes).to_vec(),
            ChecksumKind::Sha1 => Sha1::checksum(bytes).to_vec(),
            ChecksumKind::Sha256 => Sha256::checksum(bytes).to_vec(),
        }
    }
}

/// The checksum of an object from its parts' checksums, each with its part's length in bytes, in order.
/// `None` where a part's value is not of that kind, or the kind cannot be combined so.
pub fn combine<'a>(plan: ChecksumPlan, parts: impl Iterator<Item = (&'a str, u64)>) -> Option<Checksum> {
    let ChecksumPlan { kind, scope } = plan;
    let mut count = 0;
    let mut raws = Vec::new();
    let mut whole: Option<u64> = None;
    for (base64, len) in parts {
        let raw = STANDARD.decode(base64).ok().filter(|raw| raw.len() == kind.raw_len())?;
        count += 1;
        match scope {
            ChecksumScope::Composite => raws.extend_from_slice(&raw),
            ChecksumScope::FullObject => {
                let value = raw.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
                whole = Some(match whole {
                    None => value,
                    Some(before) => crc_fast::checksum_combine(kind.crc()?, before, value, len),
                });
            }
        }
    }
    let base64 = match scope {
        ChecksumScope::Composite if kind.may_be_composite() => {
            format!("{}-{count}", STANDARD.encode(kind.of(&raws)))
        }
        ChecksumScope::Composite => return None,
        ChecksumScope::FullObject => {
            kind.crc()?;
            STANDARD.encode(&whole?.to_be_bytes()[8 - kind.raw_len()..])
        }
    };
    Some(Checksum { kind, base64, scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(kind: ChecksumKind, bytes: &[u8]) -> String {
        STANDARD.encode(kind.of(bytes))
    }

    #[test]
    fn crcs_of_parts_make_the_crc_of_the_whole() {
        let (a, b, c) = (vec![1u8; 5000], vec![2u8; 77], vec![3u8; 1]);
        let whole = [&a[..], &b, &c].concat();
        for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c, ChecksumKind::Crc64Nvme] {
            let parts: Vec<_> = [&a, &b, &c].map(|p| (base64(kind, p), p.len() as u64)).into();
            let plan = ChecksumPlan { kind, scope: ChecksumScope::FullObject };
            let combined = combine(plan, parts.iter().map(|(b, len)| (b.as_str(), *len))).unwrap();
            assert_eq!(combined.base64, base64(kind, &whole), "{kind:?}");
        }
    }

    #[test]
    fn a_composite_is_the_checksum_of_checksums() {
        let plan = ChecksumPlan { kind: ChecksumKind::Sha256, scope: ChecksumScope::Composite };
        let parts = [base64(ChecksumKind::Sha256, b"one"), base64(ChecksumKind::Sha256, b"two")];
        let combined = combine(plan, parts.iter().map(|p| (p.as_str(), 3))).unwrap();
        let raw: Vec<u8> = parts.iter().flat_map(|p| STANDARD.decode(p).unwrap()).collect();
        assert_eq!(combined.base64, format!("{}-2", base64(ChecksumKind::Sha256, &raw)));
    }

    #[test]
    fn what_cannot_be_combined_is_none() {
        let full = ChecksumPlan { kind: ChecksumKind::Sha1, scope: ChecksumScope::FullObject };
        let one = base64(ChecksumKind::Sha1, b"x");
        assert_eq!(combine(full, [(one.as_str(), 1), (one.as_str(), 1)].into_iter()), None);
        let nvme = ChecksumPlan { kind: ChecksumKind::Crc64Nvme, scope: ChecksumScope::Composite };
        let one = base64(ChecksumKind::Crc64Nvme, b"x");
        assert_eq!(combine(nvme, [(one.as_str(), 1)].into_iter()), None);
        assert_eq!(
            combine(ChecksumPlan { scope: ChecksumScope::FullObject, ..nvme }, [("AAAA", 1)].into_iter()),
            None
        );
    }
}
