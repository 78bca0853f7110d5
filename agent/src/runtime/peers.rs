//! Where the other members are reached: replaced as a whole when the configuration is read again, while everybody who
//! sends, receives or connects looks it up anew each time.
//!
//! A peer keeps its place (its *slot*) for as long as the agent runs, since the core and the packets' numbers name it
//! by that. Who votes is not decided here (`node/voting.rs`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use holdfast_config::{Config, Peer, PeerKind};
use holdfast_heartbeat::MemberKind;

use crate::node::settings::PeerSettings;

/// Most peers that are ever known: among so many numberings a receiver looks for a sender's packets
/// (`holdfast_heartbeat::replay`).
const MOST_SLOTS: usize = 15;

/// One place among the peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Who is there, or was.
    pub peer: Peer,
    /// The configuration names it.
    pub configured: bool,
    /// It came while the agent ran.
    pub added: bool,
}

/// The peers by slot. Cheap to clone; all clones are replaced together.
#[derive(Clone, Debug)]
pub struct Peers(Arc<ArcSwap<Vec<Slot>>>);

impl Peers {
    /// Those of a configuration, in its order.
    pub fn of(config: &Config) -> Peers {
        let slot = |peer: &Peer| Slot { peer: peer.clone(), configured: true, added: false };
        Peers(Arc::new(ArcSwap::from_pointee(config.peers.iter().map(slot).collect())))
    }

    #[cfg(test)]
    pub(super) fn of_slots(slots: Vec<Slot>) -> Peers {
        Peers(Arc::new(ArcSwap::from_pointee(slots)))
    }

    /// One data member, on that host.
    #[cfg(test)]
    pub(super) fn on(host: IpAddr) -> Peers {
        let at = SocketAddr::new(host, 0);
        let peer = Peer { kind: PeerKind::Data, host, heartbeat: vec![at], replication: Some(at) };
        Peers::of_slots(vec![Slot { peer, configured: true, added: false }])
    }

    /// Those of this moment.
    pub fn now(&self) -> Guard<Arc<Vec<Slot>>> {
        self.0.load()
    }

    /// Whose heartbeats come from `from` by `path`.
    pub fn at(&self, path: usize, from: IpAddr) -> Option<usize> {
        self.now().iter().position(|slot| slot.heartbeat(path).is_some_and(|at| at.ip() == from))
    }

    /// Where the peer in `slot` hears heartbeats by `path`.
    pub fn heartbeat(&self, slot: usize, path: usize) -> Option<SocketAddr> {
        self.now().get(slot)?.heartbeat(path)
    }

    /// Where the peer in `slot` listens for the log's stream; a witness does not.
    pub fn replication(&self, slot: usize) -> Option<SocketAddr> {
        self.now().get(slot).filter(|slot| slot.configured)?.peer.replication
    }

    /// The hosts of the other data members.
    pub fn data_members(&self) -> impl Iterator<Item = IpAddr> {
        let is_one = |slot: &&Slot| slot.configured && slot.peer.kind == PeerKind::Data;
        self.now().iter().filter(is_one).map(|slot| slot.peer.host).collect::<Vec<_>>().into_iter()
    }

    /// Whether a data member is configured on that host.
    pub fn has_data_member_on(&self, host: IpAddr) -> bool {
        self.data_members().any(|known| known.to_canonical() == host)
    }

    /// What the core is told of them.
    pub fn settings(&self) -> Vec<PeerSettings> {
        let settings = |slot: &Slot| PeerSettings {
            label: slot.peer.host.to_string(),
            kind: match slot.peer.kind {
                PeerKind::Data => MemberKind::Data,
                PeerKind::Witness => MemberKind::Witness,
            },
            paths: if slot.configured { slot.peer.heartbeat.len() } else { 0 },
            added: slot.added,
        };
        self.now().iter().map(settings).collect()
    }

    /// The slots as `config` would have them; who stays keeps its own. `None` where nothing changes.
    ///
    /// # Errors
    /// So many came and went that there is no place left before a restart. In words.
    pub fn changed(&self, config: &Config) -> Result<Option<Vec<Slot>>, String> {
        let mut slots: Vec<Slot> = self.now().to_vec();
        let pair =
            |slots: &[Slot]| matches!(slots, [slot] if slot.peer.kind == PeerKind::Data && !slot.added);
        if pair(&slots) && config.is_two_node() && config.peers[0].kind == PeerKind::Data {
            // The other half of a pair is that, wherever it is: no vote is counted in a pair.
            slots[0].peer = config.peers[0].clone();
        }
        for slot in &mut slots {
            let named =
                config.peers.iter().find(|peer| peer.host == slot.peer.host && peer.kind == slot.peer.kind);
            slot.configured = named.is_some();
            if let Some(peer) = named {
                slot.peer = peer.clone();
            }
        }
        for peer in &config.peers {
            if slots.iter().any(|slot| slot.configured && slot.peer == *peer) {
                continue;
            }
            let came = Slot { peer: peer.clone(), configured: true, added: true };
            // The place of a founder is its vote's, where nobody wrote down yet who votes.
            match slots.iter_mut().find(|slot| !slot.configured && slot.added) {
                Some(free) => *free = came,
                None => slots.push(came),
            }
        }
        if slots.len() > MOST_SLOTS {
            return Err(format!(
                "more than {MOST_SLOTS} members came and went since the start of this agent; the addresses of the members wait for a restart"
            ));
        }
        Ok((slots != **self.now()).then_some(slots))
    }

    /// Puts others in force.
    pub fn replace(&self, slots: Vec<Slot>) {
        self.0.store(Arc::new(slots));
    }
}

impl Slot {
    fn heartbeat(&self, path: usize) -> Option<SocketAddr> {
        self.peer.heartbeat.get(path).copied().filter(|_| self.configured)
    }
}

/// What is otherwise than it was, in words.
pub fn describe(before: &[Slot], after: &[Slot]) -> String {
    let hosts = |slots: &[Slot]| -> Vec<String> {
        slots.iter().filter(|slot| slot.configured).map(|slot| slot.peer.host.to_string()).collect()
    };
    let (before, after) = (hosts(before), hosts(after));
    let named = |of: &[String], not: &[String], what: &str| {
        let found: Vec<&str> = of.iter().filter(|host| !not.contains(host)).map(String::as_str).collect();
        (!found.is_empty()).then(|| format!("{} {what}", found.join(" and ")))
    };
    let parts = [named(&after, &before, "came"), named(&before, &after, "went")];
    let said = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    match said.is_empty() {
        true => "the addresses of the members were replaced".to_owned(),
        false => format!("members: {said} (votes change by holdfast ha members, not by the configuration)"),
    }
}
