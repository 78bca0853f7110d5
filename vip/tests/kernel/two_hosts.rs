//! Two hosts and a cable. The test's body runs on a fresh thread that lives on host `here`; it steps over
//! to `there` for single synchronous calls, and whatever socket is made there stays there.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use holdfast_vip::{VipSpec, link_up};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

/// Both hosts' name for their end of the cable.
pub(crate) const ETH: &str = "eth1";
/// `here`'s own address, and `there`'s.
pub(crate) const HERE: &str = "10.77.0.1";
pub(crate) const THERE: &str = "10.77.0.2";
pub(crate) const HERE6: &str = "fd77::1";
pub(crate) const THERE6: &str = "fd77::2";
/// The virtual addresses.
pub(crate) const VIP: &str = "10.77.0.100/24";
pub(crate) const VIP6: &str = "fd77::64/64";

/// How long to wait for what must happen. Long enough for a busy machine; never waited out on success.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn vip(address: &str) -> VipSpec {
    VipSpec::new(address.parse().unwrap(), ETH)
}

pub(crate) fn both_vips() -> Vec<VipSpec> {
    vec![vip(VIP), vip(VIP6)]
}

/// One network namespace with a netlink connection into it.
pub(crate) struct Host {
    namespace: File,
    pub(crate) netlink: Handle,
}

pub(crate) struct TwoHosts {
    pub(crate) here: Host,
    pub(crate) there: Host,
}

fn current_namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn set_sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

/// Whether this process may do what the tests need. If not, the test runs again in a user namespace, or
/// says that it was skipped.
fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("main").to_owned();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args([test.as_str(), "--exact", "--nocapture"])
        .status();
    match status.ok().and_then(|status| status.code()) {
        Some(0) if test != "main" => {}
        Some(101) => panic!("{test} failed in its user namespace"),
        _ => eprintln!("skipped: needs root"),
    }
    false
}

/// Whether this is root of the host, and not of a user namespace.
pub(crate) fn real_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let real = nix::unistd::geteuid().is_root() && map.split_whitespace().nth(2) == Some("4294967295");
    if !real {
        eprintln!("skipped: needs root");
    }
    real
}

/// Runs `body` on a pair of hosts that vanish with it.
pub(crate) fn on_two_hosts<F>(body: impl FnOnce(TwoHosts) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if !privileged() {
        return;
    }
    let test = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let hosts = TwoHosts::new().await;
            body(hosts).await;
        });
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

impl TwoHosts {
    async fn new() -> TwoHosts {
        let here = Host::of_this_thread();
        let there = Host::elsewhere(&here.namespace);
        let hosts = TwoHosts { here, there };
        hosts.lay_cable().await;
        hosts.here.give(&["10.77.0.1/24", "fd77::1/64"]).await;
        hosts.there.give(&["10.77.0.2/24", "fd77::2/64"]).await;
        hosts
    }

    /// Makes the cable and waits for its carrier.
    pub(crate) async fn lay_cable(&self) {
        let links = self.here.netlink.link();
        links.add(LinkVeth::new(ETH, "far").build()).execute().await.unwrap();
        let far = self.here.index_of("far").await;
        let over = LinkUnspec::new_with_index(far).setns_by_fd(self.there.namespace.as_raw_fd()).build();
        links.set(over).execute().await.unwrap();
        let far = self.there.index_of("far").await;
        let rename = LinkUnspec::new_with_index(far).name(ETH).build();
        self.there.netlink.link().set(rename).execute().await.unwrap();
        for host in [&self.here, &self.there] {
            self.on(host, || set_sysctl("ipv6/conf/eth1/accept_dad", "0"));
            host.set_link(ETH, true).await;
            host.set_link("lo", true).await;
        }
        for host in [&self.here, &self.there] {
            until("the cable has a carrier", async || self.on(host, || link_up(ETH))).await;
        }
    }

    /// Moves an interface of `here` to the other host.
    pub(crate) async fn hand_over(&self, index: u32) {
        let over = LinkUnspec::new_with_index(index).setns_by_fd(self.there.namespace.as_raw_fd()).build();
        self.here.netlink.link().set(over).execute().await.unwrap();
    }

    /// One more host, with no cable yet.
    pub(crate) fn third(&self) -> Host {
        Host::elsewhere(&self.here.namespace)
    }

    /// Lays a second cable, `eth2` at both ends, from here to `host`, with these addresses.
    pub(crate) async fn lay_second_cable(&self, host: &Host, here: &str, far: &str) {
        ip("link add eth2 type veth peer name far2");
        let index = self.here.index_of("far2").await;
        let over = LinkUnspec::new_with_index(index).setns_by_fd(host.namespace.as_raw_fd()).build();
        self.here.netlink.link().set(over).execute().await.unwrap();
        self.on(host, || {
            ip("link set far2 name eth2");
            ip(&format!("addr add {far} dev eth2"));
            ip("link set eth2 up");
            ip("link set lo up");
        });
        ip(&format!("addr add {here} dev eth2"));
        ip("link set eth2 up");
        for end in [&self.here, host] {
            until("the second cable has a carrier", async || self.on(end, || link_up("eth2"))).await;
        }
    }

    /// Runs `call` on `host` and comes back.
    pub(crate) fn on<T>(&self, host: &Host, call: impl FnOnce() -> T) -> T {
        setns(&host.namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let result = call();
        setns(&self.here.namespace, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// Runs `call` on the other host.
    pub(crate) fn there<T>(&self, call: impl FnOnce() -> T) -> T {
        self.on(&self.there, call)
    }

    /// Runs `body` on a thread of its own that lives on the other host.
    pub(crate) fn meanwhile_there<T, F>(
        &self,
        body: impl FnOnce() -> F + Send + 'static,
    ) -> std::thread::JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let namespace = self.there.namespace.try_clone().unwrap();
        std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { body().await })
        })
    }
}

