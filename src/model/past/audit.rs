//! Records of the Linux audit log, as `ausearch --format raw` prints them, and which of them made a change.
//!
//! `type=NAME msg=audit(SECONDS.MILLIS:SERIAL): key=value …` is one record; all records of one system call have the same
//! serial number. A value that the process chose is in quotes, or in hexadecimal if it has a blank, a quote or a
//! control character (`audit_log_untrustedstring` in the kernel's `kernel/audit.c`).

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::model::inode::Inode;
use crate::model::past::incident::Who;
use crate::model::sorting::Gather;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Sought {
    /// The file that was changed.
    pub file: PathBuf,
    /// The inode that stood there, where there was one.
    pub inode: Option<Inode>,
    /// Inode number of its directory. This program names what it changes by descriptor, so that its calls have no path.
    pub directory: Option<u64>,
    /// When it was changed, as far as is known.
    pub changed_at: Option<Timestamp>,
    /// The same of its directory.
    pub directory_changed_at: Option<Timestamp>,
    /// When the change was undone.
    pub undone_at: Timestamp,
    /// It is not who is looked for.
    pub own: Arc<Own>,
}

/// This program, in this process and in earlier ones.
#[derive(Debug, Default)]
pub struct Own {
    pub exe: String,
    /// As another user it is not the agent.
    pub uid: u32,
}

/// File systems stamp with the time of the last tick, at most 10 ms ago (`CONFIG_HZ=100`), audit with its own.
const TICK: SignedDuration = SignedDuration::from_millis(20);

/// A call is recorded with the time at which it began, and may have waited so long for a lock before it changed anything.
const BLOCKED: SignedDuration = SignedDuration::from_millis(100);

/// Where no change time is known: so long before it was undone.
const LATELY: SignedDuration = SignedDuration::from_secs(1);

/// One system call.
#[derive(Default)]
struct Call {
    at: Option<Timestamp>,
    who: Option<Who>,
    cwd: PathBuf,
    items: Vec<Item>,
}

/// One thing that a call worked on.
struct Item {
    path: PathBuf,
    device: Option<u64>,
    inode: Option<u64>,
    is_parent: bool,
}

/// The calls of the log.
pub struct Calls(BTreeMap<(Timestamp, u64), Call>);

impl Calls {
    pub fn read(records: &str) -> Self {
        let mut calls: BTreeMap<(Timestamp, u64), Call> = BTreeMap::new();
        for line in records.lines() {
            if let Some((kind, at, serial, fields)) = record(line) {
                let call = calls.entry((at, serial)).or_default();
                call.at = Some(at);
                call.take(kind, &fields);
            }
        }
        Self(calls)
    }

    /// Who made the change. No name is better than a wrong one: the rule may not cover the directory that is there now.
    pub fn find(&self, sought: &Sought) -> Option<Who> {
        let by_file = self.find_at(sought, sought.changed_at);
        // What was put together elsewhere, and came there with its directory, was changed before it came.
        by_file.or_else(|| {
            let moved = sought.directory_changed_at;
            (moved > sought.changed_at).then(|| self.find_at(sought, moved))?
        })
    }

