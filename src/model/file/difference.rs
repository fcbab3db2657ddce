//! Desired and observed, compared: what differs, and so what to do. Doing it is `host/keyfile`'s.

use crate::model::file::wanted::{Found, Kind, Lines};
use std::collections::BTreeMap;
use std::fmt;

use crate::model::file::other_files::OtherFile;
use crate::model::key::id::KeyId;
use crate::model::key::lenient::{FoundKey, FoundKeys, unclear};

/// One way in which the file is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Difference {
    /// There is no file.
    Missing,
    /// It is no regular file.
    Kind(Kind),
    /// It holds a key that it should not hold.
    Added(KeyId),
    /// It lacks a key.
    Removed(KeyId),
    /// A key has another comment, or stands twice.
    Altered(KeyId),
    /// A key has these options, and should have the others; without any, they are empty.
    Options {
        key: KeyId,
        found: String,
        wanted: String,
    },
    /// Its bytes differ, its keys do not.
    Bytes,
    /// So many of its lines are no keys that this program understands; sshd may.
    Unclear(usize),
    /// It cannot be read, or is far too large.
    Unreadable,
    /// Owner and group.
    Owner(u32, u32),
    /// Permission bits.
    Mode(u32),
    /// It has another name elsewhere.
    Links(u64),
    /// It has an access control list.
    AccessList,
    /// Somebody has it open for writing, or mapped so: what is written next would say nothing.
    OpenForWriting,
    /// It, or its directory, was held by a call that does not return.
    NoAnswer,
    /// A flag kept this from being replaced.
    Locked(Lock),
    /// The directory of the file has these permission bits, which let others write.
    DirectoryMode(u32),
    /// Its SELinux label has this type.
    Label(String),
    /// The same of its directory.
    DirectoryLabel(String),
    /// sshd reads this one besides.
    OtherFile(OtherFile),
}

/// What a flag was set on (`chattr(1)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    /// The file.
    File,
    /// A directory of ours on the way to it.
    Directory,
}

/// There is no file, and sshd reads these bytes instead.
fn lacking(why: Difference, wanted: &Lines, instead: &[u8]) -> Vec<Difference> {
    let mut all = vec![why];
    all.extend(
        compare_keys(&wanted.content, instead)
            .into_iter()
            .filter(|d| *d != Difference::Bytes),
    );
    all
}

/// Everything in which `found` is not what is `wanted`; empty when in sync.
pub fn differences(wanted: &Lines, found: &Found) -> Vec<Difference> {
    let file = match found {
        Found::Nothing => return lacking(Difference::Missing, wanted, b""),
        Found::Other { kind, content } => {
            let instead = content.as_ref().map_or(&[][..], |content| &content.bytes);
            return lacking(Difference::Kind(*kind), wanted, instead);
        }
        Found::File(file) => file,
    };
    let mut all = match &file.content {
        None => vec![Difference::Unreadable],
        Some(content) => written(wanted, &content.bytes),
    };
    if (file.uid, file.gid) != (wanted.uid, wanted.gid) {
        all.push(Difference::Owner(file.uid, file.gid));
    }
    if file.mode != wanted.mode {
        all.push(Difference::Mode(file.mode));
    }
    if file.links != 1 {
        all.push(Difference::Links(file.links));
    }
    if file.access_list {
        all.push(Difference::AccessList);
    }
    all.extend(file.wrong_label.clone().map(Difference::Label));
    all
}

/// In what `content`, which was written instead, is not what is `wanted`.
pub fn written(wanted: &Lines, content: &[u8]) -> Vec<Difference> {
    if *content == wanted.content {
        Vec::new()
    } else {
        compare_keys(&wanted.content, content)
    }
}

/// The keys of a file, fingerprint to the lines that have it, and how many lines may be keys besides.
fn keys_of(content: &[u8]) -> (BTreeMap<String, Vec<FoundKey>>, usize) {
    let mut keys: BTreeMap<String, Vec<FoundKey>> = BTreeMap::new();
    let found = FoundKeys::read(content);
    for line in found.keys {
        keys.entry(line.fingerprint.clone()).or_default().push(line);
    }
    (keys, found.unclear)
}

fn compare_keys(wanted: &[u8], found: &[u8]) -> Vec<Difference> {
    let ((wanted, _), (found, unclear)) = (keys_of(wanted), keys_of(found));
    let mut all: Vec<Difference> = Vec::new();
    for (fingerprint, lines) in &found {
        let Some(key) = lines.first().map(KeyId::from) else {
            continue;
        };
        match wanted.get(fingerprint) {
            None => all.push(Difference::Added(key)),
            Some(expected) if expected == lines => {}
            Some(expected) => all.push(altered(key, expected, lines)),
        }
    }
    for (fingerprint, lines) in &wanted {
        if !found.contains_key(fingerprint) {
            all.extend(lines.first().map(|key| Difference::Removed(key.into())));
        }
    }
    if unclear > 0 {
        all.push(Difference::Unclear(unclear));
    }
    if all.is_empty() {
        all.push(Difference::Bytes);
    }
    all
}

