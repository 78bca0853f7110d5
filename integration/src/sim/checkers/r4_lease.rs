//! R4: a primary serves, reads too, only while a majority acknowledged heartbeats sent less than one lease
//! ago; no two members hold a lease at once; after a restart a voter waits one lease before it votes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::{Echo, Epoch, InSyncRecord, NodeId, Role, Time};

use super::{Checker, facts};
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Ns, Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Lease {
    /// For each reign of each life, by its nonce: when the newest heartbeat was sent that a voter acknowledged.
    granted: BTreeMap<(u64, Epoch), [Option<Time>; MOST_HOSTS]>,
    /// Who votes, by what each host has on its disk.
    written: [InForce; MOST_HOSTS],
    /// Who votes, by what a quorum has.
    decided: InForce,
}

/// The voting sets that followed one another, and since when; the newest last.
#[derive(Default)]
struct InForce(Vec<(Option<Vec<NodeId>>, Ns)>);

impl InForce {
    fn note(&mut self, now: Ns, voters: Option<&Vec<NodeId>>) {
        if self.0.last().is_none_or(|(known, _)| known.as_ref() != voters) {
            self.0.push((voters.cloned(), now));
        }
        let excess = self.0.len().saturating_sub(16);
        self.0.drain(..excess);
    }

    /// Whether `stands` holds for the newest set, or for one that was in force within the last `lease`.
    fn any(&self, now: Ns, lease: Duration, stands: impl Fn(Option<&Vec<NodeId>>) -> bool) -> bool {
        // With what the host's clock may be slow by.
        let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        let horizon = now.saturating_sub(lease + lease / 50);
        for (voters, since) in self.0.iter().rev() {
            if stands(voters.as_ref()) {
                return true;
            }
            if *since <= horizon {
                return false;
            }
        }
        self.0.is_empty()
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.last() {
            Some((Some(voters), _)) => {
                f.write_str(&voters.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", "))
            }
            _ => f.write_str("everybody"),
        }
    }
}

impl Checker for Lease {
    fn rule(&self) -> &'static str {
        "R4"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Effect { host, at, effect: Effect::Send { heartbeat, .. } } => {
                let state = &heartbeat.state;
                if let (Some(epoch), Some(echo)) = (state.grants, heartbeat.echo) {
                    let voters = self.granted.entry((echo.boot.0, epoch)).or_default();
                    voters[*host] = voters[*host].max(Some(echo.sent_at));
                    outlasts(world, *host, epoch, &echo)?;
                }
                let vote = state.vote.filter(|vote| vote.refusal.is_none());
                if let Some(vote) = vote.filter(|vote| !vote.pre) {
                    self.lapsed_before_vote(world, *host, vote.epoch)?;
                }
                if vote.is_some() {
                    return waited_long_enough(world, *host, *at, "votes");
                }
            }
            Seen::Effect { host, at, effect: Effect::Report(transition) }
                if transition.to == Role::Promoting =>
            {
                waited_long_enough(world, *host, *at, "is elected")?;
                // What was granted to reigns that are long over is of no interest any more.
                let horizon = Epoch(transition.epoch.0.saturating_sub(8));
                self.granted.retain(|(_, epoch), _| *epoch >= horizon);
            }
            Seen::Persisted { host } => {
                let voters = |record: Option<&InSyncRecord>| record.and_then(|record| record.voters.clone());
                let (own, all) = (world.hosts[*host].hard.record.as_ref(), facts::newest_record(world));
                self.written[*host].note(world.now, voters(own).as_ref());
                self.decided.note(world.now, voters(all).as_ref());
            }
            Seen::Born { host } => return self.will_wait_long_enough(world, *host),
            Seen::Stepped { .. } => return one_lease(world),
            Seen::Answering { host, .. } => return self.majority_stands_behind(world, *host),
            _ => {}
        }
        Ok(())
    }
}

/// The lease as the members state it, the gate's excess included, cannot be voted on sooner after a start.
fn waited_long_enough(world: &World, h: usize, at: Time, what: &str) -> Result<(), String> {
    let host = &world.hosts[h];
    let Some(life) = host.life.as_ref() else { return Ok(()) };
    let derived = world.derived(h);
    let lease = derived.lease + derived.gate_extra;
    let waited = at.since(life.started);
    if waited < lease {
        return Err(format!("{} {what} {waited:?} after its start; a lease is {lease:?}", host.name));
    }
    Ok(())
}

