//! What a node shows of itself: a snapshot, taken whenever somebody asks.

use holdfast_heartbeat::{
    BootNonce, Dropped, Epoch, InSyncRecord, Loss, MemberKind, NodeId, Refusal, Role, Suspension, Time,
};

use super::attendants::Preparation;
use super::lateness::Lateness;
use super::peer::reigning;
use super::settings::TwoNode;
use super::{LogPosition, Node, Phase};

/// The node as it is at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// When it was taken.
    pub at: Time,
    /// What it acts as.
    pub role: Role,
    /// Since when.
    pub role_since: Time,
    /// The highest epoch it promised, durably.
    pub epoch: Epoch,
    /// Who is primary, as far as this member knows.
    pub primary: Option<String>,
    /// How long the own lease still lasts, if this member reigns.
    pub lease_until: Option<Time>,
    /// The in-sync record in force as far as known here.
    pub record: Option<InSyncRecord>,
    /// Whether this member answers clients.
    pub serving: bool,
    /// The own log.
    pub log: LogPosition,
    /// The other voters.
    pub peers: Vec<PeerView>,
    /// Heartbeats that were dropped after authentication, by reason.
    pub dropped: Vec<(Dropped, u64)>,
    /// Votes that make a decision.
    pub quorum: usize,
    /// All voters.
    pub voters: usize,
    /// Whether this member is one of them.
    pub has_vote: bool,
    /// Two data members and nobody else: `two_node` decides.
    pub pair: bool,
    /// Who they are, where it is written down.
    pub voters_by_name: Option<Vec<NodeId>>,
    /// What is not as it should be, in words.
    pub warnings: Vec<String>,
    /// Why this member does not stand although there is no primary, in words.
    pub waiting_for: Option<String>,
    /// This member's preference; lower is more preferred.
    pub priority: u32,
    /// Whether this member asks for the role by itself when it is preferred.
    pub failback_enabled: bool,
    /// The newest order about automatic changes of primary.
    pub suspension: Suspension,
    /// This member is taken out for maintenance.
    pub drained: bool,
    /// How late its core is.
    pub lateness: Lateness,
    /// Why this host's links, or the gateways behind them, are not good, while they are not.
    pub links_failed: Option<String>,
    /// What the failed checks count together.
    pub penalty: u32,
    /// Why the own disk is held to be stalled, while it is.
    pub disk_stalled: Option<String>,
}

/// One other voter.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its name, or its address until it was heard.
    pub name: String,
    /// Data member or witness.
    pub kind: MemberKind,
    /// The configuration names it; it keeps its place among the peers until the next start if not.
    pub configured: bool,
    /// It has a vote, as far as this member knows.
    pub has_vote: bool,
    /// The newest version of the heartbeat that it speaks, as it says.
    pub speaks: Option<u8>,
    /// Heard lately.
    pub alive: bool,
    /// When it was last heard.
    pub heard_at: Option<Time>,
    /// What it says it acts as.
    pub role: Option<Role>,
    /// The epoch that it says it promised.
    pub epoch: Option<Epoch>,
    /// Its preference.
    pub priority: Option<u32>,
    /// It says that it is taken out for maintenance.
    pub drained: bool,
    /// What it says its failed checks count together.
    pub penalty: u32,
    /// It says that its disk does not take writes in time.
    pub disk_stalled: bool,
    /// It says that it is able and allowed to be primary.
    pub electable: bool,
    /// The life of its process that is believed.
    pub boot: Option<BootNonce>,
    /// Whom it says it hears, and by which paths.
    pub hears: Vec<Hearing>,
    /// Its paths, in the order of the configuration.
    pub paths: Vec<PathView>,
}

/// One path to it.
#[derive(Clone, Debug)]
pub struct PathView {
    /// Carried something lately.
    pub alive: bool,
    /// When the last believed packet came by it.
    pub heard_at: Option<Time>,
    /// Whether ours arrive there, as the peer says; `None` while it does not say.
    pub reaches: Option<bool>,
    /// Smoothed round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// The longest of the last minute or two, in microseconds.
    pub rtt_longest_us: Option<u64>,
    /// What of the peer's was lost on the way here in the last minute.
    pub lost_here: Option<Loss>,
    /// What of ours was lost on the way there in the last minute.
    pub lost_there: Option<Loss>,
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that show that the peer does not hear us.
    pub unproven: u64,
}

