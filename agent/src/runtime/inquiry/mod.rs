//! What `holdfast ha check` finds out, here and by asking the other members.
//!
//! ```text
//!   check ─ announce the addresses held here ─┬─ observe: ask the network, try the service ─┬─ judge ─ report
//!                                             └─ inquiry to each peer ─ its testimony ──────┘
//! ```
//!
//! Nothing here decides about a role, and nothing that a peer says changes any state: inquiries and testimonies
//! are authenticated like heartbeats, pass beside the core, and end in words for people. A thread of its own,
//! so that the heartbeat path waits for none of it.
//!
//! Invariants: one observation at a time for each asker, and none for an inquiry that was seen before or meant
//! for an earlier life of this process; every wait has a limit.

mod judge;
mod observe;
mod report;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Config, timers::Derived};
use holdfast_heartbeat::inquiry::{MAX_ADDRESSES, MAX_KEYS, MAX_STATIONS, label};
use holdfast_heartbeat::packet::OLDEST;
use holdfast_heartbeat::{
    AddressTestimony, BootNonce, Claim, Facts, Inquiry, Member, Message, Testimony, Time,
};
use holdfast_replication::replica::ReplicaStatus;
use holdfast_vip::{Learner, Prober, VipSpec};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub use self::report::{CheckReport, Finding, Outcome};

use self::judge::{Evidence, Told};
use self::observe::{Seen, SeenHost};
use super::address::{self, Board};
use super::assemble;
use super::core::Input;
use super::mailbox::Sender;
use super::peers::Peers;
use super::secrets::Secrets;
use super::sockets::HeartbeatSockets;
use super::status::Status;
use crate::node::view::View;

/// How long the peers may take: an observation, and a lost packet or two.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// An inquiry that is not answered is sent again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// An answer is not sent again sooner.
const TELL_AGAIN: Duration = Duration::from_millis(100);
/// Lives of an asker that are remembered; whoever replays older ones is heard once.
const ASKER_LIVES: usize = 4;

/// What reaches the thread.
#[derive(Debug)]
pub enum Order {
    /// An inquiry or a testimony came from the address of a peer.
    Packet {
        /// Index into the configuration's peers.
        peer: usize,
        /// The moment at which it came.
        at: Time,
        /// What it says.
        message: Message,
    },
    /// Somebody wants to know.
    Check {
        /// This member's state.
        status: Box<Status>,
        /// The log's; absent on a witness.
        log: Option<Box<ReplicaStatus>>,
        /// The findings.
        reply: oneshot::Sender<CheckReport>,
    },
}

/// What the thread is made of.
pub struct Setup {
    /// The configuration.
    pub config: Arc<Config>,
    /// Where the others are.
    pub peers: Peers,
    /// Who this is.
    pub me: Member,
    /// In which life.
    pub boot: BootNonce,
    /// The timers in force.
    pub derived: Derived,
    /// The kernel gate in use.
    pub gate: String,
    /// Signs what is sent.
    pub keys: Secrets,
    /// The heartbeat sockets, for sending.
    pub sockets: HeartbeatSockets,
    /// The thread of the addresses; `None` where there are none.
    pub addresses: Option<UnboundedSender<address::Order>>,
    /// Whether they are on this host.
    pub here: Board,
    /// The core, for its view.
    pub core: Sender<Input>,
}

/// Starts the thread.
///
/// # Errors
/// It cannot be started.
pub fn spawn(setup: Setup, mut orders: UnboundedReceiver<Order>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("inquiry".into()).spawn(move || {
        runtime.block_on(async move {
            let inquirer = Arc::new(Inquirer::new(setup));
            let (learner, here) = (inquirer.learner.clone(), inquirer.setup.here.clone());
            if !inquirer.specs.is_empty() {
                tokio::spawn(async move { learner.listen(|| here.are_here()).await });
            }
            while let Some(order) = orders.recv().await {
                match order {
                    Order::Packet { peer, message: Message::Inquiry(inquiry), .. } => {
                        if inquirer.admits(peer, &inquiry) {
                            let inquirer = inquirer.clone();
                            tokio::spawn(async move { inquirer.answer(peer, inquiry).await });
                        }
                    }
                    Order::Packet { peer, at, message: Message::Testimony(testimony) } => {
                        inquirer.take(peer, at, *testimony);
                    }
                    Order::Packet { .. } => {}
                    Order::Check { status, log, reply } => {
                        let inquirer = inquirer.clone();
                        tokio::spawn(async move {
                            let _ = reply.send(inquirer.check(&status, log.as_deref()).await);
                        });
                    }
                }
            }
        });
    })?;
    Ok(())
}

type Answers = UnboundedSender<(usize, Told)>;

