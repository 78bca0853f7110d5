//! Runs hooks and moves services with the role: one thread that does one thing after the other, in the order
//! in which the core said them.
//!
//! ```text
//!   mod.rs          what is run when, and what its failure means
//!   run.rs          one hook, from the agent's side
//!   keeper.rs       the process that ends a hook with all that it started
//!   environment.rs  what a hook is told
//!   journal.rs      which hook an agent's death cut short
//!   units.rs        systemd over D-Bus
//! ```
//!
//! What must hold: the core never waits for anything here; whatever is ordered is answered within the limits
//! that [`attendance`] states to it; a hook is run at most once for a change of role. Nothing here decides a
//! role: a veto is a word to the core.

pub mod environment;
pub mod journal;
pub mod keeper;
pub mod run;
pub mod units;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_config::{Config, Hook, HookEvent, Mode, OnFailure, Service, SyncFiles};
use holdfast_heartbeat::{Epoch, NodeId, Role};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use self::environment::{Occasion, Place, environment};
use self::journal::{Journal, Running};
use self::keeper::Ended;
pub use self::run::{BEYOND_LIMIT, OUTPUT_BYTES};
use self::units::Units;
pub use self::units::{UnitStates, UnitStatus};
use super::address;
use super::files::{self, SetTakenOver};
use super::history::wall_time;
use super::mailbox::{Receiver, Sender, channel};
use super::report::Report;
use crate::node::event::{Event, Readiness};
use crate::node::settings::Attendance;
use crate::node::transition::{Cause, Transition};

/// Changes of role whose hooks may wait. A cluster that changes faster than its hooks run for so long has
/// other worries, and hooks for roles of a minute ago would be worse than none.
const MAX_WAITING: usize = 32;

/// How long a unit's state may take to be told.
const STATE_WITHIN: Duration = Duration::from_secs(1);

/// An order of the core.
#[derive(Debug)]
pub enum Order {
    /// The role changed.
    Changed(Transition),
    /// Run the pre-hooks and start the services.
    Prepare {
        /// The reign.
        epoch: Epoch,
        /// Names the order.
        round: u64,
    },
    /// Stop the services; before that, where it is planned, run the hooks for leaving.
    Retire {
        /// The reign.
        epoch: Epoch,
        /// Names the order.
        round: u64,
        /// The address is still here.
        planned: bool,
    },
    /// The agent ends.
    End,
}

/// What the runner is started with.
pub struct Setup {
    /// This member.
    pub node: NodeId,
    /// The virtual addresses with their prefixes.
    pub vips: Vec<String>,
    /// Where this member's API answers.
    pub api: String,
    /// In the order in which they are run.
    pub hooks: Vec<Hook>,
    /// In the order in which they are started.
    pub services: Vec<Service>,
    /// Files that are put in place before, with what keeps them; none where there are none.
    pub files: Option<(Vec<SyncFiles>, files::Handle)>,
    /// Where the note of the running hook is kept.
    pub state_dir: PathBuf,
    /// The holdfast binary.
    pub program: PathBuf,
    /// The bus of systemd; `None` for the system's.
    pub bus: Option<String>,
}

impl Setup {
    /// What the configuration says; `None` where nothing follows the role here.
    pub fn new(config: &Config, node: NodeId, files: Option<files::Handle>) -> Option<Setup> {
        attendance(config)?;
        let Place { vips, api, .. } = place(config, node.clone());
        Some(Setup {
            node,
            vips,
            api,
            hooks: config.ha.hooks.clone(),
            services: config.services.clone(),
            files: files.map(|files| (config.sync_files.clone(), files)),
            state_dir: config.state_dir.clone(),
            program: own_program(),
            bus: None,
        })
    }

    /// The longest that the agent's end may wait for what is still to be run.
    pub fn longest_end(&self) -> Duration {
        limits(&self.hooks, &[HookEvent::Primary, HookEvent::Fault, HookEvent::Standby, HookEvent::Stop])
            + self.services.iter().map(|service| service.stop_timeout).sum::<Duration>()
    }
}

/// What hooks are told of this member.
pub fn place(config: &Config, node: NodeId) -> Place {
    Place {
        node: node.to_string(),
        vips: config.ha.virtual_ips.iter().map(|vip| vip.address.to_string()).collect(),
        api: format!("http://{}", config.api.listen),
    }
}

