//! One change to a managed file that the agent did not make: what it was, how long it stood, how it was undone.
//!
//! Schema 1: fields may be added, none changes its meaning.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::file::difference::{Difference, Lock};
use crate::model::file::wanted::{Kind, Lines};
use crate::model::key::id::KeyId;
use crate::model::key::lenient::unclear;
use crate::model::sorting;

/// The version of this schema.
pub const SCHEMA: u32 = 1;

/// One incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its name, in order of time; also that of its files.
    pub id: String,
    /// When it was undone for the first time, or seen where nothing is written.
    pub at: Timestamp,
    /// When it was undone for the last time, where it came again.
    pub last_at: Timestamp,
    /// Whose file.
    pub account: AccountName,
    /// Which file.
    pub file: String,
    /// What had been changed.
    pub changes: Vec<Change>,
    /// Changes that are left out above.
    pub more_changes: usize,
    /// How long it stood at least, the longest time of several; `None` where that cannot be told.
    pub stood_milliseconds: Option<u64>,
    /// Where that comes from.
    pub stood_since: Option<Since>,
    /// How it was undone.
    pub undone: Undone,
    /// What stood in the file.
    pub evidence: Option<Evidence>,
    /// Who made the change, where the audit log knows.
    pub who: Option<Who>,
    /// Who made it again, as far as the audit log says; each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub again_by: Vec<Who>,
    /// How often the very same change came again, each time within a minute of the last.
    pub repeated: u64,
    /// Further changes of this account in the same minute, each another one, of which nothing else is kept.
    pub uncounted: u64,
}

/// One way in which the file was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// There was no file.
    Deleted,
    /// It was no regular file.
    Kind {
        /// What it was.
        to: String,
    },
    /// It held a key that it should not hold.
    Added(KeyId),
    /// It lacked a key.
    Removed(KeyId),
    /// A key had other options or another comment, or stood twice.
    Altered(KeyId),
    /// Its bytes differed, its keys did not.
    Bytes,
    /// Lines of it were no keys that this program understands; sshd may.
    Unclear {
        /// How many.
        lines: usize,
    },
    /// It could not be read, or was far too large.
    Unreadable,
    /// Owner and group.
    Owner {
        /// `uid:gid` as it should be.
        from: String,
        /// `uid:gid` as it was.
        to: String,
    },
    /// Permission bits.
    Mode {
        /// Octal, as it should be.
        from: String,
        /// Octal, as it was.
        to: String,
    },
    /// It had other names.
    Links {
        /// How many in all.
        count: u64,
    },
    /// It had an access control list, which says more than its mode does.
    AccessList,
    /// It was open for writing, or mapped so.
    OpenForWriting,
    /// It, or its directory, was held by a call that does not return.
    NoAnswer,
    /// An immutable or append-only flag kept it from being replaced.
    Locked {
        /// `file` or `directory`.
        on: String,
    },
    /// It was another file that sshd reads.
    OtherFile {
        /// What took its name: `file`, `symbolic link`.
        kind: String,
        /// The keys in it.
        keys: Vec<KeyId>,
        /// Keys that are left out above.
        more: usize,
        /// Lines that may be keys.
        #[serde(default)]
        unclear: usize,
    },
    /// Its directory let others write, or kept its owner out.
    DirectoryMode {
        /// Octal.
        to: String,
    },
    /// Its SELinux label had another type than sshd may read.
    Label {
        /// The type.
        to: String,
    },
    /// The same of its directory.
    DirectoryLabel {
        /// The type.
        to: String,
    },
}

/// Where the beginning of an incident is read from. The kernel sets both, and no account can set them back
/// (`inode(7)`, `st_ctime`); another change, by the same hand or not, sets them anew, so a change may have stood longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Since {
    /// The change time of what stood at the file's name.
    File,
    /// The change time of the directory: something was deleted from it, or it is what was changed.
    Directory,
    /// The agent saw it then and could not undo it yet.
    Seen,
}

/// How an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undone {
    /// The whole file was replaced by the right one.
    Replaced,
    /// The other file was taken away.
    Removed,
    /// It never took effect: the file had lost its name before it was written to.
    Prevented,
    /// There was no room for the right file beside it: it was written over, or cut to nothing first, under another name.
    Cut,
    /// Its directory as a whole was put aside, and a new one made.
    Renewed,
    /// It was not: `mode = "observe"`.
    SeenOnly,
}

/// What stood in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `sha256:…` of all of it, but see [`Kept::Lines`].
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// How much of it is kept.
    pub kept: Kept,
}

/// How much of a content is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// All of it.
    Whole,
    /// Its beginning.
    Cut,
    /// The lines of a very large one that are no comments, keys first; the digest and the length are theirs.
    Lines,
    /// Nothing: too much came at once, or there was no room.
    No,
}

