//! What is said of all this.

pub mod assess;
pub mod document;
pub mod inventory;
pub mod preflight;
pub mod problem;
pub mod prometheus;
pub mod schema;
pub mod summary;
pub mod tally;
pub mod told;