/// How the lines of a key that stands in both are not the same.
fn altered(key: KeyId, wanted: &[FoundKey], found: &[FoundKey]) -> Difference {
    let Some(wanted) = wanted.first() else {
        return Difference::Altered(key);
    };
    match found.iter().find(|found| !found.has_options_of(wanted)) {
        Some(found) => Difference::Options {
            key,
            found: found.options(),
            wanted: wanted.options(),
        },
        None => Difference::Altered(key),
    }
}

/// How many differences of one file are put into words: the account chooses how many there are.
const TOLD: usize = 20;

/// How the file is, no more of it than a person reads.
pub fn in_words(differences: &[Difference]) -> Vec<String> {
    in_words_by(differences, ToString::to_string)
}

/// What mending each does, no more of it than a person reads.
pub fn mended_in_words(differences: &[Difference]) -> Vec<String> {
    in_words_by(differences, Difference::mended)
}

/// How the file is, with its keys counted and not named, so that accounts in the same trouble say the same.
pub fn in_short(differences: &[Difference]) -> String {
    let mut kinds: Vec<(Kinds, usize)> = Vec::new();
    for difference in differences {
        let kind = difference.kind();
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, times)) => *times += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let words = kinds.into_iter().map(|(kind, times)| match kind {
        Kinds::Keys(what) if times == 1 => format!("1 key {what}"),
        Kinds::Keys(what) => format!("{times} keys {what}"),
        Kinds::Other(words) => words,
    });
    words.collect::<Vec<_>>().join(", ")
}

#[derive(PartialEq)]
enum Kinds {
    Keys(&'static str),
    Other(String),
}

fn in_words_by(differences: &[Difference], words: impl Fn(&Difference) -> String) -> Vec<String> {
    let mut all: Vec<String> = differences.iter().take(TOLD).map(words).collect();
    let more = differences.len().saturating_sub(TOLD);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all
}

impl Difference {
    /// Somebody gets in by the file who should not, or may.
    pub fn lets_in(&self) -> bool {
        self.held_a_key()
            || matches!(
                self,
                Self::Altered(_)
                    | Self::Options { .. }
                    | Self::Unreadable
                    | Self::OpenForWriting
                    | Self::Kind(_)
                    | Self::Links(_)
            )
    }

    /// A key left the file, or may have, when this was undone.
    pub fn held_a_key(&self) -> bool {
        matches!(self, Self::Added(_) | Self::Unclear(_) | Self::OtherFile(_))
    }

    fn kind(&self) -> Kinds {
        match self {
            Self::Added(_) => Kinds::Keys("not on the list"),
            Self::Removed(_) => Kinds::Keys("missing"),
            Self::Altered(_) => Kinds::Keys("altered"),
            Self::Options { .. } => Kinds::Keys("with other options"),
            Self::OtherFile(_) => Kinds::Other("another file that sshd reads".to_owned()),
            other => Kinds::Other(other.to_string()),
        }
    }

