//! Looking at the managed file as its account sees it.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, openat2};
use nix::sys::stat::{FileStat, fstat, fstatat};

use crate::host::Bounded;
use crate::host::keyfile::directories::let_owner_in;
use crate::host::keyfile::flags;
use crate::host::keyfile::held::{Held, READ_LIMIT, READING, beneath, kind, loose, permissions};
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::label;
use crate::host::keyfile::lease::{Lease, NoLease};
use crate::host::keyfile::refusal::{Refusal, errno};
use crate::host::keyfile::terms::Terms;
use crate::host::keyfile::visit::Visit;
use crate::host::keyfile::way::Step;
use crate::host::keyfile::witness::{Marked, Witness, inode, mark};
use crate::model::file::difference::Difference;
use crate::model::file::wanted::{Content, Found, FoundFile, Kind};
use crate::model::sshd::access::Loose;

/// What a look has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// At the file's name.
    pub found: Found,
    /// Directories of ours on the way to it that let others write, or keep their owner out.
    pub directories: Vec<Difference>,
    /// A directory further up, none of ours, for which sshd with `StrictModes` refuses the file.
    pub loose: Option<Loose>,
    pub writing: Writing,
}

/// What becomes of a write into the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// Nobody asked.
    #[default]
    Unknown,
    /// It never takes effect: its lease is held.
    Prevented,
    /// Somebody is at it: the file is open for writing, or mapped.
    Busy,
    /// It is undone afterwards: the file system has no leases.
    Undone,
}

impl Writing {
    /// `None` where that is not known.
    pub fn is_prevented(self) -> Option<bool> {
        match self {
            Self::Prevented => Some(true),
            Self::Undone => Some(false),
            Self::Unknown | Self::Busy => None,
        }
    }
}

