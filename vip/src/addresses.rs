//! The virtual addresses on this host's interfaces: adds, refreshes, removes and observes them over
//! netlink.
//!
//! What to do is planned in [`plan`](crate::plan); here it is carried out. Every address carries a
//! lifetime (`valid_lft`), after which the kernel removes it by itself: the second line behind the gate.
//! Nothing here is remembered between calls: each observes first, so that it holds for whatever
//! others did to the addresses and interfaces meanwhile.
//!
//! IPv6 addresses are added without duplicate address detection: it costs a second, and with a finite
//! lifetime its failure deletes the address. The [conflict probe](crate::probe) comes before the claim.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::DefaultNla;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage};
use pnet::util::MacAddr;
use rtnetlink::{Handle, LinkUnspec};
use tokio::task::JoinHandle;

use crate::error::VipError;
use crate::plan::{self, ObservedAddress, ObservedLink, Step};
use crate::spec::{VipSpec, interfaces};

/// How long the kernel may take for one request. It takes microseconds, but the lock that it needs can
/// be held by others for long; after this the caller had better look again than wait on.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(1);

/// Requests that wait for their answer at one time. The kernel serves them in the order in which they were
/// sent; the socket's buffer has room for several times as many answers.
const IN_FLIGHT: usize = 64;

/// Shortest lifetime of an address. The kernel counts whole seconds and rounds in its own favour; one
/// second could end before the next refresh.
pub const MIN_LIFETIME: Duration = Duration::from_secs(2);

/// The lifetime that the kernel is told for `valid_for`, in whole seconds: rounded up.
pub fn lifetime_s(valid_for: Duration) -> u32 {
    let valid_for = valid_for.max(MIN_LIFETIME);
    let whole = valid_for.as_secs().saturating_add(u64::from(valid_for.subsec_nanos() > 0));
    // The greatest value means "for ever", which no lease is.
    u32::try_from(whole).unwrap_or(u32::MAX - 1).min(u32::MAX - 1)
}

/// One virtual address, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipState {
    /// Which.
    pub spec: VipSpec,
    /// Whether its interface has it.
    pub present: bool,
    /// Whether its interface exists, is up and has a carrier.
    pub link_up: bool,
}

/// The virtual addresses of this host. Used from within a tokio runtime.
#[derive(Debug)]
pub struct Addresses {
    specs: Vec<VipSpec>,
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Links and addresses at one moment.
pub(crate) struct Snapshot {
    pub(crate) links: Vec<ObservedLink>,
    pub(crate) addresses: Vec<ObservedAddress>,
}

/// Runs one request under the time limit.
pub(crate) async fn limited<T>(
    action: impl Fn() -> String,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, VipError> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(VipError::Refused { action: action(), source: io_error(error) }),
        Err(_) => Err(VipError::TimedOut { action: action(), limit: REQUEST_LIMIT }),
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match &error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        _ => io::Error::other(error),
    }
}

/// Whether a refusal says that the thing is not there.
fn is_absent(error: &VipError) -> bool {
    let VipError::Refused { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL))
}

/// A link message as we see it; `None` without a name.
pub(crate) fn observed_link(message: &LinkMessage) -> Option<ObservedLink> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr::from),
        _ => None,
    });
    Some(ObservedLink { name, index: message.header.index, up, mac })
}

/// An address message as we see it; `None` without an address.
pub(crate) fn observed_address(message: &AddressMessage) -> Option<ObservedAddress> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    // On a point-to-point link the other attribute is the peer's address.
    let ip = find(true).or_else(|| find(false))?;
    let unusable = flags(message).intersects(AddressFlags::Dadfailed | AddressFlags::Tentative);
    Some(ObservedAddress { index: message.header.index, ip, prefix_len: message.header.prefix_len, unusable })
}

/// The flags of an address.
pub(crate) fn flags(message: &AddressMessage) -> AddressFlags {
    let found = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    found.unwrap_or(AddressFlags::empty())
}

/// The seconds that an address has left, counted from the message; `None` for ever.
pub(crate) fn seconds_left(message: &AddressMessage) -> Option<u32> {
    let info = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::CacheInfo(info) => Some(info.ifa_valid),
        _ => None,
    });
    info.filter(|left| *left != u32::MAX)
}

