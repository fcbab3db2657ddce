//! Small JSON files of this program's own, replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc::{O_DIRECTORY, O_NONBLOCK};
use nix::unistd::{AccessFlags, chdir, eaccess, fchdir, geteuid};
use rustix::fs::Advice;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::Bounded;
use crate::host::PlainFile;

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {what} `{}`", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is there and not what this program writes.
    #[error("`{}` is damaged", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Nothing that should be there is so large.
    #[error("`{}` has more than {limit} bytes", .path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The most that is read of it.
        limit: u64,
    },
}

impl StoreError {
    /// The file may be there; this user may not know.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// For files that nobody but this process's user writes. What is in force for 10,000 accounts with 20 keys each takes 80 MB.
const OWN: u64 = 256 << 20;

/// Makes `directory` with `mode` if it is missing, and missing directories above it; their names are on disk then, or a
/// power cut could take them with all that was synced in them (`fsync(2)`).
pub fn make_directory(directory: &Path, mode: u32) -> Result<(), StoreError> {
    if directory.is_dir() {
        return Ok(());
    }
    let Some(above) = directory.parent() else {
        return Ok(());
    };
    make_directory(above, mode)?;
    // `DynamicUser=` leaves a link to a directory that is gone where its unit has stopped.
    let real = fs::read_link(directory).map_or(directory.to_owned(), |target| above.join(target));
    match DirBuilder::new().mode(mode).create(&real) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !directory.is_dir() => {
            Err(failed("make", directory)(error))
        }
        _ => sync(real.parent().unwrap_or(above)),
    }
}

/// Makes `directory` the working directory. From the first place on that `is_open` to other accounts no link is followed: one of
/// theirs would have root work in another directory.
pub fn enter(directory: &Path, is_open: &dyn Fn(&Path) -> bool) -> nix::Result<()> {
    let way: Vec<&Path> = directory.ancestors().collect();
    let Some(open) = way.into_iter().rev().find(|place| is_open(place)) else {
        return chdir(directory);
    };
    let sure = open.parent().unwrap_or(open);
    chdir(sure)?;
    let rest = directory.strip_prefix(sure).unwrap_or(directory);
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    fchdir(openat2(AT_FDCWD, &Path::new(".").join(rest), how)?)
}

/// A directory, opened; anything else in its place is not waited for.
pub fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(O_DIRECTORY | O_NONBLOCK)
        .open(path)
}

/// Reads a JSON file of this program's own; `None` when there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    read_json_within(path, OWN)
}

/// The same of a file that another user may have written: no more than `limit` bytes.
pub fn read_json_within<T: DeserializeOwned>(
    path: &Path,
    limit: u64,
) -> Result<Option<T>, StoreError> {
    let Some(bytes) = read_within(path, limit)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StoreError::Damaged {
            path: path.to_owned(),
            source,
        })
}

/// Reads a small file without following a link at its name or waiting on a FIFO; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    read_within(path, OWN)
}

/// The same of no more than `limit` bytes.
pub fn read_within(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let (file, meta) = match PlainFile::open(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open", path))?,
    };
    let too_large = || StoreError::TooLarge {
        path: path.to_owned(),
        limit,
    };
    if meta.len() > limit {
        return Err(too_large());
    }
    let read = Bounded::read(file, limit, meta.len()).map_err(failed("read", path))?;
    if read.is_whole {
        Ok(Some(read.bytes))
    } else {
        Err(too_large())
    }
}

/// Replaces `path` by `value`. A reader sees the old or the new file, through any crash.
pub fn write_json<T: Serialize>(path: &Path, value: &T, mode: u32) -> Result<(), StoreError> {
    let mut bytes = serde_json::to_vec(value).map_err(|source| StoreError::Damaged {
        path: path.to_owned(),
        source,
    })?;
    bytes.push(b'\n');
    write(path, &bytes, mode)
}

/// The same of what grows with the number of keys: written as it is made, so that it is not held whole once more.
pub fn write_large_json<T: Serialize>(path: &Path, value: &T, mode: u32) -> Result<(), StoreError> {
    const PIECE: usize = 64 << 10;
    let mut pieces = |file: &mut File| {
        let mut pieces = BufWriter::with_capacity(PIECE, file);
        serde_json::to_writer(&mut pieces, value)?;
        pieces.write_all(b"\n")?;
        pieces.flush()
    };
    put(path, &beside(path), &mut pieces, mode, true)?;
    sync(path.parent().unwrap_or(Path::new("/")))
}

/// Replaces `path` by `bytes`, as [`write_json`] does.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    write_by(&beside(path), path, bytes, mode)
}

/// The same by another `temporary` name in that directory.
pub fn write_by(temporary: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    put(
        path,
        temporary,
        &mut |file| file.write_all(bytes),
        mode,
        true,
    )?;
    sync(path.parent().unwrap_or(Path::new("/")))
}

