//! Which keys are in force.

pub mod adopted;
pub mod decide;
pub mod guard;
pub mod in_force;
pub mod judge;
pub mod lint;
pub mod signed;
