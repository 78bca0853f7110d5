//! A member at work: threads and sockets around the core.
//!
//! ```text
//!   supervisor (parent process) ─ buries the agent when it dies
//!   └ core        the node's thread: events in, effects out; never waits
//!   ├ heartbeat n receives on path n, authenticates (before ordinary threads, as the core: `realtime`)
//!   ├ state       votes and the in-sync record to disk
//!   ├ log         the replica: writes, syncs, streams, applies
//!   ├ addresses   virtual addresses, announcements, probes, the watch over the kernel gate
//!   ├ gate        renews the kernel gate, where that is nftables
//!   ├ links       carriers and gateways
//!   ├ conntrack   connections through the primary, told to the standby
//!   ├ inquiry     what `ha check` finds out here and asks of the others; answers their questions
//!   ├ hooks       hooks and services, one after the other
//!   ├ files       replicated files: into the log, or out of it and into their places
//!   ├ files-watch what the kernel says of changes there
//!   ├ fence       switches other members off, and looks whether it could
//!   ├ checks      the configuration's `check` blocks
//!   ├ disk-write, disk-watch  a small durable write, and somebody who looks whether it ends
//!   ├ watchdog    tells systemd and the watchdog device that the core moves
//!   ├ reports     log lines and the history
//!   ├ audit       who asked for what, to disk
//!   ├ recorder    what the core was told, to disk after an unplanned change of role
//!   └ tokio       S3, API, replication connections
//! ```
//!
//! A heartbeat: `sockets` -> `core` -> `node`. A PUT: `holdfast_store::s3` -> `log_thread` -> `stream`
//! and back. A failover: `node::campaign` -> `node::reign` -> effects in `core`.

pub mod address;
pub mod archives;
pub mod assemble;
pub mod audit;
pub mod checks;
pub mod conntrack;
pub mod core;
pub mod disk;
pub mod fence;
pub mod files;
pub mod freshness;
pub mod handle;
pub mod healing;
pub mod history;
pub mod hooks;
pub mod identity;
pub mod inquiry;
pub mod lease;
pub mod links;
pub mod log_thread;
pub mod log_times;
pub mod mailbox;
pub mod peers;
mod programs;
pub mod realtime;
pub mod recorder;
pub mod reload;
pub mod report;
pub mod resync;
pub mod sameness;
pub mod scrub;
pub mod secrets;
pub mod service;
pub mod sockets;
pub mod space;
pub mod state_file;
pub mod status;
pub mod stream;
pub mod supervisor;
pub mod sweep;
pub mod watchdog;
mod webhooks;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use holdfast_config::{Config, FailbackMode, GateChoice, StandbyReads};
use holdfast_heartbeat::{BootNonce, MemberKind, Message, NodeId};
use holdfast_replication::replica::ReplicaStatus;
use holdfast_store::admin::Admin;
use holdfast_store::backend::{Backend, ReadLog};
use holdfast_store::files::Files;
use holdfast_store::index::Index;
use holdfast_store::machine::Machine;
use holdfast_store::s3;
use holdfast_store::s3::Serving;
use holdfast_vip::gate::{Ending, Gate};
use nix::sys::signal::{SigSet, Signal};

use self::core::{Arms, Core, Input};
use self::handle::{Handle, Request};
use self::log_thread::{LogBackend, LogInput, SharedStatus};
use self::mailbox::{Sender, channel};
use self::report::Report;
use self::secrets::Secrets;
use self::status::{Counters, LatenessStatus, PathStatus, Paused, PeerStatus, Status};
use crate::node::event::Event;
use crate::node::lateness::BOUNDS_US;
use crate::node::view::{self, View};
use crate::node::{LogPosition, Node, role_name};

/// Threads of the runtime that serves the API and the streams, and never wait for a disk.
const WORKERS: usize = 2;
/// Threads of the runtime that serves S3 for each processor: they read the index and small objects themselves, so that
/// some of them may wait for the disk.
const S3_WORKERS: usize = 4;
/// At most.
const MOST_S3_WORKERS: usize = 64;

/// How long an answer takes to reach who gave an order on this host, or to be on its way.
const ANSWERED_WITHIN: std::time::Duration = std::time::Duration::from_millis(100);
/// How long an agent that ends waits for its recording to reach the page cache.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);
/// The same after a panic, when the others wait for the supervisor to say that the agent is dead.
const LAST_WORDS_OF_A_PANIC: std::time::Duration = std::time::Duration::from_millis(50);

