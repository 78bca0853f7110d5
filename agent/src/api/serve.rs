//! Takes connections and serves the router on them, within bounds.
//!
//! A caller that trickles, stalls or never ends is cut off; more connections than the limit wait in
//! the kernel's queue, which is bounded too. The heartbeat runs on its own thread and knows nothing of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::REQUEST_WITHIN;
use super::error::ApiError;

/// Most connections served at once. Scrapers, load balancers and a few operators need a dozen.
const MAX_CONNECTIONS: usize = 256;
/// How long a caller may take to send the head of a request, the first as well as any further one.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A connection is closed after this time, however lively: it bounds callers that do not read.
const CONNECTION_WITHIN: Duration = Duration::from_secs(300);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until the future is dropped.
pub async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((stream, caller)) => {
                let router = router.clone();
                connections.spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_WITHIN, connection(stream, caller, router)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API could not take a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, caller: SocketAddr, router: Router) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(caller));
        router.clone().oneshot(request)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%caller, %error, "a connection to the API ended early");
    }
}

/// Bounds a whole request, the reading of its body included.
pub(super) async fn within_bounds(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::TooSlow { within: REQUEST_WITHIN }.into_response(),
    }
}
