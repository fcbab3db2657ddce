//! What happened: incidents, and what is remembered of them.

pub mod audit;
pub mod incident;
pub mod rivals;
