//! Virtual addresses: everything between "this member may serve" and "clients reach it".
//!
//! | module | decides |
//! |---|---|
//! | [`plan`] | which steps lead from the addresses that are to those that should be; pure |
//! | [`addresses`] | nothing: carries the steps out over netlink, and observes |
//! | [`watch`] | which of the kernel's notices concern our addresses and links |
//! | [`routes`] | nothing: adds and removes the routes and rules that move with an address |
//! | [`announce`] | what to tell the neighbours, and when |
//! | [`conflict`] | which frames say that somebody else has an address of ours |
//! | [`probe`] | whether somebody else has an address; whether a neighbour is alive |
//! | [`learned`] | nothing: remembers who last said that it has an address, for proof |
//! | [`echo`] | whether an address beyond the link is alive |
//! | [`conntrack`] | nothing: reads, writes and watches the kernel's table of connections |
//! | [`gate`] | nothing: lets the kernel itself enforce the deadline that the agent set |
//! | [`watchdog`] | nothing: lets the kernel restart the host when nobody says that it works |
//!
//! The crate never decides *whether* to hold an address: that is the agent's, by its lease. It knows no
//! epoch, no peer and no role. It starts no process and leaves no interface in promiscuous mode. All
//! moments are nanoseconds of CLOCK_BOOTTIME.
//!
//! Sockets and interface names belong to the network namespace of the thread that makes the call.

pub mod addresses;
pub mod announce;
pub mod clock;
pub mod conflict;
pub mod conntrack;
pub mod echo;
pub mod error;
mod frame;
pub mod gate;
pub mod learned;
pub mod link;
mod packet_socket;
pub mod plan;
pub mod probe;
pub mod routes;
pub mod spec;
pub mod watch;
pub mod watchdog;

pub use addresses::{Addresses, VipState};
pub use announce::{Announcer, Schedule};
pub use clock::boottime_ns;
pub use conflict::{Contest, Sentinel, Sign};
pub use echo::echo;
pub use error::VipError;
pub use learned::{Learned, Learner};
pub use link::{LinkView, link_up, mac_of, usable as usable_links, view as link_view};
pub use pnet::util::MacAddr;
pub use probe::{Conflict, ProbeResult, Prober, probe_ip};
pub use routes::Routes;
pub use spec::{Rounds, RouteSpec, RuleSpec, VipSpec};
pub use watch::{Alteration, VipEvent, Watch};
pub use watchdog::Watchdog;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a task of a multi-threaded runtime may hold across its waits.
    #[test]
    fn everything_can_be_used_from_any_task() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>(_: &T) {}
        shared::<Addresses>();
        shared::<Announcer>();
        shared::<Prober>();
        shared::<Learner>();
        shared::<gate::EbpfGate>();
        shared::<gate::NftGate>();
        let _ = |routes: &Routes, sentinel: &mut Sentinel| {
            sent(&routes.ensure());
            sent(&routes.remove());
            sent(&sentinel.next());
        };
        let _ = |addresses: &Addresses, prober: &Prober, watch: &mut Watch, time| {
            sent(&addresses.claim(time));
            sent(&addresses.release());
            sent(&addresses.observe());
            sent(&prober.probe(1, time));
            sent(&prober.probe_ip("eth1", [0; 4].into(), 1, time));
            sent(&watch.next());
        };
    }
}
