//! What the gate's table asks of each packet, and the orders that make, open and shut it.
//!
//! The questions are those of the eBPF program (see the table in [`program`](crate::gate::program)): a packet
//! is matched by our side of it. They are asked in a table of the family `netdev`, on ingress and egress of
//! each interface: nothing is nearer to the wire, so IP, ARP, neighbour discovery and our own raw frames
//! all come past. As `nft` would write it:
//!
//! ```text
//! table netdev holdfast_gate/eth1 {
//!     flags owner,persist
//!     set vip4   { type ipv4_addr; elements = { 10.0.0.100 } }
//!     set open4  { type ipv4_addr; flags timeout; }             # the lease: elements that expire
//!     set ticket { type mark; flags timeout; }
//!     chain entering {
//!         type filter hook ingress devices = { eth1 } priority -450
//!         ip daddr @vip4 ip daddr != @open4 drop
//!         ...
//! ```
//!
//! | set | has |
//! |---|---|
//! | `vip4`, `vip6`, `ports` | what is gated; constant |
//! | `open4`, `open6`, `open_ports` | the same elements, as long as the gate is open for them |
//! | `ticket` | an element that a grant needs: see [`keeper`](super::keeper) |
//!
//! What leaves by the other interfaces is asked in a third chain, `elsewhere`: there `fib saddr type local` tells what
//! this host sends as itself from what it forwards for others. ARP and advertisements are never forwarded.
//!
//! Everything can be written in the language of `nft`, so that a ruleset that an operator saves with ours in
//! it can be loaded again.

use std::net::IpAddr;

use super::wire::{
    APPEND, Attributes, Batch, CREATE, DELETE_ELEMENT, DELETE_TABLE, EXCLUSIVE, NEW_CHAIN, NEW_ELEMENT,
    NEW_RULE, NEW_SET, NEW_TABLE,
};
use crate::gate::program::{Asked, Direction};
use crate::spec::VipSpec;

/// Tables of ours begin with this; the interfaces follow. An interface's name has no slash.
const TABLE_PREFIX: &str = "holdfast_gate";
/// Longest name that the kernel takes for a table, without its closing zero.
const MOST_NAME_BYTES: usize = 255;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const TABLE_DORMANT: u32 = 1;
/// Only the socket that made the table may change it; it stays when that socket is closed.
pub(super) const TABLE_OWNED: u32 = 2 | 4;
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const HOOK_DEVICES: u16 = 4;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;

/// Before everything that an operator would have there.
const PRIORITY: i32 = -450;
const POLICY_ACCEPT: u32 = 1;
const SET_HAS_TIMEOUTS: u32 = 0x10;
const DROP: u32 = 0;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const META_PROTOCOL: u32 = 1;
const META_L4PROTO: u32 = 16;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// The key of the one element of `ticket`.
const TICKET: [u8; 4] = [0, 0, 0, 1];

const ARP: &[u8] = &[0x08, 0x06];
const IPV4: &[u8] = &[0x08, 0x00];
const IPV6: &[u8] = &[0x86, 0xdd];
const TCP: &[u8] = &[6];
const ICMPV6: &[u8] = &[58];
const NEIGHBOUR_ADVERTISEMENT: &[u8] = &[136];

/// What is opened together, under one deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The virtual addresses.
    Addresses,
    /// The service ports.
    Ports,
}

/// How long an element stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until it is deleted.
    ForEver,
    /// For so many milliseconds from the moment that the kernel takes the order.
    Ms(u64),
}

/// A set of keys of one length.
#[derive(Debug)]
struct Keys {
    gated: &'static str,
    open: &'static str,
    /// By this number `nft` knows how to print a key.
    nft_type: u32,
    bytes: u32,
    keys: Vec<Vec<u8>>,
}

/// One table of ours, as it should be.
#[derive(Debug)]
pub(super) struct Ruleset {
    pub(super) table: String,
    ipv4: Keys,
    ipv6: Keys,
    ports: Keys,
}

