//! What a process has used of its machine.

use anyhow::Result;
use holdfast_agent::lab::world::Machine;
use holdfast_integration::stage::LIMIT;

/// The kernel's clock tick as `/proc/PID/stat` counts it: fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What processes have used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub rss_mib: f64,
    /// The most that it ever was.
    pub peak_mib: f64,
    pub cpu_seconds: f64,
}

impl Usage {
    /// Of a process on a machine, by the number that it has there.
    pub(super) fn of(machine: &Machine, pid: i32) -> Result<Usage> {
        // Read on the host itself, whose process ids these are; `cat` is the only program needed.
        let read = |file: &str| -> Result<String> {
            Ok(machine.execute(&["cat", &format!("/proc/{pid}/{file}")], LIMIT)?.stdout)
        };
        let stat = read("stat")?;
        // The name may contain spaces; the fields after it do not. They begin with field 3, the state.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        let status = read("status")?;
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or(0.0) / 1024.0
        };
        Ok(Usage {
            rss_mib: mib("VmRSS:"),
            peak_mib: mib("VmHWM:"),
            cpu_seconds: (ticks(14) + ticks(15)) / TICKS_PER_SECOND,
        })
    }

    pub(super) fn and(self, other: Usage) -> Usage {
        Usage {
            rss_mib: self.rss_mib + other.rss_mib,
            peak_mib: self.peak_mib + other.peak_mib,
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
        }
    }
}
