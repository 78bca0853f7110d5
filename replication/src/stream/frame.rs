//! The frames of the stream, as bytes.
//!
//! ```text
//! follower                       primary
//!    | Hello ---------------------> |   who I am, what I promised, which reigns my log holds
//!    | <------------------- Welcome |   cut to here, then my log follows   (or Reject)
//!    | <-------------------- Append |   whole records, verbatim; what is committed
//!    | <---------------------- Move |   a record of which you have the bytes
//!    | <---------------------- Skip |   I gave up what comes next: go on behind it
//!    | Ack -----------------------> |   durable up to here, under your epoch
//!    | Fetch <--------------------> |   my copy of this is damaged      (answered by Fetched)
//!    | <----------------- Committed |   when there is nothing to append
//!    | <------------------- Compare |   the sum of a range that both have  (answered by Compared)
//!    | Ask -----------------------> |   what is committed at this moment?  (answered by Told, under the lease)
//! ```
//!
//! One byte of tag, then the body. Decoding never panics and never allocates more than it was given.

use bytes::Bytes;
use holdfast_heartbeat::{Epoch, Lsn, Member};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::history::EpochHistory;
use crate::log::{Gap, RangeSum};

/// Largest encoded frame, in bytes: one largest record, or many up to 1 MiB, with room to spare.
pub const MAX_FRAME: usize = 2 * 1024 * 1024;

/// Most epoch starts in a Hello; older ones are left out, which at worst costs a longer catch-up.
pub const MAX_HISTORY: usize = 16 * 1024;

/// Longest text in a Reject, in bytes.
pub const MAX_TEXT: usize = 1024;

/// Bytes in front of an Append's records.
const APPEND_HEAD: usize = 25;

const TAG_HELLO: u8 = 1;
const TAG_WELCOME: u8 = 2;
const TAG_APPEND: u8 = 3;
const TAG_ACK: u8 = 4;
const TAG_COMMITTED: u8 = 5;
const TAG_REJECT: u8 = 6;
const TAG_MOVE: u8 = 7;
const TAG_SKIP: u8 = 8;
const TAG_FETCH: u8 = 9;
const TAG_FETCHED: u8 = 10;
const TAG_ASK: u8 = 11;
const TAG_TOLD: u8 = 12;
const TAG_COMPARE: u8 = 13;
const TAG_COMPARED: u8 = 14;

/// Bytes in front of a Fetched's records.
const FETCHED_HEAD: usize = 9;

/// Bytes in front of a Move's record.
const MOVE_HEAD: usize = 17;

/// What a follower says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who it is.
    pub member: Member,
    /// It takes nothing from a primary of a lower epoch.
    pub promised_epoch: Epoch,
    /// Its log's identity, zero for a fresh one.
    pub log_id: u64,
    /// The reigns in its log.
    pub history: EpochHistory,
    /// Where its log ends.
    pub end: Lsn,
    /// The rolling checksum there.
    pub chain: u32,
    /// Below here it wants moves with their bytes: it could not make one of them from what it has.
    pub whole_below: Lsn,
}

/// The primary's answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The reign.
    pub epoch: Epoch,
    /// Who reigns.
    pub leader: Member,
    /// The log's identity.
    pub log_id: u64,
    /// Bytes of records per segment file.
    pub segment_size: u64,
    /// The follower's log must end here before the first Append.
    pub truncate_to: Lsn,
    /// What is committed.
    pub committed: Lsn,
    /// Bytes of the log between `truncate_to` and `committed` that are not gone: what is to come.
    pub to_come: u64,
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The one asked is not the primary.
    NotLeading,
    /// The follower promised a higher epoch than the one asked reigns in.
    StaleEpoch,
    /// The follower's log is another log.
    ForeignLog,
    /// The logs agree on epochs and positions, but not on the bytes.
    Diverged,
    /// The follower acknowledged bytes in this epoch that it no longer has, under the same
    /// incarnation: it must draw a new one.
    LostAcknowledged,
    /// The Hello makes no sense.
    BadHello,
    /// The one asked cannot read its own log.
    LogFailed,
}

/// What a follower found in a range whose sum it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same bytes.
    Same,
    /// Other bytes, each record of which is sound by itself.
    Differs,
    /// It could not read all of it: damaged, given up meanwhile, or cut.
    Unread,
}

