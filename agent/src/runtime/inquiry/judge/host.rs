//! This host: what stands behind the lease here, and whether it can do a primary's work.

use super::super::Finding;
use super::Evidence;

/// Less than this share of a disk free is worth a warning, in percent.
const LITTLE_SPACE_PERCENT: u64 = 10;

pub(super) fn judge(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    if evidence.is_data() && !evidence.status.vips.is_empty() {
        out.push(gate(evidence));
    }
    out.extend(scheduling(evidence));
    out.push(clock(evidence));
    if evidence.is_data() {
        out.push(links(evidence));
    }
    disk(evidence, out);
    programs(evidence, out);
    files(evidence, out);
    out.push(supervisor(evidence));
}

/// The kernel gate by its name, and what it promises.
fn gate(evidence: &Evidence<'_>) -> Finding {
    let status = evidence.status;
    let lease = evidence.derived.lease.as_millis();
    let extra = evidence.derived.gate_extra.as_millis();
    if let Some(lost) = status.warnings.iter().find(|warning| warning.starts_with("kernel gate lost")) {
        return Finding::fail("gate", lost)
            .means("nothing in the kernel but the lifetime of the address ends a dead agent's hold")
            .advice("find the program that takes it away (holdfast ha history names the moment), then: systemctl restart holdfast");
    }
    if status.gate.starts_with("eBPF") {
        return Finding::ok("gate", &status.gate).means(format!(
            "the kernel itself stops every packet of the address {lease} ms after the last heartbeat that a majority answered, with no living agent"
        ));
    }
    if status.gate.starts_with("nftables") {
        return Finding::ok("gate", &status.gate).means(format!(
            "the kernel itself stops every packet of the address when the lease of {lease} ms is over, or {extra} ms later where the agent was stopped while it renewed; whoever takes over waits for that"
        ));
    }
    let why = status.gate_fallback.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    Finding::warn("gate", format!("no kernel gate{why}"))
        .means(format!(
            "only two things end a hold: the agent, in user space, while it lives; and valid_lft, the lifetime of the address, which the kernel counts in whole seconds. An agent that is killed or stopped answers for up to {:.1} s more, and whoever takes over waits for that",
            evidence.derived.gate_extra.as_secs_f64() + evidence.derived.lease.as_secs_f64()
        ))
        .advice("give the agent CAP_BPF and CAP_NET_ADMIN (Linux 5.8 or later), or nf_tables (5.16 or later); see `The kernel gate` in operations.md")
}

fn scheduling(evidence: &Evidence<'_>) -> [Finding; 2] {
    let status = evidence.status;
    let granted = status.realtime.contains("SCHED_FIFO ") && status.realtime.contains("memory locked");
    let realtime = if granted
        && !status.realtime.contains("not locked")
        && !status.realtime.contains("ordinary")
    {
        Finding::ok("real time", &status.realtime)
    } else {
        Finding::warn("real time", &status.realtime)
            .means("on a busy host heartbeats can be late, which the others cannot tell from a failure")
            .advice("LimitRTPRIO=20 and LimitMEMLOCK=infinity in the unit, or CAP_SYS_NICE and CAP_IPC_LOCK; see `Busy hosts` in operations.md")
    };
    let late_us = status.lateness.longest_us;
    let bound_us = evidence.derived.detect.as_micros() as u64 / 4;
    let seen = format!("heartbeats were at most {:.1} ms late in the last minutes", late_us as f64 / 1e3);
    let lateness = if late_us <= bound_us {
        Finding::ok("lateness", seen)
    } else {
        Finding::warn("lateness", seen)
            .means(format!(
                "a quarter of the detection time is {:.0} ms; beyond it a member is not to be relied upon as primary",
                bound_us as f64 / 1e3
            ))
            .advice("look for what keeps the host busy (top, vmstat 1), or give failure_timeout more room")
    };
    [realtime, lateness]
}

fn clock(evidence: &Evidence<'_>) -> Finding {
    match evidence.host.as_ref().is_none_or(|host| host.boottime) {
        true => Finding::ok(
            "clock",
            "timers run on CLOCK_BOOTTIME, which counts suspend; the wall clocks of the members need not agree, and NTP is not needed",
        ),
        false => Finding::fail("clock", "this kernel has no CLOCK_BOOTTIME")
            .means("a lease could outlast a suspend unnoticed"),
    }
}

fn links(evidence: &Evidence<'_>) -> Finding {
    if let Some(detail) = &evidence.status.links_failed {
        return Finding::fail("links", detail)
            .means("this host is cut off from its clients: it gives the role up, and does not take it")
            .advice("check the cable, the switch, and `ip -br link`");
    }
    let gateways = &evidence.config.ha.monitor_gateways;
    let mut watched: Vec<String> = evidence.status.vips.iter().map(|vip| vip.interface.clone()).collect();
    watched.extend(evidence.config.ha.monitor_links.iter().cloned());
    watched.sort();
    watched.dedup();
    let carriers = format!("carrier on {}", watched.join(", "));
    if gateways.is_empty() {
        let finding = if evidence.status.pair { Finding::warn } else { Finding::ok };
        return finding("links", format!("{carriers}; no gateway is watched"))
            .means("a switch that passes nothing on but keeps the carrier is noticed by the heartbeats alone")
            .advice("monitor_gateways = [\"ADDRESS OF THE ROUTER\"] in the ha block");
    }
    let list = gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Finding::ok("links", format!("{carriers}; of the gateways {list} at least one answers"))
}

