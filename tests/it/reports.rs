//! Reports for machines, through the real program and its real readers: Prometheus' `promtool`, `node_exporter`, and the rules by
//! which the agent of Systems Manager takes a custom inventory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use authorized_keys_agent::model::account::AccountName;
use authorized_keys_agent::model::key::id::KeyId;
use authorized_keys_agent::model::status::schema::{KeyStatus, Status};
use jiff::Timestamp;
use nix::sys::stat::Mode;
use serde_json::{Map, Value};

use crate::support::deployed::packaging;
use crate::support::signing::Local;
use crate::support::world::{Ends, World, fingerprint, key, litter, shown, wait};

const METRICS: [&str; 4] = ["status", "--format", "prometheus", "--output"];
const INVENTORY: [&str; 4] = ["status", "--format", "inventory", "--output"];

/// Runs a report into `output`; what it says on stderr.
fn report(world: &World, words: &[&str], output: &Path, ends: i32) -> String {
    let mut all = words.to_vec();
    all.push(output.to_str().unwrap());
    let done = world.run(&all);
    let said = shown(&done.stderr);
    assert_eq!(done.status.code(), Some(ends), "{said}");
    assert_eq!(shown(&done.stdout), "");
    said
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    let piped = command.args(arguments).stdin(Stdio::piped());
    let piped = piped.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("promtool, of Debian's prometheus");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let done = child.wait_with_output().unwrap();
    let said = shown(&[done.stdout, done.stderr].concat());
    assert!(done.status.success(), "{arguments:?}: {said}");
    said
}

#[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// The value of a series.
fn sample(text: &str, series: &str) -> Option<f64> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// `node_exporter` on a port of its own, with the textfile collector alone.
struct NodeExporter {
    port: u16,
    _process: Ends,
}

