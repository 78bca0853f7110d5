//! Has members switched off: carries out the core's orders with the configured devices, and looks at each device
//! from time to time so that a dead one is known before it is needed.
//!
//! ```text
//!   mod.rs     orders, levels, and what is said of them
//!   device.rs  one device: switch, look, try again
//!   board.rs   what is shown of the devices
//! ```
//!
//! One thread with a runtime of its own. What must hold: the core never waits for anything here; an order is answered
//! within the limit that [`fencing`] states; `confirmed` is said only when every device of one level has done it and,
//! where it is asked, says so itself. A run that has begun is not cut short by a call-off: half an order is worse.

pub mod board;
mod device;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_config::{Config, FenceDevice, Mode};
use holdfast_heartbeat::NodeId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use self::board::FenceBoard;
use self::device::{Device, Failure};
use super::address;
use super::mailbox::Sender;
use super::report::Report;
use crate::node::event::Event;
use crate::node::settings::Fencing;

/// An order of the core.
#[derive(Debug)]
pub enum Order {
    /// Switch a member off; answered by `FenceFinished`.
    Fence {
        /// Names the order.
        round: u64,
        /// Whom.
        member: NodeId,
    },
    /// What has not begun is left undone.
    CallOff {
        /// Names the order.
        round: u64,
    },
}

/// What the core is told of the devices; `None` where nobody can be switched off from here.
pub fn fencing(config: &Config) -> Option<Fencing> {
    let targets = config.fence_targets();
    if config.mode == Mode::Witness || targets.is_empty() {
        return None;
    }
    let limit = targets.iter().map(|member| config.fence_limit(member)).max()?;
    Some(Fencing {
        targets: targets.into_iter().filter_map(|name| NodeId::new(name.to_owned()).ok()).collect(),
        limit,
        required: config.ha.fencing_required,
        head_start: config.fence_head_start(),
    })
}

/// Starts the thread, where there is a device for another member; also what is shown of the devices.
///
/// # Errors
/// The thread cannot be started.
pub fn spawn(
    config: &Arc<Config>,
    event: impl Fn(Event) + Clone + Send + 'static,
    reports: Sender<Report>,
) -> std::io::Result<(Option<UnboundedSender<Order>>, FenceBoard)> {
    if fencing(config).is_none() {
        return Ok((None, FenceBoard::default()));
    }
    // A device for this member alone is for the others' files.
    let used = |device: &&FenceDevice| device.targets.iter().any(|target| target.member != config.node_id);
    let board = FenceBoard::new(config.fences.iter().filter(used));
    let (orders, receiver) = unbounded_channel();
    // A runtime of its own: devices are waited for beside whatever the clients keep busy.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (config, shown) = (config.clone(), board.clone());
    std::thread::Builder::new().name("fence".into()).spawn(move || {
        let runner = Rc::new(Runner {
            config,
            // The very file that runs here, also while a package replaces it.
            program: PathBuf::from("/proc/self/exe"),
            board: shown,
            reports,
        });
        LocalSet::new().block_on(&runtime, runner.work(receiver, event));
    })?;
    Ok((Some(orders), board))
}

struct Runner {
    config: Arc<Config>,
    program: PathBuf,
    board: FenceBoard,
    reports: Sender<Report>,
}

/// Whether an order is still wanted; shared with whoever carries it out.
type Wanted = Arc<AtomicBool>;

