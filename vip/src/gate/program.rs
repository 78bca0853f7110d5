//! What the gate's program asks of each packet.
//!
//! Two programs come out of one text, for packets that enter and packets that leave. A packet is
//! matched by *our* side of it only: what enters by its destination, what leaves by its source. So a
//! standby host can still be a client of the address that its peer holds, while a stale holder can
//! neither hear nor answer as that address:
//!
//! | packet | entering | leaving |
//! |---|---|---|
//! | IPv4, IPv6 | destination is a VIP | source is a VIP |
//! | ARP | passes: a foreign claim or probe must be seen | sender is a VIP (a probe's sender is 0.0.0.0, it passes) |
//! | neighbour advertisement | by its IPv6 destination | target is a VIP |
//! | TCP, not in a later fragment | destination is a service port | source is a service port |
//!
//! A third asks what leaves by the interfaces that carry no VIP. It lets pass what only crosses this host
//! ([`Asked::Own`]): a container on a standby talks to the VIP of the peer through its host.
//!
//! A question about the address that enters while the gate is shut may reach the kernel's ARP code,
//! but the answer cannot leave; and it is how a prober sees the probes of others.
//!
//! The program never changes a packet, never accepts one on behalf of others (`TCX_NEXT`), and what
//! it cannot parse it leaves to the kernel, which cannot parse it either. IPv6 extension headers are
//! not walked in search of TCP: Linux sends TCP without them, so the answer is stopped.

use super::asm::{Assembler, Insn, Reg, Width};

/// Index of the addresses' deadline in the deadlines map.
pub(crate) const ADDRESS_DEADLINE: usize = 0;
/// Index of the service ports' deadline.
pub(crate) const PORTS_DEADLINE: usize = 1;
/// Number of deadlines.
pub(crate) const DEADLINES: usize = 2;
/// Bytes of an address as key: IPv4 is v4-mapped.
pub(crate) const ADDRESS_KEY_BYTES: usize = 16;
/// Bytes of a port as key: the port in the machine's order of the two bytes on the wire, widened.
pub(crate) const PORT_KEY_BYTES: usize = 4;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the wire to this host.
    Ingress,
    /// From this host to the wire.
    Egress,
}

/// Which packets of its direction a program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Every one.
    Every,
    /// What did not enter by another interface before: what this host itself sends.
    Own,
}

/// Descriptors of the maps that the program reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maps {
    /// Hash: address to anything.
    pub(crate) addresses: i32,
    /// Hash: port to anything.
    pub(crate) ports: i32,
    /// Array of one value: [`DEADLINES`] moments.
    pub(crate) deadlines: i32,
}

/// `bpf_map_lookup_elem`
const HELPER_MAP_LOOKUP: i32 = 1;
/// `bpf_skb_load_bytes`: checks bounds, follows paged data.
const HELPER_LOAD_BYTES: i32 = 26;
/// `bpf_ktime_get_boot_ns`
const HELPER_BOOT_NS: i32 = 125;

/// `ingress_ifindex` of `struct __sk_buff`: the interface by which the packet entered, 0 for one of this host.
const ENTERED_BY: i16 = 36;

/// Leave the packet to the next program, and at last to the kernel.
const TCX_NEXT: i32 = -1;
/// Drop the packet.
const TCX_DROP: i32 = 2;

const ETHERNET_BYTES: i32 = 14;
const VLAN_TAG_BYTES: i32 = 4;
const ETHERTYPE_AT: i32 = 12;

// The frame: a header buffer, a key, and four bytes for ports or an EtherType.
const HEADER: i16 = -40;
const KEY: i16 = -56;
const SMALL: i16 = -64;
const PORT_KEY: i16 = -60;

const IPV4_MIN_BYTES: i32 = 20;
const ARP_BYTES: i32 = 28;
const IPV6_BYTES: i32 = 40;
/// An ICMPv6 header up to the end of a neighbour advertisement's target.
const ADVERTISEMENT_BYTES: i32 = 24;
const PROTOCOL_TCP: i32 = 6;
const PROTOCOL_ICMPV6: i32 = 58;
const NEIGHBOUR_ADVERTISEMENT: i32 = 136;

/// A 16-bit number of the network as the machine sees it after an untranslated load.
const fn on_wire(value: u16) -> i32 {
    u16::from_ne_bytes(value.to_be_bytes()) as i32
}

/// The key of a port.
pub(crate) fn port_key(port: u16) -> [u8; PORT_KEY_BYTES] {
    on_wire(port).to_ne_bytes()
}

