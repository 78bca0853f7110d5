//! An encrypted, authenticated channel for frames, without a socket.
//!
//! Noise NNpsk0: both sides prove that they know the cluster's secret, and fresh keys give forward
//! secrecy. On the wire stand Noise messages of at most 65,535 bytes, each behind its length as
//! `u16` big-endian; inside, a frame is its length as `u32` big-endian and its bytes, cut into as
//! many messages as it takes. A frame begins a new message. The order of messages is part of the
//! cipher, so one that was lost, replayed, swapped or changed ends the session with an error: after
//! an error nothing more is decoded, ever.
//!
//! Both handshake messages carry an [`Offer`]. Where both sides know LZ4, a frame may be compressed: the highest bit of
//! its length says so, and four bytes of the length that it has otherwise stand before it.

use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use snow::{Builder, HandshakeState, StatelessTransportState};

use super::agreement::{Agreed, Features, OFFER_LEN, OFFER_MOST, Offer};
use super::frame::{Frame, MAX_FRAME};

/// Shortest secret that is accepted, in bytes.
pub const SECRET_MIN: usize = 8;

/// What a session is for. Each has keys and a handshake of its own, so that nothing that was said in one can be
/// passed off in another, and a member that does not know of a channel refuses it like any stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The log: [`Frame`]s.
    Log,
    /// What goes beside it and means nothing here: bytes, up to [`MAX_FRAME`] in a message.
    Aside,
    /// The one conversation by which a host becomes a member, under a key that is good for nothing else: bytes too.
    Join,
}

impl Channel {
    fn label(self) -> &'static [u8] {
        match self {
            Channel::Log => b"holdfast stream ",
            Channel::Aside => b"holdfast aside ",
            Channel::Join => b"holdfast join ",
        }
    }

    fn key_label(self) -> &'static [u8] {
        match self {
            Channel::Log => KEY_LABEL,
            Channel::Aside => b"holdfast aside v1",
            Channel::Join => b"holdfast join v1",
        }
    }
}

const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
const KEY_LABEL: &[u8] = b"holdfast stream v1";
/// What AES-GCM adds to a message.
const TAG_LEN: usize = 16;
/// Largest Noise message.
const MAX_MESSAGE: usize = 65_535;
const MAX_CHUNK: usize = MAX_MESSAGE - TAG_LEN;
/// What both handshake messages of NNpsk0 have without their content: an ephemeral key and a tag.
const HANDSHAKE_BARE: usize = 32 + TAG_LEN;
/// In the length of a frame: what follows is compressed.
const COMPRESSED: u32 = 1 << 31;
/// Frames that are shorter are sent as they are, in bytes.
const COMPRESSED_LEAST: usize = 512;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamErrorKind {
    /// The handshake failed: another secret, or no Holdfast at all.
    Handshake,
    /// The other side is of a release that speaks no version of the protocol which this one does.
    Version,
    /// A message was changed, replayed, lost or not meant for this session.
    Decrypt,
    /// A frame is announced larger than [`MAX_FRAME`].
    TooLarge,
    /// A message of impossible length.
    Length,
    /// It ended within a message or a frame.
    Truncated,
    /// What came was too slow to ever become a handshake or a frame.
    Slow,
    /// What was decrypted is not a frame.
    BadFrame,
    /// A message that follows the protocol and does not fit the log, the role or what was asked: a change of primary
    /// can do that, anything else must not.
    Refused,
    /// The session was used in a state that does not allow it.
    State,
}

impl StreamErrorKind {
    /// All kinds, for counters.
    pub const ALL: [StreamErrorKind; 10] = [
        StreamErrorKind::Handshake,
        StreamErrorKind::Version,
        StreamErrorKind::Decrypt,
        StreamErrorKind::TooLarge,
        StreamErrorKind::Length,
        StreamErrorKind::Truncated,
        StreamErrorKind::Slow,
        StreamErrorKind::BadFrame,
        StreamErrorKind::Refused,
        StreamErrorKind::State,
    ];

