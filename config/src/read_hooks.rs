//! Reads what follows the role: the failover scripts, `hook` blocks and `service` blocks.
//!
//! Decides their defaults and looks at the programs on this host: one that is missing is a warning (the
//! file may be checked on another host), and an error where its failure would veto every takeover.
//! Invariant: whatever comes out has an absolute command and a limit that can be kept.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::hooks::{
    DEFAULT_HOOK_TIMEOUT, DEFAULT_UNIT_TIMEOUT, Hook, HookEvent, MAX_LIMIT, MIN_LIMIT, OnFailure, Service,
};
use crate::quantity::show;
use crate::report::Notes;
use crate::section::{At, Section};

/// Most hooks and most services: they are run one after the other.
const MAX_EACH: usize = 32;

/// Most words of a command.
const MAX_WORDS: usize = 64;

/// Permission bits by which anybody but the owner can change a file.
const OTHERS_WRITE: u32 = 0o022;

/// Permission bits of which a program needs one.
const EXECUTE: u32 = 0o111;

/// What systemd appends to a unit's name to say what it is; of these it makes sense to start and stop.
const UNIT_TYPES: [&str; 6] = [".service", ".target", ".socket", ".timer", ".mount", ".path"];

/// Longest name of a unit, in bytes, as systemd has it.
const MAX_UNIT_BYTES: usize = 255;

/// The hooks of the `ha` block, the two scripts first.
pub(crate) fn hooks(notes: &mut Notes, section: &mut Section<'_>) -> Vec<Hook> {
    let usual = limit(notes, section, "hook_timeout", DEFAULT_HOOK_TIMEOUT);
    let veto = section.flag(notes, "pre_failover_veto");
    let mut hooks = Vec::new();
    let has_pre = section.key_span("pre_failover_script").is_some();
    if let Some(veto) = veto.as_ref().filter(|veto| veto.value && !has_pre) {
        let message = "`pre_failover_veto` has nothing to act on: there is no `pre_failover_script`";
        notes.warn(&veto.span, message, "add the script, or remove the line");
    }
    let veto = veto.is_some_and(|veto| veto.value);
    for (key, event, veto) in [
        ("pre_failover_script", HookEvent::PrePrimary, veto),
        ("post_failover_script", HookEvent::Primary, false),
    ] {
        let Some(command) = command(notes, section, key, veto) else { continue };
        hooks.push(Hook { name: key.to_owned(), on: vec![event], command, timeout: usual, veto });
    }
    for (label, mut block) in section.named_blocks(notes, "hook") {
        hooks.extend(hook(notes, label, &mut block, usual));
        block.close(notes);
    }
    if hooks.len() > MAX_EACH {
        notes.error(&section.head, format!("more than {MAX_EACH} hooks"), "let one script do several things");
    }
    hooks
}

fn hook(notes: &mut Notes, label: At<String>, block: &mut Section<'_>, usual: Duration) -> Option<Hook> {
    let on = events(notes, block);
    let timeout = limit(notes, block, "timeout", usual);
    let veto = block.flag(notes, "veto");
    if let (Some(veto), Some(on)) = (&veto, &on)
        && veto.value
        && !on.contains(&HookEvent::PrePrimary)
    {
        let message = "only a hook on \"pre_primary\" can veto: later there is nothing left to prevent";
        notes.error(&veto.span, message, "write `on = [\"pre_primary\"]`, or remove `veto`");
    }
    let veto = veto.is_some_and(|veto| veto.value);
    let command = command(notes, block, "exec", veto);
    if block.key_span("exec").is_none() {
        let mend = "write the program and its arguments: `exec = [\"/etc/holdfast/hook.sh\"]`";
        notes.error(&label.span, format!("hook {:?} has no `exec`", label.value), mend);
    }
    good_label(notes, "hook", &label);
    Some(Hook { name: label.value, on: on?, command: command?, timeout, veto })
}

