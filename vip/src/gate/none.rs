//! No gate, for kernels and user namespaces that permit none: what remains is the lifetime of the
//! address, in whole seconds and never under two, and the agent's own care.

use std::io;

use super::{Ending, Gate, GateHealth};
use crate::spec::{VipSpec, interfaces};

/// Enforces nothing and says so.
#[derive(Debug)]
pub struct NoGate {
    interfaces: Vec<String>,
}

impl NoGate {
    /// For the interfaces of `specs`.
    pub fn new(specs: &[VipSpec]) -> NoGate {
        NoGate { interfaces: interfaces(specs) }
    }
}

impl Gate for NoGate {
    fn name(&self) -> &'static str {
        "valid_lft only"
    }

    fn allow_address_until(&self, _boottime_ns: u64) -> io::Result<()> {
        Ok(())
    }

    fn allow_ports_until(&self, _boottime_ns: u64) -> io::Result<()> {
        Ok(())
    }

    /// There is nothing that could be missing.
    fn check(&self) -> io::Result<GateHealth> {
        Ok(GateHealth { attached: self.interfaces.clone(), ..GateHealth::default() })
    }

    fn repair(&self) -> io::Result<GateHealth> {
        self.check()
    }

    fn detach(&self) -> io::Result<()> {
        Ok(())
    }

    fn ending(&self) -> Ending {
        Ending::Lifetime
    }
}
