//! A floor uses only the floors below it; the rooms of `host/` and of `cli/` do not know each other.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down.
const FLOORS: [&str; 4] = ["cli", "agent", "host", "model"];

#[test]
fn no_floor_uses_one_above_it() {
    let mut wrong = Vec::new();
    let mut files = 0;
    for (height, floor) in FLOORS.iter().enumerate() {
        for file in sources(&root().join(floor)) {
            files += 1;
            let text = fs::read_to_string(&file).unwrap();
            for above in &FLOORS[..height] {
                wrong.extend(find(&text, &format!("crate::{above}")).map(|line| complaint(&file, line)));
            }
        }
    }
    assert!(files > 15, "the test looks at the wrong place");
    assert!(wrong.is_empty(), "a floor uses one above it:\n{}", wrong.join("\n"));
}

#[test]
fn rooms_of_one_floor_do_not_know_each_other() {
    let mut wrong = Vec::new();
    for floor in ["host", "cli"] {
        let home = root().join(floor);
        for file in sources(&home) {
            let room = file.strip_prefix(&home).unwrap().components().next().unwrap();
            let room = Path::new(room.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned();
            if room == "mod" {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for line in find(&text, &format!("crate::{floor}::")) {
                let own = line.contains(&format!("crate::{floor}::{room}"));
                // What the floor itself offers to all its rooms is a type, not a room.
                let named = line.split(&format!("crate::{floor}::")).nth(1).unwrap_or_default();
                let shared =
                    named.starts_with(|c: char| c.is_ascii_uppercase()) || named.starts_with("chain;");
                if !own && !shared {
                    wrong.push(complaint(&file, line));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "rooms that know each other:\n{}", wrong.join("\n"));
}

#[test]
fn foreign_crates_stay_on_their_floors() {
    let mut wrong = Vec::new();
    let rows: [(&str, &[&str]); 3] = [
        (
            "model",
            &["tokio::", "nix::", "notify::", "std::fs", "std::env", "std::process", "tracing::", "clap::"],
        ),
        ("host", &["clap::", "anyhow::"]),
        ("agent", &["clap::", "nix::", "notify::", "aws_"]),
    ];
    for (floor, foreign) in rows {
        for file in sources(&root().join(floor)) {
            let text = fs::read_to_string(&file).unwrap();
            for name in foreign {
                wrong.extend(find(&text, name).map(|line| complaint(&file, line)));
            }
        }
    }
    assert!(wrong.is_empty(), "crates on the wrong floor:\n{}", wrong.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            all.push(path);
        }
    }
    all
}

/// Lines of code, not of comment, that contain `what` as a path of its own or at its start.
fn find<'a>(text: &'a str, what: &'a str) -> impl Iterator<Item = &'a str> {
    let starts = move |line: &str| {
        line.match_indices(what)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
    };
    text.lines().filter(move |line| !line.trim_start().starts_with("//") && starts(line))
}

fn complaint(file: &Path, line: &str) -> String {
    format!("{}: {}", file.display(), line.trim())
}
