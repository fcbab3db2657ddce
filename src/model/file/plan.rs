//! From the differences of one file to what is done about them.

use crate::model::config::tables::Mode;
use crate::model::file::difference::Difference;

/// What to do about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Leave,
    /// Observe mode: say that it differs.
    Report,
    /// Replace the whole file.
    Replace,
}

impl Plan {
    /// An `unsettled` file is one whose last replacement did not end well: nothing seems to differ, and it is replaced.
    pub fn of(mode: Mode, differences: &[Difference], unsettled: bool) -> Self {
        match mode {
            Mode::Observe if differences.is_empty() => Self::Leave,
            Mode::Observe => Self::Report,
            Mode::Enforce if differences.is_empty() && !unsettled => Self::Leave,
            Mode::Enforce => Self::Replace,
        }
    }
}
