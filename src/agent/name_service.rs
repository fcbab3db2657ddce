//! Asking NSS for the names that local files do not answer: one may take minutes, and the others do not wait for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::agent::inquiry::{Bell, Inquiry};
use crate::host::accounts;
use crate::model::account::AccountName;
use crate::model::people::Lookup;

type Answers = BTreeMap<AccountName, Lookup>;

/// Names are asked for round by round. One that takes long is not waited for: what is answered later counts when it comes.
#[derive(Default)]
pub struct NameService {
    asking: Inquiry<Answers>,
    /// The names of this round.
    names: Vec<AccountName>,
    /// What was answered in it.
    said: Answers,
    /// When it began.
    began: Option<Instant>,
    /// It was not waited for, so the next look goes on with it.
    is_late: bool,
}

/// Answers are taken after this time, or a sixteenth of the whole round: thousands that come slowly are not thousands of looks.
const PIECE: Duration = Duration::from_secs(1);
const PIECES: u32 = 16;

impl NameService {
    /// What it says of `names`, and waits no longer than `patience` for it; `bell` is rung whenever more of it comes later.
    pub async fn look_up(
        &mut self,
        names: Vec<AccountName>,
        bell: Option<&Bell>,
        patience: Duration,
    ) -> Answers {
        self.take();
        let patience = if self.is_late {
            Duration::ZERO
        } else {
            self.said.clear();
            self.began = None;
            patience
        };
        self.names = names;
        self.is_late = false;
        let end = tokio::time::Instant::now() + patience;
        while self.go_on(bell) {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let Some(answers) = self.asking.wait(left).await else {
                // Without a thread there is no answer to wait for.
                self.is_late = self.asking.is_open();
                break;
            };
            self.said.extend(answers);
        }
        if self.is_late {
            return self.said.clone();
        }
        self.names = Vec::new();
        std::mem::take(&mut self.said)
    }

    /// Takes what has come since it was last waited for, and asks on; returns whether anything has.
    pub fn hear(&mut self, bell: Option<&Bell>) -> bool {
        let heard = self.take();
        if heard {
            self.go_on(bell);
        }
        heard
    }

    fn take(&mut self) -> bool {
        let answers = self.asking.take().flatten();
        let heard = answers.is_some();
        self.said.extend(answers.unwrap_or_default());
        heard
    }

    /// Asks for what has no answer yet in this round; returns whether there is any.
    fn go_on(&mut self, bell: Option<&Bell>) -> bool {
        let mut left = self.names.clone();
        left.retain(|name| !self.said.contains_key(name));
        if left.is_empty() {
            return false;
        }
        let elapsed = self.began.get_or_insert_with(Instant::now).elapsed();
        let piece = PIECE.max(elapsed / PIECES);
        let question = move || accounts::ask(&left, piece);
        self.asking.ask(bell.cloned(), question);
        true
    }
}
