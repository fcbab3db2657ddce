//! How sshd was started: by what its listener has as its command line, or by what its unit would start.
//!
//! `sshd -T` does not show what a unit adds, as that of EC2 Instance Connect on Ubuntu does with `-o`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::model::sorting;
use crate::model::sshd::invocation::{Invocation, Unit, of_process};

/// Where distributions put it. Never by `PATH`: root runs it.
pub(super) const PLACES: [&str; 3] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// The program: that of the listener, else what the unit starts, else what stands where it usually does.
    pub program: Option<PathBuf>,
    /// What changes the configuration.
    pub invocation: Invocation,
    /// The command lines of others that listen too, started in another way: whatever they read is not asked for. Not all,
    /// where there are many.
    pub others: Vec<String>,
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

/// Others that listen which are named, and how much of the command line of one.
const OTHERS: usize = 5;
const LONGEST: usize = 200;

/// Looks at the processes and units below `root`, which is `/`.
pub fn started(root: &Path) -> Started {
    let (unit, files) = unit(root).unwrap_or_default();
    let listeners = listeners(root, &unit);
    // Beside one that an admin started by hand, the service counts.
    let sure = || listeners.iter().filter(|listener| listener.is_sshd);
    let main = sure()
        .find(|listener| listener.is_service)
        .or_else(|| sure().next());
    let program = main
        .and_then(|main| main.program.clone())
        .or_else(|| installed_by(root, &unit));
    let invocation = read(main.map_or(&unit, |main| &main.words));
    let mut others: Vec<String> = Vec::new();
    for other in &listeners {
        let own = other
            .program
            .as_ref()
            .is_none_or(|path| Some(path) == program.as_ref());
        let same = own && read(&other.words) == invocation;
        let shown: String = other.words.join(" ").chars().take(LONGEST).collect();
        if !same && !others.contains(&shown) {
            others.push(shown);
        }
    }
    sorting::sort(&mut others);
    others.truncate(OTHERS);
    Started {
        program,
        invocation,
        others,
        files,
    }
}

fn read(words: &[String]) -> Invocation {
    Invocation::read(words.iter().skip(1).map(String::as_str))
}

/// The sshd that is installed below `root`.
pub fn installed(root: &Path) -> Option<PathBuf> {
    installed_by(root, &unit(root).unwrap_or_default().0)
}

fn installed_by(root: &Path, unit: &[String]) -> Option<PathBuf> {
    places(unit).find(|path| below(root, path).is_file())
}