/// Who made a change, in the words of `auditd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The uid that logged in, whatever it became since (`sudo`, `su`); `None` for a daemon.
    pub auid: Option<u32>,
    /// The real uid at that moment.
    pub uid: u32,
    /// Its process.
    pub pid: u32,
    /// The program.
    pub exe: String,
    /// The name of the thread.
    pub comm: String,
    /// When.
    pub at: Timestamp,
}

/// Incidents that are kept.
pub const MOST: usize = 1000;

/// Bytes that are kept of all incidents.
pub const MOST_BYTES: u64 = 16 << 20;

/// Bytes that are kept of one content.
pub const MOST_CONTENT: usize = 256 << 10;

/// Which of the kept incidents (id and size) go, so that the rest is within bounds: always the oldest of the account
/// that has the most, so that an account which makes a great many never costs another one its own.
pub fn surplus(kept: &[(String, u64)]) -> Vec<String> {
    let (mut number, mut bytes) = (kept.len(), kept.iter().map(|(_, size)| size).sum::<u64>());
    if number <= MOST && bytes <= MOST_BYTES {
        return Vec::new();
    }
    let mut accounts: BTreeMap<&str, VecDeque<&(String, u64)>> = BTreeMap::new();
    let mut sorted: Vec<_> = kept.iter().collect();
    sorting::sort(&mut sorted);
    for incident in sorted {
        accounts
            .entry(Incident::account_of(&incident.0).unwrap_or_default())
            .or_default()
            .push_back(incident);
    }
    let mut gone = Vec::new();
    while number > MOST || bytes > MOST_BYTES {
        let weight = |incidents: &VecDeque<&(String, u64)>| {
            let count = u64::try_from(incidents.len()).unwrap_or(u64::MAX);
            if number > MOST {
                count
            } else {
                incidents.iter().map(|(_, size)| size).sum()
            }
        };
        let most = accounts
            .values_mut()
            .max_by_key(|incidents| weight(incidents));
        let Some((id, size)) = most.and_then(VecDeque::pop_front) else {
            break;
        };
        number -= 1;
        bytes -= size;
        gone.push(id.clone());
    }
    gone
}

/// Changes of one incident that are kept; the account chooses how many there are.
const CHANGES: usize = 100;

/// As many of both are kept of an incident for which there is little room.
const FEW: usize = 5;

/// What is added to an incident when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct More {
    /// The same change came again so often.
    pub repeated: u64,
    /// Others came so often.
    pub uncounted: u64,
    /// The last time.
    pub at: Timestamp,
    /// The longest that one of them stood.
    pub stood_milliseconds: Option<u64>,
}

impl More {
    /// Both.
    pub fn add(&mut self, more: Self) {
        self.repeated += more.repeated;
        self.uncounted += more.uncounted;
        self.at = self.at.max(more.at);
        self.stood_milliseconds = self.stood_milliseconds.max(more.stood_milliseconds);
    }
}

