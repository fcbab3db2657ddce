//! A floor uses only the floors below it; the rooms of `host/` and of `cli/` do not know each other; no files use each
//! other in a circle; and what touches the world is in few files.
//!
//! What is not so yet is named below, and nothing else: whoever puts one of them right takes it off its list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::source::{Source, Sources};

/// From the top down.
const FLOORS: [&str; 4] = ["cli", "agent", "host", "model"];

/// The rooms of `model/` from the top down: each uses only those below it, and those of one row do not use one another.
/// The last row is single files.
const MODEL: [&[&str]; 9] = [
    &["status"],
    &["past"],
    &["file"],
    &["desired"],
    &["config"],
    &["sshd", "list"],
    &["signature"],
    &["key"],
    &[
        "account", "location", "session", "escape", "inode", "instance", "mounts", "patterns",
        "people", "sha256", "sorting", "words",
    ],
];

/// What any room of its floor may use, besides the types that the floor itself offers.
const SHARED: [&str; 6] = [
    "chain;",
    "sdk::",
    "print;",
    "wrap::",
    "surroundings",
    "daemons;",
];

/// Files that still use each other in a circle.
const CIRCLES: [&[&str]; 0] = [];

/// Files of `agent/` that read a clock. A loop may, and what waits with a limit; what decides is told the time.
const CLOCKS: [&str; 7] = [
    // The two loops, which wait for what is due, and a pass, which says when it is.
    "agent/daemon.rs",
    "agent/enforce.rs",
    "agent/fetch.rs",
    // A thread with a loop of its own.
    "agent/incidents.rs",
    // To ask all leases may take no more than a share of the time.
    "agent/lease_breaks.rs",
    // What is slow, stuck or hangs is told by the time it takes.
    "agent/name_service.rs",
    "agent/workers.rs",
];

/// Files of `agent/` that touch files themselves and not through `host/`.
const FILES: [&str; 5] = [
    // A damaged state is put aside.
    "agent/enforce.rs",
    // When the stored list last changed, and the word of a `sync`, which is removed as it is taken.
    "agent/gather.rs",
    // Incidents that are one too many are removed.
    "agent/incidents.rs",
    // Changes of an earlier status are removed.
    "agent/publish.rs",
    // What is opened to be watched.
    "agent/wakeups.rs",
];

/// Files with `unsafe` code, and how often the word stands in them.
const UNSAFE: [(&str, usize); 1] = [("host/keyfile/lease.rs", 1)];

