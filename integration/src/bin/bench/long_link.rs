//! A pair whose standby is far away: how much of a long and fast link the stream fills, and what a write costs.
//!
//! The standby hangs on a switch of its own; between that one and the others' every frame waits for half the round
//! trip, and then for its turn at the link's rate, in this process. TCP, its windows and its buffers are the kernel's.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::lab::world::{Plug, Tap};
use holdfast_integration::stage::LIMIT;
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender};
use pnet::packet::MutablePacket;
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::MutableIpv4Packet;
use pnet::packet::tcp::{self, MutableTcpPacket};
use pnet::packet::udp::MutableUdpPacket;

use super::rejoin::{catch_up, forget_disk};
use super::replicated::Times;
use super::s3::load::{Work, run};
use super::s3::servers;
use super::with_cluster;

/// The network that the members share.
const LAN: &str = "lan";
/// So large that the kernel never hands over a frame that a card would have to cut up.
const MTU: u32 = 65_000;
/// What a router of such a link holds at most; more is lost.
const QUEUE: usize = 64 << 20;
const MIB: usize = 1 << 20;
/// What a new standby lacks.
const LACKS: u64 = 2 << 30;
const SPAN: Duration = Duration::from_secs(10);
/// How often a waiting reader looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Measures over a link of this round trip and rate.
pub(super) fn all(binary: &Path, round_trip: Duration, mbit: u64) -> Result<()> {
    let rate = mbit as f64 * 1e6 / 8.0;
    println!(
        "a standby behind {} ms of round trip at {mbit} Mbit/s ({:.0} MB/s)",
        round_trip.as_millis(),
        rate / 1e6
    );
    with_cluster(binary, ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        let (client, running) = (cluster.client()?, servers::holdfast(cluster)?);
        let link = LongLink::new(cluster, round_trip / 2, rate)?;

        cluster.inflict(standby, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        forget_disk(cluster, standby)?;
        run(&client, &running.server, Work::Fill(16 * MIB, LACKS / (16 * MIB as u64)), 4, LIMIT * 20)?;
        let whole = catch_up(cluster, &primary, standby, || link.put_behind(cluster, standby))?;
        let share = |bytes: u64, took: Duration| bytes as f64 / took.as_secs_f64() / rate * 100.0;
        println!(
            "  a new member: {:.0} MiB over the wire in {:.1} s: {:.0} % of the link",
            whole.wire as f64 / MIB as f64,
            whole.took.as_secs_f64(),
            share(whole.wire, whole.took),
        );

        for clients in [1, 4] {
            let done = run(&client, &running.server, Work::Put(16 * MIB), clients, SPAN)?;
            println!(
                "  PUT 16 MiB, {clients} clients: {:.0} MB/s, {:.0} % of the link",
                done.mb_per_second(),
                share(done.bytes, done.took)
            );
        }
        for clients in [32, 1] {
            let before = Times::of(cluster, &primary, Some(standby))?;
            let done = run(&client, &running.server, Work::Put(4 << 10), clients, SPAN)?;
            let spent = Times::of(cluster, &primary, Some(standby))?.since(&before);
            let mean = done.took.as_secs_f64() * 1e3 * clients as f64 / done.requests as f64;
            let floor = spent.sync_here.max(round_trip.as_secs_f64() * 1e3 + spent.sync_there);
            println!(
                "  PUT 4 KiB, {clients} clients: {:.0}/s, {mean:.2} ms each: {:.2} of max(sync here {:.2}, round trip + sync there {:.2})",
                done.per_second(),
                mean / floor,
                spent.sync_here,
                spent.sync_there,
            );
        }
        println!("  frames lost for want of room at the link: {}", link.lost());
        Ok(())
    })
}

/// Both directions of it.
struct LongLink {
    directions: Vec<Arc<Direction>>,
    threads: Vec<JoinHandle<()>>,
    near: Tap,
    far: Tap,
}

