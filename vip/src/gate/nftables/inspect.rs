//! Whether the table stands as it was made. Only looks.

use std::io;

use super::ruleset::{self, CHAINS, Ruleset};
use super::wire::{self, Control};
use crate::link::index_of;

/// Where the gate does not stand, be it that an interface does not exist.
#[derive(Debug)]
pub(super) struct Missing {
    /// Of the interfaces of virtual addresses.
    pub(super) interfaces: Vec<String>,
    /// Of the others.
    pub(super) others: Vec<String>,
}

impl Missing {
    pub(super) fn all(mut self) -> Vec<String> {
        self.interfaces.append(&mut self.others);
        self.interfaces
    }
}

/// The interfaces of `interfaces` and `others` on which the gate does not stand. `owner` is the socket that must own
/// the table, if one must.
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn missing(
    control: &mut Control,
    ruleset: &Ruleset,
    owner: Option<u32>,
    interfaces: &[String],
    others: &[String],
) -> io::Result<Missing> {
    const OWNER: u16 = 7;
    let mut stands = false;
    control.dump(
        wire::GET_TABLE,
        |_| (),
        |table| {
            if table.family == wire::FAMILY_NETDEV && table.text(ruleset::TABLE_NAME) == Some(&ruleset.table)
            {
                let awake =
                    table.number(ruleset::TABLE_FLAGS).unwrap_or_default() & ruleset::TABLE_DORMANT == 0;
                stands = awake && (owner.is_none() || table.number(OWNER) == owner);
            }
        },
    )?;
    let which = |name: Option<&str>| CHAINS.iter().position(|chain| name == Some(chain.name));
    let mut hooked: [Vec<String>; CHAINS.len()] = Default::default();
    control.dump(
        wire::GET_CHAIN,
        |_| (),
        |chain| {
            if chain.text(ruleset::CHAIN_TABLE) != Some(&ruleset.table) {
                return;
            }
            let Some(which) = which(chain.text(ruleset::CHAIN_NAME)) else { return };
            let hook = chain.attribute(ruleset::CHAIN_HOOK).unwrap_or_default();
            let devices = wire::attributes(hook).filter(|(kind, _)| *kind == ruleset::HOOK_DEVICES);
            let names = devices.flat_map(|(_, devices)| wire::attributes(devices));
            hooked[which].extend(names.filter_map(|(_, name)| wire::text(name)).map(ToOwned::to_owned));
        },
    )?;
    let mut rules = [0; CHAINS.len()];
    let of_ours = |request: &mut wire::Attributes<'_>| request.text(ruleset::RULE_TABLE, &ruleset.table);
    let listed = control.dump(wire::GET_RULE, of_ours, |rule| {
        if rule.text(ruleset::RULE_TABLE) == Some(&ruleset.table)
            && let Some(which) = which(rule.text(ruleset::RULE_CHAIN))
        {
            rules[which] += 1;
        }
    });
    match listed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        listed => listed?,
    }
    let stands_on = |name: &String, chain: usize| {
        stands && rules[chain] == CHAINS[chain].rule_count() && hooked[chain].contains(name)
    };
    let missing = |of: &[String], chains: std::ops::Range<usize>| -> Vec<String> {
        let is_missing =
            |name: &&String| index_of(name).is_none() || !chains.clone().all(|chain| stands_on(name, chain));
        of.iter().filter(is_missing).cloned().collect()
    };
    Ok(Missing { interfaces: missing(interfaces, 0..2), others: missing(others, 2..3) })
}