/// The program for the packets going in `direction` that are to be `asked`.
pub(crate) fn program(direction: Direction, asked: Asked, maps: Maps) -> Vec<Insn> {
    let mut text = Text { asm: Assembler::default(), direction, asked, maps };
    text.write();
    text.asm.finish()
}

struct Text {
    asm: Assembler,
    direction: Direction,
    asked: Asked,
    maps: Maps,
}

impl Text {
    /// R6 holds the packet, R7 the offset of the network header, R8 that of the transport header.
    fn write(&mut self) {
        let a = &mut self.asm;
        a.mov(Reg::R6, Reg::R1);
        if self.asked == Asked::Own {
            a.load(Width::Word, Reg::R1, Reg::R6, ENTERED_BY);
            a.jump_ne(Reg::R1, 0, "pass");
        }
        a.mov_imm(Reg::R7, ETHERNET_BYTES);
        a.mov_imm(Reg::R2, ETHERTYPE_AT);
        self.load_bytes(SMALL, 2);
        let a = &mut self.asm;
        a.load(Width::Half, Reg::R9, Reg::Frame, SMALL);
        a.jump_eq(Reg::R9, on_wire(0x8100), "tagged");
        a.jump_eq(Reg::R9, on_wire(0x88a8), "tagged");
        a.jump("ethertype");

        a.place("tagged");
        a.mov_imm(Reg::R7, ETHERNET_BYTES + VLAN_TAG_BYTES);
        a.mov_imm(Reg::R2, ETHERTYPE_AT + VLAN_TAG_BYTES);
        self.load_bytes(SMALL, 2);
        let a = &mut self.asm;
        a.load(Width::Half, Reg::R9, Reg::Frame, SMALL);

        a.place("ethertype");
        a.jump_eq(Reg::R9, on_wire(0x0800), "ipv4");
        a.jump_eq(Reg::R9, on_wire(0x86dd), "ipv6");
        if self.direction == Direction::Egress {
            a.jump_eq(Reg::R9, on_wire(0x0806), "arp");
        }
        a.jump("pass");

        self.ipv4();
        self.ipv6();
        if self.direction == Direction::Egress {
            self.arp();
        }
        self.tcp();

        let a = &mut self.asm;
        a.place("pass");
        a.mov_imm(Reg::R0, TCX_NEXT);
        a.exit();
        a.place("drop");
        a.mov_imm(Reg::R0, TCX_DROP);
        a.exit();
    }

    fn ipv4(&mut self) {
        self.asm.place("ipv4");
        self.asm.mov(Reg::R2, Reg::R7);
        self.load_bytes(HEADER, IPV4_MIN_BYTES);
        let ours = match self.direction {
            Direction::Ingress => 16,
            Direction::Egress => 12,
        };
        self.ipv4_key(HEADER + ours);
        self.drop_if_address_is_shut(KEY);

        let a = &mut self.asm;
        a.load(Width::Byte, Reg::R1, Reg::Frame, HEADER + 9);
        a.jump_ne(Reg::R1, PROTOCOL_TCP, "pass");
        // A later fragment has no ports, and is worth nothing without the first, which has them.
        a.load(Width::Half, Reg::R1, Reg::Frame, HEADER + 6);
        a.jump_set(Reg::R1, on_wire(0x1fff), "pass");
        a.load(Width::Byte, Reg::R8, Reg::Frame, HEADER);
        a.and_imm(Reg::R8, 0x0f);
        a.shift_left(Reg::R8, 2);
        a.add(Reg::R8, Reg::R7);
        a.jump("tcp");
    }

    fn ipv6(&mut self) {
        self.asm.place("ipv6");
        self.asm.mov(Reg::R2, Reg::R7);
        self.load_bytes(HEADER, IPV6_BYTES);
        let ours = match self.direction {
            Direction::Ingress => 24,
            Direction::Egress => 8,
        };
        self.drop_if_address_is_shut(HEADER + ours);

        let a = &mut self.asm;
        a.mov(Reg::R8, Reg::R7);
        a.add_imm(Reg::R8, IPV6_BYTES);
        a.load(Width::Byte, Reg::R1, Reg::Frame, HEADER + 6);
        a.jump_eq(Reg::R1, PROTOCOL_TCP, "tcp");
        if self.direction == Direction::Egress {
            // An advertisement may have another source than its target: the target is the claim.
            a.jump_ne(Reg::R1, PROTOCOL_ICMPV6, "pass");
            a.mov(Reg::R2, Reg::R8);
            self.load_bytes(HEADER, ADVERTISEMENT_BYTES);
            let a = &mut self.asm;
            a.load(Width::Byte, Reg::R1, Reg::Frame, HEADER);
            a.jump_ne(Reg::R1, NEIGHBOUR_ADVERTISEMENT, "pass");
            self.drop_if_address_is_shut(HEADER + 8);
        }
        self.asm.jump("pass");
    }