    /// The last call that succeeded, touched the file, its directory or its inode, and came at the `moment` of the change; or
    /// the only process that had opened the very inode before: it may have written to it later. What had stood there before
    /// this program put the right file in its place is gone by then, so who did that is not it.
    fn find_at(&self, sought: &Sought, moment: Option<Timestamp>) -> Option<Who> {
        let end = moment.map_or(sought.undone_at, |at| at.min(sought.undone_at));
        let early = if moment.is_some() { BLOCKED } else { LATELY };
        let begin = end.checked_sub(early).unwrap_or(end);
        let end = end.checked_add(TICK).unwrap_or(end);
        // The log has milliseconds; a repair of this very change comes after it.
        let repaired_before = |at: Timestamp| {
            moment.is_some_and(|moment| at.as_millisecond() < moment.as_millisecond())
        };
        let mut undone = false;
        let mut opener: Option<&Who> = None;
        for call in self.0.values().rev() {
            let (Some(at), Some(who)) = (call.at.filter(|at| *at <= end), &call.who) else {
                continue;
            };
            if sought.own.is(who) {
                // By its number alone: no name is better than a wrong one.
                let is_here = |item: &Item| item.inode.is_some() && item.inode == sought.directory;
                undone |=
                    repaired_before(at) && (call.touches(sought) || call.items.iter().any(is_here));
            } else if call.has(sought.inode) {
                match opener {
                    None if at >= begin => return Some(who.clone()),
                    None => opener = Some(who),
                    Some(known) if known.pid == who.pid => {}
                    Some(_) => return None,
                }
            } else if opener.is_none() && at >= begin && !undone && call.touches(sought) {
                return Some(who.clone());
            }
        }
        opener.cloned()
    }
}

impl Own {
    fn is(&self, who: &Who) -> bool {
        who.uid == self.uid && who.exe.trim_end_matches(DELETED) == self.exe
    }
}

/// What the kernel adds to the path of a program that was replaced since it was started.
pub const DELETED: &str = " (deleted)";

impl Call {
    fn take(&mut self, kind: &str, fields: &BTreeMap<&str, &str>) {
        let get = |name: &str| fields.get(name).copied();
        let number = |name: &str| get(name).and_then(|value| value.parse::<u32>().ok());
        match kind {
            "SYSCALL" if get("success") == Some("yes") => {
                let (Some(uid), Some(pid), Some(at)) = (number("uid"), number("pid"), self.at)
                else {
                    return;
                };
                self.who = Some(Who {
                    // (unsigned) -1: never logged in
                    auid: number("auid").filter(|auid| *auid != u32::MAX),
                    uid,
                    pid,
                    exe: text(get("exe").unwrap_or_default()),
                    comm: text(get("comm").unwrap_or_default()),
                    at,
                });
            }
            "CWD" => self.cwd = text(get("cwd").unwrap_or_default()).into(),
            "PATH" => {
                let name = text(get("name").unwrap_or_default());
                let inode = get("inode").and_then(|inode| inode.parse().ok());
                let device = get("dev").and_then(device);
                let is_parent = get("nametype") == Some("PARENT");
                self.items.push(Item {
                    path: name.into(),
                    device,
                    inode,
                    is_parent,
                });
            }
            _ => {}
        }
    }

    fn has(&self, inode: Option<Inode>) -> bool {
        inode.is_some()
            && self
                .items
                .iter()
                .any(|item| item.device.zip(item.inode) == inode)
    }

    fn touches(&self, sought: &Sought) -> bool {
        let directory = sought.file.parent().unwrap_or(Path::new("/"));
        self.items.iter().any(|item| {
            let path = tidy(&self.cwd.join(&item.path));
            // Another file had the name then.
            let is_other = |(_, number)| item.inode.is_some_and(|inode| inode != number);
            // The directory is an item of each call that makes or removes a name in it, whichever name.
            (path == sought.file && !sought.inode.is_some_and(is_other))
                || (path == directory && !item.is_parent)
        })
    }
}

/// `major:minor`, hexadecimal, as the C library makes one number of them (`gnu_dev_makedev`).
fn device(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
    let (major, minor) = (number(major)?, number(minor)?);
    Some((major & !0xfff) << 32 | (major & 0xfff) << 8 | (minor & !0xff) << 12 | minor & 0xff)
}

/// A path without `.` and `..`, by its text alone.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(tidy.pop()),
            Component::CurDir => {}
            part => tidy.push(part),
        }
    }
    tidy
}