struct Inquirer {
    setup: Setup,
    specs: Vec<VipSpec>,
    learner: Arc<Learner>,
    prober: Prober,
    /// Own inquiries that wait for answers, by round.
    pending: Mutex<HashMap<u64, Answers>>,
    askers: Mutex<HashMap<usize, Asker>>,
}

/// A peer that asks.
#[derive(Default)]
struct Asker {
    /// The highest round of each of its lives.
    rounds: Vec<(BootNonce, u64)>,
    busy: bool,
    /// What was seen for its last inquiry, should the answer have been lost; and when it was last told.
    last: Option<(u64, Answer)>,
    told_at: Option<Instant>,
}

/// An answer, with moments instead of ages.
#[derive(Clone)]
struct Answer {
    seen: Vec<Seen>,
    announced: Option<Time>,
}

impl Inquirer {
    fn new(setup: Setup) -> Inquirer {
        let specs = assemble::vip_specs(&setup.config);
        Inquirer {
            learner: Arc::new(Learner::new(specs.clone())),
            specs,
            prober: Prober::default(),
            pending: Mutex::default(),
            askers: Mutex::default(),
            setup,
        }
    }

    // ---- answering ---------------------------------------------------------------------------------

    /// Whether the inquiry is to be looked into now. One that was answered is answered again from memory.
    fn admits(&self, peer: usize, inquiry: &Inquiry) -> bool {
        if inquiry.to_boot != self.setup.boot {
            return false;
        }
        let mut askers = self.askers.lock();
        let asker = askers.entry(peer).or_default();
        if let Some((round, answer)) = &asker.last
            && *round == inquiry.round
        {
            // Whoever plays the packet again gets no more out of it than one that asks again.
            if asker.told_at.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                self.send(peer, &self.testimony(inquiry, answer));
                asker.told_at = Some(Instant::now());
            }
            return false;
        }
        let known = asker.rounds.iter().find(|(boot, _)| *boot == inquiry.boot);
        if asker.busy || known.is_some_and(|(_, highest)| inquiry.round <= *highest) {
            return false;
        }
        asker.rounds.retain(|(boot, _)| *boot != inquiry.boot);
        asker.rounds.push((inquiry.boot, inquiry.round));
        if asker.rounds.len() > ASKER_LIVES {
            asker.rounds.remove(0);
        }
        asker.busy = true;
        true
    }

    async fn answer(&self, peer: usize, inquiry: Inquiry) {
        let announced = if inquiry.announce { self.announce().await } else { None };
        let answer = Answer { seen: self.observe().await, announced };
        self.send(peer, &self.testimony(&inquiry, &answer));
        if let Some(asker) = self.askers.lock().get_mut(&peer) {
            asker.busy = false;
            asker.told_at = Some(Instant::now());
            asker.last = Some((inquiry.round, answer));
        }
    }

    fn testimony(&self, inquiry: &Inquiry, answer: &Answer) -> Message {
        let now = address::now();
        let us_ago = |at: Time| now.since(at).as_micros() as u64;
        let address = |seen: &Seen| AddressTestimony {
            address: seen.spec.ip(),
            prefix: seen.spec.address.prefix_len(),
            mac: seen.link.as_ref().map(|link| link.mac.octets()),
            up: seen.link.as_ref().is_some_and(|link| link.up),
            here: seen.here,
            asked: seen.holders.is_ok(),
            holders: seen.holders.iter().flatten().take(MAX_STATIONS).map(|mac| mac.octets()).collect(),
            claims: seen
                .claims
                .iter()
                .take(MAX_STATIONS)
                .map(|claim| Claim { mac: claim.mac.octets(), us_ago: us_ago(Time(claim.at)) })
                .collect(),
            service: seen.service.as_ref().map(Result::is_ok),
        };
        Message::Testimony(Box::new(Testimony {
            from: self.setup.me.clone(),
            to_boot: inquiry.boot,
            round: inquiry.round,
            facts: self.facts(),
            announced_us_ago: answer.announced.map(us_ago),
            addresses: answer.seen.iter().take(MAX_ADDRESSES).map(address).collect(),
        }))
    }

    fn facts(&self) -> Facts {
        let (config, derived) = (&self.setup.config, &self.setup.derived);
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Facts {
            version: label(env!("CARGO_PKG_VERSION")),
            kind: assemble::kind(config),
            interval_ns: ns(derived.interval),
            detect_ns: ns(derived.detect),
            lease_ns: ns(derived.lease),
            voters: (1 + self.setup.peers.now().iter().filter(|slot| slot.configured).count())
                .try_into()
                .unwrap_or(u8::MAX),
            two_node: label(&format!("{:?}", config.ha.two_node).to_lowercase()),
            enabled: config.ha.enabled,
            gate: label(&self.setup.gate),
            service_port: observe::service(config).map(|listen| listen.port()),
            keys: self.setup.keys.now().keyring.ids().iter().take(MAX_KEYS).map(|id| label(id)).collect(),
        }
    }

    /// To a peer, by every path.
    fn send(&self, peer: usize, message: &Message) {
        let packet = self.setup.keys.now().keyring.seal(message, OLDEST);
        for path in 0..self.setup.config.heartbeat_paths.len() {
            self.setup.sockets.send(peer, path, &packet);
        }
    }

    // ---- looking -----------------------------------------------------------------------------------

    async fn observe(&self) -> Vec<Seen> {
        let here = self.setup.here.are_here();
        let service = observe::service(&self.setup.config);
        let seen = observe::addresses(&self.specs, here, service, &self.learner, &self.prober).await;
        self.prober.rest();
        seen
    }

    /// Announces the addresses once more, if they are here; says when.
    async fn announce(&self) -> Option<Time> {
        let addresses = self.setup.addresses.as_ref()?;
        let (reply, announced) = oneshot::channel();
        addresses.send(address::Order::Announce(reply)).ok()?;
        let end = Instant::now() + ASK_AGAIN;
        timeout_at(end, announced).await.ok()?.ok()?
    }

    /// A disk that does not answer must hold nobody up.
    async fn look_at_host(&self) -> Option<SeenHost> {
        let config = self.setup.config.clone();
        let looking = tokio::task::spawn_blocking(move || SeenHost::look(&config));
        timeout_at(Instant::now() + ASK_AGAIN * 4, looking).await.ok()?.ok()
    }

    async fn view(&self) -> Option<View> {
        let (reply, view) = oneshot::channel();
        self.setup.core.send(Input::View(reply)).ok()?;
        timeout_at(Instant::now() + ANSWER_WITHIN, view).await.ok()?.ok()
    }

    // ---- asking ------------------------------------------------------------------------------------

    async fn check(&self, status: &Status, log: Option<&ReplicaStatus>) -> CheckReport {
        let host = self.look_at_host().await;
        // Whoever has the addresses announces them; the others say what they heard of it.
        let announced = self.announce().await;
        let (told, own) = tokio::join!(self.ask(announced.is_none()), self.observe());
        let evidence = Evidence {
            config: &self.setup.config,
            derived: &self.setup.derived,
            facts: self.facts(),
            status,
            log,
            host,
            own,
            announced,
            told,
        };
        CheckReport::new(&status.node, status.healthy, judge::findings(&evidence))
    }

    /// Asks every peer that is heard; the answers, in the order of the configuration.
    async fn ask(&self, announce: bool) -> Vec<Option<Told>> {
        let mut told: Vec<Option<Told>> = self.setup.peers.now().iter().map(|_| None).collect();
        let Some(view) = self.view().await else { return told };
        let asked = view.peers.iter().map(|peer| peer.boot.filter(|_| peer.alive));
        let asked: Vec<Option<BootNonce>> = asked.collect();
        // Grows, and is not used twice within this life.
        let round = address::now().0;
        let (answers, mut come) = unbounded_channel();
        self.pending.lock().insert(round, answers);
        let end = Instant::now() + ANSWER_WITHIN;
        loop {
            let missing: Vec<_> = asked
                .iter()
                .enumerate()
                .filter_map(|(peer, boot)| Some((peer, (*boot)?)))
                .filter(|(peer, _)| told[*peer].is_none())
                .collect();
            if missing.is_empty() || Instant::now() >= end {
                break;
            }
            for (peer, to_boot) in missing {
                let (from, boot) = (self.setup.me.clone(), self.setup.boot);
                self.send(peer, &Message::Inquiry(Inquiry { from, boot, to_boot, round, announce }));
            }
            let again = (Instant::now() + ASK_AGAIN).min(end);
            while let Ok(Some((peer, answer))) = timeout_at(again, come.recv()).await {
                let name = view.peers.get(peer).map(|peer| peer.name.as_str());
                if name == Some(answer.testimony.from.id.as_str()) {
                    told[peer].get_or_insert(answer);
                }
                if asked.iter().zip(&told).all(|(asked, told)| asked.is_none() || told.is_some()) {
                    break;
                }
            }
        }
        self.pending.lock().remove(&round);
        // As the status shows them: those that the configuration names.
        let slots = self.setup.peers.now();
        told.into_iter().zip(slots.iter()).filter(|(_, slot)| slot.configured).map(|(told, _)| told).collect()
    }

    fn take(&self, peer: usize, at: Time, testimony: Testimony) {
        if testimony.to_boot != self.setup.boot {
            return;
        }
        let answers = self.pending.lock().get(&testimony.round).cloned();
        if let Some(answers) = answers {
            let _ = answers.send((peer, Told { testimony, at }));
        }
    }
}