#[test]
fn no_floor_uses_one_above_it() {
    let mut wrong = Vec::new();
    let mut files = 0;
    for (height, floor) in FLOORS.iter().enumerate() {
        for file in sources(&root().join(floor)) {
            files += 1;
            let text = fs::read_to_string(&file).unwrap();
            for above in &FLOORS[..height] {
                wrong.extend(
                    find(&text, &format!("crate::{above}")).map(|line| complaint(&file, line)),
                );
            }
        }
    }
    assert!(files > 15, "the test looks at the wrong place");
    assert!(
        wrong.is_empty(),
        "a floor uses one above it:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn rooms_of_one_floor_do_not_know_each_other() {
    let mut wrong = Vec::new();
    for floor in ["host", "cli"] {
        let home = root().join(floor);
        for file in sources(&home) {
            let room = file
                .strip_prefix(&home)
                .unwrap()
                .components()
                .next()
                .unwrap();
            let room = Path::new(room.as_os_str())
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if room == "mod" {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for line in find(&text, &format!("crate::{floor}::")) {
                let own = line.contains(&format!("crate::{floor}::{room}"));
                // What the floor offers to all its rooms.
                let named = line
                    .split(&format!("crate::{floor}::"))
                    .nth(1)
                    .unwrap_or_default();
                let shared = named.starts_with(|c: char| c.is_ascii_uppercase())
                    || SHARED.iter().any(|name| named.starts_with(name));
                if !own && !shared {
                    wrong.push(complaint(&file, line));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "rooms that know each other:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn foreign_crates_stay_on_their_floors() {
    let mut wrong = Vec::new();
    let rows: [(&str, &[&str]); 3] = [
        (
            "model",
            &[
                "tokio::",
                "nix::",
                "std::fs",
                "std::env",
                "std::process",
                "tracing::",
                "clap::",
            ],
        ),
        ("host", &["clap::", "anyhow::"]),
        ("agent", &["clap::", "nix::", "aws_"]),
    ];
    for (floor, foreign) in rows {
        for file in sources(&root().join(floor)) {
            let text = fs::read_to_string(&file).unwrap();
            for name in foreign {
                wrong.extend(find(&text, name).map(|line| complaint(&file, line)));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "crates on the wrong floor:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_files_of_one_floor_use_each_other_in_a_circle() {
    let sources = Sources::read();
    assert!(sources.all.len() > 80, "the test looks at the wrong place");
    let found = circles(&sources);
    let mut wrong = Vec::new();
    for circle in &found {
        let known = CIRCLES
            .iter()
            .any(|known| circle.iter().all(|file| known.contains(&file.as_str())));
        if !known {
            wrong.push(format!("a circle of files:\n{}", shown(&sources, circle)));
        }
    }
    for file in CIRCLES.iter().flat_map(|known| known.iter()) {
        if !found.iter().any(|circle| circle.contains(*file)) {
            wrong.push(format!(
                "{file} is in no circle any more: take it off the list"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let check = |files: &[(&str, &str)], expected: &[&[&str]]| {
        let texts = files
            .iter()
            .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
        let found = circles(&Sources::of(&texts.collect()));
        let found: Vec<Vec<&str>> = found
            .iter()
            .map(|circle| circle.iter().map(String::as_str).collect())
            .collect();
        assert_eq!(found, expected, "{files:?}");
    };
    let both: &[&[&str]] = &[&["agent/a.rs", "agent/b.rs"]];
    let to_b = "use crate::agent::b::B;";
    for back in [
        "use crate::agent::a::A;",
        "use crate::agent::{a::{self, A}, c};",
        "use crate::agent::a; fn f() -> a::A {}",
        "use super::a as other; fn f(x: &'a str) { '\\''; '{'; other::f() }",
        "fn f() { crate::agent::a::f() }",
        "mod inner { use super::super::a::*; }",
        "fn f() { super::a::f::<u8>(r#\"\"#) }",
    ] {
        check(
            &[
                ("agent/a.rs", to_b),
                ("agent/b.rs", back),
                ("agent/mod.rs", "mod a; mod b;"),
            ],
            both,
        );
    }
    for none in [
        "",
        "// crate::agent::a::f()",
        "fn f() { \"crate::agent::a::f()\" }",
        "fn f(a: u8) { a.f() }",
        "#[cfg(test)] mod tests { use crate::agent::a::A; }",
        "use crate::agent::c::a; use crate::model::a::A;",
    ] {
        check(
            &[
                ("agent/a.rs", to_b),
                ("agent/b.rs", none),
                ("agent/mod.rs", ""),
            ],
            &[],
        );
    }
    // A parent that declares and passes on its children is in no circle with them, nor are they by it.
    let child = "use super::Shared; use crate::agent::D;";
    let passes_on = "mod a; mod d; pub use a::A; pub use d::D; pub struct Shared;";
    check(
        &[
            ("agent/a.rs", child),
            ("agent/d.rs", ""),
            ("agent/mod.rs", passes_on),
        ],
        &[],
    );
    check(
        &[
            ("agent/a.rs", "use super::D;"),
            ("agent/d.rs", "use super::A;"),
            ("agent/mod.rs", passes_on),
        ],
        &[&["agent/a.rs", "agent/d.rs"]],
    );
    for uses in ["fn f(of: A) {}", "fn f() { a::f() }", "use a::Part;"] {
        let parent = format!("{passes_on} {uses}");
        check(
            &[
                ("agent/a.rs", child),
                ("agent/d.rs", ""),
                ("agent/mod.rs", &parent),
            ],
            &[&["agent/a.rs", "agent/mod.rs"]],
        );
    }
}

#[test]
fn each_room_of_the_model_uses_only_those_below_it() {
    let wrong = misplaced(&Sources::read());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_room_that_uses_one_above_or_beside_it_is_found() {
    let check = |files: &[(&str, &str)], expected: usize| {
        let texts = files
            .iter()
            .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
        let wrong = misplaced(&Sources::of(&texts.collect()));
        assert_eq!(wrong.len(), expected, "{files:?}: {wrong:?}");
    };
    let line = (
        "model/key/line.rs",
        "use crate::model::escape::escaped; use super::options::Options;",
    );
    let rest = [
        ("model/key/options.rs", ""),
        ("model/escape.rs", ""),
        ("model/list/mod.rs", ""),
    ];
    let with = |file, text| [line, rest[0], rest[1], rest[2], (file, text)];
    check(
        &with("model/sshd/doors.rs", "use crate::model::key::line::Line;"),
        0,
    );
    check(
        &with("model/sshd/doors.rs", "use crate::model::list::List;"),
        1,
    );
    check(
        &with("model/key/policy.rs", "use crate::model::list::List;"),
        1,
    );
    check(
        &with("model/account.rs", "use crate::model::escape::escaped;"),
        0,
    );
    check(
        &with("model/account.rs", "use crate::model::key::line::Line;"),
        1,
    );
    // What has no room yet may use anything; the single files at the bottom may not use it.
    check(
        &with("model/plan.rs", "use crate::model::key::line::Line;"),
        0,
    );
    check(
        &[
            ("model/plan.rs", ""),
            ("model/account.rs", "use crate::model::plan::Plan;"),
        ],
        1,
    );
    check(&[("model/things/mod.rs", "")], 1);
}

#[test]
fn a_clock_and_files_are_for_those_named_for_it() {
    let clock = |names: &[String]| {
        let end: Vec<&str> = names.iter().rev().take(2).map(String::as_str).collect();
        matches!(
            end[..],
            ["now", "Instant" | "SystemTime" | "Timestamp" | "Zoned"]
        )
    };
    let file_system = |names: &[String]| names.starts_with(&["std".to_owned(), "fs".to_owned()]);
    let sources = Sources::read();
    let mut wrong = Vec::new();
    let mut check = |does: &str, allowed: &[&str], is_such: &dyn Fn(&[String]) -> bool| {
        let doing = |source: &&Source| source.uses.iter().any(|names| is_such(names));
        let found: BTreeSet<&str> = sources
            .all
            .iter()
            .filter(doing)
            .map(|s| s.file.as_str())
            .collect();
        let here = |file: &&str| file.starts_with("model/") || file.starts_with("agent/");
        assert!(
            found.iter().any(|file| !here(file)),
            "the test finds nothing that {does}"
        );
        let new = found
            .iter()
            .filter(|file| here(file) && !allowed.contains(*file));
        wrong.extend(new.map(|file| format!("{file} {does}")));
        let past = allowed.iter().filter(|file| !found.contains(**file));
        wrong
            .extend(past.map(|file| format!("{file} is on the list of what {does}, and does not")));
    };
    check("reads a clock", &CLOCKS, &clock);
    check("touches files", &FILES, &file_system);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_one_place_sorts() {
    let mut wrong = Vec::new();
    for file in sources(&root()) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let sorts = code.lines().filter(|line| {
            let line = line.trim_start();
            !line.starts_with("//")
                && [".sort(", ".sort_", "collect::<BTree"]
                    .iter()
                    .any(|what| line.contains(what))
        });
        if !file.ends_with("model/sorting.rs") {
            wrong.extend(sorts.map(|line| complaint(&file, line)));
        }
    }
    assert!(
        wrong.is_empty(),
        "3 kB of code each; `model::order` has less:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn unsafe_code_is_counted() {
    let sources = Sources::read();
    let found = sources.all.iter().filter(|source| source.unsafes > 0);
    let found: BTreeMap<&str, usize> = found
        .map(|source| (source.file.as_str(), source.unsafes))
        .collect();
    assert_eq!(found, BTreeMap::from(UNSAFE));
}

/// Files of one floor, each of which comes back to itself by way of the others.
fn circles(sources: &Sources) -> Vec<BTreeSet<String>> {
    let floor = |file: &str| {
        FLOORS
            .iter()
            .position(|floor| file.starts_with(&format!("{floor}/")))
    };
    let mut below: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources
        .all
        .iter()
        .filter(|source| floor(&source.file).is_some())
    {
        let used = sources.used_by(source).into_keys();
        let used = used
            .filter(|used| floor(used) == floor(&source.file))
            .collect();
        below.insert(&source.file, used);
    }
    let all: BTreeMap<&str, BTreeSet<&str>> = below
        .keys()
        .map(|file| (*file, reached(file, &below)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, reached) in all.iter().filter(|(file, reached)| reached.contains(*file)) {
        let circle = reached.iter().filter(|other| all[**other].contains(file));
        circles.insert(circle.map(|other| (*other).to_owned()).collect());
    }
    circles.into_iter().collect()
}

fn reached<'a>(from: &'a str, below: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        open.extend(below[file].iter().filter(|next| reached.insert(**next)));
    }
    reached
}

/// Who uses whom in a circle, and by what path.
fn shown(sources: &Sources, circle: &BTreeSet<String>) -> String {
    let mut lines = Vec::new();
    for source in sources
        .all
        .iter()
        .filter(|source| circle.contains(&source.file))
    {
        for (used, names) in sources
            .used_by(source)
            .into_iter()
            .filter(|(used, _)| circle.contains(*used))
        {
            lines.push(format!(
                "    {} uses {used} ({})",
                source.file,
                names.join("::")
            ));
        }
    }
    lines.join("\n")
}

/// Files of `model/` that use what is not below them.
fn misplaced(sources: &Sources) -> Vec<String> {
    let in_model = sources
        .all
        .iter()
        .filter_map(|source| source.file.strip_prefix("model/"));
    let rooms: BTreeSet<&str> = in_model
        .filter_map(|file| Some(file.split_once('/')?.0))
        .collect();
    let (single, above) = MODEL.split_last().unwrap();
    let known = above.concat();
    let mut wrong: Vec<String> = rooms
        .iter()
        .filter(|room| !known.contains(room))
        .map(|room| format!("model/{room}/ has no place in the order"))
        .collect();
    let place = |file: &str| {
        let room = file
            .strip_prefix("model/")?
            .split('/')
            .next()?
            .trim_end_matches(".rs");
        let height = MODEL.iter().position(|row| row.contains(&room))?;
        (rooms.contains(room) || single.contains(&room)).then(|| (room.to_owned(), height))
    };
    for source in sources
        .all
        .iter()
        .filter(|source| source.file.starts_with("model/"))
    {
        let Some((room, height)) = place(&source.file) else {
            // Once there is every room, there is one for everything.
            if rooms.len() == known.len() && source.file != "model/mod.rs" {
                wrong.push(format!("{} is in no room", source.file));
            }
            continue;
        };
        let is_single = single.contains(&room.as_str());
        for (used, names) in sources
            .used_by(source)
            .into_iter()
            .filter(|(used, _)| used.starts_with("model/"))
        {
            let fits = match place(used) {
                Some((other, at)) => other == room || at > height || is_single && at == height,
                // It has no room yet, and all that is known is that it is no single file at the bottom.
                None => !is_single,
            };
            if !fits {
                wrong.push(format!(
                    "{} uses {used} ({})",
                    source.file,
                    names.join("::")
                ));
            }
        }
    }
    wrong
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
        line.match_indices(what).any(|(at, _)| {
            !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
        })
    };
    text.lines()
        .filter(move |line| !line.trim_start().starts_with("//") && starts(line))
}

fn complaint(file: &Path, line: &str) -> String {
    format!("{}: {}", file.display(), line.trim())
}
