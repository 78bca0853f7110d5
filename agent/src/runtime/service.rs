//! Opens and shuts the S3 service as the core orders.
//!
//! Shutting has an order: what is in flight is answered, every connection is closed while the address
//! is still here (so that clients see an end and not silence), and only then does the core hear that
//! the service has stopped.

use std::sync::Arc;
use std::time::Duration;

use holdfast_store::s3::{Guests, Serving};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::lease::Lease;
use super::log_thread::LogBackend;
use crate::node::event::Event;

/// The most that is waited for connections to be closed before the address goes.
pub const LAST_WORDS: Duration = Duration::from_millis(3);

/// The time for closed connections to say so on the wire.
const ON_THE_WIRE: Duration = Duration::from_millis(1);

/// The most time for which requests are refused before their connections are closed. A busy client
/// meets the refusal with its next request and backs off by itself; were its connection closed first, it
/// would connect anew while nobody has the address, lose the first packet, and wait a whole second.
pub const REFUSE_FOR: Duration = Duration::from_millis(10);

/// The least time for it: clients that connect anew for each request are in use between their connections too.
const REFUSE_AT_LEAST: Duration = Duration::from_millis(5);

/// How long the gate may take to bind the port to the lease before that is a trouble to tell of.
const SETTLE_LIMIT: Duration = Duration::from_millis(100);

/// An order of the core.
#[derive(Debug)]
pub enum ServiceOrder {
    /// Answer clients.
    Serve,
    /// Stop; what is in flight may take this long.
    Stop {
        /// Zero: at once.
        drain: Duration,
    },
}

/// Carries the orders out until there are no more. Without a `backend` (a witness) there is nothing to
/// stop.
pub async fn control(
    mut orders: UnboundedReceiver<ServiceOrder>,
    serving: watch::Sender<Serving>,
    backend: Option<Arc<LogBackend>>,
    guests: Guests,
    lease: Lease,
    redirect: Option<String>,
    report: impl Fn(Event) + Send + 'static,
) {
    while let Some(order) = orders.recv().await {
        match order {
            ServiceOrder::Serve => {
                lease.bind_ports();
                // Until the kernel holds that, the port would outlast the lease.
                while let Err(error) = lease.settle(SETTLE_LIMIT).await {
                    tracing::error!(%error, "the service waits for the kernel gate");
                    if lease.held(super::address::now()).is_none() {
                        break;
                    }
                }
                serving.send_replace(Serving::Yes);
            }
            ServiceOrder::Stop { drain } => {
                if !drain.is_zero() {
                    serving.send_replace(Serving::Draining);
                    if let Some(backend) = &backend {
                        let _ = tokio::join!(
                            timeout(drain, backend.idle()),
                            timeout(REFUSE_FOR.min(drain), guests.gone()),
                            sleep(REFUSE_AT_LEAST.min(drain)),
                        );
                    }
                }
                serving.send_replace(Serving::No { redirect: redirect.clone() });
                if timeout(LAST_WORDS, guests.gone()).await.is_ok() {
                    sleep(ON_THE_WIRE).await;
                }
                if let Some(backend) = &backend {
                    backend.send_now();
                }
                report(Event::ServiceStopped);
                // Whoever asks here from now on is sent on to the primary: the port may answer again,
                // for nothing that this member knew as primary can be said any more.
                lease.open_ports_for_standby();
            }
        }
    }
}