impl Incident {
    /// The bytes of its file.
    pub fn written(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// How many that are.
    pub fn size(&self) -> u64 {
        u64::try_from(self.written().len()).unwrap_or(u64::MAX)
    }

    /// It came again.
    pub fn add(&mut self, more: More) {
        self.repeated += more.repeated;
        self.uncounted += more.uncounted;
        self.last_at = self.last_at.max(more.at);
        if more.repeated > 0 {
            self.stood_milliseconds = self.stood_milliseconds.max(more.stood_milliseconds);
        }
    }

    /// The audit log says who made it the first time, or again; returns whether that is news.
    pub fn attribute(&mut self, who: Who, again: bool) -> bool {
        /// An account can make the same change as one process after the other.
        const MOST: usize = 8;
        if !again {
            return self.who.replace(who).is_none();
        }
        let is_same =
            |known: &&Who| (known.auid, known.uid, &known.exe) == (who.auid, who.uid, &who.exe);
        let is_news =
            self.again_by.len() < MOST && !self.again_by.iter().any(|known| is_same(&known));
        let is_another = is_news && !self.who.iter().any(|known| is_same(&known));
        if is_news {
            self.again_by.push(who);
        }
        is_another
    }

    /// There was no room for its content.
    pub fn lose_content(&mut self) {
        if let Some(evidence) = &mut self.evidence {
            evidence.kept = Kept::No;
        }
    }

    /// There is little room for it: the first changes say what it was.
    pub fn shorten(&mut self) {
        self.more_changes += self.changes.len().saturating_sub(FEW);
        self.changes.truncate(FEW);
        for change in &mut self.changes {
            if let Change::OtherFile { keys, more, .. } = change {
                *more += keys.len().saturating_sub(FEW);
                keys.truncate(FEW);
            }
        }
    }

    /// The changes that `differences` to `wanted` are, and how many more there are.
    pub fn changes(differences: &[Difference], wanted: &Lines) -> (Vec<Change>, usize) {
        let changes = differences
            .iter()
            .take(CHANGES)
            .map(|difference| Change::of(difference, wanted));
        (changes.collect(), differences.len().saturating_sub(CHANGES))
    }

    /// The id of what an account's file was at `at`: sorted by name, incidents are in order of time.
    pub fn name(account: &AccountName, at: Timestamp) -> String {
        format!("{}-{account}", at.strftime("%Y%m%dT%H%M%S.%6fZ"))
    }

    /// The account of an id.
    pub fn account_of(id: &str) -> Option<&str> {
        id.split_once('-').map(|(_, account)| account)
    }
}

impl Change {
    fn of(difference: &Difference, wanted: &Lines) -> Self {
        match difference {
            Difference::Missing => Self::Deleted,
            Difference::Kind(kind) => Self::Kind { to: spelled(*kind) },
            Difference::Added(key) => Self::Added(key.clone()),
            Difference::Removed(key) => Self::Removed(key.clone()),
            Difference::Altered(key) | Difference::Options { key, .. } => {
                Self::Altered(key.clone())
            }
            Difference::Bytes => Self::Bytes,
            Difference::Unclear(lines) => Self::Unclear { lines: *lines },
            Difference::Unreadable => Self::Unreadable,
            Difference::Owner(uid, gid) => Self::Owner {
                from: format!("{}:{}", wanted.uid, wanted.gid),
                to: format!("{uid}:{gid}"),
            },
            Difference::Mode(mode) => Self::Mode {
                from: octal(wanted.mode),
                to: octal(*mode),
            },
            Difference::Links(count) => Self::Links { count: *count },
            Difference::AccessList => Self::AccessList,
            Difference::OpenForWriting => Self::OpenForWriting,
            Difference::NoAnswer => Self::NoAnswer,
            Difference::Locked(Lock::File) => Self::Locked {
                on: "file".to_owned(),
            },
            Difference::Locked(Lock::Directory) => Self::Locked {
                on: "directory".to_owned(),
            },
            Difference::DirectoryMode(mode) => Self::DirectoryMode { to: octal(*mode) },
            Difference::Label(label) => Self::Label { to: label.clone() },
            Difference::DirectoryLabel(label) => Self::DirectoryLabel { to: label.clone() },
            Difference::OtherFile(other) => Self::OtherFile {
                kind: spelled(other.kind),
                keys: other.found.keys.clone(),
                more: other.found.more,
                unclear: other.found.unclear,
            },
        }
    }
}

/// In the words of [`Difference`], and what it should have been where that is kept.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => write!(f, "file missing"),
            Self::Kind { to } => write!(f, "replaced by a {to}"),
            Self::Added(key) => write!(f, "not on the list: {key}"),
            Self::Removed(key) => write!(f, "missing: {key}"),
            Self::Altered(key) => write!(f, "altered: {key}"),
            Self::Bytes => write!(f, "the same keys, written differently"),
            Self::Unclear { lines } => write!(f, "{}", unclear(*lines)),
            Self::Unreadable => write!(f, "cannot be read"),
            Self::Owner { from, to } => write!(f, "owner {to}, not {from}"),
            Self::Mode { from, to } => write!(f, "mode {to}, not {from}"),
            Self::Links { count } => write!(f, "{count} hard links"),
            Self::AccessList => write!(f, "access control list"),
            Self::OpenForWriting => write!(f, "open for writing"),
            Self::NoAnswer => write!(f, "held by a call that does not return"),
            Self::Locked { on } if on == "file" => write!(f, "immutable or append-only flag"),
            Self::Locked { on } => write!(f, "immutable or append-only flag on the {on}"),
            Self::DirectoryMode { to } => write!(f, "directory mode {to}"),
            Self::Label { to } => write!(f, "SELinux type {to}"),
            Self::DirectoryLabel { to } => write!(f, "directory SELinux type {to}"),
            Self::OtherFile {
                kind,
                keys,
                more,
                unclear: lines,
            } => {
                write!(f, "another file that sshd reads ({kind})")?;
                let mut found: Vec<String> = keys.iter().map(ToString::to_string).collect();
                if *more > 0 {
                    found.push(format!("{more} more"));
                }
                if *lines > 0 {
                    found.push(unclear(*lines));
                }
                if found.is_empty() {
                    return Ok(());
                }
                write!(f, ": {}", found.join(", "))
            }
        }
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