/// The parts of one record.
fn record(line: &str) -> Option<(&str, Timestamp, u64, BTreeMap<&str, &str>)> {
    // The names of uids and system calls that `auditd` adds for people stand after a separator.
    let line = line.split('\u{1d}').next().unwrap_or_default();
    // With `name_format` set, `node=… ` stands before.
    let (_, rest) = line.split_once("type=")?;
    let (kind, rest) = rest.split_once(' ')?;
    let (stamp, rest) = rest.strip_prefix("msg=audit(")?.split_once(')')?;
    let (time, serial) = stamp.split_once(':')?;
    let (seconds, millis) = time.split_once('.')?;
    let at = Timestamp::new(
        seconds.parse().ok()?,
        millis.parse::<i32>().ok()?.checked_mul(1_000_000)?,
    )
    .ok()?;
    let words = rest.trim_start_matches(':').split_ascii_whitespace();
    Some((
        kind,
        at,
        serial.parse().ok()?,
        words.filter_map(|word| word.split_once('=')).gather(),
    ))
}

/// A value that the process chose.
fn text(value: &str) -> String {
    if let Some(quoted) = value.strip_prefix('"') {
        return quoted.trim_end_matches('"').to_owned();
    }
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let bytes: Option<Vec<u8>> = value
        .as_bytes()
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect();
    // `(null)` is no hexadecimal and no text.
    bytes
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: &str = concat!(
        "type=SYSCALL msg=audit(1800000000.100:41): arch=c000003e syscall=257 success=yes exit=3 a0=ffffff9c a1=55 a2=441 a3=1b6 items=2 ppid=10 pid=11 auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 comm=\"tee\" exe=\"/usr/bin/tee\" subj=unconfined key=\"authorized_keys\"\u{1d}ARCH=x86_64 SYSCALL=openat AUID=\"alice\" UID=\"root\"\n",
        "type=CWD msg=audit(1800000000.100:41): cwd=\"/home/alice\"\n",
        "type=PATH msg=audit(1800000000.100:41): item=0 name=\".ssh/\" inode=70 dev=fd:01 mode=040700 ouid=1000 ogid=1000 rdev=00:00 nametype=PARENT\n",
        "type=PATH msg=audit(1800000000.100:41): item=1 name=\".ssh/authorized_keys\" inode=71 dev=fd:01 mode=0100600 ouid=1000 ogid=1000 rdev=00:00 nametype=NORMAL\n",
        "type=PROCTITLE msg=audit(1800000000.100:41): proctitle=746565\n",
        "type=SYSCALL msg=audit(1800000000.110:40): arch=c000003e syscall=257 success=yes exit=3 items=2 pid=10 auid=1000 uid=1000 comm=\"ssh\" exe=\"/usr/bin/ssh\" key=\"authorized_keys\"\n",
        "type=CWD msg=audit(1800000000.110:40): cwd=\"/home/alice/.ssh\"\n",
        "type=PATH msg=audit(1800000000.110:40): item=0 name=\"/home/alice/.ssh/\" inode=70 dev=fd:01 nametype=PARENT\n",
        "type=PATH msg=audit(1800000000.110:40): item=1 name=\"known_hosts\" inode=72 dev=fd:01 nametype=CREATE\n",
        "----\n",
        "type=SYSCALL msg=audit(1800000000.140:42): arch=c000003e syscall=82 success=yes exit=0 items=4 ppid=1 pid=99 auid=4294967295 uid=0 gid=0 comm=\"agent\" exe=\"/usr/bin/authorized-keys-agent\" key=\"authorized_keys\"\n",
        "type=CWD msg=audit(1800000000.140:42): cwd=\"/\"\n",
        "type=PATH msg=audit(1800000000.140:42): item=0 name=\"/\" inode=70 dev=fd:01 nametype=PARENT\n",
        "node=web1 type=SYSCALL msg=audit(1800000001.000:43): syscall=263 success=yes items=2 pid=12 auid=4294967295 uid=1001 comm=6120622F63 exe=2F7573722F62696E2F6D79207064 key=\"authorized_keys\"\n",
        "node=web1 type=CWD msg=audit(1800000001.000:43): cwd=\"/home/bob/.ssh\"\n",
        "node=web1 type=PATH msg=audit(1800000001.000:43): item=0 name=\"../.ssh/authorized_keys\" inode=81 nametype=DELETE\n",
        "type=SYSCALL msg=audit(1800000001.500:44): syscall=257 success=no exit=-13 items=1 pid=13 auid=1003 uid=1003 comm=\"sh\" exe=\"/usr/bin/dash\"\n",
        "type=PATH msg=audit(1800000001.500:44): item=0 name=\"/home/bob/.ssh/authorized_keys\" inode=81 nametype=NORMAL\n",
        "type=SYSCALL msg=audit(broken): pid=\ntype=\n\u{0}\n",
    );

    /// `fd:01`.
    const DISK: u64 = 0xfd01;

    fn find(file: &str, inode: Option<u64>, changed: Option<i64>, undone: i64) -> Option<Who> {
        find_on(DISK, file, inode, changed, undone)
    }

    fn find_on(
        disk: u64,
        file: &str,
        inode: Option<u64>,
        changed: Option<i64>,
        undone: i64,
    ) -> Option<Who> {
        sought_on(
            RECORDS,
            &Sought {
                inode: inode.map(|inode| (disk, inode)),
                changed_at: changed.map(at),
                ..sought(file, undone)
            },
        )
    }

    fn sought_on(records: &str, sought: &Sought) -> Option<Who> {
        Calls::read(records).find(sought)
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    fn sought(file: &str, undone: i64) -> Sought {
        let own = Own {
            exe: "/usr/bin/authorized-keys-agent".to_owned(),
            uid: 0,
        };
        Sought {
            file: file.into(),
            inode: None,
            directory: Some(70),
            changed_at: None,
            directory_changed_at: None,
            undone_at: at(undone),
            own: own.into(),
        }
    }

    #[test]
    fn the_call_that_made_the_change_is_found() {
        let alice = find("/home/alice/.ssh/authorized_keys", Some(71), Some(95), 110).unwrap();
        assert_eq!(
            (alice.auid, alice.uid, alice.pid, alice.exe.as_str()),
            (Some(1000), 0, 11, "/usr/bin/tee")
        );
        assert_eq!(
            alice.at,
            Timestamp::from_millisecond(1_800_000_000_100).unwrap()
        );
        let bob = find("/home/bob/.ssh/authorized_keys", None, None, 2000).unwrap();
        assert_eq!(
            (bob.auid, bob.pid, bob.exe.as_str()),
            (None, 12, "/usr/bin/my pd")
        );
        assert_eq!(bob.comm, "a b/c", "and not the call that failed");
    }

    #[test]
    fn no_process_is_named_for_what_another_call_did() {
        assert_eq!(
            find("/home/alice/.ssh/authorized_keys", Some(71), Some(20), 30),
            None,
            "it came later"
        );
        assert_eq!(
            find("/home/carol/.ssh/authorized_keys", Some(9), None, 5000),
            None,
            "another file"
        );
        let file = "/home/alice/.ssh/authorized_keys";
        assert_eq!(
            find(file, Some(71), Some(100), 200).unwrap().pid,
            11,
            "its own repair does not hide it"
        );
        assert_eq!(
            find(file, None, Some(2000), 3000),
            None,
            "what was done before had been undone"
        );
        assert_eq!(find(file, Some(5), Some(2000), 3000), None);
        assert_eq!(find(file, Some(5), Some(100), 200), None, "another file");
        let open = find(file, Some(71), Some(2000), 3000).unwrap();
        assert_eq!(
            open.pid, 11,
            "a file that was opened before the repair, and moved there after it"
        );
        assert_eq!(find("/home/carol/x", Some(71), None, 3000).unwrap().pid, 11);
        assert_eq!(
            find_on(0xfd02, "/home/carol/x", Some(71), None, 3000),
            None,
            "another disk"
        );
        assert_eq!(sought_on("", &sought("/", 0)), None);
    }

    /// The rule is for a directory that was renamed, and the one in its place is not watched.
    #[test]
    fn who_changed_something_long_before_is_not_named() {
        let rename = concat!(
            "type=SYSCALL msg=audit(1800000000.000:1): success=yes pid=20 auid=1000 uid=1000 comm=\"mv\" exe=\"/usr/bin/mv\"\n",
            "type=PATH msg=audit(1800000000.000:1): item=0 name=\"/home/alice/\" inode=60 dev=fd:01 nametype=PARENT\n",
            "type=PATH msg=audit(1800000000.000:1): item=1 name=\"/home/alice/.ssh\" inode=70 dev=fd:01 nametype=DELETE\n",
            "type=PATH msg=audit(1800000000.000:1): item=2 name=\"/home/alice/.old\" inode=70 dev=fd:01 nametype=CREATE\n",
        );
        let file = "/home/alice/.ssh/authorized_keys";
        let find = |changed, directory| {
            let sought = Sought {
                inode: Some((DISK, 90)),
                changed_at: Some(at(changed)),
                directory_changed_at: Some(at(directory)),
                ..sought(file, 248_100)
            };
            sought_on(rename, &sought).map(|who| who.pid)
        };
        // The directory was made anew right after the rename.
        assert_eq!(find(248_000, 3), None);
        assert_eq!(find(0, 3), Some(20), "it was gone");
        assert_eq!(find(-90_000, 0), Some(20), "a directory that was prepared");
        assert_eq!(find(-90_000, 5_000), None);
    }

    #[test]
    fn neither_this_program_nor_one_of_several_is_named() {
        let call = |second: u64, pid: u32, uid: u32, exe: &str| {
            format!(
                "type=SYSCALL msg=audit(18000000{second:02}.000:{second}): success=yes pid={pid} auid=1000 uid={uid} comm=\"x\" exe={exe}\n\
                 type=PATH msg=audit(18000000{second:02}.000:{second}): item=0 name=\"/home/alice/.ssh/authorized_keys\" inode=71 dev=fd:01 nametype=NORMAL\n"
            )
        };
        let find = |records: &[String]| {
            let sought = Sought {
                inode: Some((DISK, 71)),
                changed_at: Some(at(9_000)),
                ..sought("/home/alice/.ssh/authorized_keys", 9_100)
            };
            sought_on(&records.concat(), &sought).map(|who| who.pid)
        };
        let (agent, tee) = ("\"/usr/bin/authorized-keys-agent\"", "\"/usr/bin/tee\"");
        // Before it was restarted, and before it was upgraded.
        assert_eq!(find(&[call(9, 31, 0, agent)]), None);
        // With its blank, ` (deleted)`, it is in hexadecimal.
        let replaced = "2F7573722F62696E2F617574686F72697A65642D6B6579732D6167656E742028\
                        64656C6574656429";
        assert_eq!(find(&[call(9, 31, 0, replaced)]), None);
        assert_eq!(find(&[call(9, 31, 1000, agent)]), Some(31), "alice's own");
        assert_eq!(find(&[call(1, 11, 0, tee)]), Some(11));
        assert_eq!(find(&[call(1, 11, 0, tee), call(2, 11, 0, tee)]), Some(11));
        assert_eq!(find(&[call(1, 11, 0, tee), call(2, 12, 0, tee)]), None);
        assert_eq!(find(&[call(1, 11, 0, tee), call(9, 12, 0, tee)]), Some(12));
    }

    #[test]
    fn a_device_is_numbered_as_stat_has_it() {
        let check =
            |text: &str, expected: Option<u64>| assert_eq!(device(text), expected, "{text}");
        check("fd:01", Some(0xfd01));
        check("00:2f", Some(0x2f));
        check("103:12345", Some(0x1231_0345));
        check("none", None);
        check("fd:x", None);
    }
}