/// What `ip` says on the host of this thread.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Host {
    /// A new one; this thread comes back to `home`.
    fn elsewhere(home: &File) -> Host {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            current_namespace()
        });
        let namespace = made.join().unwrap();
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let host = Host::of_this_thread();
        setns(home, CloneFlags::CLONE_NEWNET).unwrap();
        host
    }

    fn of_this_thread() -> Host {
        set_sysctl("ipv6/conf/default/accept_dad", "0");
        let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        Host { namespace: current_namespace(), netlink }
    }

    pub(crate) async fn index_of(&self, interface: &str) -> u32 {
        let found = self.netlink.link().get().match_name(interface).execute();
        found.try_next_unpinned().await.header.index
    }

    pub(crate) async fn set_link(&self, interface: &str, up: bool) {
        let link = LinkUnspec::new_with_index(self.index_of(interface).await);
        let link = if up { link.up() } else { link.down() };
        self.netlink.link().set(link.build()).execute().await.unwrap();
    }

    /// Adds addresses as an operator would.
    pub(crate) async fn give(&self, addresses: &[&str]) {
        let index = self.index_of(ETH).await;
        for address in addresses {
            let net: ipnet::IpNet = address.parse().unwrap();
            let mut request = self.netlink.address().add(index, net.addr(), net.prefix_len());
            if net.addr().is_ipv6() {
                // Usable at once: duplicate detection is not what is tested.
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            request.execute().await.unwrap();
        }
    }

    /// Removes every copy of an address as an operator would.
    pub(crate) async fn take(&self, ip: IpAddr) {
        for message in self.addresses().await.into_iter().filter(|message| local(message) == Some(ip)) {
            self.netlink.address().del(message).execute().await.unwrap();
        }
    }

    pub(crate) async fn addresses(&self) -> Vec<AddressMessage> {
        self.netlink.address().get().execute().try_collect().await.unwrap()
    }

    /// The copies of an address: prefix length, flags, seconds left.
    pub(crate) async fn copies(&self, ip: IpAddr) -> Vec<(u8, AddressFlags, u32)> {
        let copies = self.addresses().await.into_iter().filter(|message| local(message) == Some(ip));
        let copy = |message: AddressMessage| {
            let (mut flags, mut left) = (AddressFlags::empty(), 0);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Flags(f) => flags = *f,
                    AddressAttribute::CacheInfo(info) => left = info.ifa_valid,
                    _ => {}
                }
            }
            (message.header.prefix_len, flags, left)
        };
        copies.map(copy).collect()
    }

    /// Puts an entry into the neighbour table, as if the neighbour had been talked to.
    pub(crate) async fn know_neighbour(&self, ip: IpAddr, mac: [u8; 6]) {
        let index = self.index_of(ETH).await;
        let add = self.netlink.neighbours().add(index, ip).link_layer_address(&mac).replace();
        add.state(NeighbourState::Stale).execute().await.unwrap();
    }

    /// The hardware address that the neighbour table has for `ip`.
    pub(crate) async fn neighbour(&self, ip: IpAddr) -> Option<[u8; 6]> {
        let table: Vec<_> = self.netlink.neighbours().get().execute().try_collect().await.unwrap();
        let wanted = match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        table.iter().find_map(|entry| {
            entry.attributes.contains(&NeighbourAttribute::Destination(wanted.clone())).then_some(())?;
            entry.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                _ => None,
            })
        })
    }
}

fn local(message: &AddressMessage) -> Option<IpAddr> {
    let find = |want_local| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if want_local => Some(*ip),
            AddressAttribute::Address(ip) if !want_local => Some(*ip),
            _ => None,
        })
    };
    find(true).or_else(|| find(false))
}

/// Takes the one link of a lookup.
trait OneLink {
    async fn try_next_unpinned(self) -> netlink_packet_route::link::LinkMessage;
}

impl<S> OneLink for S
where
    S: futures::Stream<Item = Result<netlink_packet_route::link::LinkMessage, rtnetlink::Error>>,
{
    async fn try_next_unpinned(self) -> netlink_packet_route::link::LinkMessage {
        std::pin::pin!(self).try_next().await.unwrap().unwrap()
    }
}

/// Waits until `holds`, which the kernel brings about without telling.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A question over UDP from one host to another, and whether the echo came back within `limit`.
pub(crate) struct Asker {
    socket: tokio::net::UdpSocket,
    count: u32,
}

impl Asker {
    /// Call it on the host that asks.
    pub(crate) fn new(from: IpAddr) -> Asker {
        let socket = std::net::UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Asker { socket: tokio::net::UdpSocket::from_std(socket).unwrap(), count: 0 }
    }

    pub(crate) async fn ask(&mut self, to: SocketAddr, limit: Duration) -> bool {
        self.count += 1;
        let question = self.count.to_be_bytes();
        if self.socket.send_to(&question, to).await.is_err() {
            return false;
        }
        let echo = async {
            let mut answer = [0; 4];
            loop {
                match self.socket.recv_from(&mut answer).await {
                    Ok((4, from)) if from == to && answer == question => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(limit, echo).await.is_ok()
    }
}

/// Answers every datagram to `ip` on the calling thread's host, on the port that is returned.
pub(crate) fn serve_echo(ip: IpAddr) -> u16 {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&buffer[..length], from).await;
            }
        }
    });
    port
}
