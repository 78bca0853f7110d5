//! Looks at the kernel's table, puts entries in, and deletes them.
//!
//! The kernel does all of it while the system call lasts, so nothing here waits for anybody; a dump of a large
//! table takes a quarter of a second for a hundred thousand entries, and belongs on a thread of its own.

use std::io;

use netlink_sys::{Socket, SocketAddr};

use super::flow::{Flow, Key};
use super::{PROTOCOL, ROOM_BYTES, wire};
use crate::gate::wire::{DONE, answers, drain, outcome, receive};

/// Orders in one system call. The kernel answers each that it refuses, and all answers together must have room in
/// the socket's buffer of usually 208 KiB, in which a short one takes 768 bytes.
const ORDERS_AT_ONCE: usize = 128;
/// Most datagrams of one dump: room for ten million entries.
const MOST_ANSWERS: usize = 1 << 17;

/// Something to be done to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Make the entry what it says here, whether it is there or not.
    Put(Flow),
    /// Put the entry in unless it is there: what is there is newer.
    Add(Flow),
    /// Delete the entry if it is there.
    Delete(Key),
}

/// What became of an [`Order`].
#[derive(Debug)]
pub enum Outcome {
    /// An entry was put in that was not there.
    Created,
    /// An entry was there and now says what it should.
    Changed,
    /// It is not there any more, or was there and was to be left alone.
    Done,
    /// The kernel refused.
    Refused(io::Error),
}

/// A socket to the table of the network namespace of the thread that opened it.
pub struct Table {
    socket: Socket,
    sequence: u32,
    room: Vec<u8>,
    request: Vec<u8>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// How an order is tried.
#[derive(Clone, Copy, PartialEq)]
enum Try {
    Create,
    Change,
    Delete,
    DeleteWhatIsInTheWay,
}

impl Table {
    /// Opens a socket. Succeeds without privileges; what is asked then may be refused.
    ///
    /// # Errors
    /// No netlink socket can be had.
    pub fn open() -> io::Result<Table> {
        let mut socket = Socket::new(PROTOCOL)?;
        socket.bind_auto()?;
        // Without it a refusal carries the refused message along.
        let _ = socket.set_cap_ack(true);
        Ok(Table { socket, sequence: 1, room: vec![0; ROOM_BYTES], request: Vec::new() })
    }

    /// Finds out whether the table can be asked.
    ///
    /// # Errors
    /// As [`Table::dump`].
    pub fn look(&mut self) -> io::Result<()> {
        self.dump(|_| {})
    }

    /// Shows every entry whose both sides have spoken to `each`. One that is made or deleted meanwhile may be
    /// missing, and one may be shown twice.
    ///
    /// # Errors
    /// The kernel has no such table (`nf_conntrack_netlink`), or this process no right to look (CAP_NET_ADMIN).
    pub fn dump(&mut self, mut each: impl FnMut(Flow)) -> io::Result<()> {
        drain(&self.socket, &mut self.room, MOST_ANSWERS);
        let sequence = self.next_sequence();
        self.request.clear();
        wire::ask_for_all(&mut self.request, sequence);
        self.socket.send_to(&self.request, &SocketAddr::new(0, 0), 0)?;
        for _ in 0..MOST_ANSWERS {
            let length = receive(&self.socket, &mut self.room)?;
            for answer in answers(&self.room[..length]).filter(|answer| answer.sequence == sequence) {
                if answer.kind == DONE {
                    return Ok(());
                }
                if let Some(outcome) = outcome(&answer) {
                    return outcome;
                }
                if let Some(flow) = wire::flow(&answer) {
                    each(flow);
                }
            }
        }
        Err(io::Error::other("the kernel's table has no end"))
    }

    /// Carries `orders` out, one after the other, and tells of each by its index. An order that was refused stops
    /// no other one.
    ///
    /// # Errors
    /// The socket failed; what was not told of was perhaps not done.
    pub fn carry_out(&mut self, orders: &[Order], mut told: impl FnMut(usize, Outcome)) -> io::Result<()> {
        for (at, some) in orders.chunks(ORDERS_AT_ONCE).enumerate() {
            self.some(some, |index, outcome| told(at * ORDERS_AT_ONCE + index, outcome))?;
        }
        Ok(())
    }

