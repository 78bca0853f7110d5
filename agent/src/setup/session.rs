//! One conversation between host one and a host that joins: a TCP connection under a Noise session of its own channel,
//! keyed by a token.
//!
//! Every wait is bounded by its caller; every message by [`MOST_BYTES`]. Receiving can be given up at any moment and
//! taken up again: nothing that came is lost by it.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use holdfast_replication::stream::{
    Channel, Features, NoiseSession, Offer, Opener, Sealer, StreamError, StreamErrorKind,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::messages::MOST_BYTES;
use super::token::Key;

/// Read at a time, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// Most bytes of the wire that a message may take: what Noise adds to it is far less than half.
const MOST_WIRE_BYTES: usize = MOST_BYTES * 3 / 2;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The other side ended it.
    #[error("the other side closed the connection")]
    Closed,
    /// The network did.
    #[error("the connection broke off: {0}")]
    Io(#[from] io::Error),
    /// The other side does not know the token, or does not speak of joining.
    #[error("the other side did not prove that it knows the token")]
    Stranger,
    /// The other side is of a release that is too far from this one.
    #[error("the other side runs a release of Holdfast that is too far from this one")]
    Release,
    /// It speaks, and not as it should.
    #[error("the other side said something that does not belong here")]
    Nonsense,
}

impl From<StreamError> for Broken {
    fn from(StreamError(kind): StreamError) -> Broken {
        match kind {
            StreamErrorKind::Version => Broken::Release,
            StreamErrorKind::Handshake => Broken::Stranger,
            _ => Broken::Nonsense,
        }
    }
}

/// An open conversation.
pub(super) struct Session {
    stream: TcpStream,
    sealer: Sealer,
    opener: Opener,
    inbox: VecDeque<Bytes>,
    /// Bytes of the wire since the last whole message.
    pending: usize,
}

/// Small messages gain nothing by compression, and what is compressed could tell its length.
fn offer() -> Offer {
    Offer { features: Features::NONE, ..Offer::default() }
}

impl Session {
    /// Opens the conversation, as the host that joins.
    pub(super) async fn open(mut stream: TcpStream, key: &Key) -> Result<Session, Broken> {
        let mut noise = NoiseSession::initiator_of(Channel::Join, key.as_slice())?.offering(offer());
        let mut wire = Vec::new();
        noise.start(&mut wire)?;
        stream.write_all(&wire).await?;
        let answer = first_message(&mut stream).await.map_err(|error| match error {
            // Whoever knows the token answers.
            Broken::Closed => Broken::Stranger,
            Broken::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => Broken::Stranger,
            other => other,
        })?;
        noise.feed(&answer, &mut Vec::new(), &mut Vec::new())?;
        Session::whole(stream, noise)
    }

    /// Takes the conversation up with whoever knows one of `keys`; says which one.
    pub(super) async fn accept<Id: Copy>(
        mut stream: TcpStream,
        keys: &[(Id, Key)],
    ) -> Result<(Id, Session), Broken> {
        let first = first_message(&mut stream).await?;
        for (id, key) in keys {
            let mut noise = NoiseSession::responder_of(Channel::Join, key.as_slice())?.offering(offer());
            let mut answer = Vec::new();
            match noise.feed(&first, &mut answer, &mut Vec::new()) {
                Ok(()) => {
                    stream.write_all(&answer).await?;
                    return Ok((*id, Session::whole(stream, noise)?));
                }
                // Of that key, and of another release: it is told.
                Err(StreamError(StreamErrorKind::Version)) => {
                    stream.write_all(&answer).await?;
                    return Err(Broken::Release);
                }
                Err(_) => {}
            }
        }
        Err(Broken::Stranger)
    }

    fn whole(stream: TcpStream, noise: NoiseSession) -> Result<Session, Broken> {
        let (sealer, opener) = noise.into_halves()?;
        Ok(Session { stream, sealer, opener, inbox: VecDeque::new(), pending: 0 })
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<(), Broken> {
        let text = Zeroizing::new(serde_json::to_vec(message).map_err(io::Error::other)?);
        if text.len() > MOST_BYTES {
            return Err(Broken::Nonsense);
        }
        let mut wire = Vec::new();
        self.sealer.seal_bytes(&text, &mut wire)?;
        self.stream.write_all(&wire).await?;
        Ok(())
    }

    /// Waits for the next message.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, Broken> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return serde_json::from_slice(&message).map_err(|_| Broken::Nonsense);
            }
            let len = self.stream.read(&mut buffer).await?;
            if len == 0 {
                return Err(Broken::Closed);
            }
            let mut messages = Vec::new();
            self.opener.feed_bytes(&buffer[..len], &mut messages)?;
            self.pending = if messages.is_empty() { self.pending + len } else { 0 };
            if self.pending > MOST_WIRE_BYTES {
                return Err(Broken::Nonsense);
            }
            self.inbox.extend(messages);
        }
    }
}

