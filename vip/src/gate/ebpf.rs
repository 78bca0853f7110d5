//! The gate as an eBPF program at tcx (Linux 6.6 and later), on both directions of each VIP interface.
//!
//! It is attached without a link object: the attachment itself holds the program and its maps, so it
//! stands after the process has ended in whatever way, and shuts at its deadline. The next life finds it
//! by name, attaches its own (shut) program *before* it removes the old one: there is no moment without a
//! gate. Consequently one agent at a time uses an interface.
//!
//! So dropping [`EbpfGate`] leaves the gate standing; only [`Gate::detach`] and [`remove_stale`] remove it.
//!
//! The program runs before all other tcx programs, so that none can accept a packet past it. Traffic of
//! the host with itself goes over loopback and is not gated.
//!
//! Needs CAP_BPF and CAP_NET_ADMIN, and CAP_SYS_ADMIN to look at the programs of an earlier life.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::program::{
    ADDRESS_DEADLINE, ADDRESS_KEY_BYTES, Direction, Maps, PORT_KEY_BYTES, PORTS_DEADLINE, port_key, program,
};
use super::{Gate, GateHealth, sys};
use crate::link::{index_of, link};
use crate::spec::{VipSpec, interfaces};

/// By this name an earlier life's program is known.
const PROGRAM_NAME: &str = "holdfast_gate";

/// The gate, held open or shut through memory that it shares with its programs.
#[derive(Debug)]
pub struct EbpfGate {
    deadlines: sys::Deadlines,
    programs: [Program; 2],
    interfaces: Vec<String>,
}

#[derive(Debug)]
struct Program {
    direction: Direction,
    fd: OwnedFd,
    id: u32,
}

fn address_key(ip: IpAddr) -> [u8; ADDRESS_KEY_BYTES] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Adds what was being done to an error, keeping its kind.
fn doing(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{what}: {e}"))
}

impl EbpfGate {
    /// Loads the programs and attaches them, shut, to the interfaces of `specs`, in place of those of an
    /// earlier life. An interface that does not exist (yet) is left to [`Gate::repair`].
    ///
    /// # Errors
    /// `PermissionDenied` without the capabilities, `InvalidInput` on a kernel without tcx,
    /// `Unsupported` for an interface that is not Ethernet; the text says what was refused, with the end
    /// of the verifier's log where that refused the program. On error nothing of ours stays attached.
    pub fn open(specs: &[VipSpec], ports: &[u16]) -> io::Result<EbpfGate> {
        EbpfGate::open_on(specs, ports, &[])
    }

    /// As [`open`](EbpfGate::open), and on the interfaces `also`: others through which clients can reach
    /// the service ports, or (Linux answers for its addresses on every interface) the virtual addresses.
    ///
    /// # Errors
    /// As [`open`](EbpfGate::open).
    pub fn open_on(specs: &[VipSpec], ports: &[u16], also: &[String]) -> io::Result<EbpfGate> {
        let mut gated = interfaces(specs);
        gated.extend(also.iter().filter(|name| !gated.contains(name)).cloned().collect::<Vec<_>>());
        let mut not_ethernet = None;
        gated.retain(|interface| match link(interface) {
            Ok(link) if link.loopback => false,
            Ok(link) if !link.ethernet => {
                not_ethernet = Some(interface.clone());
                false
            }
            _ => true,
        });
        if let Some(interface) = not_ethernet {
            let text = format!("the eBPF gate reads Ethernet frames, and {interface} has none");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }

        let gate = EbpfGate::load(specs, ports, gated)?;
        if let Err(refusal) = gate.attach_where_missing().and_then(|_| gate.detach_others()) {
            if let Err(error) = gate.detach() {
                tracing::warn!(%error, "a gate that could not be completed could not be removed either");
            }
            return Err(refusal);
        }
        Ok(gate)
    }

