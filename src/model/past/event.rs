//! What is worth telling: each becomes a line in the journal, an incident, or both.

use std::path::PathBuf;

use crate::model::account::AccountName;
use crate::model::file::difference::Difference;
use crate::model::file::other_files::OtherFile;
use crate::model::key::id::KeyId;
use crate::model::past::audit::Sought;
use crate::model::past::incident::{Incident, More};

#[derive(Debug)]
pub enum Event {
    /// A file was written for the list.
    Applied {
        account: AccountName,
        file: PathBuf,
        differences: Vec<Difference>,
    },
    /// A file that was not ours was replaced or taken away; one key that left it.
    FirstRun {
        account: AccountName,
        file: PathBuf,
        key: KeyId,
        backup: PathBuf,
    },
    /// A change was undone.
    Repaired(Change),
    /// A change is seen and not undone, in observe mode.
    Differs(Change),
    Refused {
        account: AccountName,
        reason: String,
    },
    /// sshd reads another file than the managed one, and it stays.
    OtherFile {
        account: AccountName,
        other: OtherFile,
    },
    /// A new incident, with what is kept of the content.
    Incident {
        incident: Box<Incident>,
        content: Option<Vec<u8>>,
        sought: Sought,
    },
    /// An incident came again.
    Again {
        incident: String,
        more: More,
        sought: Sought,
    },
    /// Another program makes the same change again and again.
    Rival {
        account: AccountName,
        times: u64,
        program: Option<String>,
    },
    /// Something in the way of the file, or of its directory, has another name now.
    PutAside { account: AccountName, aside: String },
    /// The account fights over its file, so its directory is locked for so many seconds; or, with `None`, is its own again.
    Lock {
        account: AccountName,
        seconds: Option<i64>,
    },
}

/// A change to a file that an account or a program made.
#[derive(Debug)]
pub struct Change {
    pub account: AccountName,
    pub file: PathBuf,
    pub differences: Vec<Difference>,
    /// The incident it is kept in.
    pub incident: Option<String>,
    pub stood_milliseconds: Option<u64>,
}
