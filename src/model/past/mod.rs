//! What happened: incidents, and what is remembered of them.

pub mod audit;
pub mod audit_rules;
pub mod budget;
pub mod event;
pub mod evidence;
pub mod fights;
pub mod health;
pub mod incident;
pub mod memory;
pub mod outcome;
pub mod rivals;
