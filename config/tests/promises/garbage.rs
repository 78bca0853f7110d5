//! No text panics, and no text loads with a hole in it.

use holdfast_config::{Config, explain};
use proptest::prelude::*;

use crate::GOOD;

const EVERY_KEY: &str = include_str!("../fixtures/every_key.hcl");

/// Whatever comes out can be shown, and what loads can be explained.
fn survives(text: &str) {
    match Config::parse("holdfast.hcl", text) {
        Ok(loaded) => {
            let _ = explain(&loaded);
            assert!(!loaded.config.heartbeat_paths.is_empty());
            assert!(!loaded.config.node_id.is_empty());
            assert!(loaded.config.keys.signing.len_bytes() > 0);
            let lease = loaded.config.ha.lease();
            assert!(lease >= loaded.config.ha.heartbeat_interval * 2);
        }
        Err(error) => {
            assert!(!error.faults().is_empty());
            let _ = error.to_string();
        }
    }
}

/// Pieces of the language, to get further into the reader than random characters do.
fn fragment() -> impl Strategy<Value = String> {
    let words: Vec<&'static str> = EVERY_KEY.split([' ', '\n']).filter(|word| !word.is_empty()).collect();
    prop_oneof![
        6 => proptest::sample::select(words).prop_map(|word| format!("{word} ")),
        2 => proptest::sample::select(vec![
            "\n", "{", "}", "[", "]", "\"", "=", ",", "#", "/*", "*/", "<<E\n", "E\n", "${", "%{", "\\", "(", ")",
            "-", "!", "null", "true", "1e999", "-0", "0.1", "99999999999999999999", "\u{feff}", "ü", "\r\n", "\0",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,8}",
    ]
}

proptest! {
    #[test]
    fn any_characters(text in "\\PC{0,200}") {
        survives(&text);
    }

    #[test]
    fn any_sequence_of_fragments(fragments in proptest::collection::vec(fragment(), 0..60)) {
        survives(&fragments.concat());
    }

    #[test]
    fn a_good_file_with_a_piece_replaced(
        whole in prop_oneof![Just(GOOD), Just(EVERY_KEY)],
        start in any::<prop::sample::Index>(),
        len in 0usize..30,
        instead in fragment(),
    ) {
        let start = whole.floor_char_boundary(start.index(whole.len()));
        let end = whole.ceil_char_boundary((start + len).min(whole.len()));
        survives(&format!("{}{instead}{}", &whole[..start], &whole[end..]));
    }

    #[test]
    fn a_good_file_with_another_value(line in 1usize..17, value in fragment()) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        if let Some((key, _)) = lines[line].clone().split_once('=') {
            lines[line] = format!("{key}= {value}");
        }
        survives(&lines.join("\n"));
    }
}

/// Found by fuzzing: the parser tried two readings of each bracket, 40 deep.
#[test]
fn a_short_text_that_is_wrong_deep_inside_is_refused_at_once() {
    let begun = std::time::Instant::now();
    let text = "a = b%{\nc=d [\"[\"/e%{\nf (g%{\n".repeat(40);
    let error = Config::parse("holdfast.hcl", &text).unwrap_err();
    assert!(error.to_string().contains("nested more than"), "{error}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn nesting_without_end_is_refused() {
    for open in ["[", "(", "{", "!", "-", "\"${", "a {\n"] {
        survives(&format!("x = {}", open.repeat(20_000)));
        survives(&open.repeat(20_000));
    }
}
