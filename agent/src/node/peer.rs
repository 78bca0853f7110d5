//! What this node knows of one other voter.

use std::time::Duration;

use holdfast_heartbeat::{
    BootNonce, Detector, Dropped, Echo, Heartbeat, Lsn, MAX_PATHS, Member, MemberState, ReplayGuard, Role,
    Sight, Time,
    packet::OLDEST,
    replay::{self, SLOT_AT},
};
use serde::{Deserialize, Serialize};

use super::settings::PeerSettings;

/// How many lives of a silent peer may introduce themselves at once; an attacker who replays old
/// packets can fill the places but not keep the true one out, since each is echoed in turn.
const INTRODUCTIONS: usize = 4;

/// One other voter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Peer {
    pub settings: PeerSettings,
    /// Who it is, since it was first believed.
    pub member: Option<Member>,
    pub guard: ReplayGuard,
    pub detector: Detector,
    /// The newest version of the heartbeat that it speaks, as it says.
    pub speaks: u8,
    /// Its newest believed statement, and when that came.
    pub state: Option<MemberState>,
    /// The packet that the statement came in; it is echoed.
    echo: Option<Echo>,
    pub echo_at: Time,
    introductions: Vec<Echo>,
    sent_seq: u64,
    /// For each path the newest packet of ours that asked for an answer: measures the round trip.
    asked: Vec<Option<(u64, Time)>>,
    /// When the packet of ours was sent that it last acknowledged as a renewal of this reign's lease.
    pub lease_ack: Option<Time>,
    /// A life that ended, as its supervisor says.
    pub dead_boot: Option<BootNonce>,
    /// Its progress as a follower of our log.
    pub follower: Follower,
    /// When it lately left the in-sync set.
    pub departures: Vec<Time>,
}

/// A follower's progress, seen from the primary.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Follower {
    pub streaming: bool,
    pub durable: Lsn,
    /// When it last kept up, and where it and the own log were then, see [`Follower::acknowledged`].
    pub kept_up_at: Time,
    kept_up_from: Lsn,
    has_to_reach: Lsn,
    /// When the stream was lost, or the reign began.
    pub lost_at: Time,
}

/// A follower that lacks something takes this much of the log within the timeout of a stalled standby, or all that
/// was there when the time began: otherwise it holds up writes. In bytes.
const LEAST_PACE: u64 = 1 << 20;

impl Follower {
    /// A reign begins, and nothing is known.
    pub(super) fn unheard(now: Time) -> Follower {
        Follower { kept_up_at: now, lost_at: now, ..Follower::default() }
    }

    /// The own log has grown to `own`, from `before`: a follower that lacked nothing owes something only from now on.
    pub(super) fn owes(&mut self, now: Time, before: Lsn, own: Lsn) {
        if self.durable >= before {
            self.keeps_up(now, own);
        }
    }

    /// It says that it has everything below `durable`, while the own log ends at `own`. A drip is no progress: a
    /// write that waits for all that came before it would wait for ever. Where writes do not wait (`unwaited`) nothing
    /// but having it all is: what it lacks is lost with the primary, and must not grow old.
    pub(super) fn acknowledged(&mut self, now: Time, durable: Lsn, own: Lsn, unwaited: bool) {
        let grew = durable > self.durable;
        self.durable = durable;
        let reached = durable >= self.has_to_reach;
        if grew && (reached || (self.taken_since() >= LEAST_PACE && !unwaited)) {
            self.keeps_up(now, own);
        }
    }

    /// What it acknowledged since it last kept up, in bytes.
    pub(super) fn taken_since(&self) -> u64 {
        self.durable.bytes_since(self.kept_up_from)
    }

    fn keeps_up(&mut self, now: Time, own: Lsn) {
        (self.kept_up_at, self.kept_up_from, self.has_to_reach) = (now, self.durable, own);
    }
}

impl Peer {
    pub(super) fn new(slot: usize, settings: PeerSettings, detect: Duration) -> Peer {
        let detector = Detector::new(detect, settings.paths);
        Peer {
            asked: vec![None; settings.paths],
            settings,
            member: None,
            speaks: OLDEST,
            guard: ReplayGuard::default(),
            detector,
            state: None,
            echo: None,
            echo_at: Time::ZERO,
            introductions: Vec::new(),
            sent_seq: (slot as u64) << SLOT_AT,
            lease_ack: None,
            dead_boot: None,
            follower: Follower::default(),
            departures: Vec::new(),
        }
    }