/// One step of a rule. Each leaves the rule, and the packet to the next one, where it does not hold.
enum Match {
    Meta(u32, &'static [u8]),
    Field {
        base: u32,
        offset: u32,
        value: &'static [u8],
    },
    /// The field is a key of the gated set and not of the open one.
    Shut {
        base: u32,
        offset: u32,
        of: fn(&Ruleset) -> &Keys,
    },
    /// The source is an address of this host.
    FromHere,
}

fn ipv4(rules: &Ruleset) -> &Keys {
    &rules.ipv4
}

fn ipv6(rules: &Ruleset) -> &Keys {
    &rules.ipv6
}

fn ports(rules: &Ruleset) -> &Keys {
    &rules.ports
}

/// The rules of a chain; each ends in a drop.
fn rules(chain: &Chain) -> Vec<Vec<Match>> {
    let mut rules = rules_towards(chain.direction);
    if chain.asked == Asked::Own {
        for rule in &mut rules {
            let forwardable = !rule.iter().any(|step| {
                matches!(step, Match::Meta(META_PROTOCOL, ARP) | Match::Meta(META_L4PROTO, ICMPV6))
            });
            if forwardable {
                rule.push(Match::FromHere);
            }
        }
    }
    rules
}

fn rules_towards(direction: Direction) -> Vec<Vec<Match>> {
    let network = |offset, of| Match::Shut { base: NETWORK, offset, of };
    let transport = |offset, of| Match::Shut { base: TRANSPORT, offset, of };
    match direction {
        Direction::Ingress => vec![
            vec![Match::Meta(META_PROTOCOL, IPV4), network(16, ipv4)],
            vec![Match::Meta(META_PROTOCOL, IPV6), network(24, ipv6)],
            vec![Match::Meta(META_L4PROTO, TCP), transport(2, ports)],
        ],
        Direction::Egress => vec![
            vec![Match::Meta(META_PROTOCOL, IPV4), network(12, ipv4)],
            vec![Match::Meta(META_PROTOCOL, IPV6), network(8, ipv6)],
            // The sender's address of an ARP packet.
            vec![Match::Meta(META_PROTOCOL, ARP), network(14, ipv4)],
            // An advertisement may have another source than its target: the target is the claim.
            vec![
                Match::Meta(META_PROTOCOL, IPV6),
                Match::Meta(META_L4PROTO, ICMPV6),
                Match::Field { base: TRANSPORT, offset: 0, value: NEIGHBOUR_ADVERTISEMENT },
                transport(8, ipv6),
            ],
            vec![Match::Meta(META_L4PROTO, TCP), transport(0, ports)],
        ],
    }
}

/// A chain, by what it asks.
pub(super) struct Chain {
    pub(super) name: &'static str,
    direction: Direction,
    asked: Asked,
}

/// On the interfaces of virtual addresses the first two, on the others the last.
pub(super) const CHAINS: [Chain; 3] = [
    Chain { name: "entering", direction: Direction::Ingress, asked: Asked::Every },
    Chain { name: "leaving", direction: Direction::Egress, asked: Asked::Every },
    Chain { name: "elsewhere", direction: Direction::Egress, asked: Asked::Own },
];

impl Chain {
    /// The kernel's number of the place where it hangs.
    fn hook(&self) -> u32 {
        match self.direction {
            Direction::Ingress => 0,
            Direction::Egress => 1,
        }
    }

