//! How sshd was started: by what its listener has as its command line, or by what its unit would start.
//!
//! `sshd -T` does not show what a unit adds, as that of EC2 Instance Connect on Ubuntu does with `-o`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::host::sshd::PLACES;
use crate::model::invocation::{Invocation, Unit, of_process};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// What changes the configuration.
    pub invocation: Invocation,
    /// The unit's files, its drop-ins and the directories these stand in.
    pub files: Vec<PathBuf>,
}

/// `systemd.unit(5)`, the load path of the system manager: the first place that has a name wins.
const UNIT_PLACES: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Debian and Ubuntu, then everybody else.
const NAMES: [&str; 2] = ["ssh", "sshd"];

/// Looks at the processes and units below `root`, which is `/`.
pub fn started(root: &Path) -> Started {
    let (unit, files) = unit(root).unwrap_or_default();
    let listening = listener(root, (!unit.is_empty()).then_some(unit.as_slice()));
    let words = listening.unwrap_or(unit);
    Started { invocation: Invocation::read(words.iter().skip(1).map(String::as_str)), files }
}

/// True for a process that is sshd and not what somebody made look like it: `comm` and the command line are anybody's to
/// choose, and a program that is set-user-ID root, started as a link called `sshd`, belongs to root as well.
///
/// So all of its uids are root's, and it is the very file `sshd` or, where this process may not ask for that
/// (`ptrace(2)`, access mode checking), the one in sshd's own pid file and in the cgroup of its system unit.
fn is_sshd(root: &Path, process: &Path, status: &str, cgroup: &str) -> bool {
    let all_root = |line: &str| line.split_whitespace().all(|uid| uid == "0");
    if !status.lines().find_map(|line| line.strip_prefix("Uid:")).is_some_and(all_root) {
        return false;
    }
    let same =
        |meta: &fs::Metadata, other: &fs::Metadata| (meta.dev(), meta.ino()) == (other.dev(), other.ino());
    if let Ok(program) = fs::metadata(process.join("exe")) {
        let known =
            PLACES.iter().filter_map(|place| fs::metadata(root.join(place.trim_start_matches('/'))).ok());
        return known.into_iter().any(|sshd| same(&sshd, &program));
    }
    let path = cgroup.lines().filter_map(|line| line.rsplit_once(':'));
    let units = NAMES.map(|name| format!("/system.slice/{name}.service"));
    let service = path.map(|(_, path)| path).any(|path| units.iter().any(|unit| unit == path));
    let pid = fs::read_to_string(root.join("run/sshd.pid")).unwrap_or_default();
    service && process.file_name().and_then(|name| name.to_str()) == Some(pid.trim())
}

/// The words of the sshd that listens. One of a container is not this host's: it has a pid there besides.
fn listener(root: &Path, unit: Option<&[String]>) -> Option<Vec<String>> {
    let mut found: Option<(bool, Vec<String>)> = None;
    for entry in fs::read_dir(root.join("proc")).ok()?.flatten() {
        let process = entry.path();
        let is_number =
            entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if !is_number || fs::read(process.join("comm")).ok().as_deref() != Some(b"sshd\n") {
            continue;
        }
        if fs::metadata(&process).map_or(true, |meta| meta.uid() != 0) {
            continue;
        }
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let foreign = field("NSpid:").is_some_and(|pids| pids.split_whitespace().count() > 1);
        if field("PPid:") != Some("1") || foreign {
            continue;
        }
        let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        if !is_sshd(root, &process, &status, &cgroup) {
            continue;
        }
        let Ok(line) = fs::read(process.join("cmdline")) else { continue };
        let Some(words) = of_process(&line, unit) else { continue };
        // Beside one that an admin started by hand, the service counts.
        let service = NAMES.iter().any(|name| cgroup.trim_end().ends_with(&format!("/{name}.service")));
        if found.is_none() || service {
            found = Some((service, words));
        }
        if service {
            break;
        }
    }
    found.map(|(_, words)| words)
}

