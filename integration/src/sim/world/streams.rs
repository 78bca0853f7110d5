//! Connections between members: ordered and complete while they last, held up while a link is cut, and
//! half-open after a machine lost its power.

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_agent::runtime::core::Leader;
use holdfast_agent::runtime::stream::{
    CONNECT_WITHIN, FIRST_RETRY, HANDSHAKE_WITHIN, LONGEST_RETRY, SILENCE,
};
use holdfast_heartbeat::MemberKind;
use holdfast_replication::replica::{ConnId, Input};
use holdfast_replication::stream::Frame;

use super::happening::{Happening, Part};
use super::network::{MS, S, US};
use super::service::nanos;
use super::{Future, Ns, World};
use crate::sim::chance::Chance;

/// The first wait of a sender that gets no acknowledgement (RFC 6298 section 2, Linux's minimum).
const RETRANSMIT: Ns = 200 * MS;
/// An idle connection whose other machine is gone is noticed after this long.
const KEEPALIVE: Ns = 3 * S;

/// A connection.
pub struct Conn {
    /// Who opened it, and who accepted.
    ends: [End; 2],
    /// What is under way from each of them.
    flows: [Flow; 2],
}

#[derive(Clone, Debug)]
struct End {
    host: usize,
    life: u64,
    open: bool,
    /// Whether this side's log has heard of the connection.
    announced: bool,
}

#[derive(Default)]
struct Flow {
    queue: VecDeque<(Ns, Parcel)>,
    pumping: bool,
    stuck_since: Option<Ns>,
}

enum Parcel {
    Bytes(Bytes),
    Fin,
}

