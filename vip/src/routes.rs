//! Routes and policy rules that move with the addresses: adds them after, removes them before, and sweeps
//! those that an earlier life left.
//!
//! Ours carry a protocol number of their own ([`PROTOCOL`]; `ip route show proto 72`). Whatever carries
//! another one is an operator's or another program's and is never changed: where such a route is in the
//! place of ours, ours is not added, and that is reported. Our own routes are known again by that number and
//! by the interface; rules by it and by what they say.
//!
//! A route has no lifetime. An IPv4 route of the table `main` that speaks from the address the kernel takes away
//! together with it; others stay after a killed agent until the next sweep. They let this host speak no more than
//! before: whatever would leave from the address is stopped by the gate.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};
use tokio::task::JoinHandle;

use crate::addresses::limited;
use crate::error::VipError;
use crate::link::index_of;
use crate::spec::{RouteSpec, RuleSpec, VipSpec, interfaces};

/// By this number our routes and rules are known: no program of iproute2's list has it.
pub const PROTOCOL: u8 = 72;

/// A route or a rule that does not stand.
#[derive(Debug)]
pub struct Trouble {
    /// The address that it belongs to.
    pub vip: VipSpec,
    /// Which, in words.
    pub what: String,
    /// Whether the address may not count as claimed without it.
    pub required: bool,
    /// Why.
    pub error: VipError,
}

/// What [`Routes::ensure`] found.
#[derive(Debug, Default)]
pub struct Ensured {
    /// What was not there and is now, in words.
    pub added: Vec<String>,
    /// What is not there.
    pub missing: Vec<Trouble>,
}

/// The routes and rules of some addresses. Used from within a tokio runtime.
#[derive(Debug)]
pub struct Routes {
    specs: Vec<VipSpec>,
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// One of ours.
#[derive(Clone, Copy)]
enum Item<'s> {
    Route(&'s VipSpec, &'s RouteSpec),
    Rule(&'s VipSpec, &'s RuleSpec),
}

impl Item<'_> {
    fn vip(&self) -> &VipSpec {
        match self {
            Item::Route(vip, _) | Item::Rule(vip, _) => vip,
        }
    }

    fn required(&self) -> bool {
        match self {
            Item::Route(_, route) => route.required,
            Item::Rule(_, rule) => rule.required,
        }
    }

    fn words(&self) -> String {
        match self {
            Item::Route(vip, route) => format!("the {route} of {vip}"),
            Item::Rule(vip, rule) => format!("the {rule} of {vip}"),
        }
    }
}

/// What of ours the kernel has.
#[derive(Default)]
struct Standing {
    routes: Vec<RouteMessage>,
    rules: Vec<RuleMessage>,
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn short_table(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC)
}

fn route_message(route: &RouteSpec, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    let ip = route.to.addr();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = route.to.prefix_len();
    message.header.table = short_table(route.table);
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = match (ip, route.via) {
        (IpAddr::V4(_), None) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.to.network().into()));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.extend(route.metric.map(RouteAttribute::Priority));
    message
}

fn rule_message(vip: &VipSpec, rule: &RuleSpec) -> RuleMessage {
    let mut message = RuleMessage::default();
    let some = rule.from.or(rule.to).map_or(vip.ip(), |net| net.addr());
    message.header.family = family(some);
    message.header.action = RuleAction::ToTable;
    message.header.table = short_table(rule.table);
    if let Some(from) = rule.from.filter(|net| net.prefix_len() > 0) {
        message.header.src_len = from.prefix_len();
        message.attributes.push(RuleAttribute::Source(from.network()));
    }
    if let Some(to) = rule.to.filter(|net| net.prefix_len() > 0) {
        message.header.dst_len = to.prefix_len();
        message.attributes.push(RuleAttribute::Destination(to.network()));
    }
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    message
}

fn table_of(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or(message.header.table.into())
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The destination of a route; `None` where it is of no family of ours.
fn destination(message: &RouteMessage) -> Option<IpNet> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => address(to),
        _ => None,
    });
    IpNet::new(ip.unwrap_or(unspecified), message.header.destination_prefix_length).ok()
}

