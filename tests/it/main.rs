//! Everything is tested from outside: real files, real processes, the real sshd. One binary, so that it links once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::too_many_lines,
    reason = "the story of a host, or a table of cases, is told in one piece"
)]

mod access;
mod ami;
mod associations;
mod aws;
mod before_publishing;
mod beside;
mod central;
mod check;
mod clone;
mod cloudformation;
mod cloudwatch;
mod config_file;
mod dead_enforcer;
mod environment;
mod evidence;
mod fights;
mod first_list;
mod fleet;
mod flood;
mod floors;
mod glance;
mod grammar;
mod harmless;
mod held;
mod hostile;
mod iam;
mod idle;
mod imds;
mod incidents;
mod index;
mod install;
mod journal;
mod key_pairs;
mod labels;
mod ladder;
mod law;
mod leases;
mod lint;
mod lists;
mod name_service;
mod network;
mod other_files;
mod outage;
mod own_mounts;
mod pages;
mod people;
mod picture;
mod publish;
mod publish_signed;
mod reports;
mod secrets;
mod sessions;
mod shipped;
mod signatures;
mod signed;
mod signed_fetcher;
mod signed_hosts;
mod signed_sources;
mod signed_words;
mod slow;
mod ssm_client;
mod ssm_to_file;
mod status_schema;
mod support;
mod taken_over;
mod tamper;
mod terraform;
mod threads;
mod tls;
mod unread;
mod watches;
mod world_changes;
mod write_faults;