    /// A stable name, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            StreamErrorKind::Handshake => "handshake",
            StreamErrorKind::Version => "version",
            StreamErrorKind::Decrypt => "decrypt",
            StreamErrorKind::TooLarge => "too_large",
            StreamErrorKind::Length => "length",
            StreamErrorKind::Truncated => "truncated",
            StreamErrorKind::Slow => "slow",
            StreamErrorKind::BadFrame => "bad_frame",
            StreamErrorKind::Refused => "refused",
            StreamErrorKind::State => "state",
        }
    }
}

/// The end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replication stream broke off: {}", explain(.0))]
pub struct StreamError(pub StreamErrorKind);

fn explain(kind: &StreamErrorKind) -> &'static str {
    match kind {
        StreamErrorKind::Handshake => "the handshake failed (check that both members have the same secret)",
        StreamErrorKind::Version => {
            "the other member runs a release that is too far from this one: upgrade the older one, one release after the other"
        }
        StreamErrorKind::Decrypt => "a message was changed, replayed or lost on the way",
        StreamErrorKind::TooLarge => "a frame larger than the limit was announced",
        StreamErrorKind::Length => "a message of impossible length arrived",
        StreamErrorKind::Truncated => "it ended in the middle of a message",
        StreamErrorKind::Slow => "what came was too slow to ever become a message",
        StreamErrorKind::BadFrame => "a message does not follow the protocol",
        StreamErrorKind::Refused => "a message does not fit the log here",
        StreamErrorKind::State => "it is not open",
    }
}

/// How often sessions ended, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts([u64; StreamErrorKind::ALL.len()]);

impl ErrorCounts {
    /// Counts one; says how many there were of its kind.
    pub fn count(&mut self, error: &StreamError) -> u64 {
        let at = StreamErrorKind::ALL.iter().position(|k| *k == error.0).expect("all kinds are listed");
        self.0[at] += 1;
        self.0[at]
    }

    /// The counts with their stable names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        StreamErrorKind::ALL.iter().map(|k| k.as_str()).zip(self.0)
    }
}

/// Encrypts outgoing frames.
pub struct Sealer {
    keys: Arc<StatelessTransportState>,
    nonce: u64,
    plain: Vec<u8>,
    agreed: Agreed,
    /// Where compressed frames are made, if they are.
    squeezed: Option<Vec<u8>>,
}

impl Sealer {
    /// What both sides speak.
    pub fn agreed(&self) -> Agreed {
        self.agreed
    }

    /// From now on frames are compressed that become smaller by it, if the other side understands that.
    pub fn compress(&mut self) {
        self.squeezed = self.agreed.features.has(Features::LZ4).then(Vec::new);
    }

