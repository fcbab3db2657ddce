//! What stood where a file of ours had been: since when, and which bytes.

use jiff::{SignedDuration, Timestamp};

use crate::model::file::wanted::Content;
use crate::model::inode::Inode;
use crate::model::past::incident::{Evidence, Kept, MOST_CONTENT, Since};
use crate::model::sha256::Sha256;

/// What stood there.
#[derive(Clone, Debug, Default)]
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
    /// When that was last changed.
    pub directory_changed_at: Option<Timestamp>,
    /// When the right file was in place again.
    pub undone_at: Option<Timestamp>,
}

impl Stood {
    /// Takes down what stood there. Where that is not all of it, nothing is known of the rest.
    pub fn take_down(&mut self, content: Option<Content>) {
        let Some(Content {
            mut bytes,
            is_whole,
        }) = content
        else {
            return;
        };
        if !is_whole {
            bytes.truncate(MOST_CONTENT);
        }
        self.evidence = Some(Evidence {
            sha256: digest(&bytes),
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            kept: match is_whole {
                false => Kept::Lines,
                true if bytes.len() > MOST_CONTENT => Kept::Cut,
                true => Kept::Whole,
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
            Kept::Whole | Kept::Lines => digest(content) == self.sha256,
            Kept::Cut => content.len() == MOST_CONTENT,
            Kept::No => false,
        }
    }
}

/// `sha256:…` of a file's content.
pub fn digest(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}
