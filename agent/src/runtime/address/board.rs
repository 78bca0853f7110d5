//! What the thread of the addresses lets everybody else read: for `ha status` and the metrics. It decides
//! nothing and holds its lock only to copy; nobody on the heartbeat path reads it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_vip::VipSpec;
use serde::{Deserialize, Serialize};

/// What the status shows of one address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address with its prefix length.
    pub address: String,
    /// Its interface.
    pub interface: String,
    /// Whether this member has claimed it.
    pub held: bool,
    /// Frames in which another station claimed it while it was held here.
    #[serde(default)]
    pub contested: u64,
    /// How often it was put back after another program had taken it off or changed it.
    #[serde(default)]
    pub restored: u64,
}

/// What a warning is about; a new one replaces the former of the same subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Other stations that claim an address.
    Rivals,
    /// Another program on this host that fights for an address.
    Meddling,
    /// Routes and rules that cannot be added.
    Routes,
}

/// The board, shared.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// All of them are here, or none.
    here: AtomicBool,
    addresses: Vec<Counted>,
    warnings: Mutex<[Vec<String>; 3]>,
}

#[derive(Debug)]
struct Counted {
    spec: VipSpec,
    contested: AtomicU64,
    restored: AtomicU64,
}

impl Board {
    /// A board for `specs`, none of which is here.
    pub fn new(specs: &[VipSpec]) -> Board {
        let counted = |spec: &VipSpec| Counted {
            spec: spec.clone(),
            contested: AtomicU64::default(),
            restored: AtomicU64::default(),
        };
        Board(Arc::new(Shared { addresses: specs.iter().map(counted).collect(), ..Shared::default() }))
    }

    /// Whether the addresses are on this host.
    pub fn are_here(&self) -> bool {
        self.0.here.load(Ordering::Relaxed)
    }

    pub(super) fn set_here(&self, here: bool) {
        self.0.here.store(here, Ordering::Relaxed);
    }

    pub(super) fn count_contested(&self, spec: &VipSpec, frames: u32) {
        if let Some(counted) = self.of(spec) {
            counted.contested.fetch_add(frames.into(), Ordering::Relaxed);
        }
    }

    pub(super) fn count_restored(&self, spec: &VipSpec) {
        if let Some(counted) = self.of(spec) {
            counted.restored.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn of(&self, spec: &VipSpec) -> Option<&Counted> {
        self.0.addresses.iter().find(|counted| counted.spec == *spec)
    }

    pub(super) fn warn(&self, subject: Subject, warnings: Vec<String>) {
        self.0.warnings.lock().unwrap_or_else(PoisonError::into_inner)[subject as usize] = warnings;
    }

    /// What is not as it should be, in words.
    pub fn warnings(&self) -> Vec<String> {
        self.0.warnings.lock().unwrap_or_else(PoisonError::into_inner).concat()
    }

    /// The addresses, in the order of the configuration.
    pub fn addresses(&self) -> Vec<VipStatus> {
        let held = self.0.here.load(Ordering::Relaxed);
        let shown = |counted: &Counted| VipStatus {
            address: counted.spec.address.to_string(),
            interface: counted.spec.interface.clone(),
            held,
            contested: counted.contested.load(Ordering::Relaxed),
            restored: counted.restored.load(Ordering::Relaxed),
        };
        self.0.addresses.iter().map(shown).collect()
    }
}