/// Runs the agent under its supervisor until it is told to end.
pub fn run(config: &Path) -> ExitCode {
    match start(config) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(supervisor::START_AGAIN),
        Err(error) => {
            eprintln!("holdfast: the agent cannot start: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the agent to its end; says whether it is to start again at once.
fn start(path: &Path) -> Result<bool> {
    let loaded = Config::load(path).map_err(|error| anyhow!("\n{error}"))?;
    let config = Arc::new(loaded.config);
    let supervisor = supervisor::channel();
    let signals = take_signals()?;

    let id = NodeId::new(config.node_id.clone())?;
    let kind = assemble::kind(&config);
    let state_dir = state_file::StateDir::open(&config.state_dir)?;
    let data_dir =
        config.store.as_ref().filter(|_| kind == MemberKind::Data).map(|store| store.data_dir.clone());
    let mut identity = identity::establish(&state_dir, id, data_dir.as_deref())?;
    let boot = BootNonce(identity::random());

    let granted = realtime::Granted::ask(config.ha.realtime);

    let progress = watchdog::Progress::default();
    let device = config.ha.watchdog.as_ref().map(|wanted| (wanted.device.as_path(), wanted.timeout));
    // Before the recovery of the log, which may take long: an earlier life may have left the device running.
    let watching = match watchdog::Wanted::find(device)? {
        Some(wanted) => Some(wanted.watch(progress.clone(), granted.clone())?),
        None => None,
    };

    let history = history::History::open(&config.state_dir);
    let audit = audit::Audit::spawn(&config.state_dir, &config.node_id)?;
    audit.note_epoch(identity.hard.epoch.0);
    tell_of_start(&audit, path, &loaded.digest);
    let reports = report::spawn(config.node_id.clone(), history.clone(), audit.clone())?;
    let note = {
        let reports = reports.clone();
        move |message: String| drop(reports.send(Report::Note { at: address::now(), message }))
    };

    let (inputs, core_inputs) = channel::<Input>();
    let event = {
        let inputs = inputs.clone();
        move |event: Event| drop(inputs.send(Input::Event(event)))
    };

    let data = match &data_dir {
        Some(dir) => {
            if let Some(message) = resync::take_up(&state_dir, &mut identity, dir)? {
                note(message);
            }
            Some(open_data(&config, &state_dir, &mut identity, dir)?)
        }
        None => None,
    };
    if let Some(why) = &identity.renewed {
        let message = format!(
            "this member starts as a new one: {why}. It is not counted as in sync until the primary has brought it up to date"
        );
        audit.tell(audit::Entry::of_agent("renewed", message.clone()));
        let _ = reports.send(Report::Warning { at: address::now(), message });
    }

    let specs = assemble::vip_specs(&config);
    // Before the gate of an earlier life may be taken away.
    match sweep::addresses(&specs) {
        Ok(swept) => {
            for what in swept {
                tracing::warn!("took {what} off: an earlier life of this agent had left it");
            }
        }
        // An interface that is still to come, say; it is tried again with the addresses' thread.
        Err(error) => tracing::warn!("{error:#}"),
    }
    let hurried = granted.clone();
    let begin = move || hurried.hurry(realtime::Urgency::Core);
    let (gate, gate_fallback) = assemble::open_gate(&config, &specs, begin)?;
    if let (Some(why), false) = (&gate_fallback, specs.is_empty()) {
        let at = address::now();
        let message = format!("the kernel gate in use is {}, for this reason: {why}", gate.name());
        let _ = reports.send(match gate.ending() {
            Ending::Lifetime => Report::Warning { at, message },
            Ending::Absolute | Ending::Relative => Report::Note { at, message },
        });
    }
    let derived = assemble::derived(&config, &*gate);
    let lease = lease::Lease::new(gate.clone());
    let endpoint = assemble::endpoint(&config);

    let keys = Secrets::of(&config);
    let drops = Arc::new(sockets::DropCounts::default());
    let peers = peers::Peers::of(&config);
    let listen = config.heartbeat_paths.iter().map(|path| path.listen).collect();
    let heartbeat = sockets::HeartbeatSockets::bind(listen, peers.clone())?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("serve")
        .enable_all()
        .build()?;
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let s3_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors * S3_WORKERS).min(MOST_S3_WORKERS))
        .thread_name("s3")
        .enable_all()
        .build()?;

    // Whatever may fail for a person to mend fails before the first heartbeat is sent.
    let api_listener = runtime
        .block_on(tokio::net::TcpListener::bind(config.api.listen))
        .with_context(|| format!("the API cannot listen on {} (api.listen)", config.api.listen))?;
    let s3_listener = match (
        &data,
        config.store.as_ref().and_then(|store| store.root.as_ref().map(|root| (store, root))),
    ) {
        (Some(_), Some((store, _))) => {
            Some(s3_runtime.block_on(tokio::net::TcpListener::bind(store.listen)).with_context(|| {
                format!("the S3 service cannot listen on {} (store.listen)", store.listen)
            })?)
        }
        _ => None,
    };
    let stream_listener = match &data {
        Some(_) => {
            Some(runtime.block_on(tokio::net::TcpListener::bind(config.listen)).with_context(|| {
                format!("the log's stream cannot listen on {} (replication.listen_addr)", config.listen)
            })?)
        }
        None => None,
    };

    let lifetime = std::time::Duration::from_secs(holdfast_config::timers::valid_lft_seconds(derived.lease));
    let board = address::Board::new(&specs);
    let addresses = match specs.is_empty() {
        true => None,
        false => {
            let setup = address::Setup {
                specs: specs.clone(),
                lease: lease.clone(),
                lifetime,
                board: board.clone(),
                gate_is_named: matches!(config.ha.gate, GateChoice::Ebpf | GateChoice::Nftables),
            };
            let reports = reports.clone();
            let say = move |saying| {
                let at = address::now();
                drop(reports.send(match saying {
                    address::Saying::Note(message) => Report::Note { at, message },
                    address::Saying::Warning(message) => Report::Warning { at, message },
                }));
            };
            Some(address::spawn(setup, event.clone(), say)?)
        }
    };
    let state = {
        let (event, reports) = (event.clone(), reports.clone());
        state_file::spawn_writer(
            state_dir,
            identity.member.id.clone(),
            identity.member.incarnation,
            move |token| event(Event::Persisted { token }),
            move |error| {
                let message = format!(
                    "votes cannot be written to the state directory: {error}; this member neither votes nor takes over until it can"
                );
                let _ = reports.send(Report::Warning { at: address::now(), message });
            },
        )?
    };

    let (service_orders, service_receiver) = tokio::sync::mpsc::unbounded_channel();
    let (serving, serving_receiver) = tokio::sync::watch::channel(Serving::No { redirect: endpoint.clone() });
    let (leader, leader_receiver) = tokio::sync::watch::channel(None);

    let mut log_position = LogPosition::default();
    let mut log_sender = None;
    let mut log_status = None;
    let mut conntracked = None;
    let mut synced = None;
    let mut backend = None;
    let mut admin = None;
    let mut set_aside = None;
    let upkeep = handle::Upkeep::default();
    let guests =
        s3::Guests::new(config.store.as_ref().map_or(s3::MAX_CONNECTIONS, |store| store.max_connections));
    if let Some(data) = data {
        let (sender, receiver) = channel::<LogInput>();
        log_position = LogPosition {
            end: data.engine.log().end(),
            durable: data.engine.log().durable(),
            last_epoch: data.engine.log().last_epoch(),
        };
        let (reader, segment_bytes) = (data.engine.reader(), data.engine.log().segment_size());
        let status: SharedStatus = Arc::new(std::sync::Mutex::new(data.engine.status()));
        let full = log_thread::DiskFull::default();
        let answers = freshness::Answers::default();
        let (asked, to_compare) = sameness::asked();
        log_thread::spawn(
            data.engine,
            receiver,
            (status.clone(), upkeep.times.clone(), full.clone()),
            (lease.clone(), answers.clone()),
            (asked, upkeep.sameness.clone()),
            event.clone(),
            note.clone(),
        )?;
        let write = Arc::new(LogBackend::new(sender.clone(), lease.clone(), full, endpoint.clone()));
        let receiving = s3::Receiving::default();
        let healer = healing::Healer::new(sender.clone());
        if let (Some(dir), Some(settings)) = (&data_dir, scrub_settings(&config)) {
            let comparer = sameness::Comparer {
                reader: reader.clone(),
                healer: healer.clone(),
                log: sender.clone(),
                board: upkeep.sameness.clone(),
                bytes_per_second: settings.bytes_per_second,
            };
            comparer.spawn(to_compare, note.clone())?;
            let teller = sameness::Teller::new(sender.clone(), upkeep.sameness.clone());
            scrub::spawn(reader.clone(), healer.clone(), teller, settings, dir, upkeep.scrub.clone())?;
        }
        if let (Some(dir), Some(settings)) = (&data_dir, space_settings(&config)) {
            let reclaimer = space::Reclaimer {
                index: data.index.clone(),
                reader: healing::HealingReader { reader: reader.clone(), healer: healer.clone() },
                log: write.clone(),
                status: status.clone(),
                receiving: receiving.clone(),
                lease: lease.clone(),
                settings,
                dir: dir.join("log"),
                segment_bytes,
                board: upkeep.space.clone(),
            };
            runtime.spawn(reclaimer.run());
        }
        if !config.sync_files.is_empty() {
            let setup = files::Setup {
                sets: config.sync_files.clone(),
                files: Files {
                    index: data.index.clone(),
                    log: Arc::new(healing::HealingReader { reader: reader.clone(), healer: healer.clone() }),
                    backend: write.clone() as Arc<dyn Backend>,
                    keys: webhooks::store_keys(&config),
                    receiving: receiving.clone(),
                },
                status: status.clone(),
                state_dir: config.state_dir.clone(),
                place: hooks::place(&config, identity.member.id.clone()),
                program: hooks::own_program(),
                reports: reports.clone(),
            };
            synced = Some(files::spawn(setup, runtime.handle(), leader_receiver.clone())?);
        }
        if let Some(dir) = &data_dir {
            let (status, note) = (status.clone(), note.clone());
            let setup = archives::Setup {
                reader: reader.clone(),
                index: data.index.clone(),
                keys: webhooks::store_keys(&config),
                dir: dir.join("log"),
                manifests: Box::new(move || read_status(&status).set_aside),
                note: Box::new(note),
                primary: config.store.as_ref().and_then(|store| store.root.as_ref()).map(|root| {
                    let places = archives::places(&config, endpoint.as_deref());
                    (places, root.access_key.clone(), root.secret_key.expose().to_owned())
                }),
            };
            set_aside = Some(archives::Archives::new(setup, sender.clone())?);
        }
        if let (Some(listener), Some(root)) =
            (s3_listener, config.store.as_ref().and_then(|store| store.root.as_ref()))
        {
            admin = Some(Admin::new(
                data.index.clone(),
                write.clone() as Arc<dyn Backend>,
                root.access_key.clone(),
            ));
            let store = s3::Store {
                index: data.index,
                log: Arc::new(healing::HealingReader { reader, healer }) as Arc<dyn ReadLog>,
                backend: write.clone() as Arc<dyn Backend>,
                on_damage: Arc::new(
                    |damage| tracing::error!(lsn = damage.extent.lsn.0, error = %damage.error, "the disk gave back other bytes than were written"),
                ),
                keys: webhooks::store_keys(&config),
                webhooks: webhooks::names(&config),
                day: s3::Day(config.store.as_ref().map_or(s3::Day::default().0, |store| store.lifecycle_day)),
                receiving: receiving.clone(),
                budget: s3::Budget::new(
                    config.store.as_ref().map_or(s3::DEFAULT_BYTES, |store| store.request_memory_bytes),
                ),
            };
            s3_runtime.spawn(s3::Caretaker::new(store.clone()).run());
            if let Some(post) = webhooks::Webhooks::new(&config)? {
                s3_runtime.spawn(s3::Herald::new(store.clone(), Arc::new(post)).run());
            }
            let domains = config.store.as_ref().and_then(|store| store.virtual_host_domain.clone());
            let seal_keys = secrets::seal_keys(keys.clone());
            let options = s3::Options {
                root_access_key: root.access_key.clone(),
                root_secret_key: root.secret_key.expose().to_owned(),
                domains: domains.into_iter().collect(),
                region: "us-east-1".to_owned(),
                standby: standby_reads(&config, sender.clone(), answers, &seal_keys),
                seal_keys: Some(seal_keys),
                counts: upkeep.standby.clone(),
            };
            let front = s3::service(store, options);
            s3_runtime.spawn(s3::serve(listener, front, serving_receiver, guests.clone()));
        }
        let mut streams = stream::Streams::new(keys.clone(), sender.clone())
            .compressing(config.compression)
            .counted_in(upkeep.streams.clone());
        if let Some(setup) = conntrack::Setup::new(&config, &peers) {
            let (asides, asked) = tokio::sync::mpsc::channel(conntrack::MOST_ASKERS);
            let opening = streams.opening_asides();
            conntracked = Some(conntrack::spawn(setup, opening, asked, leader_receiver.clone())?);
            streams = streams.with_asides(asides);
        }
        if let Some(listener) = stream_listener {
            runtime.spawn(streams.clone().accept(listener, peers.clone()));
        }
        runtime.spawn(streams.follow(leader_receiver, peers.clone(), config.listen));
        log_sender = Some(sender);
        log_status = Some(status);
        backend = Some(write);
    }
    runtime.spawn(service::control(
        service_receiver,
        serving,
        backend,
        guests,
        lease.clone(),
        endpoint.clone(),
        event.clone(),
    ));
    // Nobody was served by this life yet: the port may send clients on to the primary.
    lease.open_ports_for_standby();

    let (attendants, attended, units, last_hooks) =
        attend(&config, &identity.member, synced.clone(), &event, &reports)?;
    let (fence, fences) = fence::spawn(&config, event.clone(), reports.clone())?;
    let health = watch_health(&config, kind, data_dir.as_deref(), &event)?;
    let settings = assemble::settings(&config, identity.member.clone(), boot, &derived);
    let node = Node::new(settings, identity.hard, log_position, address::now());
    let show = Show {
        config: config.clone(),
        peers: peers.clone(),
        me: identity.member.clone(),
        supervised: supervisor.is_some(),
        gate: gate.clone(),
        realtime: granted.describe(),
        keys: keys.clone(),
        gate_fallback,
        endpoint,
        log: log_status.clone(),
        drops: drops.clone(),
        board,
        units,
        fences,
        health,
        conntrack: conntracked,
        files: synced.as_ref().map(|files| files.board.clone()),
    };
    let (recorder, recordings_written) = if config.ha.flight_recorder {
        let reports = reports.clone();
        let (recorder, ended) =
            recorder::spawn(&config.state_dir, identity.member.id.clone(), move |outcome| {
                let at = address::now();
                drop(reports.send(match outcome {
                    Ok(message) => Report::Note { at, message },
                    Err(message) => Report::Warning { at, message },
                }));
            })?;
        (Some(recorder), Some(ended))
    } else {
        (None, None)
    };
    let (inquiries, inquiry_orders) = tokio::sync::mpsc::unbounded_channel();
    let inquirer = inquiry::Setup {
        config: config.clone(),
        peers: peers.clone(),
        me: identity.member.clone(),
        boot,
        derived: derived.clone(),
        gate: gate.name().to_owned(),
        keys: keys.clone(),
        sockets: heartbeat.share()?,
        addresses: addresses.clone(),
        here: show.board.clone(),
        core: inputs.clone(),
    };
    inquiry::spawn(inquirer, inquiry_orders)?;
    let arms = Arms {
        sockets: heartbeat,
        keys: keys.clone(),
        lease,
        state,
        addresses,
        log: log_sender,
        leader,
        attendants,
        fence,
        service: service_orders,
        reports: reports.clone(),
        recorder,
        supervisor: supervisor.as_ref().map(|stream| stream.try_clone()).transpose()?,
        progress,
    };
    {
        let (inputs, inquiries) = (inputs.clone(), inquiries.clone());
        arms.sockets.receive(&keys, &drops, &granted, move |peer, path, message| match message {
            Message::Heartbeat(_) | Message::Notice(_) => {
                drop(inputs.send(Input::Packet { peer, path, message }));
            }
            Message::Inquiry(_) | Message::Testimony(_) => {
                drop(inquiries.send(inquiry::Order::Packet { peer, at: address::now(), message }));
            }
        })?;
    }
    if kind == MemberKind::Data {
        let mut interfaces: Vec<String> = specs.iter().map(|spec| spec.interface.clone()).collect();
        interfaces.extend(config.ha.monitor_links.iter().cloned());
        interfaces.sort();
        interfaces.dedup();
        links::spawn(interfaces, config.ha.monitor_gateways.clone(), event.clone())?;
    }

    let resync = match &data_dir {
        Some(dir) => {
            let event = event.clone();
            let end = move || {
                let event = event.clone();
                // The answer to who ordered it goes out first.
                std::thread::spawn(move || {
                    std::thread::sleep(ANSWERED_WITHIN);
                    event(Event::TerminationRequested);
                });
            };
            Some(resync::Resync::new(dir, config.catch_up_rate_bytes, end)?)
        }
        None => None,
    };
    let handle = {
        let upkeep = (kind == MemberKind::Data).then_some(upkeep);
        let inputs = inputs.clone();
        let requests = requests(inputs, inquiries, show, runtime.handle().clone());
        Handle::new(requests, move || log_status.as_ref().map(read_status), history)
            .with_store(admin, upkeep)
            .with_files(synced.map(|files| files.board))
            .with_archives(set_aside)
            .with_resync(resync.clone())
    };
    if let Some(resync) = resync.clone() {
        runtime.spawn(resync.watch(handle.clone(), note.clone()));
    }
    let token = config.api.token.as_ref().map(|token| token.expose().to_owned());
    let router = crate::api::router(handle, crate::api::ApiOptions { token, audit: audit.clone() });
    runtime.spawn(crate::api::serve(api_listener, router));

    let reload = {
        let reload = reload::Reload {
            path: path.to_owned(),
            running: config.clone(),
            secrets: keys.clone(),
            peers: peers.clone(),
            core: Some(inputs.clone()),
        };
        let (reports, audit) = (reports.clone(), audit.clone());
        move || {
            let at = address::now();
            let entry =
                audit::Entry { by: "signal SIGHUP".to_owned(), ..audit::Entry::of_agent("reload", "") };
            let _ = reports.send(match reload.read_again() {
                Ok((message, digest)) => {
                    let (detail, said) = (Some(format!("sha256 {digest}")), Some(message.clone()));
                    audit.tell(audit::Entry { detail, message: said, ..entry });
                    Report::Note { at, message }
                }
                Err(message) => {
                    let (outcome, said) = (audit::Outcome::Failed, Some(message.clone()));
                    audit.tell(audit::Entry { detail: None, outcome, message: said, ..entry });
                    Report::Warning { at, message }
                }
            });
        }
    };
    obey_signals(signals, supervisor, event, reload, audit.clone())?;
    let testament =
        supervisor::Testament { member: identity.member, boot, epoch: holdfast_heartbeat::Epoch::ZERO };
    let core = std::thread::Builder::new().name("core".into()).spawn(move || {
        granted.hurry(realtime::Urgency::Core);
        Core::new(node, arms, testament).run(&core_inputs);
    })?;
    // Not an error where there is no systemd.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let ended = core.join();
    if let (Ok(()), Some(attended)) = (&ended, attended) {
        // The last hooks of an orderly end; each is killed at its own limit.
        let _ = attended.recv_timeout(last_hooks);
    }
    let again = resync.is_some_and(|resync| resync.starts_again());
    if !again {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    }
    if let Some(written) = recordings_written {
        // Ends with the thread that writes; a disk that does not answer must not hold anybody up.
        let _ = written.recv_timeout(if ended.is_err() { LAST_WORDS_OF_A_PANIC } else { LAST_WORDS });
    }
    audit.tell(match &ended {
        Ok(()) => audit::Entry::of_agent("stop", "in good order"),
        Err(_) => audit::Entry {
            outcome: audit::Outcome::Failed,
            ..audit::Entry::of_agent("panic", "the core stopped")
        },
    });
    if ended.is_err() {
        // The panic's message is on stderr. The lease was not renewed since; the supervisor buries us.
        std::process::abort();
    }
    let _ = gate.detach();
    if let Some(watching) = watching {
        watching.end();
    }
    audit.close();
    s3_runtime.shutdown_background();
    runtime.shutdown_background();
    Ok(again)
}

/// Writes down that this agent begins, and with what.
fn tell_of_start(audit: &audit::Audit, path: &Path, digest: &str) {
    let before = match audit.last_ended_in_order() {
        true => "",
        false => "; the agent before it did not end in good order",
    };
    let (version, path) = (env!("CARGO_PKG_VERSION"), path.display());
    audit.tell(audit::Entry::of_agent(
        "start",
        format!("holdfast {version}, {path}, sha256 {digest}{before}"),
    ));
}

/// Starts what runs hooks and moves services, where there are any; also how long its end may take.
#[expect(clippy::type_complexity, reason = "four things that are made together and used apart")]
fn attend(
    config: &Config,
    me: &holdfast_heartbeat::Member,
    files: Option<files::Handle>,
    event: &(impl Fn(Event) + Clone + Send + 'static),
    reports: &Sender<Report>,
) -> Result<(
    Option<tokio::sync::mpsc::UnboundedSender<hooks::Order>>,
    Option<mailbox::Receiver<()>>,
    hooks::UnitStates,
    std::time::Duration,
)> {
    let Some(setup) = hooks::Setup::new(config, me.id.clone(), files) else {
        return Ok((None, None, hooks::UnitStates::default(), std::time::Duration::ZERO));
    };
    let last = setup.longest_end();
    let named = setup.services.iter().map(|service| (service.name.clone(), service.unit.clone()));
    let units = hooks::UnitStates::new(named);
    let (orders, ended) = hooks::spawn(setup, units.clone(), event.clone(), reports.clone())?;
    Ok((Some(orders), Some(ended), units, last))
}

/// What is said of this host's health beside its log and its links.
struct HealthShown {
    checks: checks::Board,
    /// None on a witness.
    disk: Option<disk::DiskShown>,
}

/// Starts the checks and the probe of the disks. A witness never serves and has neither.
fn watch_health(
    config: &Config,
    kind: MemberKind,
    data_dir: Option<&Path>,
    event: &(impl Fn(Event) + Clone + Send + 'static),
) -> Result<HealthShown> {
    let checks = checks::spawn(config.checks.clone(), event.clone())?;
    let bound = config.store.as_ref().filter(|_| kind == MemberKind::Data).map(|store| store.disk_timeout);
    let disk = match (bound, data_dir) {
        (Some(bound), Some(dir)) => {
            Some(disk::spawn(&[dir.to_owned(), config.state_dir.clone()], bound, event.clone())?)
        }
        _ => None,
    };
    Ok(HealthShown { checks, disk })
}

fn scrub_settings(config: &Config) -> Option<scrub::Settings> {
    config.store.as_ref().map(|store| scrub::Settings {
        bytes_per_second: store.scrub_rate_bytes,
        interval: store.scrub_interval,
    })
}

fn space_settings(config: &Config) -> Option<space::Settings> {
    config.store.as_ref().map(|store| space::Settings {
        automatic: store.reclaim,
        bytes_per_second: store.reclaim_rate_bytes,
        garbage: f64::from(store.reclaim_garbage_percent) / 100.0,
    })
}

/// What the S3 endpoint does while this member is not the primary.
fn standby_reads(
    config: &Config,
    log: Sender<LogInput>,
    answers: freshness::Answers,
    seal_keys: &s3::SealKeys,
) -> s3::StandbyReads {
    let Some(store) = &config.store else { return s3::StandbyReads::Off };
    let hand_on = || s3::HandOn::new(seal_keys.clone());
    match store.standby_reads {
        StandbyReads::Off => s3::StandbyReads::Off,
        StandbyReads::HandOn => s3::StandbyReads::HandOn(hand_on()),
        StandbyReads::Bounded => {
            let freshness = freshness::Freshness::new(log, answers, store.standby_staleness);
            s3::StandbyReads::Bounded(Arc::new(freshness), hand_on())
        }
    }
}

struct Data {
    engine: log_thread::Engine,
    index: Index,
}

fn open_data(
    config: &Config,
    state: &state_file::StateDir,
    identity: &mut identity::Identity,
    dir: &Path,
) -> Result<Data> {
    let segment_size = config.store.as_ref().map_or(64 << 20, |store| store.segment_size_bytes);
    let machine = || -> Result<(Machine, Index)> {
        let (index, rebuilt) = Index::open(&dir.join("index")).context("the index cannot be opened")?;
        if let Some(why) = rebuilt {
            tracing::warn!(why, "the index is built anew from the log");
        }
        Ok((Machine::new(index.clone())?, index))
    };
    let log_dir = dir.join("log");
    let sending = assemble::sending(config);
    let (first, index) = machine()?;
    match log_thread::open(&log_dir, identity.member.clone(), first, segment_size, sending, false) {
        Ok((engine, recovery)) => {
            for torn in &recovery.torn {
                tracing::warn!(archive = ?torn, "an unfinished write at the end of the log was set aside");
            }
            Ok(Data { engine, index })
        }
        Err(log_thread::OpenError::Log {
            error: error @ holdfast_replication::LogError::Damaged { .. },
            ..
        }) => {
            // What this member acknowledged is not all here any more. As a new incarnation it may not
            // be elected before the primary has brought it up to date.
            drop(index);
            let why = format!("its log is damaged ({error}); everything from there on was set aside");
            identity::renew(state, identity, dir, &why)?;
            let (again, index) = machine()?;
            let (engine, _) =
                log_thread::open(&log_dir, identity.member.clone(), again, segment_size, sending, true)?;
            Ok(Data { engine, index })
        }
        Err(error) => Err(error.into()),
    }
}

/// Blocks the signals that end a service or have it reload, so that one thread can wait for them.
fn take_signals() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    // In one step: the supervisor blocks some for itself, a blocked signal stays so across the start, and one
    // that waits already must not come through in between.
    signals.thread_set_mask()?;
    Ok(signals)
}

/// Ends in good order on a signal, or when the supervisor is gone; reloads on SIGHUP.
fn obey_signals(
    signals: SigSet,
    supervisor: Option<std::os::unix::net::UnixStream>,
    event: impl Fn(Event) + Clone + Send + 'static,
    reload: impl Fn() + Send + 'static,
    audit: audit::Audit,
) -> Result<()> {
    let on_signal = event.clone();
    let told = audit.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            match signal {
                Signal::SIGHUP => reload(),
                signal => {
                    let by = format!("signal {signal}");
                    told.tell(audit::Entry { by, ..audit::Entry::of_agent("terminate", "") });
                    on_signal(Event::TerminationRequested);
                }
            }
        }
    })?;
    if let Some(mut stream) = supervisor {
        std::thread::Builder::new().name("supervisor".into()).spawn(move || {
            let mut byte = [0];
            // The supervisor never writes: the read ends when it does.
            let _ = std::io::Read::read(&mut stream, &mut byte);
            tracing::error!(
                "the supervisor is gone; handing over and ending, so that nobody is left without one"
            );
            audit.tell(audit::Entry::of_agent("terminate", "the supervisor is gone"));
            event(Event::TerminationRequested);
        })?;
    }
    Ok(())
}

