//! Services over a real bus (`dbus-daemon`), with a stand-in for systemd's manager on it: the calls, the
//! signals and the properties are those of org.freedesktop.systemd1(5). No unit of a real systemd is touched.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_agent::node::event::Readiness;
use holdfast_agent::node::transition::Cause;
use holdfast_agent::runtime::hooks::UnitStatus;
use holdfast_config::{OnFailure, Service};
use holdfast_heartbeat::Role;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedObjectPath};

use crate::{LIMIT, Stage};

const MANAGER: &str = "/org/freedesktop/systemd1";

/// A bus of this test's own.
struct Bus {
    daemon: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Bus {
    fn start() -> Option<Bus> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let config = dir.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn();
        let mut daemon = match daemon {
            Ok(daemon) => daemon,
            Err(error) => {
                println!("skipped: there is no dbus-daemon here ({error})");
                return None;
            }
        };
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Bus { daemon, address: address.trim().to_owned(), _dir: dir })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What the stand-in was told, and how its units behave.
#[derive(Clone, Default)]
struct Systemd(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: Vec<String>,
    active: BTreeMap<String, String>,
    jobs: u32,
}

impl Systemd {
    fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.clone()
    }

    fn active(&self, unit: &str) -> String {
        self.0.lock().unwrap().active.get(unit).cloned().unwrap_or_else(|| "inactive".to_owned())
    }

    fn set(&self, unit: &str, state: &str) {
        self.0.lock().unwrap().active.insert(unit.to_owned(), state.to_owned());
    }

    async fn serve(&self, address: &str) -> Connection {
        let manager = Manager(self.clone());
        let mut builder = zbus::connection::Builder::address(address)
            .name("org.freedesktop.systemd1")
            .serve_at(MANAGER, manager);
        for unit in ["web.service", "slow.service", "bad.service"] {
            builder = builder.serve_at(path(unit), Unit(self.clone(), unit.to_owned()));
        }
        builder.build().await.unwrap()
    }

    /// The unit dies by itself.
    async fn die(&self, connection: &Connection, unit: &str) {
        self.set(unit, "failed");
        changed(connection, unit).await;
    }
}

async fn changed(connection: &Connection, unit: &str) {
    let proxy = connection.object_server().interface::<_, Unit>(path(unit)).await.unwrap();
    proxy.get().await.active_state_changed(proxy.signal_emitter()).await.unwrap();
}

fn path(unit: &str) -> String {
    format!("{MANAGER}/unit/{}", unit.replace('.', "_2e"))
}

struct Manager(Systemd);

impl Manager {
    /// As systemd does it: the job is queued, the answer names it, and `JobRemoved` says how it ended.
    async fn job(
        &self,
        connection: &Connection,
        verb: &str,
        unit: &str,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        let (systemd, id) = {
            let mut state = self.0.0.lock().unwrap();
            state.calls.push(format!("{verb} {unit}"));
            state.jobs += 1;
            (self.0.clone(), state.jobs)
        };
        if unit == "unknown.service" {
            return Err(zbus::fdo::Error::FileNotFound(format!("Unit {unit} not found.")));
        }
        let job = OwnedObjectPath::try_from(format!("{MANAGER}/job/{id}")).unwrap();
        let result = match (verb, unit) {
            ("start", "bad.service") => "failed",
            ("start", "slow.service") => return Ok(job),
            _ => "done",
        };
        let state = match (verb, result) {
            ("start", "done") => "active",
            ("start", _) => "failed",
            _ => "inactive",
        };
        let (connection, unit, told) = (connection.clone(), unit.to_owned(), job.clone());
        tokio::spawn(async move {
            systemd.set(&unit, state);
            changed(&connection, &unit).await;
            let emitter = SignalEmitter::new(&connection, MANAGER).unwrap();
            Manager::job_removed(&emitter, id, told.as_ref(), &unit, result).await.unwrap();
        });
        Ok(job)
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn subscribe(&self) {
        self.0.0.lock().unwrap().calls.push("subscribe".to_owned());
    }

    async fn load_unit(&self, name: &str) -> OwnedObjectPath {
        OwnedObjectPath::try_from(path(name)).unwrap()
    }

    async fn start_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        assert_eq!(mode, "replace");
        self.job(connection, "start", name).await
    }

    async fn stop_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        assert_eq!(mode, "replace");
        self.job(connection, "stop", name).await
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

struct Unit(Systemd, String);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    async fn active_state(&self) -> String {
        self.0.active(&self.1)
    }

    #[zbus(property)]
    async fn load_state(&self) -> String {
        "loaded".to_owned()
    }
}

fn service(name: &str, limit: Duration, on_failure: OnFailure) -> Service {
    Service {
        name: name.to_owned(),
        unit: format!("{name}.service"),
        start_timeout: limit,
        stop_timeout: limit,
        on_failure,
    }
}

fn stage(services: Vec<Service>, bus: Option<String>) -> Stage {
    Stage::new(tempfile::tempdir().unwrap(), Vec::new(), services, bus)
}