/// The holdfast binary, for keepers: the very file that runs here, also while a package replaces it.
pub fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// The limits that the core is told; `None` where nothing follows the role.
pub fn attendance(config: &Config) -> Option<Attendance> {
    let (hooks, services) = (&config.ha.hooks, &config.services);
    let sets = &config.sync_files;
    if config.mode == Mode::Witness || hooks.is_empty() && services.is_empty() && sets.is_empty() {
        return None;
    }
    let stops: Duration = services.iter().map(|service| service.stop_timeout).sum();
    let starts: Duration = services.iter().map(|service| service.start_timeout).sum();
    let takeovers = sets.iter().filter(|set| set.on_takeover.is_some());
    let takeovers: Duration = takeovers.map(|set| set.timeout + BEYOND_LIMIT).sum();
    let (placing, flushing) = match sets.is_empty() {
        true => (Duration::ZERO, Duration::ZERO),
        false => (files::PLACED_WITHIN, files::FLUSHED_WITHIN),
    };
    // One thing after the other: what belongs to the change of role before may still be under way.
    let before = limits(hooks, &[HookEvent::Primary, HookEvent::Fault, HookEvent::Standby]) + stops;
    Some(Attendance {
        prepare: before + placing + limits(hooks, &[HookEvent::PrePrimary]) + takeovers + starts,
        retire: before + limits(hooks, &[HookEvent::PreStandby]) + starts + flushing,
        may_veto: hooks.iter().any(|hook| hook.veto) || sets.iter().any(|set| set.veto),
    })
}

fn limits(hooks: &[Hook], events: &[HookEvent]) -> Duration {
    let times = |hook: &Hook| events.iter().filter(|event| hook.on.contains(event)).count() as u32;
    hooks.iter().map(|hook| (hook.timeout + BEYOND_LIMIT) * times(hook)).sum()
}

/// Starts the runner. The receiver ends when everything before `Order::End`, and the hooks for it, is done.
pub fn spawn(
    setup: Setup,
    states: UnitStates,
    event: impl Fn(Event) + Send + 'static,
    reports: Sender<Report>,
) -> std::io::Result<(UnboundedSender<Order>, Receiver<()>)> {
    let (orders, receiver) = unbounded_channel();
    let (done, ended) = channel();
    // A runtime of its own: hooks and systemd are waited for beside whatever the clients keep busy.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("hooks".into()).spawn(move || {
        let mut runner = Runner::new(setup, states, reports);
        runtime.block_on(async {
            runner.stop_what_an_earlier_life_left().await;
            runner.work(receiver, event).await;
        });
        drop(done);
    })?;
    Ok((orders, ended))
}

struct Runner {
    place: Place,
    me: NodeId,
    hooks: Vec<Hook>,
    services: Vec<Service>,
    files: Option<(Vec<SyncFiles>, files::Handle)>,
    program: PathBuf,
    units: Units,
    states: UnitStates,
    journal: Journal,
    reports: Sender<Report>,
    /// How the present candidacy began, for the hooks of the reign that may come of it.
    stood: Option<Transition>,
    /// How the present switchover began.
    handing_over: Option<Transition>,
    /// Hooks and services of a reign were begun here and have not been told of its end.
    attending: bool,
    /// The hooks have been told that this member is primary.
    primary: bool,
    /// A reign ended; its hooks are run when its services have stopped.
    owed: Option<Transition>,
}

impl Runner {
    fn new(setup: Setup, states: UnitStates, reports: Sender<Report>) -> Runner {
        let (journal, left) = Journal::open(&setup.state_dir);
        let runner = Runner {
            place: Place { node: setup.node.to_string(), vips: setup.vips, api: setup.api },
            me: setup.node,
            hooks: setup.hooks,
            services: setup.services,
            files: setup.files,
            program: setup.program,
            units: Units::new(setup.bus),
            states,
            journal,
            reports,
            stood: None,
            handing_over: None,
            attending: false,
            primary: false,
            owed: None,
        };
        if let Some(Running { hook, event, epoch, since }) = left {
            runner.warn(format!(
                "the agent died while hook {hook} ran for {event} in epoch {epoch} (since {since}); the hook was killed with it and is not run again. Look whether what it does is half done"
            ));
        }
        runner
    }

