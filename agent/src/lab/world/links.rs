//! The links of the lab: bridges, cables between a bridge and a host, addresses.
//!
//! Each function is one request or a fixed few to a namespace's route netlink; none remembers anything.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{BridgeStpState, InfoBridge, LinkFlags};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth};

use super::netns::NetNs;

/// A hardware address.
pub type Mac = [u8; 6];

/// Makes the bridge `name`, up, without spanning tree (which would hold a new port back for seconds)
/// and without multicast snooping (which would lose neighbour solicitations until a querier spoke).
pub(super) async fn add_bridge(handle: &Handle, name: &str) -> Result<()> {
    let message = LinkBridge::new(name)
        .append_info_data(InfoBridge::StpState(BridgeStpState::Disabled))
        .append_info_data(InfoBridge::MulticastSnooping(false))
        .append_info_data(InfoBridge::ForwardDelay(0))
        .build();
    handle.link().add(message).execute().await.with_context(|| format!("make the bridge {name}"))
}

/// The interface index of `name`.
pub(super) async fn index_of(handle: &Handle, name: &str) -> Result<u32> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    let link = found.with_context(|| format!("look up the interface {name}"))?;
    Ok(link.ok_or_else(|| anyhow!("there is no interface {name}"))?.header.index)
}

/// Makes a cable: `port` stays here, plugged into `bridge` and up; `far` goes to the namespace `to`.
pub(super) async fn add_cable(
    handle: &Handle,
    port: &str,
    bridge: &str,
    far: &str,
    to: &NetNs,
) -> Result<()> {
    let request = handle.link().add(LinkVeth::new(port, far).build()).execute();
    request.await.with_context(|| format!("make the cable {port}"))?;
    let far_index = index_of(handle, far).await?;
    let message = LinkUnspec::new_with_index(far_index).setns_by_fd(to.file().as_raw_fd()).build();
    handle.link().set(message).execute().await.with_context(|| format!("hand {far} to its host"))?;
    plug(handle, port, Some(bridge)).await?;
    set_up(handle, port, true).await
}

/// Lets every link but the loopback carry frames of up to `mtu` bytes.
pub(super) async fn widen(handle: &Handle, mtu: u32) -> Result<()> {
    let mut all = handle.link().get().execute();
    while let Some(link) = all.try_next().await.context("list the interfaces")? {
        if !link.header.flags.contains(LinkFlags::Loopback) {
            let message = LinkUnspec::new_with_index(link.header.index).mtu(mtu).build();
            handle.link().set(message).execute().await.context("set an MTU")?;
        }
    }
    Ok(())
}

/// Plugs `port` into `bridge`, or into nothing.
pub(super) async fn plug(handle: &Handle, port: &str, bridge: Option<&str>) -> Result<()> {
    let port_index = index_of(handle, port).await?;
    let message = LinkUnspec::new_with_index(port_index);
    let message = match bridge {
        Some(bridge) => message.controller(index_of(handle, bridge).await?),
        None => message.nocontroller(),
    };
    let request = handle.link().set(message.build()).execute();
    request.await.with_context(|| format!("plug {port} into {}", bridge.unwrap_or("nothing")))
}

/// Whether the bridge passes broadcasts and multicasts on to `port`.
pub(super) async fn pass_floods(handle: &Handle, port: &str, pass: bool) -> Result<()> {
    let message = LinkBridgePort::new(index_of(handle, port).await?).bcast_flood(pass).mcast_flood(pass);
    let request = handle.link().set_port(message.build()).execute();
    request.await.with_context(|| format!("set what the bridge passes on to {port}"))
}

/// Sets `name` up or down. The other end of a cable loses its carrier with it.
pub(super) async fn set_up(handle: &Handle, name: &str, up: bool) -> Result<()> {
    let message = LinkUnspec::new_with_name(name);
    let message = if up { message.up() } else { message.down() };
    let request = handle.link().set(message.build()).execute();
    request.await.with_context(|| format!("set {name} {}", if up { "up" } else { "down" }))
}

/// Removes `name`, and with it the other end of the cable.
pub(super) async fn remove(handle: &Handle, name: &str) -> Result<()> {
    let index = index_of(handle, name).await?;
    handle.link().del(index).execute().await.with_context(|| format!("remove {name}"))
}

/// Gives the host's end of a cable its name, hardware address and addresses, and sets it up.
pub(super) async fn settle(
    handle: &Handle,
    far: &str,
    interface: &str,
    mac: Mac,
    addresses: &[IpNet],
) -> Result<()> {
    let index = index_of(handle, far).await?;
    let message = LinkUnspec::new_with_index(index).name(interface.to_owned()).address(mac.to_vec());
    let request = handle.link().set(message.build()).execute();
    request.await.with_context(|| format!("name the interface {interface}"))?;
    set_up(handle, interface, true).await?;
    for address in addresses {
        let mut request = handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            // Duplicate address detection would keep the address unusable for a second.
            let attributes = &mut request.message_mut().attributes;
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.with_context(|| format!("give {interface} the address {address}"))?;
    }
    Ok(())
}

/// Removes `address` from whichever interface has it.
pub(super) async fn take_address(handle: &Handle, address: IpAddr) -> Result<()> {
    let mut found = handle.address().get().set_address_filter(address).execute();
    let message = found.try_next().await.context("look for an address")?;
    let message = message.ok_or_else(|| anyhow!("no interface has the address {address}"))?;
    handle.address().del(message).execute().await.with_context(|| format!("take {address} off"))
}

/// Fixes the hardware address to which this namespace sends what is for `address`.
pub(super) async fn pin_neighbour(handle: &Handle, interface: &str, address: IpAddr, mac: Mac) -> Result<()> {
    let index = index_of(handle, interface).await?;
    let request = handle.neighbours().add(index, address).link_layer_address(&mac).replace();
    request.execute().await.with_context(|| format!("pin the neighbour {address}"))
}

/// Takes back what [`pin_neighbour`] fixed; it is no error when nothing was.
pub(super) async fn unpin_neighbour(handle: &Handle, interface: &str, address: IpAddr) -> Result<()> {
    let index = index_of(handle, interface).await?;
    let mut message = handle.neighbours().add(index, address);
    // A removed entry that was not there is what the caller wants.
    let _ = handle.neighbours().del(message.message_mut().clone()).execute().await;
    Ok(())
}