impl NodeExporter {
    fn start(directory: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut child = Command::new("prometheus-node-exporter");
        child
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .arg("--collector.textfile.directory")
            .arg(directory)
            .stderr(Stdio::null());
        let child = child.spawn().expect("Debian's prometheus-node-exporter");
        let exporter = Self {
            port,
            _process: Ends(child),
        };
        wait("node_exporter", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        exporter
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = "GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn prometheus_reads_the_metrics_through_node_exporter() {
    let mut world = World::new();
    world.hold_for_long();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    let agent = world.start();
    let directory = world.path("textfile");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("authorized_keys.prom");
    report(&world, &METRICS, &file, 0);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(promtool(&["check", "metrics"], &text), "");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);

    let exporter = NodeExporter::start(&directory);
    let value = |series: &str| {
        let text = exporter.metrics();
        sample(&text, &format!("authorized_keys_agent_{series}"))
            .unwrap_or_else(|| panic!("no {series} in {text}"))
    };
    let is = |series: &str, expected: u32| {
        assert_eq!(value(series).to_string(), expected.to_string(), "{series}");
    };
    is("health{health=\"healthy\"}", 1);
    is("accounts{state=\"in-sync\"}", 2);
    is("keys", 2);
    is("problem{code=\"list-held\"}", 0);
    is("repairs_total", 0);
    let now = now().as_duration().as_secs_f64();
    for time in ["report", "list_confirmed", "enforcer_start"] {
        let at = value(&format!("{time}_timestamp_seconds"));
        assert!(
            (now - 120.0..now + 1.0).contains(&at),
            "{time}: {at}, now {now}"
        );
    }
    // Who has the file open reads the old one to its end.
    let old = fs::File::open(&file).unwrap();

    // A change is undone, and then a list comes that is held.
    fs::write(world.file("alice"), "planted\n").unwrap();
    wait("the repair", || world.word()["drift"]["repaired"] == 1);
    world.revoke("alice", "laptop");
    world.revoke("bob", "laptop");
    wait("the held list", || world.problems().contains("held"));
    report(&world, &METRICS, &file, 1);
    assert_eq!(std::io::read_to_string(old).unwrap(), text);
    is("health{health=\"healthy\"}", 0);
    is("health{health=\"degraded\"}", 1);
    is("problem{code=\"list-held\"}", 1);
    is("held_removals", 2);
    is("repairs_total", 1);
    is("accounts{state=\"held\"}", 2);

    // The counts are those of the host's last boot, whether or not the enforcer runs.
    agent.stop();
    report(&world, &METRICS, &file, 3);
    is("health{health=\"stopped\"}", 1);
    is("repairs_total", 1);
    assert_eq!(litter(&directory, &["authorized_keys.prom"]), [""; 0]);
    let text = exporter.metrics();
    assert_eq!(
        sample(&text, "node_textfile_scrape_error"),
        Some(0.0),
        "{text}"
    );
}

/// The entries of a custom inventory, if `amazon-ssm-agent` and `PutInventory` take it. Its agent (gatherers/custom, version
/// 3.3) reads the files that end in `.json`; takes a type whose name begins with `Custom:` and has up to 100 bytes, once; a
/// schema version of two numbers; and entries of up to 50 attributes, strings of up to 4,096 bytes with names of 1 to 64.
/// `PutInventory` takes 10,000 entries a type, and Systems Manager ("Service quotas") 1 MB a call and 4 KB for the names of one
/// type.
fn taken(text: &str, name: &str) -> Vec<Map<String, Value>> {
    let document: Value = serde_json::from_str(text).unwrap();
    assert_eq!(document["TypeName"], name);
    assert!(name.starts_with("Custom:") && name.len() <= 100);
    assert_eq!(document["SchemaVersion"], "1.0");
    let entries = document["Content"].as_array().unwrap();
    assert!(entries.len() <= 10_000 && text.len() <= 512 << 10);
    let mut columns: Option<Vec<&String>> = None;
    for entry in entries {
        let entry = entry.as_object().unwrap();
        assert!(entry.len() <= 50, "{entry:?}");
        for (name, value) in entry {
            assert!((1..=64).contains(&name.len()), "{name}");
            // What becomes a column in Athena, and is none that every table has.
            assert!(name.bytes().all(|c| c.is_ascii_alphanumeric()), "{name}");
            let everywhere = [
                "resourceid",
                "capturetime",
                "schemaversion",
                "accountid",
                "region",
                "resourcetype",
            ];
            assert!(!everywhere.contains(&&*name.to_lowercase()), "{name}");
            assert!(value.as_str().unwrap().len() <= 4096, "{name}");
        }
        let names: Vec<&String> = entry.keys().collect();
        assert!(names.iter().map(|name| name.len()).sum::<usize>() < 2048);
        assert_eq!(columns.get_or_insert_with(|| names.clone()), &names);
    }
    entries
        .iter()
        .map(|entry| entry.as_object().unwrap().clone())
        .collect()
}

/// What both files in `directory` say: of the host, and of its keys.
fn inventory(directory: &Path) -> (Map<String, Value>, Vec<Map<String, Value>>) {
    let files = ["authorized-keys-agent.json", "authorized-keys.json"];
    assert_eq!(litter(directory, &files), [""; 0]);
    let [agent, keys] = files.map(|file| fs::read_to_string(directory.join(file)).unwrap());
    let [host] = &taken(&agent, "Custom:AuthorizedKeysAgent")[..] else {
        panic!("{agent}");
    };
    (host.clone(), taken(&keys, "Custom:AuthorizedKeys"))
}

#[test]
fn systems_manager_takes_the_inventory() {
    let world = World::new();
    let (laptop, desk) = (key("alice@laptop"), key("bob \"the\" builder\\"));
    world.approve("alice", "laptop", &laptop);
    world.approve("bob", "desk", &desk);
    let _agent = world.start();
    let directory = world.path("custom");
    fs::create_dir(&directory).unwrap();
    let before = now().as_second();
    report(&world, &INVENTORY, &directory, 0);
    let (host, keys) = inventory(&directory);
    for (name, expected) in [
        ("Health", "healthy"),
        ("Mode", "enforce"),
        ("Problems", "open-door"),
        ("AccountsInSync", "2"),
        ("Keys", "2"),
        ("KeysReported", "2"),
        ("KeysLeftOut", "0"),
        ("HeldRemovals", "0"),
    ] {
        assert_eq!(host[name], expected, "{name} in {host:?}");
    }
    let at: Timestamp = host["ReportedAt"].as_str().unwrap().parse().unwrap();
    assert!(at.as_second() >= before);
    let fingerprints: Vec<&str> = keys
        .iter()
        .map(|key| key["Fingerprint"].as_str().unwrap())
        .collect();
    assert_eq!(fingerprints, [fingerprint(&laptop), fingerprint(&desk)]);
    assert_eq!(keys[0]["Account"], "alice");
    assert!(
        keys[0]["Parameter"]
            .as_str()
            .unwrap()
            .ends_with("/alice/laptop")
    );

    // The same list is the same file: the agent of Systems Manager sends only what has changed.
    let file = directory.join("authorized-keys.json");
    let text = fs::read(&file).unwrap();
    report(&world, &INVENTORY, &directory, 0);
    assert_eq!(fs::read(&file).unwrap(), text);
    // On stdout it is both.
    let shown = shown(&world.run(&INVENTORY[..3]).stdout);
    assert!(
        shown.ends_with(std::str::from_utf8(&text).unwrap()),
        "{shown}"
    );
    assert!(shown.contains("Custom:AuthorizedKeysAgent"), "{shown}");
}

#[test]
fn what_does_not_fit_into_an_inventory_is_counted() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    let status: Status = serde_json::from_value(world.word()).unwrap();
    let alice = AccountName::try_from("alice").unwrap();
    let now = now();
    for (count, comment, parameter) in [
        (0, "", ""),
        (2_000, "a@b", "/k/a"),
        (20_000, "", ""),
        (
            9_000,
            "\u{202e}\"\\\u{7f}",
            "/authorized-keys/web/alice/laptop",
        ),
        (300, "a", &*"é\u{7}".repeat(2000)),
    ] {
        let mut status = status.clone();
        let keys = (0..count).map(|number| KeyStatus {
            key: KeyId {
                fingerprint: format!("SHA256:{number:043}"),
                algorithm: "ssh-ed25519".to_owned(),
                comment: comment.to_owned(),
            },
            parameter: parameter.to_owned(),
            parameter_version: Some(1),
            parameter_modified_at: None,
            expires_at: None,
        });
        status.rows.set_keys(&alice, keys.collect());
        let inventory = status.inventory(now);
        let host = taken(&inventory.agent, "Custom:AuthorizedKeysAgent");
        let shown = taken(&inventory.keys, "Custom:AuthorizedKeys").len();
        let left_out = count - shown;
        assert_eq!(
            left_out > 0,
            count > 2_000 || parameter.len() > 100,
            "{shown} of {count}"
        );
        assert!(shown > 0 || count == 0);
        for (name, expected) in [
            ("Keys", count),
            ("KeysReported", shown),
            ("KeysLeftOut", left_out),
        ] {
            assert_eq!(host[0][name], expected.to_string(), "{name}");
        }
    }
}