    fn warn(&self, message: String) {
        let _ = self.reports.send(Report::Warning { at: address::now(), message });
    }

    fn note(&self, message: String) {
        let _ = self.reports.send(Report::Note { at: address::now(), message });
    }

    async fn work(&mut self, mut orders: UnboundedReceiver<Order>, event: impl Fn(Event)) {
        let mut waiting: VecDeque<Order> = VecDeque::new();
        loop {
            while let Ok(order) = orders.try_recv() {
                waiting.push_back(order);
            }
            let order = match waiting.pop_front() {
                Some(order) => order,
                None => match orders.recv().await {
                    Some(order) => order,
                    None => return,
                },
            };
            match order {
                Order::Changed(transition) => self.note_change(transition, waiting.len() < MAX_WAITING).await,
                Order::Prepare { epoch, round } => {
                    let outcome = self.prepare_unless_over(epoch, &mut orders, &mut waiting).await;
                    event(Event::Prepared { epoch, round, outcome });
                }
                Order::Retire { epoch, round, planned } => {
                    if planned {
                        let occasion = self.leaving(epoch);
                        self.run_all(HookEvent::PreStandby, &occasion).await;
                    }
                    self.stop_services().await;
                    if let Some((_, files)) = &self.files {
                        // What the services wrote at their end belongs to the next primary.
                        files.flush().await;
                    }
                    event(Event::Retired { round });
                    if let Some(transition) = self.owed.take() {
                        self.tell_of_the_end(transition).await;
                    }
                }
                Order::End => {
                    let occasion = self.ending();
                    self.run_all(HookEvent::Stop, &occasion).await;
                    return;
                }
            }
        }
    }

    /// Prepares, and calls it off as soon as an order says that its reign is over: nobody waits for it then,
    /// and what follows must not wait for its limits.
    async fn prepare_unless_over(
        &mut self,
        epoch: Epoch,
        orders: &mut UnboundedReceiver<Order>,
        waiting: &mut VecDeque<Order>,
    ) -> Readiness {
        if waiting.iter().any(|order| ends(order, epoch)) {
            return Readiness::Failed { why: "the reign was over before its hooks were run".to_owned() };
        }
        let (call_off, called_off) = watch::channel(false);
        let step = self.prepare(epoch, called_off);
        tokio::pin!(step);
        loop {
            tokio::select! {
                biased;
                outcome = &mut step => return outcome,
                Some(order) = orders.recv() => {
                    if ends(&order, epoch) {
                        call_off.send_replace(true);
                    }
                    waiting.push_back(order);
                }
            }
        }
    }

    /// The files, the pre-hooks in their order, the programs of the files, then the services in theirs.
    async fn prepare(&mut self, epoch: Epoch, mut called_off: watch::Receiver<bool>) -> Readiness {
        self.attending = true;
        let occasion = self.beginning(epoch);
        let taken = match self.place_files(epoch, called_off.clone()).await {
            Ok(taken) => taken,
            Err(why_not) => return why_not,
        };
        let hooks = self.on(HookEvent::PrePrimary);
        for hook in hooks {
            let well = self.run_hook(&hook, HookEvent::PrePrimary, &occasion, called_off.clone()).await;
            if *called_off.borrow() {
                return Readiness::Failed { why: "the reign is over".to_owned() };
            }
            if hook.veto && !well {
                return Readiness::Vetoed { why: format!("hook {} vetoes it", hook.name) };
            }
        }
        for (set, taken) in taken {
            let told = files::told_of(&set, &taken.placed);
            let well = self.tell_of_takeover(&set, told, &occasion, called_off.clone()).await;
            if *called_off.borrow() {
                return Readiness::Failed { why: "the reign is over".to_owned() };
            }
            if set.veto && !well {
                return Readiness::Vetoed {
                    why: format!("on_takeover of sync_files {} vetoes it", set.name),
                };
            }
        }
        let services = self.services.clone();
        for service in services {
            let started = tokio::select! {
                started = self.start_service(&service) => started,
                _ = called_off.wait_for(|off| *off) => {
                    return Readiness::Failed { why: "the reign is over".to_owned() };
                }
            };
            if let (Err(why), OnFailure::GiveUp) = (started, service.on_failure) {
                return Readiness::Failed { why };
            }
        }
        Readiness::Ready
    }

