//! An idle agent does no work: no write, no line in the log.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::world::{World, key, wait};

/// Every file of the agent's and what would change if it were written.
fn stamps(world: &World) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let files = [
        "home/alice/.ssh/authorized_keys",
        "state/enforced.json",
        "run/status.json",
        "fetch-state/approved.json",
    ];
    let stamp = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.ino(), meta.mtime(), meta.mtime_nsec())
    };
    files.iter().map(|name| (world.path(name), stamp(&world.path(name)))).collect()
}

#[test]
fn many_passes_write_nothing_and_say_nothing() {
    let mut world = World::new();
    world.tables = "[verify]\nevery = \"100ms\"".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start_with(&["--log", "debug", "run"]);
    // What it says is taken down once.
    wait("sshd's answer", || crate::access::written(&world)["sshd"].is_object());
    let passes = |text: &str| text.matches("trigger=Timer").count();
    let (before, log, attempts) = (stamps(&world), agent.log(), attempts(&world));
    wait("twenty more passes", || passes(&agent.log()) >= passes(&log) + 20);
    wait("five more fetches", || self::attempts(&world) >= attempts + 5);
    assert_eq!(stamps(&world), before);
    let new: Vec<String> = agent.log()[log.len()..].lines().map(str::to_owned).collect();
    let loud = new.iter().filter(|line| !line.trim_start().starts_with("DEBUG"));
    assert_eq!(loud.count(), 0, "{new:?}");
    let drift = new.iter().filter(|line| line.contains("trigger=Drift")).count();
    assert_eq!(drift, 0, "the agent's own reading wakes it: {new:?}");
}

fn attempts(world: &World) -> u64 {
    let text = fs::read_to_string(world.path("fetch-run/fetch.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["attempts"].as_u64().unwrap()
}