/// Whoever renews a lease will vote for nobody else before that lease is over, on clocks as different as theirs.
fn outlasts(world: &World, voter: usize, epoch: Epoch, echo: &Echo) -> Result<(), String> {
    if world.rate_outside || world.shape.is_pair() {
        return Ok(());
    }
    let boots = |h: usize| world.hosts[h].life.as_ref().map(|life| life.boot);
    let Some(holder) = (0..world.hosts.len()).find(|h| boots(*h) == Some(echo.boot)) else { return Ok(()) };
    let renewed = world.hosts[voter].life.as_ref().and_then(|life| life.node.renewed());
    let Some((_, until)) = renewed.filter(|(renewed, _)| *renewed == epoch) else { return Ok(()) };
    let (waits, lasts) = (
        world.hosts[voter].clock.when(until),
        world.hosts[holder].clock.when(echo.sent_at + world.derived(holder).lease),
    );
    if waits < lasts {
        return Err(format!(
            "{} votes again {:?} before the lease of {} in epoch {epoch} that it renews is over",
            world.hosts[voter].name,
            std::time::Duration::from_nanos(lasts - waits),
            world.hosts[holder].name
        ));
    }
    Ok(())
}

fn one_lease(world: &World) -> Result<(), String> {
    // In a pair nobody has to agree: there the address alone is never in two places (rule R6).
    if world.price_accepted || world.rate_outside || world.shape.is_pair() {
        return Ok(());
    }
    let mut holder: Option<usize> = None;
    for (h, host) in world.hosts.iter().enumerate() {
        let held = host.life.as_ref().is_some_and(|life| life.lease.held(world.clock(h)).is_some());
        if held && let Some(other) = holder.replace(h) {
            return Err(format!("{} and {} hold a lease at once", world.hosts[other].name, host.name));
        }
    }
    Ok(())
}

impl Lease {
    /// Whoever starts will not vote before the leases that its earlier lives renewed are over.
    fn will_wait_long_enough(&self, world: &World, voter: usize) -> Result<(), String> {
        if world.rate_outside || world.disks_lost || world.shape.is_pair() {
            return Ok(());
        }
        let Some(born) = world.hosts[voter].life.as_ref() else { return Ok(()) };
        let waits = born.node.votes_from().since(world.clock(voter));
        for (h, host) in world.hosts.iter().enumerate().filter(|(h, _)| *h != voter) {
            let reign = world.reign(h);
            let Some(life) = host.life.as_ref().filter(|_| reign > Epoch::ZERO) else { continue };
            let renewed = self.granted.get(&(life.boot.0, reign)).and_then(|voters| voters[voter]);
            let left = renewed.map(|sent| (sent + world.derived(h).lease).since(world.clock(h)));
            if let Some(left) = left.filter(|left| *left > waits) {
                return Err(format!(
                    "{} will vote {waits:?} after its start, and {} counts on what it renewed for {left:?} more",
                    world.hosts[voter].name, host.name
                ));
            }
        }
        Ok(())
    }

    /// Whoever votes for another has waited until the lease that it renewed is over on the holder's clock too.
    fn lapsed_before_vote(&self, world: &World, voter: usize, epoch: Epoch) -> Result<(), String> {
        if world.price_accepted || world.rate_outside || world.disks_lost || world.shape.is_pair() {
            return Ok(());
        }
        for (h, host) in world.hosts.iter().enumerate().filter(|(h, _)| *h != voter) {
            let reign = world.reign(h);
            let Some(life) = host.life.as_ref().filter(|_| reign > Epoch::ZERO && reign < epoch) else {
                continue;
            };
            let renewed = self.granted.get(&(life.boot.0, reign)).and_then(|voters| voters[voter]);
            let until = renewed.map(|sent| sent + world.derived(h).lease);
            if until.is_some_and(|until| world.clock(h) < until) {
                return Err(format!(
                    "{} votes in epoch {epoch}, and the lease of {} in epoch {reign} that it renewed is in force",
                    world.hosts[voter].name, host.name
                ));
            }
        }
        Ok(())
    }

    fn majority_stands_behind(&self, world: &World, h: usize) -> Result<(), String> {
        if world.price_accepted || world.shape.is_pair() {
            return Ok(());
        }
        let host = &world.hosts[h];
        let Some(life) = host.life.as_ref() else { return Ok(()) };
        let (now, epoch) = (world.clock(h), world.reign(h));
        let lease = world.derived(h).lease;
        let voters = self.granted.get(&(life.boot.0, epoch));
        let fresh = |voter: usize| {
            let sent = voters.and_then(|voters| voters[voter]);
            voter == h || sent.is_some_and(|sent| now.since(sent) <= lease)
        };
        // Of those who vote by what was decided in this reign, and of those by what it wrote down last. A lease that was
        // earned under the set of before lasts its time.
        let decided = facts::newest_record(world).filter(|record| record.epoch == epoch);
        let sets = [decided.map(|_| &self.decided), Some(&self.written[h])];
        for in_force in sets.into_iter().flatten() {
            if !in_force.any(world.now, lease, |voters| facts::majority(world, voters, fresh)) {
                let others = (0..world.hosts.len()).filter(|voter| *voter != h && fresh(*voter)).count();
                return Err(format!(
                    "{} answers in epoch {epoch}, and {others} others acknowledged a heartbeat of the last {lease:?}, no majority of those who vote: {in_force}",
                    host.name
                ));
            }
        }
        Ok(())
    }
}
