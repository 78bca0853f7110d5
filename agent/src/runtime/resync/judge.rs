//! Whether this member's log may be copied anew now, and what that means: said before anything is done.
//!
//! Nothing is done here. What is refused is refused because the cluster would be worse off than the operator may think.

use std::path::Path;

use holdfast_replication::replica::{ReplicaRole, ReplicaStatus};
use serde::{Deserialize, Serialize};

use super::steps::{Fate, Marker};
use crate::node::event::Declined;
use crate::runtime::status::Status;

/// What an operator wants of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wishes {
    /// The member that it is meant for; none: whoever is asked.
    pub member: Option<String>,
    /// Keep the old copy, whatever it holds.
    pub keep_old_copy: bool,
    /// Give the old copy up before the new one begins.
    pub drop_old_copy_first: bool,
}

/// What it would be, in figures and words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whose log is copied anew.
    pub member: String,
    /// From whom.
    pub primary: String,
    /// Bytes of the log that come over the stream; not known while there is none.
    pub transfer_bytes: Option<u64>,
    /// Where the log ends now.
    pub to_lsn: u64,
    /// `catch_up_rate` of this member's configuration: what the primary keeps to if its own says the same.
    pub bytes_per_second: Option<u64>,
    /// How long it takes at that rate.
    pub seconds: Option<u64>,
    /// Who holds every acknowledged byte meanwhile.
    pub in_sync_meanwhile: Vec<String>,
    /// Bytes of the copy that is here.
    pub old_bytes: u64,
    /// What becomes of it.
    pub old_copy: Fate,
    /// Why it is kept, where nobody asked for that.
    pub kept_because: Option<String>,
    /// Free bytes on the disk.
    pub free_bytes: Option<u64>,
    /// What has to be known besides, in words.
    pub notes: Vec<String>,
}

/// What is looked at.
pub struct Circumstances<'a> {
    /// The member.
    pub status: &'a Status,
    /// Its log.
    pub log: &'a ReplicaStatus,
    /// Ranges were found in which it has other bytes than the primary.
    pub differs: bool,
    /// Free bytes on the log's disk, and how many of them are kept in reserve.
    pub room: Option<(u64, u64)>,
    /// `catch_up_rate`, here.
    pub rate: Option<u64>,
    /// What was ordered before and is not over.
    pub under_way: Option<&'a Marker>,
    /// For messages.
    pub data_dir: &'a Path,
}

fn declined(code: &'static str, message: String) -> Declined {
    Declined { code, message }
}

/// See the module's documentation.
pub fn plan(now: &Circumstances<'_>, wishes: &Wishes) -> Result<Plan, Declined> {
    let me = &now.status.node;
    if let Some(member) = wishes.member.as_ref().filter(|member| *member != me) {
        return Err(declined(
            "other_member",
            format!(
                "this is the agent of {me}, and a log is copied anew by the member that has it: run this on the host of {member}, or with --api http://HOST:PORT of its agent. Nothing was changed"
            ),
        ));
    }
    if now.under_way.is_some() {
        let message = "this member's log is being copied anew already; see: holdfast replication status";
        return Err(declined("resync_under_way", message.to_owned()));
    }
    let primary = primary(now.status)?;
    let in_sync_meanwhile: Vec<String> =
        now.status.in_sync.iter().filter(|member| *member != me).cloned().collect();
    if !now.status.in_sync.is_empty() && !in_sync_meanwhile.contains(&primary) {
        return Err(declined(
            "only_copy",
            format!(
                "{me} is in the in-sync set and {primary} is not: this copy may be the only one of what was acknowledged. Wait until `holdfast ha status` shows {primary} in sync"
            ),
        ));
    }
    keeps_majority(now.status, &primary)?;
    let follows = now.log.role == ReplicaRole::Following && now.log.streaming && now.log.failure.is_none();
    let kept_because = if now.differs {
        Some("it holds other bytes than the primary's, and is the evidence of that".to_owned())
    } else if !follows {
        Some(format!(
            "it does not follow {primary} at the moment, so nobody knows whether it holds anything that {primary} does not"
        ))
    } else {
        None
    };
    let old_copy = match (wishes.keep_old_copy || kept_because.is_some(), wishes.drop_old_copy_first) {
        (true, true) => {
            let why = kept_because.unwrap_or_else(|| "it is to be kept, too".to_owned());
            return Err(declined(
                "old_copy_needed",
                format!("the old copy cannot be given up first: {why}. Make room for both on the disk"),
            ));
        }
        (true, false) => Fate::Kept,
        (false, true) => Fate::DeletedFirst,
        (false, false) => Fate::DeletedWhenInSync,
    };
    let behind = now.log.catch_up.as_ref().map_or(0, |catch_up| catch_up.remaining_bytes);
    let transfer_bytes = follows.then_some(now.log.log_bytes + behind);
    if let (Some(bytes), Some((free, reserve))) = (transfer_bytes, now.room) {
        let given_up = if old_copy == Fate::DeletedFirst { now.log.log_bytes } else { 0 };
        if free + given_up < bytes + reserve {
            return Err(no_room(now, old_copy, bytes, (free, reserve)));
        }
    }
    let bytes_per_second = now.rate;
    let seconds = transfer_bytes.zip(bytes_per_second).map(|(bytes, rate)| bytes.div_ceil(rate.max(1)));
    Ok(Plan {
        member: me.clone(),
        notes: notes(now, &primary, transfer_bytes),
        primary,
        transfer_bytes,
        to_lsn: now.log.end.0 + behind,
        bytes_per_second,
        seconds,
        in_sync_meanwhile,
        old_bytes: now.log.log_bytes,
        old_copy,
        kept_because,
        free_bytes: now.room.map(|(free, _)| free),
    })
}

