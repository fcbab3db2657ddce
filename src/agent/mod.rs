//! Time: the loops, and one pass of each.

pub mod daemon;
pub mod enforce;
pub mod errand;
pub mod events;
pub mod fetch;
pub mod fetched;
pub mod gather;
pub mod incidents;
pub mod inquiry;
mod lease_breaks;
pub mod marks;
pub mod name_service;
pub mod pass;
pub mod paths;
pub mod publish;
pub mod sessions;
pub mod signals;
pub mod source;
pub mod unmanaged;
pub mod wakeups;
pub mod workers;
