//! What becomes of single frames: the loaded programs are run on each, in the kernel, without a wire.
//! Where this process may load none, every test here says `skipped: needs root`.

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
    let spec = |address: &str| VipSpec::new(address.parse().unwrap(), "none");
    let specs = [spec("10.0.0.100/24"), spec("2001:db8::64/64")];
    match EbpfGate::load(Hook::Tcx, &specs, &[PORT], Vec::new()) {
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
        let program = self.programs().0.iter().find(|p| p.direction == direction).unwrap();
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
            shut(&gate, Direction::Egress, &Packet { from: tagged.to, ..tagged }.tcp(PORT, 1).bytes(), DROP);
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
        let foreign = sys::load("foreign", sys::attach_type(Direction::Ingress), &asm.finish()).unwrap();
        let (foreign_id, _) = sys::program_info(foreign.as_fd()).unwrap();

        sys::attach(LOOPBACK, Direction::Ingress, foreign.as_fd()).unwrap();
        let ours = &gate.programs[0];
        sys::attach(LOOPBACK, Direction::Ingress, ours.fd.as_fd()).unwrap();
        assert_eq!(sys::attached(LOOPBACK, Direction::Ingress).unwrap(), [ours.id, foreign_id]);
        remove_stale().unwrap();
        assert_eq!(sys::attached(LOOPBACK, Direction::Ingress).unwrap(), [foreign_id]);
    });
    test.join().unwrap();
}

#[test]
fn at_clsact_too_the_gate_comes_first_and_foreign_filters_are_left_alone() {
    const LOOPBACK: u32 = 1;
    const INGRESS: Direction = Direction::Ingress;
    if loaded().is_none() {
        return;
    }
    let test = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let gate = loaded().unwrap();
        let mut asm = crate::gate::asm::Assembler::default();
        asm.mov_imm(crate::gate::asm::Reg::R0, 0); // accept, past all later filters
        asm.exit();
        let foreign = sys::load("foreign", sys::ATTACH_ANYWHERE, &asm.finish()).unwrap();
        let (foreign_id, _) = sys::program_info(foreign.as_fd()).unwrap();
        let listed = || -> Vec<u32> {
            clsact::attached(LOOPBACK, INGRESS).unwrap().iter().map(|filter| filter.program).collect()
        };

        assert_eq!(listed(), [], "without a queueing discipline there is no filter");
        clsact::attach(LOOPBACK, INGRESS, foreign.as_fd(), "foreign").unwrap();
        let ours = &gate.programs[0];
        clsact::attach(LOOPBACK, INGRESS, ours.fd.as_fd(), PROGRAM_NAME).unwrap();
        assert_eq!(listed(), [ours.id, foreign_id]);
        remove_stale().unwrap();
        assert_eq!(listed(), [foreign_id]);
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
    let refusal = sys::load("broken", sys::ATTACH_ANYWHERE, &asm.finish()).unwrap_err();
    assert!(refusal.to_string().contains("R0 !read_ok"), "{refusal}");
}
