//! One key: the line it stands in, its options, its blob, the policy, and the grant that comes of it.

pub mod absolute_time;
pub mod blob;
pub mod grant;
pub mod id;
pub mod inside;
pub mod lenient;
pub mod line;
pub mod mistake;
pub mod options;
pub mod policy;
pub mod public_key;
pub mod release;
pub mod secret;