fn spelled(kind: Kind) -> String {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::DirectoryOf(uid) => return format!("directory of uid {uid}"),
        Kind::Symlink => "symbolic link",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Device => "device",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::file::other_files::{InFile, OtherFile};

    #[test]
    fn an_id_names_its_account_and_sorts_by_time() {
        let account = AccountName::try_from("web-admin").unwrap();
        let at = |text: &str| Incident::name(&account, text.parse().unwrap());
        let (one, other) = (
            at("2026-11-25T22:11:33.000001Z"),
            at("2026-11-25T22:11:33.1Z"),
        );
        assert_eq!(one, "20261125T221133.000001Z-web-admin");
        assert!(one < other);
        assert_eq!(Incident::account_of(&one), Some("web-admin"));
        assert_eq!(Incident::account_of("noise"), None);
    }

    #[test]
    fn the_account_that_has_the_most_gives_first() {
        let of = |account: &str, count: usize, size: u64| {
            (0..count)
                .map(|number| (format!("{number:04}-{account}"), size))
                .collect::<Vec<_>>()
        };
        let check =
            |kept: &[Vec<(String, u64)>], gone: &[&str]| assert_eq!(surplus(&kept.concat()), gone);
        check(&[of("alice", 990, 1), of("bob", 10, 1)], &[]);
        check(
            &[of("alice", 991, 1), of("bob", 11, 1)],
            &["0000-alice", "0001-alice"],
        );
        check(&[of("alice", 30, 1), of("bob", 16, 1 << 20)], &["0000-bob"]);
        check(&[of("alice", 3, 9 << 20)], &["0000-alice", "0001-alice"]);
        check(&[], &[]);
    }

    fn wanted() -> Lines {
        Lines {
            content: Vec::new(),
            uid: 0,
            gid: 0,
            mode: 0o600,
        }
    }

    fn name(number: usize) -> KeyId {
        KeyId {
            fingerprint: format!("SHA256:{number:043}"),
            algorithm: "ssh-ed25519".to_owned(),
            comment: "c".repeat(200),
        }
    }

    #[test]
    fn an_incident_says_the_same_as_the_status_and_the_log() {
        let (key, label) = (name(1), "tmp_t".to_owned());
        for difference in [
            Difference::Missing,
            Difference::Kind(Kind::Symlink),
            Difference::Kind(Kind::DirectoryOf(0)),
            Difference::Added(key.clone()),
            Difference::Removed(key.clone()),
            Difference::Altered(key),
            Difference::Bytes,
            Difference::Unclear(2),
            Difference::Unreadable,
            Difference::Owner(1, 2),
            Difference::Mode(0o666),
            Difference::Links(2),
            Difference::AccessList,
            Difference::OpenForWriting,
            Difference::NoAnswer,
            Difference::Locked(Lock::File),
            Difference::Locked(Lock::Directory),
            Difference::DirectoryMode(0o777),
            Difference::Label(label.clone()),
            Difference::DirectoryLabel(label),
        ] {
            let change = Change::of(&difference, &wanted()).to_string();
            let alike = change.split(", not ").next();
            assert_eq!(alike, Some(difference.to_string().as_str()));
        }
    }

    #[test]
    fn what_an_account_chooses_is_bounded() {
        let found = InFile {
            keys: (0..50).map(name).collect(),
            more: 9_950,
            unclear: 7,
            error: None,
        };
        let other = OtherFile::new(Path::new("/home/alice/.ssh/authorized_keys2"), found);
        let mut differences = vec![Difference::OtherFile(other)];
        differences.extend((0..10_000).map(|number| Difference::Added(name(number))));
        let (changes, more_changes) = Incident::changes(&differences, &wanted());
        let listed = |change: &Change| match change {
            Change::OtherFile {
                keys,
                more,
                unclear,
                ..
            } => (keys.len(), *more, *unclear),
            _ => (0, 0, 0),
        };
        assert_eq!(
            (changes.len(), more_changes, listed(&changes[0])),
            (100, 9_901, (50, 9_950, 7))
        );
        let id = Incident::name(
            &AccountName::try_from("alice").unwrap(),
            Timestamp::UNIX_EPOCH,
        );
        let mut incident = Incident {
            schema: SCHEMA,
            id,
            at: Timestamp::UNIX_EPOCH,
            last_at: Timestamp::UNIX_EPOCH,
            account: AccountName::try_from("alice").unwrap(),
            file: String::new(),
            changes,
            more_changes,
            stood_milliseconds: None,
            stood_since: None,
            undone: Undone::Replaced,
            evidence: None,
            who: None,
            again_by: Vec::new(),
            repeated: 0,
            uncounted: 0,
        };
        assert!(serde_json::to_vec(&incident).unwrap().len() < 64 << 10);
        incident.shorten();
        let first = listed(&incident.changes[0]);
        assert_eq!(
            (incident.changes.len(), incident.more_changes, first),
            (5, 9_996, (5, 9_995, 7))
        );
        assert!(serde_json::to_vec(&incident).unwrap().len() < 4 << 10);
    }
}
