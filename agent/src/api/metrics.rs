//! The member's numbers in the text format of Prometheus (OpenMetrics 1.0).
//!
//! Everything is taken from the same snapshots as `ha status` and `replication status`, at the moment
//! of the scrape: there is no second set of books. A name, once given, stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use holdfast_heartbeat::Dropped;
use holdfast_replication::replica::{ReplicaRole, ReplicaStatus};
use holdfast_store::s3::StandbyCounts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Api;
use super::error::ApiError;
use crate::runtime::address::VipStatus;
use crate::runtime::archives::Archives;
use crate::runtime::conntrack::ConntrackStatus;
use crate::runtime::files::{FilesStatus, SetStatus};
use crate::runtime::log_times::{Durations, LogTimes};
use crate::runtime::sameness::{Sameness, SamenessBoard};
use crate::runtime::scrub::{ScrubBoard, ScrubStatus};
use crate::runtime::space::{SpaceBoard, SpaceStatus};
use crate::runtime::status::Status;
use crate::runtime::stream::StreamCounts;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Every role, so that each has a series from the start.
const ROLES: [&str; 6] = ["standby", "candidate", "promoting", "primary", "handing_over", "witness"];

/// All numbers of this member.
pub(super) async fn metrics(State(api): State<Api>) -> Result<impl IntoResponse, ApiError> {
    let status = api.status().await?;
    let space = api.handle.space().map(SpaceBoard::status);
    let scrub = api.handle.scrub().map(ScrubBoard::status);
    let standby = api.handle.standby().cloned();
    let streams = api.handle.streams().cloned();
    let sameness = api.handle.sameness().map(SamenessBoard::status);
    let archives = api.handle.archives().map(Archives::unattended);
    let times = api.handle.log_times().cloned();
    let store = StoreNumbers { space, scrub, sameness, standby, streams, archives, times };
    let text = render(&status, api.handle.replication().as_ref(), &store);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

/// What is known of the store; nothing on a witness.
#[derive(Default)]
struct StoreNumbers {
    space: Option<SpaceStatus>,
    scrub: Option<ScrubStatus>,
    sameness: Option<Sameness>,
    standby: Option<Arc<StandbyCounts>>,
    streams: Option<Arc<StreamCounts>>,
    /// Archives that nobody has restored: how many, and their bytes, by cause.
    archives: Option<BTreeMap<&'static str, (u64, u64)>>,
    times: Option<Arc<LogTimes>>,
}

type Labels = Vec<(&'static str, String)>;

/// Collects families for one scrape.
#[derive(Default)]
struct Sheet(Registry);

impl Sheet {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn gauges(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (labels, value) in series {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn second(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn seconds(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in series {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64, AtomicU64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn histogram(&mut self, counted: Counted) {
        self.0.register_collector(Box::new(counted));
    }

    fn counters(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in series {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }
}

fn render(status: &Status, log: Option<&ReplicaStatus>, store: &StoreNumbers) -> String {
    let mut sheet = Sheet(Registry::with_prefix("holdfast"));
    member(&mut sheet, status);
    health(&mut sheet, status);
    cluster(&mut sheet, status);
    paths(&mut sheet, status);
    if let Some(connections) = &status.conntrack {
        conntrack(&mut sheet, connections);
    }
    if let Some(files) = &status.files {
        replicated_files(&mut sheet, files);
    }
    if let Some(log) = log {
        replication(&mut sheet, log);
    }
    if let Some(space) = &store.space {
        space_taken(&mut sheet, space);
    }
    if let Some(scrub) = &store.scrub {
        scrubbed(&mut sheet, scrub);
    }
    if let Some(sameness) = &store.sameness {
        compared(&mut sheet, sameness);
    }
    if let Some(counts) = &store.standby {
        as_standby(&mut sheet, counts);
    }
    if let Some(counts) = &store.streams {
        streamed(&mut sheet, counts);
    }
    if let Some(times) = &store.times {
        let described = ("log_sync", "Time until the disk says that what was written to the log is durable.");
        sheet.histogram(Counted::of(described, &times.sync));
        let described = (
            "log_standby_wait",
            "Time for which the primary, itself durable, waited for the in-sync standbys.",
        );
        sheet.histogram(Counted::of(described, &times.standby_wait));
    }
    if let Some(archives) = &store.archives {
        unattended(&mut sheet, archives);
    }
    let mut text = String::new();
    encode(&mut text, &sheet.0).expect("writing to a string does not fail");
    text
}

/// A histogram that was counted elsewhere.
#[derive(Debug)]
struct Counted {
    name: &'static str,
    help: &'static str,
    sum_seconds: f64,
    /// Upper bound in seconds (infinity for none), and how many are in it alone.
    buckets: Vec<(f64, u64)>,
}

impl Counted {
    fn new(
        (name, help): (&'static str, &'static str),
        sum_us: u64,
        buckets: impl Iterator<Item = (Option<u64>, u64)>,
    ) -> Counted {
        let in_seconds = |us: u64| us as f64 / 1e6;
        Counted {
            name,
            help,
            sum_seconds: in_seconds(sum_us),
            buckets: buckets.map(|(us, n)| (us.map_or(f64::INFINITY, in_seconds), n)).collect(),
        }
    }

    fn of(described: (&'static str, &'static str), durations: &Durations) -> Counted {
        Counted::new(described, durations.sum_us(), durations.buckets())
    }
}

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let unit = Some(&Unit::Seconds);
        let mut metric = encoder.encode_descriptor(self.name, self.help, unit, MetricType::Histogram)?;
        let count = self.buckets.iter().map(|(_, count)| count).sum();
        metric.encode_histogram::<NoLabelSet>(self.sum_seconds, count, &self.buckets, None)
    }
}

fn member(sheet: &mut Sheet, status: &Status) {
    let build = vec![
        ("version", status.version.clone()),
        ("node", status.node.clone()),
        ("kind", status.kind.clone()),
        ("gate", status.gate.clone()),
    ];
    sheet.gauges("member", "This member: its build, name, kind and kernel gate; always 1", [(build, 1)]);
    let role = |role: &str| (vec![("role", role.to_owned())], u64::from(status.role == role));
    sheet.gauges("role", "1 for the role that this member acts in, 0 for the others", ROLES.map(role));
    sheet.second(
        "role_age_seconds",
        "How long this member has been in its role",
        seconds_of_ms(status.role_since_ms),
    );
    sheet.gauge("epoch", "The highest epoch that this member promised", status.epoch);
    sheet.gauge("serving", "1 while this member answers S3 clients", status.serving.into());
    if let Some(ms) = status.lease_remaining_ms {
        let help = "What is left of the own lease; absent while this member does not reign";
        sheet.second("lease_remaining_seconds", help, seconds_of_ms(ms));
    }
    sheet.gauges(
        "vip_held",
        "1 where this member holds the virtual address",
        status.vips.iter().map(|vip| {
            (vec![("address", vip.address.clone()), ("interface", vip.interface.clone())], vip.held.into())
        }),
    );
    let of = |vip: &VipStatus| vec![("address", vip.address.clone()), ("interface", vip.interface.clone())];
    sheet.counters(
        "vip_contested",
        "Frames in which another station claimed the virtual address while this member held it",
        status.vips.iter().map(|vip| (of(vip), vip.contested)),
    );
    sheet.counters(
        "vip_restored",
        "How often the virtual address was put back after another program had taken it off or changed it",
        status.vips.iter().map(|vip| (of(vip), vip.restored)),
    );
    sheet.gauge(
        "gate_fallback",
        "1 while the kernel gate in use is not the best or the named one; `gate` of holdfast_member says which it is",
        status.gate_fallback.is_some().into(),
    );
    sheet.histogram(Counted::new(
        ("core_lateness", "Time between the moment at which the core asked to be called and the call."),
        status.lateness.sum_us,
        status.lateness.buckets.iter().copied(),
    ));
    sheet.second(
        "core_lateness_longest_seconds",
        "The longest time of the last minute or two by which the core was late, and heartbeats with it",
        status.lateness.longest_us as f64 / 1e6,
    );
    sheet.gauge("priority", "The preference; lower is more preferred", status.priority.into());
    let automatic = status.failback_mode == "auto" && status.failback_enabled;
    sheet.gauge("paused", "1 while automatic changes of primary are paused", status.paused.is_some().into());
    sheet.gauge("drained", "1 while this member is taken out for maintenance", status.drained.into());
    sheet.gauge("failback_enabled", "1 while this member takes the role back by itself", automatic.into());
    sheet.gauge("log_end_lsn", "End of the own log, in bytes since its beginning", status.end_lsn);
    sheet.gauge("log_durable_lsn", "Durable on the own disk up to this position", status.durable_lsn);
    sheet.gauge(
        "log_committed_lsn",
        "Durable on the whole in-sync set up to this position",
        status.committed_lsn,
    );
    sheet.gauge("log_applied_lsn", "Visible in the index up to this position", status.applied_lsn);
}

fn conntrack(sheet: &mut Sheet, status: &ConntrackStatus) {
    sheet.gauge(
        "conntrack_entries",
        "Connections that the standby has, or that are held here for the primary",
        status.entries,
    );
    sheet.gauge(
        "conntrack_left_out",
        "Connections beyond max_entries, which would end with a failover",
        status.left_out,
    );
    sheet.gauge(
        "conntrack_problem",
        "1 while something keeps connections from being carried over; `warnings` of `ha status` says what",
        status.problem.is_some().into(),
    );
    let what = |what: &str| vec![("what", what.to_owned())];
    sheet.counters(
        "conntrack_changes",
        "Changes of connections: sent to standbys, received from primaries, put into the kernel's table, refused by the kernel (failed), and not tried (dropped)",
        [
            (what("sent"), status.sent),
            (what("received"), status.received),
            (what("put_in"), status.put_in),
            (what("failed"), status.failed),
            (what("dropped"), status.dropped),
        ],
    );
    let overruns = "Times that the kernel changed more than could be read, and the whole table was looked at";
    sheet.counter("conntrack_overruns", overruns, status.overruns);
    if let Some(ms) = status.lag_ms {
        let help = "How long the last changes took to be in the standby's table; absent where nobody is told";
        sheet.second("conntrack_lag_seconds", help, seconds_of_ms(ms));
    }
}

fn replicated_files(sheet: &mut Sheet, files: &FilesStatus) {
    let mut gauges = |name: &str, help: &str, of: fn(&SetStatus) -> u64| {
        let each = files.sets.iter().map(|set| (vec![("set", set.name.clone())], of(set)));
        sheet.gauges(name, help, each);
    };
    gauges("sync_files", "Files, directories and links of the set that the log has", |set| set.files);
    gauges("sync_files_bytes", "Bytes of the set's files in the log", |set| set.bytes);
    gauges("sync_files_behind", "Paths at which this disk does not have what the log has", |set| set.behind);
    gauges("sync_files_failed", "Paths that could not be placed here, or written to the log", |set| {
        set.failed
    });
    gauges("sync_files_left_out", "Paths of this host that are not written to the log", |set| set.left_out);
    gauges(
        "sync_files_kept_aside",
        "Copies of files that were edited on this host and replaced by the primary's",
        |set| set.kept_aside,
    );
    gauges(
        "sync_files_last_change_timestamp_seconds",
        "When the log was last told of a change of the set, in seconds since 1970; 0 for never",
        |set| set.last_change_ms.unwrap_or(0) / 1000,
    );
    let placed = files
        .sets
        .iter()
        .map(|set| (vec![("set", set.name.clone()), ("what", "placed".to_owned())], set.placed));
    let captured = files
        .sets
        .iter()
        .map(|set| (vec![("set", set.name.clone()), ("what", "captured".to_owned())], set.captured));
    sheet.counters(
        "sync_files_changes",
        "Changes of files: put in place here (placed), and written to the log by this member (captured)",
        placed.chain(captured),
    );
    let overflows = "Times that the kernel had more changes of files to tell than there was room";
    sheet.counter("sync_files_overflows", overflows, files.overflows);
}

fn health(sheet: &mut Sheet, status: &Status) {
    let penalty = "What the failed checks of this member count together; 0 is healthy";
    sheet.gauge("penalty", penalty, status.penalty.into());
    let of = |name: &str| vec![("check", name.to_owned())];
    let judged: Vec<_> = status.checks.iter().filter(|check| check.state != "unknown").collect();
    sheet.gauges(
        "check_passing",
        "1 while the check passes, 0 while it fails",
        judged.iter().map(|check| (of(&check.name), (check.state == "passing").into())),
    );
    sheet.counters(
        "check_runs",
        "Runs of the check",
        status.checks.iter().map(|check| (of(&check.name), check.runs)),
    );
    sheet.counters(
        "check_failed_runs",
        "Runs of the check that failed",
        status.checks.iter().map(|check| (of(&check.name), check.failed_runs)),
    );
    if let Some(disk) = &status.disk {
        sheet.gauge("disk_good", "1 while small writes are durable in time", disk.good.into());
        sheet.second(
            "disk_write_seconds",
            "How long the last small write took, or has taken so far",
            seconds_of_ms(disk.last_write_ms),
        );
    }
    fences(sheet, status);
    let peers = status.peers.iter().filter(|peer| peer.kind == "data");
    sheet.gauges(
        "peer_penalty",
        "What the failed checks of the peer count together, as it says",
        peers.map(|peer| (vec![("peer", peer.id.clone())], peer.penalty.into())),
    );
}

fn fences(sheet: &mut Sheet, status: &Status) {
    let of = |name: &str| vec![("device", name.to_owned())];
    let judged = status.fences.iter().filter(|device| device.state != "unknown");
    sheet.gauges(
        "fence_device_good",
        "1 while the fence device answers, 0 while it does not",
        judged.map(|device| (of(&device.name), device.problem.is_none().into())),
    );
    sheet.counters(
        "fence_looks",
        "Looks that found the fence device answering",
        status.fences.iter().map(|device| (of(&device.name), device.looks)),
    );
    sheet.counters(
        "fence_failed_looks",
        "Looks that did not",
        status.fences.iter().map(|device| (of(&device.name), device.failed_looks)),
    );
    sheet.counters(
        "fence_done",
        "Orders to switch a member off that the device has carried out",
        status.fences.iter().map(|device| (of(&device.name), device.done)),
    );
    sheet.counters(
        "fence_failed",
        "Orders to switch a member off that the device has not carried out",
        status.fences.iter().map(|device| (of(&device.name), device.failed)),
    );
}

fn cluster(sheet: &mut Sheet, status: &Status) {
    sheet.gauge("healthy", "1 while nothing needs attention", status.healthy.into());
    sheet.gauge("warnings", "How many things are not as they should be", status.warnings.len() as u64);
    sheet.gauge("primary_known", "1 while a primary is known", status.primary.is_some().into());
    sheet.gauge(
        "in_sync_members",
        "Data members that hold every acknowledged byte",
        status.in_sync.len() as u64,
    );
    sheet.gauges(
        "in_sync",
        "1 for each data member in the in-sync set, 0 for the others that are known",
        std::iter::once((&status.node, &status.kind))
            .chain(status.peers.iter().map(|peer| (&peer.id, &peer.kind)))
            .filter(|(_, kind)| *kind == "data")
            .map(|(id, _)| (vec![("member", id.clone())], status.in_sync.contains(id).into())),
    );
    sheet.gauge("solo", "1 while only one member holds every acknowledged byte", status.solo.into());
    let peer = |id: &str| vec![("peer", id.to_owned())];
    sheet.gauges(
        "peer_alive",
        "1 while the peer is heard on any path",
        status.peers.iter().map(|p| (vec![("peer", p.id.clone()), ("kind", p.kind.clone())], p.alive.into())),
    );
    sheet.seconds(
        "peer_last_heard_seconds",
        "How long ago the peer was heard; absent until it was",
        status.peers.iter().filter_map(|p| Some((peer(&p.id), seconds_of_ms(p.last_heard_ms?)))),
    );
    sheet.gauges(
        "peer_epoch",
        "The highest epoch that the peer says it promised",
        status.peers.iter().filter_map(|p| Some((peer(&p.id), p.epoch?))),
    );
}

fn paths(sheet: &mut Sheet, status: &Status) {
    let all: Vec<_> = status
        .peers
        .iter()
        .flat_map(|peer| peer.paths.iter().map(|path| (peer.id.clone(), path)))
        .map(|(peer, path)| {
            let labels = vec![("peer", peer), ("path", path.name.clone()), ("address", path.address.clone())];
            (labels, path)
        })
        .collect();
    sheet.gauges(
        "path_alive",
        "1 while the heartbeat path carries something",
        all.iter().map(|(labels, path)| (labels.clone(), path.alive.into())),
    );
    sheet.gauges(
        "path_reaches",
        "1 while heartbeats of this member arrive at the peer by the path, as the peer says; absent while it does not say",
        all.iter().filter_map(|(labels, path)| Some((labels.clone(), path.reaches?.into()))),
    );
    let lost = |(labels, path): &(Labels, &crate::runtime::status::PathStatus)| {
        let directions = [("in", path.lost_here), ("out", path.lost_there)];
        let labels = labels.clone();
        directions.into_iter().filter_map(move |(direction, loss)| {
            let mut labels = labels.clone();
            labels.push(("direction", direction.to_owned()));
            Some((labels, loss?.percent() / 100.0))
        })
    };
    sheet.seconds(
        "path_loss_ratio",
        "Share of the heartbeats of the last minute that did not arrive by the path: `in` from the peer, `out` to it",
        all.iter().flat_map(lost),
    );
    sheet.seconds(
        "path_rtt_longest_seconds",
        "The longest round trip of heartbeats on the path in the last minute or two",
        all.iter().filter_map(|(labels, path)| Some((labels.clone(), path.rtt_longest_us? as f64 / 1e6))),
    );
    sheet.seconds(
        "path_rtt_seconds",
        "Smoothed round trip of heartbeats on the path; absent until one was measured",
        all.iter().filter_map(|(labels, path)| Some((labels.clone(), path.rtt_us? as f64 / 1e6))),
    );
    sheet.counters(
        "heartbeats_sent",
        "Heartbeats sent by the path",
        all.iter().map(|(labels, path)| (labels.clone(), path.sent)),
    );
    sheet.counters(
        "heartbeats_received",
        "Heartbeats received by the path and believed",
        all.iter().map(|(labels, path)| (labels.clone(), path.received)),
    );
    sheet.counters(
        "heartbeats_unproven",
        "Heartbeats received by the path from a peer that does not hear this member",
        all.iter().map(|(labels, path)| (labels.clone(), path.unproven)),
    );
    let mut dropped: std::collections::BTreeMap<String, u64> =
        Dropped::ALL.into_iter().map(|reason| (reason.to_string(), 0)).collect();
    dropped.extend(status.counters.heartbeat_dropped.clone());
    sheet.counters(
        "heartbeats_dropped",
        "Heartbeats that were dropped and changed nothing, by reason",
        dropped.into_iter().map(|(reason, count)| (vec![("reason", reason)], count)),
    );
}

fn replication(sheet: &mut Sheet, log: &ReplicaStatus) {
    let following = log.role == ReplicaRole::Following && log.streaming;
    let peer = |p: &holdfast_replication::replica::PeerStatus| vec![("peer", p.member.to_string())];
    sheet.gauges(
        "replication_lag_bytes",
        "On a primary: how far the peer is behind the end of the log",
        log.peers.iter().map(|p| (peer(p), p.lag_bytes)),
    );
    sheet.seconds(
        "replication_lag_seconds",
        "On a primary: how long ago the oldest of what the peer lacks was written",
        log.peers.iter().filter_map(|p| Some((peer(p), seconds_of_ms(p.lag_ms?)))),
    );
    sheet.gauges(
        "replication_exposure_bytes",
        "On a primary with ack = local: what was acknowledged and is on no other member",
        log.exposure.iter().map(|exposure| (vec![], exposure.bytes)),
    );
    sheet.seconds(
        "replication_exposure_seconds",
        "On a primary with ack = local: how long ago the oldest of it was written",
        log.exposure.iter().map(|exposure| (vec![], seconds_of_ms(exposure.ms))),
    );
    let catch_ups: Vec<_> = (log.peers.iter())
        .filter_map(|p| Some((peer(p), p.catch_up.as_ref()?)))
        .chain(log.catch_up.iter().map(|own| (vec![("peer", "self".to_owned())], own)))
        .collect();
    sheet.gauges(
        "catch_up_remaining_bytes",
        "While a member lacks much: what is still to come to it, on the primary by peer, on the member itself as self",
        catch_ups.iter().map(|(of, it)| (of.clone(), it.remaining_bytes)),
    );
    sheet.gauges(
        "catch_up_received_bytes",
        "While a member lacks much: what came to it since it began to catch up",
        catch_ups.iter().map(|(of, it)| (of.clone(), it.received_bytes)),
    );
    sheet.gauges(
        "catch_up_bytes_per_second",
        "While a member lacks much: how fast it comes",
        catch_ups.iter().map(|(of, it)| (of.clone(), it.bytes_per_second)),
    );
    sheet.gauges(
        "replication_streaming",
        "On a primary: 1 while the stream to the peer stands",
        log.peers.iter().map(|p| (peer(p), p.streaming.into())),
    );
    sheet.gauges(
        "replication_waited_for",
        "On a primary: 1 while acknowledgements wait for the peer",
        log.peers.iter().map(|p| (peer(p), p.in_wait_set.into())),
    );
    sheet.gauge(
        "replication_following",
        "On a standby: 1 while the stream from the primary stands",
        following.into(),
    );
    sheet.gauge("replication_pending", "Writes that wait to be committed", log.pending as u64);
    sheet.gauge("log_segments", "Segment files of the log", log.segments as u64);
    sheet.gauge(
        "log_damaged",
        "1 while a damaged place in the log is not healed",
        log.damaged.is_some().into(),
    );
    sheet.gauge("replication_failed", "1 once the log is out of service", log.failure.is_some().into());
    sheet.gauge("set_aside_archives", "Archives of what was set aside", log.set_aside.len() as u64);
    sheet.gauge(
        "set_aside_bytes",
        "Size of the archives of what was set aside",
        log.set_aside.iter().map(|archive| archive.bytes).sum(),
    );
}

fn unattended(sheet: &mut Sheet, archives: &BTreeMap<&'static str, (u64, u64)>) {
    let of = |cause: &str| vec![("cause", cause.to_owned())];
    sheet.gauges(
        "set_aside_unattended_archives",
        "Archives that were neither restored as a whole nor deleted, by cause",
        archives.iter().map(|(cause, (count, _))| (of(cause), *count)),
    );
    sheet.gauges(
        "set_aside_unattended_bytes",
        "Their size, by cause",
        archives.iter().map(|(cause, (_, bytes))| (of(cause), *bytes)),
    );
}

fn streamed(sheet: &mut Sheet, counts: &StreamCounts) {
    sheet.counters(
        "stream_errors",
        "Connections with other members that were closed for what came over them, by reason",
        counts.errors().into_iter().map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
    );
    let help = "Bytes of frames that were sent to other members: of the log, for the most part";
    sheet.counter("stream_sent_bytes", help, counts.frame_bytes());
    let help = "What of it went over the wire: encrypted, and compressed where that was wanted and worth it";
    sheet.counter("stream_wire_bytes", help, counts.wire_bytes());
}

fn space_taken(sheet: &mut Sheet, space: &SpaceStatus) {
    sheet.gauge("log_bytes", "Bytes of the log on this disk", space.log_bytes);
    sheet.gauge("live_bytes", "Bytes of the log that objects and parts have", space.live_bytes);
    sheet.gauge("index_bytes", "Bytes of the index on this disk", space.index_bytes);
    let running = space.running.is_some();
    sheet.gauge("reclaim_running", "1 while space is won back by this member", running.into());
    let moved = space.running.map_or(0, |running| running.moved_bytes);
    sheet.gauge("reclaim_moved_bytes", "Live bytes that were moved so far, while that goes on", moved);
    sheet.counter("reclaims", "Times that this process won space back", space.completed);
    sheet.counter("reclaimed_bytes", "Bytes that this process won back", space.won_bytes);
}

fn compared(sheet: &mut Sheet, sameness: &Sameness) {
    let peer = |name: &String| vec![("peer", name.clone())];
    sheet.gauges(
        "replication_differing_ranges",
        "On a primary: ranges in which the peer has other bytes, in the comparison under way or the last one",
        sameness.peers.iter().map(|(name, found)| (peer(name), found.differing.len() as u64)),
    );
    sheet.seconds(
        "replication_last_same_timestamp_seconds",
        "On a primary: when all of the log was last found to be the same on the peer, in seconds since 1970; zero if never",
        sameness.peers.iter().map(|(name, found)| (peer(name), seconds_of_ms(found.last_complete_ms.unwrap_or(0)))),
    );
}

fn scrubbed(sheet: &mut Sheet, scrub: &ScrubStatus) {
    sheet.gauge("scrub_running", "1 while the log is read through", scrub.running.into());
    sheet.gauge("scrub_bytes", "Bytes that the pass under way, or the last one, has read", scrub.bytes);
    sheet.second(
        "scrub_last_complete_timestamp_seconds",
        "When the log was last read through without a break, in seconds since 1970; zero if never",
        seconds_of_ms(scrub.last_complete_ms.unwrap_or(0)),
    );
    sheet.counter("scrub_healed", "Damaged places that the scrub had put right from a peer", scrub.healed);
    sheet.gauge(
        "scrub_unhealed",
        "Damaged places that the last pass found and could not put right",
        scrub.unhealed.len() as u64,
    );
}

fn as_standby(sheet: &mut Sheet, counts: &StandbyCounts) {
    let outcomes =
        [("answered", &counts.answered), ("handed_on", &counts.handed_on), ("sent_on", &counts.sent_on)];
    sheet.counters(
        "standby_requests",
        "S3 requests that came while this member was not the primary, by what became of them",
        outcomes
            .map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count.load(Ordering::Relaxed))),
    );
    sheet.counter(
        "standby_reads_too_old",
        "Reads that this member could not answer as a standby in time, for it was not as far as they had to show",
        counts.too_old.load(Ordering::Relaxed),
    );
}

fn seconds_of_ms(ms: u64) -> f64 {
    ms as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::{leading, status};

    #[test]
    fn the_numbers_say_what_the_status_says() {
        let text = render(&status(), Some(&leading()), &store());
        for line in [
            "holdfast_role{role=\"primary\"} 1\n",
            "holdfast_role{role=\"standby\"} 0\n",
            "holdfast_epoch 7\n",
            "holdfast_standby_requests_total{outcome=\"handed_on\"} 4\n",
            "holdfast_lease_remaining_seconds 0.212\n",
            "holdfast_in_sync_members 2\n",
            "holdfast_in_sync{member=\"b\"} 1\n",
            "holdfast_solo 0\n",
            "holdfast_paused 0\n",
            "holdfast_drained 0\n",
            "holdfast_vip_held{address=\"10.0.0.100/24\",interface=\"eth1\"} 1\n",
            "holdfast_vip_contested_total{address=\"10.0.0.100/24\",interface=\"eth1\"} 3\n",
            "holdfast_vip_restored_total{address=\"10.0.0.100/24\",interface=\"eth1\"} 2\n",
            "holdfast_peer_alive{peer=\"b\",kind=\"data\"} 1\n",
            "holdfast_path_alive{peer=\"b\",path=\"cable\",address=\"10.78.0.2:9002\"} 0\n",
            "holdfast_path_rtt_seconds{peer=\"b\",path=\"main\",address=\"10.0.0.2:9002\"} 0.00013\n",
            "holdfast_heartbeats_dropped_total{reason=\"bad_mac\"} 2\n",
            "holdfast_heartbeats_dropped_total{reason=\"replayed\"} 0\n",
            "holdfast_log_committed_lsn 4096\n",
            "holdfast_replication_lag_bytes{peer=\"b\"} 96\n",
            "holdfast_replication_lag_seconds{peer=\"b\"} 1.25\n",
            "holdfast_log_bytes 9000\n",
            "holdfast_live_bytes 5000\n",
            "holdfast_reclaim_running 0\n",
            "holdfast_reclaimed_bytes_total 700\n",
            "holdfast_scrub_last_complete_timestamp_seconds 1.5\n",
            "holdfast_replication_differing_ranges{peer=\"b\"} 0\n",
            "holdfast_replication_last_same_timestamp_seconds{peer=\"b\"} 2.5\n",
            "holdfast_scrub_healed_total 3\n",
            "holdfast_log_sync_seconds_sum 0.0007\n",
            "holdfast_log_sync_seconds_bucket{le=\"0.001\"} 1\n",
            "holdfast_log_standby_wait_seconds_count 1\n",
            "# EOF\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
    }

    fn store() -> StoreNumbers {
        let space =
            SpaceStatus { log_bytes: 9000, live_bytes: 5000, won_bytes: 700, ..SpaceStatus::default() };
        let scrub = ScrubStatus { last_complete_ms: Some(1500), healed: 3, ..ScrubStatus::default() };
        let b = crate::runtime::sameness::PeerSameness { last_complete_ms: Some(2500), ..Default::default() };
        let standby = StandbyCounts { handed_on: AtomicU64::new(4), ..StandbyCounts::default() };
        let times = LogTimes::default();
        times.sync.note(std::time::Duration::from_micros(700));
        times.standby_wait.note(std::time::Duration::from_micros(90));
        StoreNumbers {
            space: Some(space),
            scrub: Some(scrub),
            sameness: Some(Sameness { peers: [("b".to_owned(), b)].into(), ..Sameness::default() }),
            standby: Some(Arc::new(standby)),
            streams: Some(Arc::default()),
            archives: Some([("divergent", (2, 900))].into()),
            times: Some(Arc::new(times)),
        }
    }

    /// With connections that are carried over.
    fn a_router() -> Status {
        let connections = ConntrackStatus {
            askers: 1,
            entries: 1200,
            max_entries: 100_000,
            sent: 9000,
            lag_ms: Some(2),
            ..ConntrackStatus::default()
        };
        Status { conntrack: Some(connections), ..status() }
    }

    #[test]
    fn replicated_files_have_numbers_where_there_are_any() {
        let set = SetStatus {
            name: "dhcp".to_owned(),
            files: 4,
            left_out: 1,
            captured: 9,
            last_change_ms: Some(7000),
            ..SetStatus::default()
        };
        let files = FilesStatus { sets: vec![set], overflows: 2, ..FilesStatus::default() };
        let with = Status { files: Some(files), ..status() };
        let text = render(&with, None, &StoreNumbers::default());
        for line in [
            "holdfast_sync_files{set=\"dhcp\"} 4\n",
            "holdfast_sync_files_left_out{set=\"dhcp\"} 1\n",
            "holdfast_sync_files_last_change_timestamp_seconds{set=\"dhcp\"} 7\n",
            "holdfast_sync_files_changes_total{set=\"dhcp\",what=\"captured\"} 9\n",
            "holdfast_sync_files_overflows_total 2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!render(&status(), None, &StoreNumbers::default()).contains("sync_files"));
    }

    #[test]
    fn connections_have_numbers_where_they_are_carried_over() {
        let text = render(&a_router(), None, &StoreNumbers::default());
        for line in [
            "holdfast_conntrack_entries 1200\n",
            "holdfast_conntrack_changes_total{what=\"sent\"} 9000\n",
            "holdfast_conntrack_lag_seconds 0.002\n",
            "holdfast_conntrack_overruns_total 0\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        assert!(!render(&status(), None, &StoreNumbers::default()).contains("conntrack"));
    }

    #[test]
    fn every_number_has_a_help_text() {
        let text = render(&a_router(), Some(&leading()), &StoreNumbers::default());
        let named: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(named.len() > 30);
        for name in named.iter().map(|line| line.split(' ').next().unwrap()) {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }

    #[test]
    fn a_member_without_a_lease_has_no_lease_series() {
        let mut status = status();
        status.lease_remaining_ms = None;
        assert!(
            !render(&status, None, &StoreNumbers::default()).contains("\nholdfast_lease_remaining_seconds")
        );
        assert!(!render(&status, None, &StoreNumbers::default()).contains("\nholdfast_replication"));
    }
}
