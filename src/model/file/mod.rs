//! What a file is to hold, and in what it differs.

pub mod difference;
pub mod other_files;
pub mod wanted;
