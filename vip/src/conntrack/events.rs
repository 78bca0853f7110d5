//! What changes in the kernel's table, as it changes.
//!
//! Where a kernel decides by itself for which connections it tells of changes (`nf_conntrack_events` 2, as usual),
//! it does so for those alone that began while somebody listened: hence [`Listener`], which listens to nothing
//! and is held for as long as somebody may want [`Events`] later.

use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use socket2::{SockFilter, SockRef};

use super::flow::{Flow, Key};
use super::{PROTOCOL, ROOM_BYTES, wire};
use crate::gate::wire::answers;

/// Room for notices that nobody has read yet: some ten thousand.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Most notices to throw away after an overrun: more than the buffer holds.
const MOST_STALE: usize = 1 << 16;

const GROUP_NEW: u32 = 1;
const GROUP_UPDATE: u32 = 2;
const GROUP_DESTROY: u32 = 3;

/// Something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An entry was made, or is different now. What the kernel left out is `None` in it.
    Changed(Flow),
    /// An entry is gone.
    Gone(Key),
    /// Some notices were lost: only a look at the whole table says what is in it.
    Overrun,
}

/// Keeps the kernel telling of changes, and reads none.
#[derive(Debug)]
pub struct Listener {
    _socket: Socket,
}

impl Listener {
    /// Begins.
    ///
    /// # Errors
    /// The kernel has no such table, or this process no right to listen.
    pub fn open() -> io::Result<Listener> {
        let mut socket = Socket::new(PROTOCOL)?;
        // Lets nothing pass into the buffer.
        SockRef::from(&socket).attach_filter(&[SockFilter::new(libc::BPF_RET as u16, 0, 0, 0)])?;
        socket.bind(&SocketAddr::new(0, 1 << (GROUP_DESTROY - 1)))?;
        Ok(Listener { _socket: socket })
    }
}

/// A subscription to every change. Used from within a tokio runtime.
pub struct Events {
    socket: TokioSocket,
    room: Vec<u8>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Subscribes, in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Listener::open`].
    pub fn open() -> io::Result<Events> {
        let mut socket = TokioSocket::new(PROTOCOL)?;
        // More than `net.core.rmem_max` needs a capability, which who may listen has as a rule.
        let _ = SockRef::from(socket.socket_ref()).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        let _ = nix::sys::socket::setsockopt(
            socket.socket_ref(),
            nix::sys::socket::sockopt::RcvBufForce,
            &RECEIVE_BUFFER_BYTES,
        );
        let groups = [GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY];
        let mask = groups.into_iter().fold(0, |mask, group| mask | 1 << (group - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
        Ok(Events { socket, room: Vec::with_capacity(ROOM_BYTES) })
    }

    /// Waits for notices and shows up to `most` datagrams of them. May be dropped while waiting: nothing is lost.
    ///
    /// # Errors
    /// The socket failed for good.
    pub async fn next(&mut self, most: usize, mut each: impl FnMut(Notice)) -> io::Result<()> {
        self.room.clear();
        match self.socket.recv(&mut self.room).await {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return self.overrun(each),
            Err(e) => return Err(e),
        }
        self.show(&mut each);
        for _ in 1..most {
            self.room.clear();
            match self.socket.socket_ref().recv(&mut self.room, libc::MSG_DONTWAIT) {
                Ok(_) => self.show(&mut each),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return self.overrun(each),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Only root can send to this socket beside the kernel, and gains nothing by it.
    fn show(&self, each: &mut impl FnMut(Notice)) {
        for answer in answers(&self.room) {
            let Some(flow) = wire::flow(&answer) else { continue };
            match wire::kind(&answer) {
                Some(wire::NEW) => each(Notice::Changed(flow)),
                Some(wire::DELETE) => each(Notice::Gone(flow.key)),
                _ => {}
            }
        }
    }

    /// Throws away what is left in the buffer: the kernel drops all further notices until it was empty once.
    fn overrun(&mut self, mut each: impl FnMut(Notice)) -> io::Result<()> {
        for _ in 0..MOST_STALE {
            self.room.clear();
            match self.socket.socket_ref().recv(&mut self.room, libc::MSG_DONTWAIT) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        each(Notice::Overrun);
        Ok(())
    }
}