impl Visit<'_> {
    /// Looks at the file. `expected` is the size of the file that would be ours.
    ///
    /// The first look walks there. A later one compares every name with the directory that is held for it, and walks anew
    /// from the first one that leads elsewhere. Where something may be changed, a directory that its owner closed to itself
    /// is opened again, and what is behind it looked at.
    pub fn look(
        &mut self,
        expected: usize,
        witness: &mut dyn Witness,
    ) -> Result<Observed, Refusal> {
        self.act()?;
        self.seen = None;
        let opens = self.terms.filter(|terms| terms.clear_obstacles);
        let way = &mut self.way;
        let uid = way.account.uid;
        way.is_fresh = false;
        way.start()?;
        let start = &mut way.held[0];
        let mut seen = Observed {
            found: Found::Nothing,
            directories: Vec::new(),
            loose: start.loose.clone().map(|loose| *loose),
            writing: Writing::Unknown,
        };
        witness.changed(mark(Marked::Directory, &start.stat));
        for (depth, name) in way.steps().iter().enumerate() {
            // Before the name in it is looked up, or a change in between would not be told.
            tell(&way.held[depth], name, witness);
            let mut step = way.step(depth);
            let here = &mut way.held[depth];
            if let Some(mode) = closed(here, uid)
                && matches!(
                    step,
                    Err(Refusal::Io {
                        source: Errno::EACCES,
                        ..
                    })
                )
            {
                mark_again(here, witness);
                seen.directories.push(Difference::DirectoryMode(mode));
                if !open_again(here, opens, uid)? {
                    way.is_fresh = true;
                    return Ok(seen);
                }
                step = way.step(depth);
            }
            match step? {
                Step::Directory => {}
                Step::Missing => {
                    mark_again(&way.held[depth], witness);
                    way.is_fresh = true;
                    return Ok(seen);
                }
                Step::Obstacle(kind) => {
                    let here = &way.held[depth];
                    mark_again(here, witness);
                    if let Ok(stat) = fstatat(
                        &here.descriptor,
                        name.as_str(),
                        AtFlags::AT_SYMLINK_NOFOLLOW,
                    ) {
                        // Given away, or moved there: that is its own change.
                        witness.changed(mark(Marked::UntidyDirectory, &stat));
                    }
                    let path = here.path.join(name);
                    return Err(Refusal::Obstacle { path, kind });
                }
            }
            let here = &mut way.held[depth + 1];
            if seen.loose.is_none() {
                let found = loose(&here.path, &here.stat, uid);
                seen.loose = found.map(|loose| *loose);
            }
            let label = label::wrong_type(&here.descriptor, way.location.in_home);
            let is_labelled = label.is_none();
            seen.directories
                .extend(label.map(Difference::DirectoryLabel));
            if here.is_tidy(way.location) {
                let of = if is_labelled {
                    Marked::Directory
                } else {
                    Marked::UntidyDirectory
                };
                witness.changed(mark(of, &here.stat));
                continue;
            }
            witness.changed(mark(Marked::UntidyDirectory, &here.stat));
            let mode = permissions(&here.stat);
            seen.directories.push(Difference::DirectoryMode(mode));
            // Not even its owner can look into it.
            if mode & 0o700 != 0o700 && !open_again(here, opens, uid)? {
                way.is_fresh = true;
                return Ok(seen);
            }
        }
        way.is_fresh = true;
        let depth = way.steps().len();
        let here = &mut way.held[depth];
        tell(here, &way.location.file, witness);
        if let Some(mode) = closed(here, uid) {
            seen.directories.push(Difference::DirectoryMode(mode));
            if !open_again(here, opens, uid)? {
                return Ok(seen);
            }
        }
        (seen.found, seen.writing) = self.look_at_file(expected, witness)?;
        Ok(seen)
    }

    /// What is at the file's name, in the directory that is held.
    fn look_at_file(
        &mut self,
        expected: usize,
        witness: &mut dyn Witness,
    ) -> Result<(Found, Writing), Refusal> {
        let nothing = Ok((Found::Nothing, Writing::Unknown));
        let other = |stat: &FileStat| {
            let kind = kind(stat);
            let content = self.behind().map(Content::from);
            Ok((Found::Other { kind, content }, Writing::Unknown))
        };
        let (location, uid) = (&self.target.location, self.target.account.uid);
        let here = &self.way.held[self.way.steps().len()];
        let (name, path) = (location.file.as_str(), &location.path);
        let look_at = |source| Refusal::Io {
            what: "look at",
            path: path.clone(),
            source,
        };
        // Before it is opened: to open a device can do something.
        let stat = match fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => {
                mark_again(here, witness);
                return nothing;
            }
            Err(source) => return Err(look_at(source)),
        };
        witness.changed(mark(Marked::File, &stat));
        if kind(&stat) != Kind::File {
            return other(&stat);
        }
        let mut opened = openat2(&here.descriptor, name, beneath(READING));
        let is_ours = self.terms.is_some_and(|terms| terms.clear_obstacles);
        if matches!(opened, Err(Errno::EACCES)) && stat.st_uid == uid && is_ours {
            // Its owner took its own right away; what it holds is to be known all the same.
            let _own = Identity::own()?;
            opened = openat2(&here.descriptor, name, beneath(READING));
        }
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => {
                mark_again(here, witness);
                return nothing;
            }
            Err(Errno::EXDEV) => return Err(Refusal::Mounted(path.clone())),
            // Not readable for its own account, leased, or swapped: different from ours in any case.
            Err(Errno::EACCES | Errno::EWOULDBLOCK | Errno::ELOOP | Errno::ENXIO) => {
                return Ok((Found::File(found_file(&stat)), Writing::Unknown));
            }
            Err(source) => return Err(look_at(source)),
        };
        let before = stat.st_uid;
        let stat = fstat(&file).map_err(look_at)?;
        if kind(&stat) != Kind::File {
            return other(&stat);
        }
        if stat.st_uid != before {
            // Swapped, and perhaps opened as root.
            return Ok((Found::File(found_file(&stat)), Writing::Unknown));
        }
        witness.changed(mark(Marked::File, &stat));
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let expected = u64::try_from(expected).unwrap_or(u64::MAX);
        // One of another size will be replaced, and until then the watch on its directory tells of it. One with another
        // name could be a file that another account's watch is on.
        if size == expected && stat.st_nlink == 1 {
            witness.file(file.as_fd(), inode(&stat));
        }
        let access_list = flags::has_access_list(&file);
        let wrong_label = label::wrong_type(&file, location.in_home);
        let limit = READ_LIMIT.max(expected);
        let found = |content: Option<Bounded>| {
            Found::File(FoundFile {
                content: content.map(Content::from),
                access_list,
                wrong_label: wrong_label.clone(),
                ..found_file(&stat)
            })
        };
        let read = |file: &File| {
            let read =
                Bounded::read_keys(file, limit, size).map_err(|error| look_at(errno(&error)))?;
            Ok(found(Some(read)))
        };
        if !self.leases() || stat.st_uid != uid {
            return Ok((read(&file)?, Writing::Unknown));
        }
        match Lease::take(file, inode(&stat)) {
            Ok(lease) => {
                let found = read(lease.file())?;
                self.seen = Some(lease);
                Ok((found, Writing::Prevented))
            }
            // Leased before it had the name, so that nobody writes to it: a writer waits, and is the next visit's.
            Err((NoLease::Busy, file)) if self.has_leased(inode(&stat)) => {
                Ok((read(&file)?, Writing::Prevented))
            }
            // The writer may hold the file's lock for ever.
            Err((NoLease::Busy, file)) => {
                let read = Bounded::read_keys_at_once(&file, limit).ok();
                Ok((found(read), Writing::Busy))
            }
            Err((NoLease::Unsupported, file)) => Ok((read(&file)?, Writing::Undone)),
        }
    }
}

/// Lets its owner into the directory again, if anything may be changed; returns whether that was done.
fn open_again(here: &mut Held, opens: Option<Terms<'_>>, account: u32) -> Result<bool, Refusal> {
    let Some(terms) = opens else {
        return Ok(false);
    };
    // A flag may keep its mode as it is: that is for the replacement.
    match let_owner_in(here, terms, account, 0o700) {
        Err(refusal @ Refusal::Abandoned) => Err(refusal),
        done => Ok(done.is_ok() && permissions(&here.stat) & 0o700 == 0o700),
    }
}

/// The mode of a directory of the account's that not even the account can go on from. What is behind it would be in force
/// whenever its owner opens it for a moment.
fn closed(here: &Held, account: u32) -> Option<u32> {
    let mode = permissions(&here.stat);
    (here.stat.st_uid == account && mode & 0o100 == 0).then_some(mode)
}

fn tell(here: &Held, name: &str, witness: &mut dyn Witness) {
    witness.directory(here.descriptor.as_fd(), inode(&here.stat), name);
}

/// Looks at the change time again: the entry may have gone after the directory was first looked at.
fn mark_again(here: &Held, witness: &mut dyn Witness) {
    if let Ok(stat) = fstat(&here.descriptor) {
        witness.changed(mark(Marked::Directory, &stat));
    }
}

fn found_file(stat: &FileStat) -> FoundFile {
    #[allow(
        clippy::useless_conversion,
        reason = "st_nlink has another width on aarch64"
    )]
    let links = u64::from(stat.st_nlink);
    FoundFile {
        content: None,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: permissions(stat),
        links,
        access_list: false,
        wrong_label: None,
    }
}