/// That a peer hears somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hearing {
    /// Whom.
    pub member: String,
    /// By which paths, of those that it has to that member as far as known here.
    pub paths: Vec<bool>,
}

impl Node {
    /// The state at `now`.
    pub fn view(&self, now: Time) -> View {
        let peers: Vec<_> = self.peers.iter().map(|peer| self.peer_view(peer, now)).collect();
        let (lease_until, serving) = match &self.phase {
            Phase::Reigning(reign) => (reign.lease_until, reign.serving),
            _ => (None, false),
        };
        let primary = match &self.phase {
            Phase::Reigning(_) => Some(self.settings.me.id.to_string()),
            _ => self
                .leader
                .filter(|(_, peer)| self.peers[*peer].reigns(now))
                .map(|(_, peer)| self.peers[peer].name()),
        };
        let record = match &self.phase {
            Phase::Reigning(reign) => reign.in_sync.confirmed.clone().or_else(|| self.durable.record.clone()),
            _ => self.durable.record.clone(),
        };
        let mut view = View {
            at: now,
            role: self.role(),
            role_since: self.role_since,
            epoch: self.durable.epoch,
            primary,
            lease_until,
            record,
            serving,
            log: self.log,
            peers,
            dropped: self.dropped.iter().map(|(reason, count)| (*reason, *count)).collect(),
            quorum: super::quorum::majority(self.voters()),
            voters: self.voters(),
            has_vote: self.has_vote(),
            pair: self.is_two_node(),
            voters_by_name: self.recorded_voters().cloned(),
            warnings: Vec::new(),
            waiting_for: None,
            priority: self.settings.priority,
            failback_enabled: self.failback_enabled,
            suspension: self.hard.suspension.clone(),
            drained: self.drained(),
            lateness: self.lateness.clone(),
            links_failed: (!self.links_good).then(|| self.links_detail.clone()),
            penalty: self.health.penalty,
            disk_stalled: self.health.stalled.clone(),
        };
        view.warnings = self.warnings(now, &view);
        view.waiting_for = view.primary.is_none().then(|| self.waiting_for(now)).flatten();
        view
    }

