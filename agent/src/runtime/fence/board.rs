//! What is shown of the fence devices: for `ha status`, the API and the metrics.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use holdfast_config::FenceDevice;
use serde::{Deserialize, Serialize};

/// A device as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FenceStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The agent's program, without its folder.
    pub agent: String,
    /// Whom it can switch off.
    pub members: Vec<String>,
    /// Its level.
    pub level: u8,
    /// `unknown`, `answers`, `silent`, or `switching`.
    pub state: String,
    /// Why it is silent.
    pub problem: Option<String>,
    /// How long ago it was looked at last.
    pub looked_ms_ago: Option<u64>,
    /// What became of the last order to it, in words.
    pub last: Option<String>,
    /// Looks that found it answering.
    pub looks: u64,
    /// Looks that did not.
    pub failed_looks: u64,
    /// Orders that it has carried out.
    pub done: u64,
    /// Orders that failed.
    pub failed: u64,
}

#[derive(Clone, Debug)]
struct Shown {
    status: FenceStatus,
    looked: Option<Instant>,
    switching: Option<String>,
}

/// All devices. Held for the time of a copy only.
#[derive(Clone, Debug, Default)]
pub struct FenceBoard(Arc<Mutex<Vec<Shown>>>);

impl FenceBoard {
    /// Nothing is known yet of these.
    pub(super) fn new<'d>(devices: impl Iterator<Item = &'d FenceDevice>) -> FenceBoard {
        let unknown = |device: &FenceDevice| Shown {
            status: FenceStatus {
                name: device.name.clone(),
                agent: device
                    .agent
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                members: device.targets.iter().map(|target| target.member.clone()).collect(),
                level: device.level,
                state: "unknown".to_owned(),
                ..FenceStatus::default()
            },
            looked: None,
            switching: None,
        };
        FenceBoard(Arc::new(Mutex::new(devices.map(unknown).collect())))
    }

    /// A copy.
    pub fn read(&self) -> Vec<FenceStatus> {
        let all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let copy = |shown: &Shown| {
            let mut status = shown.status.clone();
            status.looked_ms_ago = shown.looked.map(|at| at.elapsed().as_millis() as u64);
            if let Some(member) = &shown.switching {
                status.state = "switching".to_owned();
                status.last = Some(format!("switching {member} off"));
            }
            status
        };
        all.iter().map(copy).collect()
    }

    /// Whether it is carrying out an order.
    pub(super) fn in_use(&self, name: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        all.iter().any(|shown| shown.status.name == name && shown.switching.is_some())
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Shown)) {
        let mut all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(shown) = all.iter_mut().find(|shown| shown.status.name == name) {
            change(shown);
        }
    }

    /// An order is carried out from now on.
    pub(super) fn begin(&self, name: &str, member: &str) {
        self.change(name, |shown| shown.switching = Some(member.to_owned()));
    }

    /// What became of it.
    pub(super) fn end(&self, name: &str, well: bool, said: String) {
        self.change(name, |shown| {
            shown.switching = None;
            shown.status.last = Some(said);
            if well {
                shown.status.done += 1;
            } else {
                shown.status.failed += 1;
            }
        });
    }

    /// It was looked at: why it is silent, if it is.
    pub(super) fn looked(&self, name: &str, problem: Option<String>) {
        self.change(name, |shown| {
            shown.looked = Some(Instant::now());
            shown.status.state = if problem.is_some() { "silent" } else { "answers" }.to_owned();
            match &problem {
                Some(_) => shown.status.failed_looks += 1,
                None => shown.status.looks += 1,
            }
            shown.status.problem = problem;
        });
    }
}
