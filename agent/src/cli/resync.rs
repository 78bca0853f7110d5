//! `holdfast replication resync`: what it would mean, and on demand the order.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::client::{Client, shaped};
use super::store::escaped;
use super::words::{bytes, duration, grouped, printable, table};
use super::{say, say_json};
use crate::runtime::resync::judge::{Plan, Wishes};
use crate::runtime::resync::steps::Fate;

const RESYNC: &str = "/api/replication/resync";

pub(super) fn run(client: &Client, wishes: Wishes, yes: bool, as_json: bool) -> Result<ExitCode> {
    let Wishes { member, keep_old_copy, drop_old_copy_first } = &wishes;
    let named = member.as_ref().map(|member| format!("&member={}", escaped(member))).unwrap_or_default();
    let answer = client.look_up(&format!(
        "{RESYNC}?keep_old_copy={keep_old_copy}&drop_old_copy_first={drop_old_copy_first}{named}"
    ))?;
    if !yes && as_json {
        say_json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan: Plan = shaped(answer)?;
    if !as_json {
        say(&view(&plan))?;
    }
    if !yes {
        say(&format!(
            "\nNothing was changed. To do it, add --yes. Where the copies are only to be compared, and healed where a disk changed something:\n`holdfast store scrub --now` on {}\n",
            printable(&plan.primary)
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let order = json!({
        "member": plan.member,
        "keep_old_copy": keep_old_copy,
        "drop_old_copy_first": drop_old_copy_first,
    });
    let answer = client.order(RESYNC, order)?;
    match as_json {
        true => say_json(&answer)?,
        false => say(&format!("\n{}\n", printable(answer["message"].as_str().unwrap_or_default())))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan in words.
pub(super) fn view(plan: &Plan) -> String {
    let (member, primary) = (printable(&plan.member), printable(&plan.primary));
    let transfer = match plan.transfer_bytes {
        Some(all) => {
            format!(
                "{}: all of {primary}'s log, up to LSN {} and what is written meanwhile",
                bytes(all),
                grouped(plan.to_lsn)
            )
        }
        None => format!("all of {primary}'s log; how much that is, is not known here"),
    };
    let takes = match (plan.seconds, plan.bytes_per_second) {
        (Some(seconds), Some(rate)) => {
            format!(
                "about {}, at catch_up_rate = {}/s if {primary} has the same",
                duration(seconds.saturating_mul(1000)),
                bytes(rate)
            )
        }
        (_, Some(rate)) => format!("not known; catch_up_rate here is {}/s", bytes(rate)),
        _ => "as long as disks and network need: no catch_up_rate is set here".to_owned(),
    };
    let old = match plan.old_copy {
        Fate::DeletedWhenInSync => "stays beside the new one until that is in sync, and is deleted then",
        Fate::DeletedFirst => "is deleted before the new one begins",
        Fate::Kept => "is kept beside the new one until somebody deletes it",
    };
    let why = plan.kept_because.as_ref().map(|why| format!(": {}", printable(why))).unwrap_or_default();
    let in_sync: Vec<String> = plan.in_sync_meanwhile.iter().map(|member| printable(member)).collect();
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    let mut rows = vec![
        row("transfer", transfer),
        row("takes", takes),
        row(
            "meanwhile",
            format!("{member} is not in sync and cannot take over; in sync: {}", in_sync.join(", ")),
        ),
        row("old copy", format!("{}, {old}{why}", bytes(plan.old_bytes))),
    ];
    if let Some(free) = plan.free_bytes {
        rows.push(row("free", format!("{} on the disk of the log", bytes(free))));
    }
    rows.push(row(
        "first",
        format!("the agent of {member} ends and starts again: its vote is missing for about one lease"),
    ));
    let mut out = format!("{member}'s log would be copied anew from {primary}, which keeps serving.\n\n");
    out.push_str(&table(&rows, ""));
    for note in &plan.notes {
        out.push_str(&format!("  ! {}\n", printable(note)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_is_transferred_and_what_it_means() {
        let plan = Plan {
            member: "b".into(),
            primary: "a".into(),
            transfer_bytes: Some(3 << 30),
            to_lsn: 5_000_000_000,
            bytes_per_second: Some(50 << 20),
            seconds: Some(62),
            in_sync_meanwhile: vec!["a".into()],
            old_bytes: 3 << 30,
            old_copy: Fate::Kept,
            kept_because: Some("it is the evidence".into()),
            free_bytes: Some(9 << 30),
            notes: vec!["a alone holds everything".into()],
        };
        let got = view(&plan);
        let expected = "\
b's log would be copied anew from a, which keeps serving.

transfer   3.0 GiB: all of a's log, up to LSN 5,000,000,000 and what is written meanwhile
takes      about 1 min 2 s, at catch_up_rate = 50.0 MiB/s if a has the same
meanwhile  b is not in sync and cannot take over; in sync: a
old copy   3.0 GiB, is kept beside the new one until somebody deletes it: it is the evidence
free       9.0 GiB on the disk of the log
first      the agent of b ends and starts again: its vote is missing for about one lease
  ! a alone holds everything
";
        assert!(got == expected, "--- got ---\n{got}\n--- expected ---\n{expected}");
    }
}