fn leaves_by(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn metric_of(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    })
}

fn next_hop(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(via) => address(via),
        _ => None,
    })
}

/// Whether a route carries our number.
pub(crate) fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(PROTOCOL)
}

/// Whether a route is in the place of `route`: the kernel has one for each destination, table and metric.
pub(crate) fn in_the_place_of(route: &RouteSpec, message: &RouteMessage) -> bool {
    let usual = if route.to.addr().is_ipv6() { 1024 } else { 0 };
    destination(message).is_some_and(|to| to == route.to.trunc())
        && table_of(message) == route.table
        && metric_of(message).unwrap_or(0) == route.metric.unwrap_or(usual)
}

fn is(route: &RouteSpec, index: u32, message: &RouteMessage) -> bool {
    is_ours(message)
        && in_the_place_of(route, message)
        && leaves_by(message) == Some(index)
        && next_hop(message) == route.via
}

/// Whether a rule carries our number.
pub(crate) fn is_our_rule(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
}

/// Source, destination, priority and table of a rule.
fn rule_says(message: &RuleMessage) -> (Option<IpNet>, Option<IpNet>, u32, u32) {
    let (mut from, mut to, mut priority, mut table) = (None, None, 0, message.header.table.into());
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(ip) => from = IpNet::new(*ip, message.header.src_len).ok(),
            RuleAttribute::Destination(ip) => to = IpNet::new(*ip, message.header.dst_len).ok(),
            RuleAttribute::Priority(n) => priority = *n,
            RuleAttribute::Table(n) => table = *n,
            _ => {}
        }
    }
    (from, to, priority, table)
}

/// Whether a rule is `rule`, of ours.
pub(crate) fn is_rule(vip: &VipSpec, rule: &RuleSpec, message: &RuleMessage) -> bool {
    is_our_rule(message)
        && message.header.family == rule_message(vip, rule).header.family
        && rule_says(message) == rule_says(&rule_message(vip, rule))
}

