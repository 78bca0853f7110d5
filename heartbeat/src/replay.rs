//! Is this packet new, and was it made for us just now? Decided without synchronised clocks.
//!
//! Each life of a process draws a [`BootNonce`]; each packet names the receiver's nonce and the
//! receiver's own clock, as read from the newest packet that the sender got from it (the [`Echo`]).
//! A packet is believed when
//!
//! 1. it echoes *this* life of ours, so it was not recorded in an earlier one,
//! 2. the clock in the echo, which is our own, is younger than `max_age`, so it was not held back,
//! 3. it does not come from a life of the sender that has ended since: of two lives the one is over that
//!    echoes the older clock of ours, however late its last packets arrive, and
//! 4. its sequence number was not seen before (64-packet window, RFC 4302 section 3.4.3), in the numbering of
//!    the peer to whom it went.
//!
//! Whoever is not heard cannot be believed either: a one-way cut looks the same from both ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{BootNonce, Echo, Heartbeat};
use crate::packet::Dropped;
use crate::planted;
use crate::types::Time;

/// How many ended lives of one peer are remembered. An older one fails on the age of its echo.
const RETIRED: usize = 4;
/// Width of the replay window in packets, one bit each.
const WINDOW: u64 = 64;
/// A packet's number has the place of the peer that it was sent to from this bit on, in the sender's
/// configuration. The peer echoes it: so an echo proves that this very peer was asked, and a packet of another
/// one, sent on from the peer's address, does not make the peer seem alive.
pub const SLOT_AT: u32 = 40;
/// Among how many of the sender's numberings its packets to us are looked for.
const SLOTS: usize = 16;

/// What was seen of one peer, in this life of ours.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReplayGuard {
    current: Option<Life>,
    retired: Vec<BootNonce>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Life {
    boot: BootNonce,
    /// One for each numbering (see [`SLOT_AT`]). There is more than one only if somebody on the way sends
    /// packets on from other addresses, and one must not make the packets of another seem old.
    windows: Vec<Window>,
    /// The newest clock of ours that it echoed.
    echoed: Time,
    /// It was taken for ended: nobody knows any more what was seen of it.
    back: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Window {
    highest: u64,
    seen: u64,
}

impl ReplayGuard {
    /// Judges `heartbeat`. `Err(Dropped::Unproven)` still leaves the caller free to echo the packet
    /// in its own next one: this is how two members that just started come to believe each other.
    pub fn check(
        &mut self,
        now: Time,
        own_boot: BootNonce,
        max_age: Duration,
        heartbeat: &Heartbeat,
    ) -> Result<(), Dropped> {
        let Some(echo) =
            heartbeat.echo.filter(|echo| echo.boot == own_boot || planted::is("echo-of-any-life"))
        else {
            return Err(Dropped::Unproven);
        };
        let held_back = now.since(echo.sent_at) > max_age && !planted::is("echo-of-any-age");
        if echo.sent_at > now || held_back {
            return Err(Dropped::Stale);
        }
        match &mut self.current {
            Some(life) if life.boot == heartbeat.boot => {
                life.admit(heartbeat.seq)?;
                life.echoed = life.echoed.max(echo.sent_at);
            }
            current => {
                let newest = current.as_ref().map(|life| life.echoed);
                let back = self.retired.contains(&heartbeat.boot);
                let over = Some(echo.sent_at) < newest || back && Some(echo.sent_at) == newest;
                if over && !planted::is("ended-life-believed") {
                    return Err(Dropped::Replayed);
                }
                let mut life = Life { boot: heartbeat.boot, windows: Vec::new(), echoed: echo.sent_at, back };
                life.admit(heartbeat.seq)?;
                self.retired.retain(|boot| *boot != life.boot);
                if let Some(ended) = current.replace(life) {
                    if self.retired.len() == RETIRED {
                        self.retired.remove(0);
                    }
                    self.retired.push(ended.boot);
                }
            }
        }
        Ok(())
    }

    /// Whether `boot` is a life of the peer that is known to have ended.
    pub fn is_retired(&self, boot: BootNonce) -> bool {
        self.retired.contains(&boot)
    }

    /// The life of the peer that is believed now.
    pub fn current_boot(&self) -> Option<BootNonce> {
        self.current.as_ref().map(|life| life.boot)
    }
}

impl Life {
    fn admit(&mut self, seq: u64) -> Result<(), Dropped> {
        let alike = |window: &&mut Window| window.highest >> SLOT_AT == seq >> SLOT_AT;
        if let Some(window) = self.windows.iter_mut().find(alike) {
            return window.admit(seq);
        }
        if self.windows.len() == SLOTS {
            return Err(Dropped::Replayed);
        }
        let seen = if self.back { u64::MAX } else { 1 };
        self.windows.push(Window { highest: seq, seen });
        Ok(())
    }
}

impl Window {
    fn admit(&mut self, seq: u64) -> Result<(), Dropped> {
        if seq > self.highest {
            let ahead = seq - self.highest;
            self.seen = if ahead < WINDOW { self.seen << ahead | 1 } else { 1 };
            self.highest = seq;
            return Ok(());
        }
        let behind = self.highest - seq;
        if planted::is("packet-seen-twice") {
            return Ok(());
        }
        if behind >= WINDOW || self.seen >> behind & 1 == 1 {
            return Err(Dropped::Replayed);
        }
        self.seen |= 1 << behind;
        Ok(())
    }
}

/// Makes the echo of a packet that arrived.
pub fn echo_of(heartbeat: &Heartbeat) -> Echo {
    Echo { boot: heartbeat.boot, seq: heartbeat.seq, sent_at: heartbeat.sent_at, path: heartbeat.path }
}
