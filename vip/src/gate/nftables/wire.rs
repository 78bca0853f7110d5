//! nf_tables as the kernel speaks it: messages, batches, and a socket that carries them. (The attributes and
//! the socket serve the gate's other netlink talk too, the attributes also that of `conntrack`.)
//!
//! It decides encoding and nothing else. A batch is all or nothing, and the kernel answers before the
//! send returns: nothing here waits. Attribute and message numbers are those of
//! `linux/netfilter/nf_tables.h`. It is written by hand, and not with a library's trees of messages, because
//! a renewal must be cheap and re-use its memory.
//!
//! Invariant: no answer of the kernel, however cut or long, can panic the parser.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// Family of tables that hang on interfaces.
pub(super) const FAMILY_NETDEV: u8 = 5;
const FAMILY_UNSPECIFIED: u8 = 0;

/// The subsystem's number, in the upper byte of a message's type.
pub(super) const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;

pub(super) const NEW_TABLE: u8 = 0;
pub(super) const GET_TABLE: u8 = 1;
pub(super) const DELETE_TABLE: u8 = 2;
pub(super) const NEW_CHAIN: u8 = 3;
pub(super) const GET_CHAIN: u8 = 4;
pub(super) const NEW_RULE: u8 = 6;
pub(super) const GET_RULE: u8 = 7;
pub(super) const NEW_SET: u8 = 9;
pub(super) const NEW_ELEMENT: u8 = 12;
pub(super) const DELETE_ELEMENT: u8 = 14;
pub(super) const NEW_GENERATION: u8 = 15;

pub(crate) const REQUEST: u16 = 0x001;
const ACK: u16 = 0x004;
pub(crate) const DUMP: u16 = 0x300;
/// Refuse what is there already.
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const NESTED: u16 = 1 << 15;
/// The kernel's bits of an attribute's type that are no part of its number.
const KIND: u16 = !(3 << 14);
const HEADER_BYTES: usize = 16;
const GENERIC_BYTES: usize = 4;

/// Room for one answer: the kernel makes dumps of pages of up to 32 KiB.
const ANSWER_BYTES: usize = 64 * 1024;
/// Most datagrams of one dump; a ruleset of a million rules stays within it.
const MOST_ANSWERS: usize = 1 << 14;

/// Appends attributes to a message.
pub(crate) struct Attributes<'a>(pub(crate) &'a mut Vec<u8>);