/// Passes requests on to the core. It gives away its view and no more: what else belongs to a status is behind
/// locks for which the heartbeats must not wait.
fn requests(
    inputs: Sender<Input>,
    inquiries: tokio::sync::mpsc::UnboundedSender<inquiry::Order>,
    show: Show,
    runtime: tokio::runtime::Handle,
) -> impl Fn(Request) -> bool + Send + Sync {
    let show = Arc::new(show);
    move |request| {
        let input = match request {
            Request::Status(reply) => {
                let (view, viewed) = tokio::sync::oneshot::channel();
                let show = show.clone();
                runtime.spawn(async move {
                    if let Ok(view) = viewed.await {
                        let _ = reply.send(show.status(view));
                    }
                });
                Input::View(view)
            }
            Request::Record(reply) => Input::Record(reply),
            Request::Check(status, log, reply) => {
                return inquiries.send(inquiry::Order::Check { status, log, reply }).is_ok();
            }
            Request::Command(command, reply) => Input::Command(command, reply),
        };
        inputs.send(input).is_ok()
    }
}

fn read_status(status: &SharedStatus) -> ReplicaStatus {
    status.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
}

/// Makes a status out of the core's view and of what the core does not know.
struct Show {
    config: Arc<Config>,
    peers: peers::Peers,
    me: holdfast_heartbeat::Member,
    supervised: bool,
    gate: Arc<dyn Gate>,
    realtime: String,
    keys: Secrets,
    gate_fallback: Option<String>,
    endpoint: Option<String>,
    log: Option<SharedStatus>,
    drops: Arc<sockets::DropCounts>,
    board: address::Board,
    units: hooks::UnitStates,
    fences: fence::board::FenceBoard,
    health: HealthShown,
    conntrack: Option<conntrack::Board>,
    files: Option<files::Board>,
}

