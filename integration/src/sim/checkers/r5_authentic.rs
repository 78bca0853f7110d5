//! R5: nothing unauthenticated, and nothing old, shortens a lease, raises suspicion, or makes a silent member
//! seem alive; nothing is believed twice, or of a life that was seen to end.

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::BootNonce;
use holdfast_heartbeat::replay::SLOT_AT;

use super::Checker;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Ns, Seen, World};

/// A view of a node is dear: it is looked at once in so many steps.
const LOOK_ONE_IN: u64 = 32;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Authentic {
    /// When each host last sent something to each other one: what it really sent.
    sent: [[Option<Ns>; MOST_HOSTS]; MOST_HOSTS],
    /// What each host, in this life of its, believed of each peer.
    believed: [[Believed; MOST_HOSTS]; MOST_HOSTS],
    steps: u64,
}

/// What was believed of one peer.
#[derive(Default)]
struct Believed {
    boot: Option<BootNonce>,
    /// The sequence numbers of the present life, one bit each.
    seen: Vec<u64>,
}

impl Believed {
    fn add(&mut self, boot: BootNonce, seq: u64) -> Result<(), &'static str> {
        // In the world's order a later life has the larger number.
        if Some(boot.0) < self.boot.map(|newest| newest.0) {
            return Err("of a life after which it had believed a later one");
        }
        if self.boot != Some(boot) {
            self.boot = Some(boot);
            self.seen.clear();
        }
        let seq = seq & ((1 << SLOT_AT) - 1);
        let (word, bit) = (seq as usize / 64, 1 << (seq % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            return Err("for the second time");
        }
        self.seen[word] |= bit;
        Ok(())
    }
}

impl Checker for Authentic {
    fn rule(&self) -> &'static str {
        "R5"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Effect { host, effect: Effect::Send { peer, .. }, .. } => {
                self.sent[*host][world.host_of_peer(*host, *peer)] = Some(world.now);
            }
            Seen::Born { host } => self.believed[*host] = Default::default(),
            Seen::Believed { host, peer, boot, seq, .. } => {
                self.believed[*host][*peer].add(*boot, *seq).map_err(|how| {
                    let (host, other) =
                        (&world.hosts[*host].name, &world.hosts[world.host_of_peer(*host, *peer)].name);
                    format!("{host} believes packet {seq} of {other} {how}")
                })?;
            }
            Seen::Stepped { host } => {
                self.steps += 1;
                if self.steps.is_multiple_of(LOOK_ONE_IN) {
                    return self.look(world, *host);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Authentic {
    fn look(&self, world: &World, h: usize) -> Result<(), String> {
        let host = &world.hosts[h];
        let Some(life) = host.life.as_ref() else { return Ok(()) };
        let derived = world.derived(h);
        // Heard within the detection time, and made with knowledge that was no older than that or a lease.
        let longest = derived.detect + derived.detect.max(derived.lease);
        let longest = 2 * longest.as_nanos() as Ns;
        let view = life.node.view(world.clock(h));
        for (peer, seen) in view.peers.iter().enumerate() {
            let other = world.host_of_peer(h, peer);
            let silent = self.sent[other][h].is_none_or(|at| world.now - at > longest);
            if seen.alive && silent {
                return Err(format!(
                    "{} takes {} for alive, which sent it nothing for {} ms",
                    host.name,
                    world.hosts[other].name,
                    self.sent[other][h].map_or(world.now, |at| world.now - at) / 1_000_000
                ));
            }
        }
        Ok(())
    }
}
