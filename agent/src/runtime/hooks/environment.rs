//! What a hook is told: its whole environment.
//!
//! Invariant: nothing of the agent's own environment is passed on, and nothing here is a secret.

use holdfast_config::HookEvent;
use holdfast_heartbeat::{Epoch, NodeId};

use crate::runtime::programs::PATH;

/// What is the same for every hook of this member.
#[derive(Clone, Debug)]
pub struct Place {
    /// This member.
    pub node: String,
    /// The virtual addresses with their prefixes.
    pub vips: Vec<String>,
    /// Where this member's API answers.
    pub api: String,
}

/// Why a hook is run.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// The reign that begins or ends.
    pub epoch: Epoch,
    /// The stable role before: `standby` or `primary`.
    pub from: &'static str,
    /// The stable role after.
    pub to: &'static str,
    /// Why, as the stable word of the history.
    pub cause: String,
    /// Why, for people.
    pub reason: String,
    /// The other member concerned, where one is known.
    pub peer: Option<NodeId>,
    /// Who is primary from then on, where it is known.
    pub primary: Option<NodeId>,
}

/// The environment of the hook of that name.
pub fn environment(
    place: &Place,
    occasion: &Occasion,
    event: HookEvent,
    hook: &str,
) -> Vec<(&'static str, String)> {
    let name = |id: &Option<NodeId>| id.as_ref().map(ToString::to_string).unwrap_or_default();
    vec![
        ("PATH", PATH.to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("HOLDFAST_HOOK", hook.to_owned()),
        ("HOLDFAST_EVENT", event.word().to_owned()),
        ("HOLDFAST_EPOCH", occasion.epoch.0.to_string()),
        ("HOLDFAST_FROM", occasion.from.to_owned()),
        ("HOLDFAST_TO", occasion.to.to_owned()),
        ("HOLDFAST_CAUSE", occasion.cause.clone()),
        ("HOLDFAST_REASON", occasion.reason.clone()),
        ("HOLDFAST_VIPS", place.vips.join(" ")),
        ("HOLDFAST_NODE", place.node.clone()),
        ("HOLDFAST_PEER", name(&occasion.peer)),
        ("HOLDFAST_PRIMARY", name(&occasion.primary)),
        ("HOLDFAST_API", place.api.clone()),
    ]
}