/// The words of sshd's unit, and its files. A socket that takes each connection itself starts the template.
fn unit(root: &Path) -> Option<(Vec<String>, Vec<PathBuf>)> {
    let enabled = |name: &str| root.join(format!("etc/systemd/system/sockets.target.wants/{name}.socket"));
    let accepts = |name: &&&str| {
        let socket = fs::read_to_string(enabled(name)).unwrap_or_default();
        socket.lines().any(|line| matches!(line.replace(' ', "").as_str(), "Accept=yes" | "Accept=true"))
    };
    let templates = NAMES.iter().filter(accepts).map(|name| format!("{name}@.service"));
    let names: Vec<String> = templates.chain(NAMES.iter().map(|name| format!("{name}.service"))).collect();
    for name in &names {
        let places = || UNIT_PLACES.iter().map(|place| root.join(place));
        let Some(path) = places().map(|place| place.join(name)).find(|path| path.is_file()) else { continue };
        // One drop-in of a name, that of the first place; all of them in the order of their names.
        let mut drop_ins: Vec<PathBuf> = Vec::new();
        let mut files = vec![path.clone()];
        for directory in places().map(|place| place.join(format!("{name}.d"))) {
            for file in fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
                let known = drop_ins.iter().any(|known| known.file_name() == file.file_name());
                if !known && file.extension().is_some_and(|end| end == "conf") {
                    drop_ins.push(file);
                }
            }
            files.push(directory);
        }
        drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
        let texts: Vec<String> =
            [path].iter().chain(&drop_ins).map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
        let unit = Unit::read(texts.iter().map(String::as_str));
        let below_root = |path: &PathBuf| root.join(path.strip_prefix("/").unwrap_or(path));
        let environment: Vec<PathBuf> = unit.environment_files.iter().map(below_root).collect();
        let values: Vec<String> =
            environment.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
        files.extend(drop_ins);
        files.extend(environment);
        return Some((unit.words(values.iter().map(String::as_str)), files));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("-> ") {
            Some(same) => fs::hard_link(root.join(same), path).unwrap(),
            None => fs::write(path, text).unwrap(),
        }
    }

    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            put(root.path(), path, text);
        }
        assert_eq!(started(root.path()).invocation.options, expected, "{files:?}");
    }

    const UNIT: (&str, &str) = (
        "lib/systemd/system/ssh.service",
        "[Service]\nEnvironmentFile=-/etc/default/ssh\nExecStart=/usr/sbin/sshd -D $SSHD_OPTS\n",
    );

    #[test]
    fn without_a_listener_the_unit_counts() {
        check(&[], &[]);
        check(&[UNIT], &[]);
        check(&[UNIT, ("etc/default/ssh", "SSHD_OPTS=-oA=b\n")], &["A=b"]);
        let low = "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -o low\n";
        let high = "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -o high\n";
        check(
            &[
                UNIT,
                ("usr/lib/systemd/system/ssh.service.d/10.conf", high),
                ("etc/systemd/system/ssh.service.d/10.conf", low),
                ("etc/systemd/system/ssh.service.d/README", high),
            ],
            &["low"],
        );
        check(
            &[
                UNIT,
                ("usr/lib/systemd/system/ssh.service.d/20.conf", high),
                ("etc/systemd/system/ssh.service.d/10.conf", low),
            ],
            &["high"],
        );
        let template =
            ("lib/systemd/system/ssh@.service", "[Service]\nExecStart=-/usr/sbin/sshd -i -o each\n");
        check(&[UNIT, template], &[]);
        let socket = "etc/systemd/system/sockets.target.wants/ssh.socket";
        check(&[UNIT, template, (socket, "[Socket]\nAccept=no\n")], &[]);
        check(&[UNIT, template, (socket, "[Socket]\nAccept = yes\n")], &["each"]);
    }

    /// Files owned by root stand for its processes; elsewhere they are somebody's.
    #[test]
    fn a_listener_of_this_host_counts_more_than_the_unit() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let process = |pid: &str, comm: &str, status: &str, line: &str, cgroup: &str| {
            vec![
                (format!("proc/{pid}/comm"), format!("{comm}\n")),
                (format!("proc/{pid}/status"), status.to_owned()),
                (format!("proc/{pid}/cmdline"), line.to_owned()),
                (format!("proc/{pid}/cgroup"), cgroup.to_owned()),
            ]
        };
        let own = "Uid:\t0\t0\t0\t0\nPPid:\t1\nNSpid:\t7\n";
        let title =
            |option: &str| format!("sshd: /usr/sbin/sshd -D -o {option} [listener] 0 of 10-100 startups\0");
        let check = |processes: &[Vec<(String, String)>], expected: &[&str]| {
            let files: Vec<(&str, &str)> =
                processes.iter().flatten().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            let known = [UNIT, ("etc/default/ssh", "SSHD_OPTS=-oUnit=x\n"), ("run/sshd.pid", "7\n")];
            check(&[known.as_slice(), &files].concat(), expected);
        };
        let service = "0::/system.slice/ssh.service\n";
        check(&[], &["Unit=x"]);
        check(&[process("7", "sshd", own, &title("A=b"), service)], &["A=b"]);
        check(&[process("7", "bash", own, &title("A=b"), service)], &["Unit=x"]);
        check(
            &[process("7", "sshd", "Uid:\t0\t0\t0\t0\nPPid:\t9\nNSpid:\t7\n", &title("A=b"), service)],
            &["Unit=x"],
        );
        check(
            &[process("7", "sshd", "Uid:\t0\t0\t0\t0\nPPid:\t1\nNSpid:\t7\t1\n", &title("A=b"), service)],
            &["Unit=x"],
        );
        check(&[process("7", "sshd", own, "sshd: alice [priv]\0", service)], &["Unit=x"]);
        let mut by_hand = process("8", "sshd", own, &title("Hand=x"), "0::/user.slice\n");
        // Called so, and of root: what a user can bring about with a set-user-ID program.
        check(std::slice::from_ref(&by_hand), &["Unit=x"]);
        let posing = "Uid:\t1000\t0\t0\t0\nPPid:\t1\nNSpid:\t7\n";
        check(&[process("7", "sshd", posing, &title("A=b"), service)], &["Unit=x"]);
        let nested = "0::/user.slice/user-1000.slice/user@1000.service/ssh.service\n";
        check(&[process("7", "sshd", own, &title("A=b"), nested)], &["Unit=x"]);
        check(&[process("9", "sshd", own, &title("A=b"), service)], &["Unit=x"]);
        // The program itself, whoever started it.
        let program = ("usr/sbin/sshd".to_owned(), "sshd".to_owned());
        by_hand.extend([program, ("proc/8/exe".to_owned(), "-> usr/sbin/sshd".to_owned())]);
        check(std::slice::from_ref(&by_hand), &["Hand=x"]);
        check(&[by_hand.clone(), process("7", "sshd", own, &title("A=b"), service)], &["A=b"]);
    }
}
