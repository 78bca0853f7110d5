//! Two machines and a witness under systemd, installed from the package with apt: what an operator has, and what
//! happens to it.
//!
//! Needs root, systemd-container, mmdebstrap and, for the first run, a mirror of Debian; elsewhere each test says that
//! it was skipped, and why. `HOLDFAST_HOSTS=must` makes that a failure.

mod everyday;
mod network;
mod packages;
mod readme;
mod services;
mod steps;