/// One message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Follower to primary, first.
    Hello(Hello),
    /// Primary to follower, first.
    Welcome(Welcome),
    /// Whole records of the log, verbatim.
    Append {
        /// The reign in which they are sent (they may be older).
        epoch: Epoch,
        /// Where the first one begins.
        lsn: Lsn,
        /// What is committed.
        committed: Lsn,
        /// The records.
        bytes: Bytes,
    },
    /// A move of which the follower has the bytes: its header and its sources, see [`crate::moves`].
    Move {
        /// As in an Append.
        epoch: Epoch,
        /// As in an Append.
        committed: Lsn,
        /// The record without the moved bytes.
        record: Bytes,
    },
    /// What comes next is gone at the primary.
    Skip {
        /// As in an Append.
        epoch: Epoch,
        /// Where to go on.
        gap: Gap,
    },
    /// Either way: the sender's own copy of the record there is damaged.
    Fetch {
        /// Where it begins.
        lsn: Lsn,
    },
    /// The answer.
    Fetched {
        /// As asked.
        lsn: Lsn,
        /// Whole records from there on; nothing if there is none.
        bytes: Bytes,
    },
    /// Primary to follower: the sum of a range that it acknowledged.
    Compare {
        /// The range and its sum.
        sum: RangeSum,
    },
    /// The answer.
    Compared {
        /// Where the range began.
        from: Lsn,
        /// What it holds there.
        verdict: Verdict,
    },
    /// Everything below `durable` is on the follower's disk.
    Ack {
        /// The reign under which that is said.
        epoch: Epoch,
        /// How far.
        durable: Lsn,
    },
    /// What is committed.
    Committed {
        /// The reign.
        epoch: Epoch,
        /// How far.
        lsn: Lsn,
    },
    /// Follower to primary: what is committed, now that this has arrived?
    Ask {
        /// Comes back in the answer.
        token: u64,
    },
    /// The answer, from whoever held the lease after the question had come.
    Told {
        /// As asked.
        token: u64,
        /// The reign.
        epoch: Epoch,
        /// Everything that was acknowledged before the question was sent lies below.
        committed: Lsn,
    },
    /// No stream; the connection will be closed.
    Reject {
        /// Why, for programs.
        reason: RejectReason,
        /// Why, for people.
        text: String,
    },
}

/// Bytes that are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of this protocol")]
pub struct BadFrame;

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadFrame> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(BadFrame),
    }
}

fn put<T: Serialize>(out: &mut Vec<u8>, tag: u8, value: &T) {
    out.push(tag);
    let body = postcard::to_stdvec(value).expect("plain data always encodes");
    out.extend_from_slice(&body);
}

impl Frame {
    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello(hello) => put(out, TAG_HELLO, hello),
            Frame::Welcome(welcome) => put(out, TAG_WELCOME, welcome),
            Frame::Append { epoch, lsn, committed, bytes } => {
                out.reserve(APPEND_HEAD + bytes.len());
                out.push(TAG_APPEND);
                for number in [epoch.0, lsn.0, committed.0] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(bytes);
            }
            Frame::Move { epoch, committed, record } => {
                out.reserve(MOVE_HEAD + record.len());
                out.push(TAG_MOVE);
                for number in [epoch.0, committed.0] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(record);
            }
            Frame::Skip { epoch, gap } => put(out, TAG_SKIP, &(epoch, gap)),
            Frame::Fetch { lsn } => put(out, TAG_FETCH, lsn),
            Frame::Fetched { lsn, bytes } => {
                out.reserve(FETCHED_HEAD + bytes.len());
                out.push(TAG_FETCHED);
                out.extend_from_slice(&lsn.0.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Frame::Ack { epoch, durable } => put(out, TAG_ACK, &(epoch, durable)),
            Frame::Committed { epoch, lsn } => put(out, TAG_COMMITTED, &(epoch, lsn)),
            Frame::Compare { sum } => put(out, TAG_COMPARE, sum),
            Frame::Compared { from, verdict } => put(out, TAG_COMPARED, &(from, verdict)),
            Frame::Ask { token } => put(out, TAG_ASK, token),
            Frame::Told { token, epoch, committed } => put(out, TAG_TOLD, &(token, epoch, committed)),
            Frame::Reject { reason, text } => put(out, TAG_REJECT, &(reason, text)),
        }
    }

