//! A question to the host that may block: asked on a thread of its own, and answered when it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::host::Threads;

/// Rung when an answer has come that no pass waits for.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// One question at a time. An answer that comes later is kept until it is taken.
pub struct Inquiry<T> {
    asked: Option<oneshot::Receiver<T>>,
}

impl<T> Default for Inquiry<T> {
    fn default() -> Self {
        Self { asked: None }
    }
}

impl<T: Send + 'static> Inquiry<T> {
    /// Asks, unless an answer is still to come. Without a thread to ask on there is no answer. `bell` is rung when the
    /// answer is there.
    pub fn ask(&mut self, bell: Option<Bell>, question: impl FnOnce() -> T + Send + 'static) {
        if self.asked.is_some() {
            return;
        }
        let (answer, asked) = oneshot::channel();
        let unasked = bell.clone();
        let work = move || {
            // An asker that has ended wants no answer.
            let is_wanted = answer.send(question()).is_ok();
            if let Some(bell) = bell
                && is_wanted
            {
                bell();
            }
        };
        if Threads::spawn(work).is_err()
            && let Some(bell) = unasked
        {
            // That there will be no answer is one.
            bell();
        }
        self.asked = Some(asked);
    }

    pub fn is_open(&self) -> bool {
        self.asked.is_some()
    }

    /// The answer, if it has come; the inner `None` where the thread ended without one.
    pub fn take(&mut self) -> Option<Option<T>> {
        let told = match self.asked.as_mut()?.try_recv() {
            Ok(told) => Some(told),
            Err(oneshot::error::TryRecvError::Closed) => None,
            Err(oneshot::error::TryRecvError::Empty) => return None,
        };
        self.asked = None;
        Some(told)
    }

    /// Waits for the answer, no longer than `patience`; one that comes later is kept.
    pub async fn wait(&mut self, patience: Duration) -> Option<T> {
        let told = tokio::time::timeout(patience, self.asked.as_mut()?).await;
        let told = told.ok()?;
        self.asked = None;
        told.ok()
    }

    /// The next answer; never, while nothing is asked. Cancel-safe: an answer that comes meanwhile is kept.
    pub async fn next(&mut self) -> Option<T> {
        let Some(asked) = &mut self.asked else {
            return std::future::pending().await;
        };
        let told = asked.await;
        self.asked = None;
        told.ok()
    }
}

/// Asks once and waits, no longer than `patience`.
pub async fn ask_within<T: Send + 'static>(
    patience: Duration,
    question: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let mut inquiry = Inquiry::default();
    inquiry.ask(None, question);
    inquiry.wait(patience).await
}
