//! The approved list as it is fetched, and how fetching goes.

pub mod approved;
pub mod bounds;
pub mod cadence;
pub mod contents;
pub mod fetch_report;
pub mod index;
pub mod order;
pub mod publication;
pub mod rejected;
pub mod signing;
pub mod statement;
pub mod template;