/// Frames on their way, and when each may leave.
struct Direction {
    delay: Duration,
    bytes_per_second: f64,
    queue: Mutex<Queue>,
    came: Condvar,
    ends: AtomicBool,
    lost: AtomicU64,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl LongLink {
    fn new(cluster: &Cluster, delay: Duration, bytes_per_second: f64) -> Result<LongLink> {
        let world = cluster.world();
        let near = world.tap(LAN, "10.77.0.240/24".parse()?)?;
        let far = world.island_tap(LAN, "10.77.0.241/24".parse()?)?;
        let direction = || {
            Arc::new(Direction {
                delay,
                bytes_per_second,
                queue: Mutex::default(),
                came: Condvar::new(),
                ends: AtomicBool::new(false),
                lost: AtomicU64::new(0),
            })
        };
        let link = LongLink { directions: vec![direction(), direction()], threads: Vec::new(), near, far };
        link.widen(cluster)?;
        link.run()
    }

    fn widen(&self, cluster: &Cluster) -> Result<()> {
        cluster.world().widen(MTU)?;
        self.near.widen(MTU)?;
        self.far.widen(MTU)
    }

    fn run(mut self) -> Result<LongLink> {
        let ((near_sends, near_hears), (far_sends, far_hears)) = (ends(&self.near)?, ends(&self.far)?);
        let ways = [(near_hears, far_sends), (far_hears, near_sends)];
        for ((hears, sends), direction) in ways.into_iter().zip(&self.directions) {
            let (taking, giving) = (direction.clone(), direction.clone());
            self.threads.push(thread::spawn(move || taking.take(hears)));
            self.threads.push(thread::spawn(move || giving.give(sends)));
        }
        Ok(self)
    }

    /// From now on `host` is behind it.
    fn put_behind(&self, cluster: &Cluster, host: &str) -> Result<()> {
        cluster.world().plug(host, Some(LAN), Plug::Island)?;
        self.widen(cluster)
    }

    fn lost(&self) -> u64 {
        self.directions.iter().map(|direction| direction.lost.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for LongLink {
    fn drop(&mut self) {
        for direction in &self.directions {
            direction.ends.store(true, Ordering::Relaxed);
            direction.came.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

type Ends = (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>);

fn ends(tap: &Tap) -> Result<Ends> {
    tap.netns.run(|| {
        let interface = datalink::interfaces().into_iter().find(|i| i.name == "eth0").context("no eth0")?;
        let room = MTU as usize + 64;
        let config = Config {
            read_timeout: Some(LOOK),
            read_buffer_size: room,
            write_buffer_size: room,
            promiscuous: true,
            ..Config::default()
        };
        match datalink::channel(&interface, config)? {
            Channel::Ethernet(sends, hears) => Ok((sends, hears)),
            _ => bail!("eth0 is no Ethernet"),
        }
    })?
}

impl Direction {
    fn take(&self, mut hears: Box<dyn DataLinkReceiver>) {
        while !self.ends.load(Ordering::Relaxed) {
            // An error is the end of the waiting time.
            let Ok(frame) = hears.next() else { continue };
            let mut frame = frame.to_vec();
            complete(&mut frame);
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.bytes + frame.len() > QUEUE {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            queue.bytes += frame.len();
            queue.frames.push_back((Instant::now() + self.delay, frame));
            self.came.notify_one();
        }
    }

    fn give(&self, mut sends: Box<dyn DataLinkSender>) {
        let mut free_at = Instant::now();
        loop {
            let (due, frame) = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    if self.ends.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Some((due, frame)) = queue.frames.pop_front() {
                        queue.bytes -= frame.len();
                        break (due, frame);
                    }
                    let waited = self.came.wait_timeout(queue, LOOK).unwrap_or_else(PoisonError::into_inner);
                    queue = waited.0;
                }
            };
            let leaves = due.max(free_at);
            free_at = leaves + Duration::from_secs_f64(frame.len() as f64 / self.bytes_per_second);
            thread::sleep(leaves.saturating_duration_since(Instant::now()));
            if !matches!(sends.send_to(&frame, None), Some(Ok(()))) {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Writes the checksum into a frame that its sender left to the card.
fn complete(frame: &mut [u8]) -> Option<()> {
    let mut ethernet = MutableEthernetPacket::new(frame)?;
    if ethernet.get_ethertype() != EtherTypes::Ipv4 {
        return None;
    }
    let mut ip = MutableIpv4Packet::new(ethernet.payload_mut())?;
    let (from, to) = (ip.get_source(), ip.get_destination());
    // What follows is padding.
    let length = usize::from(ip.get_total_length()).checked_sub(usize::from(ip.get_header_length()) * 4)?;
    match ip.get_next_level_protocol() {
        IpNextHeaderProtocols::Tcp => {
            let mut segment = MutableTcpPacket::new(ip.payload_mut().get_mut(..length)?)?;
            segment.set_checksum(0);
            let checksum = tcp::ipv4_checksum(&segment.to_immutable(), &from, &to);
            segment.set_checksum(checksum);
        }
        // Zero means "none" for UDP over IPv4.
        IpNextHeaderProtocols::Udp => MutableUdpPacket::new(ip.payload_mut())?.set_checksum(0),
        _ => {}
    }
    Some(())
}