/// Observes the named links, as far as they exist, and all addresses.
pub(crate) async fn snapshot(handle: &Handle, names: &[String]) -> Result<Snapshot, VipError> {
    let mut links = Vec::new();
    for name in names {
        let request = handle.link().get().match_name(name.clone()).execute();
        match limited(|| format!("look up {name}"), request.try_collect::<Vec<_>>()).await {
            Ok(found) => links.extend(found.iter().filter_map(observed_link)),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let request = handle.address().get().execute();
    let found = limited(|| "list the addresses".to_owned(), request.try_collect::<Vec<_>>()).await?;
    Ok(Snapshot { links, addresses: found.iter().filter_map(observed_address).collect() })
}

/// A netlink connection, and the task that serves it.
pub(crate) fn connect() -> Result<(Handle, JoinHandle<()>), VipError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(VipError::io("open a netlink socket"))?;
    Ok((handle, tokio::spawn(connection)))
}

impl Addresses {
    /// Opens a netlink socket in the calling thread's network namespace. Changes nothing.
    ///
    /// # Errors
    /// [`VipError::Io`].
    pub async fn open(specs: Vec<VipSpec>) -> Result<Addresses, VipError> {
        let (handle, connection) = connect()?;
        Ok(Addresses { specs, handle, connection })
    }

    /// The addresses that this is about.
    pub fn specs(&self) -> &[VipSpec] {
        &self.specs
    }

    /// Makes every address present with a lifetime of `valid_for` (see [`lifetime_s`]); also where it was
    /// present already. All are tried even if one fails. They are asked for together: many cost hardly more
    /// time than one.
    ///
    /// # Errors
    /// The first failure: [`VipError::NoSuchInterface`], [`VipError::Refused`], [`VipError::TimedOut`].
    pub async fn claim(&self, valid_for: Duration) -> Result<(), VipError> {
        let seen = self.snapshot().await?;
        let seconds = lifetime_s(valid_for);
        let seen = &seen;
        let hold = |spec| async move { (spec, self.hold(spec, seen, seconds).await) };
        let asked: Vec<_> = self.specs.iter().map(hold).collect();
        let mut held = futures::stream::iter(asked).buffered(IN_FLIGHT);
        let mut first_failure = None;
        while let Some((spec, outcome)) = held.next().await {
            if let Err(error) = outcome {
                tracing::warn!(vip = %spec, %error, "a virtual address is not held");
                first_failure.get_or_insert(error);
            }
        }
        first_failure.map_or(Ok(()), Err)
    }

    /// Extends the lifetime of every address to `valid_for` from now, and restores those that somebody
    /// removed.
    ///
    /// # Errors
    /// As [`claim`](Addresses::claim).
    pub async fn refresh(&self, valid_for: Duration) -> Result<(), VipError> {
        self.claim(valid_for).await
    }

    /// Removes every address. Succeeds where an address or its interface is absent. All are tried even if
    /// one fails.
    ///
    /// # Errors
    /// The first failure: [`VipError::Refused`], [`VipError::TimedOut`].
    pub async fn release(&self) -> Result<(), VipError> {
        let seen = self.snapshot().await?;
        let steps = plan::release(&self.specs, &seen.links, &seen.addresses);
        let asked: Vec<_> = steps.iter().map(|step| self.carry_out(step, 0)).collect();
        let mut removed = futures::stream::iter(asked).buffered(IN_FLIGHT);
        let mut first_failure = None;
        while let Some(outcome) = removed.next().await {
            if let Err(error) = outcome {
                tracing::warn!(%error, "a virtual address is not removed");
                first_failure.get_or_insert(error);
            }
        }
        first_failure.map_or(Ok(()), Err)
    }

    /// At start: removes what an earlier life left behind, and returns which addresses those were.
    ///
    /// # Errors
    /// As [`release`](Addresses::release).
    pub async fn sweep(&self) -> Result<Vec<VipSpec>, VipError> {
        let left: Vec<VipSpec> =
            self.observe().await?.into_iter().filter(|s| s.present).map(|s| s.spec).collect();
        self.release().await?;
        Ok(left)
    }

    /// Looks at every address.
    ///
    /// # Errors
    /// [`VipError::Refused`], [`VipError::TimedOut`].
    pub async fn observe(&self) -> Result<Vec<VipState>, VipError> {
        let seen = self.snapshot().await?;
        let state = |spec: &VipSpec| {
            let link = plan::link_of(spec, &seen.links);
            VipState {
                spec: spec.clone(),
                present: link.is_some_and(|l| plan::present(spec, l.index, &seen.addresses).next().is_some()),
                link_up: link.is_some_and(|l| l.up),
            }
        };
        Ok(self.specs.iter().map(state).collect())
    }

    async fn snapshot(&self) -> Result<Snapshot, VipError> {
        snapshot(&self.handle, &interfaces(&self.specs)).await
    }

    /// Carries out the plan for one address. (The plans of the others do not depend on what it adds: a virtual
    /// address is never another one's neighbour in the subnet.)
    async fn hold(&self, spec: &VipSpec, seen: &Snapshot, seconds: u32) -> Result<(), VipError> {
        let missing = || VipError::NoSuchInterface { interface: spec.interface.clone() };
        let link = plan::link_of(spec, &seen.links).ok_or_else(missing)?;
        for step in plan::hold(spec, link, &self.specs, &seen.addresses) {
            self.carry_out(&step, seconds).await?;
        }
        Ok(())
    }

    /// Has the kernel keep the addresses that hang on one that is about to go: an operator's own one that was
    /// added after a virtual one with the same prefix is its "secondary", and would go with it. By netlink,
    /// since the unit sees the settings below `/proc/sys` read-only.
    async fn keep_secondaries(&self, index: u32) {
        // An attribute `IPV4_DEVCONF_PROMOTE_SECONDARIES` = 1 within `IFLA_INET_CONF`.
        const INET_CONF: u16 = 1;
        const PROMOTE_SECONDARIES: u16 = 20;
        let mut setting = 8u16.to_ne_bytes().to_vec();
        setting.extend(PROMOTE_SECONDARIES.to_ne_bytes());
        setting.extend(1u32.to_ne_bytes());
        let settings = AfSpecInet::Other(DefaultNla::new(INET_CONF, setting));
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![settings])]));
        let action = || format!("set promote_secondaries of interface {index}");
        if let Err(error) = limited(action, self.handle.link().set(message).execute()).await {
            tracing::warn!(%error, "own addresses that were added after a virtual one with the same prefix go with it");
        }
    }

    async fn carry_out(&self, step: &Step, seconds: u32) -> Result<(), VipError> {
        match *step {
            Step::Hold { index, ip, prefix_len, prefix_route } => {
                let mut request = self.handle.address().add(index, ip, prefix_len).replace();
                let message = request.message_mut();
                let mut lifetime = CacheInfo::default();
                lifetime.ifa_valid = seconds;
                // Beside an own IPv6 address it is deprecated from birth: it takes connections, but the
                // host does not choose it as the source of its own, which would break when it moves.
                // (For IPv4 the order of the addresses decides, and ours comes last.)
                lifetime.ifa_preferred = if ip.is_ipv6() && !prefix_route { 0 } else { seconds };
                message.attributes.push(AddressAttribute::CacheInfo(lifetime));
                let mut flags = AddressFlags::empty();
                if !prefix_route {
                    flags |= AddressFlags::Noprefixroute;
                }
                if ip.is_ipv6() {
                    flags |= AddressFlags::Nodad;
                    message.header.flags = AddressHeaderFlags::Nodad;
                }
                message.attributes.push(AddressAttribute::Flags(flags));
                limited(|| format!("add {ip}/{prefix_len} to interface {index}"), request.execute()).await
            }
            Step::Remove(ObservedAddress { index, ip, prefix_len, .. }) => {
                if ip.is_ipv4() && prefix_len < 32 {
                    self.keep_secondaries(index).await;
                }
                let message = self.handle.address().add(index, ip, prefix_len).message_mut().clone();
                let action = || format!("remove {ip}/{prefix_len} from interface {index}");
                match limited(action, self.handle.address().del(message).execute()).await {
                    Err(error) if is_absent(&error) => Ok(()),
                    result => result,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_rounded_up_and_never_under_two_seconds() {
        assert_eq!(lifetime_s(Duration::ZERO), 2);
        assert_eq!(lifetime_s(Duration::from_millis(300)), 2);
        assert_eq!(lifetime_s(Duration::from_secs(2)), 2);
        assert_eq!(lifetime_s(Duration::from_millis(2001)), 3);
        assert_eq!(lifetime_s(Duration::MAX), u32::MAX - 1);
    }
}
