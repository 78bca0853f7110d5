//! The core's thread: one loop that feeds the [`Node`] and carries its effects out.
//!
//! Nothing here waits for a disk, a lock that is held across I/O, or another thread: orders go into
//! channels, sends do not block, the lease is two stores and two system calls. Everything that can be
//! slow answers with an event later.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;

use holdfast_heartbeat::{Epoch, Message, Time};
use holdfast_replication::replica::Input as Replicate;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::address::{self, Order};
use super::fence;
use super::hooks;
use super::lease::Lease;
use super::log_thread::{LogInput, Reply, wall_ms};
use super::mailbox::{Receiver, Sender};
use super::recorder::{self, FlightRecorder, RecordError};
use super::report::Report;
use super::secrets::Secrets;
use super::service::ServiceOrder;
use super::sockets::HeartbeatSockets;
use super::supervisor::Testament;
use super::watchdog::Progress;
use crate::node::Node;
use crate::node::effect::Effect;
use crate::node::event::{Answer, Command, Event, Readiness};
use crate::node::hard_state::HardState;
use crate::node::view::View;

/// Inputs that are taken in one go before the clock is read again.
const BATCH: usize = 64;

/// What reaches the core.
pub enum Input {
    /// Something happened.
    Event(Event),
    /// An authentic packet came in.
    Packet {
        /// Whose address it came from.
        peer: usize,
        /// By which path.
        path: usize,
        /// What it says.
        message: Message,
    },
    /// Somebody wants to know its state.
    View(oneshot::Sender<View>),
    /// Somebody wants what it was told lately to be written down.
    Record(recorder::Reply),
    /// An operator gives a command.
    Command(Command, oneshot::Sender<Answer>),
}

/// Whom to follow, for the stream's connector: the reign, and which peer to connect to.
pub type Leader = Option<(Epoch, usize)>;

/// Everything that the core gives orders to.
pub struct Arms {
    /// Heartbeats out.
    pub sockets: HeartbeatSockets,
    /// Signs them.
    pub keys: Secrets,
    /// The lease and the gate.
    pub lease: Lease,
    /// The state file's writer.
    pub state: Sender<(u64, HardState)>,
    /// The virtual addresses; `None` where none is configured.
    pub addresses: Option<UnboundedSender<Order>>,
    /// The log; `None` on a witness.
    pub log: Option<Sender<LogInput>>,
    /// Whom the log's stream should follow.
    pub leader: tokio::sync::watch::Sender<Leader>,
    /// Hooks and services that follow the role; `None` where there are none.
    pub attendants: Option<UnboundedSender<hooks::Order>>,
    /// What switches other members off; `None` where nothing here can.
    pub fence: Option<UnboundedSender<fence::Order>>,
    /// The S3 service.
    pub service: UnboundedSender<ServiceOrder>,
    /// Log lines and the history.
    pub reports: Sender<Report>,
    /// The supervisor.
    pub supervisor: Option<UnixStream>,
    /// Keeps what the core was told; `None` where it is switched off.
    pub recorder: Option<FlightRecorder>,
    /// Counts the turns, for the watchdogs.
    pub progress: Progress,
}

/// The core at work.
pub struct Core {
    node: Node,
    arms: Arms,
    testament: Testament,
    commands: HashMap<u64, oneshot::Sender<Answer>>,
    next_command: u64,
    /// Events that the core answers itself because there is nobody else to.
    own: Vec<Event>,
    /// Filled and emptied in each turn; kept for its memory.
    effects: Vec<Effect>,
    exit: bool,
}

impl Core {
    /// A core that is about to run.
    pub fn new(node: Node, arms: Arms, testament: Testament) -> Core {
        Core {
            node,
            arms,
            testament,
            commands: HashMap::new(),
            next_command: 0,
            own: Vec::new(),
            effects: Vec::with_capacity(64),
            exit: false,
        }
    }

