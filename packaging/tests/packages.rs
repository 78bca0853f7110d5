//! The packages as an operator's tools see them. The program in them is a stand-in: what it does is tested elsewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// Runs the packager; its last word is the file that it made.
fn package(kind: &str, out: &Path, date: &str) -> PathBuf {
    let stand_in = out.join("holdfast");
    fs::write(&stand_in, "#!/bin/sh\necho stand-in\n").unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_holdfast-packaging"))
        .args([kind, "--binary"])
        .arg(&stand_in)
        .arg("--out")
        .arg(out)
        .env("SOURCE_DATE_EPOCH", date)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

/// What a tool of the distribution says, where that is there.
fn ask(tool: &str, args: &[&str], file: &Path) -> Option<String> {
    let said: Output = match Command::new(tool).args(args).arg(file).output() {
        Ok(said) => said,
        Err(_) => {
            eprintln!("skipped: there is no {tool} here");
            return None;
        }
    };
    assert!(said.status.success(), "{tool}: {}", String::from_utf8_lossy(&said.stderr));
    Some(String::from_utf8(said.stdout).unwrap())
}

const INSTALLED: [&str; 12] = [
    "usr/bin/holdfast",
    "usr/lib/systemd/system/holdfast.service",
    "usr/lib/systemd/system/holdfast-witness.service",
    "usr/lib/sysusers.d/holdfast.conf",
    "usr/lib/tmpfiles.d/holdfast.conf",
    "usr/share/man/man1/holdfast.1.gz",
    "usr/share/man/man1/holdfast-ha-status.1.gz",
    "usr/share/man/man5/holdfast.hcl.5.gz",
    "usr/share/man/man8/holdfast-agent.8.gz",
    "usr/share/bash-completion/completions/holdfast",
    "usr/share/doc/holdfast/examples/pair-with-witness-a.hcl",
    "usr/share/doc/holdfast/prometheus/holdfast.rules.yml",
];

#[test]
fn a_package_for_debian_has_everything_where_it_belongs() {
    let dir = tempfile::tempdir().unwrap();
    let deb = package("deb", dir.path(), "1700000000");
    let Some(listed) = ask("dpkg-deb", &["--contents"], &deb) else { return };
    for path in INSTALLED {
        assert!(listed.contains(&format!("./{path}\n")), "{path} is not in\n{listed}");
    }
    assert!(listed.lines().all(|line| line.contains("root/root") || line.contains(" 0/0 ")), "{listed}");
    let program = listed.lines().find(|line| line.ends_with("./usr/bin/holdfast")).unwrap();
    assert!(program.starts_with("-rwxr-xr-x"), "{program}");
    let about = ask("dpkg-deb", &["--info"], &deb).unwrap();
    for word in
        ["Package: holdfast", "Version: ", "Architecture: amd64", "Depends: libc6", "postinst", "postrm"]
    {
        assert!(about.contains(word), "{word} is not in\n{about}");
    }
    // What dpkg itself would unpack is what was packed.
    let unpacked = dir.path().join("unpacked");
    let done = Command::new("dpkg-deb").arg("--raw-extract").arg(&deb).arg(&unpacked).status().unwrap();
    assert!(done.success());
    let sums = fs::canonicalize(unpacked.join("DEBIAN/md5sums")).unwrap();
    let checked =
        Command::new("md5sum").args(["--check", "--quiet"]).arg(&sums).current_dir(&unpacked).status();
    assert!(checked.unwrap().success());
    for script in ["postinst", "prerm", "postrm"] {
        let checked = Command::new("sh").arg("-n").arg(unpacked.join("DEBIAN").join(script)).status();
        assert!(checked.unwrap().success(), "{script}");
    }
}

#[test]
fn a_package_of_rpm_says_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = package("rpm", dir.path(), "1700000000");
    let package = rpm::Package::open(&file).unwrap();
    let metadata = &package.metadata;
    assert_eq!((metadata.get_name().unwrap(), metadata.get_arch().unwrap()), ("holdfast", "x86_64"));
    let paths: Vec<PathBuf> = metadata.get_file_paths().unwrap();
    for path in INSTALLED {
        assert!(paths.contains(&Path::new("/").join(path)), "{path} is not in {paths:?}");
    }
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    for kind in ["deb", "rpm"] {
        let made = |date| {
            let dir = tempfile::tempdir().unwrap();
            fs::read(package(kind, dir.path(), date)).unwrap()
        };
        let (one, again, other) = (made("1700000000"), made("1700000000"), made("1700000001"));
        assert!(one == again, "{kind}: two packages of the same sources differ");
        assert!(one != other, "{kind}: the date of the sources is not in it");
    }
}

#[test]
fn every_command_has_a_page_that_the_formatter_takes() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_holdfast-packaging")).arg("manual").arg(dir.path()).status();
    assert!(made.unwrap().success());
    let pages: Vec<PathBuf> = ["man1", "man5", "man8"]
        .iter()
        .flat_map(|section| fs::read_dir(dir.path().join(section)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pages.len() > 30, "{} pages", pages.len());
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        assert!(text.contains(".SH NAME") || text.contains(".SH \"NAME\""), "{}", page.display());
        if Command::new("groff").arg("--version").output().is_ok() {
            let said =
                Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(page).output().unwrap();
            assert!(said.stderr.is_empty(), "{}: {}", page.display(), String::from_utf8_lossy(&said.stderr));
        }
    }
    let reference = fs::read_to_string(dir.path().join("man5/holdfast.hcl.5")).unwrap();
    for key in ["heartbeat_interval", "two_node", "catch_up_rate", "sync_files"] {
        assert!(reference.contains(key), "{key}");
    }
}