    /// Has the log's files put in their places; what was done for each set, or why the takeover is given up.
    async fn place_files(
        &mut self,
        epoch: Epoch,
        mut called_off: watch::Receiver<bool>,
    ) -> Result<Vec<(SyncFiles, SetTakenOver)>, Readiness> {
        let Some((sets, files)) = self.files.clone() else { return Ok(Vec::new()) };
        let taken = tokio::select! {
            taken = files.take_over(epoch) => taken,
            _ = called_off.wait_for(|off| *off) => {
                return Err(Readiness::Failed { why: "the reign is over".to_owned() });
            }
        };
        let taken = taken.unwrap_or_else(|| {
            let why = format!("they were not in their places within {} s", files::PLACED_WITHIN.as_secs());
            sets.iter().map(|_| SetTakenOver { placed: Vec::new(), failures: vec![why.clone()] }).collect()
        });
        for (set, taken) in sets.iter().zip(&taken) {
            let Some(first) = taken.failures.first() else { continue };
            let why = format!(
                "sync_files {}: {} of the log's files are not in their places, first {first}",
                set.name,
                taken.failures.len()
            );
            if set.veto {
                return Err(Readiness::Vetoed { why });
            }
            self.warn(format!("{why}; the takeover goes on with what is there"));
        }
        Ok(sets.into_iter().zip(taken).collect())
    }

