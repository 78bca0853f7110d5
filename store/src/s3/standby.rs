//! What a member that is not the primary does with requests.
//!
//! ```text
//!   request -> a read, and reads are bounded? -> ask the primary how far it is (once for many) -> wait for the index
//!                 | no, or not in time                                                              -> answer
//!                 v
//!              handed on? -> the same request to the primary, its answer back
//!                 | no
//!                 v
//!              307 to the primary, or 503 where it is not known
//! ```
//!
//! Invariant: an answer of a standby shows everything that was acknowledged, by whomever, longer before the request
//! came than the bound; and what `x-holdfast-lsn` of the request names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_heartbeat::types::{Epoch, Lsn};
use http::{HeaderMap, HeaderName, Method, Request};
use hyper::body::Incoming;

use super::hand_on::HandOn;
use crate::apply::Outcome;
use crate::backend::{Backend, NotServing, WriteError};
use crate::index::{Index, Progress};

/// On answers: everything that this answer shows lies below; it shows all of it. On a request to a standby: the
/// answer must show what lies below.
pub(super) const LSN: HeaderName = HeaderName::from_static("x-holdfast-lsn");

/// How long a read waits for the standby to get as far as it must be.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a member does with requests while it is not the primary.
#[derive(Clone, Default)]
pub enum StandbyReads {
    /// It sends clients on to the primary.
    #[default]
    Off,
    /// It hands every request on to the primary, and the answer back.
    HandOn(HandOn),
    /// It answers reads from what it has, and hands on the others, and those that it cannot answer in time.
    Bounded(Arc<dyn Follow>, HandOn),
}

/// How a standby learns how far it must be.
pub trait Follow: Send + Sync {
    /// Everything that was acknowledged longer ago than the bound allows, counted from the call, lies below the
    /// answer; `None`: that could not be found out in time.
    fn fresh(&self) -> BoxFuture<'_, Option<Lsn>>;
}

/// What became of the requests that came while this member was not the primary.
#[derive(Debug, Default)]
pub struct StandbyCounts {
    /// Reads that it answered.
    pub answered: AtomicU64,
    /// Requests that it handed on.
    pub handed_on: AtomicU64,
    /// Requests whose clients were sent to the primary, or told to come back.
    pub sent_on: AtomicU64,
    /// Reads that it could not answer in time.
    pub too_old: AtomicU64,
}

impl StandbyCounts {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a standby can answer it from what it has.
pub(super) fn is_read<B>(req: &Request<B>) -> bool {
    matches!(*req.method(), Method::GET | Method::HEAD | Method::OPTIONS)
}

/// How far the answer must reach, as the request wants it.
fn wanted(headers: &HeaderMap) -> Option<Lsn> {
    headers.get(LSN)?.to_str().ok()?.parse().ok().map(Lsn)
}

/// Waits until the index shows what the answer to this request must show. How far it was then; `None`: it does not
/// get there in time.
pub(super) async fn caught_up(
    follow: &dyn Follow,
    index: &Index,
    req: &Request<Incoming>,
) -> Option<Progress> {
    let reached = async {
        let needed = follow.fresh().await?.max(wanted(req.headers()).unwrap_or(Lsn::ZERO));
        let mut watch = index.watch();
        let seen = watch.wait_for(|progress| progress.applied >= needed).await.ok()?;
        Some(*seen)
    };
    tokio::time::timeout(PATIENCE, reached).await.ok()?
}

/// What stands behind the endpoint of a standby that answers reads: it may answer, and writes nothing.
pub(super) struct ReadOnly;

impl Backend for ReadOnly {
    fn append(&self, _: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>> {
        Box::pin(async { Err(WriteError::NotPrimary { redirect: None }) })
    }

    fn commit(&self, _: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>> {
        Box::pin(async { Err(WriteError::NotPrimary { redirect: None }) })
    }

    /// Whoever asks was let in because the index is fresh enough, and shows nothing but what was committed.
    fn serving(&self) -> Result<Epoch, NotServing> {
        Ok(Epoch::ZERO)
    }
}
