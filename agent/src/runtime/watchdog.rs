//! Those who restart what does not move any more: the kernel's watchdog device, which restarts the host, and
//! systemd, which restarts the unit. Both are told that all is well by nothing but the progress of the core.
//!
//! Neither holds up a lease: that is the gate's, which ends it long before. They bring a host back that would
//! otherwise stay useless until somebody comes.
//!
//! Invariant: once the core runs, no sign of life is given without a turn of the core since the one before.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_vip::Watchdog;
use nix::errno::Errno;

use super::mailbox::{Receiver, Sender, channel};
use super::realtime::{Granted, Urgency};

/// Looks within the shortest of the times: a few may be missed.
const LOOKS: u32 = 5;
/// How long the start, with the recovery of a long log, may take before it counts as stuck: as in the unit.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How long a device that another process holds is waited for: that of an agent that has just died.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// See [`BUSY_LIMIT`].
const BUSY_RETRY: Duration = Duration::from_millis(50);

/// Counts the turns of the core. Zero: it does not run yet.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The core has made a turn.
    pub fn made(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn turns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What wants signs of life.
pub struct Wanted {
    device: Option<Watchdog>,
    systemd: Option<Duration>,
    shortest: Duration,
}

impl Wanted {
    /// Opens the device, which starts it, and looks what systemd wants; `None` where nobody wants anything.
    ///
    /// # Errors
    /// The device that the configuration names cannot be used.
    pub fn find(device: Option<(&Path, Duration)>) -> Result<Option<Wanted>> {
        let systemd = systemd_period(
            |name| std::env::var(name).ok(),
            [std::process::id(), std::os::unix::process::parent_id()],
        );
        let device = match device {
            None => None,
            Some((path, timeout)) => Some((open(path, timeout)?, timeout)),
        };
        let of_device =
            device.as_ref().map(|(watchdog, wanted)| watchdog.timeout().unwrap_or(*wanted).min(*wanted));
        let Some(shortest) = of_device.into_iter().chain(systemd).min() else { return Ok(None) };
        Ok(Some(Wanted { device: device.map(|(watchdog, _)| watchdog), systemd, shortest }))
    }

    /// Gives signs of life from now on, on a thread of its own.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watch(self, progress: Progress, granted: Granted) -> std::io::Result<Watching> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            granted.hurry(Urgency::Receiver);
            run(self, &progress, &stopped);
        })?;
        Ok(Watching { stop, thread })
    }
}

fn open(path: &Path, timeout: Duration) -> Result<Watchdog> {
    let give_up = Instant::now() + BUSY_LIMIT;
    loop {
        match Watchdog::open(path, timeout) {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < give_up => {
                std::thread::sleep(BUSY_RETRY);
            }
            other => {
                return other.with_context(|| {
                    format!(
                        "the watchdog {} of the `ha` block cannot be opened. Is its driver loaded (`modprobe softdog` where there is no hardware), does systemd or another program hold it (RuntimeWatchdogSec= in system.conf), and may this unit use it (DeviceAllow=, PrivateDevices=no)",
                        path.display()
                    )
                });
            }
        }
    }
}

/// How often systemd wants to hear from one of these processes (sd_watchdog_enabled(3)): the agent speaks for its
/// supervisor, which is the unit's main process.
fn systemd_period(variable: impl Fn(&str) -> Option<String>, pids: [u32; 2]) -> Option<Duration> {
    let period = variable("WATCHDOG_USEC")?.parse().ok().filter(|us| *us > 0).map(Duration::from_micros)?;
    match variable("WATCHDOG_PID") {
        Some(pid) if !pids.iter().any(|own| own.to_string() == pid) => None,
        _ => Some(period),
    }
}