    /// Runs until the node says that the process may end.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        self.bequeath();
        while !self.exit {
            let wait = self.node.deadline().since(address::now());
            match inputs.recv_timeout(wait) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => self.turn(Event::Ticked),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for _ in 0..BATCH {
                match inputs.try_recv() {
                    Ok(input) => self.take(input),
                    Err(_) => break,
                }
            }
            self.arms.progress.made();
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.turn(event),
            Input::Packet { peer, path, message: Message::Heartbeat(heartbeat) } => {
                self.turn(Event::HeartbeatReceived { peer, path, heartbeat });
            }
            Input::Packet { message: Message::Notice(notice), .. } => {
                self.turn(Event::NoticeReceived(notice))
            }
            // Nothing that the core decides by; see `runtime::inquiry`.
            Input::Packet { message: Message::Inquiry(_) | Message::Testimony(_), .. } => {}
            Input::View(reply) => drop(reply.send(self.node.view(address::now()))),
            Input::Record(reply) => match &mut self.arms.recorder {
                Some(recorder) => recorder.record_now(&self.node, address::now(), reply),
                None => drop(reply.send(Err(RecordError::Off))),
            },
            Input::Command(command, reply) => {
                self.next_command += 1;
                let id = self.next_command;
                self.commands.insert(id, reply);
                self.turn(Event::CommandGiven { id, command });
            }
        }
    }

    /// One event, and whatever the core answers itself.
    fn turn(&mut self, event: Event) {
        self.step(event);
        while let Some(event) = self.own.pop() {
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        let now = address::now();
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(recorder) = &mut self.arms.recorder {
            recorder.before(&self.node, now, &event);
        }
        self.node.handle(now, event, &mut effects);
        if let Some(recorder) = &mut self.arms.recorder {
            recorder.after(&effects);
        }
        // The supervisor must know of a reign before anybody can see its effects.
        if self.node.reigning_epoch() != self.testament.epoch {
            self.bequeath();
        }
        for effect in effects.drain(..) {
            self.execute(now, effect);
        }
        if let Some(recorder) = &mut self.arms.recorder {
            recorder.hand_over_if_due(&self.node);
        }
        self.effects = effects;
    }

    fn bequeath(&mut self) {
        self.testament.epoch = self.node.reigning_epoch();
        if let Some(supervisor) = &mut self.arms.supervisor {
            let mut line = serde_json::to_vec(&self.testament).expect("a testament is plain data");
            line.push(b'\n');
            if let Err(error) = supervisor.write_all(&line) {
                tracing::error!(%error, "the supervisor does not listen any more");
            }
        }
    }

    fn execute(&mut self, now: Time, effect: Effect) {
        let arms = &mut self.arms;
        match effect {
            Effect::Send { peer, path, version, heartbeat } => {
                let packet = arms.keys.now().keyring.seal(&Message::Heartbeat(heartbeat), version);
                arms.sockets.send(peer, path, &packet);
            }
            Effect::Persist { token, state } => drop(arms.state.send((token, state))),
            Effect::ExtendLease { epoch, until } => arms.lease.extend(epoch, until),
            Effect::EndLease => arms.lease.end(),
            Effect::ProbeVip { round, window } => match &arms.addresses {
                Some(addresses) => drop(addresses.send(Order::Probe { round, window })),
                None => self.own.push(Event::ProbeFinished { round, conflict: None, asked: true }),
            },
            Effect::ClaimVip { epoch } => match &arms.addresses {
                Some(addresses) => drop(addresses.send(Order::Claim(epoch))),
                None => self.own.push(Event::VipClaimed { epoch }),
            },
            Effect::ReleaseVip => match &arms.addresses {
                Some(addresses) => drop(addresses.send(Order::Release)),
                None => self.own.push(Event::VipReleased),
            },
            Effect::Lead { epoch, members } => {
                arms.leader.send_replace(None);
                self.tell_log(Replicate::Lead { epoch, members, wall_ms: wall_ms() });
            }
            Effect::Follow { epoch, leader, peer } => {
                self.tell_log(Replicate::Follow { epoch, leader });
                self.arms.leader.send_replace(Some((epoch, peer)));
            }
            Effect::StandDown { epoch } => {
                arms.leader.send_replace(None);
                self.tell_log(Replicate::StandDown { epoch });
            }
            Effect::Promise { epoch } => self.tell_log(Replicate::Promise { epoch }),
            Effect::WaitFor { epoch, version, members } => {
                self.tell_log(Replicate::WaitFor { epoch, version, members })
            }
            Effect::Serve { .. } => drop(arms.service.send(ServiceOrder::Serve)),
            Effect::StopServing { drain } => drop(arms.service.send(ServiceOrder::Stop { drain })),
            Effect::Report(transition) => {
                if let Some(attendants) = &arms.attendants {
                    let _ = attendants.send(hooks::Order::Changed(transition.clone()));
                }
                drop(arms.reports.send(Report::Transition { at: now, transition }));
            }
            Effect::Note { message } => drop(arms.reports.send(Report::Note { at: now, message })),
            Effect::Warn { message } => drop(arms.reports.send(Report::Warning { at: now, message })),
            Effect::Answer { id, answer } => {
                if let Some(reply) = self.commands.remove(&id) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Prepare { epoch, round } => match &arms.attendants {
                Some(attendants) => drop(attendants.send(hooks::Order::Prepare { epoch, round })),
                None => self.own.push(Event::Prepared { epoch, round, outcome: Readiness::Ready }),
            },
            Effect::Retire { epoch, round, planned } => match &arms.attendants {
                Some(attendants) => drop(attendants.send(hooks::Order::Retire { epoch, round, planned })),
                None => self.own.push(Event::Retired { round }),
            },
            Effect::Fence { round, member } => match &arms.fence {
                Some(fence) => drop(fence.send(fence::Order::Fence { round, member })),
                None => self.own.push(Event::FenceFinished {
                    round,
                    confirmed: false,
                    detail: "no fence device is configured here".to_owned(),
                }),
            },
            Effect::CallOffFence { round } => {
                if let Some(fence) = &arms.fence {
                    let _ = fence.send(fence::Order::CallOff { round });
                }
            }
            Effect::Exit => {
                if let Some(attendants) = &arms.attendants {
                    let _ = attendants.send(hooks::Order::End);
                }
                self.exit = true;
            }
        }
    }

    fn tell_log(&mut self, input: Replicate<Reply>) {
        if let Some(log) = &self.arms.log {
            let _ = log.send(LogInput::Replica(input));
        }
    }
}
