//! Which tokens are good: each for one place in the cluster, once, and until its time is over.
//!
//! A token is spent when its bearer proved to know it, before anything is said to him. What was given out and is good no
//! longer is remembered for a while, so that its bearer hears why. Time is the caller's, and no clock that can be set.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::token::{Key, Role, Token};

/// Most tokens that are remembered after they were good: their bearers hear why they are not. One that is older is a
/// stranger's.
const MOST_REMEMBERED: usize = 64;

/// One token that was given out.
struct Given {
    id: u64,
    place: usize,
    token: Token,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good { until: Instant },
    Spent,
    Expired,
    Withdrawn,
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoGood {
    /// Somebody joined with it, or tried to.
    #[error(
        "this token was used already, and each is good for one time. If that was not you, somebody else has it: look at what `holdfast init` shows. It printed a new line if this place is still free"
    )]
    Spent,
    /// Its time is over.
    #[error("this token has expired; take the newer line that `holdfast init` printed")]
    Expired,
    /// Another one took its place.
    #[error("this token is not good any more; take the newer line that `holdfast init` printed")]
    Withdrawn,
}

/// All tokens of one run of `holdfast init`.
pub(super) struct Tokens {
    host: SocketAddr,
    valid_for: Duration,
    given: Vec<Given>,
    next_id: u64,
}

impl Tokens {
    /// For hosts that are to come to `host`, each token good for so long.
    pub(super) fn new(host: SocketAddr, valid_for: Duration) -> Tokens {
        Tokens { host, valid_for, given: Vec::new(), next_id: 0 }
    }

    /// Gives out a new token for a place. An earlier one for it is not good any more.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn give(&mut self, place: usize, role: Role, now: Instant) -> Result<Token, getrandom::Error> {
        let token = Token::new(role, self.host)?;
        for earlier in self.given.iter_mut().filter(|given| given.place == place) {
            if matches!(earlier.state, State::Good { .. }) {
                earlier.state = State::Withdrawn;
            }
        }
        if self.given.len() >= MOST_REMEMBERED
            && let Some(oldest) =
                self.given.iter().position(|given| !matches!(given.state, State::Good { .. }))
        {
            self.given.remove(oldest);
        }
        let state = State::Good { until: now + self.valid_for };
        self.given.push(Given { id: self.next_id, place, token: token.clone(), state });
        self.next_id += 1;
        Ok(token)
    }

    /// The keys of all tokens that are remembered, with what each is called in [`Tokens::take`]; good ones first.
    pub(super) fn keys(&self) -> Vec<(u64, Key)> {
        let is_good = |given: &&Given| matches!(given.state, State::Good { .. });
        let (good, others): (Vec<&Given>, Vec<&Given>) = self.given.iter().partition(is_good);
        good.into_iter().chain(others).map(|given| (given.id, given.token.key.clone())).collect()
    }

    /// The tokens that are good, each with its place.
    pub(super) fn good(&self) -> impl Iterator<Item = (usize, &Token)> {
        let good = self.given.iter().filter(|given| matches!(given.state, State::Good { .. }));
        good.map(|given| (given.place, &given.token))
    }

    /// Spends a token whose bearer proved to know it; its place.
    ///
    /// # Errors
    /// It is not good.
    pub(super) fn take(&mut self, id: u64, now: Instant) -> Result<usize, NoGood> {
        let given = self.given.iter_mut().find(|given| given.id == id).ok_or(NoGood::Withdrawn)?;
        match given.state {
            State::Good { until } if now < until => {
                given.state = State::Spent;
                Ok(given.place)
            }
            State::Good { .. } | State::Expired => Err(NoGood::Expired),
            State::Spent => Err(NoGood::Spent),
            State::Withdrawn => Err(NoGood::Withdrawn),
        }
    }

    /// Ends the tokens whose time is over; their places.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<usize> {
        let mut places = Vec::new();
        for given in &mut self.given {
            if matches!(given.state, State::Good { until } if until <= now) {
                given.state = State::Expired;
                places.push(given.place);
            }
        }
        places
    }

    /// When the next one ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let end = |given: &Given| match given.state {
            State::Good { until } => Some(until),
            _ => None,
        };
        self.given.iter().filter_map(end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn tokens() -> (Tokens, Instant) {
        (Tokens::new("10.0.0.1:9001".parse().unwrap(), LONG), Instant::now())
    }

    /// What the token is called.
    fn id_of(tokens: &Tokens, token: &Token) -> u64 {
        tokens.keys().into_iter().find(|(_, key)| *key == token.key).unwrap().0
    }

    #[test]
    fn a_token_is_good_once() {
        let (mut tokens, now) = tokens();
        let (b, w) = (tokens.give(0, Role::Data, now).unwrap(), tokens.give(1, Role::Witness, now).unwrap());
        assert!(b.key != w.key);
        let (b, w) = (id_of(&tokens, &b), id_of(&tokens, &w));
        assert_eq!(tokens.take(w, now), Ok(1));
        assert_eq!(tokens.take(w, now), Err(NoGood::Spent));
        assert_eq!(tokens.take(b, now), Ok(0));
        assert_eq!(tokens.take(77, now), Err(NoGood::Withdrawn));
    }

    #[test]
    fn a_token_ends_with_its_time() {
        let (mut tokens, now) = tokens();
        let token = tokens.give(0, Role::Data, now).unwrap();
        let id = id_of(&tokens, &token);
        assert_eq!(tokens.next_end(), Some(now + LONG));
        assert!(tokens.expire(now + LONG - Duration::from_millis(1)).is_empty());
        // Whether or not somebody has looked at the time meanwhile.
        assert_eq!(tokens.take(id, now + LONG), Err(NoGood::Expired));
        assert_eq!(tokens.expire(now + LONG), [0]);
        assert_eq!((tokens.expire(now + LONG), tokens.next_end()), (vec![], None));
        assert_eq!(tokens.take(id, now), Err(NoGood::Expired));
    }

    #[test]
    fn a_new_token_for_a_place_takes_the_place_of_the_earlier_one() {
        let (mut tokens, now) = tokens();
        let first = tokens.give(0, Role::Data, now).unwrap();
        let second = tokens.give(0, Role::Data, now).unwrap();
        let (first, second) = (id_of(&tokens, &first), id_of(&tokens, &second));
        assert_eq!(tokens.take(first, now), Err(NoGood::Withdrawn));
        assert_eq!(tokens.take(second, now), Ok(0));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_good_tokens_stay() {
        let (mut tokens, now) = tokens();
        let kept = tokens.give(1, Role::Witness, now).unwrap();
        for _ in 0..3 * MOST_REMEMBERED {
            tokens.give(0, Role::Data, now).unwrap();
        }
        assert_eq!(tokens.keys().len(), MOST_REMEMBERED);
        assert_eq!(tokens.take(id_of(&tokens, &kept), now), Ok(1));
    }
}
