//! What a release says of itself: its section of the CHANGELOG.

use anyhow::{Result, bail, ensure};

/// The section of `version` without its heading, for the tag that names it.
///
/// # Errors
/// The tag names another version, or the section is not there, still called unreleased, or empty.
pub(crate) fn of(changelog: &str, version: &str, tag: &str) -> Result<String> {
    ensure!(
        tag.strip_prefix('v') == Some(version),
        "the tag is {tag}, and the version in Cargo.toml {version}: one of them is wrong"
    );
    let heading = |section: &str| section.lines().next().unwrap_or_default().trim().to_owned();
    let mut sections = format!("\n{changelog}").split("\n## ").skip(1).map(str::to_owned).collect::<Vec<_>>();
    let dated = format!("{version} (");
    let Some(at) = sections.iter().position(|section| heading(section).starts_with(&dated)) else {
        bail!(
            "CHANGELOG.md has no section `## {version} (DATE)`: give what is unreleased that heading, commit, and tag that"
        );
    };
    let section = sections.swap_remove(at);
    let text = section.split_once('\n').map_or("", |(_, text)| text).trim();
    ensure!(!text.is_empty(), "CHANGELOG.md says nothing of {version}");
    Ok(format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::of;

    const LOG: &str =
        "# Changelog\n\n## 1.1.0 (2027-01-02)\n\n### Fixes\n\n- A.\n\n## 1.0.0 (2026-12-01)\n\nFirst.\n";

    #[test]
    fn a_release_says_what_its_section_says() {
        assert_eq!(of(LOG, "1.1.0", "v1.1.0").unwrap(), "### Fixes\n\n- A.\n");
        assert_eq!(of(LOG, "1.0.0", "v1.0.0").unwrap(), "First.\n");
    }

    #[test]
    fn a_release_that_is_not_written_down_is_refused() {
        let why = |log: &str, version, tag| of(log, version, tag).unwrap_err().to_string();
        assert!(why(LOG, "1.1.0", "v1.2.0").contains("the tag is v1.2.0"));
        assert!(why(LOG, "1.1.0", "1.1.0").contains("the tag is 1.1.0"));
        assert!(why(LOG, "1.1", "v1.1").contains("has no section"));
        let unreleased = "# Changelog\n\n## Unreleased (1.1.0)\n\n- A.\n";
        assert!(why(unreleased, "1.1.0", "v1.1.0").contains("give what is unreleased that heading"));
        assert!(why("## 1.1.0 (today)\n\n## 1.0.0 (x)\n- B.\n", "1.1.0", "v1.1.0").contains("says nothing"));
    }
}