impl World {
    /// The core names somebody to follow, or nobody: whatever connection there is ends.
    pub(super) fn set_leader(&mut self, h: usize, leader: Leader) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.connector.leader.is_none() && leader.is_none() {
            return;
        }
        life.connector.leader = leader;
        life.connector.serial += 1;
        life.connector.wait = nanos(FIRST_RETRY);
        let serial = life.connector.serial;
        if let Some(conn) = life.connector.conn.take() {
            self.close_end(h, conn);
        }
        if leader.is_some() {
            let after = self.dice.between(10 * US, 200 * US);
            self.schedule(h, after, Part::Stream, Happening::Connect { serial });
        }
    }

    /// One attempt to reach the primary.
    pub(super) fn connect(&mut self, h: usize, serial: u64) {
        let now = self.now;
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.connector.serial != serial || life.connector.conn.is_some() {
            return;
        }
        let Some((_, peer)) = life.connector.leader else { return };
        let (turn, number) = (life.connector.turn, life.number);
        let target = self.host_of_peer(h, peer);
        let cut = self.network.stream_is_cut(h, target);
        let there = &self.hosts[target];
        if cut || !there.up {
            return self.connect_again(h, serial, nanos(CONNECT_WITHIN));
        }
        let round_trip = 2 * self.network.stream_latency(&mut self.dice, h, target);
        let there = &self.hosts[target];
        let Some(accepting) = there.life.as_ref().filter(|_| there.kind == MemberKind::Data) else {
            return self.connect_again(h, serial, round_trip);
        };
        if there.frozen {
            return self.connect_again(h, serial, nanos(HANDSHAKE_WITHIN));
        }
        let keys = &self.hosts[h].config.keys;
        let secrets: Vec<&str> =
            std::iter::once(&keys.signing).chain(&keys.previous).map(|secret| secret.expose()).collect();
        let spoken = secrets[turn % secrets.len()];
        let theirs = &there.config.keys;
        let understood =
            std::iter::once(&theirs.signing).chain(&theirs.previous).any(|s| s.expose() == spoken);
        let far = End { host: target, life: accepting.number, open: true, announced: false };
        let near = End { host: h, life: number, open: true, announced: false };
        let life = self.hosts[h].life.as_mut().expect("it lives");
        if !understood {
            life.connector.turn += 1;
            return self.connect_again(h, serial, round_trip);
        }
        self.conn_serial += 1;
        let conn = ConnId(self.conn_serial);
        let life = self.hosts[h].life.as_mut().expect("it lives");
        life.connector.conn = Some(conn);
        life.connector.begun = now;
        self.conns.insert(conn, Conn { ends: [near, far], flows: Default::default() });
        self.schedule(h, round_trip + round_trip / 2, Part::Stream, Happening::Shaken { serial, conn });
    }

    fn connect_again(&mut self, h: usize, serial: u64, after: Ns) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let wait = life.connector.wait.max(nanos(FIRST_RETRY));
        life.connector.wait = (wait * 2).min(nanos(LONGEST_RETRY));
        self.schedule(h, after + wait, Part::Stream, Happening::Connect { serial });
    }

    /// The handshake is over: the log of the side that opened the connection hears of it.
    pub(super) fn shaken(&mut self, h: usize, serial: u64, conn: ConnId) {
        let Some(life) = self.hosts[h].life.as_ref() else { return };
        if life.connector.serial != serial || life.connector.conn != Some(conn) {
            return;
        }
        let Some(stands) = self.conns.get_mut(&conn) else { return };
        if stands.ends[0].open {
            stands.ends[0].announced = true;
            self.announce_conn(h, conn, true);
        }
    }

    fn announce_conn(&mut self, h: usize, conn: ConnId, initiated: bool) {
        if let Some(log) = self.hosts[h].life.as_mut().and_then(|life| life.log.as_mut()) {
            log.conns.insert(conn);
            self.tell_log(h, Input::Connected { conn, initiated });
        }
    }

    /// The replica sends a frame.
    pub(super) fn send_frame(&mut self, h: usize, conn: ConnId, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send_parcel(h, conn, Parcel::Bytes(bytes.into()));
    }

    /// The replica closes a connection, after what was sent on it.
    pub(super) fn close_after_sending(&mut self, h: usize, conn: ConnId) {
        if let Some(log) = self.hosts[h].life.as_mut().and_then(|life| life.log.as_mut()) {
            log.conns.remove(&conn);
        }
        self.close_end(h, conn);
        self.connection_over(h, conn);
    }

    fn side_of(&self, h: usize, conn: ConnId) -> Option<usize> {
        let number = self.hosts[h].life.as_ref()?.number;
        self.conns.get(&conn)?.ends.iter().position(|end| end.host == h && end.life == number)
    }

    fn send_parcel(&mut self, h: usize, conn: ConnId, parcel: Parcel) {
        let Some(side) = self.side_of(h, conn) else { return };
        let other = self.conns[&conn].ends[1 - side].host;
        let latency = self.network.stream_latency(&mut self.dice, h, other);
        let stands = self.conns.get_mut(&conn).expect("looked at above");
        if !stands.ends[side].open {
            return;
        }
        let flow = &mut stands.flows[side];
        let ready = flow.queue.back().map_or(0, |(ready, _)| *ready).max(self.now + latency);
        flow.queue.push_back((ready, parcel));
        if !flow.pumping {
            flow.pumping = true;
            self.future.push(ready, Future::Flow { conn, side });
        }
    }

    /// This side's end of a connection closes; the other side hears of it if anything gets through.
    fn close_end(&mut self, h: usize, conn: ConnId) {
        self.send_parcel(h, conn, Parcel::Fin);
        if let Some(side) = self.side_of(h, conn) {
            let stands = self.conns.get_mut(&conn).expect("looked at above");
            stands.ends[side].open = false;
        }
        if let Some(log) = self.hosts[h].life.as_mut().and_then(|life| life.log.as_mut())
            && log.conns.remove(&conn)
        {
            self.tell_log(h, Input::Disconnected { conn });
        }
    }

    /// A process ended: its kernel closes what it had open. With the power gone nobody does.
    pub(super) fn close_all(&mut self, h: usize, number: u64, power_gone: bool) {
        let lost = self.dice.one_in(2);
        let (mut told, mut gone) = (Vec::new(), Vec::new());
        for (conn, stands) in &mut self.conns {
            for side in 0..2 {
                let end = &mut stands.ends[side];
                if end.host == h && end.life == number && end.open {
                    end.open = false;
                    let flow = &mut stands.flows[side];
                    if power_gone || lost {
                        flow.queue.clear();
                    }
                    if power_gone {
                        let other = &stands.ends[1 - side];
                        gone.push((other.host, other.life, *conn));
                    } else {
                        let ready = flow.queue.back().map_or(0, |(ready, _)| *ready).max(self.now + 100 * US);
                        flow.queue.push_back((ready, Parcel::Fin));
                        if !flow.pumping {
                            flow.pumping = true;
                            told.push((ready, *conn, side));
                        }
                    }
                }
            }
        }
        for (host, life, conn) in gone {
            self.schedule_for(host, life, KEEPALIVE, Part::Service, Happening::Ended { conn });
        }
        for (ready, conn, side) in told {
            self.future.push(ready, Future::Flow { conn, side });
        }
        self.conns.retain(|_, stands| {
            stands.ends.iter().any(|end| end.open) || stands.flows.iter().any(|flow| !flow.queue.is_empty())
        });
    }

    /// What is under way on one direction of a connection moves on.
    pub(super) fn flow(&mut self, conn: ConnId, side: usize) {
        let Some(stands) = self.conns.get_mut(&conn) else { return };
        let (from, to) = (stands.ends[side].host, stands.ends[1 - side].clone());
        let flow = &mut stands.flows[side];
        flow.pumping = false;
        let Some((ready, _)) = flow.queue.front() else { return };
        if *ready > self.now {
            flow.pumping = true;
            return self.future.push(*ready, Future::Flow { conn, side });
        }
        if self.network.stream_is_cut(from, to.host) || !self.hosts[to.host].up {
            // What is not acknowledged is sent again after twice the time each time.
            let since = *flow.stuck_since.get_or_insert(self.now);
            if self.now - since >= nanos(SILENCE) {
                return self.reset(conn, side);
            }
            let again = (self.now - since).clamp(RETRANSMIT, nanos(SILENCE));
            flow.pumping = true;
            return self.future.push(self.now + again, Future::Flow { conn, side });
        }
        flow.stuck_since = None;
        let alive = self.hosts[to.host].life.as_ref().is_some_and(|life| life.number == to.life) && to.open;
        let (_, parcel) = flow.queue.pop_front().expect("looked at above");
        if let Some((ready, _)) = flow.queue.front() {
            flow.pumping = true;
            self.future.push((*ready).max(self.now), Future::Flow { conn, side });
        }
        if !alive {
            return self.reset(conn, side);
        }
        let altered = self.network.altered > 0 && self.dice.per_million(self.network.altered);
        match parcel {
            // The stream is authenticated: altered bytes end the connection and nothing else.
            Parcel::Bytes(_) if altered => self.reset(conn, side),
            Parcel::Bytes(bytes) => {
                self.schedule_for(
                    to.host,
                    to.life,
                    5 * US,
                    Part::Service,
                    Happening::Stretch { conn, bytes },
                );
            }
            Parcel::Fin => {
                self.schedule_for(to.host, to.life, 5 * US, Part::Service, Happening::Ended { conn });
            }
        }
    }

    /// The connection is gone on both sides; `side` is who hears of it by the answer to its own packet.
    fn reset(&mut self, conn: ConnId, side: usize) {
        let Some(stands) = self.conns.remove(&conn) else { return };
        for end in [&stands.ends[side], &stands.ends[1 - side]] {
            if end.open {
                self.schedule_for(end.host, end.life, 200 * US, Part::Service, Happening::Ended { conn });
            }
        }
    }

    /// Bytes have come in on a connection.
    pub(super) fn take_stretch(&mut self, h: usize, conn: ConnId, bytes: &Bytes) {
        let Some(side) = self.side_of(h, conn) else { return };
        let stands = self.conns.get_mut(&conn).expect("looked at above");
        if !stands.ends[side].open {
            return;
        }
        if !stands.ends[side].announced {
            stands.ends[side].announced = true;
            self.announce_conn(h, conn, side == 0);
        }
        match Frame::decode(bytes) {
            Ok(frame) => self.tell_log(h, Input::Frame { conn, frame }),
            Err(error) => panic!("a frame that was encoded here does not decode: {error}"),
        }
    }

    /// A connection has ended.
    pub(super) fn take_end(&mut self, h: usize, conn: ConnId) {
        self.close_end(h, conn);
        if let Some(log) = self.hosts[h].life.as_mut().and_then(|life| life.log.as_mut())
            && log.conns.remove(&conn)
        {
            self.tell_log(h, Input::Disconnected { conn });
        }
        self.connection_over(h, conn);
    }

    /// The connector tries anew if this connection was its own.
    fn connection_over(&mut self, h: usize, conn: ConnId) {
        let now = self.now;
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.connector.conn != Some(conn) {
            return;
        }
        life.connector.conn = None;
        if now - life.connector.begun > nanos(LONGEST_RETRY) {
            life.connector.wait = nanos(FIRST_RETRY);
        }
        let serial = life.connector.serial;
        self.connect_again(h, serial, 0);
    }
}
