//! Hears from the primary which connections pass through it, and puts them into this host's table.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use holdfast_vip::conntrack::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::board::{Board, Part};
use super::message::{self, Request, VERSION};
use super::shadow::Shadow;
use super::{Setup, understood};
use crate::runtime::core::Leader;
use crate::runtime::stream::{FIRST_RETRY, Streams};

/// Bytes read at once.
const READ: usize = 256 << 10;
/// Longest wait between two attempts to reach the primary: it may not want to be asked.
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// How long a host that takes over still listens to what the former primary saw last, in a planned switchover.
/// What it did not hear within a few round trips it never will.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How often what the kernel has let go of is forgotten.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

/// Follows whomever `leader` names, until the core is gone.
pub(super) async fn follow(
    setup: &Setup,
    streams: &Streams,
    mut leader: watch::Receiver<Leader>,
    board: &Board,
) {
    let mut shadow = Shadow::new(setup.most, setup.scope());
    let mut wait = FIRST_RETRY;
    loop {
        let named = *leader.borrow_and_update();
        let Some(at) = named.and_then(|(_, peer)| setup.peers.replication(peer)) else {
            // This host's own table is the truth now; what comes later is heard anew.
            shadow.forget();
            board.trouble(Part::Peer, None);
            board.trouble(Part::Putting, None);
            board.state("");
            board.write(|status| status.entries = 0);
            if leader.changed().await.is_err() {
                return;
            }
            wait = FIRST_RETRY;
            continue;
        };
        board.write(|status| {
            status.lag_ms = None;
            status.left_out = 0;
        });
        board.trouble(Part::Room, None);
        let begun = Instant::now();
        let ended = listen(setup, streams, at, &mut leader, &mut shadow, board).await;
        match leader.has_changed() {
            Err(_) => return,
            Ok(true) => continue,
            Ok(false) => {}
        }
        let error = ended.err().map_or_else(
            || "it closed the connection; is `conntrack_sync` in its configuration too?".to_owned(),
            |error| error.to_string(),
        );
        tracing::debug!(%error, %at, "the primary's connections are not heard of; asking again");
        board.state(format!("does not hear {at}"));
        board.trouble(
            Part::Peer,
            Some(format!(
                "the primary does not tell this standby of the connections through it, and they would end with a failover: {at}: {error}"
            )),
        );
        if begun.elapsed() > LONGEST_RETRY {
            wait = FIRST_RETRY;
        }
        tokio::select! {
            () = sleep(wait) => wait = (wait * 2).min(LONGEST_RETRY),
            changed = leader.changed() => {
                if changed.is_err() {
                    return;
                }
                leader.mark_changed();
            }
        }
    }
}

/// Over the wished interface where the primary is reached there, else as the routes say.
async fn open(
    setup: &Setup,
    streams: &Streams,
    at: SocketAddr,
) -> io::Result<(
    (TcpStream, holdfast_replication::stream::Sealer, holdfast_replication::stream::Opener),
    String,
)> {
    let mut over = format!("hears {at}");
    if let Some(interface) = &setup.interface {
        match streams.open_aside(at, setup.from, Some(interface)).await {
            Ok(opened) => return Ok((opened, format!("hears {at} over {interface}"))),
            Err(error) => over = format!("hears {at} (not over {interface}: {error})"),
        }
    }
    Ok((streams.open_aside(at, setup.from, None).await?, over))
}

/// Listens to the primary at `at` until the connection ends or another one is named.
async fn listen(
    setup: &Setup,
    streams: &Streams,
    at: SocketAddr,
    leader: &mut watch::Receiver<Leader>,
    shadow: &mut Shadow,
    board: &Board,
) -> io::Result<()> {
    let opened = tokio::select! {
        opened = open(setup, streams, at) => opened?,
        _ = leader.changed() => {
            leader.mark_changed();
            return Ok(());
        }
    };
    let ((mut stream, mut sealer, mut opener), over) = opened;
    let mut table = Table::open()?;
    let mut out = Vec::new();
    let begin = Request::Begin { version: VERSION, most: u32::try_from(setup.most).unwrap_or(u32::MAX) };
    sealer.seal_bytes(&message::encode(&begin), &mut out).map_err(understood)?;
    stream.write_all(&out).await?;
    shadow.begin();

    let mut buffer = vec![0; READ];
    let mut messages: Vec<Bytes> = Vec::new();
    let mut heard = false;
    let mut expire_at = Instant::now() + EXPIRE_EVERY;
    // Once this host takes over.
    let mut until: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            changed = leader.changed(), if until.is_none() => {
                leader.mark_changed();
                if changed.is_err() || leader.borrow().is_some() {
                    return Ok(());
                }
                shadow.take_over();
                until = Some(Instant::now() + LAST_WORDS);
            }
            () = sleep_until(until.unwrap_or(expire_at)) => {
                if until.is_some() {
                    return Ok(());
                }
                shadow.expire(setup.now_ms());
                board.write(|status| status.entries = shadow.held());
                expire_at = Instant::now() + EXPIRE_EVERY;
            }
            read = stream.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                opener.feed_bytes(&buffer[..read], &mut messages).map_err(understood)?;
                let mut taken = None;
                for said in messages.drain(..) {
                    let batch = message::batch(&said).map_err(understood)?;
                    put(shadow, &mut table, &batch, setup, board)?;
                    taken = Some(batch.number);
                }
                let Some(number) = taken else { continue };
                if !heard {
                    heard = true;
                    board.state(&over);
                    board.trouble(Part::Peer, None);
                    tracing::info!(%at, "the primary tells of the connections through it");
                }
                out.clear();
                let message = message::encode(&Request::Taken { number });
                sealer.seal_bytes(&message, &mut out).map_err(understood)?;
                stream.write_all(&out).await?;
            }
        }
    }
}

fn put(
    shadow: &mut Shadow,
    table: &mut Table,
    batch: &message::Batch,
    setup: &Setup,
    board: &Board,
) -> io::Result<()> {
    let orders = shadow.take(batch, setup.now_ms());
    let failed = shadow.counts.failed;
    table.carry_out(&orders, |index, outcome| shadow.done(&orders[index], outcome))?;
    let counts = shadow.counts.clone();
    let refused = counts.failed > failed;
    board.write(|status| {
        status.entries = shadow.held();
        status.received = counts.received;
        status.put_in = counts.put_in;
        status.failed = counts.failed;
        status.dropped = counts.dropped;
    });
    if refused || batch.whole {
        let refusal = counts.refusal.unwrap_or_default();
        board.trouble(
            Part::Putting,
            refused.then(|| {
                format!(
                    "the kernel did not take {} connections of the primary, and they would end with a failover: {refusal}",
                    counts.failed
                )
            }),
        );
    }
    Ok(())
}
