//! What came of the orders.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::file::difference::Difference;
use crate::model::file::orders::Orders;
use crate::model::file::other_files::OtherFile;
use crate::model::file::wanted::Content;
use crate::model::mounts::OwnMount;
use crate::model::past::evidence::Stood;
use crate::model::past::incident::Undone;
use crate::model::sshd::access::Loose;

/// What came of the work on all files of one account.
#[derive(Debug)]
pub struct Outcome {
    pub orders: Arc<Orders>,
    pub managed: FileOutcome,
    /// Other files in the home that hold something, each with what was done.
    pub others: Vec<(OtherFile, FileOutcome)>,
    /// Other files that stay, by intent or since they cannot be taken away.
    pub left: Vec<OtherFile>,
    /// This host does what it takes to keep other files away from the account.
    pub guards: bool,
    /// The first directory on the way to the managed file that sshd's `StrictModes` refuses.
    pub loose: Option<Loose>,
    /// What somebody wrote into files of ours once they had lost their name; or changed right after they got it, then with how
    /// that was undone.
    pub attempts: Vec<FileOutcome>,
    /// What was in the way and is kept, by its new names.
    pub aside: Vec<String>,
    /// The directory of the file is locked, or is so no more; or why it cannot be.
    pub lock: Option<Result<bool, String>>,
    /// The files that hold keys, where the order was to tell.
    pub stood: Vec<StoodBefore>,
    /// A write into the file is prevented; or only undone, where its file system has no leases. `None` where that is not known.
    pub writes_prevented: Option<bool>,
}

/// What stood in a file before the agent ever wrote it.
#[derive(Debug)]
pub struct StoodBefore {
    pub file: PathBuf,
    pub content: Content,
    /// Others than the account and root could have written it.
    pub is_open: bool,
}

/// What came of the work on one file.
#[derive(Debug)]
pub struct FileOutcome {
    /// In what the file was not as it should be.
    pub differences: Vec<Difference>,
    pub did: Did,
    /// What stood there, where an account or a program had changed a file of ours.
    pub stood: Option<Stood>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// Nothing differed.
    Nothing,
    /// It differs, and nothing was to be written.
    Reported,
    /// How, and with the copy of a file that was not ours, at the first replacement.
    Replaced {
        how: Undone,
        backup: Option<PathBuf>,
    },
    /// With the copy that was kept.
    Removed { copy: Option<PathBuf> },
    Refused {
        reason: String,
        /// What a person can do about it.
        hint: String,
        /// The replacement had begun, so it must be made again even if nothing seems to differ.
        began: bool,
    },
    /// This user may not look at the file.
    NotAllowed { reason: String },
    /// An account answers for the file system that it is on, so nothing that is seen or done there counts.
    OnOwnMount(OwnMount),
    /// The file system has not answered yet.
    Hanging,
}

impl FileOutcome {
    pub fn of(did: Did) -> Self {
        Self {
            differences: Vec::new(),
            did,
            stood: None,
        }
    }

    pub fn is_in_line(&self) -> bool {
        matches!(self.did, Did::Nothing | Did::Replaced { .. })
    }
}

impl Did {
    /// Why nothing was done, or not all.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } | Self::NotAllowed { reason } => Some(reason),
            Self::OnOwnMount(_) => {
                Some("a process of an account serves the file system that it is on")
            }
            Self::Hanging => Some("its file system has not answered within 2 s"),
            _ => None,
        }
    }

    /// What a person can do about a refusal.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } => Some(hint),
            Self::NotAllowed { .. } => Some("run this as root"),
            Self::Hanging => {
                Some("look at the file system of the home; a network mount may be down")
            }
            _ => None,
        }
    }
}

impl Outcome {
    /// The work on an account that has not been done: its thread hangs.
    pub fn hanging(orders: Arc<Orders>) -> Self {
        Self::without(orders, Did::Hanging)
    }

    /// The same: there was no thread to do it.
    pub fn unattended(orders: Arc<Orders>) -> Self {
        let did = Did::Refused {
            reason: "no thread is left to look at it".to_owned(),
            hint: "see what else is wrong: threads that hang, or a limit that is used up"
                .to_owned(),
            began: false,
        };
        Self::without(orders, did)
    }

    fn without(orders: Arc<Orders>, did: Did) -> Self {
        Self {
            orders,
            managed: FileOutcome::of(did),
            others: Vec::new(),
            left: Vec::new(),
            guards: false,
            loose: None,
            attempts: Vec::new(),
            aside: Vec::new(),
            lock: None,
            stood: Vec::new(),
            writes_prevented: None,
        }
    }

    /// Why another file is still there that should not be.
    pub fn other_refused(&self) -> Option<String> {
        let (file, did) = self.first_other_refused()?;
        let (file, reason) = (&file.file, did.refusal()?);
        Some(format!(
            "sshd also reads `{file}`, which is not taken away: {reason}"
        ))
    }

    pub fn other_hint(&self) -> Option<&str> {
        let (_, did) = self.first_other_refused()?;
        did.hint()
    }

    fn first_other_refused(&self) -> Option<(&OtherFile, &Did)> {
        let mut others = self.others.iter();
        let (file, outcome) = others.find(|(_, outcome)| outcome.did.refusal().is_some())?;
        Some((file, &outcome.did))
    }

    /// What was taken away or, in observe mode, would be.
    pub fn other_differences(&self) -> Vec<Difference> {
        let taken = self
            .others
            .iter()
            .filter(|(_, outcome)| outcome.did.refusal().is_none());
        taken
            .flat_map(|(_, outcome)| outcome.differences.iter().cloned())
            .collect()
    }

    /// Everything that differed in the files of the account.
    pub fn differences(&self) -> Vec<Difference> {
        let managed = self.managed.differences.iter().cloned();
        managed.chain(self.other_differences()).collect()
    }
}
