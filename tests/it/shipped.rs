//! What is shipped is read and run: the config file with every default, the units.

use std::fs;
use std::path::Path;
use std::process::Command;

use authorized_keys_agent::model::config::tables::Config;

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
        "signed",
        "every",
        "full-every",
        "timeout",
        "stale-after",
        "on-stale",
        "revoke-after",
        "manage",
        "file",
        "owner",
        "break-glass",
        "accepted-doors",
        "end-sessions",
        "lock",
        "other-files",
        "algorithms",
        "min-rsa-bits",
        "options",
        "signed-by",
        "signatures",
        "audience",
        "max-removed",
        "confirmations",
        "confirm",
        "state-dir",
        "runtime-dir",
        "fetch-state-dir",
        "fetch-runtime-dir",
    ] {
        let written = |line: &str| {
            line.trim_start_matches(['#', ' '])
                .starts_with(&format!("{key} = "))
        };
        assert!(
            text.lines().any(written),
            "{key} is not in the shipped config"
        );
    }
}

/// The value of a setting in a unit, if it is there.
fn setting(unit: &str, name: &str) -> Option<String> {
    let text = read(&format!("systemd/authorized-keys-{unit}.service"));
    let mut lines = text.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

#[test]
fn what_is_killed_leaves_no_memory_behind_and_is_replaced_soon() {
    for unit in ["agent", "fetch"] {
        assert_eq!(setting(unit, "LimitCORE").as_deref(), Some("0"), "{unit}");
    }
    // -1000 would keep it even from its own limit of memory.
    let late: i32 = setting("agent", "OOMScoreAdjust").unwrap().parse().unwrap();
    assert!((-999..0).contains(&late), "{late}");
    let seconds = |name| -> u32 {
        let value = setting("agent", name).unwrap();
        value.strip_suffix('s').unwrap().parse().unwrap()
    };
    // systemd.service(5): the abort, SIGKILL, and SIGTERM and SIGKILL for what is left in the cgroup.
    let longest =
        seconds("TimeoutAbortSec") + 3 * seconds("TimeoutStopSec") + seconds("RestartSec");
    assert!(longest <= 15, "{longest} s");
    assert!(
        seconds("TimeoutStopSec") > 2,
        "a pass has two seconds to end"
    );
    assert!(seconds("WatchdogSec") <= 30);
    // Who holds the lock is read there.
    assert_eq!(setting("agent", "ProcSubset"), None);
    assert_eq!(setting("fetch", "ProcSubset").as_deref(), Some("pid"));
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let directory = tempfile::tempdir().unwrap();
    for (unit, exposure) in [
        ("authorized-keys-agent.service", 2.5),
        ("authorized-keys-fetch.service", 1.5),
        ("authorized-keys-report.service", 2.5),
    ] {
        // The binary of this build stands for the one that a package installs.
        let text = read(&format!("systemd/{unit}"));
        let path = directory.path().join(unit);
        let text = text.replace(
            "/usr/bin/authorized-keys-agent",
            env!("CARGO_BIN_EXE_authorized-keys-agent"),
        );
        fs::write(&path, text).unwrap();
        let analyze = |arguments: &[&str]| {
            let output = Command::new("systemd-analyze")
                .args(arguments)
                .arg(&path)
                .output()
                .unwrap();
            (
                output.status.success(),
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            )
        };
        let threshold = format!("--threshold={}", exposure * 10.0);
        let (low, said) = analyze(&["security", "--offline=yes", &threshold]);
        assert!(low, "{said}");
        let (_, said) = analyze(&["verify", "--man=no"]);
        let about: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("authorized-keys"))
            .collect();
        assert!(about.is_empty(), "{about:?}");
    }
    // systemd makes openat2 fail with it, and every account would be refused.
    let refuses = |line: &str| line.trim_start().starts_with("RestrictSUIDSGID=");
    assert!(
        !read("systemd/authorized-keys-agent.service")
            .lines()
            .any(refuses)
    );
    // A restart of the enforcer, which may be one of many, is none of the fetcher; a reload, which the config names, is both's.
    let (enforcer, fetcher) = ["agent", "fetch"]
        .map(|half| read(&format!("systemd/authorized-keys-{half}.service")))
        .into();
    assert!(!fetcher.contains("\nPartOf="));
    assert!(enforcer.contains("\nPropagatesReloadTo=authorized-keys-fetch.service\n"));
    assert!(read("packaging/config.toml").contains("`systemctl reload authorized-keys-agent`"));
    // A timer starts the service of its name, and is started by whoever enables it.
    let report = read("systemd/authorized-keys-report.service");
    assert!(!report.contains("[Install]") && !report.contains("\nRestrictSUIDSGID="));
    assert!(report.contains("\nSuccessExitStatus=1 3\n"));
    let preset = read("systemd/90-authorized-keys-agent.preset");
    let presets = preset.lines().map(|line| line.split_once(' ').unwrap());
    for (what, unit) in presets.clone() {
        assert_eq!(what == "disable", unit.contains(".timer"), "{unit}");
        assert!(read(&format!("systemd/{unit}")).contains("[Install]"));
    }
    assert_eq!(presets.count(), 3);
}