    /// Appends the wire's bytes of `frame` to `out`; says how many bytes the frame has by itself.
    pub fn seal(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<usize, StreamError> {
        self.seal_with(out, |plain| frame.encode(plain))
    }

    /// Appends the wire's bytes of a message of [`Channel::Aside`] or [`Channel::Join`] to `out`.
    pub fn seal_bytes(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<usize, StreamError> {
        self.seal_with(out, |plain| plain.extend_from_slice(message))
    }

    /// Appends the wire's bytes of one message that says `plain`, whatever that is: for tests of the other side.
    #[doc(hidden)]
    pub fn seal_message(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        let sealed = plain.len() + TAG_LEN;
        out.extend_from_slice(&u16::try_from(sealed).expect("a short message").to_be_bytes());
        out.resize(at + 2 + sealed, 0);
        self.keys.write_message(self.nonce, plain, &mut out[at + 2..]).expect("a sound session");
        self.nonce += 1;
    }

    fn seal_with(
        &mut self,
        out: &mut Vec<u8>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<usize, StreamError> {
        self.plain.clear();
        self.plain.extend_from_slice(&[0; 4]);
        encode(&mut self.plain);
        let len = self.plain.len() - 4;
        if len > MAX_FRAME {
            return Err(StreamError(StreamErrorKind::TooLarge));
        }
        self.plain[..4].copy_from_slice(&u32::try_from(len).expect("bounded above").to_be_bytes());
        let squeezed = self.squeezed.as_mut().filter(|_| len >= COMPRESSED_LEAST);
        let small = squeezed.is_some_and(|squeezed| squeeze(&self.plain, squeezed));
        let message = self.squeezed.as_ref().filter(|_| small).unwrap_or(&self.plain);
        for chunk in message.chunks(MAX_CHUNK) {
            let at = out.len();
            let sealed = chunk.len() + TAG_LEN;
            out.extend_from_slice(&u16::try_from(sealed).expect("a chunk is bounded").to_be_bytes());
            out.resize(at + 2 + sealed, 0);
            self.keys
                .write_message(self.nonce, chunk, &mut out[at + 2..])
                .map_err(|_| StreamError(StreamErrorKind::State))?;
            self.nonce += 1;
        }
        Ok(len)
    }
}

/// Compresses a message; says whether that is worth it: where not a sixteenth is won, the other side's time is.
fn squeeze(plain: &[u8], squeezed: &mut Vec<u8>) -> bool {
    let (len, body) = plain.split_at(4);
    squeezed.resize(8 + lz4_flex::block::get_maximum_output_size(body.len()), 0);
    let Ok(compressed) = lz4_flex::block::compress_into(body, &mut squeezed[8..]) else { return false };
    squeezed.truncate(8 + compressed);
    squeezed[..4].copy_from_slice(&((4 + compressed) as u32 | COMPRESSED).to_be_bytes());
    squeezed[4..8].copy_from_slice(len);
    compressed < body.len() - body.len() / 16
}

/// Puts frames together out of decrypted messages. Holds no more than one frame and one message.
#[derive(Debug, Default)]
pub struct Assembly {
    plain: Vec<u8>,
    /// Whether frames may be compressed.
    compressed: bool,
}

impl Assembly {
    /// Where those features were agreed on.
    pub fn with(features: Features) -> Assembly {
        Assembly { plain: Vec::new(), compressed: features.has(Features::LZ4) }
    }

    /// Takes the next message's bytes over; gives the frame that it completes. An error is final.
    pub fn push(&mut self, message: &[u8]) -> Result<Option<Frame>, StreamError> {
        self.plain.extend_from_slice(message);
        self.whole_message()?.map(decoded).transpose()
    }
}

/// Decrypts what arrived, in whatever pieces.
pub struct Opener {
    keys: Arc<StatelessTransportState>,
    nonce: u64,
    wire: Vec<u8>,
    frames: Assembly,
    dead: bool,
}

impl Opener {
    /// Whether part of a frame has come, and not all of it.
    pub fn has_part(&self) -> bool {
        !self.wire.is_empty() || !self.frames.plain.is_empty()
    }

    /// Takes `bytes` off the wire and appends the frames that became whole. An error is final.
    pub fn feed(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), StreamError> {
        self.feed_with(bytes, |message| {
            frames.push(decoded(message)?);
            Ok(())
        })
    }

    /// The same for the messages of [`Channel::Aside`] and [`Channel::Join`].
    pub fn feed_bytes(&mut self, bytes: &[u8], messages: &mut Vec<Bytes>) -> Result<(), StreamError> {
        self.feed_with(bytes, |message| {
            messages.push(message);
            Ok(())
        })
    }

    fn feed_with(
        &mut self,
        bytes: &[u8],
        each: impl FnMut(Bytes) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        if self.dead {
            return Err(StreamError(StreamErrorKind::State));
        }
        let result = self.open(bytes, each);
        self.dead = result.is_err();
        result
    }

    fn open(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Bytes) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        self.wire.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(message) = next_message(&self.wire[at..])? {
            at += 2 + message.len();
            // Decrypted in place, and only then part of the frame.
            let plain = &mut self.frames.plain;
            let had = plain.len();
            plain.resize(had + message.len() - TAG_LEN, 0);
            self.keys
                .read_message(self.nonce, message, &mut plain[had..])
                .map_err(|_| StreamError(StreamErrorKind::Decrypt))?;
            self.nonce += 1;
            if let Some(message) = self.frames.whole_message()? {
                each(message)?;
            }
        }
        self.wire.drain(..at);
        Ok(())
    }
}

/// The first message in `wire`, without its length, if it is whole.
fn next_message(wire: &[u8]) -> Result<Option<&[u8]>, StreamError> {
    let Some(len) = wire.get(..2) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
    // A message without content would let a peer keep us busy for nothing.
    if len <= TAG_LEN {
        return Err(StreamError(StreamErrorKind::Length));
    }
    Ok(wire.get(2..2 + len))
}

impl Assembly {
    /// Takes the frame's bytes out once they are whole. A frame begins a message, so nothing may follow.
    fn whole_message(&mut self) -> Result<Option<Bytes>, StreamError> {
        let Some(head) = self.plain.first_chunk() else {
            return Err(StreamError(StreamErrorKind::BadFrame));
        };
        let said = u32::from_be_bytes(*head);
        let compressed = self.compressed && said & COMPRESSED != 0;
        let len = if compressed { said & !COMPRESSED } else { said } as usize;
        if len > MAX_FRAME {
            return Err(StreamError(StreamErrorKind::TooLarge));
        }
        match self.plain.len().cmp(&(4 + len)) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Greater => Err(StreamError(StreamErrorKind::BadFrame)),
            std::cmp::Ordering::Equal => {
                let message = Bytes::from(std::mem::take(&mut self.plain)).slice(4..);
                if compressed { expanded(&message).map(Some) } else { Ok(Some(message)) }
            }
        }
    }
}

/// What a compressed message was before. Takes no more room than it says and than a frame may.
fn expanded(message: &[u8]) -> Result<Bytes, StreamError> {
    let bad = StreamError(StreamErrorKind::BadFrame);
    let (len, block) = message.split_first_chunk().ok_or(bad)?;
    let len = u32::from_be_bytes(*len) as usize;
    if len > MAX_FRAME {
        return Err(StreamError(StreamErrorKind::TooLarge));
    }
    let mut whole = vec![0; len];
    match lz4_flex::block::decompress_into(block, &mut whole) {
        Ok(got) if got == len => Ok(whole.into()),
        _ => Err(bad),
    }
}

fn decoded(message: Bytes) -> Result<Frame, StreamError> {
    Frame::decode(&message).map_err(|_| StreamError(StreamErrorKind::BadFrame))
}

enum State {
    Shaking { handshake: Box<HandshakeState>, wire: Vec<u8> },
    Open { sealer: Sealer, opener: Opener },
    Dead,
}

/// One end of a stream. The initiator calls [`NoiseSession::start`] first; both then hand in what
/// arrives with [`NoiseSession::feed`] and send what comes out.
///
/// The responder is open when it has answered, but knows that the peer has the secret (and is not a
/// recording of one that had) only when the first frame decrypts: change no state before that.
pub struct NoiseSession {
    state: State,
    channel: Channel,
    offer: Offer,
}

fn psk(secret: &[u8], channel: Channel) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(channel.key_label());
    mac.finalize().into_bytes().into()
}

