//! A queue between threads of different urgencies.
//!
//! The channels of the standard library, and those of crossbeam that they are made of, wait for a thread which they find in
//! the middle of a send or a receive by trying again, and yield in between. A thread of SCHED_FIFO yields to nobody less
//! urgent: where the other one was interrupted by this very thread, and no processor is left for it, both stand still, and
//! neither the throttling of realtime threads nor anything else ends that. (One processor is enough, or two with a second
//! thread that waits in the same manner.) Here whoever has to wait sleeps, and the other one is scheduled.
//!
//! The lock is held for a push or a pop. The interface, and the errors, are those of `std::sync::mpsc`.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Room that an empty queue keeps after a burst, in items.
const KEPT: usize = 1024;

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    senders: usize,
    /// Somebody will take what is in it.
    received: bool,
    /// The receiver sleeps.
    sleeping: bool,
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    arrived: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // Nothing in here panics while it is locked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Queue<T> {
    fn take(&mut self) -> Option<T> {
        let item = self.items.pop_front();
        if self.items.is_empty() && self.items.capacity() > KEPT {
            self.items.shrink_to(KEPT);
        }
        item
    }
}

/// The end that is sent into.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The end that is received from.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue without a bound.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let queue = Queue { items: VecDeque::new(), senders: 1, received: true, sleeping: false };
    let shared = Arc::new(Shared { queue: Mutex::new(queue), arrived: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts `item` in.
    ///
    /// # Errors
    /// Nobody receives any more.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        match self.try_send(item, usize::MAX) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) => Err(SendError(item)),
        }
    }

    /// Puts `item` in unless `most` wait there already.
    ///
    /// # Errors
    /// They do, or nobody receives any more.
    pub fn try_send(&self, item: T, most: usize) -> Result<(), TrySendError<T>> {
        let mut queue = self.0.lock();
        if !queue.received {
            return Err(TrySendError::Disconnected(item));
        }
        if queue.items.len() >= most {
            return Err(TrySendError::Full(item));
        }
        queue.items.push_back(item);
        let wake = std::mem::take(&mut queue.sleeping);
        drop(queue);
        if wake {
            self.0.arrived.notify_one();
        }
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.senders -= 1;
        let last = queue.senders == 0;
        drop(queue);
        if last {
            self.0.arrived.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// The next item, as soon as there is one.
    ///
    /// # Errors
    /// There is none, and nobody is left to send one.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.wait(None).map_err(|_| RecvError)
    }

    /// The next item, if one comes within `limit`.
    ///
    /// # Errors
    /// None came, or nobody is left to send one.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        // A limit beyond what the clock can say is none.
        self.wait(Instant::now().checked_add(limit))
    }

    /// The next item, if there is one already.
    ///
    /// # Errors
    /// There is none; says whether one may come.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut queue = self.0.lock();
        match queue.take() {
            Some(item) => Ok(item),
            None if queue.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// What is there already, one after the other.
    pub fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    fn wait(&self, until: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let mut queue = self.0.lock();
        loop {
            if let Some(item) = queue.take() {
                return Ok(item);
            }
            if queue.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(RecvTimeoutError::Timeout);
            }
            queue.sleeping = true;
            queue = match left {
                Some(left) => {
                    self.0.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue.sleeping = false;
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.received = false;
        let items = std::mem::take(&mut queue.items);
        drop(queue);
        // What is dropped may be the end of another queue: not under this lock.
        drop(items);
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}

/// Everything that comes, until nobody is left to send more.
#[derive(Debug)]
pub struct IntoIter<T>(Receiver<T>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use nix::sched::{CpuSet, sched_setaffinity};
    use nix::unistd::Pid;

    use super::*;
    use crate::runtime::realtime::{Granted, Urgency};

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn what_each_sender_sends_comes_in_its_order_and_once() {
        const EACH: u32 = 20_000;
        let (sender, receiver) = channel();
        let senders: Vec<_> = (0..4)
            .map(|who| {
                let sender = sender.clone();
                thread::spawn(move || (0..EACH).for_each(|n| sender.send((who, n)).unwrap()))
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        for (who, n) in receiver {
            assert_eq!(n, next[who]);
            next[who] += 1;
        }
        assert_eq!(next, [EACH; 4], "it ends when the last sender is gone, and not before");
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn who_waits_is_woken_by_an_item_by_the_end_and_by_the_time() {
        let (sender, receiver) = channel::<u8>();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        assert_eq!(receiver.recv_timeout(Duration::from_millis(2)), Err(RecvTimeoutError::Timeout));
        let waiting = thread::spawn(move || (receiver.recv_timeout(Duration::MAX), receiver.recv()));
        sender.send(7).unwrap();
        drop(sender);
        assert_eq!(waiting.join().unwrap(), (Ok(7), Err(RecvError)));
    }

    #[test]
    fn nothing_is_taken_where_nobody_receives_and_nothing_beyond_a_bound() {
        let (sender, receiver) = channel();
        assert_eq!(sender.try_send(1, 1), Ok(()));
        assert_eq!(sender.try_send(2, 1), Err(TrySendError::Full(2)));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1]);
        drop(receiver);
        assert_eq!(sender.send(3), Err(SendError(3)));
    }

    #[test]
    fn what_was_not_received_is_dropped_with_the_receiver() {
        let (sender, receiver) = channel();
        let (inner, left) = channel::<()>();
        sender.send(inner).unwrap();
        drop(receiver);
        assert_eq!(left.recv(), Err(RecvError), "nobody holds the end that was on its way");
    }

    /// The receiver is woken by the clock, again and again in the middle of a send, and is more urgent than the sender,
    /// for whom there is no other processor. With the channel of the standard library this stands still within a second.
    #[test]
    fn a_less_urgent_sender_on_the_same_processor_holds_nobody_up() {
        const SENDS: u64 = 300_000;
        let granted = Granted::ask(true);
        if let Err(why) = &granted.scheduling {
            return eprintln!("skipped: {why}");
        }
        let (sender, receiver) = channel();
        let (stop, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let hurried = |urgency| {
            let granted = granted.clone();
            move || {
                let mut one = CpuSet::new();
                one.set(0).unwrap();
                sched_setaffinity(Pid::from_raw(0), &one).unwrap();
                granted.hurry(urgency);
            }
        };
        let begin = hurried(Urgency::Core);
        let (stopping, counted) = (stop.clone(), came.clone());
        let receiving = thread::spawn(move || {
            begin();
            while !stopping.load(Ordering::Relaxed) {
                let _ = receiver.recv_timeout(Duration::from_micros(20));
                // Asleep until the clock rings, so that the sender is interrupted wherever it is.
                thread::sleep(Duration::from_micros(20));
                counted.fetch_add(receiver.try_iter().count() as u64, Ordering::Relaxed);
            }
        });
        let begin = hurried(Urgency::Receiver);
        let sending = thread::spawn(move || {
            begin();
            (0..SENDS).for_each(|n| sender.send(n).unwrap());
        });
        let began = Instant::now();
        while !sending.is_finished() {
            assert!(began.elapsed() < LONG, "it stands still after {} items", came.load(Ordering::Relaxed));
            thread::sleep(Duration::from_millis(5));
        }
        sending.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        receiving.join().unwrap();
    }
}
