//! `holdfast replication archives`: what was set aside, through the API of the agent on this host.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use md5::{Digest, Md5};
use reqwest::Method;
use serde_json::{Value, json};

use super::archives_view::{self, Entry};
use super::args::ArchivesCommand;
use super::client::{Client, shaped};
use super::paint::Paint;
use super::store::escaped;
use super::{FAILED, say, say_json};
use crate::runtime::archives::{Fate, MOST_BYTES, Readable, Reported, ShownChange, Wanted};

const ARCHIVES: &str = "/api/replication/archives";
/// How often a restore is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(300);

pub(super) fn run(client: &Client, command: ArchivesCommand, json: bool) -> Result<ExitCode> {
    match command {
        ArchivesCommand::List => {
            let answer = client.get(ARCHIVES)?;
            if json {
                say_json(&answer)?;
            } else {
                say(&archives_view::list(&shaped::<Vec<Entry>>(answer)?, Paint::for_stdout()))?;
            }
        }
        ArchivesCommand::Show { name } => show(client, &name, json)?,
        ArchivesCommand::Get { name, object, version, output } => {
            let wanted = Wanted { version, ..wanted(&object)? };
            get(client, &name, &wanted, &output, json)?;
        }
        ArchivesCommand::Restore { name, objects, version, overwrite, create_buckets, behind_damage } => {
            let mut objects = objects.iter().map(|object| wanted(object)).collect::<Result<Vec<_>>>()?;
            if let Some(version) = version {
                let [one] = &mut objects[..] else { bail!("--version goes with exactly one BUCKET/KEY") };
                one.version = Some(version);
            }
            let order = json!({
                "objects": objects,
                "overwrite": overwrite,
                "create_buckets": create_buckets,
                "behind_damage": behind_damage,
            });
            return restore(client, &name, order, json);
        }
        ArchivesCommand::Delete { name, yes: true } => {
            let answer = client.change(Method::DELETE, &at(&name), json!({"for_good": true}))?;
            if json {
                say_json(&answer)?;
            } else {
                say(&format!("{}\n", answer["message"].as_str().unwrap_or_default()))?;
            }
        }
        ArchivesCommand::Delete { name, yes: false } => {
            let (_, changes) = all_changes(client, &name)?;
            bail!("{}", archives_view::would_be_lost(&name, &changes));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn at(name: &str) -> String {
    format!("{ARCHIVES}/{}", escaped(name))
}

/// `BUCKET/KEY`, or `BUCKET/` for all of it.
fn wanted(object: &str) -> Result<Wanted> {
    match object.split_once('/') {
        Some((bucket, key)) if !bucket.is_empty() => {
            Ok(Wanted { bucket: bucket.to_owned(), key: key.to_owned(), version: None })
        }
        _ => bail!("{object:?} names no object: write BUCKET/KEY, or BUCKET/ for all of a bucket"),
    }
}

/// One page of changes as it came, and where the next one begins.
fn page(client: &Client, name: &str, after: Option<u64>) -> Result<(Value, Option<u64>)> {
    let query = after.map(|after| format!("?after={after}")).unwrap_or_default();
    let page = client.look_up(&format!("{}{query}", at(name)))?;
    let next = page["next"].as_u64();
    Ok((page, next))
}

/// Every change, and the rest of what is told with the first page.
fn all_changes(client: &Client, name: &str) -> Result<(Value, Vec<ShownChange>)> {
    let (mut first, mut next) = page(client, name, None)?;
    let mut changes: Vec<ShownChange> = shaped(first["changes"].take())?;
    while let Some(after) = next {
        let (mut page, further) = page(client, name, Some(after))?;
        changes.extend(shaped::<Vec<_>>(page["changes"].take())?);
        next = further;
    }
    Ok((first, changes))
}

fn show(client: &Client, name: &str, json: bool) -> Result<()> {
    if json {
        let (mut whole, changes) = all_changes(client, name)?;
        whole["changes"] = serde_json::to_value(changes)?;
        if let Some(fields) = whole.as_object_mut() {
            fields.remove("next");
        }
        return say_json(&whole);
    }
    // Page by page: an archive can hold more than anybody wants to wait for.
    let mut after = None;
    loop {
        let (mut shown, next) = page(client, name, after)?;
        if after.is_none() {
            say(&archives_view::head(
                &shaped(shown["archive"].clone())?,
                shown["unreadable_bytes"].as_u64(),
            ))?;
        }
        say(&archives_view::changes(&shaped::<Vec<_>>(shown["changes"].take())?, Paint::for_stdout()))?;
        match next {
            Some(_) => after = next,
            None => return Ok(()),
        }
    }
}

fn get(client: &Client, name: &str, wanted: &Wanted, output: &Path, json: bool) -> Result<()> {
    let mut query = format!("bucket={}&key={}", escaped(&wanted.bucket), escaped(&wanted.key));
    if let Some(version) = &wanted.version {
        query.push_str(&format!("&version={}", escaped(version)));
    }
    let readable: Readable = shaped(client.look_up(&format!("{}/object?{query}", at(name)))?)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(output)
        .with_context(|| format!("{} cannot be made (it must not exist)", output.display()))?;
    let written = write(client, &at(name), &readable, &mut file);
    if let Err(error) = written {
        drop(file);
        // Half of an object must not be taken for one.
        std::fs::remove_file(output).with_context(|| format!("{} is not whole", output.display()))?;
        return Err(error);
    }
    let Readable { size, etag, .. } = &readable;
    if json {
        return say_json(&json!({"file": output, "bytes": size, "etag": etag}));
    }
    let said = format!("{} bytes of {}/{}", size, wanted.bucket, wanted.key);
    say(&format!("{said} are in {}; every checksum is right (entity tag {etag})\n", output.display()))
}

/// Writes it piece by piece, each compared with its MD5 where that is known.
fn write(client: &Client, at: &str, readable: &Readable, file: &mut File) -> Result<()> {
    let mut start = 0;
    for (size, noted) in &readable.pieces {
        let (mut md5, end) = (Md5::new(), start + size);
        while start < end {
            let len = (end - start).min(MOST_BYTES);
            let bytes = client.bytes(&format!("{at}/objects/{}?start={start}&len={len}", readable.id.0))?;
            if bytes.len() as u64 != len {
                bail!("the agent sent {} of {len} bytes; nothing was written", bytes.len());
            }
            md5.update(&bytes);
            file.write_all(&bytes).context("the file cannot be written")?;
            start += len;
        }
        let read = hex::encode(md5.finalize());
        if noted.as_ref().is_some_and(|noted| *noted != read) {
            bail!("the bytes are not those of the object's entity tag; nothing was written");
        }
    }
    file.sync_all().context("the file cannot be written")
}

fn restore(client: &Client, name: &str, order: Value, json: bool) -> Result<ExitCode> {
    let path = format!("{}/restore", at(name));
    let began_ms = client.order(&path, order)?["began_ms"].as_u64().unwrap_or_default();
    let (mut from, mut outcomes) = (0, Vec::new());
    let (paint, mut good) = (Paint::for_stdout(), true);
    let last = loop {
        let mut reported: Reported = shaped(client.look_up(&format!("{path}?from={from}"))?)?;
        if reported.progress.began_ms != began_ms {
            bail!(
                "the agent began anew meanwhile, so what became of the other objects is not known. Run it again: what was restored is left alone"
            );
        }
        let ended = !reported.progress.running && reported.outcomes.is_empty();
        good &= reported.outcomes.iter().all(|outcome| outcome.fate.is_good());
        if json {
            outcomes.append(&mut reported.outcomes);
        } else {
            say(&archives_view::outcomes(&reported.outcomes, paint))?;
        }
        if ended {
            break reported.progress;
        }
        if reported.next == from {
            std::thread::sleep(ASK_EVERY);
        }
        from = reported.next;
    };
    if json {
        let mut whole = serde_json::to_value(&last)?;
        whole["outcomes"] = serde_json::to_value(outcomes)?;
        say_json(&whole)?;
    } else {
        say(&archives_view::sum(&last))?;
    }
    if let Some(why) = last.failure {
        bail!("the restore ended before its end: {why}. Run it again: what was restored is left alone");
    }
    let kept = last.fates.contains_key(&Fate::Kept);
    if kept && !json {
        say("--overwrite replaces what the cluster has under these keys\n")?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_a_bucket_and_a_key_that_may_have_slashes() {
        let named = |text| wanted(text).map(|wanted| (wanted.bucket, wanted.key)).ok();
        assert_eq!(named("box/a/b"), Some(("box".into(), "a/b".into())));
        assert_eq!(named("box/"), Some(("box".into(), String::new())));
        assert_eq!((named("box"), named("/a"), named("")), (None, None, None));
    }
}
