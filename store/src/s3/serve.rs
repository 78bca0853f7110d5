//! Connections: who is let in, who is asked to finish, and who is cut off.
//!
//! ```text
//!            Draining                      No
//!  Yes ----------------> Draining ----------------> No ---> Yes
//!   |  requests in flight finish,   every connection that      ^
//!   |  new ones are sent away,      began before is closed      |
//!   |  quiet connections closed                                 |
//!   +-----------------------------------------------------------+
//! ```
//!
//! [`Guests`] tells when the last connection of before has left, so that nobody has to guess how long that takes.
//!
//! It does not decide whether the member serves: that is told by the gate channel and asked of
//! [`Backend::serving`], before a request is looked at and again before its answer's head is written.
//!
//! Invariant: an answer that reveals or confirms state leaves only if the backend agreed after the
//! state was read or changed.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use s3s::{Body, S3Error};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::answer;
use super::cors::{Begun, Cors};
use super::edge::{self, Asked, Ids};
use super::guard::Peer;
use super::hand_on::{self, SealKeys};
use super::passage::{Outlet, Passage};
use super::patience::{Patient, WINDOW};
use super::send::{Feed, Piece};
use super::standby::{self, StandbyCounts, StandbyReads};
use super::wellformed;
use crate::backend::{Backend, NotServing};
use crate::index::{Index, Progress};

/// Connections open at once where the configuration says nothing; more wait in the listener's backlog.
pub const MAX_CONNECTIONS: u32 = 1024;

/// How long a request's head may take, and an idle connection may stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait when the system has no descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection without a request for this long is not in use: its client loses nothing when it is closed
/// before it was told to come back later.
const QUIET: Duration = Duration::from_millis(50);

/// The connections that began while the member served or drained. Clones share them.
#[derive(Debug, Clone)]
pub struct Guests {
    places: Arc<Semaphore>,
    most: u32,
}

impl Default for Guests {
    fn default() -> Guests {
        Guests::new(MAX_CONNECTIONS)
    }
}

impl Guests {
    /// Room for so many connections, which is also how many are let in at once.
    pub fn new(most: u32) -> Guests {
        Guests { places: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// Resolves when none of them is open.
    pub async fn gone(&self) {
        // Nobody closes the semaphore.
        let _ = self.places.acquire_many(self.most).await;
    }

    /// There is a place for each connection that was accepted; while somebody waits for the last one to leave,
    /// nobody is counted any more.
    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }
}

/// When a connection was used last.
#[derive(Debug)]
struct Usage {
    began: Instant,
    /// Requests that are being answered.
    underway: AtomicUsize,
    /// Of the last request's end, in milliseconds after `began`.
    last: AtomicU64,
}

impl Usage {
    fn new() -> Usage {
        Usage { began: Instant::now(), underway: AtomicUsize::new(0), last: AtomicU64::new(0) }
    }

    fn is_quiet(&self) -> bool {
        let since =
            self.began.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)));
        self.underway.load(Ordering::Relaxed) == 0 && since >= QUIET
    }
}

/// A request that is being answered, until the last byte of the answer was handed over.
#[derive(Debug)]
struct Underway(Arc<Usage>);

