//! One run of the agent under strace, and the steps of a write in its trace.

use std::fs;
use std::path::Path;

use crate::support::world::{World, shown};

/// Calls by which a write can fail.
const CALLS: &str =
    "openat,openat2,mkdirat,fchmod,fchown,write,fsync,rename,renameat,renameat2,unlink,unlinkat";

/// One system call of the thread that writes: its name, and which of that thread's calls of that name it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub call: String,
    pub nth: usize,
    pub shown: String,
}

/// Runs one half once under strace; gives the trace.
pub fn traced(world: &World, half: &str, inject: Option<&str>) -> String {
    let faults: Vec<String> = inject.map(str::to_owned).into_iter().collect();
    trace_with(world, half, &faults)
}

/// The same with any number of faults.
pub fn trace_with(world: &World, half: &str, faults: &[String]) -> String {
    let trace = world.path("trace");
    let _ = fs::remove_file(&trace);
    let mut command = world.command("strace");
    command
        .args(["-f", "-qq", "-y", "-s", "64", "-o"])
        .arg(&trace)
        .args(["-e", &format!("trace={CALLS}")]);
    for inject in faults {
        command.args(["-e", &format!("inject={inject}")]);
    }
    command.arg(env!("CARGO_BIN_EXE_authorized-keys-agent"));
    let output = command
        .arg("--config")
        .arg(world.config())
        .args([half, "--once"])
        .output()
        .unwrap();
    fs::read_to_string(&trace)
        .unwrap_or_else(|error| panic!("strace is needed: {error}: {}", shown(&output.stderr)))
}

/// Runs one half once with this fault at this step, which must happen.
pub fn struck(world: &World, half: &str, step: &Step, fault: &str) {
    let inject = format!("{}:{fault}:when={}", step.call, step.nth);
    let trace = traced(world, half, Some(&inject));
    let happened = trace.contains("INJECTED") || trace.contains("killed by SIGKILL");
    assert!(
        happened,
        "{fault} at {} did not happen:\n{trace}",
        step.shown
    );
}

/// The steps of the write, from the first that changes something at `place`, the start of a path.
pub fn steps(trace: &str, place: &Path) -> Vec<Step> {
    let place = place.display().to_string();
    let changes = |line: &str| line.contains("O_EXCL") || line.contains("mkdirat(");
    steps_in(trace, |line| line.contains(&place), changes)
}

/// The steps `in_place`, from the first that `changes` something.
pub fn steps_in(
    trace: &str,
    in_place: impl Fn(&str) -> bool,
    changes: impl Fn(&str) -> bool,
) -> Vec<Step> {
    let thread = |line: &str| {
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let writer = trace
        .lines()
        .find(|line| in_place(line) && changes(line))
        .map(thread)
        .expect("the pass wrote");
    let mut counts = std::collections::HashMap::<String, usize>::new();
    let mut all = Vec::new();
    let mut begun = false;
    for line in trace.lines().filter(|line| thread(line) == writer) {
        let Some((call, _)) = line
            .split_whitespace()
            .nth(1)
            .and_then(|text| text.split_once('('))
        else {
            continue;
        };
        let nth = counts.entry(call.to_owned()).or_default();
        *nth += 1;
        begun |= in_place(line) && changes(line);
        if begun && in_place(line) {
            all.push(Step {
                call: call.to_owned(),
                nth: *nth,
                shown: line.to_owned(),
            });
        }
    }
    all
}
