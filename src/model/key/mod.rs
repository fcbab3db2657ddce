//! One key: the line it stands in, its options, its blob, the policy, and the grant that comes of it.

pub mod grant;
pub mod id;
pub mod lenient;
pub mod line;
pub mod options;
pub mod policy;
pub mod public_key;
pub mod release;
pub mod secret;
