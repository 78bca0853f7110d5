//! Notices of the kernel about our addresses and links, as they happen.
//!
//! It decides which notices concern us and what they mean, and never what to do: after
//! [`VipEvent::AddressLost`] the caller restores the address if the lease still holds. The caller's own
//! claims and releases are noticed like everybody else's.
//!
//! Invariant: an event is a *change*; a notice that confirms what was known (the kernel sends one for
//! each refresh) makes none. Of routes and rules every removal is an event: what stands is not remembered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

use futures::Stream;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkEvent, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use crate::addresses::{
    Snapshot, connect, lifetime_s, observed_address, observed_link, seconds_left, snapshot,
};
use crate::clock::boottime_ns;
use crate::error::VipError;
use crate::plan::{ObservedAddress, ObservedLink};
use crate::routes;
use crate::spec::{VipSpec, interfaces};

/// Something happened to an address or a link of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VipEvent {
    /// An address that was there is gone: removed by somebody, expired, or lost with its link.
    AddressLost {
        /// Which.
        spec: VipSpec,
        /// When it was noticed, in nanoseconds of CLOCK_BOOTTIME.
        at: u64,
    },
    /// An address that was not there is.
    AddressAppeared {
        /// Which.
        spec: VipSpec,
        /// When it was noticed, in nanoseconds of CLOCK_BOOTTIME.
        at: u64,
    },
    /// Another program changed an address so that it could outlive us, or is not used: claim it anew.
    AddressAltered {
        /// Which.
        spec: VipSpec,
        /// What was done.
        how: Alteration,
        /// When it was noticed, in nanoseconds of CLOCK_BOOTTIME.
        at: u64,
    },
    /// A route or a rule of ours was removed, or another one is in its place: ensure them.
    RouteLost {
        /// The address that it belongs to.
        spec: VipSpec,
        /// Which, in words.
        what: String,
        /// When it was noticed, in nanoseconds of CLOCK_BOOTTIME.
        at: u64,
    },
    /// The neighbours must hear anew where the addresses are: an interface has another hardware address, a bond
    /// another active port, or the host was moved to another one.
    AnnounceAgain {
        /// The interface where it happened. It may be one below those of the addresses.
        interface: String,
        /// What happened to it.
        reason: &'static str,
    },
    /// An interface lost its carrier, was set down, or vanished.
    LinkDown {
        /// Its name.
        interface: String,
    },
    /// An interface is up with a carrier. It may be a new one of the same name: repair the gate.
    LinkUp {
        /// Its name.
        interface: String,
    },
    /// Notices were lost: look at everything anew. The watch has done so for itself.
    Overrun,
}

/// What another program did to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// Gave it a lifetime that is longer than ours, or none at all.
    Lifetime,
    /// Added it once more, with another prefix length, which is this.
    Copy(u8),
    /// Had the kernel look for a duplicate: meanwhile, or because one was found, it is not used.
    Duplicate,
}

impl std::fmt::Display for Alteration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Alteration::Lifetime => f.write_str("was given a lifetime that would outlast the lease"),
            Alteration::Copy(prefix_len) => write!(f, "was added once more, as /{prefix_len}"),
            Alteration::Duplicate => f.write_str("was put under duplicate address detection"),
        }
    }
}

/// Room for notices that arrive while nobody reads, in bytes of socket buffer. A host on which some
/// hundred containers start at once stays within it.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Most notices to throw away after an overrun: more than the buffer holds.
const MOST_STALE: usize = 1 << 16;

const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV4_RULE: u32 = 8;
const GROUP_IPV6_ADDRESS: u32 = 9;
const GROUP_IPV6_ROUTE: u32 = 11;
const GROUP_IPV6_RULE: u32 = 19;

/// A subscription to the kernel's notices. Used from within a tokio runtime.
pub struct Watch {
    socket: TokioSocket,
    known: Known,
    names: Vec<String>,
    pending: VecDeque<VipEvent>,
    overrun: bool,
}

