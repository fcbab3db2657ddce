//! The last rung: a directory in which its account can change nothing.
//!
//! The account's own directory would not do. It may hold the lock of that one for ever, by a descriptor that it opened before,
//! and then not even root could open the directory again. So it is a new one, made by root and not to be listed by the account,
//! and immutable, or the account could give its home another one. A file in it can be held; then the directory is given back
//! and put aside like any other.

use nix::fcntl::openat2;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use crate::host::keyfile::held::{Held, READING, beneath};
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::immutable::{is_immutable, set_immutable};
use crate::host::keyfile::refusal::{LOCK, Refusal};
use crate::host::keyfile::replace::By;
use crate::host::keyfile::terms::Terms;
use crate::host::keyfile::visit::Visit;
use crate::model::file::wanted::{Lines, Target};

impl Visit<'_> {
    /// Locks the directory of the file, in which the last look has found what is `wanted`; returns whether that was anything
    /// to do. What is there besides moves over, but for the names of `except`.
    pub fn lock(
        &mut self,
        wanted: &Lines,
        terms: Terms<'_>,
        except: &[&str],
    ) -> Result<bool, Refusal> {
        self.act()?;
        let target = self.target;
        let file = target.location.file.as_str();
        let depth = self.way.steps().len();
        let is_home_its_own = |here: &Held| here.stat.st_uid == target.account.uid;
        if depth == 0
            || !target.location.in_home
            || !self.way.held.get(depth - 1).is_some_and(is_home_its_own)
        {
            return Err(Refusal::NoLock(target.location.path.clone()));
        }
        if let Some(here) = self.way.end().filter(|here| here.stat.st_uid == 0) {
            let at = &here.descriptor;
            if is_immutable(at, "") && is_immutable(at, file) {
                return Ok(false);
            }
            set(here, target)?;
            return Ok(true);
        }
        let aside = self.renew(wanted, terms, By::Root)?;
        let mut new = aside.moved(except);
        set(&mut new, target)?;
        Ok(true)
    }

    /// Gives the directory back to its account; nothing is to do where it has it.
    pub fn unlock(&mut self) -> Result<(), Refusal> {
        self.act()?;
        let target = self.target;
        let account = &target.account;
        self.way.is_fresh = false;
        if !self.way.walk()? {
            return Ok(());
        }
        let Some(here) = self.way.end() else {
            return Ok(());
        };
        let path = here.path.clone();
        let failed = |source| Refusal::io("unlock", &path)(source);
        let _root = Identity::own()?;
        if here.stat.st_uid == 0 && target.location.in_home {
            let directory = here.readable()?;
            set_immutable(directory, false).map_err(failed)?;
            let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
            fchown(directory, Some(uid), Some(gid)).map_err(failed)?;
            fchmod(directory, Mode::S_IRWXU).map_err(failed)?;
            here.look_again()?;
        }
        let file = target.location.file.as_str();
        if is_immutable(&here.descriptor, file) {
            let file = openat2(&here.descriptor, file, beneath(READING)).map_err(failed)?;
            set_immutable(file, false).map_err(failed)?;
        }
        Ok(())
    }
}

fn set(here: &mut Held, target: &Target) -> Result<(), Refusal> {
    let path = here.path.clone();
    let failed = |source| Refusal::io(LOCK, &path)(source);
    let _root = Identity::own()?;
    let directory = here.readable()?;
    set_immutable(directory, true).map_err(failed)?;
    let file = target.location.file.as_str();
    let file = openat2(directory, file, beneath(READING)).map_err(failed)?;
    set_immutable(file, true).map_err(failed)
}
