//! Reads the `fence` blocks: what can switch another member off.
//!
//! Decides their defaults and looks at the agents on this host: one that is missing is a warning, for the file may
//! be checked on another host. Invariant: what an agent is told is a [`Secret`] from here on, and the keys that the
//! agent itself is told by Holdfast (the action, the plug) are in no `params`.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fence::{
    DEFAULT_FENCE_DELAY, DEFAULT_FENCE_TIMEOUT, DEFAULT_MONITOR_INTERVAL, FenceDevice, FenceTarget,
};
use crate::quantity::show;
use crate::report::Notes;
use crate::secret::Secret;
use crate::section::{At, Section};
use crate::{mask, secret_file};

/// Where Debian's `fence-agents` are, and most other distributions'.
const AGENTS: &str = "/usr/sbin";
/// Most devices: each is looked at again and again.
const MAX_DEVICES: usize = 32;
/// Most parameters of one agent.
const MAX_PARAMS: usize = 64;
/// Longest value of a parameter, in bytes; a private key fits.
const MAX_VALUE_BYTES: usize = 16 * 1024;
/// Tries after the first one where the file says nothing: a controller that was busy answers the second time.
const DEFAULT_RETRIES: u32 = 1;
/// Most tries after the first one.
const MAX_RETRIES: u64 = 10;
/// Levels, as Pacemaker has them.
const LEVELS: std::ops::RangeInclusive<u64> = 1..=9;

const TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const MONITOR: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(86_400));

/// Reads every `fence` block, and where each stands.
pub(crate) fn devices(
    notes: &mut Notes,
    root: &mut Section<'_>,
    dir: &Path,
) -> (Vec<FenceDevice>, Vec<Range<usize>>) {
    let mut devices = Vec::new();
    let mut places = Vec::new();
    for (name, section) in root.named_blocks(notes, "fence") {
        let head = section.head.clone();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=63).contains(&name.value.len()) || !name.value.chars().all(good) {
            let message = format!("{:?} cannot be the name of a fence device", name.value);
            notes.error(&name.span, message, "write 1 to 63 characters of A-Z a-z 0-9 . _ -");
        }
        devices.extend(device(notes, name.value, section, dir));
        places.push(head);
    }
    if let Some(place) = places.get(MAX_DEVICES) {
        notes.error(place, format!("more than {MAX_DEVICES} fence devices"), "remove some of them");
    }
    (devices, places)
}

fn device(notes: &mut Notes, name: String, mut section: Section<'_>, dir: &Path) -> Option<FenceDevice> {
    let agent = agent(notes, &mut section);
    let targets = targets(notes, &mut section);
    let level = section.integer(notes, "level", LEVELS).map_or(1, |level| level.value as u8);
    let delay = duration(notes, &mut section, "delay", DEFAULT_FENCE_DELAY, DELAY);
    let timeout = duration(notes, &mut section, "timeout", DEFAULT_FENCE_TIMEOUT, TIMEOUT);
    let retries = section
        .integer(notes, "retries", 0..=MAX_RETRIES)
        .map_or(DEFAULT_RETRIES, |retries| retries.value as u32);
    let verify = section.flag(notes, "verify");
    if let Some(verify) = verify.as_ref().filter(|verify| !verify.value) {
        let message = "`verify = false`: a device that says yes and does nothing is believed, and both members may serve";
        notes.warn(&verify.span, message, "remove the line, unless the device cannot be asked");
    }
    let actions = [("off", false), ("reboot", true)];
    let reboot = section.choice(notes, "action", &actions).is_some_and(|action| action.value);
    let monitor_interval =
        duration(notes, &mut section, "monitor_interval", DEFAULT_MONITOR_INTERVAL, MONITOR);
    let params = match section.block(notes, "params") {
        Some(params) => params_of(notes, params, dir),
        None => Vec::new(),
    };
    section.close(notes);
    Some(FenceDevice {
        name,
        agent: agent?,
        targets: targets?,
        level,
        delay,
        timeout,
        retries,
        verify: verify.is_none_or(|verify| verify.value),
        reboot,
        monitor_interval,
        params,
    })
}

