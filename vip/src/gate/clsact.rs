//! The older place for the gate's programs: filters of a `clsact` queueing discipline (Linux 4.5), for kernels
//! that have no tcx.
//!
//! It decides nothing: it attaches, lists and detaches over rtnetlink. A filter is known by its name. The
//! queueing discipline is made where there is none, and never removed, nor is any filter of somebody else's:
//! who made it, and who else uses it, cannot be told.
//!
//! The programs answer with the same numbers as at tcx: -1 leaves a packet to the next filter, 2 drops it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;

use super::nftables::wire::{Answer, Attributes, Control, attribute, text};
use super::program::Direction;

const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;

const REQUEST: u16 = 0x001;
const ACK: u16 = 0x004;
const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// `struct tcmsg`
const HEADER_BYTES: usize = 20;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
/// The program's answer is the verdict.
const DIRECT_ACTION: u32 = 1;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// The first to be asked. Among filters of the same priority the newest is.
const PRIORITY: u32 = 1;
const ALL_PROTOCOLS: u16 = 0x0003;

/// A filter with a program, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) program: u32,
    pub(super) name: String,
    handle: u32,
    info: u32,
}

fn parent(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => 0xffff_fff2,
        Direction::Egress => 0xffff_fff3,
    }
}

/// Priority and protocol in one, as `tcm_info` wants them.
fn place() -> u32 {
    PRIORITY << 16 | u32::from(ALL_PROTOCOLS.to_be())
}

fn request(
    kind: u16,
    flags: u16,
    index: u32,
    [handle, parent, info]: [u32; 3],
    build: impl FnOnce(&mut Attributes<'_>),
) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | REQUEST).to_ne_bytes());
    bytes.extend([0; 8 + 4]);
    for word in [index, handle, parent, info] {
        bytes.extend(word.to_ne_bytes());
    }
    build(&mut Attributes(&mut bytes));
    let length = u32::try_from(bytes.len()).expect("a message of ours is short");
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

fn carry_out(mut request: Vec<u8>) -> io::Result<()> {
    Control::open_for(NETLINK_ROUTE)?.exchange(&mut request, |_| ())
}

/// Attaches a program under `name`, before the filters that are there.
pub(super) fn attach(
    index: u32,
    direction: Direction,
    program: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    let made = request(NEW_QDISC, ACK | CREATE | EXCLUSIVE, index, [CLSACT_HANDLE, CLSACT, 0], |qdisc| {
        qdisc.text(KIND, "clsact")
    });
    match carry_out(made) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let at = [0, parent(direction), place()];
    carry_out(request(NEW_FILTER, ACK | CREATE | EXCLUSIVE, index, at, |filter| {
        filter.text(KIND, "bpf");
        filter.nest(OPTIONS, |options| {
            options.bytes(BPF_FD, &program.as_raw_fd().to_ne_bytes());
            options.text(BPF_NAME, name);
            options.bytes(BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
        });
    }))
}

/// The filters with programs on an interface, in the order in which they are asked.
pub(super) fn attached(index: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    let mut question = request(GET_FILTER, DUMP, index, [0, parent(direction), 0], |_| ());
    let mut control = Control::open_for(NETLINK_ROUTE)?;
    control.exchange(&mut question, |answer| filters.extend(filter(answer)))?;
    Ok(filters)
}

fn filter(answer: &Answer<'_>) -> Option<Filter> {
    let word = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.try_into().ok()?));
    let header = answer.payload.first_chunk::<HEADER_BYTES>().filter(|_| answer.kind == NEW_FILTER)?;
    let all = &answer.payload[HEADER_BYTES..];
    let options = attribute(all, OPTIONS).filter(|_| attribute(all, KIND).and_then(text) == Some("bpf"))?;
    Some(Filter {
        program: word(attribute(options, BPF_ID)?)?,
        name: attribute(options, BPF_NAME).and_then(text).unwrap_or_default().to_owned(),
        handle: word(&header[8..12])?,
        info: word(&header[16..20])?,
    })
}

/// Removes one filter.
pub(super) fn detach(index: u32, direction: Direction, filter: &Filter) -> io::Result<()> {
    let at = [filter.handle, parent(direction), filter.info];
    match carry_out(request(DELETE_FILTER, ACK, index, at, |message| message.text(KIND, "bpf"))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
