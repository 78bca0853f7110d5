//! The future: what will happen, in the order of time, and of arrival where times are equal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Ns;

struct Entry<T> {
    at: Ns,
    serial: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The soonest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

/// What will happen.
pub struct Queue<T> {
    heap: BinaryHeap<Entry<T>>,
    serial: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { heap: BinaryHeap::new(), serial: 0 }
    }
}

impl<T> Queue<T> {
    /// Lets `what` happen at `at`.
    pub fn push(&mut self, at: Ns, what: T) {
        self.serial += 1;
        self.heap.push(Entry { at, serial: self.serial, what });
    }

    /// The next one, if it is due by `limit`.
    pub fn pop_until(&mut self, limit: Ns) -> Option<(Ns, T)> {
        if self.heap.peek()?.at > limit {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.what))
    }

    /// How much is still to come.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
