//! Other stations that speak of an address while this member holds it.
//!
//! It decides when the address is defended by an announcement (at once, and then at most once in
//! [`DEFEND_EVERY`]) and what is said of it. Never more: nobody has to prove anything to send such a frame,
//! so none may end a role. Each list has a limit, so that a flood of them costs a bounded amount.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use holdfast_vip::{Contest, MacAddr, Sign, VipSpec};

use super::Saying;

/// At most one defence of an address in this time. RFC 5227 (2.4 c) has ten seconds for hosts none of which
/// knows who is right; here the lease says it, and whoever believed the other station is cut off until the
/// next announcement. One a second is no storm.
pub(super) const DEFEND_EVERY: Duration = Duration::from_secs(1);
/// A station that was not heard for so long has let go.
pub(super) const QUIET: Duration = Duration::from_secs(60);
/// Most stations that are told apart. Hardware addresses can be made up: more of them are one "others".
const MOST_STATIONS: usize = 16;
/// Most addresses that one line names.
const NAMED: usize = 3;

#[derive(Debug)]
struct Station {
    mac: MacAddr,
    sign: Sign,
    of: Vec<VipSpec>,
    frames: u64,
    last: Instant,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Defence {
    /// Addresses to announce now.
    pub(super) announce: Vec<VipSpec>,
    /// What to say.
    pub(super) sayings: Vec<Saying>,
}

/// The stations that were heard lately.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    stations: Vec<Station>,
    /// Frames of stations beyond [`MOST_STATIONS`].
    others: u64,
    defended: HashMap<IpAddr, Instant>,
    /// Contested within [`DEFEND_EVERY`] of the last defence: defended again at its end.
    owed: Vec<VipSpec>,
}

