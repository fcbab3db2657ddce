//! A world with an sshd of its own, logins to it, and what the enforcer says of it.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::world::{World, shown};

/// A world with an sshd of its own: `/etc/ssh` is the world's.
pub fn world(config: &str) -> World {
    fs::create_dir_all("/run/sshd").unwrap();
    let world = World::new();
    fs::create_dir(world.path("etc/ssh")).unwrap();
    let host_key = world.path("etc/ssh/host_key");
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(host_key));
    configure(&world, config);
    world
}

pub fn configure(world: &World, config: &str) {
    let path = world.path("etc/ssh/sshd_config");
    fs::write(
        path.with_extension("new"),
        format!("HostKey /etc/ssh/host_key\n{config}\n"),
    )
    .unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        shown(&output.stdout),
        shown(&output.stderr)
    );
    shown(&output.stdout)
}

/// True when sshd lets `account` in by what `how` adds to the client; gives sshd's log too.
pub fn login(world: &World, account: &str, how: &[&str]) -> (bool, String) {
    let log = world.path("login.log");
    let _ = fs::remove_file(&log);
    let proxy = format!(
        "ProxyCommand=/usr/sbin/sshd -i -E {} -o LogLevel=VERBOSE -o UseDNS=no",
        log.display()
    );
    let mut ssh = world.command("timeout");
    ssh.args(["30", "ssh", "-F", "none", "-n", "-T", "-o", &proxy]);
    ssh.args([
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "IdentityAgent=none",
    ]);
    ssh.args(how).arg(format!("{account}@host")).arg("true");
    ssh.env("SSH_ASKPASS_REQUIRE", "force")
        .env("SSH_ASKPASS", world.path("askpass"))
        .env("DISPLAY", "none");
    let output = ssh.output().unwrap();
    let log = fs::read_to_string(&log).unwrap_or_default() + &shown(&output.stderr);
    (log.lines().any(|line| line.starts_with("Accepted ")), log)
}

pub fn by_key(world: &World, account: &str, identity: &TempDir) -> (bool, String) {
    let identity = identity.path().join("id").display().to_string();
    login(
        world,
        account,
        &[
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-i",
            &identity,
        ],
    )
}

pub fn assert_in((is_in, log): (bool, String)) {
    assert!(is_in, "sshd lets nobody in:\n{log}");
}

pub fn assert_out((is_in, log): (bool, String)) {
    assert!(
        !is_in && log.contains("Connection"),
        "sshd lets somebody in, or did not run:\n{log}"
    );
}

/// What the enforcer itself last wrote; `status` would ask sshd again.
pub fn written(world: &World) -> Value {
    world.word()
}

pub fn written_access(world: &World, name: &str) -> Value {
    let status = written(world);
    let rows = status["accounts"].as_array().cloned().unwrap_or_default();
    rows.into_iter()
        .find(|row| row["name"] == name)
        .map_or(Value::Null, |row| row["access"].clone())
}
