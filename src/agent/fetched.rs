//! What the fetcher leaves for the others. It was written without root, so no more is read than a real one has.

use crate::agent::paths;
use crate::host::store::{self, StoreError};
use crate::model::config::tables::Paths;
use crate::model::list::approved::ApprovedList;
use crate::model::list::bounds::{self, Excess};
use crate::model::list::fetch_report::{self, FetchReport};

/// Why the stored list is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It cannot be read.
    #[error(transparent)]
    Store(StoreError),
    /// Nothing that it says counts.
    #[error(transparent)]
    TooLarge(Excess),
}

/// The last good list; `None` when there is none.
pub fn list(paths: &Paths) -> Result<Option<ApprovedList>, ListError> {
    let most = u64::try_from(bounds::BYTES).unwrap_or(u64::MAX);
    let list: Option<ApprovedList> = match store::read_json_within(&paths::approved(paths), most) {
        Err(StoreError::TooLarge { .. }) => return Err(ListError::TooLarge(Excess::Bytes)),
        read => read.map_err(ListError::Store)?,
    };
    if let Some(list) = &list {
        list.check_bounds().map_err(ListError::TooLarge)?;
    }
    Ok(list)
}

/// How the last fetch went; `None` before the first.
pub fn report(paths: &Paths) -> Result<Option<FetchReport>, StoreError> {
    store::read_json_within(&paths::fetch_report(paths), fetch_report::MOST_BYTES)
}