fn refusal(error: &VipError) -> Option<i32> {
    match error {
        VipError::Refused { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

impl Routes {
    /// Opens a netlink socket in the calling thread's network namespace. Changes nothing.
    ///
    /// # Errors
    /// [`VipError::Io`].
    pub async fn open(specs: Vec<VipSpec>) -> Result<Routes, VipError> {
        // With strict checks a dump can be asked for routes of our number only.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(VipError::io("open a netlink socket for routes"))?;
        Ok(Routes { specs, handle, connection: tokio::spawn(connection) })
    }

    /// Whether there is anything to keep.
    pub fn is_empty(&self) -> bool {
        self.items().next().is_none()
    }

    /// Ours in the order in which they are added: a rule must not lead into a table that is still empty.
    fn items(&self) -> impl DoubleEndedIterator<Item = Item<'_>> {
        let routes = self.specs.iter().flat_map(|vip| vip.routes.iter().map(move |r| Item::Route(vip, r)));
        let rules = self.specs.iter().flat_map(|vip| vip.rules.iter().map(move |r| Item::Rule(vip, r)));
        routes.chain(rules)
    }

    /// Makes every route and rule stand. Call it while the addresses are there. All are tried even if one
    /// fails.
    pub async fn ensure(&self) -> Ensured {
        let mut found = Ensured::default();
        let mut standing: Option<Standing> = None;
        for item in self.items() {
            let outcome = match self.add(item).await {
                Err(error) if refusal(&error) == Some(libc::EEXIST) => {
                    self.judge_existing(item, &mut standing, error).await
                }
                outcome => outcome.map(|()| true),
            };
            match outcome {
                Ok(true) => found.added.push(item.words()),
                Ok(false) => {}
                Err(error) => found.missing.push(Trouble {
                    vip: item.vip().clone(),
                    what: item.words(),
                    required: item.required(),
                    error,
                }),
            }
        }
        found
    }

    /// Something is there already: ours, or not.
    async fn judge_existing(
        &self,
        item: Item<'_>,
        standing: &mut Option<Standing>,
        refused: VipError,
    ) -> Result<bool, VipError> {
        if standing.is_none() {
            *standing = Some(self.standing().await?);
        }
        let standing = standing.get_or_insert_default();
        let there = match item {
            Item::Route(vip, route) => index_of(&vip.interface)
                .is_some_and(|index| standing.routes.iter().any(|message| is(route, index, message))),
            Item::Rule(vip, rule) => standing.rules.iter().any(|message| is_rule(vip, rule, message)),
        };
        if there {
            return Ok(false);
        }
        let action = format!(
            "add {} beside another one to the same destination, of the same table and metric, which is left alone (give this one a `metric`)",
            item.words()
        );
        let source = match refused {
            VipError::Refused { source, .. } => source,
            other => io::Error::other(other),
        };
        Err(VipError::Refused { action, source })
    }

    /// Removes every route and rule of ours, rules first. Succeeds where they are absent. All are tried even
    /// if one fails.
    ///
    /// # Errors
    /// The first failure: [`VipError::Refused`], [`VipError::TimedOut`].
    pub async fn remove(&self) -> Result<(), VipError> {
        let mut first_failure = None;
        for item in self.items().rev() {
            if let Err(error) = self.delete(item).await {
                tracing::warn!(%error, "a route of a virtual address is not removed");
                first_failure.get_or_insert(error);
            }
        }
        first_failure.map_or(Ok(()), Err)
    }

    /// At start: removes what an earlier life left, also of an earlier configuration, and says what it was:
    /// every route of our number on the interfaces of the addresses, and every rule of our number that is
    /// configured or concerns one of the addresses.
    ///
    /// # Errors
    /// The first failure: [`VipError::Refused`], [`VipError::TimedOut`].
    pub async fn sweep(&self) -> Result<Vec<String>, VipError> {
        let standing = self.standing().await?;
        let mut swept = Vec::new();
        for message in standing.rules.into_iter().filter(|message| self.concerns(message)) {
            let (from, to, priority, table) = rule_says(&message);
            let rule = RuleSpec { from, to, table, priority, required: false };
            let request = self.handle.rule().del(message);
            gone(limited(|| format!("remove the {rule}"), request.execute()).await)?;
            swept.push(rule.to_string());
        }
        let indices: Vec<u32> = interfaces(&self.specs).iter().filter_map(|name| index_of(name)).collect();
        for message in standing.routes {
            let (Some(to), Some(index)) = (destination(&message), leaves_by(&message)) else { continue };
            if !indices.contains(&index) {
                continue;
            }
            let route = RouteSpec {
                to,
                via: next_hop(&message),
                table: table_of(&message),
                metric: metric_of(&message),
                source: None,
                required: false,
            };
            let request = self.handle.route().del(route_message(&route, index));
            gone(limited(|| format!("remove the {route}"), request.execute()).await)?;
            swept.push(route.to_string());
        }
        Ok(swept)
    }

    fn concerns(&self, message: &RuleMessage) -> bool {
        let (from, to, ..) = rule_says(message);
        let whole = |net: Option<IpNet>, ip: IpAddr| net == Some(IpNet::from(ip));
        self.specs.iter().any(|vip| {
            whole(from, vip.ip())
                || whole(to, vip.ip())
                || vip.rules.iter().any(|rule| is_rule(vip, rule, message))
        })
    }

    async fn add(&self, item: Item<'_>) -> Result<(), VipError> {
        let action = || format!("add {}", item.words());
        match item {
            Item::Route(vip, route) => {
                let missing = || VipError::NoSuchInterface { interface: vip.interface.clone() };
                let index = index_of(&vip.interface).ok_or_else(missing)?;
                limited(action, self.handle.route().add(route_message(route, index)).execute()).await
            }
            Item::Rule(vip, rule) => {
                let mut request = self.handle.rule().add();
                *request.message_mut() = rule_message(vip, rule);
                limited(action, request.execute()).await
            }
        }
    }

    async fn delete(&self, item: Item<'_>) -> Result<(), VipError> {
        let action = || format!("remove {}", item.words());
        let outcome = match item {
            Item::Route(vip, route) => {
                let Some(index) = index_of(&vip.interface) else { return Ok(()) };
                limited(action, self.handle.route().del(route_message(route, index)).execute()).await
            }
            Item::Rule(vip, rule) => {
                limited(action, self.handle.rule().del(rule_message(vip, rule)).execute()).await
            }
        };
        gone(outcome)
    }

    /// What of ours the kernel has.
    async fn standing(&self) -> Result<Standing, VipError> {
        let mut standing = Standing::default();
        for (version, family) in [(IpVersion::V4, AddressFamily::Inet), (IpVersion::V6, AddressFamily::Inet6)]
        {
            let mut wanted = RouteMessage::default();
            wanted.header.address_family = family;
            wanted.header.protocol = RouteProtocol::Other(PROTOCOL);
            let request = self.handle.route().get(wanted).execute();
            let routes = limited(|| "list our routes".to_owned(), request.try_collect::<Vec<_>>()).await;
            standing.routes.extend(absent_family(routes)?.into_iter().filter(is_ours));
            let request = self.handle.rule().get(version).execute();
            let rules = limited(|| "list the policy rules".to_owned(), request.try_collect::<Vec<_>>()).await;
            standing.rules.extend(absent_family(rules)?.into_iter().filter(is_our_rule));
        }
        Ok(standing)
    }
}

/// What is not there need not be removed.
fn gone(outcome: Result<(), VipError>) -> Result<(), VipError> {
    match outcome {
        Err(error) if matches!(refusal(&error), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV)) => Ok(()),
        outcome => outcome,
    }
}

/// A kernel without IPv6, or without policy rules, has none of ours.
fn absent_family<T>(listed: Result<Vec<T>, VipError>) -> Result<Vec<T>, VipError> {
    match listed {
        Err(error) if matches!(refusal(&error), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {
            Ok(Vec::new())
        }
        listed => listed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, via: Option<&str>) -> RouteSpec {
        RouteSpec {
            to: to.parse().unwrap(),
            via: via.map(|via| via.parse().unwrap()),
            table: crate::spec::MAIN_TABLE,
            metric: None,
            source: None,
            required: false,
        }
    }

    #[test]
    fn a_route_is_known_again_by_what_it_says_and_by_our_number() {
        for (to, via) in [
            ("10.9.0.0/24", Some("10.0.0.254")),
            ("0.0.0.0/0", Some("10.0.0.254")),
            ("10.9.0.0/24", None),
            ("fd09::/64", Some("fd00::fe")),
        ] {
            let route = RouteSpec { metric: Some(7), ..route(to, via) };
            let mut message = route_message(&route, 4);
            assert!(is(&route, 4, &message), "{route}");
            assert!(!is(&route, 5, &message), "another interface");
            assert!(!is(&RouteSpec { table: 100, ..route.clone() }, 4, &message), "another table");
            assert!(!is(&RouteSpec { metric: Some(8), ..route.clone() }, 4, &message), "another metric");
            message.header.protocol = RouteProtocol::Static;
            assert!(!is(&route, 4, &message), "an operator's");
            assert!(in_the_place_of(&route, &message));
        }
    }

    #[test]
    fn a_route_says_what_it_is() {
        assert_eq!(route("10.9.0.0/24", Some("10.0.0.254")).to_string(), "route 10.9.0.0/24 via 10.0.0.254");
        let default = RouteSpec { table: 100, ..route("0.0.0.0/0", Some("10.0.0.254")) };
        assert_eq!(default.to_string(), "route default via 10.0.0.254 table 100");
    }

    #[test]
    fn a_rule_is_known_again() {
        let vip = VipSpec::new("10.0.0.100/24".parse().unwrap(), "eth1");
        let rule = RuleSpec {
            from: Some("10.0.0.100/32".parse().unwrap()),
            to: None,
            table: 1000,
            priority: 900,
            required: false,
        };
        let message = rule_message(&vip, &rule);
        assert!(is_rule(&vip, &rule, &message));
        assert!(!is_rule(&vip, &RuleSpec { priority: 901, ..rule.clone() }, &message));
        assert!(!is_rule(&vip, &RuleSpec { from: None, ..rule.clone() }, &message));
        assert_eq!(rule.to_string(), "rule 900: from 10.0.0.100/32 table 1000");
    }
}