fn agent(notes: &mut Notes, section: &mut Section<'_>) -> Option<PathBuf> {
    const MEND: &str =
        "write the name of an agent in /usr/sbin, such as `agent = \"fence_ipmilan\"`, or its whole path";
    let Some(text) = section.text(notes, "agent") else {
        if section.key_span("agent").is_none() {
            notes.error(
                &section.head,
                "a `fence` block says with `agent` what switches the member off",
                MEND,
            );
        }
        return None;
    };
    let name = &text.value;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let path = if name.starts_with('/') && !name.contains('\0') {
        PathBuf::from(name)
    } else if !name.is_empty() && name.chars().all(plain) && !name.starts_with('.') {
        Path::new(AGENTS).join(name)
    } else {
        notes.error(&text.span, format!("{name:?} is not the name of a fence agent"), MEND);
        return None;
    };
    look_at(notes, &path, &text);
    Some(path)
}

/// Whether the agent is there and can be run, and whether others could put something else in its place.
fn look_at(notes: &mut Notes, path: &Path, text: &At<String>) {
    let shown = path.display();
    let consequence = "until that is mended it can switch nobody off";
    match fs::metadata(path) {
        Err(error) => {
            let message = format!("`agent`: cannot look at {shown}: {error}; {consequence}");
            let mend =
                format!("install it: `apt-get install fence-agents`, or the package that has {}", text.value);
            notes.warn(&text.span, message, mend);
        }
        Ok(metadata) if !metadata.is_file() || metadata.mode() & 0o111 == 0 => {
            let message = format!("`agent`: {shown} cannot be run; {consequence}");
            notes.warn(&text.span, message, format!("run `chmod 755 {shown}`"));
        }
        Ok(metadata) if metadata.mode() & 0o022 != 0 => {
            let message = format!(
                "`agent`: others can change {shown} (mode {:03o}), and the agent would run what they write",
                metadata.mode() & 0o777
            );
            notes.warn(&text.span, message, format!("run `chmod go-w {shown}`"));
        }
        Ok(_) => {}
    }
}