impl Show {
    fn status(&self, view: View) -> Status {
        let log = self.log.as_ref().map(read_status);
        let in_sync: Vec<String> =
            view.record.iter().flat_map(|record| &record.members).map(ToString::to_string).collect();
        let data_members = self.peers.data_members().count() + usize::from(self.log.is_some());
        let solo = in_sync.len() == 1 && data_members > 1;
        let mut warnings = view.warnings.clone();
        let ungated = self.gate.ending() == Ending::Lifetime && !self.config.ha.virtual_ips.is_empty();
        if let Some(why) = self.gate_fallback.as_ref().filter(|_| ungated) {
            warnings.push(format!(
                "no kernel gate: only the address's lifetime of whole seconds ends a dead agent's hold ({why})"
            ));
        }
        let services = self.units.read();
        warnings.extend(services.iter().filter_map(|service| service.problem.clone()));
        let conntrack = self.conntrack.as_ref().map(conntrack::Board::read);
        warnings.extend(conntrack.iter().filter_map(|shown| shown.problem.clone()));
        let files = self.files.as_ref().map(files::Board::read);
        warnings.extend(files.iter().flat_map(files::FilesStatus::warnings));
        warnings.extend(self.board.warnings());
        let fences = self.fences.read();
        warnings.extend(fences.iter().filter_map(|device| device.problem.clone()));
        let mut dropped: std::collections::BTreeMap<String, u64> =
            self.drops.read().map(|(reason, count)| (reason.to_string(), count)).collect();
        for (reason, count) in &view.dropped {
            *dropped.entry(reason.to_string()).or_default() += count;
        }
        let (policy, exposure) = assemble::policy(&self.config, &view);
        let everybody = view.peers.iter().all(|peer| peer.alive || !peer.configured);
        let ms = |since: holdfast_heartbeat::Time| view.at.since(since).as_millis() as u64;
        Status {
            node: self.config.node_id.clone(),
            kind: kind_name(assemble::kind(&self.config)).to_owned(),
            pid: std::process::id(),
            supervisor_pid: self.supervised.then(std::os::unix::process::parent_id),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role_name(view.role).to_owned(),
            role_since_ms: ms(view.role_since),
            epoch: view.epoch.0,
            healthy: view.primary.is_some()
                && everybody
                && in_sync.len() == data_members
                && warnings.is_empty(),
            primary: view.primary,
            lease_remaining_ms: view.lease_until.map(|until| until.since(view.at).as_millis() as u64),
            serving: view.serving,
            in_sync_here: view.record.as_ref().is_some_and(|record| record.contains(&self.me)),
            solo,
            warnings,
            waiting_for: view.waiting_for,
            priority: view.priority,
            configured_priority: Some(self.config.ha.priority)
                .filter(|configured| *configured != view.priority),
            failback_mode: match self.config.ha.failback.mode {
                FailbackMode::Auto => "auto",
                FailbackMode::Manual => "manual",
                FailbackMode::Disabled => "disabled",
            }
            .to_owned(),
            failback_enabled: view.failback_enabled,
            paused: view.suspension.paused.then(|| Paused {
                since: history::rfc3339(view.suspension.since_unix_ms),
                by: view.suspension.by.as_ref().map(ToString::to_string),
            }),
            drained: view.drained,
            links_failed: view.links_failed,
            penalty: view.penalty,
            checks: self.health.checks.read(view.at),
            disk: self.health.disk.as_ref().map(disk::DiskShown::read),
            vips: self.board.addresses(),
            services,
            conntrack,
            files,
            fences,
            endpoint: self.endpoint.clone(),
            gate: self.gate.name().to_owned(),
            realtime: self.realtime.clone(),
            keys: self.keys.now().keyring.ids(),
            lateness: LatenessStatus {
                longest_us: view.lateness.longest_lately(view.at).as_micros() as u64,
                sum_us: view.lateness.sum.as_micros() as u64,
                buckets: BOUNDS_US
                    .iter()
                    .map(|bound| Some(*bound))
                    .chain([None])
                    .zip(view.lateness.buckets)
                    .collect(),
            },
            gate_fallback: self.gate_fallback.clone(),
            vote: view.has_vote,
            votes: view.voters,
            quorum: view.quorum,
            voters: view.voters_by_name.iter().flatten().map(ToString::to_string).collect(),
            pair: view.pair,
            policy,
            exposure,
            end_lsn: view.log.end.0,
            durable_lsn: view.log.durable.0,
            committed_lsn: log.as_ref().map_or(0, |log| log.committed.0),
            applied_lsn: log.as_ref().map_or(0, |log| log.applied.0),
            peers: view
                .peers
                .iter()
                .zip(&**self.peers.now())
                .filter(|(peer, _)| peer.configured)
                .map(|(peer, slot)| PeerStatus {
                    id: peer.name.clone(),
                    kind: kind_name(peer.kind).to_owned(),
                    alive: peer.alive,
                    last_heard_ms: peer.heard_at.map(ms),
                    role: peer.role.map(|role| role_name(role).to_owned()),
                    epoch: peer.epoch.map(|epoch| epoch.0),
                    priority: peer.priority,
                    in_sync: in_sync.contains(&peer.name),
                    drained: peer.drained,
                    penalty: peer.penalty,
                    disk_stalled: peer.disk_stalled,
                    electable: peer.electable,
                    vote: peer.has_vote,
                    hears: peer.hears.iter().map(|hearing| self.hearing(hearing)).collect(),
                    paths: peer
                        .paths
                        .iter()
                        .zip(&slot.peer.heartbeat)
                        .zip(&self.config.heartbeat_paths)
                        .map(|((path, address), own)| PathStatus {
                            name: own.name.clone(),
                            address: address.to_string(),
                            alive: path.alive,
                            last_heard_ms: path.heard_at.map(ms),
                            reaches: path.reaches,
                            lost_here: path.lost_here,
                            lost_there: path.lost_there,
                            rtt_longest_us: path.rtt_longest_us,
                            rtt_us: path.rtt_us,
                            sent: path.sent,
                            received: path.received,
                            unproven: path.unproven,
                        })
                        .collect(),
                })
                .collect(),
            in_sync,
            counters: Counters { heartbeat_dropped: dropped },
        }
    }
}

impl Show {
    /// That a peer hears somebody, with the paths by this member's names for them.
    fn hearing(&self, hearing: &view::Hearing) -> status::Hearing {
        let names = self.config.heartbeat_paths.iter().map(|path| path.name.clone());
        let (by, not_by): (Vec<_>, Vec<_>) = names.zip(&hearing.paths).partition(|(_, heard)| **heard);
        let only_names = |paths: Vec<(String, &bool)>| paths.into_iter().map(|(name, _)| name).collect();
        status::Hearing { member: hearing.member.clone(), by: only_names(by), not_by: only_names(not_by) }
    }
}

fn kind_name(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Data => "data",
        MemberKind::Witness => "witness",
    }
}