    /// Somebody else in the same place of the configuration: nothing is known of it. What is sent to it is numbered
    /// on, so that nobody echoes what another one was sent.
    pub(super) fn replaced(&self, settings: PeerSettings, detect: Duration) -> Peer {
        Peer { sent_seq: self.sent_seq + 1, ..Peer::new(0, settings, detect) }
    }

    /// Whether the configuration still names it.
    pub(super) fn configured(&self) -> bool {
        self.settings.paths > 0
    }

    /// Its name, or what the operator calls it until it has told.
    pub(super) fn name(&self) -> String {
        self.member.as_ref().map_or_else(|| self.settings.label.clone(), |member| member.id.to_string())
    }

    /// Whether it was heard within the detection time and is not known to have died since.
    pub(super) fn alive(&self, now: Time) -> bool {
        self.detector.alive(now) && !self.is_dead()
    }

    /// Whether its supervisor said that the life we believe in has ended.
    pub(super) fn is_dead(&self) -> bool {
        self.dead_boot.is_some() && self.dead_boot == self.guard.current_boot()
    }

    /// Whether packets have come of a life of it that is not the one believed in, or believed last.
    pub(super) fn another_life_calls(&self) -> bool {
        let current = self.guard.current_boot();
        self.introductions.iter().any(|echo| Some(echo.boot) != current)
    }

    /// Whether it lives and says that it reigns.
    pub(super) fn reigns(&self, now: Time) -> bool {
        self.alive(now) && self.state.as_ref().is_some_and(|state| reigning(state.role))
    }

    /// Takes in a packet whose name and kind were checked. `Ok(true)`: it is the newest statement.
    pub(super) fn admit(
        &mut self,
        now: Time,
        own_boot: BootNonce,
        max_age: Duration,
        path: usize,
        heartbeat: &Heartbeat,
    ) -> Result<bool, Dropped> {
        if self.dead_boot == Some(heartbeat.boot) {
            return Err(Dropped::Replayed);
        }
        let of_another =
            |echo: &Echo| echo.boot == own_boot && echo.seq >> SLOT_AT != self.sent_seq >> SLOT_AT;
        if heartbeat.echo.as_ref().is_some_and(of_another) {
            return Err(Dropped::UnknownSender);
        }
        let boot_before = self.guard.current_boot();
        match self.guard.check(now, own_boot, max_age, heartbeat) {
            Ok(()) => {}
            Err(Dropped::Unproven) => {
                self.detector.unproven(now, path);
                if !self.alive(now) && !self.guard.is_retired(heartbeat.boot) {
                    self.introduce(replay::echo_of(heartbeat));
                }
                return Err(Dropped::Unproven);
            }
            Err(Dropped::Stale) => {
                // It has not heard us for a while: that direction is dead, or was until now. Its newest
                // packet is echoed so that the two can come to believe each other again.
                self.detector.unproven(now, path);
                if !self.alive(now) {
                    self.introduce(replay::echo_of(heartbeat));
                }
                return Err(Dropped::Stale);
            }
            Err(other) => return Err(other),
        }
        self.detector.heard(now, path);
        self.detector.numbered(path, heartbeat.path);
        let echo = heartbeat.echo.expect("a proven packet has an echo");
        if let Some(asked) = self.asked.get_mut(path)
            && let Some((seq, at)) = *asked
            && echo.seq == seq
        {
            *asked = None;
            self.detector.round_trip(now, path, now.since(at));
        }
        // By the sender's own clock: its numbers say which of its peers it meant, too.
        let order = |echo: &Echo| (echo.sent_at, echo.seq);
        let came = replay::echo_of(heartbeat);
        let newer = boot_before != Some(heartbeat.boot)
            || self.echo.is_none_or(|known| known.boot != heartbeat.boot || order(&known) < order(&came));
        if boot_before != Some(heartbeat.boot) {
            self.introductions.clear();
            self.lease_ack = None;
            self.detector.begun_anew();
        }
        if newer {
            self.detector.reported(now, &heartbeat.paths);
            self.echo = Some(came);
            self.echo_at = now;
            self.state = Some(heartbeat.state.clone());
        }
        Ok(newer)
    }

