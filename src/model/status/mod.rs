//! What is said of all this.

pub mod assess;
pub mod document;
pub mod preflight;
pub mod problem;
pub mod schema;
pub mod summary;
pub mod told;
