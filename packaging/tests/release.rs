//! What is promised of a release, and what documents, images and CI say of it: each is said in one place, and the others
//! agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn packager(args: &[&str], out: &Path) -> Output {
    let mut packager = Command::new(env!("CARGO_BIN_EXE_holdfast-packaging"));
    packager.args(args).arg("--out").arg(out).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()
}

fn cargo(args: &[&str]) -> String {
    let said = Command::new(env!("CARGO")).args(args).arg("--locked").current_dir(root()).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

fn metadata() -> Value {
    let target = "x86_64-unknown-linux-gnu";
    serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--filter-platform", target])).unwrap()
}

#[test]
fn a_program_that_is_too_large_is_not_packaged() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("holdfast");
    for (bytes, taken) in [(25_000_000, true), (25_000_001, false)] {
        File::create(&program).unwrap().set_len(bytes).unwrap();
        let said = packager(&["deb", "--binary", program.to_str().unwrap()], dir.path());
        assert_eq!(said.status.success(), taken, "{bytes} bytes");
        let why = String::from_utf8_lossy(&said.stderr);
        assert!(taken || why.contains("25000001 bytes, and the released program may have 25000000"), "{why}");
    }
}

/// What cargo compiles for the program, as `name version`.
fn compiled() -> BTreeSet<String> {
    let tree = cargo(&[
        "tree",
        "--package",
        "holdfast-agent",
        "--target",
        "x86_64-unknown-linux-gnu",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    let id = |line: &str| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    };
    tree.lines().filter_map(id).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[test]
fn the_bill_of_materials_has_everything_that_is_compiled_in() {
    let dir = tempfile::tempdir().unwrap();
    let made = || {
        let said = packager(&["sbom"], dir.path());
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        fs::read(String::from_utf8(said.stdout).unwrap().trim()).unwrap()
    };
    let bytes = made();
    assert!(bytes == made(), "two of the same sources differ");
    let bill: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((text(&bill, "bomFormat"), text(&bill, "specVersion")), ("CycloneDX", "1.6"));
    let program = &bill["metadata"]["component"];
    assert_eq!((text(program, "name"), text(program, "type")), ("holdfast-agent", "application"));
    let mut listed = BTreeSet::new();
    let mut references = BTreeSet::new();
    for component in bill["components"].as_array().unwrap().iter().chain([program]) {
        let (name, version) = (text(component, "name"), text(component, "version"));
        assert_eq!(text(component, "purl"), format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")));
        let licence = text(&component["licenses"][0], "expression");
        assert!(!licence.is_empty() && !licence.contains('/'), "{name}: {licence}");
        let own = name.starts_with("holdfast-");
        let sum = component["hashes"][0]["content"].as_str();
        assert!(own || sum.is_some_and(|sum| sum.len() == 64), "{name} has no checksum");
        assert!(references.insert(text(component, "bom-ref").to_owned()), "{name} {version} is listed twice");
        listed.insert(format!("{name} {version}"));
    }
    let compiled = compiled();
    assert!(compiled.len() > 100, "{compiled:?}");
    assert_eq!(listed, compiled);
    // What it needs is among it.
    let dependencies = bill["dependencies"].as_array().unwrap();
    assert_eq!(dependencies.len(), listed.len());
    for dependency in dependencies {
        assert!(references.contains(text(dependency, "ref")), "{dependency}");
        for needed in dependency["dependsOn"].as_array().unwrap() {
            assert!(references.contains(needed.as_str().unwrap()), "{dependency}");
        }
    }
    // Macros work for the compiler and are not in the program.
    let scopes: BTreeMap<&str, &str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| (text(component, "name"), text(component, "scope")))
        .collect();
    assert_eq!((scopes["tokio"], scopes["serde_derive"], scopes["cc"]), ("required", "excluded", "excluded"));
}

#[test]
fn nothing_in_the_tree_speaks_tls() {
    let names: Vec<Value> = metadata()["packages"].as_array().unwrap().clone();
    for package in &names {
        let name = text(package, "name");
        let tls = ["rustls", "native-tls", "openssl", "openssl-sys", "aws-lc-rs"].contains(&name);
        assert!(
            !tls,
            "{name} has come in: `cargo tree --workspace -e features -i {name}` shows by which feature"
        );
    }
}

/// Major and minor, of `1.92` and `1.92.0`.
fn release_of(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn nothing_in_the_tree_wants_a_newer_compiler_than_is_promised() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let ours = packages.iter().find(|package| text(package, "name") == "holdfast-agent").unwrap();
    let promised = release_of(text(ours, "rust_version"));
    for package in packages {
        let Some(wanted) = package["rust_version"].as_str() else { continue };
        let (name, version) = (text(package, "name"), text(package, "version"));
        assert!(
            release_of(wanted) <= promised,
            "{name} {version} wants Rust {wanted}: take an older one (`cargo update -p {name} --precise VERSION`), or \
             promise less in rust-version of Cargo.toml"
        );
    }
    // The image is built with what is promised, so that the promise is kept.
    let image = read("packaging/container/Dockerfile");
    let from = format!("FROM rust:{}.{}-slim-bookworm AS build\n", promised.0, promised.1);
    assert!(image.contains(&from), "the Dockerfile is built with another compiler than {from}");
    // CI takes the number from where it is.
    let line = format!("\nrust-version = \"{}.{}\"\n", promised.0, promised.1);
    assert_eq!(read("Cargo.toml").matches(&line).count(), 1);
    assert!(read(".github/workflows/ci.yml").contains("sed -n 's/^rust-version = "));
}

#[test]
fn the_version_stands_in_one_place() {
    let metadata = metadata();
    let members = metadata["workspace_members"].as_array().unwrap();
    let ours = |package: &&Value| members.contains(&package["id"]);
    let mut versions = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap().iter().filter(ours) {
        let manifest = fs::read_to_string(text(package, "manifest_path")).unwrap();
        for inherited in ["version", "edition", "rust-version", "license"] {
            let line = format!("\n{inherited}.workspace = true\n");
            assert!(manifest.contains(&line), "{} states its own {inherited}", text(package, "name"));
        }
        versions.insert(text(package, "version"));
    }
    assert_eq!(versions, BTreeSet::from([env!("CARGO_PKG_VERSION")]));
}

#[test]
fn packages_are_called_what_the_documents_call_them() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("holdfast");
    fs::write(&program, "a stand-in").unwrap();
    let document = read("docs/installation.md");
    for (kind, command) in [("deb", "apt-get install ./"), ("rpm", "dnf install ./")] {
        let said = packager(&[kind, "--binary", program.to_str().unwrap()], dir.path());
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let file = PathBuf::from(String::from_utf8(said.stdout).unwrap().trim());
        let name = file.file_name().unwrap().to_str().unwrap();
        let says: Vec<&str> = document
            .split(command)
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().next())
            .filter(|name| name.starts_with("holdfast"))
            .collect();
        assert!(!says.is_empty(), "docs/installation.md does not say `{command}holdfast...`");
        assert!(
            says.iter().all(|said| *said == name),
            "docs/installation.md says {says:?}, and it is {name}"
        );
    }
}