impl Attributes<'_> {
    /// An attribute of plain bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("an attribute of ours is short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A name, with its closing zero.
    pub(in crate::gate) fn text(&mut self, kind: u16, value: &str) {
        let at = self.0.len();
        self.nest_with(kind, 0, |inner| {
            inner.0.extend(value.as_bytes());
            inner.0.push(0);
        });
        self.0.resize(at + (self.0.len() - at).next_multiple_of(4), 0);
    }

    /// A number of four bytes.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number of eight bytes.
    pub(super) fn long(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Attributes within an attribute.
    pub(crate) fn nest(&mut self, kind: u16, build: impl FnOnce(&mut Attributes<'_>)) {
        self.nest_with(kind, NESTED, build);
    }

    fn nest_with(&mut self, kind: u16, flag: u16, build: impl FnOnce(&mut Attributes<'_>)) {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | flag).to_ne_bytes());
        build(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - at).expect("an attribute of ours is short");
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Messages that take effect together or not at all.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where the last message that is not the batch's end begins.
    last: usize,
}

impl Batch {
    /// Forgets what was in it and begins anew; the memory is kept.
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        self.header(BATCH_BEGIN, 0, FAMILY_UNSPECIFIED, u16::from(SUBSYSTEM), |_| ());
    }

    /// Appends a message.
    pub(super) fn message(&mut self, kind: u8, flags: u16, build: impl FnOnce(&mut Attributes<'_>)) {
        self.last = self.bytes.len();
        self.header(u16::from(SUBSYSTEM) << 8 | u16::from(kind), flags, FAMILY_NETDEV, 0, build);
    }

    fn header(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        build: impl FnOnce(&mut Attributes<'_>),
    ) {
        let at = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        build(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - at).expect("a message of ours is short");
        self.bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Ends it: the last message is the one that the kernel confirms. Numbers the messages from `sequence`
    /// on, and returns the number of the last.
    fn finish(&mut self, sequence: u32) -> u32 {
        let flags_at = self.last + 6;
        let flags = u16::from_ne_bytes([self.bytes[flags_at], self.bytes[flags_at + 1]]) | ACK;
        self.bytes[flags_at..flags_at + 2].copy_from_slice(&flags.to_ne_bytes());
        let last = self.last;
        self.header(BATCH_END, 0, FAMILY_UNSPECIFIED, u16::from(SUBSYSTEM), |_| ());
        let (mut at, mut number, mut confirmed) = (0, sequence, sequence);
        while at < self.bytes.len() {
            self.bytes[at + 8..at + 12].copy_from_slice(&number.to_ne_bytes());
            if at == last {
                confirmed = number;
            }
            number = number.wrapping_add(1);
            let length = u32::from_ne_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"));
            at += length as usize;
        }
        confirmed
    }
}

/// One message of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    /// Subsystem and message, or a number below 16.
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    /// The socket on whose order the kernel did what it tells; zero if on nobody's.
    pub(super) port: u32,
    /// The table's family, where there is one.
    pub(crate) family: u8,
    /// Everything behind the netlink header.
    pub(in crate::gate) payload: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The attributes behind the generic header.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.payload.get(GENERIC_BYTES..).unwrap_or_default())
    }

    /// The attribute `kind`, if there is one.
    pub(super) fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        attribute(self.payload.get(GENERIC_BYTES..)?, kind)
    }

    /// An attribute that is a name.
    pub(super) fn text(&self, kind: u16) -> Option<&'a str> {
        text(self.attribute(kind)?)
    }

    /// An attribute that is a number of four bytes.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(kind)?.try_into().ok()?))
    }
}

/// A name without its closing zero.
pub(in crate::gate) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.split(|&byte| byte == 0).next()?).ok()
}

/// The attribute `kind` in a row of them, if it is there.
pub(in crate::gate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The attributes in a row of them.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d] = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & KIND, value))
    })
}

/// The messages of a datagram.
pub(crate) fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<HEADER_BYTES>()?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let payload = datagram.get(HEADER_BYTES..word(0) as usize)?;
        let answer = Answer {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: word(8),
            port: word(12),
            family: payload.first().copied().unwrap_or_default(),
            payload,
        };
        datagram = datagram.get((word(0) as usize).next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The outcome that an answer of type [`ERROR`] states; `None` for other answers.
pub(crate) fn outcome(answer: &Answer<'_>) -> Option<io::Result<()>> {
    if answer.kind != ERROR {
        return None;
    }
    let code = answer.payload.first_chunk::<4>().map_or(libc::EPROTO, |bytes| -i32::from_ne_bytes(*bytes));
    Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) })
}