/// Replaces `path` by `bytes`, and lets the kernel begin to write them without waiting for it: a crash of the host may leave
/// the file empty, or as it was, until a [`sync`] of it and of its directory.
pub fn write_soon(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    put(
        path,
        &beside(path),
        &mut |file| file.write_all(bytes),
        mode,
        false,
    )
}

/// Waits until a file or a directory is on disk.
pub fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|opened| opened.sync_all())
        .map_err(failed("sync", path))
}

/// Waits until all of the file system that a directory is on is on disk.
pub fn sync_file_system(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|opened| Ok(rustix::fs::syncfs(opened)?))
        .map_err(failed("sync the file system of", directory))
}

/// The names and sizes of the files in a directory of this program's own; none when it is missing.
pub fn names(directory: &Path) -> Result<Vec<(String, u64)>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", directory))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        // What goes away meanwhile is not there.
        if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) {
            all.push((name, meta.len()));
        }
    }
    Ok(all)
}

/// One writer a directory (`process::lock`), so one fixed name; a left-over is simply replaced.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn put(
    path: &Path,
    temporary: &Path,
    content: &mut dyn FnMut(&mut File) -> io::Result<()>,
    mode: u32,
    synced: bool,
) -> Result<(), StoreError> {
    let mut written = || -> Result<(), StoreError> {
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", temporary)(error));
            }
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(temporary)
            .map_err(failed("write", temporary))?;
        // The umask of a service is no word on who may read its status.
        file.set_permissions(Permissions::from_mode(mode))
            .map_err(failed("set the mode of", temporary))?;
        content(&mut file).map_err(failed("write", temporary))?;
        if synced {
            file.sync_all().map_err(failed("sync", temporary))?;
        } else {
            // Linux writes back what it is told to forget (`mm/fadvise.c`). Where it does not, nothing is lost but time.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        fs::rename(temporary, path).map_err(failed("replace", path))
    };
    if let Err(error) = written() {
        let _ = fs::remove_file(temporary);
        return Err(error);
    }
    Ok(())
}

/// Sets the time of a file to `now`, unless it is younger than `age`.
pub fn refresh(path: &Path, now: SystemTime, age: Duration) -> Result<(), StoreError> {
    let (file, meta) = PlainFile::open_to_change(path, OpenOptions::new().write(true))
        .map_err(failed("open", path))?;
    let changed = meta.modified().map_err(failed("look at", path))?;
    if now
        .duration_since(changed)
        .is_ok_and(|elapsed| elapsed < age)
    {
        return Ok(());
    }
    file.set_modified(now)
        .map_err(failed("set the time of", path))
}

/// Whether files can be written in a directory.
#[derive(Debug)]
pub enum Access {
    /// They can.
    Writable,
    /// The directory is missing and can be made.
    Makeable,
    /// They cannot: because of this, which is the directory or the nearest one above it that exists.
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Asks whether this process may write in `directory`, and writes nothing.
pub fn access(directory: &Path) -> Access {
    let mut result = Access::Writable;
    for path in directory.ancestors() {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => result = Access::Makeable,
            Err(source) => {
                return Access::Refused {
                    path: path.to_owned(),
                    source,
                };
            }
            Ok(meta) if !meta.is_dir() => {
                return Access::Refused {
                    path: path.to_owned(),
                    source: io::ErrorKind::NotADirectory.into(),
                };
            }
            Ok(_) => {
                return match eaccess(path, AccessFlags::W_OK | AccessFlags::X_OK) {
                    Ok(()) => result,
                    Err(error) => Access::Refused {
                        path: path.to_owned(),
                        source: error.into(),
                    },
                };
            }
        }
    }
    result
}

/// What others than root, and the user of this process, can change of a file, or of the directories on the way to it.
pub fn open_to_others(path: &Path) -> Option<PathBuf> {
    /// More than a person makes.
    const MOST_LINKS: usize = 40;
    let mut ways = vec![path.to_owned()];
    for _ in 0..MOST_LINKS {
        let way = ways.pop()?;
        let mut places = way.ancestors();
        if let Some(open) = places.find(|place| is_open(fs::metadata(place))) {
            return Some(open.to_owned());
        }
        // Only now are links followed: no account made one of them.
        for link in way.ancestors() {
            if let (Ok(target), Some(parent)) = (fs::read_link(link), link.parent()) {
                ways.push(parent.join(target));
            }
        }
    }
    Some(path.to_owned())
}

/// Whether another account than root and this one can change it, or what is in it.
pub fn is_open(meta: io::Result<fs::Metadata>) -> bool {
    meta.is_ok_and(|meta| {
        let is_ours = meta.uid() == 0 || meta.uid() == geteuid().as_raw();
        // In a directory such as /tmp nobody takes the place of another's file.
        let is_sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        !is_ours || (meta.mode() & 0o022 != 0 && !is_sticky && !meta.is_symlink())
    })
}

/// Owner and permission bits of what is at `path`, without following a link; `None` when there is nothing.
pub fn owner(path: &Path) -> Result<Option<(u32, u32)>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some((meta.uid(), meta.mode() & 0o7777))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// For `map_err`: what was being done, to what.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}
