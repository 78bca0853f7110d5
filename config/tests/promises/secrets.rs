//! Secrets come from safe places and never show.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_config::{Config, explain};

use crate::{GOOD, load, messages, with};

const SECRET: &str = "XsecretX-hunter2-hunter2";

fn write(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn with_file(path: &str) -> String {
    with("secret_key = \"correct horse battery staple\"", &format!("secret_key_file = \"{path}\""))
}

#[test]
fn a_secret_file_is_read_without_its_line_end_and_from_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let secret = write(dir.path(), "secret", &format!("{SECRET}\r\n"), 0o600);
    let former = write(dir.path(), "former", "the former shared secret\n", 0o400);
    for named in [secret.to_str().unwrap(), "secret"] {
        let text = with_file(named).replace(
            "  node_id = \"a\"",
            &format!("  node_id = \"a\"\n  previous_secret_key_files = [{former:?}]"),
        );
        let file = write(dir.path(), "holdfast.hcl", &text, 0o600);
        let loaded = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.config.keys.signing.expose(), SECRET);
        assert_eq!(loaded.config.keys.previous[0].expose(), "the former shared secret");
        assert!(loaded.warnings.is_empty(), "{:?}", messages(&loaded));
    }
}

#[test]
fn a_secret_file_that_others_can_get_at_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o604, 0o644, 0o602, 0o660] {
        let path = write(dir.path(), "secret", SECRET, mode);
        let error = crate::refuse(&with_file(path.to_str().unwrap())).to_string();
        assert!(error.contains(&format!("others can get at {}", path.display())), "{error}");
        assert!(error.contains(&format!("(mode {mode:03o})")), "{error}");
        assert!(error.contains(&format!("run `chmod 600 {}`", path.display())), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let path = write(dir.path(), "secret", SECRET, 0o640);
    let loaded = load(&with_file(path.to_str().unwrap()));
    assert!(messages(&loaded)[0].contains("the group"), "{:?}", messages(&loaded));
}

#[test]
fn a_secret_file_that_others_can_replace_is_refused() {
    let refused = |path: &Path, message: &str, mend: &str| {
        let error = crate::refuse(&with_file(path.to_str().unwrap())).to_string();
        assert!(error.contains(message) && error.contains(mend) && !error.contains("hunter2"), "{error}");
    };
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "secret", SECRET, 0o600);
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    let within = write(&open, "secret", SECRET, 0o600);
    let link = open.join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for (mode, sound) in [(0o755, true), (0o1777, true), (0o775, false), (0o757, false)] {
        fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
        for path in [&within, &link] {
            if sound {
                load(&with_file(path.to_str().unwrap()));
            } else {
                refused(path, "others can replace", &format!("chmod go-w {}", open.display()));
            }
        }
    }
    // Whoever is not root cannot give files away.
    if nix::unistd::geteuid().is_root() && std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
        refused(&path, "belongs to the user 65534, who can change it", "chown root");
    }
}

/// A pipe would be waited for, without end.
#[test]
fn a_pipe_is_no_secret_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = crate::refuse(&with_file(path.to_str().unwrap())).to_string();
    assert!(error.contains("is not a file of 4096 bytes or fewer"), "{error}");
}

#[test]
fn a_secret_file_that_holds_no_secret_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let empty = write(dir.path(), "empty", "\n", 0o600);
    let large = write(dir.path(), "large", &"x".repeat(5000), 0o600);
    let gone = dir.path().join("gone");
    for (path, message, mend) in [
        (empty.as_path(), "is empty", "/dev/urandom"),
        (large.as_path(), "is not a file of 4096 bytes or fewer", "holds the secret and nothing else"),
        (dir.path(), "is not a file", "holds the secret and nothing else"),
        (gone.as_path(), "No such file", "install -m 600 /dev/null"),
    ] {
        let error = crate::refuse(&with_file(path.to_str().unwrap())).to_string();
        assert!(error.contains("--> holdfast.hcl:7:21"), "{error}");
        assert!(error.contains(message) && error.contains(mend), "{error}");
    }
}