impl Underway {
    fn on(usage: &Arc<Usage>) -> Underway {
        usage.underway.fetch_add(1, Ordering::Relaxed);
        Underway(Arc::clone(usage))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.last.store(self.0.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.0.underway.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, which is under way as long as this lives.
struct Answering {
    body: Body,
    /// The same, where the kernel may send what lies in files.
    feed: Option<(Feed, Passage)>,
    _underway: Underway,
}

impl hyper::body::Body for Answering {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some((feed, passage)) = &self.feed else { return Pin::new(&mut self.body).poll_frame(cx) };
        Poll::Ready(feed.next().map(|piece| match piece? {
            Piece::Bytes(bytes) => Ok(Frame::data(bytes)),
            Piece::File(found) => {
                let again = feed.look_again(&found);
                Ok(Frame::data(passage.enter(found.range, again)))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

/// Whether requests are served, as the agent commands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// Serve.
    Yes,
    /// Finish what began; answer everything new with 503 and close.
    Draining,
    /// Close every connection; what comes afterwards is for the primary ([`StandbyReads`]): 307, or 503 where
    /// that is unknown, where nothing else was chosen.
    No {
        /// `http://host:port` of the address to ask instead.
        redirect: Option<String>,
    },
}

/// The endpoint as one kind of member has it, and how far its index is.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) s3: S3Service,
    pub(super) cors: Arc<Cors>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) index: Index,
}

/// The S3 service behind its lease checks.
#[derive(Clone)]
pub struct Front {
    primary: Desk,
    /// What answers reads while another member is the primary.
    reader: Desk,
    standby: StandbyReads,
    seal_keys: Option<SealKeys>,
    counts: Arc<StandbyCounts>,
    ids: Arc<Ids>,
}

impl Front {
    pub(super) fn new(
        primary: Desk,
        reader: Desk,
        standby: StandbyReads,
        seal_keys: Option<SealKeys>,
        counts: Arc<StandbyCounts>,
    ) -> Front {
        Front { primary, reader, standby, seal_keys, counts, ids: Arc::default() }
    }

    /// Answers one request as the primary.
    pub async fn answer(&self, mut req: Request<Incoming>) -> Response<Body> {
        hand_on::unseal(&mut req, self.seal_keys.as_ref());
        let asked = Asked::of(&req);
        let answer = self.primary.answer(req).await;
        edge::finish(answer, &asked, &self.ids.next()).await
    }

    /// Answers one request while another member is the primary, at `redirect` where that is known.
    async fn answer_as_standby(&self, req: Request<Incoming>, redirect: Option<String>) -> Response<Body> {
        let mut reason = "This member does not serve; nothing was stored";
        if let StandbyReads::Bounded(follow, _) = &self.standby
            && standby::is_read(&req)
        {
            match standby::caught_up(follow.as_ref(), &self.reader.index, &req).await {
                Some(progress) => return self.answer_from_here(req, progress).await,
                None => {
                    StandbyCounts::count(&self.counts.too_old);
                    reason = "This standby is not as far as this answer must be";
                }
            }
        }
        let (StandbyReads::HandOn(hand_on) | StandbyReads::Bounded(_, hand_on)) = &self.standby else {
            return self.send_on(&req, redirect, reason);
        };
        // Where a member is on its way to become primary, its own address may be that of the primary.
        let Some(to) = redirect.filter(|_| !hand_on::was_handed_on(req.headers())) else {
            return self.send_on(&req, None, reason);
        };
        StandbyCounts::count(&self.counts.handed_on);
        let asked = Asked::of(&req);
        let mut answer = hand_on.answer(req, &to).await.unwrap_or_else(plain);
        asked.close_if_unread(&mut answer);
        answer
    }

    /// The answer from what this member has, which is enough.
    async fn answer_from_here(&self, req: Request<Incoming>, before: Progress) -> Response<Body> {
        StandbyCounts::count(&self.counts.answered);
        let asked = Asked::of(&req);
        let mut answer = self.reader.answer(req).await;
        if self.reader.index.progress().resets != before.resets {
            answer = plain(answer::unavailable("This standby's copy began anew meanwhile. Try again"));
        }
        edge::finish(answer, &asked, &self.ids.next()).await
    }

    fn send_on<B>(&self, req: &Request<B>, redirect: Option<String>, reason: &str) -> Response<Body> {
        StandbyCounts::count(&self.counts.sent_on);
        and_close(send_away(&NotServing { redirect, reason: reason.to_owned() }, edge::target(req)))
    }
}

impl Desk {
    /// The answer, if this desk serves before it and after it.
    async fn answer(&self, req: Request<Incoming>) -> Response<Body> {
        let target = edge::target(&req).to_owned();
        if let Err(no) = self.backend.serving() {
            return send_away(&no, &target);
        }
        let (reads, before) = (standby::is_read(&req), self.index.progress());
        let origin = match self.cors.begin(&req).await {
            Ok(Begun::Answered(answer)) => return answer,
            Ok(Begun::Goes(origin)) => origin,
            Err(error) => return plain(error),
        };
        if let Err(error) = wellformed::check(&req) {
            return plain(error);
        }
        let answered = self.s3.call(req.map(Body::from)).await;
        if let Err(no) = self.backend.serving() {
            return send_away(&no, &target);
        }
        let mut answered = answered.map_or_else(
            |_| plain(answer::internal("the answer could not be written")),
            with_target(&target),
        );
        if let Some(origin) = origin {
            origin.mark(answered.headers_mut());
        }
        // A read shows all that was applied before it; whoever wrote is told of what was applied after.
        let shown = if reads { before } else { self.index.progress() };
        answered.headers_mut().insert(standby::LSN, HeaderValue::from(shown.applied.0));
        answered
    }
}

/// Completes the location of an answer that the operations themselves made.
fn with_target(target: &str) -> impl FnOnce(Response<Body>) -> Response<Body> {
    let target = target.to_owned();
    move |mut response| {
        if response.status() == StatusCode::TEMPORARY_REDIRECT
            && let Some(base) = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok())
            && let Ok(location) = HeaderValue::from_str(&format!("{}{target}", base.trim_end_matches('/')))
        {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

fn send_away(no: &NotServing, target: &str) -> Response<Body> {
    with_target(target)(plain(answer::not_serving(no)))
}

fn plain(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

fn and_close(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Runs the endpoint until the sender of `gate` is dropped, which closes everything.
pub async fn serve(listener: TcpListener, front: Front, mut gate: watch::Receiver<Serving>, guests: Guests) {
    let places = Arc::new(Semaphore::new(guests.most as usize));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            changed = gate.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a client's connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (front, gate, guests) = (front.clone(), gate.clone(), guests.clone());
        tokio::spawn(async move {
            let _place = place;
            connection(stream, front, gate, &guests).await;
        });
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, front: Front, mut gate: watch::Receiver<Serving>, guests: &Guests) {
    // Head and body of a small answer are one write; waiting for an acknowledgement costs 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let asked = gate.clone();
    let here = stream.local_addr().ok().map(|at| at.ip());
    let peer = stream.peer_addr().ok().map(|at| Peer(at.ip()));
    let usage = Arc::new(Usage::new());
    let used = usage.clone();
    let passage = Passage::default();
    let outlet = Outlet::new(stream, passage.clone());
    let on_its_way = passage.clone();
    let service = service_fn(move |mut req: Request<Incoming>| {
        if let Some(peer) = peer {
            req.extensions_mut().insert(peer);
        }
        let (front, asked) = (front.clone(), asked.clone());
        let underway = Underway::on(&used);
        let passage = passage.clone();
        async move {
            let mut answer = not_to_itself(admit(&front, &asked, req).await, here);
            let feed = answer.extensions_mut().remove::<Feed>().map(|feed| (feed, passage));
            Ok::<_, Infallible>(answer.map(|body| Answering { body, feed, _underway: underway }))
        }
    });
    // Declared before the connection, so that it is dropped after that one is closed.
    let mut guest;
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // Slices are never copied together: some stand for bytes of files.
        .writev(true)
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(Patient::new(outlet, WINDOW)), service);
    let mut served = std::pin::pin!(served);
    let mut began_before_no = !matches!(*gate.borrow_and_update(), Serving::No { .. });
    guest = began_before_no.then(|| guests.enter()).flatten();
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a client's connection broke");
                }
                return;
            }
            changed = gate.changed() => {
                if changed.is_err() {
                    return;
                }
                match *gate.borrow_and_update() {
                    // Dropping the connection closes it: the client learns at once instead of
                    // waiting for an answer that must not come.
                    Serving::No { .. } if began_before_no => return,
                    Serving::Draining if usage.is_quiet() && on_its_way.is_empty() => return,
                    Serving::No { .. } | Serving::Draining => {}
                    Serving::Yes => {
                        began_before_no = true;
                        guest = guest.or_else(|| guests.enter());
                    }
                }
            }
        }
    }
}

/// A client that asked on the virtual address itself, while the primary was changing under it, is told
/// to try again instead of being sent to where it is.
fn not_to_itself(response: Response<Body>, here: Option<IpAddr>) -> Response<Body> {
    let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
    let there = location.and_then(|to| to.parse::<Uri>().ok()).and_then(|to| to.host().map(str::to_owned));
    let there = there.and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    if response.status() != StatusCode::TEMPORARY_REDIRECT || there.is_none() || there != here {
        return response;
    }
    and_close(plain(answer::unavailable(
        "The primary is changing; whether a write that was on its way survived is not known. Send it again",
    )))
}

async fn admit(front: &Front, gate: &watch::Receiver<Serving>, req: Request<Incoming>) -> Response<Body> {
    let state = gate.borrow().clone();
    match state {
        Serving::Yes => front.answer(req).await,
        Serving::Draining => and_close(plain(answer::unavailable(
            "This member is handing over; nothing was stored. Try again",
        ))),
        Serving::No { redirect } => front.answer_as_standby(req, redirect).await,
    }
}
