//! What a file is to hold, and in what it differs.

pub mod boiled;
pub mod difference;
pub mod export;
pub mod orders;
pub mod other_files;
pub mod plan;
pub mod wanted;