    /// Loads the programs, shut, and attaches them nowhere.
    fn load(specs: &[VipSpec], ports: &[u16], interfaces: Vec<String>) -> io::Result<EbpfGate> {
        let addresses = sys::new_set("holdfast_addrs", ADDRESS_KEY_BYTES, specs.len())
            .map_err(doing("make the map of addresses"))?;
        for spec in specs {
            sys::insert(addresses.as_fd(), &address_key(spec.ip())).map_err(doing("list an address"))?;
        }
        let port_set = sys::new_set("holdfast_ports", PORT_KEY_BYTES, ports.len())
            .map_err(doing("make the map of ports"))?;
        for port in ports {
            sys::insert(port_set.as_fd(), &port_key(*port)).map_err(doing("list a port"))?;
        }
        let deadlines = sys::Deadlines::new("holdfast_until").map_err(doing("make the map of deadlines"))?;

        let maps = Maps {
            addresses: addresses.as_raw_fd(),
            ports: port_set.as_raw_fd(),
            deadlines: deadlines.map_fd(),
        };
        // The loaded programs hold the sets; only the deadlines are touched again.
        let load = |direction| {
            let fd = sys::load(PROGRAM_NAME, direction, &program(direction, maps))
                .map_err(doing("load the gate's program"))?;
            let (id, _) = sys::program_info(fd.as_fd()).map_err(doing("ask for the program's id"))?;
            io::Result::Ok(Program { direction, fd, id })
        };
        Ok(EbpfGate {
            programs: [load(Direction::Ingress)?, load(Direction::Egress)?],
            deadlines,
            interfaces,
        })
    }

    /// The moment until which packets of the addresses pass, in nanoseconds of CLOCK_BOOTTIME.
    pub fn address_deadline(&self) -> u64 {
        self.deadlines.get(ADDRESS_DEADLINE)
    }

    /// The moment until which packets of the service ports pass, in nanoseconds of CLOCK_BOOTTIME.
    pub fn ports_deadline(&self) -> u64 {
        self.deadlines.get(PORTS_DEADLINE)
    }

    fn stands(&self, index: u32, program: &Program) -> io::Result<bool> {
        Ok(sys::attached(index, program.direction)?.contains(&program.id))
    }

    fn attach_where_missing(&self) -> io::Result<()> {
        for interface in &self.interfaces {
            let Some(index) = index_of(interface) else { continue };
            for program in &self.programs {
                if !self.stands(index, program).map_err(doing("list tcx programs"))? {
                    sys::attach(index, program.direction, program.fd.as_fd())
                        .map_err(doing(format_args!("attach the gate to {interface}")))?;
                }
            }
        }
        Ok(())
    }

    /// Removes the programs of earlier lives: ours stand already.
    fn detach_others(&self) -> io::Result<()> {
        let ours: Vec<u32> = self.programs.iter().map(|program| program.id).collect();
        remove_named(&self.interfaces, &ours)
    }
}

impl Gate for EbpfGate {
    fn name(&self) -> &'static str {
        "eBPF (tcx)"
    }

    fn allow_address_until(&self, boottime_ns: u64) -> io::Result<()> {
        self.deadlines.set(ADDRESS_DEADLINE, boottime_ns);
        Ok(())
    }

    fn allow_ports_until(&self, boottime_ns: u64) -> io::Result<()> {
        self.deadlines.set(PORTS_DEADLINE, boottime_ns);
        Ok(())
    }

    fn check(&self) -> io::Result<GateHealth> {
        let mut health = GateHealth::default();
        for interface in &self.interfaces {
            let mut whole = true;
            match index_of(interface) {
                Some(index) => {
                    for program in &self.programs {
                        whole &= self.stands(index, program)?;
                    }
                }
                None => whole = false,
            }
            let list = if whole { &mut health.attached } else { &mut health.missing };
            list.push(interface.clone());
        }
        Ok(health)
    }

    fn repair(&self) -> io::Result<GateHealth> {
        self.attach_where_missing()?;
        self.check()
    }

    fn detach(&self) -> io::Result<()> {
        for interface in &self.interfaces {
            let Some(index) = index_of(interface) else { continue };
            for program in &self.programs {
                if self.stands(index, program)? {
                    sys::detach(index, program.direction, program.fd.as_fd())
                        .map_err(doing(format_args!("detach the gate from {interface}")))?;
                }
            }
        }
        Ok(())
    }

    fn absolute_deadline(&self) -> bool {
        true
    }
}

/// Removes every gate from `interfaces`, whoever left it: of an earlier life, or of an agent that was
/// uninstalled. Interfaces that do not exist have none.
///
/// # Errors
/// The kernel permits no look at its programs, or refused to detach one.
pub fn remove_stale(interfaces: &[String]) -> io::Result<()> {
    remove_named(interfaces, &[])
}

