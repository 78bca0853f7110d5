//! What two releases agree on before the first frame: a version of the protocol, and what may be used beyond it.
//!
//! Each side offers what it knows within the handshake, where nobody without the secret can change it; the newest
//! version that both know is spoken. An offer may grow at its end: what is not known there is passed over.

use std::fmt;
use std::ops::{BitAnd, BitOr, RangeInclusive};

use super::session::{StreamError, StreamErrorKind};

/// The versions of the stream protocol that this release speaks.
pub const PROTOCOL_VERSIONS: RangeInclusive<u8> = 1..=1;

/// Bytes of an offer that this release knows.
pub(super) const OFFER_LEN: usize = 6;
/// Bytes that an offer of a later release may have.
pub(super) const OFFER_MOST: usize = 64;

/// What a side understands beyond what its versions of the protocol have; each may be used when both do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u32);

impl Features {
    /// Frames that are compressed as LZ4 blocks.
    pub const LZ4: Features = Features(1);
    /// All that this release knows.
    pub const KNOWN: Features = Features::LZ4;
    /// None.
    pub const NONE: Features = Features(0);

    /// Whether all of `wanted` are among these.
    pub fn has(self, wanted: Features) -> bool {
        self & wanted == wanted
    }
}

impl BitAnd for Features {
    type Output = Features;

    fn bitand(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}

impl BitOr for Features {
    type Output = Features;

    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

/// What one side says that it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// From the oldest to the newest version.
    pub versions: RangeInclusive<u8>,
    /// What it understands beyond them.
    pub features: Features,
}

impl Default for Offer {
    /// What this release speaks.
    fn default() -> Offer {
        Offer { versions: PROTOCOL_VERSIONS, features: Features::KNOWN }
    }
}

/// What both sides of a session speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The version of the protocol.
    pub version: u8,
    /// What may be used beyond it.
    pub features: Features,
}

impl Offer {
    pub(super) fn encode(&self) -> [u8; OFFER_LEN] {
        let [a, b, c, d] = self.features.0.to_le_bytes();
        [*self.versions.start(), *self.versions.end(), a, b, c, d]
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Offer, StreamError> {
        let Some(([oldest, newest, features @ ..], _)) = bytes.split_first_chunk::<OFFER_LEN>() else {
            return Err(StreamError(StreamErrorKind::Handshake));
        };
        Ok(Offer { versions: *oldest..=*newest, features: Features(u32::from_le_bytes(*features)) })
    }

    /// What is spoken with the side that offers `theirs`.
    pub(super) fn agree(&self, theirs: &Offer) -> Result<Agreed, StreamError> {
        let version = *self.versions.end().min(theirs.versions.end());
        let common = self.versions.contains(&version) && theirs.versions.contains(&version);
        if !common {
            return Err(StreamError(StreamErrorKind::Version));
        }
        Ok(Agreed { version, features: self.features & theirs.features })
    }
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.version)?;
        if self.features.has(Features::LZ4) { write!(f, ", LZ4") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(versions: RangeInclusive<u8>) -> Offer {
        Offer { versions, features: Features::KNOWN }
    }

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        let agreed = |a: RangeInclusive<u8>, b: RangeInclusive<u8>| {
            let (one, other) = (offer(a.clone()).agree(&offer(b.clone())), offer(b).agree(&offer(a)));
            assert_eq!(one, other, "both sides come to the same");
            one.ok().map(|agreed| agreed.version)
        };
        assert_eq!(agreed(1..=1, 1..=1), Some(1));
        assert_eq!(agreed(1..=3, 2..=2), Some(2));
        assert_eq!(agreed(1..=3, 2..=5), Some(3));
        assert_eq!(agreed(1..=1, 2..=3), None);
        #[expect(clippy::reversed_empty_ranges, reason = "what nobody speaks may arrive all the same")]
        let none = agreed(1..=3, 2..=1);
        assert_eq!(none, None);
    }

    #[test]
    fn an_offer_of_a_later_release_is_understood_as_far_as_it_is_known() {
        let later = Offer { versions: 1..=9, features: Features(u32::MAX) };
        let said = [later.encode().as_slice(), &[7; OFFER_MOST - OFFER_LEN]].concat();
        let heard = Offer::decode(&said).unwrap();
        assert_eq!(heard, later);
        let agreed = Offer::default().agree(&heard).unwrap();
        assert_eq!((agreed.version, agreed.features), (1, Features::KNOWN));
        assert!(Offer::decode(&said[..OFFER_LEN - 1]).is_err());
    }
}
