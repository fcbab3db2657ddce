//! Any text is read as a signed text and as signers; what was not signed is never taken.

#![no_main]

use authorized_keys_agent::model::signature::signers::Signers;
use authorized_keys_agent::model::signature::sshsig::{blocks, verify};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// One of them signed `keys`, and nothing else.
const SIGNERS: &str = include_str!("../../src/model/signature/testdata/allowed_signers");

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (message, blocks) = blocks(text);
    assert!(text.starts_with(message));
    let (own, refused) = Signers::read(text, &TimeZone::UTC);
    assert!(own.count() + refused.len() <= text.split('\n').count());
    let (known, _) = Signers::read(SIGNERS, &TimeZone::UTC);
    for block in blocks {
        for signers in [&known, &own] {
            if let Ok(by) = verify(message.as_bytes(), block, signers, Timestamp::UNIX_EPOCH) {
                assert_eq!(message, "keys\n", "{by:?}");
            }
        }
    }
});
