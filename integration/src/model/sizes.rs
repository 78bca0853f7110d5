//! How much of the protocol is looked at in one check.
//!
//! Time and logs together make more states than can be looked at, and do not need each other: one primary per epoch and
//! the in-sync set must hold whatever any clock says, so [`SET`] has no time at all (no lease binds anybody); leases
//! must exclude each other whatever is written, so [`LEASE`] has no logs. [`BOTH`] joins them at the smallest size.

/// What is modelled, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What the size is called.
    pub name: &'static str,
    /// All members; with two there is no witness and each may decide alone.
    pub members: usize,
    /// Data members; the others are witnesses.
    pub data: usize,
    /// The last epoch; the first reign is epoch 1.
    pub epochs: u8,
    /// Ticks of a lease; zero leaves time out.
    pub lease: u8,
    /// Crashes in all.
    pub crashes: u8,
    /// Whether logs, records and writes are part of it.
    pub in_sync: bool,
    /// Writes in all.
    pub writes: u8,
    /// Records in an epoch.
    pub versions: u8,
}

const NOTHING: Size = Size {
    name: "",
    members: 3,
    data: 2,
    epochs: 2,
    lease: 0,
    crashes: 0,
    in_sync: false,
    writes: 0,
    versions: 1,
};

/// Votes alone, with a crash, over three epochs.
pub const VOTES: Size = Size { name: "votes", epochs: 3, crashes: 1, ..NOTHING };
/// Two data members and no witness, each free to go on alone.
pub const PAIR: Size = Size { name: "pair", members: 2, epochs: 3, crashes: 1, ..NOTHING };
/// Votes and leases on drifting clocks, with a crash.
pub const LEASE: Size = Size { name: "lease", lease: 2, crashes: 1, ..NOTHING };
/// Votes, logs and records, with a shrink and a growth in one reign and a write.
pub const SET: Size = Size { name: "set", in_sync: true, writes: 1, versions: 3, ..NOTHING };
/// The same with a crash and room for one change of the set.
pub const SET_CRASH: Size = Size { name: "set, crash", crashes: 1, versions: 2, ..SET };
/// Votes, logs and records of three data members without a witness.
pub const SET_OF_THREE: Size = Size { name: "set of three", data: 3, versions: 1, ..SET };
/// Leases, logs and records.
pub const BOTH: Size = Size { name: "lease and set", lease: 1, versions: 1, ..SET };

/// What is looked at with every change.
pub const SIZES: [Size; 6] = [VOTES, PAIR, LEASE, SET, SET_CRASH, SET_OF_THREE];

/// What takes minutes, or hours, in a release build.
pub const LARGE: [Size; 7] = [
    Size { name: "lease, three data members", data: 3, ..LEASE },
    Size { name: "set, crash, shrink and growth", crashes: 1, ..SET },
    BOTH,
    Size { name: "set of three, one change", versions: 2, ..SET_OF_THREE },
    Size { name: "lease, three epochs", epochs: 3, ..LEASE },
    Size { name: "set, three epochs", epochs: 3, versions: 2, ..SET },
    Size { name: "set, two writes", writes: 2, ..SET },
];
