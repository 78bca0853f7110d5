//! Reads `sync_files` blocks.
//!
//! Decides their defaults, and refuses paths whose replacement by another member could hand this host over: its own
//! data, its configuration, programs that it runs. What concerns other blocks is in [`whole`]. Invariant: whatever
//! comes out has absolute paths without `.` and `..`, none of which lies in another.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use glob::Pattern;

use crate::hooks::DEFAULT_HOOK_TIMEOUT;
use crate::model::{Config, Mode};
use crate::quantity::show;
use crate::read_hooks::{command, good_label, limit};
use crate::report::Notes;
use crate::section::{At, Section};
use crate::sync_files::{
    DEFAULT_MAX_FILE_BYTES, DEFAULT_MAX_FILES, DEFAULT_RESCAN_INTERVAL, MOST_FILE_BYTES, MOST_FILES,
    SyncFiles,
};

/// Most blocks, and most paths and patterns of each.
const MAX_EACH: usize = 64;

/// Shortest and longest time between two looks.
const RESCAN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// What the kernel shows as files.
const OF_THE_KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Where the paths of each block stand, and its name.
pub(crate) type Places = Vec<(Range<usize>, Vec<Range<usize>>)>;

/// The blocks, in the order of the file.
pub(crate) fn sets(notes: &mut Notes, root: &mut Section<'_>) -> (Vec<SyncFiles>, Places) {
    let (mut sets, mut places): (Vec<SyncFiles>, Places) = (Vec::new(), Vec::new());
    for (label, mut block) in root.named_blocks(notes, "sync_files") {
        let before: Vec<(String, PathBuf)> = sets
            .iter()
            .flat_map(|set: &SyncFiles| set.paths.iter().map(|path| (set.name.clone(), path.clone())))
            .collect();
        let paths = paths(notes, &label, &mut block, &before);
        let exclude = patterns(notes, &mut block);
        let timeout = limit(notes, &mut block, "timeout", DEFAULT_HOOK_TIMEOUT);
        let veto = block.flag(notes, "veto").is_some_and(|veto| veto.value);
        let on_change = command(notes, &mut block, "on_change", false);
        let on_takeover = command(notes, &mut block, "on_takeover", veto);
        let max_file_bytes = block
            .size_bytes(notes, "max_file_size", 1..=MOST_FILE_BYTES)
            .map_or(DEFAULT_MAX_FILE_BYTES, |size| size.value);
        let max_files =
            block.integer(notes, "max_files", 1..=MOST_FILES).map_or(DEFAULT_MAX_FILES, |most| most.value);
        let rescan_interval = rescan_interval(notes, &mut block);
        block.close(notes);
        good_label(notes, "sync_files block", &label);
        if label.value.starts_with('.') {
            // It names a directory.
            let message = format!("{:?} cannot be the name of a sync_files block", label.value);
            notes.error(&label.span, message, "write a name that begins with a letter or a digit");
        }
        let (paths, spans) = paths;
        places.push((label.span.clone(), spans));
        sets.push(SyncFiles {
            name: label.value,
            paths,
            exclude,
            on_change,
            on_takeover,
            timeout,
            veto,
            max_file_bytes,
            max_files,
            rescan_interval,
        });
        if sets.len() == MAX_EACH + 1 {
            notes.error(
                &label.span,
                format!("more than {MAX_EACH} sync_files blocks"),
                "put several paths in one",
            );
        }
    }
    (sets, places)
}