impl Watch {
    /// Subscribes, for `specs` and their interfaces, and for the state of the interfaces `also`. What is
    /// there now is known from the start and makes no event.
    ///
    /// # Errors
    /// [`VipError::Io`] without a netlink socket; as [`Addresses::observe`](crate::Addresses::observe).
    pub async fn open(specs: Vec<VipSpec>, also: &[String]) -> Result<Watch, VipError> {
        let subscribe = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            // More than `net.core.rmem_max` needs a capability; without it the smaller buffer will do.
            let _ = socket.socket_mut().set_rx_buf_sz(RECEIVE_BUFFER_BYTES as u32);
            let mut groups = vec![GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS];
            // A router may change many thousand routes at once: they are listened to only where it matters.
            if specs.iter().any(|spec| !spec.routes.is_empty()) {
                groups.extend([GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE]);
            }
            if specs.iter().any(|spec| !spec.rules.is_empty()) {
                groups.extend([GROUP_IPV4_RULE, GROUP_IPV6_RULE]);
            }
            let mask = groups.into_iter().fold(0, |mask, group| mask | 1 << (group - 1));
            socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
            io::Result::Ok(socket)
        };
        let socket = subscribe().map_err(VipError::io("subscribe to changes of addresses"))?;
        let mut names = interfaces(&specs);
        names.extend(also.iter().filter(|name| !interfaces(&specs).contains(name)).cloned());
        let mut watch =
            Watch { socket, known: Known::new(specs), names, pending: VecDeque::new(), overrun: false };
        watch.resync().await?;
        Ok(watch)
    }

    /// From now on an address that lives longer than `valid_for` was altered by somebody else.
    pub fn expect_lifetime(&mut self, valid_for: std::time::Duration) {
        self.known.longest_s = Some(lifetime_s(valid_for));
    }

    /// Waits for the next event. May be dropped while waiting: nothing is lost.
    ///
    /// # Errors
    /// [`VipError::Io`] where the socket failed for good; or, after lost notices, as
    /// [`Addresses::observe`](crate::Addresses::observe). In either case what is known may be wrong: open
    /// a new watch and look at everything anew.
    pub async fn next(&mut self) -> Result<VipEvent, VipError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            if self.overrun {
                self.drain();
                self.resync().await?;
                self.overrun = false;
                return Ok(VipEvent::Overrun);
            }
            match self.socket.recv_from_full().await {
                // Port 0 is the kernel; other processes can send to this socket too.
                Ok((notices, from)) if from.port_number() == 0 => {
                    let (names, at) = (&self.names, boottime_ns());
                    for_each_notice(&notices, |notice| {
                        self.pending.extend(self.known.notice(notice, names, at));
                    });
                }
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => self.overrun = true,
                Err(e) => return Err(VipError::io("read notices of the kernel")(e)),
            }
        }
    }

    /// Throws away what is left in the buffer after an overrun. The kernel drops all further notices,
    /// and says so no second time, until the buffer was empty once: only a look taken after that is
    /// complemented by every later notice.
    fn drain(&self) {
        for _ in 0..MOST_STALE {
            match self.socket.socket_ref().recv_from_full() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }

    /// The events as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<VipEvent, VipError>> {
        futures::stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Learns what is there now.
    async fn resync(&mut self) -> Result<(), VipError> {
        let (handle, connection) = connect()?;
        let seen = snapshot(&handle, &self.names).await;
        connection.abort();
        self.known.learn(seen?);
        Ok(())
    }
}