    /// How many rules it has.
    pub(super) fn rule_count(&self) -> usize {
        rules(self).len()
    }
}

/// The part of a table's name that stands for an interface: `nft` takes letters, digits, `_`, `.` and `-`.
fn name_of(interface: &str) -> String {
    interface
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' })
        .collect()
}

/// Whether a table of this name is a gate.
pub(super) fn is_gate(table: &str) -> bool {
    table.strip_prefix(TABLE_PREFIX).is_some_and(|rest| rest.starts_with('/'))
}

fn list(attributes: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    const ELEMENT: u16 = 1;
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    attributes.nest(ELEMENT, |expression| {
        expression.text(NAME, name);
        expression.nest(DATA, data);
    });
}

fn value(attributes: &mut Attributes<'_>, kind: u16, bytes: &[u8]) {
    const VALUE: u16 = 1;
    attributes.nest(kind, |data| data.bytes(VALUE, bytes));
}

/// Loads what a packet says to the register.
fn load(attributes: &mut Attributes<'_>, base: u32, offset: u32, bytes: u32) {
    list(attributes, "payload", |payload| {
        payload.number(1, REGISTER);
        payload.number(2, base);
        payload.number(3, offset);
        payload.number(4, bytes);
    });
}

fn equals(attributes: &mut Attributes<'_>, bytes: &[u8]) {
    list(attributes, "cmp", |compare| {
        compare.number(1, REGISTER);
        compare.number(2, 0);
        value(compare, 3, bytes);
    });
}

/// Goes on if the register's key is in `set`; or, `inverted`, if it is not.
fn lookup(attributes: &mut Attributes<'_>, set: &str, inverted: bool) {
    list(attributes, "lookup", |lookup| {
        lookup.text(1, set);
        lookup.number(2, REGISTER);
        if inverted {
            lookup.number(5, 1);
        }
    });
}

fn drop_it(attributes: &mut Attributes<'_>) {
    list(attributes, "immediate", |immediate| {
        immediate.number(1, REGISTER_VERDICT);
        immediate.nest(2, |data| data.nest(2, |verdict| verdict.number(1, DROP)));
    });
}

impl Ruleset {
    /// The table for `specs` and `ports` on `interfaces`.
    ///
    /// # Errors
    /// The interfaces are so many that their names do not fit into the table's.
    pub(super) fn new(specs: &[VipSpec], ports: &[u16], interfaces: &[String]) -> std::io::Result<Ruleset> {
        let names = interfaces.iter().map(|interface| format!("/{}", name_of(interface)));
        let table = std::iter::once(TABLE_PREFIX.to_owned()).chain(names).collect::<String>();
        if table.len() > MOST_NAME_BYTES {
            let words = "the nftables gate cannot name its table after so many interfaces";
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, words));
        }
        let mut ruleset = Ruleset {
            table,
            ipv4: Keys { gated: "vip4", open: "open4", nft_type: 7, bytes: 4, keys: Vec::new() },
            ipv6: Keys { gated: "vip6", open: "open6", nft_type: 8, bytes: 16, keys: Vec::new() },
            ports: Keys { gated: "ports", open: "open_ports", nft_type: 13, bytes: 2, keys: Vec::new() },
        };
        for spec in specs {
            match spec.ip() {
                IpAddr::V4(ip) => ruleset.ipv4.add(&ip.octets()),
                IpAddr::V6(ip) => ruleset.ipv6.add(&ip.octets()),
            }
        }
        for port in ports {
            ruleset.ports.add(&port.to_be_bytes());
        }
        Ok(ruleset)
    }

    fn sets(&self, class: Class) -> impl Iterator<Item = &Keys> {
        let sets = match class {
            Class::Addresses => [Some(&self.ipv4), Some(&self.ipv6)],
            Class::Ports => [Some(&self.ports), None],
        };
        sets.into_iter().flatten().filter(|set| !set.keys.is_empty())
    }

    /// Whether there is anything to open and shut.
    pub(super) fn gates(&self, class: Class) -> bool {
        self.sets(class).next().is_some()
    }

    /// Appends: the table anew, shut, on those `devices` of virtual addresses and those `others`, in place of one of
    /// the same name. Between the old one and the new one no packet passes ungated.
    pub(super) fn make(&self, batch: &mut Batch, flags: u32, devices: &[String], others: &[String]) {
        self.remove(batch);
        batch.message(NEW_TABLE, CREATE, |table| {
            table.text(TABLE_NAME, &self.table);
            table.number(TABLE_FLAGS, flags);
        });
        let mut id = 0;
        let mut set = |name: &str, nft_type: u32, bytes: u32, flags: u32| {
            id += 1;
            batch.message(NEW_SET, CREATE, |set| {
                set.text(1, &self.table);
                set.text(2, name);
                set.number(3, flags);
                set.number(4, nft_type);
                set.number(5, bytes);
                set.number(10, id);
            });
        };
        for keys in [&self.ipv4, &self.ipv6, &self.ports] {
            set(keys.gated, keys.nft_type, keys.bytes, 0);
            set(keys.open, keys.nft_type, keys.bytes, SET_HAS_TIMEOUTS);
        }
        const MARK: u32 = 19;
        set("ticket", MARK, TICKET.len() as u32, SET_HAS_TIMEOUTS);
        for keys in [&self.ipv4, &self.ipv6, &self.ports].into_iter().filter(|keys| !keys.keys.is_empty()) {
            self.elements(batch, NEW_ELEMENT, CREATE, keys.gated, &keys.keys, Stay::ForEver);
        }
        for chain in &CHAINS {
            let devices = match chain.asked {
                Asked::Every => devices,
                Asked::Own => others,
            };
            if devices.is_empty() {
                continue;
            }
            batch.message(NEW_CHAIN, CREATE, |message| {
                message.text(CHAIN_TABLE, &self.table);
                message.text(CHAIN_NAME, chain.name);
                message.text(7, "filter");
                message.number(5, POLICY_ACCEPT);
                message.nest(CHAIN_HOOK, |attributes| {
                    attributes.number(1, chain.hook());
                    attributes.number(2, PRIORITY as u32);
                    attributes.nest(HOOK_DEVICES, |names| {
                        devices.iter().for_each(|device| names.text(1, device));
                    });
                });
            });
            for rule in rules(chain) {
                batch.message(NEW_RULE, CREATE | APPEND, |message| {
                    message.text(RULE_TABLE, &self.table);
                    message.text(RULE_CHAIN, chain.name);
                    message.nest(4, |expressions| self.rule(expressions, &rule));
                });
            }
        }
    }

    fn rule(&self, expressions: &mut Attributes<'_>, rule: &[Match]) {
        for step in rule {
            match *step {
                Match::Meta(key, value) => {
                    list(expressions, "meta", |meta| {
                        meta.number(1, REGISTER);
                        meta.number(2, key);
                    });
                    equals(expressions, value);
                }
                Match::Field { base, offset, value } => {
                    load(expressions, base, offset, value.len() as u32);
                    equals(expressions, value);
                }
                Match::Shut { base, offset, of } => {
                    let keys = of(self);
                    load(expressions, base, offset, keys.bytes);
                    lookup(expressions, keys.gated, false);
                    lookup(expressions, keys.open, true);
                }
                Match::FromHere => {
                    const RESULT_ADDRESS_TYPE: u32 = 3;
                    const OF_SOURCE: u32 = 1;
                    list(expressions, "fib", |fib| {
                        fib.number(1, REGISTER);
                        fib.number(2, RESULT_ADDRESS_TYPE);
                        fib.number(3, OF_SOURCE);
                    });
                    equals(expressions, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
                }
            }
        }
        drop_it(expressions);
    }

    /// Appends: no table of this name, whether there was one or not.
    pub(super) fn remove(&self, batch: &mut Batch) {
        batch.message(NEW_TABLE, CREATE, |table| table.text(TABLE_NAME, &self.table));
        remove_table(batch, &self.table);
    }

    /// Appends: `class` stays open for so long, from now. Refused with `ENOENT` if it is not open.
    pub(super) fn renew(&self, batch: &mut Batch, class: Class, stay: Stay) {
        for keys in self.sets(class) {
            self.elements(batch, DELETE_ELEMENT, 0, keys.open, &keys.keys, Stay::ForEver);
            self.elements(batch, NEW_ELEMENT, CREATE | EXCLUSIVE, keys.open, &keys.keys, stay);
        }
    }

    /// Appends: `class` is shut. Refused with `ENOENT` only if there is no table.
    pub(super) fn shut(&self, batch: &mut Batch, class: Class) {
        for keys in self.sets(class) {
            self.elements(batch, NEW_ELEMENT, CREATE, keys.open, &keys.keys, Stay::ForEver);
            self.elements(batch, DELETE_ELEMENT, 0, keys.open, &keys.keys, Stay::ForEver);
        }
    }

    /// Appends: `class` is open for so long, whether it was or not.
    pub(super) fn open(&self, batch: &mut Batch, class: Class, stay: Stay) {
        self.shut(batch, class);
        for keys in self.sets(class) {
            self.elements(batch, NEW_ELEMENT, CREATE | EXCLUSIVE, keys.open, &keys.keys, stay);
        }
    }

    /// Appends: there is a ticket, for so long.
    pub(super) fn issue_ticket(&self, batch: &mut Batch, stay: Stay) {
        self.elements(batch, NEW_ELEMENT, CREATE, "ticket", &[TICKET], Stay::ForEver);
        self.use_ticket(batch);
        self.elements(batch, NEW_ELEMENT, CREATE | EXCLUSIVE, "ticket", &[TICKET], stay);
    }

    /// Appends: the ticket is used up. Refused with `ENOENT` if there is none any more.
    pub(super) fn use_ticket(&self, batch: &mut Batch) {
        self.elements(batch, DELETE_ELEMENT, 0, "ticket", &[TICKET], Stay::ForEver);
    }

    fn elements(
        &self,
        batch: &mut Batch,
        kind: u8,
        flags: u16,
        set: &str,
        keys: &[impl AsRef<[u8]>],
        stay: Stay,
    ) {
        const KEY: u16 = 1;
        const TIMEOUT: u16 = 4;
        batch.message(kind, flags, |message| {
            message.text(1, &self.table);
            message.text(2, set);
            message.nest(3, |elements| {
                for key in keys {
                    elements.nest(1, |element| {
                        value(element, KEY, key.as_ref());
                        if let Stay::Ms(ms) = stay {
                            element.long(TIMEOUT, ms);
                        }
                    });
                }
            });
        });
    }
}

impl Keys {
    fn add(&mut self, key: &[u8]) {
        if !self.keys.iter().any(|known| known == key) {
            self.keys.push(key.to_vec());
        }
    }
}

/// Appends: a table is deleted. Refused with `ENOENT` if there is none.
pub(super) fn remove_table(batch: &mut Batch, table: &str) {
    batch.message(DELETE_TABLE, 0, |message| message.text(TABLE_NAME, table));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_table_is_known_again_by_its_name() {
        let rules = Ruleset::new(&[], &[], &names(&["eth1", "bond0.5", "a@b"])).unwrap();
        assert_eq!(rules.table, "holdfast_gate/eth1/bond0.5/a_b");
        assert!(is_gate(&rules.table));
        for foreign in ["holdfast_gate", "filter", "my_holdfast_gate/eth1", "holdfast_gates/eth1"] {
            assert!(!is_gate(foreign), "{foreign}");
        }
    }

    #[test]
    fn too_many_interfaces_are_refused_in_words() {
        let many: Vec<String> = (0..30).map(|n| format!("interface-{n:05}")).collect();
        assert_eq!(Ruleset::new(&[], &[], &many).unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    }
}