fn paths(
    notes: &mut Notes,
    label: &At<String>,
    block: &mut Section<'_>,
    before: &[(String, PathBuf)],
) -> (Vec<PathBuf>, Vec<Range<usize>>) {
    let (mut good, mut spans): (Vec<PathBuf>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
    let Some(written) = block.texts(notes, "paths") else {
        if block.key_span("paths").is_none() {
            let message = format!("sync_files {:?} has no `paths`", label.value);
            notes.error(
                &label.span,
                message,
                "write the files and directories: `paths = [\"/etc/dhcp\", \"/var/lib/dhcp\"]`",
            );
        }
        return (good, spans);
    };
    if written.value.is_empty() {
        notes.error(&written.span, "`paths` is empty: nothing is replicated", "name a file or a directory");
    }
    if written.value.len() > MAX_EACH {
        notes.error(
            &written.span,
            format!("more than {MAX_EACH} paths"),
            "name the directory that they are in",
        );
    }
    for text in written.value {
        let Some(path) = good_path(notes, &text) else { continue };
        let own = good.iter().map(|other| (&label.value, other));
        let others = before.iter().map(|(name, other)| (name, other));
        let lies_in = |other: &Path| path.starts_with(other) || other.starts_with(&path);
        if let Some((name, other)) = own.chain(others).find(|(_, other)| lies_in(other)) {
            let message = format!(
                "{} and {} of sync_files {name:?} overlap: one file would belong to both",
                path.display(),
                other.display()
            );
            notes.error(
                &text.span,
                message,
                "keep the one that holds the other, with `exclude` where it holds too much",
            );
            continue;
        }
        look_at(notes, &text.span, &path);
        good.push(path);
        spans.push(text.span);
    }
    (good, spans)
}

fn good_path(notes: &mut Notes, text: &At<String>) -> Option<PathBuf> {
    let trimmed = text.value.trim_end_matches('/');
    let path = PathBuf::from(trimmed);
    if !text.value.starts_with('/') {
        let mend = "write the whole path, such as `paths = [\"/etc/dhcp\"]`";
        notes.error(&text.span, format!("{:?} is not an absolute path", text.value), mend);
        return None;
    }
    if trimmed.is_empty() {
        let mend = "name the directories that the service needs";
        notes.error(&text.span, "`/` is the whole host: every member would become a copy of another", mend);
        return None;
    }
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let written_plainly = !trimmed.contains("//") && !trimmed.split('/').any(|part| part == ".");
    if !plain || !written_plainly || trimmed.chars().any(char::is_control) {
        let message =
            format!("{:?} has `.`, `..`, an empty part or a character that does not print in it", text.value);
        notes.error(&text.span, message, "write the path as `realpath` shows it");
        return None;
    }
    if let Some(kernel) = OF_THE_KERNEL.iter().find(|kernel| path.starts_with(kernel)) {
        let message = format!("{} lies in {kernel}, which is the kernel's", path.display());
        notes.error(&text.span, message, "name files that lie on a disk");
        return None;
    }
    Some(path)
}

/// What is there on this host: what cannot be followed is said before it is needed.
fn look_at(notes: &mut Notes, span: &Range<usize>, path: &Path) {
    let link = path.ancestors().find(|part| part.symlink_metadata().is_ok_and(|found| found.is_symlink()));
    if let Some(link) = link {
        let message = format!(
            "{} is a symbolic link, and none is followed: nothing is replicated there",
            link.display()
        );
        notes.warn(span, message, format!("write the path that `realpath {}` shows", path.display()));
        return;
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        let message = format!("the directory {} does not exist on this host", parent.display());
        notes.warn(span, message, format!("make it on every data member: `mkdir -p {}`", parent.display()));
    }
}

fn patterns(notes: &mut Notes, block: &mut Section<'_>) -> Vec<Pattern> {
    let Some(written) = block.texts(notes, "exclude") else { return Vec::new() };
    if written.value.len() > MAX_EACH {
        notes.error(
            &written.span,
            format!("more than {MAX_EACH} patterns"),
            "name the paths that are wanted instead",
        );
    }
    let read = |text: &At<String>| match Pattern::new(&text.value) {
        Ok(pattern) if !text.value.is_empty() => Some(pattern),
        _ => {
            let mend = "write `*` for any characters, `?` for one, `[a-z]` for one of these: `exclude = [\"*.tmp\"]`";
            notes.error(&text.span, format!("{:?} is no pattern", text.value), mend);
            None
        }
    };
    written.value.iter().filter_map(read).collect()
}

fn rescan_interval(notes: &mut Notes, block: &mut Section<'_>) -> Duration {
    let Some(written) = block.duration(notes, "rescan_interval") else { return DEFAULT_RESCAN_INTERVAL };
    if (RESCAN.0..=RESCAN.1).contains(&written.value) {
        return written.value;
    }
    let message = format!("`rescan_interval` cannot be {}", show(written.value));
    notes.error(
        &written.span,
        message,
        format!("write between \"{}\" and \"{}\"", show(RESCAN.0), show(RESCAN.1)),
    );
    DEFAULT_RESCAN_INTERVAL
}

/// What the blocks and the rest of the file say together.
pub(crate) fn whole(notes: &mut Notes, config: &Config, places: &Places) {
    if config.mode == Mode::Witness {
        if let Some((place, _)) = places.first() {
            let message = "a witness has no log: no file is replicated to it";
            notes.warn(place, message, "move the `sync_files` blocks to the data members");
        }
        return;
    }
    let own = |what: &'static str, path: &Path| (what, path.to_owned());
    let mut kept: Vec<(&'static str, PathBuf)> = vec![own("state (`state_dir`)", &config.state_dir)];
    kept.extend(config.store.iter().map(|store| own("data (`data_dir`)", &store.data_dir)));
    kept.extend(notes.own_files.iter().map(|path| own("configuration and secrets", path)));
    for (set, (_, spans)) in config.sync_files.iter().zip(places) {
        for (path, span) in set.paths.iter().zip(spans) {
            let touches = |other: &Path| path.starts_with(other) || other.starts_with(path);
            if let Some((what, other)) = kept.iter().find(|(_, other)| touches(other)) {
                let message = format!(
                    "{} holds, or lies in, {}: Holdfast's own {what}, which is each member's own",
                    path.display(),
                    other.display()
                );
                notes.error(span, message, "name the directories of the service alone");
            }
        }
    }
    programs(notes, config, places);
}

/// A program that lies in a replicated path could be replaced by whoever is primary, and is run by the agent.
fn programs(notes: &mut Notes, config: &Config, places: &Places) {
    let first = |command: &Vec<String>| command.first().cloned();
    let of_sets = config.sync_files.iter().flat_map(|set| [&set.on_change, &set.on_takeover]).flatten();
    let of_hooks = config.ha.hooks.iter().map(|hook| &hook.command);
    let programs: Vec<String> = of_sets.chain(of_hooks).filter_map(first).collect();
    for (set, (_, spans)) in config.sync_files.iter().zip(places) {
        for (path, span) in set.paths.iter().zip(spans) {
            if let Some(program) = programs.iter().find(|program| Path::new(program).starts_with(path)) {
                let message = format!(
                    "the agent runs {program}, which lies in {}: another member could put any program there",
                    path.display()
                );
                notes.error(span, message, "keep programs that the agent runs out of replicated paths");
            }
        }
    }
}