fn disk(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    if let Some(disk) = &evidence.status.disk {
        out.push(match disk.good {
            true => Finding::ok(
                "disk",
                format!("the last small write was durable after {} ms", disk.last_write_ms),
            ),
            false => Finding::fail("disk", &disk.detail)
                .means("this member can neither acknowledge writes nor vote in time")
                .advice("journalctl -k"),
        });
    }
    let Some(host) = &evidence.host else {
        out.push(
            Finding::fail("space", "the file systems did not answer within a second")
                .means("a disk or a mount hangs")
                .advice("journalctl -k; df"),
        );
        return;
    };
    for (dir, found) in &host.space {
        let name = format!("space {}", dir.display());
        out.push(match found {
            Err(error) => Finding::fail(name, error),
            Ok((free, all)) => {
                let percent = free.saturating_mul(100).checked_div(*all).unwrap_or(0);
                let seen = format!("{:.1} GiB free, {percent} %", *free as f64 / f64::from(1u32 << 30));
                if percent >= LITTLE_SPACE_PERCENT {
                    Finding::ok(name, seen)
                } else {
                    Finding::warn(name, seen)
                        .means("a full disk refuses writes; what is stored stays intact")
                        .advice("free some space, or enlarge the disk")
                }
            }
        });
    }
}

fn programs(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    let Some(host) = &evidence.host else { return };
    for (who, program, why) in &host.missing {
        out.push(
            Finding::fail(format!("program of {who}"), format!("{program}: {why}"))
                .means("it will fail when it is needed")
                .advice(format!("ls -l {program}")),
        );
    }
    if host.missing.is_empty() && host.programs > 0 {
        out.push(Finding::ok(
            "programs",
            format!("all {} of hooks and checks are executable", host.programs),
        ));
    }
    for service in &evidence.status.services {
        let name = format!("service {}", service.name);
        out.push(match (&service.problem, service.state.as_str()) {
            (Some(problem), _) => {
                Finding::fail(name, problem).advice(format!("systemctl status {}", service.unit))
            }
            (None, "unknown") => Finding::warn(name, format!("the state of {} is not known", service.unit))
                .advice(format!("systemctl status {}", service.unit)),
            (None, state) => Finding::ok(name, format!("{} is {state}", service.unit)),
        });
    }
    for check in evidence.status.checks.iter().filter(|check| check.state == "failing") {
        out.push(
            Finding::fail(format!("check {}", check.name), &check.last)
                .means("this member counts as less healthy than others"),
        );
    }
}

/// The replicated files: whether they can be placed here, and what would be missing after a failover.
fn files(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    let (Some(host), Some(files)) = (&evidence.host, &evidence.status.files) else { return };
    for ((name, obstacles), set) in host.files.iter().zip(&files.sets) {
        let finding = format!("files {name}");
        let first = |named: &[crate::runtime::files::Named]| {
            named.first().map_or_else(String::new, |first| format!(", first {}: {}", first.path, first.why))
        };
        out.push(if let Some(obstacle) = obstacles.first() {
            Finding::fail(finding, obstacle)
                .means("as a standby this member does not have the primary's files")
                .advice("ReadWritePaths=, and CAP_CHOWN, CAP_FOWNER and CAP_DAC_OVERRIDE, in a drop-in of the unit; see `Replicated files` in operations.md")
        } else if set.failed > 0 {
            Finding::fail(finding, format!("{} paths are not replicated{}", set.failed, first(&set.failures)))
                .means("this member does not have them as the log has them, or the log has not what is here")
                .advice("holdfast replication status")
        } else if let Some(problem) = &set.problem {
            Finding::warn(finding, problem)
        } else if set.left_out > 0 {
            Finding::warn(finding, format!("{} paths are left out{}", set.left_out, first(&set.left_out_paths)))
                .means("the standby does not have them")
                .advice("larger limits in the sync_files block, or `exclude` for what is not wanted")
        } else {
            Finding::ok(finding, format!("{} in the log, {} of them not in their places here", set.files, set.behind))
        });
    }
}

fn supervisor(evidence: &Evidence<'_>) -> Finding {
    let systemd = evidence.host.as_ref().is_some_and(|host| host.systemd);
    match (evidence.status.supervisor_pid, systemd) {
        (None, _) => Finding::fail("supervisor", "the agent runs without its supervisor")
            .means("nobody tells the others when it dies: they wait for the lease instead")
            .advice("start it with: holdfast agent --config FILE"),
        (Some(pid), true) => Finding::ok("supervisor", format!("process {pid}, started by systemd")),
        (Some(pid), false) => Finding::warn("supervisor", format!("process {pid}, not started by systemd"))
            .means("nobody starts the agent again after a reboot")
            .advice("systemctl enable --now holdfast"),
    }
}