impl Runner {
    async fn work(
        self: Rc<Runner>,
        mut orders: UnboundedReceiver<Order>,
        event: impl Fn(Event) + Clone + 'static,
    ) {
        for device in self.board.read() {
            tokio::task::spawn_local(self.clone().watch(device.name));
        }
        let mut under_way: BTreeMap<u64, Wanted> = BTreeMap::new();
        while let Some(order) = orders.recv().await {
            under_way.retain(|_, wanted| Arc::strong_count(wanted) > 1);
            match order {
                Order::Fence { round, member } => {
                    let wanted = Wanted::new(AtomicBool::new(true));
                    under_way.insert(round, wanted.clone());
                    let (runner, event) = (self.clone(), event.clone());
                    tokio::task::spawn_local(async move {
                        runner.switch_off(round, member, wanted, event).await;
                    });
                }
                Order::CallOff { round } => {
                    if let Some(wanted) = under_way.remove(&round) {
                        wanted.store(false, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn warn(&self, message: String) {
        let _ = self.reports.send(Report::Warning { at: address::now(), message });
    }

    fn note(&self, message: String) {
        let _ = self.reports.send(Report::Note { at: address::now(), message });
    }

    fn device<'a>(&'a self, device: &'a FenceDevice) -> Device<'a> {
        Device { program: &self.program, device, board: &self.board }
    }

    /// Level by level, until all devices of one have done it.
    async fn switch_off(&self, round: u64, member: NodeId, wanted: Wanted, event: impl Fn(Event)) {
        let levels = self.config.fence_levels(member.as_str());
        let mut failures: Vec<String> = Vec::new();
        if levels.is_empty() {
            failures.push(format!("no fence device here is for {member}"));
        }
        for devices in levels {
            let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
            match self.switch_level(&devices, member.as_str(), &wanted).await {
                Ok(()) => {
                    let verified = devices.iter().all(|device| device.verify);
                    let how = if verified { "switched it off and say so" } else { "were told to" };
                    let detail = format!("{} {how}", names.join(" and "));
                    event(Event::FenceFinished { round, confirmed: true, detail });
                    return self.switch_on_where_wanted(&devices, member.as_str()).await;
                }
                Err(Failure::CalledOff) => {
                    self.note(format!("switching {member} off was called off before it was done"));
                    // The core has called it off and does not wait; an answer that says no harms nobody.
                    let detail = "it was called off".to_owned();
                    return event(Event::FenceFinished { round, confirmed: false, detail });
                }
                Err(Failure::Failed(why)) => failures.push(why),
            }
        }
        event(Event::FenceFinished { round, confirmed: false, detail: failures.join("; ") });
    }

    async fn switch_level(
        &self,
        devices: &[&FenceDevice],
        member: &str,
        wanted: &AtomicBool,
    ) -> Result<(), Failure> {
        let mut done: Vec<&FenceDevice> = Vec::new();
        for device in devices {
            let outcome = match wanted.load(Ordering::Relaxed) {
                true => self.device(device).switch_off(member, wanted).await,
                false => Err(Failure::CalledOff),
            };
            match outcome {
                Ok(()) => {
                    self.note(format!("fence device {}: {member} is off", device.name));
                    done.push(device);
                }
                Err(Failure::CalledOff) => {
                    // One of two power supplies is off, and the member lives on the other one.
                    for device in done {
                        self.switch_on(device, member).await;
                    }
                    return Err(Failure::CalledOff);
                }
                Err(Failure::Failed(why)) => {
                    self.warn(why.clone());
                    return Err(Failure::Failed(why));
                }
            }
        }
        Ok(())
    }

    async fn switch_on_where_wanted(&self, devices: &[&FenceDevice], member: &str) {
        for device in devices.iter().filter(|device| device.reboot) {
            self.switch_on(device, member).await;
        }
    }

    async fn switch_on(&self, device: &FenceDevice, member: &str) {
        match self.device(device).switch_on(member).await {
            Ok(()) => self.note(format!("fence device {}: {member} is on again", device.name)),
            Err(why) => self.warn(format!("{why}; {member} stays off until somebody switches it on")),
        }
    }

    /// Looks at a device again and again.
    async fn watch(self: Rc<Runner>, name: String) {
        let Some(device) = self.config.fences.iter().find(|device| device.name == name) else { return };
        let mut failed = false;
        loop {
            // A device that is being used has other things to do, and says by that how it is.
            if !self.board.in_use(&name) {
                match self.device(device).look().await {
                    Ok(()) if std::mem::take(&mut failed) => {
                        self.note(format!("fence device {name} answers again"));
                    }
                    Ok(()) => {}
                    Err(why) if !failed => {
                        failed = true;
                        self.warn(format!("{why}. Nobody could be switched off with it now"));
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(device.monitor_interval).await;
        }
    }
}

/// What an agent is told, one `key=value` a line, the action first (the interface of `fence-agents`: FenceAgentAPI.md).
fn told(device: &FenceDevice, action: &str, plug: Option<&str>) -> Vec<u8> {
    let mut text = format!("action={action}\n");
    if let Some(plug) = plug {
        text.push_str(&format!("plug={plug}\n"));
    }
    for (key, value) in &device.params {
        text.push_str(&format!("{key}={}\n", value.expose()));
    }
    text.into_bytes()
}