#[test]
fn a_report_finds_the_directory_of_its_instance_or_says_what_is_missing() {
    const ID: &str = "i-0123456789abcdef0";
    let mut world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    // No firmware tells which instance it is.
    let template = world.path("ssm/{instance-id}/inventory/custom");
    let said = report(&world, &INVENTORY, &template, 2);
    assert!(
        said.contains("`{instance-id}` stands for nothing"),
        "{said}"
    );
    let skipping = |words: &[&'static str]| {
        let mut all = words[..3].to_vec();
        all.extend(["--skip-missing", "--output"]);
        all
    };
    report(&world, &skipping(&INVENTORY), &template, 3);

    let missing = world.path("no-such-directory");
    let said = report(&world, &INVENTORY, &missing, 2);
    assert!(said.contains("no-such-directory"), "{said}");
    report(&world, &skipping(&INVENTORY), &missing, 3);
    report(&world, &skipping(&METRICS), &missing.join("a.prom"), 3);
    assert!(!missing.exists());

    world.asset_tag = Some(ID.to_owned());
    let _agent = world.start();
    report(&world, &skipping(&INVENTORY), &template, 0);
    let there = world.path(&format!("ssm/{ID}/inventory/custom"));
    fs::create_dir_all(&there).unwrap();
    report(&world, &skipping(&INVENTORY), &template, 0);
    assert_eq!(inventory(&there).0["Health"], "healthy");
    let said = world.run(&["status", "--skip-missing"]);
    assert_eq!(said.status.code(), Some(2));
}

