//! Connections through the primary, which is a router: they go on through the standby.
//!
//! A client `c` on one network, a server `s` on another, the members between them. The client speaks to the virtual
//! address, which both members translate to the server's; the server sees the second virtual address. Both drop
//! what belongs to no connection that they know, so that nothing goes on by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::{CABLE, ClusterSpec, LAN, VIP};
use holdfast_agent::lab::world::{HostSpec, LinkSpec};
use holdfast_agent::runtime::conntrack::ConntrackStatus;
use holdfast_integration::promise;
use holdfast_integration::router::{Translation, make_router};
use holdfast_integration::stage::{LIMIT, ensure};
use holdfast_vip::conntrack::{Detail, Flow, Key, Order, Outcome, State, Table, Tcp, Tuple, entries, flow};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 9);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 100);
const PORT: u16 = 8000;
/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Two routers, a witness, a client and a server; `sync` is the block of the configuration.
fn routers(sync: &str) -> ClusterSpec {
    let link = |network: &str, interface: &str, address: &str| LinkSpec {
        network: network.to_owned(),
        interface: interface.to_owned(),
        addresses: vec![address.parse().expect("an address")],
    };
    let router = |name: &str, number: u8| HostSpec {
        name: name.to_owned(),
        links: vec![
            link(LAN, "eth0", &format!("10.77.0.{number}/24")),
            link(CABLE, "eth1", &format!("10.78.0.{number}/24")),
        ],
    };
    let host = |name: &str, link: LinkSpec| HostSpec { name: name.to_owned(), links: vec![link] };
    let mut spec = ClusterSpec {
        hosts: Some(vec![
            router("a", 1),
            router("b", 2),
            host("w", link(LAN, "eth0", "10.77.0.3/24")),
            host("c", link(LAN, "eth0", "10.77.0.9/24")),
            host("s", link(CABLE, "eth0", &format!("{SERVER}/24"))),
        ]),
        log: "info,s3s=off,holdfast_agent::runtime::conntrack=debug".to_owned(),
        ..ClusterSpec::default()
    };
    for member in ["a", "b"] {
        let second = format!(
            "    virtual_ip {{\n      address   = \"{OUTSIDE}/24\"\n      interface = \"eth1\"\n    }}"
        );
        spec.extra_ha.insert(member.to_owned(), format!("{second}\n{sync}"));
    }
    spec
}

const SYNC: &str = "    conntrack_sync {\n      interface = \"eth1\"\n      sync_interval = \"1s\"\n    }";

/// Makes the members routers, and lets the server answer everybody with what they say.
fn begin(cluster: &Cluster) -> Result<()> {
    for member in ["a", "b"] {
        route(cluster, member)?;
    }
    let listener = cluster.netns("s")?.run(|| TcpListener::bind((SERVER, PORT)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone()?;
                std::io::copy(&mut reader, &mut &stream)
            });
        }
    });
    Ok(())
}

fn route(cluster: &Cluster, member: &str) -> Result<()> {
    make_router(&cluster.netns(member)?, Translation { port: PORT, server: SERVER, outside: OUTSIDE })
}

fn shown(cluster: &Cluster, host: &str) -> Result<ConntrackStatus> {
    let status: serde_json::Value = agent_api::get(&cluster.netns(host)?, "/api/ha/status")?;
    serde_json::from_value(status["conntrack"].clone()).context("the status has connections")
}

