//! Under systemd: fields for journald, with a constant `MESSAGE_ID` a kind of event.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::support::world::{ALICE, World, key};

/// One entry of journald's native protocol: `NAME=value\n`, or `NAME\n`, eight bytes of length, the value, `\n`.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
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

#[test]
fn events_reach_the_journal_with_their_fields() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    world.put("alice", ALICE, &key("rogue"));
    fs::create_dir(world.path("journal")).unwrap();
    let journal = UnixDatagram::bind(world.path("journal/socket")).unwrap();
    fs::set_permissions(
        world.path("journal/socket"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    journal
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let status = with_journald(&world, &["enforce", "--once"])
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{}",
        fs::read_to_string(world.path("stderr")).unwrap()
    );
    let mut buffer = vec![0; 1 << 16];
    // The first one only asks whether somebody is there.
    let length = loop {
        match journal
            .recv(&mut buffer)
            .expect("the event is in the journal")
        {
            0 => {}
            length => break length,
        }
    };
    let event = fields(&buffer[..length]);
    assert_eq!(
        event["MESSAGE_ID"],
        authorized_keys_agent::agent::events::id::REPAIRED,
        "{event:?}"
    );
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
