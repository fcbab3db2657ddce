//! What is shipped is read and run: the config file with every default, the README's commands.

use std::fs;
use std::path::Path;

use authorized_keys_agent::model::config::Config;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_shipped_config_writes_out_every_default() {
    let shipped = Config::read(&read("packaging/config.toml")).unwrap();
    let least = Config::read("[accounts]\nmanage = [\"ec2-user\"]").unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{least:?}"));
    let text = read("packaging/config.toml");
    for key in [
        "mode",
        "paths",
        "parameters",
        "directory",
        "every",
        "stale-after",
        "on-stale",
        "revoke-after",
        "manage",
        "file",
        "owner",
        "break-glass",
        "algorithms",
        "min-rsa-bits",
        "options",
        "max-removed",
        "confirmations",
        "state-dir",
        "runtime-dir",
        "fetch-state-dir",
        "fetch-runtime-dir",
    ] {
        let written = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} = "));
        assert!(text.lines().any(written), "{key} is not in the shipped config");
    }
}

#[test]
fn every_config_in_the_readme_is_one() {
    let readme = read("README.md");
    let blocks: Vec<&str> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        Config::read(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
}

#[test]
fn the_readme_names_the_two_commands_and_no_file_that_is_missing() {
    let readme = read("README.md");
    for command in ["\ntests/try\n", "\ntests/run\n"] {
        assert!(readme.contains(command), "{command}");
    }
    assert!(read(".ci/run").contains("tests/run"));
    for link in readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        let outside = link.starts_with("http") || link.starts_with('#');
        assert!(outside || Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists(), "{link} is missing");
    }
    let repaired = "1e086f77428f49c0a8c7dafeab42ec30";
    assert_eq!(authorized_keys_agent::agent::events::id::REPAIRED, repaired);
    assert!(readme.contains(repaired));
}
