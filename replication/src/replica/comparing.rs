//! Replicas have the same bytes (rule R9), and this is where they show it: the primary tells the sum of a range, the
//! standby sums its own copy from its own disk and says whether it is the same.
//!
//! Nothing is changed by what comes out: two sound copies that differ are for people to look at.

use std::collections::VecDeque;

use holdfast_heartbeat::Lsn;

use super::{ConnId, Out, Output, Replica, Role, StateMachine};
use crate::disk::Disk;
use crate::log::RangeSum;
use crate::stream::{Frame, Verdict};

/// Sums that wait for a peer to have what they are of. Older ones give way.
const MOST_WAITING: usize = 8;

/// Sums that a peer is to be told, in order.
#[derive(Debug, Default)]
pub(super) struct Unsaid(VecDeque<RangeSum>);

impl Unsaid {
    fn add(&mut self, sum: RangeSum) {
        if self.0.len() >= MOST_WAITING {
            self.0.pop_front();
        }
        self.0.push_back(sum);
    }

    /// The next one that lies below `acked`.
    pub(super) fn next_below(&mut self, acked: Lsn) -> Option<RangeSum> {
        let due = self.0.front().is_some_and(|sum| sum.to <= acked);
        if due { self.0.pop_front() } else { None }
    }
}

impl<D: Disk, M: StateMachine, R> Replica<D, M, R> {
    /// The sum of a range of this primary's log, for whoever follows it.
    pub(super) fn compare(&mut self, sum: RangeSum, out: &mut Out<R, M>) {
        let Role::Leading(leading) = &mut self.role else { return };
        for (conn, unsaid, acked) in leading.unsaid() {
            unsaid.add(sum);
            while let Some(sum) = unsaid.next_below(acked) {
                out.push(Output::Send { conn, frame: Frame::Compare { sum } });
            }
        }
    }

    /// The primary tells a sum.
    pub(super) fn told_sum(&mut self, conn: ConnId, sum: RangeSum, out: &mut Out<R, M>) {
        if !matches!(&self.role, Role::Following(following) if following.upstream == Some(conn)) {
            return self.refuse(conn, "a sum out of place", out);
        }
        if sum.to > self.log.durable() {
            let frame = Frame::Compared { from: sum.from, verdict: Verdict::Unread };
            return out.push(Output::Send { conn, frame });
        }
        out.push(Output::Compare { conn, sum });
    }

    /// What was found here for the primary.
    pub(super) fn found(&mut self, conn: ConnId, from: Lsn, verdict: Verdict, out: &mut Out<R, M>) {
        if self.conns.contains_key(&conn) {
            out.push(Output::Send { conn, frame: Frame::Compared { from, verdict } });
        }
    }

    /// What a follower found.
    pub(super) fn compared(&mut self, conn: ConnId, from: Lsn, verdict: Verdict, out: &mut Out<R, M>) {
        let Role::Leading(leading) = &self.role else { return };
        if let Some(member) = leading.member_of(conn) {
            out.push(Output::Compared { member: member.clone(), from, verdict });
        }
    }
}
