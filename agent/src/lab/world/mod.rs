//! A small world of hosts on bridges, made of namespaces of this machine and nothing else.
//!
//! The bridges live in a "switch" namespace of their own, so that a fault can happen where real ones do:
//! at the switch's end of a cable, outside of the host. The world knows nothing of agents; it has hosts,
//! networks, taps (a network namespace without processes, from which to watch and to ask), and what can go
//! wrong with them. Everything in it ends with the program that made it, by whatever signal.

mod links;
mod machine;
mod netns;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;

pub use links::Mac;
pub use machine::Machine;
pub use netns::{NetNs, single_threaded};

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldSpec {
    /// Where each host keeps its directory, with its disk and its logs.
    pub dir: PathBuf,
    /// The program that has the subcommand `lab-host`.
    pub binary: PathBuf,
    /// The names of the networks; each is a bridge.
    pub networks: Vec<String>,
    /// The hosts.
    pub hosts: Vec<HostSpec>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its name, at most 6 characters (it is part of interface names).
    pub name: String,
    /// Its cables.
    pub links: Vec<LinkSpec>,
}

/// A cable between a host and a network.
#[derive(Clone, Debug)]
pub struct LinkSpec {
    /// The name of the network.
    pub network: String,
    /// The name of the interface on the host.
    pub interface: String,
    /// The host's addresses on it.
    pub addresses: Vec<IpNet>,
}

/// How a cable is plugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plug {
    /// As it should be.
    In,
    /// Pulled: the host loses its carrier.
    Pulled,
    /// The switch forwards nothing; the host keeps its carrier and notices nothing.
    Deaf,
    /// On another switch, together with whoever else was moved there.
    Island,
    /// As in, but the switch passes it no broadcasts and no multicasts.
    Muffled,
}

/// The running world.
pub struct World {
    switch: NetNs,
    networks: Vec<String>,
    machines: Vec<Arc<Machine>>,
    taps: Mutex<u8>,
    one_way: Mutex<Vec<(String, String)>>,
}

/// A network namespace with one interface, `eth0`, and no process: a place to watch and to ask from.
#[derive(Clone, Debug)]
pub struct Tap {
    /// The namespace.
    pub netns: NetNs,
    /// The hardware address of its `eth0`.
    pub mac: Mac,
}

impl World {
    /// Makes the networks and boots every host.
    pub fn build(spec: WorldSpec) -> Result<World> {
        let switch = NetNs::create()?;
        let bridges: Vec<String> = spec.networks.iter().flat_map(|n| [bridge_of(n), island_of(n)]).collect();
        switch.rtnl(|handle| async move {
            for bridge in bridges {
                links::add_bridge(&handle, &bridge).await?;
            }
            Ok(())
        })?;
        let mut machines = Vec::new();
        for (index, host) in spec.hosts.into_iter().enumerate() {
            if host.name.is_empty() || host.name.len() > 6 {
                bail!("the host name {:?} does not have 1 to 6 characters", host.name);
            }
            let number = u8::try_from(index + 1).context("too many hosts")?;
            let dir = spec.dir.join(&host.name);
            machines.push(Arc::new(Machine::new(host, number, dir, spec.binary.clone(), switch.clone())?));
        }
        let world = World {
            switch,
            networks: spec.networks,
            machines,
            taps: Mutex::new(0),
            one_way: Mutex::new(Vec::new()),
        };
        for machine in &world.machines {
            machine.boot()?;
        }
        Ok(world)
    }

    /// The host called `name`.
    pub fn machine(&self, name: &str) -> Result<&Arc<Machine>> {
        self.machines.iter().find(|m| m.name() == name).ok_or_else(|| {
            let known: Vec<&str> = self.machines.iter().map(|m| m.name()).collect();
            anyhow!("the lab has no host {name:?}; its hosts are {}", known.join(", "))
        })
    }

    /// All hosts.
    pub fn machines(&self) -> &[Arc<Machine>] {
        &self.machines
    }

    /// Hangs a tap on `network`, with its own address.
    pub fn tap(&self, network: &str, address: IpNet) -> Result<Tap> {
        self.tap_bridge(network, bridge_of(network), address)
    }

    /// Hangs a tap on the island of `network`, where only those are that a partition moved there.
    pub fn island_tap(&self, network: &str, address: IpNet) -> Result<Tap> {
        self.tap_bridge(network, island_of(network), address)
    }

    fn tap_bridge(&self, network: &str, bridge: String, address: IpNet) -> Result<Tap> {
        if !self.networks.iter().any(|n| n == network) {
            bail!("the lab has no network {network:?}");
        }
        let number = {
            let mut taps = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
            *taps = taps.checked_add(1).context("too many taps")?;
            *taps
        };
        let netns = NetNs::create()?;
        let mac = [0x02, 0x48, 0x46, 0x7a, 0, number];
        let (port, far) = (format!("tap{number}"), format!("t{number}"));
        let to = netns.clone();
        let peer = far.clone();
        self.switch
            .rtnl(|handle| async move { links::add_cable(&handle, &port, &bridge, &peer, &to).await })?;
        netns.rtnl(|handle| async move {
            links::set_up(&handle, "lo", true).await?;
            links::settle(&handle, &far, "eth0", mac, &[address]).await
        })?;
        Ok(Tap { netns, mac })
    }

