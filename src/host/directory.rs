//! The approved list from a local directory: `<account>` or `<account>/<label>…`, each file one value.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fchmod, mkdirat};

use crate::host::Bounded;
use crate::model::account::{AccountName, BadAccountName};
use crate::model::desired::lint::{Draft, ListDraft, Unusable};
use crate::model::list::approved::Entry;
use crate::model::list::bounds::{Excess, Tally};
use crate::model::list::statement;
use crate::model::sorting;

/// Why the directory gave no list. All files or nothing: half a list would remove keys.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file or directory could not be read.
    #[error("cannot {what} `{}`", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The first name below the directory is not one that an account can have.
    #[error("`{}` is named after no account", .path.display())]
    Name {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        source: BadAccountName,
    },
    /// A name that is not UTF-8, or a FIFO, device or socket.
    #[error("`{}` is not a readable text file", .0.display())]
    NotAFile(PathBuf),
    /// It was written meanwhile.
    #[error("`{}` changed while it was read", .0.display())]
    Changed(PathBuf),
    /// Far more than keys take.
    #[error("`{}` is larger than {MAX_VALUE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Half of it is no list either, so no more is read.
    #[error(transparent)]
    TooMuch(Excess),
    /// A new list is written where nothing is in the way.
    #[error("`{}` is there and not empty: name a directory that is new or empty", .0.display())]
    NotEmpty(PathBuf),
    /// A loop of links, or a mistake.
    #[error("`{}` is more than {MAX_DEPTH} directories deep", .0.display())]
    TooDeep(PathBuf),
}

impl DirectoryError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "name the source in `[source]`: `paths` for Parameter Store, or make this directory, with a file of keys for \
                 each account"
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the fetcher, which is not root and sees no home, must be able to read all of it: chmod -R a+rX"
            }
            Self::Name { .. } | Self::NotAFile(_) => {
                "move it out of the directory, or let its name begin with a dot"
            }
            Self::TooMuch(_) => Excess::HINT,
            Self::Changed(_) => "it is read again at the next fetch",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// What `lint` says of it, where the rest of the directory can be looked at all the same.
    fn unusable(self) -> Result<Unusable, Self> {
        let (path, what) = match &self {
            Self::Name { path, source } => (path, source.to_string()),
            Self::NotAFile(path) => (path, "not a readable text file".to_owned()),
            Self::TooLarge(path) => (path, format!("larger than {MAX_VALUE} bytes")),
            Self::TooDeep(path) => (path, format!("more than {MAX_DEPTH} directories deep")),
            Self::Io { .. } | Self::Changed(_) | Self::TooMuch(_) | Self::NotEmpty(_) => {
                return Err(self);
            }
        };
        let hint = self.hint().map(|hint| format!(": {hint}"));
        Ok(Unusable {
            path: shown(path),
            reason: what + &hint.unwrap_or_default(),
        })
    }
}

const MAX_VALUE: u64 = 8 << 20;
const MAX_DEPTH: usize = 8;

/// Reads the whole directory. Blocks.
///
/// Names that start with `.` or end in `~` are an editor's and are left out.
pub fn read(directory: &Path) -> Result<Vec<Entry>, DirectoryError> {
    let (mut entries, mut tally) = (Vec::new(), Tally::default());
    walk(directory, &mut |found| {
        if let Found::Value(value) = found? {
            let entry = value.entry()?;
            let added = tally.add(&entry.parameter, &entry.value);
            added.map_err(DirectoryError::TooMuch)?;
            entries.push(entry);
        }
        Ok(())
    })?;
    Ok(entries)
}

