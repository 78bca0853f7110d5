//! The bill of materials of the released program: every crate that is compiled for it, with version, licence, origin,
//! checksum and what it needs, as CycloneDX 1.6 in JSON.
//!
//! What is in it comes from cargo alone: the tree that it resolves for the program, and `Cargo.lock`. The same sources
//! give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::About;
use crate::contents::SUMMARY;

/// The program's crate.
const PROGRAM: &str = "holdfast-agent";
/// What the released program runs on.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A crate with its version.
type Id = (String, String);

/// What cargo resolved.
#[derive(Default)]
struct Tree {
    /// The licence of each, as it says itself.
    licences: BTreeMap<Id, String>,
    /// What each needs directly.
    needs: BTreeMap<Id, BTreeSet<Id>>,
}

/// The document for the sources in `root`.
///
/// # Errors
/// Cargo does not resolve the program's tree as `Cargo.lock` has it, or a crate in it has no licence.
pub(crate) fn document(root: &Path, about: &About) -> Result<Vec<u8>> {
    let all = tree(root, "normal,build")?;
    let in_program = tree(root, "normal,no-proc-macro")?;
    let lock = root.join("Cargo.lock");
    let checksums = checksums(&fs::read_to_string(&lock).with_context(|| lock.display().to_string())?);
    let is_program = |id: &Id| id.0 == PROGRAM;
    let program =
        all.licences.keys().find(|id| is_program(id)).context("the program is not in its own tree")?;
    let mut components = Vec::new();
    for (id, licence) in all.licences.iter().filter(|(id, _)| !is_program(id)) {
        let mut component = component("library", id, licence)?;
        let scope = if in_program.licences.contains_key(id) { "required" } else { "excluded" };
        component["scope"] = scope.into();
        if let Some(checksum) = checksums.get(id) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        components.push(component);
    }
    let dependencies: Vec<Value> = all
        .licences
        .keys()
        .map(|id| {
            let needs: Vec<String> = all.needs.get(id).into_iter().flatten().map(purl).collect();
            json!({"ref": purl(id), "dependsOn": needs})
        })
        .collect();
    let mut itself = component("application", program, &all.licences[program])?;
    itself["description"] = SUMMARY.into();
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": OffsetDateTime::from_unix_timestamp(about.date.into())?.format(&Rfc3339)?,
            "component": itself,
        },
        "components": components,
        "dependencies": dependencies,
    });
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn component(kind: &str, id: &Id, licence: &str) -> Result<Value> {
    ensure!(
        !licence.is_empty(),
        "{} {} does not say what its licence is: look, and leave it out",
        id.0,
        id.1
    );
    // What crates wrote before there were expressions.
    let expression = licence.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
    let purl = purl(id);
    Ok(json!({
        "type": kind, "bom-ref": purl, "name": id.0, "version": id.1, "purl": purl,
        "licenses": [{"expression": expression}],
    }))
}

/// A crate's name among packages of every kind.
fn purl((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

/// The program's tree with edges of these kinds.
fn tree(root: &Path, edges: &str) -> Result<Tree> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let said = Command::new(cargo)
        .args(["tree", "--locked", "--package", PROGRAM, "--target", TARGET, "--edges", edges])
        .args(["--prefix", "depth", "--charset", "ascii", "--format", "\t{p}\t{l}\t"])
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    ensure!(said.status.success(), "cargo tree: {}", String::from_utf8_lossy(&said.stderr));
    read_tree(std::str::from_utf8(&said.stdout)?)
}

/// Reads lines of depth, crate and licence. What a crate needs is listed below its first line alone.
fn read_tree(text: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut above: Vec<Id> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let parts: Vec<&str> = line.split('\t').collect();
        let read = || {
            let (name, rest) = parts.get(1)?.split_once(" v")?;
            let version = rest.split(' ').next()?;
            Some((parts[0].parse::<usize>().ok()?, (name.to_owned(), version.to_owned()), parts.get(2)?))
        };
        let (depth, id, licence) = read().with_context(|| format!("cargo tree said: {line}"))?;
        above.truncate(depth);
        if let Some(parent) = above.last() {
            tree.needs.entry(parent.clone()).or_default().insert(id.clone());
        }
        tree.licences.insert(id.clone(), (*licence).to_owned());
        above.push(id);
    }
    Ok(tree)
}

/// The checksums that `Cargo.lock` has; the crates of this workspace have none.
fn checksums(lock: &str) -> BTreeMap<Id, String> {
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|package| {
            let id = (value(package, "name")?, value(package, "version")?);
            Some((id, value(package, "checksum")?))
        })
        .collect()
}