#[test]
fn a_report_takes_the_place_of_nothing_but_a_file() {
    let world = World::new();
    let directory = world.path("reports");
    fs::create_dir(&directory).unwrap();
    let at = |name: &str| directory.join(name);
    nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR).unwrap();
    symlink("/dev/null", at("link")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    for name in ["fifo", "link", "directory"] {
        let before = fs::symlink_metadata(at(name)).unwrap().ino();
        let said = report(&world, &METRICS, &at(name), 2);
        assert!(said.contains("is not a regular file"), "{said}");
        assert!(said.contains(at(name).to_str().unwrap()), "{said}");
        assert_eq!(fs::symlink_metadata(at(name)).unwrap().ino(), before);
    }

    // Files beside it are not ours, whatever their names, and another report may be on its way there.
    for name in ["report.new", "other.new"] {
        fs::write(at(name), "mine\n").unwrap();
    }
    report(&world, &METRICS, &at("report.prom"), 3);
    report(&world, &METRICS, &at("other.new"), 3);
    assert_eq!(fs::read_to_string(at("report.new")).unwrap(), "mine\n");
    let metrics = fs::read_to_string(at("other.new")).unwrap();
    assert!(metrics.starts_with("# HELP"), "{metrics}");
    let all = [
        "fifo",
        "link",
        "directory",
        "report.new",
        "other.new",
        "report.prom",
    ];
    assert_eq!(litter(&directory, &all), [""; 0]);
}

/// As in Debian, where `node-exporter` is root's in a directory of `prometheus`.
#[test]
fn no_link_of_another_account_leads_a_report_elsewhere() {
    let world = World::new();
    let (theirs, elsewhere) = (world.path("theirs"), world.path("elsewhere"));
    for directory in [&theirs, &elsewhere, &theirs.join("root")] {
        fs::create_dir(directory).unwrap();
    }
    chown(&theirs, Some(4242), Some(4242)).unwrap();
    symlink(&elsewhere, theirs.join("link")).unwrap();
    lchown(theirs.join("link"), Some(4242), Some(4242)).unwrap();
    let said = report(&world, &METRICS, &theirs.join("link/a.prom"), 2);
    assert!(said.contains("name the directory without links"), "{said}");
    report(&world, &INVENTORY, &theirs.join("link"), 2);
    assert_eq!(litter(&elsewhere, &[]), [""; 0]);
    report(&world, &METRICS, &theirs.join("root/a.prom"), 3);
    report(&world, &METRICS, &theirs.join("a.prom"), 3);

    // Root's own are followed, such as /var/run.
    symlink(&theirs, world.path("roots")).unwrap();
    report(&world, &METRICS, &world.path("roots/b.prom"), 3);
    assert_eq!(
        litter(&theirs, &["link", "root", "a.prom", "b.prom"]),
        [""; 0]
    );
}

/// Names of metrics, without what `Prometheus` itself has.
fn metrics(text: &str) -> BTreeSet<&str> {
    let parts = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    parts
        .filter(|name| name.starts_with("authorized_keys_agent_"))
        .collect()
}

/// Values that series are chosen by, such as `code="list-held"`.
fn chosen<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
    let mut all = Vec::new();
    let starts = ["{", ","]
        .iter()
        .flat_map(|before| ["=", "=~"].map(|operator| format!("{before}{label}{operator}\"")));
    for start in starts {
        for rest in text.split(&*start).skip(1) {
            all.extend(rest.split('"').next().unwrap().split('|'));
        }
    }
    all
}

#[test]
fn alerts_and_dashboard_ask_for_what_the_agent_reports() {
    let local = Local::new();
    let world = &local.world;
    let _agent = world.start();
    fs::write(world.file("alice"), "planted\n").unwrap();
    wait("the repair", || world.word()["drift"]["repaired"] == 1);
    let reported = shown(&world.run(&METRICS[..3]).stdout);
    let there = metrics(&reported);
    assert!(there.len() > 10, "{there:?}");

    let read = |name: &str| fs::read_to_string(packaging(&format!("monitoring/{name}"))).unwrap();
    let (rules, tests) = (read("rules.yml"), read("rules.test.yml"));
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert_eq!(
        queries.len(),
        dashboard.to_string().matches("\"expr\"").count()
    );
    let shown = queries.join("\n");
    for (what, text) in [
        ("rules", &rules),
        ("their tests", &tests),
        ("dashboard", &shown),
    ] {
        let asked = metrics(text);
        assert!(
            asked.is_subset(&there),
            "{what}: {asked:?}, reported: {there:?}"
        );
        for label in ["code", "health", "state", "mode"] {
            for value in chosen(text, label) {
                let known = ["observe", "enforce"].contains(&value)
                    || reported.contains(&format!("{label}=\"{value}\""));
                assert!(known, "{what}: {label} {value}");
            }
        }
    }
    // What is reported is shown.
    assert_eq!(metrics(&shown), there);

    let path = |name: &str| {
        packaging(&format!("monitoring/{name}"))
            .to_str()
            .unwrap()
            .to_owned()
    };
    promtool(&["check", "rules", &path("rules.yml")], "");
    promtool(&["test", "rules", &path("rules.test.yml")], "");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for part in ["severity:", "summary:", "description:", "action:"] {
            assert_eq!(alert.matches(part).count(), 1, "{name}: {part}");
        }
        assert!(tests.contains(name), "{name} has no test");
    }
    // A query is one that Prometheus takes.
    let rules: Vec<Value> = queries
        .iter()
        .map(|query| serde_json::json!({"record": "query", "expr": query, "labels": {"of": query.len().to_string()}}))
        .collect();
    let file = world.path("queries.json");
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&file, groups.to_string()).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}

