//! What changed on this disk is fetched from a member that has it, and put right.
//!
//! Both sides of a stream ask and answer, so a primary is healed by its standby as well. Nothing that was
//! fetched is believed: the log takes only what continues its own bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_heartbeat::Lsn;

use super::leading::MAX_RUN;
use super::{ConnId, Done, Out, Output, Replica, Role, StateMachine, SubmitError};
use crate::disk::Disk;
use crate::log::LogError;
use crate::stream::Frame;

/// What was asked for: of whom, and who waits for it.
pub(super) struct Asked<R> {
    conn: ConnId,
    waiting: Vec<R>,
}

/// What is being fetched, by where it begins.
pub(super) type Healing<R> = BTreeMap<Lsn, Asked<R>>;

impl<D: Disk, M: StateMachine, R> Replica<D, M, R> {
    /// Puts the record at `lsn` right, if it is damaged.
    pub(super) fn heal(&mut self, lsn: Lsn, reply: Option<R>, out: &mut Out<R, M>) {
        let mended = self.log.mend_segment_header(lsn);
        if mended.is_ok() && self.log.is_sound_at(lsn) {
            return answer(reply, Ok(lsn), out);
        }
        if let Some(asked) = self.healing.get_mut(&lsn) {
            asked.waiting.extend(reply);
            return;
        }
        let Some(conn) = self.somebody_with(lsn) else {
            let why = "no other member that has it is connected";
            return answer(reply, Err(format!("LSN {lsn} is damaged, and {why}")), out);
        };
        self.healing.insert(lsn, Asked { conn, waiting: reply.into_iter().collect() });
        out.push(Output::Send { conn, frame: Frame::Fetch { lsn } });
    }

    /// A stream to a member that has what is durable here at `lsn`.
    fn somebody_with(&self, lsn: Lsn) -> Option<ConnId> {
        if lsn >= self.log.durable() {
            return None;
        }
        match &self.role {
            Role::Idle => None,
            Role::Leading(leading) => leading.who_has(lsn),
            Role::Following(following) => following.upstream,
        }
    }

    /// The other side of a stream asks for records.
    pub(super) fn fetch(&mut self, conn: ConnId, lsn: Lsn, out: &mut Out<R, M>) {
        let streams = match &self.role {
            Role::Idle => false,
            Role::Leading(leading) => leading.streams(conn),
            Role::Following(following) => following.upstream == Some(conn),
        };
        if !streams {
            return self.refuse(conn, "a question out of place", out);
        }
        let bytes = if lsn < self.log.durable() {
            self.reader.read_run(lsn, MAX_RUN).unwrap_or_else(|error| {
                // Both have lost it, or this side gave it up.
                self.note_damage(&error);
                Bytes::new()
            })
        } else {
            Bytes::new()
        };
        out.push(Output::Send { conn, frame: Frame::Fetched { lsn, bytes } });
    }

    /// What was asked for has come.
    pub(super) fn fetched(&mut self, conn: ConnId, lsn: Lsn, bytes: &Bytes, out: &mut Out<R, M>) {
        if self.healing.get(&lsn).is_none_or(|asked| asked.conn != conn) {
            return;
        }
        let Some(asked) = self.healing.remove(&lsn) else { return };
        let healed = if bytes.is_empty() {
            Err(format!("LSN {lsn} is damaged, and the peer cannot read it either"))
        } else {
            self.log.replace(lsn, bytes).map_err(|error| format!("LSN {lsn} cannot be healed: {error}"))
        };
        match &healed {
            Ok(end) => {
                tracing::warn!(node = %self.me, %lsn, %end, "damaged bytes of the log were replaced by the peer's");
                if self.damaged.as_ref().is_some_and(|damage| damage.lsn >= lsn && damage.lsn < *end) {
                    self.damaged = None;
                }
                self.healed += 1;
                out.push(Output::Healed { from: lsn, to: *end });
            }
            Err(error) => tracing::error!(node = %self.me, %lsn, %error, "damage stays for now"),
        }
        for reply in asked.waiting {
            answer(Some(reply), healed.clone().map(|_| lsn), out);
        }
        if let (Some(at), Err(error)) = (self.apply_waits.take_if(|at| *at == lsn), healed) {
            self.fail(format!("the index cannot go on at LSN {at}: {error}"), out);
        }
    }

    /// Nobody will answer on that connection any more.
    pub(super) fn give_up_healing(&mut self, conn: ConnId, out: &mut Out<R, M>) {
        let asked_there = self.healing.iter().filter(|(_, asked)| asked.conn == conn);
        let over: Vec<Lsn> = asked_there.map(|(lsn, _)| *lsn).collect();
        for lsn in over {
            for reply in self.healing.remove(&lsn).into_iter().flat_map(|asked| asked.waiting) {
                let error =
                    format!("LSN {lsn} is damaged, and the stream to the member that has it broke off");
                answer(Some(reply), Err(error), out);
            }
            self.apply_waits.take_if(|at| *at == lsn);
        }
    }

    /// The role has changed, or a stream stands: what could not be applied is tried again.
    pub(super) fn look_again(&mut self) {
        self.apply_waits.take_if(|at| !self.healing.contains_key(at));
    }

    /// What is to be applied next cannot be read: it is asked for, if anybody has it.
    pub(super) fn heal_for_apply(&mut self, error: LogError, out: &mut Out<R, M>) {
        self.note_damage(&error);
        let LogError::Damaged { lsn, .. } = error else { return self.fail(error.to_string(), out) };
        if self.somebody_with(lsn).is_none() && matches!(self.role, Role::Leading(_)) {
            return self.fail(error.to_string(), out);
        }
        self.apply_waits = Some(lsn);
        if self.somebody_with(lsn).is_none() {
            // Until there is a stream; see `look_again`.
            return;
        }
        self.heal(lsn, None, out);
        if self.log.is_sound_at(lsn) {
            self.apply_waits = None;
        }
    }
}

fn answer<R, O>(reply: Option<R>, healed: Result<Lsn, String>, out: &mut Vec<Output<R, O>>) {
    let Some(reply) = reply else { return };
    let result = match healed {
        Ok(lsn) => Ok(Done::Appended { lsn, end: lsn }),
        Err(error) => Err(SubmitError::Refused(error)),
    };
    out.push(Output::Reply { reply, result });
}