/// Who is primary and heard, and is not this member.
fn primary(status: &Status) -> Result<String, Declined> {
    if matches!(status.role.as_str(), "primary" | "handing_over" | "promoting" | "candidate") {
        return Err(declined(
            "is_primary",
            format!(
                "{} is {}: its log is the one that the others copy. Hand the role over first (holdfast ha failover), then run this again",
                status.node, status.role
            ),
        ));
    }
    let heard = |name: &&String| {
        status
            .peers
            .iter()
            .any(|peer| peer.id == **name && peer.alive && peer.role.as_deref() == Some("primary"))
    };
    status.primary.as_ref().filter(heard).cloned().ok_or_else(|| {
        declined(
            "no_primary",
            "no primary is heard that the log could be copied from; this copy may be the only one. Nothing was changed; see: holdfast ha status".to_owned(),
        )
    })
}

/// The agent starts again, and has no vote for about one lease.
fn keeps_majority(status: &Status, primary: &str) -> Result<(), Declined> {
    let voters = status.peers.len() + 1;
    let others = status.peers.iter().filter(|peer| peer.alive).count();
    // A pair without a witness goes on alone when the other half says that it leaves.
    if voters == 2 || others > voters / 2 {
        return Ok(());
    }
    Err(declined(
        "majority_needed",
        format!(
            "only {others} of the {voters} voters are heard besides this one: while its agent starts again, {primary} would have no majority and would stop serving. Bring the others back first (holdfast ha cluster)"
        ),
    ))
}

fn no_room(now: &Circumstances<'_>, fate: Fate, bytes: u64, (free, reserve): (u64, u64)) -> Declined {
    let mib = |bytes: u64| bytes >> 20;
    let mend = match fate {
        Fate::DeletedFirst => "make room there",
        Fate::Kept => "make room there",
        Fate::DeletedWhenInSync => {
            "make room there, or give the old copy up first with --drop-old-copy-first: until the new one is in sync, the primary's is the only one then"
        }
    };
    declined(
        "no_room",
        format!(
            "the new copy takes {} MiB, and {} MiB are free on the disk of {}, of which {} are kept in reserve: {mend}. Nothing was changed",
            mib(bytes),
            mib(free),
            now.data_dir.display(),
            mib(reserve)
        ),
    )
}

fn notes(now: &Circumstances<'_>, primary: &str, transfer_bytes: Option<u64>) -> Vec<String> {
    let mut notes = Vec::new();
    if transfer_bytes.is_none() {
        notes.push(format!(
            "how much {primary} holds is not known here without a stream from it: `holdfast replication status` there says it, and nobody has looked whether there is room for it on this disk"
        ));
    }
    if now.status.in_sync.len() == 2 && now.status.in_sync.contains(&now.status.node) {
        notes.push(format!(
            "{primary} alone holds every acknowledged byte meanwhile: if it is lost, nobody takes over by itself"
        ));
    }
    if now.status.paused.is_some() {
        notes.push("automatic changes of primary are paused, which changes nothing about this".to_owned());
    }
    if now.status.drained {
        notes.push(
            "this member is drained: it is copied, and is in sync only after `holdfast ha resume`; the old copy stays until then"
                .to_owned(),
        );
    }
    if now.status.supervisor_pid.is_none() {
        notes.push(
            "this agent runs without its supervisor: it ends, and whoever runs it has to start it again within a minute"
                .to_owned(),
        );
    }
    notes
}

#[cfg(test)]
mod tests {
    use holdfast_heartbeat::{Epoch, Incarnation, Lsn, Member, NodeId};

    use super::*;
    use crate::api::tests::{leading, status};
    use crate::runtime::status::Paused;

    const MIB: u64 = 1 << 20;

    /// What a healthy standby sees: `b`, with `a` as primary and `w` as witness.
    fn standby() -> Status {
        let mut seen = Status { node: "b".into(), role: "standby".into(), ..status() };
        seen.peers[0].id = "a".into();
        seen.peers[0].role = Some("primary".into());
        seen
    }

