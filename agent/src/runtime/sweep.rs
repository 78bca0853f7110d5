//! Takes away what a dead agent may have left on this host: the routes of the virtual addresses, the addresses,
//! then the kernel gates. In this order there is no moment with an address and without a gate.
//!
//! Every start does so. `holdfast sweep` does it for an agent that will not be started again: systemd calls it
//! when the unit has stopped, and an operator may. It holds the lock of the state directory meanwhile, so
//! that nothing is taken from an agent that lives, or is only frozen.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use holdfast_config::Config;
use holdfast_vip::{Addresses, Routes, VipSpec, gate};

use super::{assemble, state_file};

/// Removes the addresses with their routes, and says in words which were there.
///
/// # Errors
/// Netlink cannot be used, or the kernel refused.
pub fn addresses(specs: &[VipSpec]) -> Result<Vec<String>> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let swept = runtime.block_on(async {
        let mut swept = Routes::open(specs.to_vec()).await?.sweep().await?;
        let addresses = Addresses::open(specs.to_vec()).await?.sweep().await?;
        swept.extend(addresses.iter().map(ToString::to_string));
        Ok::<_, holdfast_vip::VipError>(swept)
    });
    swept.context("the virtual addresses that an agent may have left cannot be removed")
}

/// Sweeps after the member of this configuration; says in words what was there.
///
/// # Errors
/// The configuration cannot be read, the agent runs, or something could not be removed.
pub fn run(config: &Path) -> Result<String> {
    let config = Config::load(config).map_err(|error| anyhow!("\n{error}"))?.config;
    let specs = assemble::vip_specs(&config);
    if specs.is_empty() {
        return Ok("This member has no virtual address: nothing to sweep.\n".to_owned());
    }
    if !config.state_dir.is_dir() {
        bail!("{} is missing: no agent of this configuration has run here", config.state_dir.display());
    }
    let _only_one = state_file::StateDir::open(&config.state_dir).context(
        "nothing was changed: only what a dead agent left is swept. Stop it first: systemctl stop holdfast",
    )?;
    let audit = super::audit::Audit::open(&config.state_dir, &config.node_id);
    let tell = |outcome, message: String| match &audit {
        Ok(audit) => audit.tell(super::audit::Entry {
            by: format!("holdfast sweep, uid {}", nix::unistd::getuid()),
            claimed: std::env::var("SUDO_USER").ok(),
            action: "sweep".to_owned(),
            outcome,
            message: Some(message),
            ..super::audit::Entry::default()
        }),
        Err(error) => tracing::warn!(%error, "the audit trail cannot be written"),
    };
    match sweep(&specs) {
        Ok(words) => {
            tell(super::audit::Outcome::Done, words.clone());
            Ok(words)
        }
        Err(error) => {
            tell(super::audit::Outcome::Failed, format!("{error:#}"));
            Err(error)
        }
    }
}

fn sweep(specs: &[VipSpec]) -> Result<String> {
    let swept = addresses(specs)?;
    gate::remove_stale().context("the kernel gates that an agent may have left cannot be removed")?;
    let mut words: String = swept.iter().map(|what| format!("Took {what} off.\n")).collect();
    words.push_str("No address and no gate of this member is left on this host.\n");
    Ok(words)
}