impl NoiseSession {
    /// The side that opened the connection. `secret` is the cluster's.
    pub fn initiator(secret: &[u8]) -> Result<NoiseSession, StreamError> {
        NoiseSession::initiator_of(Channel::Log, secret)
    }

    /// The side that accepted the connection.
    pub fn responder(secret: &[u8]) -> Result<NoiseSession, StreamError> {
        NoiseSession::responder_of(Channel::Log, secret)
    }

    /// The side that opened the connection, for another channel than the log's.
    pub fn initiator_of(channel: Channel, secret: &[u8]) -> Result<NoiseSession, StreamError> {
        NoiseSession::new(channel, secret, true)
    }

    /// The side that accepted the connection, for another channel than the log's.
    pub fn responder_of(channel: Channel, secret: &[u8]) -> Result<NoiseSession, StreamError> {
        NoiseSession::new(channel, secret, false)
    }

    /// Offers something else than what this release speaks: what another release would.
    pub fn offering(mut self, offer: Offer) -> NoiseSession {
        self.offer = offer;
        self
    }

    fn new(channel: Channel, secret: &[u8], initiator: bool) -> Result<NoiseSession, StreamError> {
        let broken = |_| StreamError(StreamErrorKind::Handshake);
        if secret.len() < SECRET_MIN {
            return Err(StreamError(StreamErrorKind::Handshake));
        }
        let psk = psk(secret, channel);
        let builder = Builder::new(PATTERN.parse().map_err(broken)?);
        let builder = builder.psk(0, &psk).and_then(|b| b.prologue(channel.label())).map_err(broken)?;
        let handshake =
            if initiator { builder.build_initiator() } else { builder.build_responder() }.map_err(broken)?;
        Ok(NoiseSession {
            state: State::Shaking { handshake: Box::new(handshake), wire: Vec::new() },
            channel,
            offer: Offer::default(),
        })
    }

