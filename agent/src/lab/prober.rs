//! What a client sees of an outage: short requests, one every few milliseconds, each on a fresh connection.
//!
//! The attempts overlap and each has a short limit of its own, so that the lost first packet of one attempt
//! (which TCP would send again after a second) cannot hide the recovery. An answer counts as served if the
//! store itself answered, be it with "access denied"; a redirect or "unavailable" does not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::world::{NetNs, single_threaded};

/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest that one attempt may take; also bounds how many are under way.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(150);

/// Where to ask.
#[derive(Clone, Copy, Debug)]
pub struct ProbeTarget {
    /// The S3 port of the virtual address.
    pub address: SocketAddr,
    /// Time between two attempts.
    pub every: Duration,
}

/// One request that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// When the attempt began.
    pub began: Instant,
    /// When the answer's first bytes were there.
    pub ended: Instant,
}

/// What the prober saw.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// The served requests, by the time of their end.
    pub served: Vec<Served>,
    /// How many were answered by a redirect or "unavailable".
    pub turned_away: u64,
    /// How many got no answer.
    pub failed: u64,
}

impl Timeline {
    /// The longest time between the ends of two consecutive served requests; none with fewer than two.
    pub fn outage(&self) -> Option<Duration> {
        self.served.windows(2).map(|pair| pair[1].ended - pair[0].ended).max()
    }

    /// The end of the first request that began at `moment` or later.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.served.iter().find(|s| s.began >= moment).map(|s| s.ended)
    }
}

/// A prober at work.
pub struct Prober {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Timeline>>,
    thread: JoinHandle<Result<Result<()>>>,
}

impl Prober {
    /// Starts to ask from inside `from`.
    pub fn start(from: &NetNs, target: ProbeTarget) -> Prober {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Timeline::default()));
        let (halt, timeline) = (stop.clone(), seen.clone());
        let thread = from.spawn(move || single_threaded()?.block_on(ask(target, &halt, &timeline)));
        Prober { stop, seen, thread }
    }

    /// When a request was served last.
    pub fn last_served(&self) -> Option<Instant> {
        lock(&self.seen).served.last().map(|s| s.ended)
    }

    /// Waits until a request that began at `moment` or later was served.
    pub fn wait_served_after(&self, moment: Instant, limit: Duration) -> Result<Instant> {
        let end = Instant::now() + limit;
        loop {
            // Only the newest can have begun late enough.
            let newest = lock(&self.seen).served.last().copied();
            if let Some(served) = newest.filter(|s| s.began >= moment) {
                return Ok(served.ended);
            }
            if Instant::now() > end {
                return Err(anyhow!("nobody served on the virtual address for {} s", limit.as_secs()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Stops, and returns what was seen.
    pub fn stop(self) -> Result<Timeline> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the prober panicked"))???;
        let mut timeline = std::mem::take(&mut *lock(&self.seen));
        timeline.served.sort_by_key(|s| s.ended);
        Ok(timeline)
    }
}

fn lock(timeline: &Mutex<Timeline>) -> std::sync::MutexGuard<'_, Timeline> {
    timeline.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(target: ProbeTarget, stop: &AtomicBool, seen: &Arc<Mutex<Timeline>>) -> Result<()> {
    let mut tick = interval(target.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut attempts = tokio::task::JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let seen = seen.clone();
        attempts.spawn(async move {
            let began = Instant::now();
            let answer = timeout(ATTEMPT_LIMIT, attempt(target)).await;
            let ended = Instant::now();
            let mut seen = lock(&seen);
            match answer {
                Ok(Ok(true)) => seen.served.push(Served { began, ended }),
                Ok(Ok(false)) => seen.turned_away += 1,
                Ok(Err(_)) | Err(_) => seen.failed += 1,
            }
        });
        while attempts.try_join_next().is_some() {}
    }
    attempts.shutdown().await;
    Ok(())
}

/// One request; whether it was served.
async fn attempt(target: ProbeTarget) -> Result<bool> {
    let mut stream = TcpStream::connect(target.address).await.context("connect")?;
    stream.set_nodelay(true)?;
    // A reset instead of a farewell: thousands of connections in TIME_WAIT would use the ports up.
    stream.set_zero_linger()?;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.address);
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 64];
    let mut filled = 0;
    while filled < 12 {
        let n = stream.read(&mut head[filled..]).await?;
        if n == 0 {
            return Err(anyhow!("closed before the answer"));
        }
        filled += n;
    }
    Ok(is_service(&head[..filled]))
}

/// Whether the beginning of an HTTP answer is one of the store itself.
fn is_service(head: &[u8]) -> bool {
    let Some(code) = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)) else { return false };
    code.iter().all(u8::is_ascii_digit) && (code[0] == b'2' || code[0] == b'4')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stores_own_answers_count_as_served() {
        assert!(is_service(b"HTTP/1.1 403 Forbidden"));
        assert!(is_service(b"HTTP/1.1 200 OK"));
        assert!(!is_service(b"HTTP/1.1 307 Temporary"));
        assert!(!is_service(b"HTTP/1.1 503 Unavail"));
        assert!(!is_service(b"SSH-2.0-OpenSSH"));
    }

    #[test]
    fn the_outage_is_the_longest_gap_between_answers() {
        let start = Instant::now();
        let at = |ms| Served { began: start, ended: start + Duration::from_millis(ms) };
        let timeline = Timeline { served: vec![at(0), at(2), at(40), at(41)], ..Timeline::default() };
        assert_eq!(timeline.outage(), Some(Duration::from_millis(38)));
        assert_eq!(Timeline::default().outage(), None);
    }
}