    fn some(&mut self, orders: &[Order], mut told: impl FnMut(usize, Outcome)) -> io::Result<()> {
        let mut trying: Vec<(usize, Try)> = orders
            .iter()
            .enumerate()
            .map(|(index, order)| match order {
                Order::Put(_) | Order::Add(_) => (index, Try::Create),
                Order::Delete(_) => (index, Try::Delete),
            })
            .collect();
        // Create, change, clear the way, create again: what is refused then is refused.
        let mut cleared = vec![false; orders.len()];
        while !trying.is_empty() {
            let refusals = self.send(orders, &trying)?;
            let mut next = Vec::new();
            for (&(index, how), refusal) in trying.iter().zip(refusals) {
                let code = refusal.as_ref().and_then(io::Error::raw_os_error);
                let add = matches!(orders[index], Order::Add(_));
                match (how, code) {
                    (Try::Create, Some(libc::EEXIST)) if add => told(index, Outcome::Done),
                    (Try::Create, Some(libc::EEXIST)) if !cleared[index] => next.push((index, Try::Change)),
                    // Not this connection, but one that would get the same answers; or an earlier one of the
                    // same name, whose status cannot be taken back.
                    (Try::Change, Some(libc::ENOENT)) => {
                        cleared[index] = true;
                        next.push((index, Try::DeleteWhatIsInTheWay));
                    }
                    (Try::Change, Some(libc::EBUSY)) => {
                        cleared[index] = true;
                        next.push((index, Try::Delete));
                    }
                    (Try::DeleteWhatIsInTheWay, _) => next.push((index, Try::Create)),
                    (Try::Delete, _) if !matches!(orders[index], Order::Delete(_)) => {
                        next.push((index, Try::Create));
                    }
                    (Try::Delete, Some(libc::ENOENT)) => told(index, Outcome::Done),
                    _ => told(
                        index,
                        match (refusal, how) {
                            (Some(refusal), _) => Outcome::Refused(refusal),
                            (None, Try::Create) => Outcome::Created,
                            (None, Try::Change) => Outcome::Changed,
                            (None, _) => Outcome::Done,
                        },
                    ),
                }
            }
            trying = next;
        }
        Ok(())
    }

    /// Sends each order as it is to be tried; the result has the refusal of each, or none.
    fn send(&mut self, orders: &[Order], trying: &[(usize, Try)]) -> io::Result<Vec<Option<io::Error>>> {
        drain(&self.socket, &mut self.room, MOST_ANSWERS);
        let first = self.sequence;
        self.request.clear();
        for &(index, how) in trying {
            let sequence = self.next_sequence();
            let out = &mut self.request;
            match (how, &orders[index]) {
                (Try::Create, Order::Put(flow) | Order::Add(flow)) => wire::create(out, flow, sequence),
                (Try::Change, Order::Put(flow) | Order::Add(flow)) => wire::change(out, flow, sequence),
                (Try::DeleteWhatIsInTheWay, Order::Put(flow) | Order::Add(flow)) => {
                    wire::delete_by_reply(out, flow, sequence);
                }
                (_, Order::Put(flow) | Order::Add(flow)) => wire::delete(out, &flow.key, sequence),
                (_, Order::Delete(key)) => wire::delete(out, key, sequence),
            }
        }
        self.socket.send_to(&self.request, &SocketAddr::new(0, 0), 0)?;
        let mut refusals: Vec<Option<io::Error>> = trying.iter().map(|_| None).collect();
        loop {
            let length = match receive(&self.socket, &mut self.room) {
                Ok(length) => length,
                // The kernel answered before the send returned, and only where it refused.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(refusals),
                Err(e) => return Err(e),
            };
            for answer in answers(&self.room[..length]) {
                let index = answer.sequence.wrapping_sub(first) as usize;
                if let (Some(Err(refusal)), Some(place)) = (outcome(&answer), refusals.get_mut(index)) {
                    *place = Some(refusal);
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        sequence
    }
}

fn setting(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?.trim().parse().ok()
}

/// How many entries the kernel lets the table have.
pub fn most_entries() -> Option<u64> {
    setting("nf_conntrack_max")
}

/// How many entries the table of this network namespace has.
pub fn entries() -> Option<u64> {
    setting("nf_conntrack_count")
}

/// Whether the kernel tells of changes at all (`nf_conntrack_events`).
pub fn events_enabled() -> Option<bool> {
    setting("nf_conntrack_events").map(|value| value != 0)
}
