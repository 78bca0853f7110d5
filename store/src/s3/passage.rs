//! How bytes of a file go out by a connection without passing through this process: the kernel sends them from its page
//! cache to the socket.
//!
//! The HTTP library writes bodies as slices of memory. A range of a file is handed to it as a slice of [`BLANK`], which
//! it writes in its turn, in pieces as the socket takes them; the connection below it knows that memory by its address
//! and has the kernel send as many bytes of the range instead.
//!
//! ```text
//!   body --- Passage::enter(range) --> BLANK[..len] --> HTTP library --> Outlet::poll_write: is it BLANK?
//!                      |                                                   | no: write      | yes: sendfile
//!                      +------------------- the range --------------------------------------+
//! ```
//!
//! A client that is slow to take a range could have the kernel read it from the disk again: it is looked at anew then.
//!
//! Invariant: nothing of [`BLANK`] itself is ever sent. The library must queue slices and not copy them together
//! (`writev` is switched on for it); where one came without its range, or a range stays behind, the connection ends.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::backend::FileRange;
use crate::op::CHUNK_LEN;

/// Memory that stands for bytes of a file, which nobody reads or writes.
static BLANK: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; CHUNK_LEN]));

fn is_blank(slice: &[u8]) -> bool {
    !slice.is_empty() && BLANK.as_ptr_range().contains(&slice.as_ptr())
}

/// For how long bytes that were looked at are taken for what the kernel still has in memory.
const FRESH: Duration = Duration::from_secs(5);

/// Looks at a range once more.
pub(super) type LookAgain = Box<dyn Fn() -> io::Result<()> + Send>;

/// A range that waits for its turn.
struct Entered {
    range: FileRange,
    seen: Instant,
    again: LookAgain,
}

/// The ranges that wait for their turn on one connection. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Passage(Arc<Mutex<VecDeque<Entered>>>);

impl Passage {
    /// The slice to be written where these bytes, [`CHUNK_LEN`] at most and just looked at, are to be sent.
    pub(super) fn enter(&self, range: FileRange, again: LookAgain) -> Bytes {
        let slice = BLANK.slice(..range.len as usize);
        self.waiting().push_back(Entered { range, seen: Instant::now(), again });
        slice
    }

    /// Whether everything that was entered has been sent.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Entered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection with a passage.
pub(super) struct Outlet {
    stream: TcpStream,
    passage: Passage,
}

impl Outlet {
    pub(super) fn new(stream: TcpStream, passage: Passage) -> Outlet {
        Outlet { stream, passage }
    }

    /// Sends of the range whose turn it is, `len` bytes at most.
    fn poll_send(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        let mut waiting = self.passage.waiting();
        let Some(Entered { range, seen, again }) = waiting.front_mut() else {
            return Poll::Ready(Err(astray()));
        };
        let len = len.min(range.len as usize);
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            if seen.elapsed() > FRESH {
                again()?;
                *seen = Instant::now();
            }
            let mut at = range.offset;
            let sending = || Ok(rustix::fs::sendfile(&self.stream, &*range.file, Some(&mut at), len)?);
            match self.stream.try_io(Interest::WRITABLE, sending) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(sent) => {
                    range.offset = at;
                    range.len -= sent as u32;
                    if range.len == 0 {
                        waiting.pop_front();
                    }
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn astray() -> io::Error {
    io::Error::other("the HTTP library did not write the bytes of a file in their turn")
}

impl AsyncRead for Outlet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if is_blank(bytes) {
            return self.poll_send(cx, bytes.len());
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let before = pieces.iter().take_while(|piece| !is_blank(piece)).count();
        if pieces[..before].iter().all(|piece| piece.is_empty())
            && let Some(blank) = pieces.get(before)
        {
            return self.poll_send(cx, blank.len());
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces[..before])
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called once all that waited was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.passage.is_empty() {
            return Poll::Ready(Err(astray()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    fn file_of(bytes: &[u8]) -> Arc<std::fs::File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    fn sound() -> LookAgain {
        Box::new(|| Ok(()))
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    #[tokio::test]
    async fn what_is_written_and_what_lies_in_files_arrives_in_its_order() {
        let noise = noise(CHUNK_LEN + 4096);
        let file = file_of(&noise);
        let (ours, mut theirs) = connected().await;
        let passage = Passage::default();
        let mut outlet = Outlet::new(ours, passage.clone());
        let range = |offset: usize, len: usize| FileRange {
            file: file.clone(),
            offset: offset as u64,
            len: len as u32,
        };
        let first = passage.enter(range(4096, CHUNK_LEN), sound());
        let second = passage.enter(range(1, 300_000), sound());
        let third = passage.enter(range(7, 1), sound());
        let sending = async move {
            // In one call, as a library does that has gathered them; what is left of each comes again.
            let mut pieces: Vec<&[u8]> = vec![b"", b"head", &first, b"between", &second, &third, b"", b"end"];
            while !pieces.is_empty() {
                let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                let mut written = outlet.write_vectored(&slices).await.unwrap();
                while let Some(piece) = pieces.first_mut() {
                    let taken = written.min(piece.len());
                    *piece = &piece[taken..];
                    written -= taken;
                    if !piece.is_empty() {
                        break;
                    }
                    pieces.remove(0);
                }
            }
            outlet.flush().await.unwrap();
        };
        let receiving = async {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            got
        };
        let ((), got) = tokio::join!(sending, receiving);
        let expected =
            [b"head", &noise[4096..4096 + CHUNK_LEN], b"between", &noise[1..300_001], &noise[7..8], b"end"]
                .concat();
        assert!(got == expected, "{} bytes instead of {}", got.len(), expected.len());
    }

    #[tokio::test]
    async fn a_blank_without_its_range_and_a_range_that_stays_behind_end_the_connection() {
        let (ours, _theirs) = connected().await;
        let passage = Passage::default();
        let mut outlet = Outlet::new(ours, passage.clone());
        outlet.write(&BLANK[..10]).await.unwrap_err();

        let slice = passage.enter(FileRange { file: file_of(b"a file"), offset: 0, len: 6 }, sound());
        // A library that copies.
        let copy = slice.to_vec();
        outlet.write_all(&copy).await.unwrap();
        outlet.flush().await.unwrap_err();
    }

    #[tokio::test]
    async fn what_waited_for_long_is_looked_at_again() {
        let (ours, mut theirs) = connected().await;
        let passage = Passage::default();
        let mut outlet = Outlet::new(ours, passage.clone());
        let range = || FileRange { file: file_of(b"a file"), offset: 0, len: 6 };
        let fresh = passage.enter(range(), Box::new(|| panic!("it was just seen")));
        outlet.write_all(&fresh).await.unwrap();
        let rotten = || Err(io::Error::other("damaged meanwhile"));
        let old = passage.enter(range(), Box::new(rotten));
        let long_ago = Instant::now().checked_sub(2 * FRESH).unwrap();
        passage.waiting().front_mut().unwrap().seen = long_ago;
        outlet.write_all(&old).await.unwrap_err();
        drop(outlet);
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"a file", "nothing of what is damaged was sent");
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_it_was_ends_the_connection() {
        let (ours, _theirs) = connected().await;
        let passage = Passage::default();
        let mut outlet = Outlet::new(ours, passage.clone());
        let slice = passage.enter(FileRange { file: file_of(b"short"), offset: 0, len: 6 }, sound());
        let error = outlet.write_all(&slice).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
