//! What is mounted; and of that the file systems for which a process of an account answers (`fuse(4)`).
//!
//! What such a process shows to sshd need not be what it shows to the agent, or to anybody a moment later. One that root
//! has mounted, such as sshfs for homes, is as good as a disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::model::sorting::Gather;

use serde::{Deserialize, Serialize};

/// All that is mounted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    pub own: Vec<OwnMount>,
    /// Of each its numbers, what of its file system is mounted where, and how: words that the kernel separates by blanks.
    all: BTreeSet<String>,
}

/// A file system that an account mounted and answers for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnMount {
    /// Major and minor number, as `stat(2)` shows it for every file there.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub place: String,
    /// Who mounted it.
    pub uid: u32,
}

/// Which of the words is where it is mounted, and how many tell one mount from another.
const PLACE: usize = 4;
const WORDS: usize = 6;

impl Mounts {
    /// Reads a text of the form of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
    pub fn read(mountinfo: &str) -> Self {
        let words = |line: &str| {
            line.splitn(WORDS + 1, ' ')
                .take(WORDS)
                .collect::<Vec<_>>()
                .join(" ")
        };
        Self {
            own: mountinfo.lines().filter_map(own_mount).collect(),
            all: mountinfo.lines().map(words).gather(),
        }
    }

    /// Where something was mounted or unmounted between the two.
    pub fn changed(&self, before: &Self) -> BTreeSet<PathBuf> {
        let changed = self.all.symmetric_difference(&before.all);
        let place = |line: &String| line.split(' ').nth(PLACE).map(unescaped).map(PathBuf::from);
        changed.filter_map(place).gather()
    }
}

/// What is mounted at `place` may be on the way to `path`, or below it.
pub fn concerns(place: &Path, path: &Path) -> bool {
    place.starts_with(path) || path.starts_with(place)
}

/// `42 27 0:39 / /home/eve rw,nosuid shared:1 - fuse.sshfs eve@host: rw,user_id=1001,group_id=1001,allow_other`
fn own_mount(line: &str) -> Option<OwnMount> {
    let words: Vec<&str> = line.split(' ').collect();
    // Any number of optional fields ends with a hyphen.
    let end = 6 + words.get(6..)?.iter().position(|word| *word == "-")?;
    let [kind, _, options, ..] = words.get(end + 1..)? else {
        return None;
    };
    // The kernel itself writes these, in this order; a name that the account chose stands before them.
    let uid = options
        .split(',')
        .find_map(|option| option.strip_prefix("user_id="))?;
    let uid: u32 = uid.parse().ok()?;
    let (major, minor) = words[2].split_once(':')?;
    let mount = OwnMount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        place: unescaped(words[4]),
        uid,
    };
    (kind.starts_with("fuse") && uid != 0).then_some(mount)
}

/// The kernel writes blanks, line ends and backslashes as three octal digits.
fn unescaped(field: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n")];
    let plain = codes.iter().fold(field.to_owned(), |field, (code, plain)| {
        field.replace(code, plain)
    });
    plain.replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_accounts_are_found_by_who_mounted_them() {
        let check = |line: &str, expected: Option<((u32, u32), &str, u32)>| {
            let expected = expected.map(|(device, place, uid)| OwnMount {
                device,
                place: place.to_owned(),
                uid,
            });
            let text = format!(
                "22 27 0:21 / /proc rw,relatime - proc proc rw\n{line}\n27 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
            );
            assert_eq!(
                Mounts::read(&text).own,
                expected.into_iter().collect::<Vec<_>>(),
                "{line}"
            );
        };
        let eve = Some(((0, 39), "/home/eve", 1001));
        let options = "rw,user_id=1001,group_id=1001,allow_other";
        check(
            &format!("42 27 0:39 / /home/eve rw,nosuid,nodev - fuse.sshfs eve@host: {options}"),
            eve,
        );
        check(
            &format!("42 27 0:39 / /home/eve rw shared:7 master:1 - fuse mine {options}"),
            eve,
        );
        // A part of it, mounted by root elsewhere, is still answered for by the account.
        check(
            &format!("42 27 0:39 /.ssh /home/eve rw - fuse - {options},max_read=4096"),
            eve,
        );
        check(
            &format!("42 27 0:39 / /home/e\\040v\\134040e/.ssh rw - fuse x {options}"),
            Some(((0, 39), "/home/e v\\040e/.ssh", 1001)),
        );
        check(
            &format!("42 27 7:1 / /mnt rw - fuseblk /dev/loop1 {options}"),
            Some(((7, 1), "/mnt", 1001)),
        );
        for nobodys in [
            // Mounted by root.
            "42 27 0:39 / /home rw - fuse.sshfs host:/home rw,user_id=0,group_id=0,allow_other",
            "42 27 0:39 / /sys/fs/fuse/connections rw - fusectl fusectl rw",
            "42 27 0:39 / /home/eve rw - cifs //host/share rw,user_id=1001",
            "42 27 0:39 / /home/eve rw - nfs4 host:/home rw",
            "42 27 0:39 / /home/eve rw fuse mine rw,user_id=1001",
            "42 27 0:39 / /home/eve rw - fuse mine rw,user_id=x",
            "42 27 0:39",
            "",
        ] {
            check(nobodys, None);
        }
    }

    #[test]
    fn a_mount_that_comes_goes_or_is_another_one_is_known_by_its_place() {
        let root = "27 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw";
        let home = "42 27 8:2 / /home\\040of/eve rw - ext4 /dev/sdb rw";
        let check = |before: &[&str], after: &[&str], expected: &[&str]| {
            let [before, after] = [before, after].map(|lines| Mounts::read(&lines.join("\n")));
            let expected: BTreeSet<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(after.changed(&before), expected);
            assert_eq!(before.changed(&after), expected);
        };
        check(&[root, home], &[home, root], &[]);
        check(&[root], &[root, home], &["/home of/eve"]);
        let other = home.replace("42", "43");
        check(&[root, home], &[root, &other], &["/home of/eve"]);
        let read_only = root.replace("/ rw", "/ ro");
        check(&[root, home], &[&read_only, home], &["/"]);
        // Who is told of it is not its own doing.
        check(&[root], &[&root.replace("shared:1", "shared:2")], &[]);
    }
}
