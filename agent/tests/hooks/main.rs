//! Hooks and services as the agent runs them: real processes below the real keeper, and a real bus.

mod processes;
mod units;

use holdfast_agent::runtime::mailbox::{Receiver, channel};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_agent::node::event::{Event, Readiness};
use holdfast_agent::node::transition::{Cause, Transition, find};
use holdfast_agent::runtime::hooks::{self, Order, Setup, UnitStates};
use holdfast_agent::runtime::report::Report;
use holdfast_config::{Hook, HookEvent, Service};
use holdfast_heartbeat::{Epoch, NodeId, Role};
use tokio::sync::mpsc::UnboundedSender;

/// Far more than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A runner with its orders and what comes of them.
struct Stage {
    dir: tempfile::TempDir,
    orders: UnboundedSender<Order>,
    events: Receiver<Event>,
    reports: Receiver<Report>,
    states: UnitStates,
    ended: Receiver<()>,
}

impl Stage {
    fn new(dir: tempfile::TempDir, hooks: Vec<Hook>, services: Vec<Service>, bus: Option<String>) -> Stage {
        let setup = Setup {
            node: NodeId::new("a").unwrap(),
            vips: vec!["10.0.0.100/24".to_owned(), "fd00::100/64".to_owned()],
            api: "http://127.0.0.1:8080".to_owned(),
            hooks,
            services,
            files: None,
            state_dir: dir.path().to_owned(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_holdfast")),
            bus,
        };
        let named = setup.services.iter().map(|service| (service.name.clone(), service.unit.clone()));
        let states = UnitStates::new(named);
        let ((told, events), (said, reports)) = (channel(), channel());
        let event = move |event: Event| drop(told.send(event));
        let (orders, ended) = hooks::spawn(setup, states.clone(), event, said).unwrap();
        Stage { dir, orders, events, reports, states, ended }
    }

    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    fn change(&self, from: Role, cause: Cause, to: Role, epoch: u64) {
        let reason = find(from, cause, to).expect("a row of the table").reason.to_owned();
        let peer = Some(NodeId::new("b").unwrap());
        self.order(Order::Changed(Transition { from, to, cause, reason, epoch: Epoch(epoch), peer }));
    }

    /// From standby to the order to prepare, and what came of it.
    fn prepare(&self, epoch: u64) -> Readiness {
        self.change(Role::Standby, Cause::PrimarySilent, Role::Candidate, epoch);
        self.order(Order::Prepare { epoch: Epoch(epoch), round: 1 });
        self.prepared()
    }

    fn prepared(&self) -> Readiness {
        match self.events.recv_timeout(LIMIT) {
            Ok(Event::Prepared { outcome, .. }) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn retire(&self, epoch: u64, planned: bool) {
        self.order(Order::Retire { epoch: Epoch(epoch), round: 1, planned });
        assert!(matches!(self.events.recv_timeout(LIMIT), Ok(Event::Retired { round: 1 })));
    }

    /// The next report of a hook: how it ended, whether well, and what it said.
    fn hook_report(&self) -> (String, bool, String) {
        loop {
            match self.reports.recv_timeout(LIMIT).expect("a report") {
                Report::Hook { message, failed, output, .. } => return (message, failed, output),
                other => println!("{other:?}"),
            }
        }
    }

    /// The next warning.
    fn warning(&self) -> String {
        loop {
            match self.reports.recv_timeout(LIMIT).expect("a report") {
                Report::Warning { message, .. } => return message,
                other => println!("{other:?}"),
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A script that does `body`, with `$DIR` for the directory.
fn script(dir: &Path, name: &str, body: &str) -> Vec<String> {
    let path = dir.join(name);
    let body = body.replace("$DIR", dir.to_str().unwrap());
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    vec![path.to_str().unwrap().to_owned()]
}

fn hook(name: &str, on: &[HookEvent], command: Vec<String>, timeout: Duration, veto: bool) -> Hook {
    Hook { name: name.to_owned(), on: on.to_vec(), command, timeout, veto }
}