/// Waits until the unit's shown state is as `wanted` says.
async fn shown(stage: &Stage, wanted: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
    let begin = Instant::now();
    loop {
        let status = stage.states.read().remove(0);
        if wanted(&status) {
            return status;
        }
        assert!(begin.elapsed() < LIMIT, "{status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_follows_the_role_and_its_end_is_reported() {
    let Some(bus) = Bus::start() else { return };
    let systemd = Systemd::default();
    // An earlier life of the agent died as primary and left it running.
    systemd.set("web.service", "active");
    let connection = systemd.serve(&bus.address).await;
    let stage = stage(vec![service("web", LIMIT, OnFailure::GiveUp)], Some(bus.address.clone()));
    shown(&stage, |status| status.state == "inactive").await;
    assert_eq!(systemd.calls(), ["subscribe", "stop web.service"]);

    let stage = tokio::task::block_in_place(|| {
        assert_eq!(stage.prepare(4), Readiness::Ready);
        stage
    });
    assert_eq!(systemd.active("web.service"), "active");
    stage.change(Role::Promoting, Cause::StepsDone, Role::Primary, 4);
    let status = shown(&stage, |status| status.state == "active").await;
    assert_eq!((status.wanted, status.problem), (true, None));

    systemd.die(&connection, "web.service").await;
    let warning = tokio::task::block_in_place(|| stage.warning());
    assert!(
        warning.contains("service web (web.service) is failed while this member is primary"),
        "{warning}"
    );
    shown(&stage, |status| status.problem.is_some()).await;
    // systemd restarts it by itself: all is well again.
    systemd.set("web.service", "active");
    changed(&connection, "web.service").await;
    shown(&stage, |status| status.problem.is_none()).await;

    stage.change(Role::Primary, Cause::LeaseLapsed, Role::Standby, 4);
    tokio::task::block_in_place(|| stage.retire(4, false));
    let status = shown(&stage, |status| !status.wanted).await;
    assert_eq!((status.state.as_str(), status.problem), ("inactive", None));
    assert_eq!(systemd.calls().last().unwrap(), "stop web.service");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_or_takes_too_long_counts_as_configured() {
    let Some(bus) = Bus::start() else { return };
    let systemd = Systemd::default();
    let _connection = systemd.serve(&bus.address).await;
    for (name, on_failure, why) in [
        ("bad", OnFailure::GiveUp, "systemd says \"failed\"; see: systemctl status bad.service"),
        ("slow", OnFailure::GiveUp, "not within 0.5 s; see: systemctl status slow.service"),
        ("bad", OnFailure::Ignore, "systemd says \"failed\""),
    ] {
        let services = vec![service(name, Duration::from_millis(500), on_failure)];
        let stage = stage(services, Some(bus.address.clone()));
        let (outcome, warning) = tokio::task::block_in_place(|| (stage.prepare(1), stage.warning()));
        assert!(warning.contains(why), "{warning}");
        match on_failure {
            OnFailure::GiveUp => assert!(matches!(outcome, Readiness::Failed { .. }), "{outcome:?}"),
            OnFailure::Ignore => assert_eq!(outcome, Readiness::Ready),
        }
        shown(&stage, |status| status.problem.as_ref().is_some_and(|problem| problem.contains(why))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_cannot_be_reached_is_a_failed_start_that_says_so() {
    let missing = Some("unix:path=/nowhere/bus".to_owned());
    let stage = stage(vec![service("web", Duration::from_secs(5), OnFailure::GiveUp)], missing);
    let (first, outcome) = tokio::task::block_in_place(|| (stage.warning(), stage.prepare(1)));
    assert!(first.contains("cannot be looked at: D-Bus cannot be reached"), "{first}");
    let Readiness::Failed { why } = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("D-Bus cannot be reached") && why.contains("system_bus_socket"), "{why}");
    shown(&stage, |status| status.problem.is_some() && status.state == "unknown").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_without_systemd_is_told_from_a_refusal_of_systemd() {
    let Some(bus) = Bus::start() else { return };
    let limit = Duration::from_secs(5);
    let nobody = stage(vec![service("web", limit, OnFailure::GiveUp)], Some(bus.address.clone()));
    let warning = tokio::task::block_in_place(|| nobody.warning());
    assert!(warning.contains("D-Bus cannot be reached"), "{warning}");

    let systemd = Systemd::default();
    let _connection = systemd.serve(&bus.address).await;
    let refused = stage(vec![service("unknown", limit, OnFailure::GiveUp)], Some(bus.address.clone()));
    let outcome = tokio::task::block_in_place(|| refused.prepare(1));
    let Readiness::Failed { why } = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("systemd refuses: ") && why.contains("Unit unknown.service not found"), "{why}");
    // The way that was missing before is found now.
    let outcome = tokio::task::block_in_place(|| nobody.prepare(1));
    assert_eq!(outcome, Readiness::Ready);
}