/// The text of the signature of a directory, if it has one, and when that was last changed.
pub fn signature(directory: &Path) -> Result<Option<(String, Option<Timestamp>)>, DirectoryError> {
    match read_file(&directory.join(statement::NAME)) {
        Err(DirectoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => {
            let (bytes, last_modified) = read?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Ok(Some((text, last_modified)))
        }
    }
}

/// The same before it is published: with what [`read`] leaves out, and with all for which it would give no list. Blocks.
pub fn draft(directory: &Path) -> Result<ListDraft, DirectoryError> {
    let mut draft = ListDraft {
        directory: shown(directory),
        ..ListDraft::default()
    };
    let mut tally = Tally::default();
    walk(directory, &mut |found| {
        match found {
            Ok(Found::Value(value)) => {
                let name = shown(&value.path);
                let text = String::from_utf8_lossy(&value.bytes);
                let added = tally.add(&name, &text);
                added.map_err(DirectoryError::TooMuch)?;
                let parameter = value.path.strip_prefix(directory).map(shown);
                let values = draft.accounts.entry(value.account).or_default();
                values.push(Draft {
                    name,
                    parameter: parameter.ok(),
                    bytes: value.bytes,
                });
            }
            Ok(Found::LeftOut(path)) => draft.left_out.push(shown(&path)),
            Ok(Found::Empty(path)) => draft.empty.push(shown(&path)),
            Err(error) => draft.unusable.push(error.unusable()?),
        }
        Ok(())
    })?;
    Ok(draft)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// One thing in the directory.
enum Found {
    Value(Value),
    /// A name that does not count.
    LeftOut(PathBuf),
    /// A directory in which no name counts.
    Empty(PathBuf),
}

/// One file, as it was while it was read.
struct Value {
    account: AccountName,
    path: PathBuf,
    last_modified: Option<Timestamp>,
    bytes: Vec<u8>,
}

impl Value {
    fn entry(self) -> Result<Entry, DirectoryError> {
        let path = self.path.to_str().map(ToOwned::to_owned);
        Ok(Entry {
            account: self.account,
            parameter: path.ok_or(DirectoryError::NotAFile(self.path))?,
            version: None,
            last_modified: self.last_modified,
            // What is not UTF-8 becomes U+FFFD: harmless in a comment, refused in an option.
            value: String::from_utf8_lossy(&self.bytes).into_owned(),
        })
    }
}

/// What takes all that is found, or why a part of it is unusable; its error ends the walk.
type Visit<'a> = dyn FnMut(Result<Found, DirectoryError>) -> Result<(), DirectoryError> + 'a;

fn walk(directory: &Path, visit: &mut Visit<'_>) -> Result<(), DirectoryError> {
    for (name, path) in names(directory, visit)? {
        match AccountName::try_from(name) {
            Ok(account) => walk_below(&account, &path, 1, visit)?,
            Err(source) => visit(Err(DirectoryError::Name { path, source }))?,
        }
    }
    Ok(())
}

fn walk_below(
    account: &AccountName,
    path: &Path,
    depth: usize,
    visit: &mut Visit<'_>,
) -> Result<(), DirectoryError> {
    if depth > MAX_DEPTH {
        return visit(Err(DirectoryError::TooDeep(path.to_owned())));
    }
    if !fs::metadata(path)
        .map_err(failed("look at", path))?
        .is_dir()
    {
        return visit(read_value(account, path).map(Found::Value));
    }
    let below = names(path, visit)?;
    if below.is_empty() {
        visit(Ok(Found::Empty(path.to_owned())))?;
    }
    for (_, path) in below {
        walk_below(account, &path, depth + 1, visit)?;
    }
    Ok(())
}

/// Values by account and label.
pub type Values = BTreeMap<AccountName, Vec<(String, Vec<u8>)>>;

/// Makes a list of `values`, which the fetcher can read, in a directory that is new or empty. Blocks.
///
/// The directory may be another account's: everything is made below descriptors, and nothing that is there is followed or
/// written to.
pub fn write(directory: &Path, values: &Values) -> Result<(), DirectoryError> {
    let is_made = is_new(directory)?;
    if is_made {
        fs::create_dir(directory).map_err(failed("make", directory))?;
    }
    let list = enter(AT_FDCWD, directory, directory)?;
    if is_made {
        let_all_read(&list, directory)?;
    }
    for (account, values) in values {
        let path = directory.join(account.as_str());
        mkdirat(&list, account.as_str(), Mode::S_IRWXU)
            .map_err(io::Error::from)
            .map_err(failed("make", &path))?;
        let below = enter(&list, Path::new(account.as_str()), &path)?;
        let_all_read(&below, &path)?;
        for (label, value) in values {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let written = openat(&below, label.as_str(), flags, OPEN_FILE)
                .map_err(io::Error::from)
                .and_then(|file| {
                    // Whatever the umask is.
                    fchmod(&file, OPEN_FILE)?;
                    File::from(file).write_all(value)
                });
            written.map_err(failed("write", &path.join(label)))?;
        }
    }
    Ok(())
}

/// True for a directory that is still to be made, false for an empty one; anything else is in the way of a new list.
pub fn is_new(directory: &Path) -> Result<bool, DirectoryError> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let not_empty = || Err(DirectoryError::NotEmpty(directory.to_owned()));
    match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().map_or(Ok(false), |_| not_empty()),
        Err(error) if error.kind() == NotFound => Ok(true),
        Err(error) if error.kind() == NotADirectory => not_empty(),
        Err(error) => Err(failed("list", directory)(error)),
    }
}