    /// What the agent does about it: `+` comes into the file, `-` goes, `~` becomes as it should be.
    pub fn mended(&self) -> String {
        match self {
            Self::Added(key) => format!("- {key}"),
            Self::Removed(key) => format!("+ {key}"),
            Self::OtherFile(other) => format!("- {other}"),
            Self::Missing => "~ the file is made".to_owned(),
            Self::Options { key, .. } => format!("~ {key} (options)"),
            other => format!("~ {other}"),
        }
    }
}

/// How the file is, never what is done about it.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "file missing"),
            Self::Kind(kind) => write!(f, "replaced by {kind}"),
            Self::Added(key) => write!(f, "not on the list: {key}"),
            Self::Removed(key) => write!(f, "missing: {key}"),
            Self::Altered(key) => write!(f, "altered: {key}"),
            Self::Options { key, .. } => write!(f, "other options: {key}"),
            Self::Bytes => write!(f, "the same keys, written differently"),
            Self::Unclear(lines) => write!(f, "{}", unclear(*lines)),
            Self::Unreadable => write!(f, "cannot be read"),
            Self::Owner(uid, gid) => write!(f, "owner {uid}:{gid}"),
            Self::Mode(mode) => write!(f, "mode {mode:04o}"),
            Self::Links(count) => write!(f, "{count} hard links"),
            Self::AccessList => write!(f, "access control list"),
            Self::OpenForWriting => write!(f, "open for writing"),
            Self::NoAnswer => write!(f, "held by a call that does not return"),
            Self::Locked(Lock::File) => write!(f, "immutable or append-only flag"),
            Self::Locked(Lock::Directory) => {
                write!(f, "immutable or append-only flag on the directory")
            }
            Self::DirectoryMode(mode) => write!(f, "directory mode {mode:04o}"),
            Self::Label(label) => write!(f, "SELinux type {label}"),
            Self::DirectoryLabel(label) => write!(f, "directory SELinux type {label}"),
            Self::OtherFile(other) => write!(f, "another file that sshd reads: {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIaDx5TTkaWJ8Qra3i8J59dHlibub2Qiv69l7JVqY6ql";

    #[test]
    fn what_is_there_and_what_comes_and_goes_is_said_with_its_name() {
        let wanted = format!("{KEY} alice\n");
        let found = format!("{OTHER} mallory\n");
        let all = compare_keys(wanted.as_bytes(), found.as_bytes());
        let sha = |line: &str| FoundKeys::read(line.as_bytes()).keys[0].fingerprint.clone();
        let (alice, mallory) = (
            format!("alice {}", sha(KEY)),
            format!("mallory {}", sha(OTHER)),
        );
        assert_eq!(
            in_words(&all),
            [
                format!("not on the list: {mallory}"),
                format!("missing: {alice}")
            ]
        );
        assert_eq!(
            mended_in_words(&all),
            [format!("- {mallory}"), format!("+ {alice}")]
        );
    }

    #[test]
    fn options_are_told_before_and_after_without_a_key() {
        let check = |wanted: &str, found: &str, expected: (&str, &str)| {
            let line = |options: &str| format!("{options}{KEY} alice\n");
            let all = compare_keys(line(wanted).as_bytes(), line(found).as_bytes());
            let [Difference::Options { found, wanted, .. }] = all.as_slice() else {
                panic!("{all:?}")
            };
            assert_eq!((found.as_str(), wanted.as_str()), expected);
            let mended = mended_in_words(&all);
            assert!(mended[0].starts_with("~ alice SHA256:"), "{mended:?}");
        };
        check("restrict,PTY ", "", ("", "restrict,pty"));
        check("", "command=\"a\u{1b}\" ", ("command=\"a\\u{1b}\"", ""));
        check(
            "",
            &format!("of-tomorrow=\"{OTHER}\" "),
            ("of-tomorrow=\"(another key)", ""),
        );
        let long = format!("command=\"{}\" ", "x".repeat(5000));
        let all = compare_keys(KEY.as_bytes(), format!("{long}{KEY}").as_bytes());
        assert!(matches!(&all[..], [Difference::Options { found, .. }] if found.len() <= 1000));
    }

    #[test]
    fn in_short_keys_are_counted() {
        let key = |text: &str| KeyId {
            fingerprint: text.to_owned(),
            algorithm: String::new(),
            comment: String::new(),
        };
        let all = [
            Difference::Added(key("a")),
            Difference::Removed(key("b")),
            Difference::Added(key("c")),
            Difference::Mode(0o666),
        ];
        let said = "2 keys not on the list, 1 key missing, mode 0666";
        assert_eq!(in_short(&all), said);
    }

    #[test]
    fn a_key_that_sshd_takes_is_named_however_it_is_spelled() {
        let wanted = format!("# header\nno-pty {KEY} alice\n");
        let check = |found: &str, expected: &[&str]| {
            let said: Vec<_> = compare_keys(wanted.as_bytes(), found.as_bytes())
                .iter()
                .map(ToString::to_string)
                .collect();
            let said: Vec<_> = said
                .iter()
                .map(|said| said.split(": ").next().unwrap())
                .collect();
            assert_eq!(said, expected, "{found:?}");
        };
        check(&format!("{wanted}{OTHER}\0\n"), &["not on the list"]);
        check(
            &format!("{wanted}no-pty,no-pty {OTHER} mallory\n"),
            &["not on the list"],
        );
        check(
            &format!("\tNO-PTY {KEY} alice\0\n"),
            &["the same keys, written differently"],
        );
        check(&format!("no-pty, {KEY} alice\n"), &["other options"]);
        check(&format!("no-pty {KEY} bob\n"), &["altered"]);
        check(&format!("{wanted}{wanted}"), &["altered"]);
        check(&format!("{wanted}{KEY} alice\n"), &["other options"]);
        check(
            &format!("{wanted}hello\n"),
            &["1 line that is not understood"],
        );
        check(
            &format!("{OTHER}\na\nb\n"),
            &[
                "not on the list",
                "missing",
                "2 lines that are not understood",
            ],
        );
        // No comment is so long that a change in it goes unseen.
        let long = |end: &str| format!("{KEY} {}{end}\n", "a".repeat(1000));
        let differences = compare_keys(long("b").as_bytes(), long("c").as_bytes());
        let [Difference::Altered(name)] = differences.as_slice() else {
            panic!("{differences:?}")
        };
        assert!(
            name.comment.len() <= 200 && name.comment.ends_with("aaa..."),
            "{name:?}"
        );
    }
}
