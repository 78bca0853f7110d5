//! `holdfast ha replay`: tells the core of this program what a recorded one was told, and what it decided.
//!
//! Needs no agent and no cluster: the file is the whole story. Ends with status 0 where every decision is
//! the recorded one, and 1 where one is not or the file cannot be read.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use super::paint::Paint;
use super::replay_view::{self, Account, Told};
use super::{FAILED, say, say_json};
use crate::flight::{self, Divergence, Flight, FlightError, MAX_FILE_BYTES, Outcome};
use crate::runtime::history::rfc3339;
use crate::runtime::recorder::build_of_this_program;

pub(super) fn run(file: &Path, verbose: bool, as_json: bool) -> Result<ExitCode> {
    let flight = load(file).with_context(|| file.display().to_string())?;
    let mut account = Account::new(&flight.origin, verbose);
    // A panic of the replayed core is an outcome, told in its place.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = flight::replay(&flight, |step| account.add(step));
    std::panic::set_hook(hook);
    let told = Told {
        flight: &flight,
        lines: account.finish(),
        outcome: &outcome,
        version: env!("CARGO_PKG_VERSION"),
        build: build_of_this_program(),
    };
    match as_json {
        true => say_json(&as_value(&told))?,
        false => say(&replay_view::render(&told, Paint::for_stdout()))?,
    }
    Ok(match outcome {
        Outcome::Diverged(_) => ExitCode::from(FAILED),
        Outcome::Identical { .. } | Outcome::Panicked { .. } => ExitCode::SUCCESS,
    })
}

fn load(file: &Path) -> Result<Flight> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match flight::read(&bytes) {
        Ok(flight) => Ok(flight),
        Err(FlightError::OtherCore { version, build }) if version == env!("CARGO_PKG_VERSION") => {
            Err(anyhow!(
                "{}; this program is another build of that version ({:08x})",
                FlightError::OtherCore { version, build },
                build_of_this_program()
            ))
        }
        Err(error) => Err(error.into()),
    }
}

fn as_value(told: &Told) -> serde_json::Value {
    let origin = &told.flight.origin;
    let (verdict, difference) = match told.outcome {
        Outcome::Identical { .. } => ("identical", json!(null)),
        Outcome::Panicked { step, message } => ("panicked", json!({"step": step, "message": message})),
        Outcome::Diverged(Divergence::Effects { step, now, recorded, replayed }) => (
            "diverged",
            json!({
                "step": step,
                "at": rfc3339(origin.wall_ms_at(*now)),
                "what": "effects",
                "recorded": format!("{recorded:08x}"),
                "replayed": format!("{replayed:08x}"),
            }),
        ),
        Outcome::Diverged(Divergence::State { step, recorded, replayed }) => {
            ("diverged", json!({"step": step, "what": "state", "recorded": recorded, "replayed": replayed}))
        }
        Outcome::Diverged(Divergence::Panicked { step, now, message }) => (
            "diverged",
            json!({
                "step": step,
                "at": rfc3339(origin.wall_ms_at(*now)),
                "what": "panic",
                "recorded": null,
                "replayed": message,
            }),
        ),
    };
    json!({
        "recording": {
            "node": origin.node,
            "version": origin.version,
            "build": format!("{:08x}", origin.build),
            "why": origin.why,
            "taken_at": rfc3339(origin.wall_ms),
            "steps": told.flight.pieces.iter().map(|piece| piece.steps.len()).sum::<usize>(),
            "damage": told.flight.damage,
        },
        "program": {"version": told.version, "build": format!("{:08x}", told.build)},
        "verdict": verdict,
        "difference": difference,
        "timeline": told.lines,
    })
}