#[test]
fn the_changelog_is_of_this_version_and_sorted_by_what_it_means() {
    let changelog = read("CHANGELOG.md");
    let headings: Vec<&str> = changelog.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let version = env!("CARGO_PKG_VERSION");
    let newest = headings.first().expect("the CHANGELOG has a section");
    let this = [format!("Unreleased ({version})"), format!("{version} (")];
    assert!(
        *newest == this[0] || newest.starts_with(&this[1]),
        "the newest section is `{newest}`, and the version in Cargo.toml {version}"
    );
    assert!(headings[1..].iter().all(|heading| !heading.starts_with("Unreleased")), "{headings:?}");
    for section in changelog.split("\n## ").skip(1) {
        let kinds: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let order =
            |kind: &&str| ["Safety", "Features", "Fixes", "Internals"].iter().position(|known| known == kind);
        let places: Vec<usize> = kinds
            .iter()
            .map(|kind| order(kind).unwrap_or_else(|| panic!("`### {kind}` is no kind of change")))
            .collect();
        assert!(places.is_sorted_by(|a, b| a < b), "the kinds of changes are out of order: {kinds:?}");
    }
}

#[test]
fn what_the_image_and_its_lab_take_from_the_sources_is_there() {
    let image = read("packaging/container/Dockerfile");
    let mut stages = BTreeSet::new();
    for line in image.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", _, "AS", name] => {
                stages.insert(*name);
            }
            ["COPY", from, _, _] if from.starts_with("--from=") => {
                assert!(stages.contains(&from["--from=".len()..]), "{line}: no such stage");
            }
            ["COPY", sources @ .., _] => {
                for source in sources {
                    assert!(root().join(source).exists(), "{line}: {source} is not in the sources");
                }
            }
            _ => {}
        }
    }
    assert_eq!(stages, BTreeSet::from(["build"]));
    // What is left out of the context is not needed for the build.
    let left_out = read("packaging/container/Dockerfile.dockerignore");
    assert_eq!(left_out.lines().collect::<Vec<_>>(), ["target", ".git"]);
    let lab = read("packaging/container/compose.yml");
    let place = root().join("packaging/container");
    let mut taken = 0;
    for line in lab.lines().map(str::trim) {
        let path = if let Some(context) = line.strip_prefix("context: ") {
            assert_eq!(place.join(context).canonicalize().unwrap(), root().canonicalize().unwrap());
            continue;
        } else if let Some(file) = line.strip_prefix("dockerfile: ") {
            root().join(file)
        } else if let Some(mount) = line.strip_prefix("- ./") {
            place.join(mount.split(':').next().unwrap())
        } else {
            continue;
        };
        taken += 1;
        assert!(path.is_file(), "{line}: {} is not there", path.display());
    }
    assert!(taken >= 4, "the lab takes nothing from the sources any more");
}
