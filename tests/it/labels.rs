//! SELinux labels, as far as they can be had without a kernel that enforces them: a directory stands for its file system, and
//! the labels are real attributes, which such a kernel lets root set.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::support::world::{Ends, World, key, shown, wait};

const WRONG: &str = "unconfined_u:object_r:shadow_t:s0";
const RIGHT: &str = "system_u:object_r:ssh_home_t:s0";

fn relabel(path: &Path) {
    let label = format!("{WRONG}\0");
    setxattr(
        path,
        "security.selinux",
        label.as_bytes(),
        XattrFlags::empty(),
    )
    .unwrap();
}

/// A new file has none here: it is the kernel that gives it one.
fn label(path: &Path) -> Option<String> {
    let mut label = [0; 256];
    let length = getxattr(path, "security.selinux", &mut label).ok()?;
    let label = String::from_utf8_lossy(&label[..length]).into_owned();
    Some(label.trim_end_matches('\0').to_owned())
}

/// The agent where SELinux is on, with files that have labels of their own or, if the `mount` gives one to all, have not.
fn agent(world: &World, own_labels: bool, arguments: &[&str]) -> Command {
    let mut command = world.command("sh");
    let seclabel = if own_labels { ",seclabel" } else { "" };
    command
        .args([
            "-c",
            "mount -t tmpfs none /sys/fs && mkdir /sys/fs/selinux && echo 1 > /sys/fs/selinux/enforce && \
             sed \"s/$/$1/\" /proc/self/mountinfo > \"/sys/fs/mountinfo\" && \
             mount --bind /sys/fs/mountinfo /proc/$$/mountinfo && shift && exec \"$@\"",
            "sh",
            seclabel,
            env!("CARGO_BIN_EXE_authorized-keys-agent"),
            "--config",
        ])
        .arg(world.config())
        .args(arguments);
    command
}

#[test]
fn a_label_that_sshd_may_not_read_is_mended_and_told() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    let (file, ssh) = (world.file("alice"), world.ssh("alice"));
    let log = fs::File::create(world.path("log")).unwrap();
    let running = agent(&world, true, &["run"]).stderr(log).spawn().unwrap();
    let _running = Ends(running);
    wait("the first pass", || world.path("run/status.json").exists());
    let content = world.read("alice");
    relabel(&file);
    wait("a file without the label", || label(&file).is_none());
    assert_eq!(world.read("alice"), content);
    wait("its incident", || world.incidents().len() == 1);
    relabel(&ssh);
    wait("the directory's label", || {
        label(&ssh).as_deref() == Some(RIGHT)
    });
    wait("both incidents", || world.incidents().len() == 2);
    let told = shown(&world.run(&["incidents"]).stdout);
    for part in [
        "\n  SELinux type shadow_t\n",
        "\n  directory SELinux type shadow_t\n",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_label_is_wrong_only_where_files_have_labels_of_their_own() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    relabel(&world.file("alice"));
    let check = |own_labels: bool, expected: &str| {
        let status = agent(&world, own_labels, &["status", "--json"])
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        let row = &status["accounts"][0];
        assert_eq!(row["state"], expected, "{own_labels}: {row:#}");
        row["reason"].to_string()
    };
    check(false, "in-sync");
    let reason = check(true, "drifted");
    assert!(reason.contains("SELinux type shadow_t"), "{reason}");
    // And not at all where SELinux is off.
    assert_eq!(world.account("alice")["state"], "in-sync");
}
