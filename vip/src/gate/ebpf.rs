//! The gate as an eBPF program, on both directions of each VIP interface, and on what leaves by the others
//! ([`others`](super::others)): at tcx (Linux 6.6 and later), or as
//! a filter of `clsact` (5.8 and later: the program needs `bpf_ktime_get_boot_ns`).
//!
//! It is attached without a link object: the attachment itself holds the program and its maps, so it
//! stands after the process has ended in whatever way, and shuts at its deadline. The next life finds it
//! by name, attaches its own (shut) program *before* it removes the old one: there is no moment without a
//! gate. Consequently one data member at a time uses a network namespace.
//!
//! So dropping [`EbpfGate`] leaves the gate standing; only [`Gate::detach`] and [`remove_stale`] remove it.
//!
//! The program runs before all other programs that are there, so that none can accept a packet past it.
//! Traffic of the host with itself goes over loopback and is not gated.
//!
//! Needs CAP_BPF and CAP_NET_ADMIN, and, at tcx, CAP_SYS_ADMIN to look at the programs of an earlier life.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::others::{Others, every_interface, is_gone};
use super::program::{
    ADDRESS_DEADLINE, ADDRESS_KEY_BYTES, Asked, Direction, Maps, PORT_KEY_BYTES, PORTS_DEADLINE, port_key,
    program,
};
use super::{Ending, Gate, GateHealth, clsact, doing, sys};
use crate::link::{index_of, link};
use crate::spec::{VipSpec, interfaces};

/// By this name an earlier life's program is known.
const PROGRAM_NAME: &str = "holdfast_gate";

/// Where on an interface the programs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Linux 6.6 and later.
    Tcx,
    /// Elsewhere.
    Clsact,
}

/// The gate, held open or shut through memory that it shares with its programs.
#[derive(Debug)]
pub struct EbpfGate {
    deadlines: sys::Deadlines,
    /// For packets that enter by the interfaces of virtual addresses, that leave by them, and that leave by others.
    programs: [Program; 3],
    interfaces: Vec<String>,
    others: Others,
    hook: Hook,
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

impl EbpfGate {
    /// Loads the programs and attaches them, shut, to the interfaces of `specs` and the others of this host, in
    /// place of those of an earlier life. An interface that does not exist (yet) is left to [`Gate::repair`].
    ///
    /// # Errors
    /// `PermissionDenied` without the capabilities, `InvalidInput` on a kernel before 5.8,
    /// `Unsupported` for an interface of `specs` that is not Ethernet; the text says what was refused, with the end
    /// of the verifier's log where that refused the program. On error nothing of ours stays attached.
    pub fn open(specs: &[VipSpec], ports: &[u16]) -> io::Result<EbpfGate> {
        let hook = if sys::has_tcx() { Hook::Tcx } else { Hook::Clsact };
        EbpfGate::open_at(hook, specs, ports)
    }

    /// As [`open`](EbpfGate::open), at a place that is not the best one.
    ///
    /// # Errors
    /// As [`open`](EbpfGate::open).
    pub fn open_at(hook: Hook, specs: &[VipSpec], ports: &[u16]) -> io::Result<EbpfGate> {
        let mut gated = interfaces(specs);
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

        let gate = EbpfGate::load(hook, specs, ports, gated)?;
        if let Err(refusal) = gate.attach_where_missing().and_then(|_| gate.detach_others()) {
            if let Err(error) = gate.detach() {
                tracing::warn!(%error, "a gate that could not be completed could not be removed either");
            }
            return Err(refusal);
        }
        Ok(gate)
    }

    /// Loads the programs, shut, and attaches them nowhere.
    fn load(hook: Hook, specs: &[VipSpec], ports: &[u16], interfaces: Vec<String>) -> io::Result<EbpfGate> {
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
        let load = |direction, asked| {
            let place = match hook {
                Hook::Tcx => sys::attach_type(direction),
                Hook::Clsact => sys::ATTACH_ANYWHERE,
            };
            let fd = sys::load(PROGRAM_NAME, place, &program(direction, asked, maps))
                .map_err(doing("load the gate's program"))?;
            let (id, _) = sys::program_info(fd.as_fd()).map_err(doing("ask for the program's id"))?;
            io::Result::Ok(Program { direction, fd, id })
        };
        let programs = [
            load(Direction::Ingress, Asked::Every)?,
            load(Direction::Egress, Asked::Every)?,
            load(Direction::Egress, Asked::Own)?,
        ];
        // Whoever may not look at a program could not take away what it leaves when it is killed: that would stay
        // shut before the next life, whatever gate that one has.
        if hook == Hook::Tcx {
            sys::program_by_id(programs[0].id)
                .map_err(doing("find the gate again in a next life (needs CAP_SYS_ADMIN)"))?;
        }
        Ok(EbpfGate { programs, deadlines, others: Others::beside(&interfaces), interfaces, hook })
    }

