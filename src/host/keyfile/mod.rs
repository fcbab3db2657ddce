//! One `authorized_keys` file: looked at, replaced, and kept from having others beside it.
//!
//! Everything below a home belongs to an account that may be hostile and may act at any moment, so
//! - every step goes through descriptors, opened with `openat2` and looked at with `fstat` once held;
//! - work in a directory is done as its owner, so that the kernel refuses what the owner could not do;
//! - what a name led to a moment ago is never assumed: after a replacement the names are compared with what is held.
//!
//! All of it blocks, and a hostile file system may block it for ever: call it on a thread of its own.

mod behind;
mod directories;
mod flags;
mod held;
mod identity;
mod immutable;
mod label;
mod lease;
mod leases;
mod lock;
mod names;
mod observe;
mod other;
mod own_mount;
mod refusal;
mod remove;
mod renew;
mod replace;
mod survey;
mod terms;
mod visit;
mod way;
mod witness;

pub use identity::{Identity, drop_supplementary_groups};
pub use leases::{Attempt, Leases};
pub use observe::{Observed, Writing};
pub use other::Other;
pub use own_mount::own_mount;
pub use refusal::Refusal;
pub use replace::By;
pub use survey::{groups_that_write, in_force_at, survey};
pub use terms::Terms;
pub use visit::Visit;
pub use witness::{Mark, Marked, NoWitness, Witness};
