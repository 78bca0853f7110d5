//! How late this machine is by itself: what a bound in milliseconds has to be forgiven on a machine that does other
//! things besides.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long it sleeps between two beats.
const BEAT: Duration = Duration::from_millis(5);
/// What one beat with its durable write takes on a machine that does nothing else, with room.
const USUAL: Duration = Duration::from_millis(8);

/// Sleeps and writes durably, again and again, and remembers by how much that took longer than it should.
#[derive(Debug)]
pub struct Metronome {
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Duration>>,
}

impl Metronome {
    /// Begins, on the disk that `dir` is on.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn start(dir: &Path) -> io::Result<Metronome> {
        let file = tempfile::tempfile_in(dir)?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || longest_delay(&file, &told));
        Ok(Metronome { over, thread })
    }

    /// Ends, and says by how much the latest beat was late.
    ///
    /// # Errors
    /// A write failed.
    pub fn stop(self) -> io::Result<Duration> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| io::Error::other("the metronome stopped by itself"))?
    }
}

fn longest_delay(file: &File, over: &AtomicBool) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        std::thread::sleep(BEAT);
        file.write_all_at(&[1; 512], 0)?;
        file.sync_data()?;
        longest = longest.max(begun.elapsed().saturating_sub(USUAL));
    }
    Ok(longest)
}
