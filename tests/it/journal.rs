//! Under systemd: fields for journald, with a constant `MESSAGE_ID` a kind of event.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use authorized_keys_agent::agent::events::id;

use crate::support::world::{ALICE, Ends, World, key, wait};

/// One entry of journald's native protocol: `NAME=value\n`, or `NAME\n`, eight bytes of length, the value, `\n`.
fn fields(mut entry: &[u8]) -> Entry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all = BTreeMap::new();
    while let Some(end) = entry.iter().position(|b| *b == b'\n') {
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        if let Some(equals) = line.iter().position(|b| *b == b'=') {
            all.insert(text(&line[..equals]), text(&line[equals + 1..]));
            entry = rest;
        } else {
            let (length, rest) = rest.split_first_chunk::<8>().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            all.insert(text(line), text(&rest[..length]));
            entry = &rest[length + 1..];
        }
    }
    all
}

/// The agent with stderr as systemd connects it, and says so (`sd_journal_stream_fd(3)`), and journald's socket in the world's
/// directory `journal`.
pub fn with_journald(world: &World, arguments: &[&str]) -> Command {
    let stderr = fs::File::create(world.path("stderr")).unwrap();
    let meta = stderr.metadata().unwrap();
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
        mount --bind \"$0/journal\" /run/systemd/journal && exec \"$@\"";
    let mut command = world.command("sh");
    command
        .args(["-c", script])
        .arg(world.path(""))
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .args(arguments)
        .env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()))
        .stderr(stderr);
    command
}

pub type Entry = BTreeMap<String, String>;

/// journald's socket in a world.
pub struct Journald(UnixDatagram);

impl Journald {
    pub fn of(world: &World) -> Self {
        fs::create_dir_all(world.path("journal")).unwrap();
        let path = world.path("journal/socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self(socket)
    }

    /// The entries up to the first of this kind.
    pub fn until(&self, message_id: &str) -> Vec<Entry> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = self.0.recv(&mut buffer).expect("such an entry");
            // An empty one only asks whether a journald is there.
            if length > 0 {
                let entry = fields(&buffer[..length]);
                let is_it = entry.get("MESSAGE_ID").is_some_and(|id| id == message_id);
                all.push(entry);
                if is_it {
                    return all;
                }
            }
        }
    }
}

#[test]
fn events_reach_the_journal_with_their_fields() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    world.put("alice", ALICE, &key("rogue"));
    let journald = Journald::of(&world);
    let status = with_journald(&world, &["enforce", "--once"])
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{}",
        fs::read_to_string(world.path("stderr")).unwrap()
    );
    let told = journald.until(id::REPAIRED);
    let event = &told[0];
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (event["ACCOUNT"].as_str(), event["PRIORITY"].as_str()),
        ("alice", "4"),
        "{event:?}"
    );
    assert_eq!(event["SYSLOG_IDENTIFIER"], "authorized-keys-agent");
    assert!(event["FOUND"].contains("SHA256:"), "{event:?}");
    let incident = &world.incidents()[0];
    assert_eq!(event["INCIDENT"], incident["id"].as_str().unwrap());
    assert_eq!(
        event["STOOD_MS"],
        incident["stood_milliseconds"].to_string()
    );
    assert_eq!(
        fs::read_to_string(world.path("stderr")).unwrap(),
        "",
        "said once"
    );
}

#[test]
fn a_host_says_that_it_is_degraded_once_that_lasts() {
    let mut world = World::new();
    world.tables = "[verify]\nevery = \"500ms\"\n".to_owned();
    world.approve("alice", "laptop", &key("alice@laptop"));
    fs::remove_dir(world.home("alice")).unwrap();
    fs::write(world.home("alice"), "").unwrap();
    let journald = Journald::of(&world);
    let running = Ends(with_journald(&world, &["run"]).spawn().unwrap());
    let told = journald.until(id::DEGRADED);
    let told = told.last().unwrap();
    assert_eq!(told["PROBLEMS"], "file-refused", "{told:?}");
    assert_eq!(
        (told["PRIORITY"].as_str(), told["MESSAGE"].as_str()),
        ("4", "this host is degraded")
    );
    assert!(told["SINCE"].parse::<jiff::Timestamp>().is_ok(), "{told:?}");
    fs::remove_file(world.home("alice")).unwrap();
    fs::create_dir(world.home("alice")).unwrap();
    std::os::unix::fs::chown(world.home("alice"), Some(ALICE), Some(ALICE)).unwrap();
    wait("the repair", || {
        world.home("alice").join(".ssh/authorized_keys").exists()
    });
    let more = journald.until(id::HEALTHY);
    let again = more
        .iter()
        .filter(|entry| entry.get("MESSAGE_ID").is_some_and(|id| id == id::DEGRADED));
    assert_eq!(again.count(), 0, "the same is told once an hour: {more:?}");
    drop(running);
}