/// Looks at what `host` shows until `done` is content.
fn wait(
    cluster: &Cluster,
    host: &str,
    what: &str,
    done: impl Fn(&ConntrackStatus) -> bool,
) -> Result<ConntrackStatus> {
    let end = Instant::now() + LIMIT;
    loop {
        let seen = shown(cluster, host);
        if let Some(seen) = seen.as_ref().ok().filter(|seen| done(seen)) {
            return Ok(seen.clone());
        }
        if Instant::now() > end {
            bail!("{what} on {host}: not in time; last seen {seen:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A connection of the client to the server behind the virtual address.
struct Conversation {
    stream: TcpStream,
    said: u32,
}

impl Conversation {
    fn begin(cluster: &Cluster) -> Result<Conversation> {
        let end = Instant::now() + LIMIT;
        let stream = loop {
            let tried = cluster
                .client()?
                .run(|| TcpStream::connect_timeout(&(VIP, PORT).into(), Duration::from_secs(1)))?;
            match tried {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(error).context("reach the server"),
                Err(_) => {}
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Conversation { stream, said: 0 })
    }

    /// Says something and hears it back; how long that took.
    fn say(&mut self) -> std::io::Result<Duration> {
        let begun = Instant::now();
        self.said += 1;
        let said = self.said.to_be_bytes();
        self.stream.write_all(&said)?;
        let mut heard = [0; 4];
        self.stream.read_exact(&mut heard)?;
        if heard != said {
            return Err(std::io::Error::new(ErrorKind::InvalidData, "another answer"));
        }
        Ok(begun.elapsed())
    }

    fn chat(&mut self) -> Result<()> {
        for _ in 0..20 {
            self.say().with_context(|| format!("answer {}", self.said))?;
        }
        Ok(())
    }
}

#[test]
fn a_connection_through_the_primary_goes_on_when_that_loses_its_power() {
    promise(routers(SYNC), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        begin(cluster)?;
        let mut conversation = Conversation::begin(cluster)?;
        conversation.chat()?;
        wait(cluster, standby, "one connection", |seen| seen.entries == 1 && seen.failed == 0)?;
        let told = wait(cluster, &primary, "the standby has it", |seen| seen.lag_ms.is_some())?;
        ensure(told.askers == 1 && told.entries == 1, || format!("{told:?}"))?;
        let heard = shown(cluster, standby)?;
        ensure(heard.state.ends_with("over eth1"), || format!("{heard:?}"))?;

        cluster.inflict(&primary, Fault::PowerOff)?;
        let gap = conversation.say().context("the first answer after the power-off")?;
        println!("the connection stood still for {gap:?}");
        conversation.chat()?;
        let holder = cluster.wait_for_primary(LIMIT)?;
        ensure(holder == standby, || format!("{holder} is primary"))?;
        // And a new one.
        Conversation::begin(cluster)?.chat()
    });
}

#[test]
fn a_connection_through_the_primary_ends_with_it_where_it_is_not_carried_over() {
    promise(routers("    conntrack_sync {\n      enabled = false\n    }"), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        begin(cluster)?;
        let mut conversation = Conversation::begin(cluster)?;
        conversation.chat()?;
        ensure(shown(cluster, &primary).is_err(), || "connections are shown".to_owned())?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        let said = conversation.say();
        ensure(said.is_err(), || format!("the connection goes on: {said:?}; the other test proves nothing"))
    });
}

#[test]
fn a_connection_survives_switchovers_back_and_forth() {
    promise(routers(SYNC), |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        begin(cluster)?;
        let mut conversation = Conversation::begin(cluster)?;
        conversation.chat()?;
        let mut longest = Duration::ZERO;
        for _ in 0..4 {
            let primary = cluster.wait_in_sync(LIMIT)?;
            let standby = cluster.other_than(&primary);
            wait(cluster, standby, "the connection", |seen| seen.entries >= 1 && !seen.state.is_empty())?;
            cluster.switch_over(LIMIT)?;
            longest = longest.max(conversation.say().context("the first answer after a switchover")?);
            conversation.chat()?;
        }
        println!("the longest answer around a switchover took {longest:?}");
        Ok(())
    });
}

#[test]
fn a_member_that_came_back_hears_of_the_connections_that_began_without_it() {
    promise(routers(SYNC), |cluster| {
        let first = cluster.wait_in_sync(LIMIT)?;
        let second = cluster.other_than(&first);
        begin(cluster)?;
        cluster.inflict(&first, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        let mut conversation = Conversation::begin(cluster)?;
        conversation.chat()?;
        cluster.inflict(&first, Fault::Heal)?;
        route(cluster, &first)?;
        cluster.wait_in_sync(LIMIT)?;
        wait(cluster, &first, "the connection", |seen| seen.entries == 1 && seen.put_in >= 1)?;
        cluster.inflict(second, Fault::PowerOff)?;
        let gap = conversation.say().context("the first answer after the second power-off")?;
        println!("the connection stood still for {gap:?}");
        conversation.chat()
    });
}

/// Connections of other clients, which nobody ends.
fn many(count: u32) -> Vec<Flow> {
    let address = |n: u32| IpAddr::from(Ipv4Addr::new(10, 99, (n >> 8) as u8, n as u8));
    let ports = |source, destination| Detail::Ports { source, destination };
    let tuple = |source, destination, detail| Tuple { source, destination, detail, zone: None };
    (0..count)
        .map(|n| {
            let (client, port) = (address(n / 4), 30_000 + (n % 4) as u16);
            let outside_port = 1024 + n as u16;
            let original = tuple(client, VIP.into(), ports(port, PORT));
            Flow {
                key: Key { protocol: flow::TCP, zone: 0, original },
                reply: tuple(SERVER.into(), OUTSIDE.into(), ports(PORT, outside_port)),
                status: flow::SEEN_REPLY | flow::ASSURED | flow::CONFIRMED,
                mark: 0,
                timeout_seconds: Some(3600),
                state: Some(State::Tcp(Tcp { state: 3, scales: [7, 7], flags: [0x23, 0x23] })),
            }
        })
        .collect()
}

fn put_in(cluster: &Cluster, host: &str, flows: &[Flow]) -> Result<()> {
    let orders: Vec<Order> = flows.iter().map(|flow| Order::Put(*flow)).collect();
    let mut refused = Vec::new();
    cluster.netns(host)?.run(|| {
        Table::open()?.carry_out(&orders, |_, outcome| {
            if let Outcome::Refused(error) = outcome {
                refused.push(error);
            }
        })
    })??;
    ensure(refused.is_empty(), || format!("{} refused, {:?}", refused.len(), refused.first()))
}

fn in_the_kernel(cluster: &Cluster, host: &str) -> Result<u64> {
    cluster.netns(host)?.run(entries)?.context("the size of the kernel's table")
}

/// The processor time of a host's agent so far.
fn processor_time(cluster: &Cluster, host: &str) -> Result<Duration> {
    let stat = format!("/proc/{}/stat", cluster.agent_pid(host)?);
    let output = cluster.world().machine(host)?.execute(&["cat", &stat], LIMIT)?;
    let fields: Vec<&str> = output.stdout.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

#[test]
fn twenty_thousand_connections_are_on_the_standby_and_make_no_failover_longer() {
    const COUNT: u32 = 20_000;
    let mut outages = Vec::new();
    for count in [0, COUNT] {
        let outages = &mut outages;
        promise(routers(SYNC), move |cluster| {
            let primary = cluster.wait_in_sync(LIMIT)?;
            let standby = cluster.other_than(&primary);
            begin(cluster)?;
            wait(cluster, standby, "the primary is heard", |seen| seen.state.starts_with("hears"))?;
            let before = [processor_time(cluster, &primary)?, processor_time(cluster, standby)?];
            let begun = Instant::now();
            put_in(cluster, &primary, &many(count))?;
            let made = begun.elapsed();
            while in_the_kernel(cluster, standby)? < count.into() {
                ensure(begun.elapsed() < LIMIT, || format!("{:?}", shown(cluster, standby)))?;
                std::thread::sleep(Duration::from_millis(2));
            }
            println!("{count} connections: made in {made:?}, on the standby after {:?}", begun.elapsed());
            wait(cluster, standby, "all of them", |seen| seen.entries >= count.into() && seen.failed == 0)?;
            let after = [processor_time(cluster, &primary)?, processor_time(cluster, standby)?];
            println!("processor time of primary and standby: {:?} before, {after:?} after", before);

            let mut conversation = Conversation::begin(cluster)?;
            conversation.chat()?;
            wait(cluster, standby, "one more", |seen| seen.entries > count.into())?;
            let prober = Prober::start(&cluster.client()?, cluster.probe_target());
            prober.wait_served_after(Instant::now(), LIMIT)?;
            cluster.inflict(&primary, Fault::PowerOff)?;
            prober.wait_served_after(Instant::now(), LIMIT)?;
            let outage = prober.stop()?.outage().context("an outage")?;
            let gap = conversation.say().context("the first answer after the power-off")?;
            conversation.chat()?;
            println!("{count} connections: outage {outage:?}, the connection's gap {gap:?}");
            ensure(in_the_kernel(cluster, standby)? >= count.into(), || "some are gone".to_owned())?;
            outages.push(outage);
            Ok(())
        });
    }
    // A kernel that had to be told now would take at least 80 ms; the machine is given a lot of room.
    if let [none, all] = outages[..] {
        assert!(all < none + Duration::from_millis(500), "{none:?} without connections, {all:?} with them");
    }
}
