//! A packet is believed once, by the life of the receiver that it was made for, and while it is fresh.

mod support;

use std::time::Duration;

use holdfast_heartbeat::replay::echo_of;
use holdfast_heartbeat::*;
use proptest::prelude::*;

use support::{echo, plain};

/// This life of ours.
const OWN: BootNonce = BootNonce(10);
const MAX_AGE: Duration = Duration::from_millis(300);

/// A packet of the life `boot` of the peer that echoes what we sent at `echoed`.
fn packet(boot: u64, seq: u64, echoed: Time) -> Heartbeat {
    Heartbeat { boot: BootNonce(boot), seq, echo: Some(echo(OWN.0, echoed)), ..plain() }
}

fn ms(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

/// Judges at 1000 ms a packet that echoes what we sent just then.
fn check(guard: &mut ReplayGuard, boot: u64, seq: u64) -> Result<(), Dropped> {
    guard.check(ms(1000), OWN, MAX_AGE, &packet(boot, seq, ms(1000)))
}

#[test]
fn a_packet_is_believed_once() {
    let mut guard = ReplayGuard::default();
    for seq in [1, 2, 3] {
        assert_eq!(check(&mut guard, 20, seq), Ok(()));
    }
    for seq in [3, 2, 1] {
        assert_eq!(check(&mut guard, 20, seq), Err(Dropped::Replayed), "{seq}");
    }
}

/// A member numbers what it sends to each of its peers apart. Somebody who sends on to us what it meant for the
/// place of another one must not make its packets for us seem old.
#[test]
fn packets_for_another_place_do_not_make_ours_seem_old() {
    use holdfast_heartbeat::replay::SLOT_AT;
    let mut guard = ReplayGuard::default();
    assert_eq!(check(&mut guard, 20, 5), Ok(()));
    assert_eq!(check(&mut guard, 20, (1 << SLOT_AT) + 900), Ok(()));
    for seq in [6, 7, (1 << SLOT_AT) + 901] {
        assert_eq!(check(&mut guard, 20, seq), Ok(()), "{seq}");
        assert_eq!(check(&mut guard, 20, seq), Err(Dropped::Replayed), "{seq} again");
    }
}

#[test]
fn packets_that_overtake_each_other_are_believed_within_the_window() {
    let mut guard = ReplayGuard::default();
    assert_eq!(check(&mut guard, 20, 100), Ok(()));
    for seq in (37..100).rev() {
        assert_eq!(check(&mut guard, 20, seq), Ok(()), "{seq}");
        assert_eq!(check(&mut guard, 20, seq), Err(Dropped::Replayed), "{seq} again");
    }
    assert_eq!(check(&mut guard, 20, 36), Err(Dropped::Replayed), "before the window");
    assert_eq!(check(&mut guard, 20, 0), Err(Dropped::Replayed));
}

#[test]
fn the_window_moves_by_any_distance() {
    for ahead in [1, 62, 63, 64, 65, 1000, u64::MAX - 100] {
        let mut guard = ReplayGuard::default();
        assert_eq!(check(&mut guard, 20, 99), Ok(()));
        assert_eq!(check(&mut guard, 20, 100), Ok(()));
        assert_eq!(check(&mut guard, 20, 100 + ahead), Ok(()));
        for seen in [99, 100, 100 + ahead] {
            assert_eq!(check(&mut guard, 20, seen), Err(Dropped::Replayed), "{seen} after {ahead}");
        }
        if ahead > 1 {
            assert_eq!(check(&mut guard, 20, 100 + ahead - 1), Ok(()), "not seen yet");
        }
    }
}

#[test]
fn a_packet_that_did_not_hear_us_proves_nothing() {
    let mut guard = ReplayGuard::default();
    let deaf = Heartbeat { echo: None, ..packet(20, 1, ms(1000)) };
    assert_eq!(guard.check(ms(1000), OWN, MAX_AGE, &deaf), Err(Dropped::Unproven));
    assert_eq!(guard.current_boot(), None, "and changes nothing");
    assert_eq!(check(&mut guard, 20, 1), Ok(()), "its number is not used up");
}

#[test]
fn a_recording_from_an_earlier_life_of_ours_proves_nothing() {
    let mut guard = ReplayGuard::default();
    let recorded = Heartbeat { echo: Some(echo(9, ms(1000))), ..packet(20, 1, ms(1000)) };
    assert_eq!(guard.check(ms(1000), OWN, MAX_AGE, &recorded), Err(Dropped::Unproven));
}

#[test]
fn a_packet_that_was_held_back_is_stale() {
    let mut guard = ReplayGuard::default();
    let held = packet(20, 1, ms(700));
    let just = ms(1000);
    assert_eq!(guard.check(just + Duration::from_nanos(1), OWN, MAX_AGE, &held), Err(Dropped::Stale));
    assert_eq!(guard.current_boot(), None, "and changes nothing");
    assert_eq!(guard.check(just, OWN, MAX_AGE, &held), Ok(()), "at the very limit it is fresh");
}

#[test]
fn an_echo_from_the_future_is_stale() {
    let mut guard = ReplayGuard::default();
    for echoed in [ms(1000) + Duration::from_nanos(1), Time::NEVER] {
        assert_eq!(guard.check(ms(1000), OWN, MAX_AGE, &packet(20, 1, echoed)), Err(Dropped::Stale));
    }
}

#[test]
fn a_stale_packet_of_a_new_life_does_not_end_the_old_one() {
    let mut guard = ReplayGuard::default();
    assert_eq!(check(&mut guard, 20, 5), Ok(()));
    assert_eq!(guard.check(ms(1000), OWN, MAX_AGE, &packet(21, 1, ms(0))), Err(Dropped::Stale));
    assert_eq!(guard.current_boot(), Some(BootNonce(20)));
    assert!(!guard.is_retired(BootNonce(20)));
    assert_eq!(check(&mut guard, 20, 6), Ok(()));
}

#[test]
fn a_new_life_counts_anew_and_the_old_one_is_over() {
    let mut guard = ReplayGuard::default();
    assert_eq!(check(&mut guard, 20, 500), Ok(()));
    assert_eq!(check(&mut guard, 21, 1), Ok(()), "a restarted peer begins at one");
    assert_eq!(guard.current_boot(), Some(BootNonce(21)));
    assert!(guard.is_retired(BootNonce(20)));
    assert_eq!(check(&mut guard, 20, 501), Err(Dropped::Replayed), "never seen, and yet too late");
    assert_eq!(check(&mut guard, 21, 1), Err(Dropped::Replayed));
    assert_eq!(check(&mut guard, 21, 2), Ok(()));
}

#[test]
fn the_late_packets_of_an_ended_life_do_not_end_the_present_one() {
    let mut guard = ReplayGuard::default();
    let mut judge = |boot, seq, echoed| guard.check(ms(1000), OWN, MAX_AGE, &packet(boot, seq, ms(echoed)));
    // The last packet of life 20 was slow: the first ones of life 21 have overtaken it.
    assert_eq!(judge(21, 2, 900), Ok(()));
    assert_eq!(judge(20, 5, 850), Err(Dropped::Replayed));
    assert_eq!(judge(21, 3, 950), Ok(()));
    // Where our own packets overtook each other the order shows only later.
    assert_eq!(judge(22, 1, 950), Ok(()), "what it answers was sent before");
    assert_eq!(judge(21, 4, 960), Ok(()), "taken for alive");
    assert_eq!(judge(22, 2, 970), Ok(()), "until the present one answers something newer");
    assert_eq!(judge(21, 5, 970), Err(Dropped::Replayed));
}

#[test]
fn the_last_lives_stay_over_and_older_ones_fail_by_their_age() {
    let mut guard = ReplayGuard::default();
    for boot in 20..26 {
        assert_eq!(check(&mut guard, boot, 1), Ok(()));
    }
    for boot in 21..25 {
        assert!(guard.is_retired(BootNonce(boot)), "{boot}");
        assert_eq!(check(&mut guard, boot, 2), Err(Dropped::Replayed), "{boot}");
    }
    // Five restarts take longer than the age of any echo that the first life can have.
    assert!(!guard.is_retired(BootNonce(20)));
    let later = ms(1000) + MAX_AGE + Duration::from_nanos(1);
    let ancient = packet(20, 2, ms(1000));
    assert_eq!(guard.check(later, OWN, MAX_AGE, &ancient), Err(Dropped::Stale));
    assert_eq!(guard.current_boot(), Some(BootNonce(25)));
}

#[test]
fn an_echo_names_the_packet_with_its_senders_own_marks() {
    let heartbeat = Heartbeat { seq: 77, sent_at: Time(123), path: 3, ..plain() };
    let expected = Echo { boot: BootNonce(20), seq: 77, sent_at: Time(123), path: 3 };
    assert_eq!(echo_of(&heartbeat), expected);
}

proptest! {
    /// Whatever the order, no number is believed twice, and none within the window is refused.
    #[test]
    fn the_window_agrees_with_a_set(seqs in prop::collection::vec(0u64..300, 1..400)) {
        let mut guard = ReplayGuard::default();
        let mut seen = std::collections::HashSet::new();
        let mut highest = None;
        for seq in seqs {
            let in_window = highest.is_none_or(|highest| seq + 64 > highest);
            // The first packet opens the window; what lies before it was never seen and is let in.
            let expected = in_window && !seen.contains(&seq);
            prop_assert_eq!(check(&mut guard, 20, seq).is_ok(), expected, "{}", seq);
            seen.insert(seq);
            highest = highest.max(Some(seq));
        }
    }
}