fn events(notes: &mut Notes, block: &mut Section<'_>) -> Option<Vec<HookEvent>> {
    let words = HookEvent::ALL.map(|event| format!("\"{}\"", event.word())).join(", ");
    let Some(written) = block.texts(notes, "on") else {
        if block.key_span("on").is_none() {
            let mend = format!("write `on = [\"primary\"]`; there are {words}");
            notes.error(&block.head.clone(), "a `hook` says with `on` when it is run", mend);
        }
        return None;
    };
    if written.value.is_empty() {
        notes.error(&written.span, "`on` is empty: the hook is never run", format!("there are {words}"));
        return None;
    }
    let mut on = Vec::new();
    for word in &written.value {
        match HookEvent::ALL.into_iter().find(|event| event.word() == word.value) {
            Some(event) if on.contains(&event) => {
                notes.error(&word.span, format!("{:?} is given twice", word.value), "remove one of the two");
            }
            Some(event) => on.push(event),
            None => {
                let known = HookEvent::ALL.map(HookEvent::word);
                let mend = match keepalived(&word.value).or(crate::vocabulary::nearest(&word.value, &known)) {
                    Some(near) => format!("did you mean \"{near}\"? there are {words}"),
                    None => format!("write one of {words}"),
                };
                notes.error(&word.span, format!("there is no event {:?}", word.value), mend);
            }
        }
    }
    Some(on)
}

/// What keepalived's and Patroni's words for it are called here.
fn keepalived(word: &str) -> Option<&'static str> {
    match word.to_ascii_lowercase().as_str() {
        "master" | "notify_master" | "leader" | "on_role_change" => Some("primary"),
        "backup" | "notify_backup" | "replica" | "secondary" => Some("standby"),
        "notify_fault" => Some("fault"),
        "notify_stop" | "on_stop" => Some("stop"),
        "pre_promote" | "pre_failover" => Some("pre_primary"),
        _ => None,
    }
}

/// A program with its arguments: a text, or a list of texts.
pub(crate) fn command(
    notes: &mut Notes,
    section: &mut Section<'_>,
    key: &'static str,
    veto: bool,
) -> Option<Vec<String>> {
    let words = section.text_or_texts(notes, key)?;
    let Some(program) = words.value.first() else {
        let mend = format!("write the program's whole path: `{key} = [\"/etc/holdfast/hook.sh\"]`");
        notes.error(&words.span, format!("`{key}` is empty"), mend);
        return None;
    };
    if !program.value.starts_with('/') {
        let message = format!("`{key}` must begin with an absolute path");
        let mend = match program.value.contains(char::is_whitespace) {
            true => {
                "write program and arguments as a list: `[\"/usr/bin/program\", \"argument\"]`".to_owned()
            }
            false => format!("write the whole path, such as `{key} = \"/etc/holdfast/hook.sh\"`"),
        };
        notes.error(&program.span, message, mend);
        return None;
    }
    if words.value.iter().any(|word| word.value.contains('\0')) || words.value.len() > MAX_WORDS {
        let message = format!("`{key}` has a zero byte in it, or more than {MAX_WORDS} words");
        notes.error(&words.span, message, "let a script say it");
        return None;
    }
    look_at(notes, key, program, veto);
    Some(words.value.into_iter().map(|word| word.value).collect())
}

/// Whether the program is there and can be run, and whether others could put something else in its place.
fn look_at(notes: &mut Notes, key: &str, program: &At<String>, veto: bool) {
    let path = &program.value;
    let mut complain = |message: String, mend: String| {
        if veto {
            notes.error(&program.span, format!("{message}: every takeover would be vetoed"), mend);
        } else {
            notes.warn(&program.span, message, mend);
        }
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            let mend = match error.kind() {
                std::io::ErrorKind::NotFound if path.contains(' ') => {
                    "write program and arguments as a list: `[\"/usr/bin/program\", \"argument\"]`".to_owned()
                }
                _ => format!("put the program there, on every data member, and run `chmod 755 {path}`"),
            };
            return complain(format!("`{key}`: cannot look at {path}: {error}"), mend);
        }
    };
    if !metadata.is_file() {
        return complain(
            format!("`{key}`: {path} is no file"),
            "write the path of a program or script".to_owned(),
        );
    }
    let mode = metadata.mode();
    if mode & EXECUTE == 0 {
        complain(
            format!("`{key}`: {path} cannot be run (mode {:03o})", mode & 0o777),
            format!("run `chmod 755 {path}`"),
        );
    }
    if mode & OTHERS_WRITE != 0 {
        let message = format!(
            "`{key}`: others can change {path} (mode {:03o}), and the agent would run what they write",
            mode & 0o777
        );
        notes.warn(&program.span, message, format!("run `chmod go-w {path}`"));
    }
}