    fn warnings(&self, now: Time, view: &View) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.paused() {
            warnings.push(format!(
                "the cluster is paused (ordered on {}): nobody takes over by itself until somebody runs: holdfast ha resume",
                self.paused_where()
            ));
        }
        if view.drained {
            warnings.push(
                "this member is drained: it takes no role, and no write waits for it, until: holdfast ha resume"
                    .into(),
            );
        }
        for peer in view.peers.iter().filter(|peer| peer.drained) {
            warnings.push(format!(
                "{0} is drained: it takes no role, and no write waits for it, until somebody runs on {0}: holdfast ha resume",
                peer.name
            ));
        }
        self.warn_of_paths(now, view, &mut warnings);
        self.warn_of_votes(now, view, &mut warnings);
        if let Some(record) = &view.record
            && view.primary.is_some()
        {
            let is_data =
                |peer: &&super::peer::Peer| peer.settings.kind == MemberKind::Data && peer.configured();
            let data = 1 + self.peers.iter().filter(is_data).count();
            let data = if self.settings.kind == MemberKind::Witness { data - 1 } else { data };
            if record.members.len() == 1 && data > 1 {
                warnings.push(format!("solo: only {} holds every acknowledged byte; it cannot fail over until a standby has caught up", record.members[0]));
            }
        }
        if self.log_broken {
            warnings.push("the log cannot be written: this member cannot be primary".into());
        }
        if self.log_full {
            warnings.push("the disk of the log is full: writes are refused, everything stored is intact; free some space".into());
        }
        if let Phase::Reigning(reign) = &self.phase
            && let Preparation::Since(since) = reign.preparation
        {
            let message = format!(
                "taking over: waiting for pre-hooks and services for {} ms",
                now.since(since).as_millis()
            );
            warnings.push(message);
        }
        warnings.extend(self.fence_warnings(now));
        if now < self.attendants.retreat_until {
            warnings.push(format!(
                "a takeover failed for a pre-hook or a service; this member does not try again by itself for {} s more. See: holdfast ha history",
                self.attendants.retreat_until.since(now).as_secs() + 1
            ));
        }
        if let Some(detail) = &self.health.stalled {
            warnings.push(format!("{detail}; this member does not take the role meanwhile"));
        }
        for check in &self.health.failed {
            warnings.push(format!("check {:?} fails: {}", check.name, check.detail));
        }
        for peer in view.peers.iter().filter(|peer| peer.alive) {
            if peer.disk_stalled {
                warnings.push(format!("the disk of {} does not take writes in time", peer.name));
            }
            if peer.penalty > 0 {
                warnings
                    .push(format!("checks fail on {0} (what, says holdfast ha status on {0})", peer.name));
            }
        }
        if !self.links_good {
            warnings.push(format!("own links: {}", self.links_detail));
        }
        if let Some(lost) = &self.gate_lost {
            warnings.push(format!("kernel gate lost: {}", lost.detail));
        }
        if self.is_two_node() && !self.peers[0].alive(now) && self.phase.reigns() && !self.is_fencing_pair() {
            warnings.push(
                "alone without a witness: nobody can tell whether the other half serves somewhere too".into(),
            );
        }
        warnings
    }

    fn waiting_for(&self, now: Time) -> Option<String> {
        let by = self.paused_where();
        if self.settings.kind == MemberKind::Witness {
            return self.paused().then(|| {
                format!("the cluster is paused (ordered on {by}) and nobody takes over by itself. To let a data member take over: holdfast ha resume")
            });
        }
        if self.drained() {
            let also = if self.paused() { ", and the cluster is paused" } else { "" };
            return Some(format!(
                "this member is drained{also}, so it does not stand by itself. When its maintenance is over: holdfast ha resume; to make it primary as it is: holdfast ha promote"
            ));
        }
        if self.paused() {
            let me = &self.settings.me;
            let whole = self.hard.record.as_ref().is_none_or(|record| record.contains(me));
            let lacks = if whole { "" } else { ", which does not hold every acknowledged byte," };
            return Some(format!(
                "the cluster is paused (ordered on {by}) and nobody takes over by itself. To let the members elect a primary: holdfast ha resume; to make this member{lacks} primary: holdfast ha promote"
            ));
        }
        if now < self.votes_from {
            return Some("one lease must pass after a start before this member votes".into());
        }
        let me = &self.settings.me;
        match &self.hard.record {
            Some(record) if !record.contains(me) => {
                let names: Vec<_> = record.members.iter().map(|member| member.id.to_string()).collect();
                Some(format!(
                    "this member does not hold every acknowledged byte; waiting for {}. If it cannot be brought back: holdfast ha promote --accept-data-loss",
                    names.join(" or ")
                ))
            }
            None => {
                let remembers = |p: &&super::peer::Peer| p.state.as_ref().is_some_and(|s| s.record.is_some());
                if let Some(peer) = self.peers.iter().find(remembers) {
                    let record = peer.state.as_ref().and_then(|state| state.record.as_ref());
                    let names: Vec<_> =
                        record.iter().flat_map(|r| &r.members).map(|member| member.id.to_string()).collect();
                    return Some(format!(
                        "this member has nothing, and {} knows that {} had every acknowledged byte; waiting for its primary. Only if all of that is lost for good: holdfast ha promote --accept-data-loss",
                        peer.name(),
                        names.join(" and ")
                    ));
                }
                let missing: Vec<_> = self
                    .peers
                    .iter()
                    .filter(|p| p.settings.kind == MemberKind::Data && p.configured() && !p.alive(now))
                    .map(|p| p.name())
                    .collect();
                if missing.is_empty() {
                    return None;
                }
                Some(format!(
                    "a new cluster starts when every data member is present; waiting for {}. To start without: holdfast ha promote --accept-data-loss",
                    missing.join(", ")
                ))
            }
            Some(record) if self.is_two_node() && !self.peers[0].alive(now) => {
                Some(self.waiting_for_other_half(record))
            }
            Some(_) => {
                let heard = self.heard(now);
                let needed = super::quorum::majority(self.voters());
                if heard < needed {
                    return Some(format!(
                        "{heard} of {} members can be heard and {needed} must agree; nobody can be primary on this side. Check the network and the other members",
                        self.voters()
                    ));
                }
                if !self.settings.automatic {
                    return Some("ha.enabled is false: only an operator makes this member primary, with holdfast ha promote".into());
                }
                let (who, why) = self.last_refusal.as_ref()?;
                if *why == Refusal::NotBootstrapped && self.hard.record.is_some() {
                    return Some(format!(
                        "{who} remembers nothing of this cluster (its disk is new, or was lost), so its vote proves nothing, and without it this member has no majority. Bring another member back; if {} was the last primary: holdfast ha promote --accept-data-loss",
                        self.settings.me
                    ));
                }
                Some(format!("{who} refused its vote: {}", in_words(*why)))
            }
        }
    }

    /// Why this half of a pair does not go on without the other one, which it does not hear.
    fn waiting_for_other_half(&self, record: &InSyncRecord) -> String {
        let other = self.peers[0].name();
        let by_order = format!("If {other} is off for good: holdfast ha promote --accept-data-loss");
        if !self.settings.automatic {
            return format!(
                "{other} is not heard, and with ha.enabled = false only an operator makes this member primary. {by_order}"
            );
        }
        if !self.fit() {
            return format!("{other} is not heard, and this half cannot take over: {}", self.unfit_because());
        }
        let sole = record.members[..] == [self.settings.me.clone()];
        let manual = self.settings.two_node == TwoNode::Manual;
        let off = self.other_half().is_some_and(|id| self.is_off(&id));
        if self.is_fencing_pair() && self.may_stand_alone() && !off {
            if self.paused() {
                return format!(
                    "{other} is not heard, and nobody is switched off while the cluster is paused"
                );
            }
            return format!("{other} is not heard; this half takes over once {other} is confirmed to be off");
        }
        if sole || self.seen_in_sync && !manual {
            return match &self.probe.finished {
                Some((_, Some(who))) => {
                    format!(
                        "{other} is not heard, but the virtual address answers ({who}): repair the heartbeat path, or find that host and take the address off it"
                    )
                }
                _ => format!(
                    "{other} is not heard; this half goes on alone once nobody answers for the virtual address"
                ),
            };
        }
        if self.seen_in_sync {
            return format!(
                "{other} is not heard, and under two_node = \"manual\" nobody takes over by itself. {by_order}"
            );
        }
        format!(
            "{other} is not heard and may have gone on alone: after a cold start, or where it could not be followed at once, a half of a pair waits for the other. {by_order}"
        )
    }

    /// From when on this member votes: a lease that it renewed in an earlier life is over by then.
    pub fn votes_from(&self) -> Time {
        self.votes_from
    }

    /// The reign whose lease this member renewed last, and until when it therefore votes for nobody else.
    pub fn renewed(&self) -> Option<(Epoch, Time)> {
        self.grant.as_ref().map(|grant| (grant.epoch, grant.until))
    }

    /// How many authentic heartbeats were not believed, in this life.
    pub fn disbelieved(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// The reign that a supervisor would have to bury if this process died now.
    pub fn reigning_epoch(&self) -> Epoch {
        match &self.phase {
            Phase::Reigning(reign) if reigning(reign.role) => reign.epoch,
            _ => Epoch::ZERO,
        }
    }
}

/// A refusal for people.
pub(super) fn in_words(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::EpochPromised => "it has promised this epoch to another member",
        Refusal::LeaseHeld => "the former primary's lease may still be in force",
        Refusal::JustStarted => "it has just started and waits one lease before it votes",
        Refusal::NotInSync => "this member does not hold every acknowledged byte",
        Refusal::NotBootstrapped => "a new cluster starts only with every data member present and empty",
        Refusal::IsPrimary => "it is primary itself",
        Refusal::NotAVoter => "this member has no vote in the cluster",
    }
}
