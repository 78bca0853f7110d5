//! A connection whose client takes what it is sent: one that stops to, or takes it by drops, is closed, since it
//! would hold memory, and bytes of the log, for as long as it likes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How much must go through in [`WINDOW`] while something waits to.
pub(super) const PROGRESS: u64 = 64 * 1024;

/// The span in which it must: about 1 KiB a second, less than any line carries.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub(super) struct Patient<S> {
    stream: S,
    window: Duration,
    /// Runs since the client last kept up.
    behind: Option<Pin<Box<Sleep>>>,
    /// Bytes that it took since.
    taken: u64,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, window: Duration) -> Patient<S> {
        Patient { stream, window, behind: None, taken: 0 }
    }

    fn keeps_up(&mut self) {
        self.behind = None;
        self.taken = 0;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.taken += bytes as u64;
                if self.taken >= PROGRESS {
                    self.keeps_up();
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let window = self.window;
                let behind = self.behind.get_or_insert_with(|| Box::pin(tokio::time::sleep(window)));
                ready!(behind.as_mut().poll(cx));
                let why = "the client does not take what it asked for";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called once all that waited was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.keeps_up();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Writes a mebibyte to a reader that takes `piece` bytes now and then, a window being 200 times as long.
    async fn write_to_one_who_takes(piece: usize) -> io::Result<()> {
        let now_and_then = Duration::from_millis(1);
        let (ours, mut theirs) = tokio::io::duplex(8 * 1024);
        let reader = tokio::spawn(async move {
            let mut bytes = vec![0; piece];
            loop {
                tokio::time::sleep(now_and_then).await;
                match theirs.read(&mut bytes).await {
                    Ok(1..) => {}
                    _ => return,
                }
            }
        });
        let mut patient = Patient::new(ours, now_and_then * 200);
        let written = async {
            patient.write_all(&vec![0; 1 << 20]).await?;
            patient.flush().await
        }
        .await;
        drop(patient);
        reader.abort();
        written
    }

    #[tokio::test]
    async fn who_takes_by_drops_is_cut_off_and_who_is_slow_is_not() {
        let error = write_to_one_who_takes(10).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        write_to_one_who_takes(8 * 1024).await.unwrap();
    }
}