    fn introduce(&mut self, echo: Echo) {
        // What that life sent to another member is numbered otherwise, and may have been sent on to here.
        let alike = |known: &Echo| known.boot == echo.boot && known.seq >> SLOT_AT == echo.seq >> SLOT_AT;
        let newer = |known: &Echo| alike(known) && known.seq >= echo.seq;
        if self.introductions.iter().chain(&self.echo).any(newer) {
            return;
        }
        self.introductions.retain(|known| !alike(known));
        if self.introductions.len() == INTRODUCTIONS {
            self.introductions.remove(0);
        }
        self.introductions.push(echo);
    }

    /// Whom this member hears, as it tells the others; `None` until it was believed once.
    pub(super) fn sight(&self, now: Time) -> Option<Sight> {
        let member = self.member.as_ref()?.incarnation;
        let mut paths = 0;
        for (at, path) in self.detector.paths().iter().enumerate().take(MAX_PATHS) {
            paths |= u8::from(!self.is_dead() && path.alive(now, self.detector.detect())) << at;
        }
        Some(Sight { member, paths })
    }

    /// The echo for the next packet: of the life that is believed, or, while there is none, of each
    /// one in turn that introduced itself.
    pub(super) fn echo_for_next(&mut self, now: Time) -> Option<Echo> {
        if !self.alive(now) && !self.introductions.is_empty() {
            let turn = self.sent_seq as usize % self.introductions.len();
            return Some(self.introductions[turn]);
        }
        self.echo
    }

    /// The next sequence number, noting what was asked on which path.
    pub(super) fn next_seq(&mut self, now: Time, path: usize, reply_wanted: bool) -> u64 {
        self.sent_seq += 1;
        if let Some(asked) = self.asked.get_mut(path).filter(|_| reply_wanted) {
            *asked = Some((self.sent_seq, now));
        }
        self.detector.sent(path);
        self.sent_seq
    }
}

/// Roles that hold, or are about to hold, what only one member may hold.
pub(super) fn reigning(role: Role) -> bool {
    matches!(role, Role::Promoting | Role::Primary | Role::HandingOver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn a_follower_keeps_up_when_it_takes_enough_or_all_that_was_there() {
        let mut follower = Follower::unheard(ms(10));
        follower.acknowledged(ms(20), Lsn(100), Lsn(100), false);
        follower.owes(ms(30), Lsn(100), Lsn(90 << 20));
        assert_eq!(follower.kept_up_at, ms(30), "it owed nothing before");
        // A deep queue, and a drip.
        for n in 1..10 {
            follower.acknowledged(ms(30 + n), Lsn(100 + n * 100_000), Lsn(90 << 20), false);
            follower.owes(ms(30 + n), Lsn(90 << 20), Lsn(91 << 20));
            assert_eq!((follower.kept_up_at, follower.taken_since()), (ms(30), n * 100_000));
        }
        // A megabyte since.
        follower.acknowledged(ms(50), Lsn(100 + (1 << 20)), Lsn(91 << 20), false);
        assert_eq!((follower.kept_up_at, follower.taken_since()), (ms(50), 0));
        // Where writes do not wait for it, that is too little.
        follower.acknowledged(ms(55), Lsn(100 + (5 << 20)), Lsn(91 << 20), true);
        assert_eq!(follower.kept_up_at, ms(50));
        // All that was there then, while the log went on.
        follower.acknowledged(ms(60), Lsn(91 << 20), Lsn((91 << 20) + 500), false);
        follower.acknowledged(ms(70), Lsn((91 << 20) + 400), Lsn((91 << 20) + 900), false);
        assert_eq!(follower.kept_up_at, ms(60));
        follower.acknowledged(ms(80), Lsn((91 << 20) + 500), Lsn((91 << 20) + 900), false);
        assert_eq!(follower.kept_up_at, ms(80));
        // The same again says nothing.
        follower.acknowledged(ms(90), Lsn((91 << 20) + 500), Lsn((91 << 20) + 900), false);
        assert_eq!(follower.kept_up_at, ms(80));
    }
}
