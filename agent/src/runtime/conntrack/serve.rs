//! Tells one standby of the connections through this host, for as long as it listens.
//!
//! Whoever asks is answered, whatever role this host has: who is asked decides the asker, who follows the primary
//! that its core named. Each asker has a view of the table of its own, so that none waits for another.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use holdfast_vip::conntrack::{Events, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::board::{Board, Part};
use super::feed::Feed;
use super::message::{self, Request};
use super::{Setup, understood};
use crate::runtime::stream::{Aside, HANDSHAKE_WITHIN};

/// Changes are gathered for this long: a connection that begins changes several times within a round trip.
const GATHER: Duration = Duration::from_millis(2);
/// Batches that may be on their way: what changes meanwhile is told once, in its newest state.
const MOST_ON_THEIR_WAY: u64 = 4;
/// Datagrams of the kernel that are read in one go.
const DATAGRAMS: usize = 64;
/// After lost notices the table is looked at again, no sooner than this after the last look.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Bytes read at once; a standby says little.
const READ: usize = 4096;

/// Until the connection ends.
pub(super) async fn serve(aside: Aside, setup: &Setup, board: &Board) -> io::Result<()> {
    let Aside { stream, sealer, opener, place: _place } = aside;
    let mut teller = Teller { stream: TcpStream::from_std(stream)?, sealer, opener, setup, board };
    let most = timeout(HANDSHAKE_WITHIN, teller.begin())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no first message in time"))??;
    board.write(|status| status.askers += 1);
    let ended = teller.tell(most).await;
    board.write(|status| {
        status.askers -= 1;
        status.lag_ms = None;
    });
    ended
}

struct Teller<'a> {
    stream: TcpStream,
    sealer: holdfast_replication::stream::Sealer,
    opener: holdfast_replication::stream::Opener,
    setup: &'a Setup,
    board: &'a Board,
}

impl Teller<'_> {
    /// Reads the first message; the result is how many connections the standby takes.
    async fn begin(&mut self) -> io::Result<usize> {
        let mut buffer = vec![0; READ];
        let mut messages = Vec::new();
        while messages.is_empty() {
            let read = self.stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.opener.feed_bytes(&buffer[..read], &mut messages).map_err(understood)?;
        }
        match (message::request(&messages[0]), messages.len()) {
            (Ok(Request::Begin { version, most }), 1) if version >= 1 => {
                Ok((most as usize).min(self.setup.most))
            }
            _ => Err(understood(message::NotUnderstood)),
        }
    }

    async fn tell(mut self, most: usize) -> io::Result<()> {
        let (mut events, mut table) = match (Events::open(), Table::open()) {
            (Ok(events), Ok(table)) => (events, table),
            (Err(error), _) | (_, Err(error)) => {
                self.board.trouble(Part::Kernel, Some(super::no_table(&error)));
                return Err(error);
            }
        };
        let mut feed = Feed::new(most, self.setup.scope());
        let (reader, writer) = self.stream.split();
        let (mut reader, mut writer) = (reader, writer);
        let mut buffer = vec![0; READ];
        let mut messages: Vec<Bytes> = Vec::new();
        // Sealed and not written yet; how much of it is.
        let (mut out, mut written) = (Vec::new(), 0);
        // When each batch was made that the standby has not taken yet, the oldest first.
        let mut on_their_way: std::collections::VecDeque<(u64, Instant)> = Default::default();
        let mut looked_at = Instant::now();
        let mut look_at = looked_at;
        let mut tell_at: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if look_at <= now {
                look(&mut table, &mut feed, self.setup, self.board)?;
                looked_at = Instant::now();
                look_at = looked_at + self.setup.interval;
                tell_at = Some(looked_at);
            }
            let free = out.is_empty() && (on_their_way.len() as u64) < MOST_ON_THEIR_WAY;
            if free
                && tell_at.is_some_and(|at| at <= now)
                && let Some(batch) = feed.next_batch(self.setup.now_ms())
            {
                self.sealer.seal_bytes(&message::encode(&batch), &mut out).map_err(understood)?;
                on_their_way.push_back((batch.number, now));
                self.board.write(|status| {
                    status.sent += batch.changes.len() as u64;
                    status.entries = feed.carried();
                });
            }
            if !feed.has_news() {
                tell_at = None;
            }
            let free = out.is_empty() && (on_their_way.len() as u64) < MOST_ON_THEIR_WAY;
            let next = tell_at.filter(|_| free).unwrap_or(look_at);
            tokio::select! {
                read = events.next(DATAGRAMS, |notice| {
                    if feed.notice(notice, self.setup.now_ms()) {
                        self.board.write(|status| status.overruns += 1);
                        look_at = look_at.min(looked_at + LOOK_AGAIN_AFTER);
                    }
                }) => {
                    read?;
                    if feed.has_news() && tell_at.is_none() {
                        tell_at = Some(Instant::now() + GATHER);
                    }
                }
                read = reader.read(&mut buffer) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    self.opener.feed_bytes(&buffer[..read], &mut messages).map_err(understood)?;
                    for said in messages.drain(..) {
                        match message::request(&said) {
                            Ok(Request::Taken { number }) => {
                                while let Some((_, at)) =
                                    on_their_way.front().filter(|(sent, _)| *sent <= number)
                                {
                                    let lag_ms = at.elapsed().as_millis() as u64;
                                    self.board.write(|status| status.lag_ms = Some(lag_ms));
                                    on_their_way.pop_front();
                                }
                            }
                            _ => return Err(understood(message::NotUnderstood)),
                        }
                    }
                }
                wrote = writer.write(&out[written..]), if !out.is_empty() => {
                    written += wrote?;
                    if written == out.len() {
                        out.clear();
                        written = 0;
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }
}

/// Compares the whole table with what was told.
fn look(table: &mut Table, feed: &mut Feed, setup: &Setup, board: &Board) -> io::Result<()> {
    feed.begin_look();
    let now_ms = setup.now_ms();
    if let Err(error) = table.dump(|flow| feed.looked_at(flow, now_ms)) {
        board.trouble(Part::Kernel, Some(super::no_table(&error)));
        return Err(error);
    }
    feed.end_look();
    board.trouble(Part::Kernel, None);
    let left_out = feed.left_out();
    board.write(|status| {
        status.left_out = left_out;
        status.entries = feed.carried();
    });
    let most = setup.most;
    board.trouble(
        Part::Room,
        (left_out > 0).then(|| {
            format!(
                "{left_out} connections through this host are beyond max_entries = {most} and would end with a failover; write more in `conntrack_sync`, on every member"
            )
        }),
    );
    Ok(())
}