/// The thread that gives signs of life.
#[derive(Debug)]
pub struct Watching {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watching {
    /// Stops the device: the agent ends in good order.
    pub fn end(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn run(mut wanted: Wanted, progress: &Progress, stopped: &Receiver<()>) {
    let began = Instant::now();
    let look = wanted.shortest / LOOKS;
    let mut seen = 0;
    let mut moved_at = began;
    let mut told = false;
    loop {
        let turns = progress.turns();
        let starting = turns == 0 && began.elapsed() < START_LIMIT;
        if turns != seen || starting {
            seen = turns;
            moved_at = Instant::now();
            told = false;
            wanted.alive();
        } else if moved_at.elapsed() > wanted.shortest / 2 && !told {
            told = true;
            tracing::error!(
                stands_for_ms = moved_at.elapsed().as_millis() as u64,
                "the core does not move: no sign of life is given, and the watchdog will restart this host or unit"
            );
        }
        match stopped.recv_timeout(look) {
            Ok(()) => return wanted.disarm(),
            Err(RecvTimeoutError::Timeout) => {}
            // The agent ends otherwise than in good order: the next life takes over, or the watchdog bites.
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Wanted {
    fn alive(&mut self) {
        if self.systemd.is_some() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
        if let Some(device) = &mut self.device
            && let Err(error) = device.feed()
        {
            tracing::error!(%error, "the watchdog cannot be fed");
        }
    }

    fn disarm(self) {
        if let Some(device) = self.device
            && let Err(error) = device.disarm()
        {
            tracing::error!(%error, "the watchdog could not be stopped; it will restart this host");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn ordinary() -> Granted {
        Granted { scheduling: Err("not asked for".to_owned()), memory: Err("not asked for".to_owned()) }
    }

    /// A named pipe in the place of the device, which shows each sign of life when it is given.
    fn stand_in(dir: &Path) -> (Watchdog, std::fs::File) {
        let path = dir.join("watchdog");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let nonblocking = nix::libc::O_NONBLOCK;
        let read = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).unwrap();
        (Watchdog::open(&path, Duration::from_secs(15)).unwrap(), read)
    }

    fn drained(read: &mut std::fs::File) -> Vec<u8> {
        let mut all = Vec::new();
        let mut some = [0; 64];
        while let Ok(n @ 1..) = read.read(&mut some) {
            all.extend(&some[..n]);
        }
        all
    }

    /// Waits until something can be read, or ten seconds.
    fn awaited(read: &mut std::fs::File) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let seen = drained(read);
            if !seen.is_empty() || Instant::now() > end {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn only_a_core_that_moves_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let (device, mut read) = stand_in(dir.path());
        let progress = Progress::default();
        progress.made();
        let wanted = Wanted { device: Some(device), systemd: None, shortest: Duration::from_millis(50) };
        let watching = wanted.watch(progress.clone(), ordinary()).unwrap();
        assert_eq!(awaited(&mut read), b"\0", "the first turn");
        // Ten looks without a turn.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(drained(&mut read), b"", "no turn, no sign of life");
        progress.made();
        assert_eq!(awaited(&mut read), b"\0", "it moves again");
        watching.end();
        assert_eq!(drained(&mut read), b"V", "an orderly end stops the device");
    }

    #[test]
    fn an_agent_that_starts_is_alive_and_one_that_just_ends_leaves_the_device_running() {
        let dir = tempfile::tempdir().unwrap();
        let (device, mut read) = stand_in(dir.path());
        let wanted = Wanted { device: Some(device), systemd: None, shortest: Duration::from_millis(50) };
        let Watching { stop, thread } = wanted.watch(Progress::default(), ordinary()).unwrap();
        assert_eq!(awaited(&mut read), b"\0");
        assert_eq!(awaited(&mut read).first(), Some(&0), "the core does not run yet, and need not");
        drop(stop);
        thread.join().unwrap();
        assert!(!drained(&mut read).contains(&b'V'));
    }

    #[test]
    fn systemd_is_answered_where_it_asks_this_unit() {
        let asks = |us: &'static str, pid: Option<&'static str>| {
            move |name: &str| match name {
                "WATCHDOG_USEC" => Some(us.to_owned()),
                _ => pid.map(str::to_owned),
            }
        };
        let ten = Some(Duration::from_secs(10));
        assert_eq!(systemd_period(asks("10000000", None), [7, 5]), ten);
        assert_eq!(systemd_period(asks("10000000", Some("5")), [7, 5]), ten, "its supervisor");
        assert_eq!(systemd_period(asks("10000000", Some("7")), [7, 5]), ten);
        assert_eq!(systemd_period(asks("10000000", Some("9")), [7, 5]), None, "somebody else");
        assert_eq!(systemd_period(asks("0", None), [7, 5]), None);
        assert_eq!(systemd_period(asks("soon", None), [7, 5]), None);
        assert_eq!(systemd_period(|_| None, [7, 5]), None);
    }
}
