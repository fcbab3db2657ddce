//! What is said of all this.

pub mod preflight;
pub mod schema;