/// What the kernel has answered, if anything is there: one datagram.
pub(crate) fn receive(socket: &Socket, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(&mut &mut room[..], libc::MSG_DONTWAIT) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Throws away what an earlier order left unread, `most` datagrams at most.
pub(crate) fn drain(socket: &Socket, room: &mut [u8], most: usize) {
    for _ in 0..most {
        match receive(socket, room) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// A socket for orders and questions. The tables that it made with an owner are its own.
pub(in crate::gate) struct Control {
    socket: Socket,
    sequence: u32,
    room: Vec<u8>,
    /// How other sockets see this one.
    pub(super) port: u32,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Control {
    /// Opens a socket for nf_tables in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Control> {
        Control::open_for(NETLINK_NETFILTER)
    }

    /// Opens a socket for a netlink protocol in the calling thread's network namespace.
    pub(in crate::gate) fn open_for(protocol: isize) -> io::Result<Control> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        // Without it a refusal carries the refused message along.
        let _ = socket.set_cap_ack(true);
        Ok(Control { socket, sequence: 1, room: vec![0; ANSWER_BYTES], port })
    }

    /// Has the kernel carry out a batch. In force when this returns `Ok`; in no part when the kernel
    /// refused.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) fn commit(&mut self, batch: &mut Batch) -> io::Result<()> {
        drain(&self.socket, &mut self.room, MOST_ANSWERS);
        let first = self.sequence;
        let last = batch.finish(first);
        self.sequence = last.wrapping_add(2);
        self.socket.send_to(&batch.bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            let length = match receive(&self.socket, &mut self.room) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::other("the kernel did not answer a batch"));
                }
                Err(e) => return Err(e),
            };
            for answer in answers(&self.room[..length]) {
                match outcome(&answer) {
                    Some(Err(refusal)) => return Err(refusal),
                    Some(Ok(())) if answer.sequence == last => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Asks for every object of a kind, and shows each to `each`. `narrow` appends what the kernel may use to
    /// tell fewer.
    ///
    /// # Errors
    /// The kernel's refusal; what was shown before it is a part of the answer.
    pub(super) fn dump(
        &mut self,
        kind: u8,
        narrow: impl FnOnce(&mut Attributes<'_>),
        each: impl FnMut(&Answer<'_>),
    ) -> io::Result<()> {
        let mut request = Batch::default();
        request.message(kind, DUMP, narrow);
        self.exchange(&mut request.bytes, each)
    }

    /// Sends one whole message that asks for a dump or a confirmation, and shows what comes to `each`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(in crate::gate) fn exchange(
        &mut self,
        request: &mut [u8],
        mut each: impl FnMut(&Answer<'_>),
    ) -> io::Result<()> {
        drain(&self.socket, &mut self.room, MOST_ANSWERS);
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        request[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
        for _ in 0..MOST_ANSWERS {
            let length = receive(&self.socket, &mut self.room)?;
            for answer in answers(&self.room[..length]).filter(|answer| answer.sequence == sequence) {
                match answer.kind {
                    DONE => return Ok(()),
                    ERROR => return outcome(&answer).unwrap_or(Ok(())),
                    _ => each(&answer),
                }
            }
        }
        Err(io::Error::other("the kernel's answer has no end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_laid_out_as_the_kernel_reads_it() {
        let mut batch = Batch::default();
        batch.begin();
        batch.message(NEW_TABLE, CREATE, |a| {
            a.text(1, "ab");
            a.number(2, 6);
        });
        assert_eq!(batch.finish(7), 8);
        let kinds: Vec<_> = answers(&batch.bytes).map(|m| (m.kind, m.sequence, m.family)).collect();
        assert_eq!(kinds, [(BATCH_BEGIN, 7, 0), (0x0a00, 8, 5), (BATCH_END, 9, 0)]);
        let table = answers(&batch.bytes).nth(1).unwrap();
        assert_eq!((table.text(1), table.number(2)), (Some("ab"), Some(6)));
        assert_eq!(batch.bytes.len(), 20 + (20 + 8 + 8) + 20);
        assert_eq!(batch.bytes[20 + 6..20 + 8], (CREATE | ACK | REQUEST).to_ne_bytes());
    }

    #[test]
    fn nests_say_their_length_and_can_be_read_again() {
        let mut bytes = Vec::new();
        Attributes(&mut bytes).nest(4, |a| {
            a.bytes(1, &[9]);
            a.long(2, 300);
        });
        let (kind, inner) = attributes(&bytes).next().unwrap();
        assert_eq!(kind, 4);
        let inner: Vec<_> = attributes(inner).collect();
        assert_eq!(inner, [(1, &[9][..]), (2, &300u64.to_be_bytes()[..])]);
    }

    #[test]
    fn no_datagram_can_panic_the_parser() {
        for length in 0..64u32 {
            for fill in [0, 1, 4, 0xa5, 0xff] {
                let mut datagram = vec![fill; 48];
                datagram[..4].copy_from_slice(&length.to_ne_bytes());
                for answer in answers(&datagram) {
                    let _ = (answer.text(1), answer.number(2), outcome(&answer));
                    assert!(answer.attributes().all(|(_, value)| attributes(value).count() < 48));
                }
            }
        }
    }
}