/// `member` with `plug`, or `members` with `plugs`.
fn targets(notes: &mut Notes, section: &mut Section<'_>) -> Option<Vec<FenceTarget>> {
    let head = section.head.clone();
    let (one, many) = (section.text(notes, "member"), section.texts(notes, "members"));
    let (plug, plugs) = (section.text(notes, "plug"), section.texts(notes, "plugs"));
    let written = |key| section.key_span(key).is_some();
    if written("member") && written("members") {
        let span = section.key_span("members").unwrap_or(head);
        notes.error(&span, "`member` and `members` are both given", "keep one of the two");
        return None;
    }
    if !written("member") && !written("members") {
        let mend =
            "write the `node_id` of whom it switches off: `member = \"b\"`, or `members = [\"a\", \"b\"]`";
        notes.error(&head, "a `fence` block says with `member` whom it can switch off", mend);
        return None;
    }
    for (key, with, other) in [("plug", "member", "plugs"), ("plugs", "members", "plug")] {
        if let Some(span) = section.key_span(key).filter(|_| !written(with)) {
            notes.error(&span, format!("`{key}` goes with `{with}`"), format!("write `{other}` here"));
            return None;
        }
    }
    let members = one.map(|one| vec![one]).or(many.map(|many| many.value))?;
    let plugs = plug.map(|plug| vec![plug]).or(plugs.as_ref().map(|plugs| plugs.value.clone()));
    if members.is_empty() {
        notes.error(&head, "`members` is empty: the device is for nobody", "write at least one `node_id`");
        return None;
    }
    if let Some(plugs) = plugs.as_ref().filter(|plugs| plugs.len() != members.len()) {
        let message = format!("{} plugs for {} members", plugs.len(), members.len());
        let span = section.key_span("plugs").unwrap_or(head);
        notes.error(&span, message, "write one plug for each member, in the same order");
        return None;
    }
    let mut targets: Vec<FenceTarget> = Vec::new();
    for (at, member) in members.iter().enumerate() {
        let plug = plugs.as_ref().map(|plugs| plugs[at].clone());
        if targets.iter().any(|target| target.member == member.value) {
            notes.error(&member.span, format!("{:?} is given twice", member.value), "remove one of the two");
            return None;
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if !(1..=63).contains(&member.value.len()) || !member.value.chars().all(good) {
            let message = format!("{:?} cannot be the `node_id` of a member", member.value);
            notes.error(&member.span, message, "write it as `holdfast ha status` on that member shows it");
            return None;
        }
        if let Some(plug) = plug.as_ref().filter(|plug| !one_line(&plug.value)) {
            notes.error(&plug.span, "a plug is one line, and not empty", "write the outlet's number or name");
            return None;
        }
        targets.push(FenceTarget { member: member.value.clone(), plug: plug.map(|plug| plug.value) });
    }
    Some(targets)
}

/// Agents read one `key=value` a line.
fn one_line(value: &str) -> bool {
    !value.is_empty() && !value.contains(['\n', '\r', '\0']) && value.len() <= MAX_VALUE_BYTES
}

fn params_of(notes: &mut Notes, mut section: Section<'_>, dir: &Path) -> Vec<(String, Secret)> {
    /// What the agent is told by Holdfast itself, and what to write instead.
    const OWN: [(&str, &str); 7] = [
        ("action", "write `action = \"off\"` or \"reboot\" beside `agent`"),
        ("option", "write `action = \"off\"` or \"reboot\" beside `agent`"),
        ("plug", "write `plug` beside `agent`"),
        ("port", "write `plug` beside `agent`; the port of the device's address is `ipport`"),
        ("nodename", "remove it: `plug` says whom the device switches"),
        ("delay", "write `delay` beside `agent`"),
        ("method", "remove it: Holdfast switches off and looks, whatever follows"),
    ];
    let mut params: Vec<(String, Secret)> = Vec::new();
    for key in section.keys() {
        let Some(span) = section.key_span(key) else { continue };
        if let Some((_, mend)) = OWN.iter().find(|(own, _)| *own == key) {
            section.accept(key);
            notes.error(&span, format!("`{key}` is not for `params`: Holdfast says it itself"), *mend);
            continue;
        }
        let value = section.plain(notes, key);
        let Some(value) = value else { continue };
        // `password_file` holds a password; `identity_file` is a path that the agent itself wants to know.
        let base = key.strip_suffix("_file").filter(|base| mask::is_telltale(base));
        let (name, secret) = match base {
            Some(base) => match secret_file::read(notes, key, &value, dir) {
                Some(secret) => (base, secret.value),
                None => continue,
            },
            None => {
                if mask::is_telltale(key) {
                    notes.secret_within.get_or_insert(value.span.clone());
                }
                (key, Secret::new(value.value))
            }
        };
        if !one_line(secret.expose()) {
            notes.error(&span, format!("`{key}` is empty, or more than one line"), "write it in one line");
            continue;
        }
        if params.iter().any(|(known, _)| known == name) {
            notes.error(&span, format!("`{name}` is given twice"), "keep the one in the file of its own");
            continue;
        }
        params.push((name.to_owned(), secret));
    }
    if params.len() > MAX_PARAMS {
        notes.error(&section.head, format!("more than {MAX_PARAMS} parameters"), "remove some of them");
    }
    section.close(notes);
    params
}

fn duration(
    notes: &mut Notes,
    section: &mut Section<'_>,
    key: &'static str,
    usual: Duration,
    (least, most): (Duration, Duration),
) -> Duration {
    let Some(given) = section.duration(notes, key) else { return usual };
    if (least..=most).contains(&given.value) {
        return given.value;
    }
    let message = format!("`{key}` {} cannot be used for a fence device", show(given.value));
    notes.error(&given.span, message, format!("write from \"{}\" to \"{}\"", show(least), show(most)));
    usual
}