/// The first message of the other side as it stands on the wire, with its length before it.
async fn first_message(stream: &mut TcpStream) -> Result<Vec<u8>, Broken> {
    /// A handshake's message is far shorter; who speaks another protocol shall not be waited for.
    const MOST_HANDSHAKE_BYTES: u16 = 512;
    let mut head = [0; 2];
    read_whole(stream, &mut head).await?;
    let len = u16::from_be_bytes(head);
    if len > MOST_HANDSHAKE_BYTES {
        return Err(Broken::Stranger);
    }
    let mut message = vec![0; 2 + usize::from(len)];
    message[..2].copy_from_slice(&head);
    read_whole(stream, &mut message[2..]).await?;
    Ok(message)
}

async fn read_whole(stream: &mut TcpStream, into: &mut [u8]) -> Result<(), Broken> {
    match stream.read_exact(into).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Broken::Closed),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::setup::messages::{File, FromHost, FromJoiner};

    fn key(byte: u8) -> Key {
        Key::new([byte; 16])
    }

    /// Two ends of a connection over loopback: who opened it first.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let opened = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (opened, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn whoever_knows_one_of_the_keys_is_understood_under_it() {
        let (opens, accepts) = connected().await;
        let keys = [(1, key(1)), (2, key(2))];
        let theirs = key(2);
        let (opened, accepted) = tokio::join!(Session::open(opens, &theirs), Session::accept(accepts, &keys));
        let (mut joiner, (id, mut host)) = (opened.unwrap(), accepted.unwrap());
        assert_eq!(id, 2);
        joiner.send(&FromJoiner::Here).await.unwrap();
        joiner.send(&FromJoiner::Placed).await.unwrap();
        assert!(matches!(host.receive().await.unwrap(), FromJoiner::Here));
        assert!(matches!(host.receive().await.unwrap(), FromJoiner::Placed));
        let long = File { name: "secret".to_owned(), text: "x".repeat(100_000) };
        let files = FromHost::Files { name: "b".to_owned(), files: vec![long.clone()] };
        let (sent, got) = tokio::join!(host.send(&files), joiner.receive::<FromHost>());
        sent.unwrap();
        assert!(matches!(got.unwrap(), FromHost::Files { files, .. } if files == [long]));
        drop(host);
        assert!(matches!(joiner.receive::<FromHost>().await, Err(Broken::Closed)));
    }

    #[tokio::test]
    async fn another_key_is_a_strangers_and_so_is_another_protocol() {
        let (opens, accepts) = connected().await;
        let (keys, theirs) = ([(1, key(1))], key(9));
        let (opened, accepted) = tokio::join!(Session::open(opens, &theirs), Session::accept(accepts, &keys));
        assert!(matches!(opened, Err(Broken::Stranger)) && matches!(accepted, Err(Broken::Stranger)));
        let (mut opens, accepts) = connected().await;
        opens.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(matches!(Session::accept(accepts, &keys).await, Err(Broken::Stranger)));
    }

    #[tokio::test]
    async fn a_message_without_end_is_not_collected() {
        let (opens, accepts) = connected().await;
        let keys = [(1, key(1))];
        let theirs = key(1);
        let (opened, accepted) = tokio::join!(Session::open(opens, &theirs), Session::accept(accepts, &keys));
        let (mut joiner, (_, mut host)) = (opened.unwrap(), accepted.unwrap());
        // More than it may be, under the right key.
        let mut wire = Vec::new();
        joiner.sealer.seal_bytes(&vec![b'x'; 2 * MOST_WIRE_BYTES], &mut wire).unwrap();
        let sends = tokio::spawn(async move {
            // The other side hangs up in the middle.
            let _ = joiner.stream.write_all(&wire).await;
        });
        assert!(matches!(host.receive::<FromJoiner>().await, Err(Broken::Nonsense)));
        drop(host);
        sends.await.unwrap();
    }
}