    /// Runs `on_takeover` of a set; says whether it ended well.
    async fn tell_of_takeover(
        &mut self,
        set: &SyncFiles,
        told: Vec<(&'static str, String)>,
        occasion: &Occasion,
        called_off: watch::Receiver<bool>,
    ) -> bool {
        let Some(command) = set.on_takeover.clone() else { return true };
        let hook = Hook {
            name: format!("sync_files {}", set.name),
            on: Vec::new(),
            command,
            timeout: set.timeout,
            veto: set.veto,
        };
        let mut environment = environment(&self.place, occasion, HookEvent::PrePrimary, &hook.name);
        environment.retain(|(key, _)| *key != "HOLDFAST_EVENT");
        environment.push(("HOLDFAST_EVENT", "takeover".to_owned()));
        environment.extend(told);
        self.run_told(&hook, "takeover", &environment, occasion.epoch, called_off).await
    }

    async fn note_change(&mut self, transition: Transition, run: bool) {
        if let Some((_, files)) = &self.files {
            match transition.to {
                Role::Primary => files.begin(transition.epoch),
                Role::Standby => files.end(),
                Role::Candidate | Role::Promoting | Role::HandingOver | Role::Witness => {}
            }
        }
        match (transition.from, transition.to) {
            (_, Role::Candidate) => self.stood = Some(transition),
            (Role::Primary, Role::HandingOver) => self.handing_over = Some(transition),
            (from, Role::Primary) => {
                let mut occasion = self.beginning(transition.epoch);
                if from == Role::HandingOver {
                    // The switchover was called off: what left for it comes back.
                    occasion = self.occasion(transition.epoch, Some(&transition), "primary", "primary");
                    let services = self.services.clone();
                    for service in services {
                        let _ = self.start_service(&service).await;
                    }
                }
                occasion.primary = Some(self.me.clone());
                self.primary = true;
                if run {
                    self.run_all(HookEvent::Primary, &occasion).await;
                } else {
                    self.warn(format!(
                        "roles change faster than hooks run: those for becoming primary in epoch {} are left out",
                        transition.epoch
                    ));
                }
            }
            // Its services left in the switchover that has just ended.
            (Role::HandingOver, Role::Standby) => self.tell_of_the_end(transition).await,
            (Role::Promoting | Role::Primary, Role::Standby) => self.owed = Some(transition),
            _ => {}
        }
    }

    async fn tell_of_the_end(&mut self, transition: Transition) {
        let was = if self.primary { "primary" } else { "standby" };
        self.primary = false;
        if !std::mem::take(&mut self.attending) {
            return;
        }
        let mut occasion = self.occasion(transition.epoch, Some(&transition), was, "standby");
        occasion.primary = transition.peer.clone();
        if matches!(transition.cause, Cause::DiskFailed | Cause::LinksFailed) {
            self.run_all(HookEvent::Fault, &occasion).await;
        }
        self.run_all(HookEvent::Standby, &occasion).await;
    }

    // ---- hooks -------------------------------------------------------------------------------------

    fn occasion(
        &self,
        epoch: Epoch,
        transition: Option<&Transition>,
        from: &'static str,
        to: &'static str,
    ) -> Occasion {
        let cause = transition.and_then(|transition| serde_json::to_value(transition.cause).ok());
        Occasion {
            epoch,
            from,
            to,
            cause: cause.and_then(|cause| cause.as_str().map(str::to_owned)).unwrap_or_default(),
            reason: transition.map(|transition| transition.reason.clone()).unwrap_or_default(),
            peer: transition.and_then(|transition| transition.peer.clone()),
            primary: None,
        }
    }

    fn beginning(&self, epoch: Epoch) -> Occasion {
        self.occasion(epoch, self.stood.as_ref(), "standby", "primary")
    }

    fn leaving(&self, epoch: Epoch) -> Occasion {
        let mut occasion = self.occasion(epoch, self.handing_over.as_ref(), "primary", "standby");
        occasion.primary = Some(self.me.clone());
        occasion
    }

    fn ending(&self) -> Occasion {
        let role = if self.primary { "primary" } else { "standby" };
        let mut occasion = self.occasion(Epoch::ZERO, None, role, role);
        occasion.cause = "terminating".to_owned();
        occasion.reason = "the agent is shutting down".to_owned();
        occasion
    }

    fn on(&self, event: HookEvent) -> Vec<Hook> {
        self.hooks.iter().filter(|hook| hook.on.contains(&event)).cloned().collect()
    }

    async fn run_all(&mut self, event: HookEvent, occasion: &Occasion) {
        // Nobody calls these off: the sender lives as long as they run.
        let (_never, called_off) = watch::channel(false);
        for hook in self.on(event) {
            self.run_hook(&hook, event, occasion, called_off.clone()).await;
        }
    }

    /// Runs one hook and reports it; says whether it ended well.
    async fn run_hook(
        &mut self,
        hook: &Hook,
        event: HookEvent,
        occasion: &Occasion,
        called_off: watch::Receiver<bool>,
    ) -> bool {
        let told = environment(&self.place, occasion, event, &hook.name);
        self.run_told(hook, event.word(), &told, occasion.epoch, called_off).await
    }

    /// Likewise, with the environment at hand.
    async fn run_told(
        &mut self,
        hook: &Hook,
        event: &str,
        told: &[(&'static str, String)],
        epoch: Epoch,
        called_off: watch::Receiver<bool>,
    ) -> bool {
        self.journal.begins(&Running {
            hook: hook.name.clone(),
            event: event.to_owned(),
            epoch: epoch.0,
            since: wall_time(),
        });
        let ran = run::run(&self.program, &hook.command, told, hook.timeout, called_off).await;
        self.journal.over();
        let well = ran.ended == Ended::Exited(0);
        let _ = self.reports.send(Report::Hook {
            at: address::now(),
            epoch,
            failed: !well,
            message: format!(
                "hook {} ({event}) {}",
                hook.name,
                in_words(&ran.ended, ran.took, hook.timeout, &hook.command[0])
            ),
            output: ran.output,
        });
        well
    }

    // ---- services ----------------------------------------------------------------------------------

    async fn start_service(&mut self, service: &Service) -> Result<(), String> {
        self.states.set(&service.unit, |shown| {
            shown.wanted = true;
            shown.state = "activating".to_owned();
            shown.problem = None;
        });
        let begin = std::time::Instant::now();
        let outcome = self.units.start(&service.unit, service.start_timeout).await;
        if let Err(error) = outcome {
            let why = format!("service {} ({}) did not start: {error}", service.name, service.unit);
            self.warn(why.clone());
            self.states.set(&service.unit, |shown| shown.problem = Some(why.clone()));
            self.look_at(service).await;
            return Err(why);
        }
        self.note(format!(
            "service {} ({}) was started in {} ms",
            service.name,
            service.unit,
            begin.elapsed().as_millis()
        ));
        self.watch(service).await;
        Ok(())
    }

    /// From now on a unit that ends is reported.
    async fn watch(&mut self, service: &Service) {
        let (states, reports) = (self.states.clone(), self.reports.clone());
        let (name, unit) = (service.name.clone(), service.unit.clone());
        let told = move |state: String| {
            let ended = !matches!(state.as_str(), "active" | "activating" | "reloading" | "refreshing");
            let problem = ended.then(|| {
                format!("service {name} ({unit}) is {state} while this member is primary; see: systemctl status {unit}")
            });
            let mut news = None;
            states.set(&unit, |shown| {
                if shown.wanted && shown.problem.is_none() {
                    news.clone_from(&problem);
                }
                shown.state = state;
                shown.problem = problem.filter(|_| shown.wanted);
            });
            if let Some(message) = news {
                let _ = reports.send(Report::Warning { at: address::now(), message });
            }
        };
        self.units.watch(&service.unit, STATE_WITHIN, told).await;
    }

    async fn stop_services(&mut self) {
        for service in self.services.clone().into_iter().rev() {
            self.stop_service(&service).await;
        }
    }

    async fn stop_service(&mut self, service: &Service) {
        self.states.set(&service.unit, |shown| shown.wanted = false);
        let outcome = self.units.stop(&service.unit, service.stop_timeout).await;
        let problem = outcome
            .err()
            .map(|error| format!("service {} ({}) did not stop: {error}", service.name, service.unit));
        if let Some(why) = &problem {
            self.warn(why.clone());
        }
        self.states.set(&service.unit, |shown| shown.problem = problem);
        self.look_at(service).await;
    }

    async fn look_at(&mut self, service: &Service) {
        let state = self.units.state(&service.unit, STATE_WITHIN).await;
        self.states.set(&service.unit, |shown| shown.state = state.unwrap_or_else(|_| "unknown".to_owned()));
    }

    /// This life begins as a standby, whatever ran here before.
    async fn stop_what_an_earlier_life_left(&mut self) {
        for service in self.services.clone().into_iter().rev() {
            match self.units.state(&service.unit, STATE_WITHIN).await {
                Ok(state) if matches!(state.as_str(), "inactive" | "failed") => {
                    self.states.set(&service.unit, |shown| shown.state = state);
                }
                Ok(_) => {
                    self.note(format!(
                        "service {} ({}) runs and this member is not primary: stopping it. Only Holdfast should start it: systemctl disable {}",
                        service.name, service.unit, service.unit
                    ));
                    self.stop_service(&service).await;
                }
                Err(error) => {
                    let why =
                        format!("service {} ({}) cannot be looked at: {error}", service.name, service.unit);
                    self.warn(why.clone());
                    self.states.set(&service.unit, |shown| shown.problem = Some(why));
                }
            }
        }
    }
}

/// Whether the order says that the reign of `epoch` is over.
fn ends(order: &Order, epoch: Epoch) -> bool {
    matches!(order, Order::Changed(transition) if transition.epoch == epoch && transition.to == Role::Standby)
        || matches!(order, Order::End)
}

/// How a run of `program` that was given `limit` ended.
pub(super) fn in_words(ended: &Ended, took: Duration, limit: Duration, program: &str) -> String {
    let took = took.as_millis();
    let left = |survivors: usize| match survivors {
        0 => String::new(),
        n => format!(
            "; {n} of its processes could not be killed: they belong to another user, or the kernel holds them"
        ),
    };
    match ended {
        Ended::Exited(0) => format!("ended well after {took} ms"),
        Ended::Exited(status) => format!("failed after {took} ms: exit status {status}"),
        Ended::Signalled(signal) => format!("failed after {took} ms: {signal}"),
        Ended::LimitReached { survivors } => format!(
            "was killed with all that it had started: it took longer than {} s{}",
            limit.as_secs_f64(),
            left(*survivors)
        ),
        Ended::CalledOff { survivors } => {
            format!("was killed after {took} ms: the reign that it was run for is over{}", left(*survivors))
        }
        Ended::NotStarted(why) => format!("could not be run: {why} ({program})"),
    }
}
