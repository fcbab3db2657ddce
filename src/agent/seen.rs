//! What stood where a file of ours had been, taken down for the record: since when, and which bytes.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::agent::report::digest;
use crate::host::keyfile::{Mark, Marked};
use crate::model::account::AccountName;
use crate::model::file::wanted::Found;
use crate::model::inode::Inode;
use crate::model::past::incident::{Evidence, Kept, MOST_BYTES, MOST_CONTENT, Since};

/// The last change of each kind of thing on the way to a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    directory: Option<Mark>,
    untidy: Option<Mark>,
    file: Option<Mark>,
}

/// What stood there.
#[derive(Debug)]
pub struct Seen {
    /// Of its bytes, if they could be read.
    pub evidence: Option<Evidence>,
    /// As many of them as are kept.
    pub content: Option<Vec<u8>>,
    /// Since when it stood, at least.
    pub since: Option<(Timestamp, Since)>,
    /// Its inode, if it was a file.
    pub inode: Option<Inode>,
    /// Inode number of its directory.
    pub directory: Option<u64>,
    /// When the right file was in place again.
    pub undone_at: Option<Timestamp>,
}

impl Marks {
    /// The last one counts: it is the nearest to the file.
    pub(super) fn add(&mut self, mark: Mark) {
        match mark.of {
            Marked::Directory => self.directory = Some(mark),
            Marked::UntidyDirectory => {
                (self.directory, self.untidy) = (Some(mark), Some(mark));
            }
            Marked::File => self.file = Some(mark),
        }
    }
}

impl Seen {
    /// `found` stood there with the marks `before`; afterwards the marks were `after`. Both times are those of the one
    /// clock by which the kernel stamps that file system.
    pub(super) fn new(found: Found, before: &Marks, after: Option<&Marks>) -> Self {
        // A directory that others may write to is a change of its own; the file in it may be as it was for years.
        let file = before.file.as_ref().filter(|_| found != Found::Nothing);
        let since = match (&before.untidy, file, &before.directory) {
            (Some(untidy), ..) => at(untidy).map(|at| (at, Since::Directory)),
            (None, Some(file), _) => at(file).map(|at| (at, Since::File)),
            (None, None, Some(directory)) => at(directory).map(|at| (at, Since::Directory)),
            (None, None, None) => None,
        };
        let bytes = match found {
            Found::File(file) => file.content,
            Found::Nothing | Found::Other(_) => None,
        };
        let (evidence, content) = bytes.map(taken_down).unzip();
        let inode = before.file.map(|mark| mark.inode);
        let directory = before.directory.map(|mark| mark.inode.1);
        let undone_at = after.and_then(|after| after.file.as_ref()).and_then(at);
        Self {
            evidence,
            content,
            since,
            inode,
            directory,
            undone_at,
        }
    }

    /// Another file with the marks `before` held `content`; once it was gone the marks were `after`.
    pub(super) fn beside(content: Option<Vec<u8>>, before: &Marks, after: Option<&Marks>) -> Self {
        let (evidence, content) = content.map(taken_down).unzip();
        let since = before
            .file
            .as_ref()
            .and_then(at)
            .map(|at| (at, Since::File));
        let inode = before.file.map(|mark| mark.inode);
        let directory = before.directory.map(|mark| mark.inode.1);
        let undone_at = after
            .and_then(|after| after.directory.as_ref())
            .and_then(at);
        Self {
            evidence,
            content,
            since,
            inode,
            directory,
            undone_at,
        }
    }

    /// How long it stood until `now`, or until it was undone.
    pub(super) fn stood(&self, now: Timestamp) -> Option<SignedDuration> {
        let (since, _) = self.since?;
        Some(
            self.undone_at
                .unwrap_or(now)
                .duration_since(since)
                .max(SignedDuration::ZERO),
        )
    }
}

fn at(mark: &Mark) -> Option<Timestamp> {
    let (seconds, nanoseconds) = mark.changed_at;
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

fn taken_down(mut content: Vec<u8>) -> (Evidence, Vec<u8>) {
    let sha256 = digest(&content);
    let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let kept = if content.len() > MOST_CONTENT {
        Kept::Cut
    } else {
        Kept::Whole
    };
    content.truncate(MOST_CONTENT);
    content.shrink_to_fit();
    (
        Evidence {
            sha256,
            bytes,
            kept,
        },
        content,
    )
}

/// What one pass has seen. Thousands of accounts can be changed at once; no more of their content is held than is kept.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) all: HashMap<AccountName, Seen>,
    bytes: u64,
}

impl Gathered {
    pub(super) fn add(&mut self, account: &AccountName, seen: Option<Seen>) {
        let Some(mut seen) = seen else { return };
        self.hold(&mut seen);
        self.all.insert(account.clone(), seen);
    }

    /// Counts what `seen` has of content, or takes it away when that is too much.
    pub(super) fn hold(&mut self, seen: &mut Seen) {
        let more = seen.content.as_ref().map_or(0, |content| {
            u64::try_from(content.len()).unwrap_or(u64::MAX)
        });
        if self.bytes.saturating_add(more) > MOST_BYTES {
            seen.forget_content();
        } else {
            self.bytes += more;
        }
    }
}

impl Seen {
    fn forget_content(&mut self) {
        self.content = None;
        if let Some(evidence) = &mut self.evidence {
            evidence.kept = Kept::No;
        }
    }
}