    /// What stands on the interfaces of virtual addresses, and what on the others.
    fn programs(&self) -> (&[Program], &[Program]) {
        self.programs.split_at(2)
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
        Ok(match self.hook {
            Hook::Tcx => sys::attached(index, program.direction)?.contains(&program.id),
            Hook::Clsact => self.filter_of(index, program)?.is_some(),
        })
    }

    fn filter_of(&self, index: u32, program: &Program) -> io::Result<Option<clsact::Filter>> {
        let filters = clsact::attached(index, program.direction)?;
        Ok(filters.into_iter().find(|filter| filter.program == program.id))
    }

    fn attach_where_missing(&self) -> io::Result<()> {
        let (here, elsewhere) = self.programs();
        for interface in &self.interfaces {
            self.attach_missing(interface, here)?;
        }
        for interface in self.others.now()?.iter() {
            self.attach_missing(interface, elsewhere)?;
        }
        Ok(())
    }

    fn attach_missing(&self, interface: &str, programs: &[Program]) -> io::Result<()> {
        let Some(index) = index_of(interface) else { return Ok(()) };
        let attach = |program: &Program| {
            if self.stands(index, program).map_err(doing("list the programs"))? {
                return Ok(());
            }
            let (direction, fd) = (program.direction, program.fd.as_fd());
            match self.hook {
                Hook::Tcx => sys::attach(index, direction, fd),
                Hook::Clsact => clsact::attach(index, direction, fd, PROGRAM_NAME),
            }
        };
        match programs.iter().try_for_each(attach) {
            Err(_) if is_gone(interface, index) => Ok(()),
            outcome => outcome.map_err(doing(format_args!("attach the gate to {interface}"))),
        }
    }

    /// Removes the programs of earlier lives: ours stand already.
    fn detach_others(&self) -> io::Result<()> {
        let ours: Vec<u32> = self.programs.iter().map(|program| program.id).collect();
        remove_named(&ours)
    }
}

impl Gate for EbpfGate {
    fn name(&self) -> &'static str {
        match self.hook {
            Hook::Tcx => "eBPF (tcx)",
            Hook::Clsact => "eBPF (clsact)",
        }
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
        let (here, elsewhere) = self.programs();
        let others = self.others.lately()?;
        let all = self
            .interfaces
            .iter()
            .map(|name| (name, here))
            .chain(others.iter().map(|name| (name, elsewhere)));
        for (interface, programs) in all {
            let mut whole = true;
            match index_of(interface) {
                Some(index) => {
                    for program in programs {
                        whole &= match self.stands(index, program) {
                            Err(_) if is_gone(interface, index) => false,
                            stands => stands?,
                        };
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
        // On every interface: one of the others may be the port of a bridge by now.
        for interface in every_interface()? {
            let Some(index) = index_of(&interface) else { continue };
            for program in &self.programs {
                let detached = match self.stands(index, program) {
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                    Ok(true) => match self.hook {
                        Hook::Tcx => sys::detach(index, program.direction, program.fd.as_fd()),
                        Hook::Clsact => match self.filter_of(index, program)? {
                            Some(filter) => clsact::detach(index, program.direction, &filter),
                            None => Ok(()),
                        },
                    },
                };
                match detached {
                    Err(_) if is_gone(&interface, index) => {}
                    detached => detached.map_err(doing(format_args!("detach the gate from {interface}")))?,
                }
            }
        }
        Ok(())
    }

    fn ending(&self) -> Ending {
        Ending::Absolute
    }
}

/// Removes every gate of this network namespace, whoever left it: of an earlier life, or of an agent that was
/// uninstalled.
///
/// # Errors
/// The kernel permits no look at its programs, or refused to detach one.
pub fn remove_stale() -> io::Result<()> {
    remove_named(&[])
}

fn remove_named(except: &[u32]) -> io::Result<()> {
    for interface in every_interface()? {
        let Some(index) = index_of(&interface) else { continue };
        match remove_from(&interface, index, except) {
            Err(_) if is_gone(&interface, index) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn remove_from(interface: &str, index: u32, except: &[u32]) -> io::Result<()> {
    for direction in [Direction::Ingress, Direction::Egress] {
        for filter in clsact::attached(index, direction).map_err(doing("list the filters"))? {
            if filter.name == PROGRAM_NAME && !except.contains(&filter.program) {
                clsact::detach(index, direction, &filter)
                    .map_err(doing(format_args!("detach an old gate from {interface}")))?;
                tracing::info!(interface, id = filter.program, "removed the gate of an earlier life");
            }
        }
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
    Ok(())
}

#[cfg(test)]
mod verdicts;
