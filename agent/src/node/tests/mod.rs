//! Whole clusters of nodes under virtual time. The network, the disks and the log are the plainest
//! stand-ins that answer each effect with its event; what is under test is every decision.

mod attendants;
mod cluster;
mod fence;
mod health;
mod maintenance;
mod preference;
mod random_faults;
mod rare_interleavings;
mod scenarios;
mod slow_standby;
mod voting;
