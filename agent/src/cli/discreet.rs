//! Takes the API token out of this process's arguments, which every user of the host can see in `ps`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::Context;

use crate::anew::start_anew;

/// Starts this program anew, in the same process, with a token of its arguments in its environment, where nobody but
/// this user and root sees it. Returns if there was none. For a moment it could be seen: `--token-file` is better.
///
/// # Errors
/// The program could not be started anew; nothing was changed.
pub(super) fn hide_token() -> io::Result<()> {
    match without_token(std::env::args_os()) {
        (_, None) => Ok(()),
        (arguments, Some(token)) => Err(start_anew(arguments, ("HOLDFAST_TOKEN", &token))),
    }
}

/// Where the token of a join line is, once it is out of the arguments.
pub(super) const JOIN_TOKEN: &str = "HOLDFAST_JOIN_TOKEN";

/// The same for the token of `holdfast join TOKEN`. For a moment it could be seen: `holdfast join -` reads it from
/// standard input.
///
/// # Errors
/// The program could not be started anew; nothing was changed.
pub(super) fn hide_join_token() -> anyhow::Result<()> {
    match without_join_token(std::env::args_os()) {
        (_, None) => Ok(()),
        (arguments, Some(token)) => Err(start_anew(arguments, (JOIN_TOKEN, &token))).context(
            "the token could not be hidden from other users; give it on standard input: holdfast join -",
        ),
    }
}

/// The arguments without what looks like the token of a join line, and the last such.
fn without_join_token(arguments: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Option<OsString>) {
    let (mut kept, mut token) = (Vec::new(), None);
    for argument in arguments {
        let looks = argument.as_bytes().get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"hf1-"));
        if looks { token = Some(argument) } else { kept.push(argument) }
    }
    (kept, token)
}

/// The arguments without `--token X` and `--token=X`, and the last such X.
fn without_token(arguments: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Option<OsString>) {
    let (mut kept, mut token) = (Vec::new(), None);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == OsStr::new("--token") {
            token = arguments.next();
        } else if let Some(value) = argument.as_bytes().strip_prefix(b"--token=") {
            token = Some(OsString::from_vec(value.to_vec()));
        } else {
            kept.push(argument);
        }
    }
    (kept, token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_a_join_line_is_taken_out_and_nothing_else() {
        let of = |words: &str| {
            let (kept, token) = without_join_token(words.split(' ').map(OsString::from));
            let kept: Vec<_> = kept.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            (kept.join(" "), token.map(|token| token.to_string_lossy().into_owned()))
        };
        let kept = |words: &str| (words.to_owned(), Some("hf1-abc".to_owned()));
        assert_eq!(of("holdfast join hf1-abc"), kept("holdfast join"));
        assert_eq!(
            of("holdfast join --no-start hf1-abc --node b"),
            kept("holdfast join --no-start --node b")
        );
        assert_eq!(of("holdfast join -"), ("holdfast join -".to_owned(), None));
    }

    #[test]
    fn a_token_is_taken_out_and_nothing_else() {
        let of = |words: &str| {
            let (kept, token) = without_token(words.split(' ').map(OsString::from));
            let kept: Vec<_> = kept.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            (kept.join(" "), token.map(|token| token.to_string_lossy().into_owned()))
        };
        let token = |token: &str| Some(token.to_owned());
        assert_eq!(of("holdfast ha --token x status"), ("holdfast ha status".into(), token("x")));
        assert_eq!(
            of("holdfast ha status --token=x=y --json"),
            ("holdfast ha status --json".into(), token("x=y"))
        );
        assert_eq!(
            of("holdfast ha status --token-file x"),
            ("holdfast ha status --token-file x".into(), None)
        );
    }
}
