//! When what was looked at was last changed, and so since when it stood.

use jiff::Timestamp;

use crate::host::keyfile::{Mark, Marked, Other};
use crate::model::file::wanted::{Content, Found, FoundFile};
use crate::model::past::evidence::Stood;
use crate::model::past::incident::Since;

/// The last change of each kind of thing on the way to a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    directory: Option<Mark>,
    untidy: Option<Mark>,
    file: Option<Mark>,
}

impl Marks {
    /// The last one counts: it is the nearest to the file.
    pub fn add(&mut self, mark: Mark) {
        match mark.of {
            Marked::Directory => self.directory = Some(mark),
            Marked::UntidyDirectory => {
                self.directory = Some(mark);
                self.untidy = Some(mark);
            }
            Marked::File => self.file = Some(mark),
        }
    }
}

/// `found` stood there with the marks `before`; afterwards the marks were `after`. Both times are those of the one clock by
/// which the kernel stamps that file system.
pub fn stood(found: Found, before: &Marks, after: Option<&Marks>) -> Stood {
    // A directory that others may write to is a change of its own; the file in it may be as it was for years.
    let file = match found {
        Found::Nothing => None,
        _ => before.file,
    };
    let since = match (before.untidy, file, before.directory) {
        (Some(untidy), ..) => at(untidy).map(|at| (at, Since::Directory)),
        (None, Some(file), _) => at(file).map(|at| (at, Since::File)),
        (None, None, Some(directory)) => at(directory).map(|at| (at, Since::Directory)),
        (None, None, None) => None,
    };
    let mut stood = Stood {
        since,
        inode: before.file.map(|mark| mark.inode),
        directory: before.directory.map(|mark| mark.inode.1),
        directory_changed_at: before.directory.and_then(at),
        undone_at: after.and_then(|after| after.file).and_then(at),
        ..Stood::default()
    };
    match found {
        Found::File(FoundFile { content, .. }) | Found::Other { content, .. } => {
            stood.take_down(content);
        }
        Found::Nothing => {}
    }
    stood
}

/// The same for another file, once it is gone.
pub fn stood_beside(found: Other, before: &Marks, after: Option<&Marks>) -> Stood {
    let mut stood = Stood {
        since: before.file.and_then(at).map(|at| (at, Since::File)),
        inode: before.file.map(|mark| mark.inode),
        directory: before.directory.map(|mark| mark.inode.1),
        directory_changed_at: before.directory.and_then(at),
        undone_at: after.and_then(|after| after.directory).and_then(at),
        ..Stood::default()
    };
    stood.take_down(found.content.map(|bytes| Content {
        bytes,
        is_whole: found.whole,
    }));
    stood
}

fn at(mark: Mark) -> Option<Timestamp> {
    let (seconds, nanoseconds) = mark.changed_at;
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}