const OPEN_FILE: Mode = Mode::S_IRUSR
    .union(Mode::S_IWUSR)
    .union(Mode::S_IRGRP)
    .union(Mode::S_IROTH);

/// Holds a directory that was there or just made, and is no link.
fn enter(at: impl AsFd, name: &Path, path: &Path) -> Result<OwnedFd, DirectoryError> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(failed("open", path))
}

/// Whatever the umask is. Not for a directory that was there: its mode is its owner's choice.
fn let_all_read(directory: &OwnedFd, path: &Path) -> Result<(), DirectoryError> {
    const OPEN: Mode = OPEN_FILE
        .union(Mode::S_IXUSR)
        .union(Mode::S_IXGRP)
        .union(Mode::S_IXOTH);
    fchmod(directory, OPEN)
        .map_err(io::Error::from)
        .map_err(failed("change the mode of", path))
}

/// The first thing on the way to a value that others than its owner and group may not read, or that is in a home, which services
/// are kept from; `None` when all is open. Blocks.
pub fn closed_to_others(directory: &Path) -> Option<PathBuf> {
    const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
    if HOMES.iter().any(|homes| directory.starts_with(homes)) {
        return Some(directory.to_owned());
    }
    let mode = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.mode());
    let above = directory
        .ancestors()
        .skip(1)
        .find(|path| mode(path) & 0o001 == 0);
    above
        .map(Path::to_owned)
        .or_else(|| closed_below(directory, 0))
}

fn closed_below(path: &Path, depth: usize) -> Option<PathBuf> {
    let meta = fs::metadata(path).ok()?;
    let needed = if meta.is_dir() { 0o005 } else { 0o004 };
    if meta.mode() & needed != needed {
        return Some(path.to_owned());
    }
    if !meta.is_dir() || depth > MAX_DEPTH {
        return None;
    }
    names(path, &mut |found| found.map(drop))
        .ok()?
        .into_iter()
        .find_map(|(_, path)| closed_below(&path, depth + 1))
}

fn read_value(account: &AccountName, path: &Path) -> Result<Value, DirectoryError> {
    let (bytes, last_modified) = read_file(path)?;
    Ok(Value {
        account: account.clone(),
        path: path.to_owned(),
        last_modified,
        bytes,
    })
}

/// What is in a file, as it was while it was read, and when it was last changed.
fn read_file(path: &Path) -> Result<(Vec<u8>, Option<Timestamp>), DirectoryError> {
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let file = open.map_err(failed("open", path))?;
    let before = stamp(&file, path)?;
    let read = Bounded::read(&file, MAX_VALUE, before.2).map_err(failed("read", path))?;
    if !read.is_whole {
        return Err(DirectoryError::TooLarge(path.to_owned()));
    }
    let after = stamp(&file, path)?;
    if before != after {
        return Err(DirectoryError::Changed(path.to_owned()));
    }
    let (seconds, nanoseconds, _) = after;
    let last_modified = i32::try_from(nanoseconds)
        .ok()
        .and_then(|ns| Timestamp::new(seconds, ns).ok());
    Ok((read.bytes, last_modified))
}

/// Time of the last change, and size.
fn stamp(file: &File, path: &Path) -> Result<(i64, i64, u64), DirectoryError> {
    let meta = file.metadata().map_err(failed("look at", path))?;
    if !meta.is_file() {
        return Err(DirectoryError::NotAFile(path.to_owned()));
    }
    Ok((meta.mtime(), meta.mtime_nsec(), meta.len()))
}

/// The names that count in a directory, sorted.
fn names(
    directory: &Path,
    visit: &mut Visit<'_>,
) -> Result<Vec<(String, PathBuf)>, DirectoryError> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let path = entry.map_err(failed("list", directory))?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            None => visit(Err(DirectoryError::NotAFile(path)))?,
            Some(name) if name.starts_with('.') || name.ends_with('~') => {
                visit(Ok(Found::LeftOut(path)))?;
            }
            Some(name) => all.push((name.to_owned(), path)),
        }
    }
    sorting::sort(&mut all);
    Ok(all)
}

/// For `map_err`: what was being done, to what.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { what, path, source }
}