    fn arp(&mut self) {
        self.asm.place("arp");
        self.asm.mov(Reg::R2, Reg::R7);
        self.load_bytes(HEADER, ARP_BYTES);
        self.ipv4_key(HEADER + 14);
        self.drop_if_address_is_shut(KEY);
        self.asm.jump("pass");
    }

    fn tcp(&mut self) {
        self.asm.place("tcp");
        self.asm.mov(Reg::R2, Reg::R8);
        self.load_bytes(SMALL, 4);
        let ours = match self.direction {
            Direction::Ingress => 2,
            Direction::Egress => 0,
        };
        let a = &mut self.asm;
        a.load(Width::Half, Reg::R1, Reg::Frame, SMALL + ours);
        a.store(Width::Word, Reg::Frame, PORT_KEY, Reg::R1);
        self.drop_if_listed_and_late(self.maps.ports, PORT_KEY, PORTS_DEADLINE);
        self.asm.jump("pass");
    }

    /// Copies `bytes` at packet offset R2 to the frame; a packet that is too short passes.
    fn load_bytes(&mut self, to: i16, bytes: i32) {
        let a = &mut self.asm;
        a.mov(Reg::R1, Reg::R6);
        a.mov(Reg::R3, Reg::Frame);
        a.add_imm(Reg::R3, i32::from(to));
        a.mov_imm(Reg::R4, bytes);
        a.call(HELPER_LOAD_BYTES);
        a.jump_ne(Reg::R0, 0, "pass");
    }

    /// Makes the IPv4 address at `from` in the frame (any alignment) a v4-mapped key. It is moved by
    /// halves because ARP leaves it at an odd multiple of two, and the stack wants aligned access.
    fn ipv4_key(&mut self, from: i16) {
        let a = &mut self.asm;
        a.store_imm(Width::Double, Reg::Frame, KEY, 0);
        a.store_imm(Width::Word, Reg::Frame, KEY + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff]));
        a.load(Width::Half, Reg::R1, Reg::Frame, from);
        a.store(Width::Half, Reg::Frame, KEY + 12, Reg::R1);
        a.load(Width::Half, Reg::R1, Reg::Frame, from + 2);
        a.store(Width::Half, Reg::Frame, KEY + 14, Reg::R1);
    }

    fn drop_if_address_is_shut(&mut self, key: i16) {
        self.drop_if_listed_and_late(self.maps.addresses, key, ADDRESS_DEADLINE);
    }

    /// Drops the packet if the key is in the map and the moment is past the deadline.
    fn drop_if_listed_and_late(&mut self, map: i32, key: i16, deadline: usize) {
        let a = &mut self.asm;
        let next = a.fresh("not-listed-or-open");
        a.map(Reg::R1, map);
        a.mov(Reg::R2, Reg::Frame);
        a.add_imm(Reg::R2, i32::from(key));
        a.call(HELPER_MAP_LOOKUP);
        a.jump_eq(Reg::R0, 0, &next);
        a.call(HELPER_BOOT_NS);
        a.map_value(Reg::R1, self.maps.deadlines, 8 * deadline as i32);
        a.load(Width::Double, Reg::R1, Reg::R1, 0);
        a.jump_gt(Reg::R0, Reg::R1, "drop");
        a.place(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: Maps = Maps { addresses: 11, ports: 12, deadlines: 13 };

    #[test]
    fn all_programs_assemble_and_end_by_returning() {
        for (direction, asked) in [
            (Direction::Ingress, Asked::Every),
            (Direction::Egress, Asked::Every),
            (Direction::Egress, Asked::Own),
        ] {
            let insns = program(direction, asked, MAPS);
            assert!(insns.len() < 200, "{} instructions", insns.len());
            assert_eq!(insns.last().unwrap().code, 0x95);
        }
    }

    #[test]
    fn only_what_leaves_is_asked_about_arp() {
        let asks_arp = |direction| {
            program(direction, Asked::Every, MAPS)
                .iter()
                .any(|i| i.code == 0x15 && i.immediate == on_wire(0x0806))
        };
        assert!(asks_arp(Direction::Egress));
        assert!(!asks_arp(Direction::Ingress));
    }

    #[test]
    fn a_port_key_is_its_bytes_on_the_wire() {
        assert_eq!(&port_key(9000)[..2], &9000u16.to_be_bytes()[..]);
        assert_eq!(&port_key(9000)[2..], &[0, 0]);
    }
}