fn remove_named(interfaces: &[String], except: &[u32]) -> io::Result<()> {
    for interface in interfaces {
        let Some(index) = index_of(interface) else { continue };
        for direction in [Direction::Ingress, Direction::Egress] {
            for id in sys::attached(index, direction).map_err(doing("list tcx programs"))? {
                if except.contains(&id) {
                    continue;
                }
                let program = match sys::program_by_id(id) {
                    Ok(program) => program,
                    // It was detached and freed since it was listed.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => {
                        return Err(doing(
                            "look at a tcx program, which may be an old gate (needs CAP_SYS_ADMIN)",
                        )(e));
                    }
                };
                let (_, name) = sys::program_info(program.as_fd()).map_err(doing("name a tcx program"))?;
                if name == PROGRAM_NAME {
                    sys::detach(index, direction, program.as_fd())
                        .map_err(doing(format_args!("detach an old gate from {interface}")))?;
                    tracing::info!(interface, id, "removed the gate of an earlier life");
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pnet::util::MacAddr;

    use super::*;
    use crate::clock::boottime_ns;
    use crate::frame;
    use crate::gate::OPEN;

    const MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
    const NEXT: i32 = -1;
    const DROP: i32 = 2;
    const VIP4: &str = "10.0.0.100";
    const VIP6: &str = "2001:db8::64";
    const PORT: u16 = 9000;

    #[test]
    fn an_ipv4_address_is_keyed_as_v4_mapped() {
        let key = address_key(VIP4.parse().unwrap());
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 100]);
    }

    /// The loaded programs, or `None` where this process may not load any.
    fn loaded() -> Option<EbpfGate> {
        let spec = |address: &str| VipSpec {
            address: address.parse().unwrap(),
            interface: "none".into(),
            arp_ping: true,
            gratuitous_arp: true,
        };
        let specs = [spec("10.0.0.100/24"), spec("2001:db8::64/64")];
        match EbpfGate::load(&specs, &[PORT], Vec::new()) {
            Ok(gate) => Some(gate),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: needs root");
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    impl EbpfGate {
        fn verdict(&self, direction: Direction, frame: &[u8]) -> i32 {
            let program = self.programs.iter().find(|p| p.direction == direction).unwrap();
            sys::test_run(program.fd.as_fd(), frame).unwrap()
        }
    }

    /// What is behind an Ethernet header, with what is asked of it.
    #[derive(Clone)]
    struct Packet {
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        /// Source and destination port, at the beginning of the payload.
        ports: (u16, u16),
        /// Words of IPv4 options.
        options: u8,
        /// The IPv4 flags and fragment offset.
        fragment: u16,
        vlan: Option<u16>,
    }

    fn packet(from: &str, to: &str) -> Packet {
        Packet {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol: 17,
            ports: (40_000, 50_000),
            options: 0,
            fragment: 0,
            vlan: None,
        }
    }

    impl Packet {
        fn tcp(self, from: u16, to: u16) -> Packet {
            Packet { protocol: 6, ports: (from, to), ..self }
        }

        fn bytes(&self) -> Vec<u8> {
            let mut frame = vec![2; 12];
            if let Some(ethertype) = self.vlan {
                frame.extend(ethertype.to_be_bytes());
                frame.extend([0, 0]);
            }
            match (self.from, self.to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    frame.extend([0x08, 0x00, 0x45 + self.options, 0, 0, 60, 0, 1]);
                    frame.extend(self.fragment.to_be_bytes());
                    frame.extend([64, self.protocol, 0, 0]);
                    frame.extend(from.octets());
                    frame.extend(to.octets());
                    // Options that look like the gated port, to be told from it.
                    let options = PORT.to_be_bytes().repeat(2 * usize::from(self.options));
                    frame.extend(options);
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, self.protocol, 64]);
                    frame.extend(from.octets());
                    frame.extend(to.octets());
                }
                _ => unreachable!("both ends are of one family"),
            }
            frame.extend(self.ports.0.to_be_bytes());
            frame.extend(self.ports.1.to_be_bytes());
            frame.extend([0; 40]);
            frame
        }
    }

    const CLIENT4: &str = "10.0.0.9";
    const CLIENT6: &str = "2001:db8::9";

    /// Asserts what becomes of a frame while everything is shut, and that it passes when all is open.
    #[track_caller]
    fn shut(gate: &EbpfGate, direction: Direction, frame: &[u8], expected: i32) {
        gate.close().unwrap();
        gate.allow_ports_until(0).unwrap();
        assert_eq!(gate.verdict(direction, frame), expected, "{direction:?}, shut: {frame:02x?}");
        gate.allow_address_until(OPEN).unwrap();
        gate.allow_ports_until(OPEN).unwrap();
        assert_eq!(gate.verdict(direction, frame), NEXT, "{direction:?}, open: {frame:02x?}");
    }

    #[test]
    fn packets_are_matched_by_our_side_of_them() {
        let Some(gate) = loaded() else { return };
        for (vip, client) in [(VIP4, CLIENT4), (VIP6, CLIENT6)] {
            shut(&gate, Direction::Ingress, &packet(client, vip).bytes(), DROP);
            shut(&gate, Direction::Egress, &packet(vip, client).bytes(), DROP);
            shut(&gate, Direction::Ingress, &packet(vip, client).bytes(), NEXT);
            shut(&gate, Direction::Egress, &packet(client, vip).bytes(), NEXT);
            shut(&gate, Direction::Ingress, &packet(client, client).bytes(), NEXT);
        }
    }

    #[test]
    fn service_ports_are_matched_on_every_address() {
        let Some(gate) = loaded() else { return };
        for (here, client) in [("10.0.0.1", CLIENT4), ("2001:db8::1", CLIENT6)] {
            let (into, out) = (packet(client, here), packet(here, client));
            shut(&gate, Direction::Ingress, &into.clone().tcp(40_000, PORT).bytes(), DROP);
            shut(&gate, Direction::Egress, &out.clone().tcp(PORT, 40_000).bytes(), DROP);
            shut(&gate, Direction::Ingress, &into.clone().tcp(PORT, 40_000).bytes(), NEXT);
            shut(&gate, Direction::Egress, &out.clone().tcp(40_000, PORT).bytes(), NEXT);
            shut(&gate, Direction::Ingress, &into.clone().tcp(40_000, PORT + 1).bytes(), NEXT);
            let udp = Packet { ports: (PORT, PORT), ..into };
            shut(&gate, Direction::Ingress, &udp.bytes(), NEXT);
        }
    }

    #[test]
    fn an_open_address_does_not_open_a_shut_port_nor_the_other_way_round() {
        let Some(gate) = loaded() else { return };
        for (vip, client) in [(VIP4, CLIENT4), (VIP6, CLIENT6)] {
            let frame = packet(client, vip).tcp(40_000, PORT).bytes();
            gate.allow_address_until(OPEN).unwrap();
            gate.allow_ports_until(0).unwrap();
            assert_eq!(gate.verdict(Direction::Ingress, &frame), DROP);
            gate.close().unwrap();
            gate.allow_ports_until(OPEN).unwrap();
            assert_eq!(gate.verdict(Direction::Ingress, &frame), DROP);
        }
    }

    #[test]
    fn options_tags_and_fragments_do_not_slip_through() {
        let Some(gate) = loaded() else { return };
        let into = packet(CLIENT4, "10.0.0.1");
        for options in 0..=10 {
            let with = Packet { options, ..into.clone() };
            shut(&gate, Direction::Ingress, &with.clone().tcp(40_000, PORT).bytes(), DROP);
            shut(&gate, Direction::Ingress, &with.tcp(40_000, PORT + 1).bytes(), NEXT);
        }
        for vlan in [Some(0x8100), Some(0x88a8)] {
            for (vip, client) in [(VIP4, CLIENT4), (VIP6, CLIENT6)] {
                let tagged = Packet { vlan, ..packet(vip, client) };
                shut(&gate, Direction::Egress, &tagged.bytes(), DROP);
                shut(
                    &gate,
                    Direction::Egress,
                    &Packet { from: tagged.to, ..tagged }.tcp(PORT, 1).bytes(),
                    DROP,
                );
            }
        }
        let first = Packet { fragment: 0x2000, ..into.clone() }.tcp(40_000, PORT);
        let later = Packet { fragment: 0x0007, ..into }.tcp(40_000, PORT);
        shut(&gate, Direction::Ingress, &first.bytes(), DROP);
        // It has no ports: what looks like them is data. Without its first fragment it is worth nothing.
        shut(&gate, Direction::Ingress, &later.bytes(), NEXT);
        let to_vip = Packet { to: VIP4.parse().unwrap(), ..later };
        shut(&gate, Direction::Ingress, &to_vip.bytes(), DROP);
    }

    #[test]
    fn claims_cannot_leave_and_probes_can() {
        let Some(gate) = loaded() else { return };
        for (vip, own) in [(VIP4, "10.0.0.1"), (VIP6, "fe80::1")] {
            let (vip, own): (IpAddr, IpAddr) = (vip.parse().unwrap(), own.parse().unwrap());
            for claim in frame::announcement(vip, MAC) {
                shut(&gate, Direction::Egress, &claim, DROP);
                shut(&gate, Direction::Ingress, &claim, NEXT);
            }
            for question in [frame::question(vip, MAC, None), frame::question(vip, MAC, Some(own))] {
                shut(&gate, Direction::Egress, &question, NEXT);
                shut(&gate, Direction::Ingress, &question, NEXT);
            }
            for claim in frame::announcement(own, MAC) {
                shut(&gate, Direction::Egress, &claim, NEXT);
            }
        }
        // An advertisement for the address, sent from another one.
        let mut claim = frame::announcement(VIP6.parse().unwrap(), MAC).remove(0);
        claim[22..38].copy_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        shut(&gate, Direction::Egress, &claim, DROP);
    }

    #[test]
    fn what_cannot_be_parsed_is_left_to_the_kernel() {
        let Some(gate) = loaded() else { return };
        for direction in [Direction::Ingress, Direction::Egress] {
            // The kernel's trial run refuses cut frames; behind a tag it does not look.
            let tagged = |address| Packet { vlan: Some(0x8100), ..packet(address, address).tcp(PORT, PORT) };
            let whole = tagged(VIP4).bytes();
            shut(&gate, direction, &whole[..37], NEXT);
            shut(&gate, direction, &whole[..38], DROP);
            let whole = tagged(VIP6).bytes();
            shut(&gate, direction, &whole[..57], NEXT);
            shut(&gate, direction, &whole[..58], DROP);
            shut(&gate, direction, &whole[..17], NEXT);
            let other = [vec![2; 12], vec![0x88, 0xcc], vec![0; 40]].concat();
            shut(&gate, direction, &other, NEXT);
        }
    }

    #[test]
    fn a_deadline_opens_and_its_passing_shuts() {
        let Some(gate) = loaded() else { return };
        let frame = packet(CLIENT4, VIP4).bytes();
        gate.allow_address_until(boottime_ns() + 60_000_000_000).unwrap();
        assert_eq!(gate.verdict(Direction::Ingress, &frame), NEXT);
        gate.allow_address_until(boottime_ns()).unwrap();
        assert_eq!(gate.verdict(Direction::Ingress, &frame), DROP);
        assert!(gate.address_deadline() > 0);
        assert_eq!(gate.ports_deadline(), 0, "a gate starts shut");
    }

    #[test]
    fn the_gate_comes_first_and_foreign_programs_are_left_alone() {
        const LOOPBACK: u32 = 1;
        if loaded().is_none() {
            return;
        }
        let test = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let gate = loaded().unwrap();
            let mut asm = crate::gate::asm::Assembler::default();
            asm.mov_imm(crate::gate::asm::Reg::R0, 0); // accept, past all later programs
            asm.exit();
            let foreign = sys::load("foreign", Direction::Ingress, &asm.finish()).unwrap();
            let (foreign_id, _) = sys::program_info(foreign.as_fd()).unwrap();

            sys::attach(LOOPBACK, Direction::Ingress, foreign.as_fd()).unwrap();
            let ours = &gate.programs[0];
            sys::attach(LOOPBACK, Direction::Ingress, ours.fd.as_fd()).unwrap();
            assert_eq!(sys::attached(LOOPBACK, Direction::Ingress).unwrap(), [ours.id, foreign_id]);
            remove_stale(&["lo".to_owned()]).unwrap();
            assert_eq!(sys::attached(LOOPBACK, Direction::Ingress).unwrap(), [foreign_id]);
        });
        test.join().unwrap();
    }

    #[test]
    fn a_refused_program_comes_with_the_verifiers_reason() {
        if loaded().is_none() {
            return;
        }
        let mut asm = crate::gate::asm::Assembler::default();
        asm.exit(); // r0 was never set
        let refusal = sys::load("broken", Direction::Ingress, &asm.finish()).unwrap_err();
        assert!(refusal.to_string().contains("R0 !read_ok"), "{refusal}");
    }
}