/// As Athena does: tables with a column for each attribute, in lower case, and for where an entry comes from.
const ATHENA: &str = "\
import json, sqlite3, sys
tables, queries = json.load(sys.stdin)
database = sqlite3.connect(':memory:')
for name, entries in tables.items():
    rows = [{key.lower(): value for key, value in entry.items()} for entry in entries]
    database.execute(f'CREATE TABLE {name} ({\", \".join(rows[0])})')
    for row in rows:
        database.execute(f'INSERT INTO {name} VALUES ({\", \".join(\"?\" * len(row))})', list(row.values()))
print(json.dumps([database.execute(query).fetchall() for query in queries]))
";

#[test]
fn the_queries_of_the_page_find_hosts_and_keys() {
    let mut tables = [Vec::new(), Vec::new()];
    let (laptop, desk) = (key("alice@laptop"), key("bob@desk"));
    for (instance, people) in [("i-1", &[&laptop, &desk][..]), ("i-2", &[&laptop])] {
        let world = World::new();
        for line in people {
            world.approve(
                "alice",
                &fingerprint(line)[7..12].replace(['+', '/'], "-"),
                line,
            );
        }
        // Healthy is where an enforcer runs.
        let _agent = (instance == "i-1").then(|| world.start());
        if instance == "i-2" {
            world.pass();
        }
        let directory = world.path("custom");
        fs::create_dir(&directory).unwrap();
        report(
            &world,
            &INVENTORY,
            &directory,
            if instance == "i-1" { 0 } else { 3 },
        );
        let (host, keys) = inventory(&directory);
        for (table, entries) in tables.iter_mut().zip([vec![host], keys]) {
            for mut entry in entries {
                for (name, value) in [
                    ("resourceId", instance),
                    ("accountId", "1"),
                    ("region", "r"),
                ] {
                    entry.insert(name.to_owned(), value.into());
                }
                if entry.contains_key("ReportedAt") {
                    entry["ReportedAt"] = "2026-11-30T12:00:00Z".into();
                    entry["Host"] = instance.into();
                }
                table.push(entry);
            }
        }
    }
    let page = include_str!("../../docs/fleet.md");
    let (_, example) = page.split_once("fingerprint = '").unwrap();
    let example = example.split('\'').next().unwrap();
    let page = page.replace(example, &fingerprint(&desk));
    let queries = page.split("```sql\n").skip(1);
    let queries: Vec<&str> = queries
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let [agents, keys] = tables;
    let tables = serde_json::json!([
        {"custom_authorizedkeysagent": agents, "custom_authorizedkeys": keys},
        queries,
    ]);
    let mut python = Command::new("python3")
        .args(["-c", ATHENA])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(tables.to_string().as_bytes()).unwrap();
    drop(stdin);
    let done = python.wait_with_output().unwrap();
    let found: Vec<Vec<Vec<String>>> = serde_json::from_slice(&done.stdout).unwrap();
    let column = |query: usize, column: usize| -> Vec<&str> {
        found[query].iter().map(|row| &*row[column]).collect()
    };
    assert_eq!(found.len(), 3);
    assert_eq!((column(0, 2), column(0, 4)), (vec!["i-2"], vec!["stopped"]));
    assert_eq!(column(1, 0), ["alice@laptop", "alice@laptop", "bob@desk"]);
    assert_eq!(column(1, 2), ["i-1", "i-2", "i-1"]);
    assert_eq!((column(2, 0), column(2, 1)), (vec!["i-1"], vec!["alice"]));
}