    /// The initiator's first message. Nothing for a responder.
    pub fn start(&mut self, out: &mut Vec<u8>) -> Result<(), StreamError> {
        match &mut self.state {
            State::Shaking { handshake, .. } if handshake.is_initiator() && handshake.is_my_turn() => {
                write_handshake(handshake, &self.offer, out)
            }
            State::Shaking { .. } => Ok(()),
            _ => Err(StreamError(StreamErrorKind::State)),
        }
    }

    /// Whether frames can be sealed.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Takes `bytes` off the wire. Appends to `out` what must be sent in answer (handshake only)
    /// and to `frames` what became whole. An error is final; frames before it are good.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        frames: &mut Vec<Frame>,
    ) -> Result<(), StreamError> {
        let result = match std::mem::replace(&mut self.state, State::Dead) {
            State::Dead => Err(StreamError(StreamErrorKind::State)),
            State::Open { sealer, mut opener } => opener.feed(bytes, frames).map(|()| {
                self.state = State::Open { sealer, opener };
            }),
            State::Shaking { handshake, mut wire } => {
                wire.extend_from_slice(bytes);
                self.shake(handshake, wire, out, frames)
            }
        };
        if result.is_err() {
            self.state = State::Dead;
        }
        result
    }

    fn shake(
        &mut self,
        mut handshake: Box<HandshakeState>,
        wire: Vec<u8>,
        out: &mut Vec<u8>,
        frames: &mut Vec<Frame>,
    ) -> Result<(), StreamError> {
        let failed = |_| StreamError(StreamErrorKind::Handshake);
        let message = match next_message(&wire) {
            // Fail at the length already: who speaks another protocol shall not make us wait.
            _ if wire.first_chunk().is_some_and(|len| !is_handshake(u16::from_be_bytes(*len))) => {
                return Err(StreamError(StreamErrorKind::Handshake));
            }
            Ok(Some(message)) => message,
            Ok(None) => {
                self.state = State::Shaking { handshake, wire };
                return Ok(());
            }
            Err(_) => return Err(StreamError(StreamErrorKind::Handshake)),
        };
        if handshake.is_my_turn() {
            return Err(StreamError(StreamErrorKind::Handshake));
        }
        let mut said = [0; OFFER_MOST];
        let len = handshake.read_message(message, &mut said).map_err(failed)?;
        let theirs = Offer::decode(&said[..len])?;
        // Even to whom nothing is in common with, so that both know it.
        if !handshake.is_handshake_finished() {
            write_handshake(&mut handshake, &self.offer, out)?;
        }
        let agreed = self.offer.agree(&theirs)?;
        let early = &wire[2 + message.len()..];
        let keys = Arc::new(handshake.into_stateless_transport_mode().map_err(failed)?);
        let sealer = Sealer { keys: keys.clone(), nonce: 0, plain: Vec::new(), agreed, squeezed: None };
        let frames_of = Assembly::with(agreed.features);
        let mut opener = Opener { keys, nonce: 0, wire: Vec::new(), frames: frames_of, dead: false };
        match self.channel {
            Channel::Log => opener.feed(early, frames)?,
            // Whoever opened it speaks first, and cannot before this.
            Channel::Aside | Channel::Join if early.is_empty() => {}
            Channel::Aside | Channel::Join => return Err(StreamError(StreamErrorKind::Handshake)),
        }
        self.state = State::Open { sealer, opener };
        Ok(())
    }

    /// Appends the wire's bytes of `frame` to `out`. Fails before the handshake is done.
    pub fn seal(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<usize, StreamError> {
        match &mut self.state {
            State::Open { sealer, .. } => sealer.seal(frame, out),
            _ => Err(StreamError(StreamErrorKind::State)),
        }
    }

    /// The two directions of an open session, for a reading and a writing task.
    pub fn into_halves(self) -> Result<(Sealer, Opener), StreamError> {
        match self.state {
            State::Open { sealer, opener } => Ok((sealer, opener)),
            _ => Err(StreamError(StreamErrorKind::State)),
        }
    }
}

/// Whether a message of that length may be one of a handshake.
fn is_handshake(len: u16) -> bool {
    (HANDSHAKE_BARE + OFFER_LEN..=HANDSHAKE_BARE + OFFER_MOST).contains(&usize::from(len))
}