    /// Reads a whole frame.
    pub fn decode(bytes: &Bytes) -> Result<Frame, BadFrame> {
        if bytes.len() > MAX_FRAME {
            return Err(BadFrame);
        }
        let (tag, rest) = bytes.split_first().ok_or(BadFrame)?;
        let number = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
        match *tag {
            TAG_HELLO => {
                let hello: Hello = body(rest)?;
                // Deserializing checks no order, and everything after this relies on it.
                let starts = hello.history.starts();
                if starts.len() > MAX_HISTORY || EpochHistory::new(starts.to_vec()).is_err() {
                    return Err(BadFrame);
                }
                Ok(Frame::Hello(hello))
            }
            TAG_WELCOME => Ok(Frame::Welcome(body(rest)?)),
            TAG_MOVE => {
                if rest.len() < MOVE_HEAD - 1 {
                    return Err(BadFrame);
                }
                let (epoch, committed) = (Epoch(number(0)), Lsn(number(8)));
                Ok(Frame::Move { epoch, committed, record: bytes.slice(MOVE_HEAD..) })
            }
            TAG_SKIP => {
                let (epoch, gap): (Epoch, Gap) = body(rest)?;
                let starts = gap.history.starts();
                if starts.len() > MAX_HISTORY || EpochHistory::new(starts.to_vec()).is_err() {
                    return Err(BadFrame);
                }
                Ok(Frame::Skip { epoch, gap })
            }
            TAG_FETCH => body(rest).map(|lsn| Frame::Fetch { lsn }),
            TAG_FETCHED => {
                if rest.len() < FETCHED_HEAD - 1 {
                    return Err(BadFrame);
                }
                Ok(Frame::Fetched { lsn: Lsn(number(0)), bytes: bytes.slice(FETCHED_HEAD..) })
            }
            TAG_APPEND => {
                if rest.len() < APPEND_HEAD - 1 {
                    return Err(BadFrame);
                }
                Ok(Frame::Append {
                    epoch: Epoch(number(0)),
                    lsn: Lsn(number(8)),
                    committed: Lsn(number(16)),
                    bytes: bytes.slice(APPEND_HEAD..),
                })
            }
            TAG_ACK => body(rest).map(|(epoch, durable)| Frame::Ack { epoch, durable }),
            TAG_COMMITTED => body(rest).map(|(epoch, lsn)| Frame::Committed { epoch, lsn }),
            TAG_COMPARE => body(rest).map(|sum| Frame::Compare { sum }),
            TAG_COMPARED => body(rest).map(|(from, verdict)| Frame::Compared { from, verdict }),
            TAG_ASK => body(rest).map(|token| Frame::Ask { token }),
            TAG_TOLD => body(rest).map(|(token, epoch, committed)| Frame::Told { token, epoch, committed }),
            TAG_REJECT => {
                let (reason, text): (RejectReason, String) = body(rest)?;
                if text.len() > MAX_TEXT {
                    return Err(BadFrame);
                }
                Ok(Frame::Reject { reason, text })
            }
            _ => Err(BadFrame),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use holdfast_heartbeat::{Incarnation, NodeId};
    use proptest::prelude::*;

    use super::*;

    pub(in crate::stream) fn samples() -> Vec<Frame> {
        let member = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(7) };
        let history = EpochHistory::new(vec![(Epoch(1), Lsn(0)), (Epoch(4), Lsn(99))]).unwrap();
        vec![
            Frame::Hello(Hello {
                member: member.clone(),
                promised_epoch: Epoch(4),
                log_id: 9,
                history,
                end: Lsn(300),
                chain: 5,
                whole_below: Lsn(7),
            }),
            Frame::Welcome(Welcome {
                epoch: Epoch(5),
                leader: member,
                log_id: 9,
                segment_size: 1000,
                truncate_to: Lsn(200),
                committed: Lsn(150),
                to_come: 40,
            }),
            Frame::Append {
                epoch: Epoch(5),
                lsn: Lsn(200),
                committed: Lsn(150),
                bytes: Bytes::from(vec![3; 200_000]),
            },
            Frame::Ack { epoch: Epoch(5), durable: Lsn(300) },
            Frame::Committed { epoch: Epoch(5), lsn: Lsn(300) },
            Frame::Ask { token: 3 },
            Frame::Told { token: 3, epoch: Epoch(5), committed: Lsn(150) },
            Frame::Reject { reason: RejectReason::ForeignLog, text: "another log".into() },
            Frame::Move { epoch: Epoch(5), committed: Lsn(150), record: Bytes::from(vec![4; 100]) },
            Frame::Skip { epoch: Epoch(5), gap: Gap::sample() },
            Frame::Compare { sum: RangeSum { from: Lsn(0), to: Lsn(300), sha256: [6; 32] } },
            Frame::Compared { from: Lsn(0), verdict: Verdict::Differs },
            Frame::Fetch { lsn: Lsn(300) },
            Frame::Fetched { lsn: Lsn(300), bytes: Bytes::from(vec![5; 100]) },
        ]
    }

    #[test]
    fn every_frame_comes_back_and_no_prefix_of_it_does() {
        for frame in samples() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let bytes = Bytes::from(bytes);
            assert_eq!(Frame::decode(&bytes).unwrap(), frame);
            let head = match frame {
                Frame::Move { .. } => MOVE_HEAD,
                Frame::Fetched { .. } => FETCHED_HEAD,
                _ => APPEND_HEAD,
            };
            let head = bytes.len().min(head);
            for cut in 0..head {
                assert!(Frame::decode(&bytes.slice(..cut)).is_err());
            }
        }
    }

    #[test]
    fn a_history_out_of_order_is_refused() {
        let Frame::Hello(hello) = samples().remove(0) else { panic!() };
        let mut bytes = vec![TAG_HELLO];
        let unordered = vec![(Epoch(4), Lsn(0)), (Epoch(2), Lsn(5))];
        let fields = (
            &hello.member,
            hello.promised_epoch,
            hello.log_id,
            &unordered,
            hello.end,
            hello.chain,
            Lsn::ZERO,
        );
        bytes.extend(postcard::to_stdvec(&fields).unwrap());
        assert_eq!(Frame::decode(&Bytes::from(bytes)), Err(BadFrame));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(tag in 0u8..15, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut all = vec![tag];
            all.extend(bytes);
            let _ = Frame::decode(&Bytes::from(all));
        }
    }
}