#[test]
fn a_readable_configuration_with_a_secret_in_it_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let open = write(dir.path(), "open.hcl", GOOD, 0o644);
    let said = messages(&Config::load(&open).unwrap()).join("\n");
    assert!(said.contains("others can read this file (mode 644)") && said.contains("chmod 600"), "{said}");
    let closed = write(dir.path(), "closed.hcl", GOOD, 0o600);
    assert!(Config::load(&closed).unwrap().warnings.is_empty());
}

#[test]
fn a_file_that_cannot_be_read_says_which_and_why() {
    let error = Config::load("/nonexistent/holdfast.hcl").unwrap_err().to_string();
    assert!(error.contains("/nonexistent/holdfast.hcl") && error.contains("No such file"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let large = write(dir.path(), "large.hcl", &"#".repeat((1 << 20) + 1), 0o600);
    assert!(Config::load(&large).unwrap_err().to_string().contains("larger than"));
}

#[test]
fn no_secret_shows_in_debug_warnings_or_explanation() {
    let text = GOOD
        .replace("correct horse battery staple", SECRET)
        .replace("change-me-please", SECRET)
        .replace("  node_id = \"a\"", &format!("  previous_secret_keys = [\"{SECRET}2\", \"{SECRET}\"]"));
    let loaded = load(&format!("{text}api {{\n  token = \"{SECRET}\"\n}}\n"));
    assert_eq!(loaded.config.keys.signing.expose(), SECRET, "the secret is there, only not shown");
    for shown in
        [format!("{loaded:?}"), format!("{loaded:#?}"), explain(&loaded), messages(&loaded).join("\n")]
    {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

/// Every way to get a secret's line into an excerpt.
#[test]
fn no_secret_shows_in_an_error() {
    let line = "secret_key = \"correct horse battery staple\"";
    for instead in [
        format!("secret_key = \"{SECRET}"),
        format!("secret_key = {SECRET}"),
        format!("secret_key = [\"{SECRET}\"]"),
        format!("secret_key \"{SECRET}\""),
        format!("secret_key: \"{SECRET}\""),
        format!("secret_key = \"{SECRET}\" oops"),
        format!("secret_key = \"${{{SECRET}}}\""),
        format!("secret_key = <<EOF\n{SECRET}\nEOF"),
        format!("secret_kye = \"{SECRET}\""),
        format!("sceret = \"{SECRET}\""),
        format!("sceret = [\n\"{SECRET}\"\n]"),
        format!("passphrase {{ value = \"{SECRET}\" }}"),
        format!("secret_key = \"{SECRET}\"\n  secret_key = \"{SECRET}\""),
        format!("secret_key = \"{SECRET}\"\n  secret_key_file = \"/etc/holdfast/secret\""),
        format!("previous_secret_keys = \"{SECRET}\""),
        format!("previous_secret_keys = [\n    \"{SECRET}\",\n    7,\n  ]"),
        format!("store {{ root_secret_key = \"{SECRET}\" root_access_key = \"admin\" }}"),
    ] {
        let error = crate::refuse(&with(line, &instead));
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("hunter2"), "{instead}\n{shown}");
        }
    }
}

/// With a shorter one the log's stream never opens, and the pair would be solo for ever.
#[test]
fn a_secret_that_no_stream_would_open_with_is_refused() {
    let line = "secret_key = \"correct horse battery staple\"";
    for instead in
        ["secret_key = \"1234567\"".to_owned(), format!("{line}\n  previous_secret_keys = [\"1234567\"]")]
    {
        let error = crate::refuse(&with(line, &instead)).to_string();
        assert!(error.contains("shorter than 8 bytes") && !error.contains("1234567"), "{error}");
    }
}

/// A file with the same secret-free text has the same digest, and it tells nothing about a secret.
#[test]
fn the_digest_of_a_file_tells_files_apart_and_secrets_not() {
    let line = "secret_key = \"correct horse battery staple\"";
    let digest = |text: &str| crate::load(text).digest;
    let one = digest(&with(line, line));
    assert_eq!(one, digest(&with(line, "secret_key = \"correct horse battery stapel\"")));
    assert_ne!(one, digest(&format!("{}\n# another file\n", with(line, line))));
    assert_eq!(one.len(), 64);
}