/// Where sshd may be: what root has its `unit` start, then where it usually is.
fn places(unit: &[String]) -> impl Iterator<Item = PathBuf> {
    let named = unit.first().map(PathBuf::from);
    // Not by a shell that goes on to start it.
    let named = named
        .filter(|path| path.is_absolute() && path.file_name().is_some_and(|name| name == "sshd"));
    named.into_iter().chain(PLACES.map(PathBuf::from))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A process that looks like an sshd that listens.
struct Listener {
    words: Vec<String>,
    /// No account can have made it look so.
    is_sshd: bool,
    /// It is the service's.
    is_service: bool,
    /// Which of the places it was started from, where that can be told.
    program: Option<PathBuf>,
}

/// What a process runs, where this process may ask for that (`ptrace(2)`, access mode checking).
enum Runs {
    Known(Option<PathBuf>),
    Unknown,
}

fn runs(root: &Path, process: &Path, unit: &[String]) -> Runs {
    let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let Ok(program) = fs::metadata(process.join("exe")).map(id) else {
        return Runs::Unknown;
    };
    Runs::Known(
        places(unit)
            .find(|place| fs::metadata(below(root, place)).is_ok_and(|meta| id(meta) == program)),
    )
}

/// True for a process that is sshd's service, by its own pid file and the cgroup of its system unit.
fn is_service(root: &Path, process: &Path, cgroup: &str) -> bool {
    let path = cgroup.lines().filter_map(|line| line.rsplit_once(':'));
    let units = NAMES.map(|name| format!("/system.slice/{name}.service"));
    let service = path
        .map(|(_, path)| path)
        .any(|path| units.iter().any(|unit| unit == path));
    let pid = fs::read_to_string(root.join("run/sshd.pid")).unwrap_or_default();
    service && process.file_name().and_then(|name| name.to_str()) == Some(pid.trim())
}

/// Every process that looks like an sshd that listens. One of a container is not this host's: it has a pid there besides.
///
/// `comm` and the command line are anybody's to choose, and a program that is set-user-ID root, started as a link called
/// `sshd`, belongs to root as well. So one is believed whose uids are all root's and which is the very file `sshd` or,
/// where that cannot be asked for, the service. The others may be what they look like.
fn listeners(root: &Path, unit: &[String]) -> Vec<Listener> {
    let mut found: Vec<(String, String, Listener)> = Vec::new();
    for entry in fs::read_dir(root.join("proc"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let process = entry.path();
        let Ok(pid) = entry.file_name().into_string() else {
            continue;
        };
        if !pid.bytes().all(|b| b.is_ascii_digit())
            || fs::read(process.join("comm")).ok().as_deref() != Some(b"sshd\n")
        {
            continue;
        }
        if fs::metadata(&process).map_or(true, |meta| meta.uid() != 0) {
            continue;
        }
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let foreign = field("NSpid:").is_some_and(|pids| pids.split_whitespace().count() > 1);
        if foreign
            || !field("Uid:").is_some_and(|uids| uids.split_whitespace().all(|uid| uid == "0"))
        {
            continue;
        }
        let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let Ok(line) = fs::read(process.join("cmdline")) else {
            continue;
        };
        let Some(words) = of_process(&line, Some(unit).filter(|unit| !unit.is_empty())) else {
            continue;
        };
        if read(&words).is_brief {
            continue;
        }
        let parent = field("PPid:").unwrap_or_default().to_owned();
        let (is_sshd, program) = match runs(root, &process, unit) {
            Runs::Known(program) => (program.is_some(), program),
            Runs::Unknown => (is_service(root, &process, &cgroup), None),
        };
        let is_service = NAMES
            .iter()
            .any(|name| cgroup.trim_end().ends_with(&format!("/{name}.service")));
        // Elsewhere it may be one of a test, or a child of another that has not said so yet.
        let is_sshd = is_sshd && parent == "1";
        found.push((
            pid,
            parent,
            Listener {
                words,
                is_sshd,
                is_service,
                program,
            },
        ));
    }
    let pids: Vec<String> = found.iter().map(|(pid, ..)| pid.clone()).collect();
    // A child for one connection looks like the one that listens until it says whose it is.
    found.retain(|(_, parent, _)| !pids.contains(parent));
    found.into_iter().map(|(.., listener)| listener).collect()
}

/// The words of sshd's unit, and its files. A socket that takes each connection itself starts the template.
fn unit(root: &Path) -> Option<(Vec<String>, Vec<PathBuf>)> {
    let enabled = |name: &str| {
        root.join(format!(
            "etc/systemd/system/sockets.target.wants/{name}.socket"
        ))
    };
    let accepts = |name: &&&str| {
        let socket = fs::read_to_string(enabled(name)).unwrap_or_default();
        socket
            .lines()
            .any(|line| matches!(line.replace(' ', "").as_str(), "Accept=yes" | "Accept=true"))
    };
    let templates = NAMES
        .iter()
        .filter(accepts)
        .map(|name| format!("{name}@.service"));
    let names: Vec<String> = templates
        .chain(NAMES.iter().map(|name| format!("{name}.service")))
        .collect();
    for name in &names {
        let places = || UNIT_PLACES.iter().map(|place| root.join(place));
        let Some(path) = places()
            .map(|place| place.join(name))
            .find(|path| path.is_file())
        else {
            continue;
        };
        // One drop-in of a name, that of the first place; all of them in the order of their names.
        let mut drop_ins: Vec<PathBuf> = Vec::new();
        let mut files = vec![path.clone()];
        for directory in places().map(|place| place.join(format!("{name}.d"))) {
            for file in fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
            {
                let known = drop_ins
                    .iter()
                    .any(|known| known.file_name() == file.file_name());
                if !known && file.extension().is_some_and(|end| end == "conf") {
                    drop_ins.push(file);
                }
            }
            files.push(directory);
        }
        sorting::sort_by(&mut drop_ins, |a, b| a.file_name().cmp(&b.file_name()));
        let texts: Vec<String> = [path]
            .iter()
            .chain(&drop_ins)
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .collect();
        let unit = Unit::read(texts.iter().map(String::as_str));
        let environment: Vec<PathBuf> = unit
            .environment_files
            .iter()
            .map(|path| below(root, path))
            .collect();
        let values: Vec<String> = environment
            .iter()
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .collect();
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
        assert_eq!(
            started(root.path()).invocation.options,
            expected,
            "{files:?}"
        );
    }

    #[test]
    fn the_program_is_what_the_unit_starts_or_where_it_usually_is() {
        let check = |files: &[(&str, &str)], expected: Option<&str>| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                put(root.path(), path, text);
            }
            let expected = expected.map(PathBuf::from);
            assert_eq!(started(root.path()).program, expected, "{files:?}");
            assert_eq!(installed(root.path()), expected, "{files:?}");
        };
        let usual = ("usr/sbin/sshd", "");
        let own = ("opt/openssh/sbin/sshd", "");
        let unit = |start| ("lib/systemd/system/sshd.service", start);
        check(&[], None);
        check(&[usual], Some("/usr/sbin/sshd"));
        check(&[("usr/local/sbin/sshd", "")], Some("/usr/local/sbin/sshd"));
        check(
            &[
                usual,
                own,
                unit("[Service]\nExecStart=-/opt/openssh/sbin/sshd -D\n"),
            ],
            Some("/opt/openssh/sbin/sshd"),
        );
        check(
            &[
                usual,
                unit("[Service]\nExecStart=/opt/openssh/sbin/sshd -D\n"),
            ],
            Some("/usr/sbin/sshd"),
        );
        check(
            &[
                usual,
                ("bin/sh", ""),
                unit("[Service]\nExecStart=/bin/sh -c sshd\n"),
            ],
            Some("/usr/sbin/sshd"),
        );
        check(
            &[usual, ("sshd", ""), unit("[Service]\nExecStart=sshd -D\n")],
            Some("/usr/sbin/sshd"),
        );
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
        let template = (
            "lib/systemd/system/ssh@.service",
            "[Service]\nExecStart=-/usr/sbin/sshd -i -o each\n",
        );
        check(&[UNIT, template], &[]);
        let socket = "etc/systemd/system/sockets.target.wants/ssh.socket";
        check(&[UNIT, template, (socket, "[Socket]\nAccept=no\n")], &[]);
        check(
            &[UNIT, template, (socket, "[Socket]\nAccept = yes\n")],
            &["each"],
        );
    }

    /// Files owned by root stand for its processes; elsewhere they are an account's.
    #[test]
    #[expect(clippy::too_many_lines, reason = "one story, told in rows")]
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
        let title = |option: &str| {
            format!("sshd: /usr/sbin/sshd -D -o {option} [listener] 0 of 10-100 startups\0")
        };
        let check = |processes: &[Vec<(String, String)>], expected: &[&str]| {
            let files: Vec<(&str, &str)> = processes
                .iter()
                .flatten()
                .map(|(path, text)| (path.as_str(), text.as_str()))
                .collect();
            let known = [
                UNIT,
                ("etc/default/ssh", "SSHD_OPTS=-oUnit=x\n"),
                ("run/sshd.pid", "7\n"),
            ];
            check(&[known.as_slice(), &files].concat(), expected);
        };
        let service = "0::/system.slice/ssh.service\n";
        check(&[], &["Unit=x"]);
        check(
            &[process("7", "sshd", own, &title("A=b"), service)],
            &["A=b"],
        );
        check(
            &[process("7", "bash", own, &title("A=b"), service)],
            &["Unit=x"],
        );
        check(
            &[process(
                "7",
                "sshd",
                "Uid:\t0\t0\t0\t0\nPPid:\t9\nNSpid:\t7\n",
                &title("A=b"),
                service,
            )],
            &["Unit=x"],
        );
        check(
            &[process(
                "7",
                "sshd",
                "Uid:\t0\t0\t0\t0\nPPid:\t1\nNSpid:\t7\t1\n",
                &title("A=b"),
                service,
            )],
            &["Unit=x"],
        );
        check(
            &[process("7", "sshd", own, "sshd: alice [priv]\0", service)],
            &["Unit=x"],
        );
        let mut by_hand = process("8", "sshd", own, &title("Hand=x"), "0::/user.slice\n");
        // Called so, and of root: what a user can bring about with a set-user-ID program.
        check(std::slice::from_ref(&by_hand), &["Unit=x"]);
        let posing = "Uid:\t1000\t0\t0\t0\nPPid:\t1\nNSpid:\t7\n";
        check(
            &[process("7", "sshd", posing, &title("A=b"), service)],
            &["Unit=x"],
        );
        let nested = "0::/user.slice/user-1000.slice/user@1000.service/ssh.service\n";
        check(
            &[process("7", "sshd", own, &title("A=b"), nested)],
            &["Unit=x"],
        );
        check(
            &[process("9", "sshd", own, &title("A=b"), service)],
            &["Unit=x"],
        );
        // The program itself, whichever user started it.
        let program = ("usr/sbin/sshd".to_owned(), "sshd".to_owned());
        by_hand.extend([
            program,
            ("proc/8/exe".to_owned(), "-> usr/sbin/sshd".to_owned()),
        ]);
        check(std::slice::from_ref(&by_hand), &["Hand=x"]);
        check(
            &[
                by_hand.clone(),
                process("7", "sshd", own, &title("A=b"), service),
            ],
            &["A=b"],
        );

        let others = |processes: &[Vec<(String, String)>], program: &str, expected: &[&str]| {
            let root = tempfile::tempdir().unwrap();
            let known = [("run/sshd.pid".to_owned(), "7\n".to_owned())];
            for (path, text) in known.iter().chain(processes.iter().flatten()) {
                put(root.path(), path, text);
            }
            let found = started(root.path());
            assert_eq!(
                (found.program.as_deref(), found.others),
                (
                    Some(Path::new(program)),
                    expected.iter().map(|o| (*o).to_owned()).collect()
                )
            );
        };
        let usual = vec![("usr/sbin/sshd".to_owned(), "sshd".to_owned())];
        let listens = process("7", "sshd", own, &title("A=b"), service);
        let second = "sshd: /usr/sbin/sshd -f /root/x -p 2222 [listener] 0 of 10-100 startups\0";
        let second = |parent: &str, nested: &str| {
            let status = format!("Uid:\t0\t0\t0\t0\nPPid:\t{parent}\nNSpid:\t8{nested}\n");
            process("8", "sshd", &status, second, "0::/user.slice\n")
        };
        let named = "/usr/sbin/sshd -f /root/x -p 2222";
        others(&[usual.clone(), listens.clone()], "/usr/sbin/sshd", &[]);
        others(
            &[usual.clone(), listens.clone(), second("1", "")],
            "/usr/sbin/sshd",
            &[named],
        );
        others(
            &[usual.clone(), listens.clone(), second("3", "")],
            "/usr/sbin/sshd",
            &[named],
        );
        others(
            &[usual.clone(), second("1", "")],
            "/usr/sbin/sshd",
            &[named],
        );
        // One for a single connection, or that is asked something.
        let brief = process(
            "8",
            "sshd",
            own,
            "/usr/sbin/sshd\0-i\0-f\0/root/x\0",
            "0::/user.slice\n",
        );
        others(
            &[usual.clone(), listens.clone(), brief],
            "/usr/sbin/sshd",
            &[],
        );
        // A child of the other, and one of a container.
        others(
            &[usual.clone(), listens.clone(), second("7", "")],
            "/usr/sbin/sshd",
            &[],
        );
        others(
            &[usual.clone(), listens.clone(), second("1", "\t1")],
            "/usr/sbin/sshd",
            &[],
        );
        // The same twice, and the same words of another program.
        let again = process("9", "sshd", own, &title("A=b"), "0::/user.slice\n");
        others(
            &[usual.clone(), listens.clone(), again.clone()],
            "/usr/sbin/sshd",
            &[],
        );
        let elsewhere = vec![
            ("usr/local/sbin/sshd".to_owned(), "other".to_owned()),
            ("proc/9/exe".to_owned(), "-> usr/local/sbin/sshd".to_owned()),
        ];
        others(
            &[usual.clone(), elsewhere.clone(), listens, again.clone()],
            "/usr/sbin/sshd",
            &["/usr/sbin/sshd -D -o A=b"],
        );
        others(&[usual, elsewhere, again], "/usr/local/sbin/sshd", &[]);
    }
}
