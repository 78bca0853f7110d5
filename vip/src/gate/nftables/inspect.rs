//! Whether the table stands as it was made. Only looks.

use std::io;

use super::ruleset::{self, CHAINS, Ruleset};
use super::wire::{self, Control};
use crate::link::index_of;

/// The interfaces of `interfaces` on which the gate does not stand, be it that they do not exist. `owner` is
/// the socket that must own the table, if one must.
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn missing(
    control: &mut Control,
    ruleset: &Ruleset,
    owner: Option<u32>,
    interfaces: &[String],
) -> io::Result<Vec<String>> {
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
    let mut hooked: [Vec<String>; 2] = Default::default();
    control.dump(
        wire::GET_CHAIN,
        |_| (),
        |chain| {
            if chain.text(ruleset::CHAIN_TABLE) != Some(&ruleset.table) {
                return;
            }
            let name = chain.text(ruleset::CHAIN_NAME);
            let Some(which) = CHAINS.iter().position(|(chain, _)| name == Some(chain)) else { return };
            let hook = chain.attribute(ruleset::CHAIN_HOOK).unwrap_or_default();
            let devices = wire::attributes(hook).filter(|(kind, _)| *kind == ruleset::HOOK_DEVICES);
            let names = devices.flat_map(|(_, devices)| wire::attributes(devices));
            hooked[which].extend(names.filter_map(|(_, name)| wire::text(name)).map(ToOwned::to_owned));
        },
    )?;
    let mut rules = 0;
    let of_ours = |request: &mut wire::Attributes<'_>| request.text(ruleset::RULE_TABLE, &ruleset.table);
    let listed = control.dump(wire::GET_RULE, of_ours, |rule| {
        rules += usize::from(rule.text(ruleset::RULE_TABLE) == Some(&ruleset.table));
    });
    match listed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        listed => listed?,
    }
    let whole = stands && rules == ruleset::rule_count();
    let is_missing = |name: &&String| {
        !whole || index_of(name).is_none() || hooked.iter().any(|devices| !devices.contains(name))
    };
    Ok(interfaces.iter().filter(is_missing).cloned().collect())
}