/// `10.0.0.100 on eth1, 10.0.0.101 on eth1 and 3 more`
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Rivals {
    /// Takes in what was heard by `now`.
    pub(super) fn heard(&mut self, now: Instant, contests: &[Contest]) -> Defence {
        let mut defence = Defence::default();
        let mut fresh: Vec<(MacAddr, Sign, Vec<String>)> = Vec::new();
        for contest in contests {
            if self.note(now, contest) {
                match fresh.iter_mut().find(|(mac, sign, _)| (*mac, *sign) == (contest.mac, contest.sign)) {
                    Some((.., names)) => names.push(contest.spec.to_string()),
                    None => fresh.push((contest.mac, contest.sign, vec![contest.spec.to_string()])),
                }
            }
            let may = self.defended.get(&contest.spec.ip()).is_none_or(|at| now >= *at + DEFEND_EVERY);
            if may {
                self.defended.insert(contest.spec.ip(), now);
                defence.announce.push(contest.spec.clone());
            } else if !self.owed.contains(&contest.spec) {
                self.owed.push(contest.spec.clone());
            }
        }
        for (mac, sign, names) in fresh {
            let which = listed(&names);
            defence.sayings.push(match sign {
                Sign::Claims => Saying::Warning(format!(
                    "{mac} says that it has {which}, which this member holds; announced again. Find that station ({}) and take the address off there",
                    "`bridge fdb`, `ip neigh`, the switch's table of hardware addresses"
                )),
                Sign::Probes => Saying::Note(format!(
                    "{mac} asked whether anybody has {which}, which this member holds; announced again. A peer does so before a takeover, any host before it configures an address"
                )),
            });
        }
        defence
    }

    /// Counts; whether this station was not heard of this address lately.
    fn note(&mut self, now: Instant, contest: &Contest) -> bool {
        let same = |s: &&mut Station| s.mac == contest.mac && s.sign == contest.sign;
        if let Some(station) = self.stations.iter_mut().find(same) {
            station.last = now;
            station.frames += u64::from(contest.frames);
            let known = station.of.contains(&contest.spec);
            if !known {
                station.of.push(contest.spec.clone());
            }
            return !known;
        }
        if self.stations.len() >= MOST_STATIONS {
            self.others += u64::from(contest.frames);
            return false;
        }
        self.stations.push(Station {
            mac: contest.mac,
            sign: contest.sign,
            of: vec![contest.spec.clone()],
            frames: contest.frames.into(),
            last: now,
        });
        true
    }

    /// What has become due by `now`: defences that had to wait, and stations that fell silent.
    pub(super) fn due(&mut self, now: Instant) -> Defence {
        let mut defence = Defence::default();
        let defended = &mut self.defended;
        self.owed.retain(|spec| {
            let waits = defended.get(&spec.ip()).is_some_and(|at| now < *at + DEFEND_EVERY);
            if !waits {
                defended.insert(spec.ip(), now);
                defence.announce.push(spec.clone());
            }
            waits
        });
        self.stations.retain(|station| {
            let silent = now >= station.last + QUIET;
            if silent && station.sign == Sign::Claims {
                let names: Vec<String> = station.of.iter().map(ToString::to_string).collect();
                defence.sayings.push(Saying::Note(format!(
                    "{} has not claimed {} for {} s, after {} frames",
                    station.mac,
                    listed(&names),
                    QUIET.as_secs(),
                    station.frames
                )));
            }
            !silent
        });
        if self.stations.is_empty() {
            self.others = 0;
            self.defended.retain(|_, at| now < *at + DEFEND_EVERY);
        }
        defence
    }

    /// When [`due`](Rivals::due) has something next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let owed = self.owed.iter().filter_map(|spec| Some(*self.defended.get(&spec.ip())? + DEFEND_EVERY));
        owed.chain(self.stations.iter().map(|station| station.last + QUIET)).min()
    }

    /// What `ha status` says of it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let claims = self.stations.iter().filter(|station| station.sign == Sign::Claims);
        let mut warnings: Vec<String> = claims
            .map(|station| {
                let names: Vec<String> = station.of.iter().map(ToString::to_string).collect();
                format!(
                    "{} claims {}, which this member holds ({} frames): some clients may reach that station instead. Take the address off there",
                    station.mac,
                    listed(&names),
                    station.frames
                )
            })
            .collect();
        if self.others > 0 {
            warnings.push(format!(
                "more than {MOST_STATIONS} stations speak of the virtual addresses ({} frames): somebody makes up hardware addresses on this network",
                self.others
            ));
        }
        warnings
    }

    /// The addresses are not held any more: whoever claims them may be right.
    pub(super) fn forget(&mut self) {
        *self = Rivals::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(last: u8) -> VipSpec {
        VipSpec::new(format!("10.0.0.{last}/24").parse().unwrap(), "eth1")
    }

    fn contest(last: u8, mac: u8, sign: Sign) -> Contest {
        Contest { spec: vip(last), mac: MacAddr(2, 0, 0, 0, 0, mac), sign, frames: 2, at: 0 }
    }

    #[test]
    fn an_address_is_defended_at_once_and_then_once_a_second() {
        let (mut rivals, begun) = (Rivals::default(), Instant::now());
        let claims = [contest(100, 9, Sign::Claims)];
        let first = rivals.heard(begun, &claims);
        assert_eq!(first.announce, [vip(100)]);
        let [Saying::Warning(words)] = &first.sayings[..] else { panic!("{first:?}") };
        assert!(words.contains("02:00:00:00:00:09 says that it has 10.0.0.100 on eth1"), "{words}");
        for ms in 1..900 {
            let again = rivals.heard(begun + Duration::from_millis(ms), &claims);
            assert!(again.announce.is_empty() && again.sayings.is_empty(), "{ms} ms: {again:?}");
        }
        assert_eq!(rivals.next_at(), Some(begun + DEFEND_EVERY));
        assert!(rivals.due(begun + Duration::from_millis(999)).announce.is_empty());
        assert_eq!(rivals.due(begun + DEFEND_EVERY).announce, [vip(100)]);
        assert!(rivals.due(begun + DEFEND_EVERY * 3).announce.is_empty(), "nobody claimed it since");
        assert!(rivals.warnings()[0].contains("(1800 frames)"), "{:?}", rivals.warnings());
    }

    #[test]
    fn a_station_that_falls_silent_is_forgotten_and_said_to_be() {
        let (mut rivals, begun) = (Rivals::default(), Instant::now());
        rivals.heard(begun, &[contest(100, 9, Sign::Claims)]);
        assert_eq!(rivals.warnings().len(), 1);
        assert_eq!(rivals.next_at(), Some(begun + QUIET));
        let quiet = rivals.due(begun + QUIET);
        assert!(matches!(&quiet.sayings[..], [Saying::Note(_)]), "{quiet:?}");
        assert!(rivals.warnings().is_empty() && rivals.next_at().is_none());
    }

    #[test]
    fn a_probe_is_answered_and_noted_and_is_no_warning() {
        let mut rivals = Rivals::default();
        let heard = rivals.heard(Instant::now(), &[contest(100, 9, Sign::Probes)]);
        assert_eq!(heard.announce, [vip(100)]);
        assert!(matches!(&heard.sayings[..], [Saying::Note(_)]), "{heard:?}");
        assert!(rivals.warnings().is_empty());
    }

    #[test]
    fn a_holder_of_two_hundred_addresses_is_one_line() {
        let mut rivals = Rivals::default();
        let contests: Vec<Contest> = (1..=200).map(|n| contest(n, 9, Sign::Claims)).collect();
        let heard = rivals.heard(Instant::now(), &contests);
        assert_eq!(heard.announce.len(), 200);
        let [Saying::Warning(words)] = &heard.sayings[..] else { panic!("{heard:?}") };
        assert!(words.contains("and 197 more"), "{words}");
    }

    #[test]
    fn made_up_hardware_addresses_fill_neither_memory_nor_the_history() {
        let (mut rivals, now) = (Rivals::default(), Instant::now());
        let mut said = 0;
        for mac in 0..=255 {
            said += rivals.heard(now, &[contest(100, mac, Sign::Claims)]).sayings.len();
        }
        assert_eq!(said, MOST_STATIONS);
        assert_eq!(rivals.stations.len(), MOST_STATIONS);
        assert!(rivals.warnings().last().unwrap().contains("480 frames"), "{:?}", rivals.warnings());
    }
}