    fn following() -> ReplicaStatus {
        let leader = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(1) };
        ReplicaStatus {
            role: ReplicaRole::Following,
            leader: Some(leader),
            epoch: Some(Epoch(7)),
            streaming: true,
            peers: vec![],
            end: Lsn(2000 * MIB),
            log_bytes: 1000 * MIB,
            ..leading()
        }
    }

    fn judged<'a>(
        status: &'a Status,
        log: &'a ReplicaStatus,
        wishes: &Wishes,
        change: impl FnOnce(&mut Circumstances<'a>),
    ) -> Result<Plan, &'static str> {
        let mut now = Circumstances {
            status,
            log,
            differs: false,
            room: Some((5000 * MIB, 256 * MIB)),
            rate: None,
            under_way: None,
            data_dir: Path::new("/data"),
        };
        change(&mut now);
        plan(&now, wishes).map_err(|declined| declined.code)
    }

    #[test]
    fn what_would_be_transferred_is_said_first() {
        let plan =
            judged(&standby(), &following(), &Wishes::default(), |now| now.rate = Some(100 * MIB)).unwrap();
        assert_eq!((plan.member.as_str(), plan.primary.as_str()), ("b", "a"));
        assert_eq!((plan.transfer_bytes, plan.seconds), (Some(1000 * MIB), Some(10)));
        assert_eq!(plan.in_sync_meanwhile, ["a"]);
        assert_eq!((plan.old_copy, plan.kept_because), (Fate::DeletedWhenInSync, None));
        assert!(plan.notes[0].contains("if it is lost, nobody takes over"), "{:?}", plan.notes);
    }

    #[test]
    fn it_is_refused_where_the_cluster_would_be_worse_off_than_the_operator_may_think() {
        let (healthy, log, none) = (standby(), following(), Wishes::default());
        let refused = |status: &Status| judged(status, &log, &none, |_| {}).unwrap_err();
        assert_eq!(refused(&status()), "is_primary");
        assert_eq!(refused(&Status { primary: None, ..healthy.clone() }), "no_primary");
        let mut silent = healthy.clone();
        silent.peers[0].alive = false;
        assert_eq!(refused(&silent), "no_primary");
        let behind = Status { in_sync: vec!["b".into()], ..healthy.clone() };
        assert_eq!(refused(&behind), "only_copy");
        let mut no_witness = healthy.clone();
        no_witness.peers[1].alive = false;
        assert_eq!(refused(&no_witness), "majority_needed");
        // A pair has no majority to lose.
        no_witness.peers.truncate(1);
        assert!(judged(&no_witness, &log, &none, |_| {}).is_ok());
        let of = |member: &str| Wishes { member: Some(member.into()), ..Wishes::default() };
        assert_eq!(judged(&healthy, &log, &of("a"), |_| {}), Err("other_member"));
        assert!(judged(&healthy, &log, &of("b"), |_| {}).is_ok());
        let marker = Marker::new(holdfast_heartbeat::Time(1), 1, 1, Fate::Kept);
        let twice = judged(&healthy, &log, &none, |now| now.under_way = Some(&marker));
        assert_eq!(twice, Err("resync_under_way"));
    }

    #[test]
    fn an_old_copy_that_may_hold_something_else_is_kept() {
        let (healthy, log, none) = (standby(), following(), Wishes::default());
        let first = Wishes { drop_old_copy_first: true, ..Wishes::default() };
        let alone = ReplicaStatus { streaming: false, ..log.clone() };
        let failed = ReplicaStatus { failure: Some("a disk".into()), ..log.clone() };
        for (log, differs) in [(&log, true), (&alone, false), (&failed, false)] {
            let kept = judged(&healthy, log, &none, |now| now.differs = differs).unwrap();
            assert_eq!(kept.old_copy, Fate::Kept);
            assert!(kept.kept_because.is_some());
            let given_up = judged(&healthy, log, &first, |now| now.differs = differs);
            assert_eq!(given_up, Err("old_copy_needed"));
        }
        let unknown = judged(&healthy, &alone, &none, |_| {}).unwrap();
        assert!(unknown.transfer_bytes.is_none() && unknown.notes[0].contains("is not known"));
        let kept = Wishes { keep_old_copy: true, ..Wishes::default() };
        assert_eq!(judged(&healthy, &log, &kept, |_| {}).unwrap().old_copy, Fate::Kept);
    }

    #[test]
    fn two_copies_that_do_not_fit_are_noticed_before_anything_is_done() {
        let (healthy, log) = (standby(), following());
        let first = Wishes { drop_old_copy_first: true, ..Wishes::default() };
        let room = Some((1200 * MIB, 256 * MIB));
        assert_eq!(judged(&healthy, &log, &Wishes::default(), |now| now.room = room), Err("no_room"));
        let plan = judged(&healthy, &log, &first, |now| now.room = room).unwrap();
        assert_eq!(plan.old_copy, Fate::DeletedFirst);
        let room = Some((200 * MIB, 256 * MIB));
        assert_eq!(judged(&healthy, &log, &first, |now| now.room = room), Err("no_room"));
    }

    #[test]
    fn a_pause_and_a_drain_are_said_and_hinder_nothing() {
        let paused = Some(Paused { since: "2026".into(), by: None });
        let status = Status { paused, drained: true, in_sync: vec!["a".into()], ..standby() };
        let plan = judged(&status, &following(), &Wishes::default(), |_| {}).unwrap();
        let notes = plan.notes.join("\n");
        assert!(notes.contains("paused") && notes.contains("ha resume"), "{notes}");
        assert!(!notes.contains("nobody takes over"), "it is so already: {notes}");
    }
}
