//! What a part of the list holds, as one digest: of a path for its index, and of all that a signature covers.

use crate::model::sha256::Sha256;

/// The first line of an index, and of what is signed.
pub const HEADER: &str = "authorized-keys-list 1";

/// The same parameters with the same values have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub parameters: usize,
    /// In hexadecimal digits.
    pub sha256: String,
}

impl Contents {
    /// Of these names and values, sorted by name, which are all below `path`. Where the first name below begins with a dot,
    /// the parameter is about the list and not of it.
    pub fn of<'a>(
        path: &str,
        parameters: &mut dyn Iterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        let path = path.trim_end_matches('/');
        let mut below = parameters.filter_map(|(name, value)| {
            let below = name.strip_prefix(path)?.strip_prefix('/')?;
            Some((below, value.as_str()))
        });
        Self::of_names(&mut below)
    }

    /// The same of names that are relative to where the list is.
    pub fn of_names(parameters: &mut dyn Iterator<Item = (&str, &str)>) -> Self {
        let (mut hash, mut count) = (Sha256::new(), 0);
        for (name, value) in parameters {
            if name.starts_with('.') {
                continue;
            }
            count += 1;
            for field in [name, value] {
                let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
                hash.update(length.to_be_bytes());
                hash.update(field);
            }
        }
        Self {
            parameters: count,
            sha256: format!("{:x}", hash.finalize()),
        }
    }
}