/// The `service` blocks.
pub(crate) fn services(notes: &mut Notes, root: &mut Section<'_>) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for (label, mut block) in root.named_blocks(notes, "service") {
        let unit = block.text(notes, "unit");
        if block.key_span("unit").is_none() {
            let message = format!("service {:?} has no `unit`", label.value);
            notes.error(&label.span, message, "write `unit = \"haproxy.service\"`, as `systemctl` shows it");
        }
        let start_timeout = limit(notes, &mut block, "start_timeout", DEFAULT_UNIT_TIMEOUT);
        let stop_timeout = limit(notes, &mut block, "stop_timeout", DEFAULT_UNIT_TIMEOUT);
        let choices = [("ignore", OnFailure::Ignore), ("give_up", OnFailure::GiveUp)];
        let on_failure =
            block.choice(notes, "on_failure", &choices).map_or(OnFailure::Ignore, |choice| choice.value);
        block.close(notes);
        good_label(notes, "service", &label);
        let Some(unit) = unit.filter(|unit| good_unit(notes, unit)) else { continue };
        if let Some(other) = services.iter().find(|other| other.unit == unit.value) {
            let message = format!("service {:?} has this unit already", other.name);
            notes.error(&unit.span, message, "remove one of the two `service` blocks");
            continue;
        }
        services.push(Service {
            name: label.value,
            unit: unit.value,
            start_timeout,
            stop_timeout,
            on_failure,
        });
        if services.len() == MAX_EACH + 1 {
            let mend = "let a `.target` unit pull several in";
            notes.error(&label.span, format!("more than {MAX_EACH} services"), mend);
        }
    }
    services
}

fn good_unit(notes: &mut Notes, unit: &At<String>) -> bool {
    let name = &unit.value;
    if !UNIT_TYPES.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending)) {
        let mend = match name.contains('.') {
            false => format!("write `unit = \"{}.service\"`", name.escape_default()),
            true => format!("write a unit that can be started: {}", UNIT_TYPES.join(", ")),
        };
        notes.error(&unit.span, format!("{name:?} is not the whole name of a unit"), mend);
        return false;
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    if name.len() > MAX_UNIT_BYTES || !name.chars().all(good) {
        let mend = "write it as `systemctl list-units` shows it";
        notes.error(&unit.span, format!("{name:?} cannot be the name of a unit"), mend);
        return false;
    }
    if name.starts_with("holdfast") && name.ends_with(".service") {
        let message = format!("{name} is the agent itself: it would stop itself as a standby");
        notes.error(&unit.span, message, "remove the block; the agent runs on every member");
        return false;
    }
    true
}

/// Labels stand in the history and in the environment of hooks.
pub(crate) fn good_label(notes: &mut Notes, what: &str, label: &At<String>) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=63).contains(&label.value.len()) || !label.value.chars().all(good) {
        let message = format!("{:?} cannot be the name of a {what}", label.value);
        notes.error(&label.span, message, "write 1 to 63 characters of A-Z a-z 0-9 . _ -");
    }
}

pub(crate) fn limit(
    notes: &mut Notes,
    section: &mut Section<'_>,
    key: &'static str,
    usual: Duration,
) -> Duration {
    let Some(limit) = section.duration(notes, key) else { return usual };
    if (MIN_LIMIT..=MAX_LIMIT).contains(&limit.value) {
        return limit.value;
    }
    out_of_range(notes, key, &limit.span, limit.value);
    usual
}

fn out_of_range(notes: &mut Notes, key: &str, span: &Range<usize>, value: Duration) {
    let message = format!("`{key}` cannot be {}", show(value));
    let mend = format!("write between \"{}\" and \"{}\"", show(MIN_LIMIT), show(MAX_LIMIT));
    notes.error(span, message, mend);
}
