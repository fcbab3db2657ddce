//! What stood where a file of ours had been: since when, and which bytes.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::model::inode::Inode;
use crate::model::past::incident::{Evidence, Kept, MOST_CONTENT, Since};

/// What stood there.
#[derive(Debug, Default)]
pub struct Stood {
    /// What is kept of its bytes, if they could be read.
    pub evidence: Option<Evidence>,
    /// As many of the bytes as are kept.
    pub content: Option<Vec<u8>>,
    /// Since when it stood, at least.
    pub since: Option<(Timestamp, Since)>,
    /// Its inode, if it was a file.
    pub inode: Option<Inode>,
    /// Inode number of its directory.
    pub directory: Option<u64>,
    /// When the right file was in place again.
    pub undone_at: Option<Timestamp>,
}

impl Stood {
    /// Takes down the bytes that stood there.
    pub fn take_down(&mut self, bytes: Option<Vec<u8>>) {
        let Some(mut bytes) = bytes else { return };
        self.evidence = Some(Evidence {
            sha256: digest(&bytes),
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            kept: if bytes.len() > MOST_CONTENT {
                Kept::Cut
            } else {
                Kept::Whole
            },
        });
        bytes.truncate(MOST_CONTENT);
        bytes.shrink_to_fit();
        self.content = Some(bytes);
    }

    /// Lets go of the bytes: thousands of accounts can be changed at once, and no more is held than is kept.
    pub fn forget_content(&mut self) {
        self.content = None;
        if let Some(evidence) = &mut self.evidence {
            evidence.kept = Kept::No;
        }
    }

    /// How long it stood until `now`, or until it was undone.
    pub fn how_long(&self, now: Timestamp) -> Option<SignedDuration> {
        let (since, _) = self.since?;
        let until = self.undone_at.unwrap_or(now);
        Some(until.duration_since(since).max(SignedDuration::ZERO))
    }

    pub fn sha256(&self) -> Option<&str> {
        self.evidence
            .as_ref()
            .map(|evidence| evidence.sha256.as_str())
    }
}

impl Evidence {
    /// True when `content` is what was kept.
    pub fn is_of(&self, content: &[u8]) -> bool {
        match self.kept {
            Kept::Whole => digest(content) == self.sha256,
            Kept::Cut => content.len() == MOST_CONTENT,
            Kept::No => false,
        }
    }
}

/// `sha256:…` of a file's content.
pub fn digest(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}