    /// Plugs the cables of `host` (all, or that to `network`) in or out.
    pub fn plug(&self, host: &str, network: Option<&str>, plug: Plug) -> Result<()> {
        self.machine(host)?.plug(network, plug)
    }

    /// Puts `hosts` on an island: they reach each other and nobody else.
    pub fn partition(&self, hosts: &[&str]) -> Result<()> {
        hosts.iter().try_for_each(|host| self.plug(host, None, Plug::Island))
    }

    /// Loses every IP packet that `from` sends to an address of `to`, silently; the other direction works.
    /// (The sender's kernel is told a hardware address which nobody has.)
    pub fn deafen(&self, from: &str, to: &str) -> Result<()> {
        self.deafen_where(from, to, |_, _| true)
    }

    /// The same for those addresses of `to` alone that `chosen` names, by network and address.
    pub fn deafen_where(&self, from: &str, to: &str, chosen: impl Fn(&str, IpAddr) -> bool) -> Result<()> {
        self.one_way(from, to, true, chosen)?;
        let mut pairs = self.one_way.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn one_way(&self, from: &str, to: &str, lost: bool, chosen: impl Fn(&str, IpAddr) -> bool) -> Result<()> {
        let (from, to) = (self.machine(from)?, self.machine(to)?);
        let mut pins: Vec<(String, IpAddr)> = Vec::new();
        for link in from.links() {
            let same = to.links().iter().filter(|l| l.network == link.network);
            let addresses = same.flat_map(|l| &l.addresses).map(|a| a.addr());
            let lost = addresses.filter(|address| chosen(&link.network, *address));
            pins.extend(lost.map(|address| (link.interface.clone(), address)));
        }
        from.netns()?.rtnl(|handle| async move {
            for (interface, address) in pins {
                if lost {
                    links::pin_neighbour(&handle, &interface, address, NOBODY).await?;
                } else {
                    links::unpin_neighbour(&handle, &interface, address).await?;
                }
            }
            Ok(())
        })
    }

    /// Undoes every [`deafen`](World::deafen) from or to `host`.
    pub fn hear(&self, host: &str) -> Result<()> {
        self.undo_one_way(|from, to| from == host || to == host)
    }

    fn undo_one_way(&self, which: impl Fn(&str, &str) -> bool) -> Result<()> {
        let mended = {
            let mut pairs = self.one_way.lock().unwrap_or_else(PoisonError::into_inner);
            let (mended, left) =
                std::mem::take(&mut *pairs).into_iter().partition(|(from, to)| which(from, to));
            *pairs = left;
            let mended: Vec<(String, String)> = mended;
            mended
        };
        for (from, to) in mended {
            // A host that was switched off meanwhile has forgotten its pins.
            if self.machine(&from)?.is_on() {
                self.one_way(&from, &to, false, |_, _| true)?;
            }
        }
        Ok(())
    }

    /// Mends everything that is wrong with the network. Hosts that are off stay off.
    pub fn mend(&self) -> Result<()> {
        self.undo_one_way(|_, _| true)?;
        for machine in self.machines.iter().filter(|m| m.is_on()) {
            machine.plug(None, Plug::In)?;
        }
        Ok(())
    }

    /// Lets all that is there now, hosts and networks, send frames of up to `mtu` bytes. What comes later does not.
    pub fn widen(&self, mtu: u32) -> Result<()> {
        self.switch.rtnl(|handle| async move { links::widen(&handle, mtu).await })?;
        for machine in self.machines.iter().filter(|m| m.is_on()) {
            machine.netns()?.rtnl(|handle| async move { links::widen(&handle, mtu).await })?;
        }
        Ok(())
    }

    /// Ends every host. Dropping the world does the same.
    pub fn shut_down(&self) {
        for machine in &self.machines {
            // What is off already is what is wanted.
            let _ = machine.power_off();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Tap {
    /// Lets it send frames of up to `mtu` bytes, where the network does.
    pub fn widen(&self, mtu: u32) -> Result<()> {
        self.netns.rtnl(|handle| async move { links::widen(&handle, mtu).await })
    }

    /// Sends everything for `address` to `mac`, whatever anybody announces.
    pub fn pin(&self, address: IpAddr, mac: Mac) -> Result<()> {
        self.netns.rtnl(|handle| async move { links::pin_neighbour(&handle, "eth0", address, mac).await })
    }
}

/// A hardware address that no host of the lab has.
const NOBODY: Mac = [0x02, 0x48, 0x46, 0xff, 0xff, 0xff];

fn bridge_of(network: &str) -> String {
    format!("br-{network}")
}

fn island_of(network: &str) -> String {
    format!("is-{network}")
}

/// Brings the loopback interface of the calling thread's namespace up.
pub(super) fn bring_loopback_up() -> Result<()> {
    single_threaded()?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("open a route netlink socket")?;
        let driver = tokio::spawn(connection);
        let result = links::set_up(&handle, "lo", true).await;
        driver.abort();
        result
    })
}

/// The ports of a machine at the switch, by network.
type Ports = HashMap<String, String>;