fn write_handshake(
    handshake: &mut HandshakeState,
    offer: &Offer,
    out: &mut Vec<u8>,
) -> Result<(), StreamError> {
    let mut message = [0; HANDSHAKE_BARE + OFFER_LEN];
    let len = handshake
        .write_message(&offer.encode(), &mut message)
        .map_err(|_| StreamError(StreamErrorKind::Handshake))?;
    out.extend_from_slice(&u16::try_from(len).expect("54 bytes").to_be_bytes());
    out.extend_from_slice(&message[..len]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use holdfast_heartbeat::{Epoch, Lsn};
    use proptest::prelude::*;

    use super::super::frame::tests::samples;
    use super::*;
    use crate::testing::Dice;

    const SECRET: &[u8] = b"a secret of the cluster";

    /// An open pair; the initiator first.
    fn pair() -> (NoiseSession, NoiseSession) {
        let mut a = NoiseSession::initiator(SECRET).unwrap();
        let mut b = NoiseSession::responder(SECRET).unwrap();
        let (mut to_b, mut to_a, mut none) = (Vec::new(), Vec::new(), Vec::new());
        a.start(&mut to_b).unwrap();
        b.feed(&to_b, &mut to_a, &mut none).unwrap();
        a.feed(&to_a, &mut Vec::new(), &mut none).unwrap();
        assert!(a.is_open() && b.is_open() && none.is_empty());
        (a, b)
    }

    /// What becomes of a handshake between these two: whether the responder takes the first message, and the two ends.
    fn meet(opens: Channel, accepts: Channel) -> Option<(NoiseSession, NoiseSession)> {
        let mut a = NoiseSession::initiator_of(opens, SECRET).unwrap();
        let mut b = NoiseSession::responder_of(accepts, SECRET).unwrap();
        let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
        a.start(&mut to_b).unwrap();
        b.feed(&to_b, &mut to_a, &mut Vec::new()).ok()?;
        a.feed(&to_a, &mut Vec::new(), &mut Vec::new()).ok()?;
        Some((a, b))
    }

    /// The same for two releases: what each side makes of it.
    fn releases(opens: &Offer, accepts: &Offer) -> [Result<Agreed, StreamErrorKind>; 2] {
        let mut a = NoiseSession::initiator(SECRET).unwrap().offering(opens.clone());
        let mut b = NoiseSession::responder(SECRET).unwrap().offering(accepts.clone());
        let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
        a.start(&mut to_b).unwrap();
        let second = b.feed(&to_b, &mut to_a, &mut Vec::new());
        let first = a.feed(&to_a, &mut Vec::new(), &mut Vec::new());
        let came_to = |session: NoiseSession, end: Result<(), StreamError>| {
            end.map(|()| session.into_halves().unwrap().0.agreed()).map_err(|error| error.0)
        };
        [came_to(a, first), came_to(b, second)]
    }

    #[test]
    fn two_releases_speak_what_both_know_or_both_learn_that_there_is_nothing() {
        let of = |versions, features| Offer { versions, features };
        let (this, later) = (of(1..=1, Features::NONE), of(1..=2, Features::LZ4));
        let common = Ok(Agreed { version: 1, features: Features::NONE });
        assert_eq!(releases(&this, &later), [common, common]);
        assert_eq!(releases(&later, &this), [common, common]);
        let both = Ok(Agreed { version: 2, features: Features::LZ4 });
        assert_eq!(releases(&later, &later), [both, both]);
        let much_later = of(3..=4, Features::LZ4);
        let neither = [Err(StreamErrorKind::Version); 2];
        assert_eq!(releases(&much_later, &later), neither);
        assert_eq!(releases(&later, &much_later), neither);
    }

    /// A primary's half that compresses, and a standby's; the latter offers `features`.
    fn compressing(features: Features) -> (Sealer, Opener) {
        let mut a = NoiseSession::initiator(SECRET).unwrap();
        let offer = Offer { features, ..Offer::default() };
        let mut b = NoiseSession::responder(SECRET).unwrap().offering(offer);
        let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
        a.start(&mut to_b).unwrap();
        b.feed(&to_b, &mut to_a, &mut Vec::new()).unwrap();
        a.feed(&to_a, &mut Vec::new(), &mut Vec::new()).unwrap();
        let (mut sealer, opener) = (a.into_halves().unwrap().0, b.into_halves().unwrap().1);
        sealer.compress();
        (sealer, opener)
    }

    fn append(bytes: Vec<u8>) -> Frame {
        Frame::Append { epoch: Epoch(1), lsn: Lsn(5), committed: Lsn(2), bytes: bytes.into() }
    }

    #[test]
    fn frames_are_compressed_where_both_know_how_and_it_is_worth_it() {
        let mut dice = Dice(1);
        let noise: Vec<u8> = (0..300_000).map(|_| dice.roll() as u8).collect();
        let text = b"what repeats itself is short ".repeat(10_000);
        for (features, smaller) in [(Features::LZ4, true), (Features::NONE, false)] {
            let (mut sealer, mut opener) = compressing(features);
            for (bytes, compressible) in [(text.clone(), true), (noise.clone(), false), (vec![7; 40], false)]
            {
                let (frame, len) = (append(bytes.clone()), bytes.len());
                let (mut wire, mut got) = (Vec::new(), Vec::new());
                sealer.seal(&frame, &mut wire).unwrap();
                assert_eq!(wire.len() < len / 2, smaller && compressible, "{} of {len} bytes", wire.len());
                for piece in wire.chunks(777) {
                    opener.feed(piece, &mut got).unwrap();
                }
                assert_eq!(got, [frame]);
            }
        }
    }

    #[test]
    fn a_compressed_message_takes_no_more_room_than_a_frame_may() {
        let push = |assembly: &mut Assembly, body: &[u8]| {
            let head = (body.len() as u32 | COMPRESSED).to_be_bytes();
            assembly.push(&[&head, body].concat()).map_err(|error| error.0)
        };
        let knows = || Assembly::with(Features::LZ4);
        let mut block = vec![0; 300];
        let len = lz4_flex::block::compress_into(&[6; 200], &mut block).unwrap();
        block.truncate(len);
        let said = |len: u32| [len.to_be_bytes().as_slice(), &block].concat();
        assert_eq!(push(&mut Assembly::default(), &said(200)), Err(StreamErrorKind::TooLarge));
        for wrong in [199, 201, 0] {
            assert_eq!(push(&mut knows(), &said(wrong)), Err(StreamErrorKind::BadFrame));
        }
        assert_eq!(push(&mut knows(), &said(MAX_FRAME as u32 + 1)), Err(StreamErrorKind::TooLarge));
        assert_eq!(push(&mut knows(), &[1, 2]), Err(StreamErrorKind::BadFrame));
    }

    #[test]
    fn channels_are_strangers_to_each_other() {
        let all = [Channel::Log, Channel::Aside, Channel::Join];
        for (opens, accepts) in all.into_iter().flat_map(|one| all.map(|other| (one, other))) {
            assert_eq!(meet(opens, accepts).is_some(), opens == accepts, "{opens:?} {accepts:?}");
        }
    }

    #[test]
    fn bytes_aside_come_back_whole_and_changed_ones_do_not() {
        let (a, b) = meet(Channel::Aside, Channel::Aside).unwrap();
        let ((mut sealer, _), (_, mut opener)) = (a.into_halves().unwrap(), b.into_halves().unwrap());
        let messages = [vec![1; 3], vec![2; 200_000], Vec::new()];
        let mut wire = Vec::new();
        for message in &messages {
            sealer.seal_bytes(message, &mut wire).unwrap();
        }
        let mut got = Vec::new();
        for piece in wire.chunks(777) {
            opener.feed_bytes(piece, &mut got).unwrap();
        }
        assert_eq!(got, messages);
        assert!(sealer.seal_bytes(&vec![0; MAX_FRAME + 1], &mut Vec::new()).is_err());
        wire.clear();
        sealer.seal_bytes(b"x", &mut wire).unwrap();
        *wire.last_mut().unwrap() ^= 1;
        assert_eq!(opener.feed_bytes(&wire, &mut got), Err(StreamError(StreamErrorKind::Decrypt)));
        assert_eq!(opener.feed_bytes(&[], &mut got), Err(StreamError(StreamErrorKind::State)));
    }

    #[test]
    fn frames_pass_both_ways_in_any_pieces() {
        let (mut a, mut b) = pair();
        let (mut wire, mut got, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for frame in samples() {
            a.seal(&frame, &mut wire).unwrap();
        }
        for piece in wire.chunks(777) {
            b.feed(piece, &mut out, &mut got).unwrap();
        }
        assert_eq!(got, samples());
        assert!(out.is_empty());
        wire.clear();
        b.seal(&samples()[3], &mut wire).unwrap();
        got.clear();
        a.feed(&wire, &mut out, &mut got).unwrap();
        assert_eq!(got, samples()[3..4]);
    }

    #[test]
    fn another_secret_does_not_get_past_the_handshake() {
        let mut a = NoiseSession::initiator(SECRET).unwrap();
        let mut b = NoiseSession::responder(b"another secret").unwrap();
        let (mut wire, mut out) = (Vec::new(), Vec::new());
        a.start(&mut wire).unwrap();
        let error = b.feed(&wire, &mut out, &mut Vec::new()).unwrap_err();
        assert_eq!(error, StreamError(StreamErrorKind::Handshake));
        assert!(out.is_empty());
        assert_eq!(b.feed(&wire, &mut out, &mut Vec::new()), Err(StreamError(StreamErrorKind::State)));
        assert!(NoiseSession::initiator(b"short").is_err());
        let mut counts = ErrorCounts::default();
        counts.count(&error);
        assert_eq!(counts.iter().next(), Some(("handshake", 1)));
    }

    #[test]
    fn a_recorded_session_cannot_be_played_to_another_responder() {
        let (mut a, _) = pair();
        let mut first = NoiseSession::initiator(SECRET).unwrap();
        let mut responder = NoiseSession::responder(SECRET).unwrap();
        let (mut hello, mut frame) = (Vec::new(), Vec::new());
        first.start(&mut hello).unwrap();
        responder.feed(&hello, &mut Vec::new(), &mut Vec::new()).unwrap();
        a.seal(&samples()[3], &mut frame).unwrap();
        let mut got = Vec::new();
        let error = responder.feed(&frame, &mut Vec::new(), &mut got).unwrap_err();
        assert_eq!((error.0, got.len()), (StreamErrorKind::Decrypt, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn garbage_ends_the_session_without_panic(bytes in proptest::collection::vec(any::<u8>(), 60..300)) {
            let mut fresh = NoiseSession::responder(SECRET).unwrap();
            prop_assert!(fresh.feed(&bytes, &mut Vec::new(), &mut Vec::new()).is_err());
            let (mut a, _) = pair();
            let mut frames = Vec::new();
            let _ = a.feed(&bytes, &mut Vec::new(), &mut frames);
            prop_assert!(frames.is_empty());
        }

        #[test]
        fn a_flipped_bit_never_yields_a_wrong_frame(at in any::<usize>()) {
            let (mut a, mut b) = pair();
            let mut wire = Vec::new();
            for frame in samples() {
                a.seal(&frame, &mut wire).unwrap();
            }
            let bit = at % (wire.len() * 8);
            wire[bit / 8] ^= 1 << (bit % 8);
            let mut got = Vec::new();
            let end = b.feed(&wire, &mut Vec::new(), &mut got);
            prop_assert!(got.len() < samples().len());
            prop_assert_eq!(&got[..], &samples()[..got.len()]);
            // A grown length may leave the session waiting for bytes; else it is an error.
            prop_assert!(end.is_err() || bit / 8 >= wire.len() - MAX_MESSAGE.min(wire.len()));
        }

        #[test]
        fn swapped_and_repeated_frames_end_the_session(first in 0usize..10, second in 0usize..10) {
            let (mut a, mut b) = pair();
            let mut wires = Vec::new();
            for frame in samples() {
                let mut wire = Vec::new();
                a.seal(&frame, &mut wire).unwrap();
                wires.push(wire);
            }
            let mut got = Vec::new();
            let end = b
                .feed(&wires[first], &mut Vec::new(), &mut got)
                .and_then(|()| b.feed(&wires[second], &mut Vec::new(), &mut got));
            prop_assert_eq!(end.is_ok(), (first, second) == (0, 1));
        }
    }
}
