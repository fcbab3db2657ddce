//! What the caller lets a change do.

use crate::host::keyfile::refusal::Refusal;

/// What the caller lets a change do.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Asked before each step that changes something; `false` once the caller no longer waits for it.
    pub wanted_still: &'a dyn Fn() -> bool,
    /// Something that is no directory may be moved out of a directory's place: this program had a directory
    /// there before, so the account put it there since. For the same reason flags that lock the file or its directories
    /// may be cleared.
    pub clear_obstacles: bool,
    /// Told the new name of what was in the way and is kept.
    pub put_aside: &'a dyn Fn(&str),
}

impl Terms<'_> {
    pub(super) fn ask(self) -> Result<(), Refusal> {
        if (self.wanted_still)() {
            Ok(())
        } else {
            Err(Refusal::Abandoned)
        }
    }
}
