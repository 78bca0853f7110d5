//! What keeps the heartbeat path on time on a busy host: its threads go before all ordinary ones
//! (SCHED_FIFO), and the pages of this process stay in memory however short that is.
//!
//! Both need a permission: CAP_SYS_NICE or RLIMIT_RTPRIO, and CAP_IPC_LOCK or an unlimited
//! RLIMIT_MEMLOCK. Without it the agent is as punctual as any other process, and `ha status` says so.
//!
//! Invariant: only threads that wait for packets, timers or the end of a process ask for it, and none of
//! them starts a process or a thread afterwards, since those would inherit it. None of them waits for another thread
//! without sleeping: see [`mailbox`](super::mailbox).

use rustix::mm::MlockAllFlags;
use rustix::process::{Resource, getrlimit};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Who goes before whom. All of them lie below the kernel's own threads, which have 50.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// The core, which renews the lease, the thread that passes it on to an nftables gate, and the supervisor,
    /// which buries the agent.
    Core = 20,
    /// The threads that receive heartbeats: behind the core, which a flood of packets must not hold up.
    Receiver = 19,
}

/// How much of its stack a thread touches beforehand, in bytes: more than the core was ever seen to use.
const STACK: usize = 256 << 10;

/// Bit of CAP_IPC_LOCK (linux/capability.h).
const CAP_IPC_LOCK: u32 = 14;

/// What this process was granted; in words where it was not.
#[derive(Clone, Debug)]
pub struct Granted {
    /// Threads that go before others.
    pub scheduling: Result<(), String>,
    /// Memory that stays.
    pub memory: Result<(), String>,
}

impl Granted {
    /// Asks for both: keeps the memory of this process from now on, and tries on a thread of its own
    /// whether others may be hurried later.
    pub fn ask(wanted: bool) -> Granted {
        if !wanted {
            let off = || Err("`realtime = false` in the `ha` block".to_owned());
            return Granted { scheduling: off(), memory: off() };
        }
        let trial = std::thread::spawn(|| set(Urgency::Core));
        let scheduling = trial.join().unwrap_or_else(|_| Err("the trial of it failed".to_owned()));
        Granted { scheduling, memory: keep_in_memory() }
    }

    /// Hurries the calling thread, if that is granted, and touches its stack.
    pub fn hurry(&self, urgency: Urgency) {
        if self.scheduling.is_ok()
            && let Err(error) = set(urgency)
        {
            tracing::warn!(%error, ?urgency, "a thread of the heartbeat path runs like any other");
        }
        if self.memory.is_ok() {
            touch_stack();
        }
    }

    /// For `ha status`.
    pub fn describe(&self) -> String {
        let scheduling = match &self.scheduling {
            Ok(()) => format!("SCHED_FIFO {}", Urgency::Core as u8),
            Err(why) => format!("ordinary scheduling ({why})"),
        };
        let memory = match &self.memory {
            Ok(()) => "memory locked".to_owned(),
            Err(why) => format!("memory not locked ({why})"),
        };
        format!("{scheduling}, {memory}")
    }
}

fn set(urgency: Urgency) -> Result<(), String> {
    let value = ThreadPriorityValue::try_from(urgency as u8).map_err(|error| error.to_string())?;
    set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Crossplatform(value),
        ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo),
    )
    .map_err(|error| match error {
        thread_priority::Error::OS(code) => {
            let error = std::io::Error::from_raw_os_error(code);
            format!("{error}; needs CAP_SYS_NICE, or LimitRTPRIO={} of systemd", Urgency::Core as u8)
        }
        other => format!("{other:?}"),
    })
}

/// Brings the program in as a whole, since what runs for the first time in a failover must not wait for a
/// disk then, and locks every page of later memory once it is touched. With a limit, and without the capability, it would be obeyed
/// today and let an allocation fail tomorrow: then it is not asked for.
fn keep_in_memory() -> Result<(), String> {
    let needed = "needs CAP_IPC_LOCK, or LimitMEMLOCK=infinity of systemd";
    if getrlimit(Resource::Memlock).current.is_some() && !may_lock_without_limit() {
        return Err(needed.to_owned());
    }
    rustix::mm::mlockall(MlockAllFlags::CURRENT).map_err(|error| format!("{error}; {needed}"))?;
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).map_err(|error| format!("{error}; {needed}"))
}

fn may_lock_without_limit() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & 1 << CAP_IPC_LOCK != 0)
}

#[inline(never)]
fn touch_stack() {
    let mut stack = [0u8; STACK];
    std::hint::black_box(stack.as_mut_slice());
}

#[cfg(test)]
mod tests {
    use thread_priority::{thread_schedule_policy, thread_schedule_policy_param};

    use super::*;

    #[test]
    fn a_hurried_thread_goes_before_others_and_leaves_them_alone() {
        let trial = std::thread::spawn(|| set(Urgency::Core)).join().expect("no panic");
        let granted = Granted { scheduling: trial.clone(), memory: Err("not asked for".to_owned()) };
        let (policy, priority) = std::thread::spawn(move || {
            granted.hurry(Urgency::Receiver);
            let (policy, parameters) = thread_schedule_policy_param(thread_native_id()).expect("its own");
            (policy, parameters.sched_priority)
        })
        .join()
        .expect("no panic");
        let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        match trial {
            Ok(()) => assert_eq!((policy, priority), (fifo, 19)),
            Err(why) => {
                eprintln!("not permitted here: {why}");
                assert_ne!(policy, fifo);
            }
        }
        assert_ne!(thread_schedule_policy(), Ok(fifo), "the thread that started it");
    }

    #[test]
    fn what_is_not_granted_is_said_with_what_to_do() {
        let off = Granted::ask(false);
        assert!(off.describe().contains("`realtime = false`"), "{}", off.describe());
        off.hurry(Urgency::Core);
        let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        assert_ne!(thread_schedule_policy(), Ok(fifo));
    }
}
