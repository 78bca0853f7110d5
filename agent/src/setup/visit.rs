//! One connection with host one: who is it, may he have a place, and then what both sides say, for as long as it lasts.
//!
//! A token is spent here, with the first message that decrypts under it: only that is certain to be no recording. It
//! decides nothing else, and knows of no other connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::messages::{FromHost, FromJoiner, Hello};
use super::session::{Broken, Session};
use super::tokens::Tokens;

/// A host that knows a token has proved it, and said who it is, after two round trips.
const PROVE_WITHIN: Duration = Duration::from_secs(10);
/// Whoever was not heard for so long is gone: six answers are missing.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(30);
/// How long the last word to a host may take to leave.
pub(super) const FAREWELL: Duration = Duration::from_secs(3);

/// A host that took a place.
pub(super) struct Visitor {
    /// Which visit it is: a place may be left and taken again.
    pub visit: u64,
    /// Who it is.
    pub hello: Hello,
    /// What it is told.
    pub tell: mpsc::Sender<FromHost>,
}

/// What happened with a connection.
pub(super) enum Event {
    /// Somebody who knows no token, or does not speak of joining.
    Stranger { from: IpAddr, why: String },
    /// Somebody with a token that is not good.
    NoGood { from: IpAddr, why: String },
    /// Somebody with a good token, who is told things from now on.
    Came { place: usize, visitor: Visitor },
    /// Somebody with a good token who did not even say who he is.
    Lost { place: usize, visit: u64, why: String },
    /// It has its files.
    Placed { place: usize, visit: u64 },
    /// It has not, and says why.
    Refused { place: usize, visit: u64, why: String },
}

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Desk {
    /// Which tokens are good.
    pub tokens: Arc<Mutex<Tokens>>,
    /// Who hears what happens.
    pub events: mpsc::Sender<Event>,
}

/// Speaks with one host, from the first byte to the last.
pub(super) async fn attend(stream: TcpStream, from: SocketAddr, desk: Desk) {
    static VISITS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let from = from.ip();
    let say = |event| async { drop(desk.events.send(event).await) };
    let keys = desk.tokens.lock().unwrap_or_else(PoisonError::into_inner).keys();
    let proved = async {
        let (id, mut session) = Session::accept(stream, &keys).await?;
        // Only with its first word it is certain that this is no recording of somebody who knew the token.
        let first: FromJoiner = session.receive().await?;
        Ok::<_, Broken>((id, session, first))
    };
    let (id, mut session, first) = match timeout(PROVE_WITHIN, proved).await {
        Ok(Ok(proved)) => proved,
        Ok(Err(error)) => return say(Event::Stranger { from, why: error.to_string() }).await,
        Err(_) => {
            let why = format!("it proved nothing within {} s", PROVE_WITHIN.as_secs());
            return say(Event::Stranger { from, why }).await;
        }
    };
    drop(keys);
    let taken = desk.tokens.lock().unwrap_or_else(PoisonError::into_inner).take(id, Instant::now());
    let place = match taken {
        Ok(place) => place,
        Err(why) => {
            say(Event::NoGood { from, why: why.to_string() }).await;
            return farewell(session, why.to_string()).await;
        }
    };
    let visit = VISITS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let FromJoiner::Hello(hello) = first else {
        let why = "it did not say who it is".to_owned();
        return say(Event::Lost { place, visit, why }).await;
    };
    if hello.address != from {
        let why = format!(
            "it calls itself {}, and its connection comes from {from}: addresses are translated on the way. Members must reach each other without that",
            hello.address
        );
        say(Event::Lost { place, visit, why: why.clone() }).await;
        return farewell(session, why).await;
    }
    let (tell, mut told) = mpsc::channel(8);
    say(Event::Came { place, visitor: Visitor { visit, hello: *hello, tell } }).await;
    let mut heard = Instant::now();
    let why = loop {
        tokio::select! {
            message = told.recv() => match message {
                Some(FromHost::Refused { why }) => return farewell(session, why).await,
                Some(message) => match timeout(SILENT_FOR, session.send(&message)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break error.to_string(),
                    Err(_) => break "it takes nothing any more".to_owned(),
                },
                // Nothing is left to say.
                None => return until_read(session).await,
            },
            message = session.receive() => {
                heard = Instant::now();
                match message {
                    Ok(FromJoiner::Here) => {}
                    Ok(FromJoiner::Placed) => say(Event::Placed { place, visit }).await,
                    Ok(FromJoiner::Refused { why }) => return say(Event::Refused { place, visit, why }).await,
                    Ok(FromJoiner::Hello(_)) => break "it said twice who it is".to_owned(),
                    Err(error) => break error.to_string(),
                }
            }
            () = sleep_until((heard + SILENT_FOR).into()) => {
                break format!("it was not heard for {} s", SILENT_FOR.as_secs());
            }
        }
    };
    say(Event::Lost { place, visit, why }).await;
}

/// Refuses somebody, and leaves him the time to read it.
async fn farewell(mut session: Session, why: String) {
    if let Ok(Ok(())) = timeout(FAREWELL, session.send(&FromHost::Refused { why })).await {
        until_read(session).await;
    }
}

/// Keeps the connection until the other side ends it, which it does when it has read the last word. Closed over an answer
/// of his that is on its way it would be reset, and he would hear of that before he came to the last word.
async fn until_read(mut session: Session) {
    // What comes is of no interest; that nothing does any more says that it was read.
    let silence = async { while session.receive::<FromJoiner>().await.is_ok() {} };
    let _ = timeout(FAREWELL, silence).await;
}