/// Calls `each` with every message of a datagram that can be parsed.
fn for_each_notice(mut datagram: &[u8], mut each: impl FnMut(&RouteNetlinkMessage)) {
    while let Some(&[a, b, c, d]) = datagram.first_chunk::<4>() {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        if length < 16 || length > datagram.len() {
            return;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
            Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) => each(&message),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a notice of the kernel was not understood"),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// What is known of links and addresses.
struct Known {
    specs: Vec<VipSpec>,
    /// By index.
    links: HashMap<u32, ObservedLink>,
    /// Copies of VIPs.
    addresses: HashSet<(u32, std::net::IpAddr, u8)>,
    /// The lifetime that we give, in seconds.
    longest_s: Option<u32>,
}

impl Known {
    fn new(specs: Vec<VipSpec>) -> Known {
        Known { specs, links: HashMap::new(), addresses: HashSet::new(), longest_s: None }
    }

    fn learn(&mut self, seen: Snapshot) {
        let vips = |a: &&ObservedAddress| self.specs.iter().any(|spec| spec.ip() == a.ip);
        self.addresses = seen.addresses.iter().filter(vips).map(|a| (a.index, a.ip, a.prefix_len)).collect();
        self.links = seen.links.into_iter().map(|link| (link.index, link)).collect();
    }

    fn is_present(&self, spec: &VipSpec) -> bool {
        self.addresses.iter().any(|(index, ip, _)| {
            *ip == spec.ip() && self.links.get(index).is_some_and(|link| link.name == spec.interface)
        })
    }

    fn is_up(&self, name: &str) -> bool {
        self.links.values().any(|link| link.name == name && link.up)
    }

    /// Takes a notice in, and says what it changed.
    fn notice(&mut self, notice: &RouteNetlinkMessage, names: &[String], at: u64) -> Vec<VipEvent> {
        match notice {
            // Bridges send notices of their own family about their ports: leaving a bridge is a
            // "deletion" there, of an interface that stays.
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
                if message.header.interface_family != AddressFamily::Unspec =>
            {
                Vec::new()
            }
            RouteNetlinkMessage::NewLink(message) => self.link(message, names, at),
            RouteNetlinkMessage::DelLink(message) => {
                let before = self.picture(names);
                self.forget_link(message.header.index);
                self.changes(names, &before, at)
            }
            RouteNetlinkMessage::NewAddress(message) => self.address(message, true, at),
            RouteNetlinkMessage::DelAddress(message) => self.address(message, false, at),
            RouteNetlinkMessage::NewRoute(message) if !routes::is_ours(message) => {
                self.routes(at, |route| routes::in_the_place_of(route, message))
            }
            RouteNetlinkMessage::DelRoute(message) if routes::is_ours(message) => {
                self.routes(at, |route| routes::in_the_place_of(route, message))
            }
            RouteNetlinkMessage::DelRule(message) if routes::is_our_rule(message) => {
                let mut events = Vec::new();
                for spec in &self.specs {
                    let lost = spec.rules.iter().filter(|rule| routes::is_rule(spec, rule, message));
                    events.extend(lost.map(|rule| VipEvent::RouteLost {
                        spec: spec.clone(),
                        what: rule.to_string(),
                        at,
                    }));
                }
                events
            }
            _ => Vec::new(),
        }
    }

    fn routes(&self, at: u64, concerned: impl Fn(&crate::spec::RouteSpec) -> bool) -> Vec<VipEvent> {
        let mut events = Vec::new();
        for spec in &self.specs {
            let lost = spec.routes.iter().filter(|route| concerned(route));
            events.extend(lost.map(|route| VipEvent::RouteLost {
                spec: spec.clone(),
                what: route.to_string(),
                at,
            }));
        }
        events
    }

    fn address(&mut self, message: &AddressMessage, there: bool, at: u64) -> Vec<VipEvent> {
        let Some(a) = observed_address(message) else { return Vec::new() };
        let concerned: Vec<VipSpec> = self.specs.iter().filter(|spec| spec.ip() == a.ip).cloned().collect();
        let before: Vec<bool> = concerned.iter().map(|spec| self.is_present(spec)).collect();
        let key = (a.index, a.ip, a.prefix_len);
        match there {
            true if !concerned.is_empty() => drop(self.addresses.insert(key)),
            true => {}
            false => drop(self.addresses.remove(&key)),
        }
        let mut events = Vec::new();
        for (spec, before) in concerned.into_iter().zip(before) {
            let here = self.links.get(&a.index).is_some_and(|link| link.name == spec.interface);
            let altered = self.alteration(message, &a).filter(|_| there && here);
            match (before, self.is_present(&spec)) {
                (true, false) => events.push(VipEvent::AddressLost { spec: spec.clone(), at }),
                (false, true) => events.push(VipEvent::AddressAppeared { spec: spec.clone(), at }),
                _ => {}
            }
            events.extend(altered.map(|how| VipEvent::AddressAltered { spec, how, at }));
        }
        events
    }

    /// Whether an address is as we would not leave it.
    fn alteration(&self, message: &AddressMessage, a: &ObservedAddress) -> Option<Alteration> {
        let longest = self.longest_s?;
        if a.unusable {
            return Some(Alteration::Duplicate);
        }
        if seconds_left(message).is_some_and(|left| left <= longest) {
            return None;
        }
        let another = |(index, ip, prefix_len): &(u32, std::net::IpAddr, u8)| {
            *index == a.index && *ip == a.ip && *prefix_len != a.prefix_len
        };
        match self.addresses.iter().any(another) {
            true => Some(Alteration::Copy(a.prefix_len)),
            false => Some(Alteration::Lifetime),
        }
    }

    fn link(&mut self, message: &LinkMessage, names: &[String], at: u64) -> Vec<VipEvent> {
        let Some(link) = observed_link(message) else { return Vec::new() };
        let before = self.picture(names);
        let mut remade = None;
        // An interface that took over a name that another one has lost unnoticed.
        if let Some(old) = self.links.values().find(|l| l.name == link.name && l.index != link.index) {
            remade = Some(link.name.clone()).filter(|_| old.up && link.up);
            let old = old.index;
            self.forget_link(old);
        }
        let former = self.links.insert(link.index, link.clone());
        let mut events = self.changes(names, &before, at);
        if let Some(interface) = remade.filter(|name| names.contains(name)) {
            events.push(VipEvent::LinkDown { interface: interface.clone() });
            events.push(VipEvent::LinkUp { interface });
        }
        let moved = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Event(LinkEvent::BondingFailover) => Some("has another active port"),
            LinkAttribute::Event(LinkEvent::NotifyPeers) => Some("is attached elsewhere"),
            _ => None,
        });
        let other_mac = former.is_some_and(|former| former.mac != link.mac) && names.contains(&link.name);
        let reason = moved.or(other_mac.then_some("has another hardware address"));
        events.extend(reason.map(|reason| VipEvent::AnnounceAgain { interface: link.name, reason }));
        events
    }

    /// Which addresses are present, and which interfaces are up.
    fn picture(&self, names: &[String]) -> (Vec<bool>, Vec<bool>) {
        let present = self.specs.iter().map(|spec| self.is_present(spec)).collect();
        (present, names.iter().map(|name| self.is_up(name)).collect())
    }

    /// What is other than in the picture of before.
    fn changes(&self, names: &[String], before: &(Vec<bool>, Vec<bool>), at: u64) -> Vec<VipEvent> {
        let after = self.picture(names);
        let mut events = Vec::new();
        for (spec, change) in self.specs.iter().zip(before.0.iter().zip(after.0)) {
            let spec = spec.clone();
            match change {
                (true, false) => events.push(VipEvent::AddressLost { spec, at }),
                (false, true) => events.push(VipEvent::AddressAppeared { spec, at }),
                _ => {}
            }
        }
        for (name, change) in names.iter().zip(before.1.iter().zip(after.1)) {
            let interface = name.clone();
            match change {
                (true, false) => events.push(VipEvent::LinkDown { interface }),
                (false, true) => events.push(VipEvent::LinkUp { interface }),
                _ => {}
            }
        }
        events
    }

    fn forget_link(&mut self, index: u32) {
        self.links.remove(&index);
        self.addresses.retain(|(i, _, _)| *i != index);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netlink_packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
    use netlink_packet_route::link::LinkFlags;

    use super::*;

    fn vip() -> VipSpec {
        VipSpec::new("10.0.0.100/24".parse().unwrap(), "eth1")
    }

    fn link(index: u32, name: &str, up: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if up { LinkFlags::Up | LinkFlags::Running } else { LinkFlags::Up };
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message
    }

    fn address(index: u32, ip: &str, prefix_len: u8) -> AddressMessage {
        let ip: IpAddr = ip.parse().unwrap();
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix_len;
        message.attributes.push(AddressAttribute::Local(ip));
        message
    }

    fn watching() -> (Known, Vec<String>) {
        let mut known = Known::new(vec![vip()]);
        let links = vec![ObservedLink { name: "eth1".into(), index: 4, up: true, mac: None }];
        known.learn(Snapshot { links, addresses: Vec::new() });
        (known, vec!["eth1".into()])
    }

    #[test]
    fn a_refresh_is_no_event() {
        let (mut known, names) = watching();
        let add = RouteNetlinkMessage::NewAddress(address(4, "10.0.0.100", 32));
        assert_eq!(known.notice(&add, &names, 7), [VipEvent::AddressAppeared { spec: vip(), at: 7 }]);
        assert_eq!(known.notice(&add, &names, 8), []);
    }

    #[test]
    fn a_deleted_address_is_lost_and_others_are_not_ours() {
        let (mut known, names) = watching();
        for (ip, len) in [("10.0.0.100", 32), ("10.0.0.7", 24)] {
            known.notice(&RouteNetlinkMessage::NewAddress(address(4, ip, len)), &names, 1);
        }
        let del = |index, ip| RouteNetlinkMessage::DelAddress(address(index, ip, 32));
        assert_eq!(known.notice(&del(4, "10.0.0.7"), &names, 2), []);
        assert_eq!(known.notice(&del(5, "10.0.0.100"), &names, 2), []);
        assert_eq!(
            known.notice(&del(4, "10.0.0.100"), &names, 3),
            [VipEvent::AddressLost { spec: vip(), at: 3 }]
        );
        assert_eq!(known.notice(&del(4, "10.0.0.100"), &names, 4), []);
    }

    #[test]
    fn one_copy_of_two_is_no_loss() {
        let (mut known, names) = watching();
        for len in [24, 32] {
            known.notice(&RouteNetlinkMessage::NewAddress(address(4, "10.0.0.100", len)), &names, 1);
        }
        let del = RouteNetlinkMessage::DelAddress(address(4, "10.0.0.100", 24));
        assert_eq!(known.notice(&del, &names, 2), []);
    }

    #[test]
    fn a_link_that_is_deleted_takes_the_address_along() {
        let (mut known, names) = watching();
        known.notice(&RouteNetlinkMessage::NewAddress(address(4, "10.0.0.100", 32)), &names, 1);
        let gone = RouteNetlinkMessage::DelLink(link(4, "eth1", false));
        let lost = VipEvent::AddressLost { spec: vip(), at: 2 };
        assert_eq!(known.notice(&gone, &names, 2), [lost, VipEvent::LinkDown { interface: "eth1".into() }]);
        let back = RouteNetlinkMessage::NewLink(link(9, "eth1", true));
        assert_eq!(known.notice(&back, &names, 3), [VipEvent::LinkUp { interface: "eth1".into() }]);
        let add = RouteNetlinkMessage::NewAddress(address(9, "10.0.0.100", 32));
        assert_eq!(known.notice(&add, &names, 4), [VipEvent::AddressAppeared { spec: vip(), at: 4 }]);
    }

    #[test]
    fn carrier_changes_are_events_once() {
        let (mut known, names) = watching();
        let down = RouteNetlinkMessage::NewLink(link(4, "eth1", false));
        assert_eq!(known.notice(&down, &names, 1), [VipEvent::LinkDown { interface: "eth1".into() }]);
        assert_eq!(known.notice(&down, &names, 2), []);
        let other = RouteNetlinkMessage::NewLink(link(5, "eth2", true));
        assert_eq!(known.notice(&other, &names, 3), []);
    }

    fn living(mut message: AddressMessage, seconds: u32, flags: AddressFlags) -> RouteNetlinkMessage {
        let mut info = CacheInfo::default();
        info.ifa_valid = seconds;
        message.attributes.push(AddressAttribute::CacheInfo(info));
        message.attributes.push(AddressAttribute::Flags(flags));
        RouteNetlinkMessage::NewAddress(message)
    }

    #[test]
    fn an_address_that_would_outlive_us_or_is_not_used_was_altered() {
        let (mut known, names) = watching();
        known.longest_s = Some(2);
        let altered = |how, at| vec![VipEvent::AddressAltered { spec: vip(), how, at }];
        let none = AddressFlags::empty();
        known.notice(&living(address(4, "10.0.0.100", 32), 2, none), &names, 1);
        assert_eq!(known.notice(&living(address(4, "10.0.0.100", 32), 1, none), &names, 2), []);
        let forever = living(address(4, "10.0.0.100", 32), u32::MAX, AddressFlags::Permanent);
        assert_eq!(known.notice(&forever, &names, 3), altered(Alteration::Lifetime, 3));
        let long = living(address(4, "10.0.0.100", 32), 3600, none);
        assert_eq!(known.notice(&long, &names, 4), altered(Alteration::Lifetime, 4));
        let copy = living(address(4, "10.0.0.100", 24), u32::MAX, AddressFlags::Permanent);
        assert_eq!(known.notice(&copy, &names, 5), altered(Alteration::Copy(24), 5));
        let failed = living(address(4, "10.0.0.100", 32), 2, AddressFlags::Dadfailed);
        assert_eq!(known.notice(&failed, &names, 6), altered(Alteration::Duplicate, 6));
        let elsewhere = living(address(5, "10.0.0.100", 32), u32::MAX, AddressFlags::Permanent);
        assert_eq!(known.notice(&elsewhere, &names, 7), []);
    }

    #[test]
    fn neighbours_must_hear_anew_after_a_change_of_port_or_hardware_address() {
        let again =
            |interface: &str, reason| vec![VipEvent::AnnounceAgain { interface: interface.into(), reason }];
        let (mut known, names) = watching();
        let with_mac = |last: u8| {
            let mut message = link(4, "eth1", true);
            message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, last]));
            message
        };
        known.links.get_mut(&4).unwrap().mac = Some([2, 0, 0, 0, 0, 1].into());
        assert_eq!(known.notice(&RouteNetlinkMessage::NewLink(with_mac(1)), &names, 1), []);
        let other = RouteNetlinkMessage::NewLink(with_mac(2));
        assert_eq!(known.notice(&other, &names, 2), again("eth1", "has another hardware address"));
        assert_eq!(known.notice(&other, &names, 3), []);
        // Below a bridge, say.
        let mut bond = link(9, "bond0", true);
        bond.attributes.push(LinkAttribute::Event(LinkEvent::BondingFailover));
        let bond = RouteNetlinkMessage::NewLink(bond);
        assert_eq!(known.notice(&bond, &names, 4), again("bond0", "has another active port"));
        let mut moved = with_mac(2);
        moved.attributes.push(LinkAttribute::Event(LinkEvent::NotifyPeers));
        let moved = RouteNetlinkMessage::NewLink(moved);
        assert_eq!(known.notice(&moved, &names, 5), again("eth1", "is attached elsewhere"));
    }

    #[test]
    fn no_datagram_can_panic_the_parser() {
        for length in 0..40u32 {
            let mut datagram = vec![0xa5; 32];
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            for_each_notice(&datagram, |_| {});
            for_each_notice(&datagram[..length.min(32) as usize], |_| {});
        }
    }
}
