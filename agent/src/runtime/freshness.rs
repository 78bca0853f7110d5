//! How a standby knows that an answer of its own is not too old.
//!
//! It asks the primary over the stream what is committed, and the primary answers only while it holds the lease. What
//! anybody had acknowledged before the question was *sent* lies below the answer: within the reign because what is
//! committed never shrinks, and beyond it because nobody else reigned before the lease was over. When the answer
//! comes, or how long it took, does not matter; nor does any clock but the asker's own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use holdfast_heartbeat::{Epoch, Lsn, Time, planted};
use holdfast_replication::replica::Input;
use holdfast_replication::stream::Frame;
use holdfast_store::s3::Follow;
use tokio::sync::watch;

use super::address;
use super::log_thread::LogInput;
use super::mailbox::Sender;

/// A question that was not answered for so long is asked again: the stream was cut, or begins only now.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Whoever waits for so long is told that it cannot be found out.
const GIVE_UP: Duration = Duration::from_secs(1);

/// What a primary says to a follower that asks, `held` being the lease at this moment.
pub fn word(held: Option<Epoch>, token: u64, epoch: Epoch, committed: Lsn) -> Option<Frame> {
    let may = held == Some(epoch) || planted::is("freshness-without-the-lease");
    may.then_some(Frame::Told { token, epoch, committed })
}

/// What is known.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// When the question was asked.
    asked_at: Time,
    committed: Lsn,
}

/// The question that was asked last.
#[derive(Debug, Default)]
struct Question {
    token: u64,
    /// `None` once it is answered.
    asked_at: Option<Time>,
}

/// Where answers are put.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    question: Arc<Mutex<Question>>,
    known: Arc<watch::Sender<Option<Known>>>,
}

impl Answers {
    /// The primary has answered.
    pub fn told(&self, token: u64, committed: Lsn) {
        let mut question = self.question.lock().unwrap_or_else(PoisonError::into_inner);
        if question.token == token
            && let Some(asked_at) = question.asked_at.take()
        {
            self.known.send_replace(Some(Known { asked_at, committed }));
        }
    }

    /// The token of a question that is to be asked at `now`; `None` while another one is under way.
    fn ask(&self, now: Time) -> Option<u64> {
        let mut question = self.question.lock().unwrap_or_else(PoisonError::into_inner);
        if question.asked_at.is_some_and(|at| now.since(at) < ASK_AGAIN) {
            return None;
        }
        question.token += 1;
        question.asked_at = Some(now);
        Some(question.token)
    }
}

/// A standby's way to the primary's knowledge.
pub struct Freshness {
    log: Mutex<Sender<LogInput>>,
    answers: Answers,
    staleness: Duration,
}

impl Freshness {
    /// For answers that may lag by `staleness`; zero: by nothing.
    pub fn new(log: Sender<LogInput>, answers: Answers, staleness: Duration) -> Freshness {
        Freshness { log: Mutex::new(log), answers, staleness }
    }

    async fn known_since(&self, begun: Time) -> Option<Lsn> {
        let since =
            Time(begun.0.saturating_sub(u64::try_from(self.staleness.as_nanos()).unwrap_or(u64::MAX)));
        let mut known = self.answers.known.subscribe();
        loop {
            if let Some(known) = known.borrow_and_update().filter(|known| known.asked_at >= since) {
                return Some(known.committed);
            }
            let now = address::now();
            if now.since(begun) >= GIVE_UP {
                return None;
            }
            if let Some(token) = self.answers.ask(now) {
                let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                log.send(LogInput::Replica(Input::Ask { token })).ok()?;
            }
            let _ = tokio::time::timeout(ASK_AGAIN, known.changed()).await;
        }
    }
}

impl Follow for Freshness {
    fn fresh(&self) -> BoxFuture<'_, Option<Lsn>> {
        Box::pin(self.known_since(address::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::mailbox::channel;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn an_answer_counts_from_when_its_question_was_asked_and_only_once() {
        let answers = Answers::default();
        let first = answers.ask(at(1)).unwrap();
        assert_eq!(answers.ask(at(50)), None, "one question at a time");
        let second = answers.ask(at(101)).unwrap();
        answers.told(first, Lsn(9));
        assert!(answers.known.borrow().is_none(), "whose answer came late is not known to be fresh");
        answers.told(second, Lsn(10));
        let known = answers.known.borrow().unwrap();
        assert_eq!((known.asked_at, known.committed), (at(101), Lsn(10)));
        let third = answers.ask(at(102)).unwrap();
        answers.told(second, Lsn(11));
        assert_eq!(answers.known.borrow().unwrap().committed, Lsn(10));
        answers.told(third, Lsn(12));
        assert_eq!(answers.known.borrow().unwrap().asked_at, at(102));
    }

    #[test]
    fn without_the_lease_of_its_reign_a_primary_says_nothing() {
        assert!(word(Some(Epoch(3)), 1, Epoch(3), Lsn(5)).is_some());
        assert!(word(None, 1, Epoch(3), Lsn(5)).is_none());
        assert!(word(Some(Epoch(4)), 1, Epoch(3), Lsn(5)).is_none());
    }

    #[tokio::test]
    async fn what_is_fresh_enough_is_not_asked_again() {
        let (log, asked) = channel();
        let answers = Answers::default();
        let freshness = Freshness::new(log, answers.clone(), Duration::from_secs(3600));
        let waiting = tokio::spawn(async move { (freshness.fresh().await, freshness.fresh().await) });
        let question = tokio::task::spawn_blocking(move || (asked.recv().unwrap(), asked)).await.unwrap();
        let (LogInput::Replica(Input::Ask { token }), asked) = question else { panic!("not a question") };
        answers.told(token, Lsn(7));
        assert_eq!(waiting.await.unwrap(), (Some(Lsn(7)), Some(Lsn(7))));
        assert!(asked.try_recv().is_err());
    }
}
