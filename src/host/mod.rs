//! The world outside: one room for each thing, which owns the crates that speak to it.

pub mod imds;
pub mod ssm;
