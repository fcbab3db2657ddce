//! Names that this program makes up beside the file. Random, so that the account cannot have put something there before.

use nix::errno::Errno;

use crate::host::keyfile::refusal::Refusal;

/// The name that something is kept under which was in the way of `name`.
pub(super) fn aside(name: &str) -> Result<String, Refusal> {
    Ok(format!("{name}.aside-{}", random_hex()?))
}

/// A temporary of the file `name`. Hidden, and not a name that sshd reads.
pub(super) fn temporary(name: &str) -> Result<String, Refusal> {
    Ok(format!("{}{}", prefix(name), random_hex()?))
}

/// True for what [`temporary`] may have returned.
pub(super) fn is_temporary(candidate: &str, name: &str) -> bool {
    let random = candidate.strip_prefix(&prefix(name));
    random.is_some_and(|text| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn prefix(name: &str) -> String {
    format!(".{name}.agent-")
}

/// 64 random bits.
fn random_hex() -> Result<String, Refusal> {
    let random = getrandom::u64().map_err(|_| Refusal::Io {
        what: "get random bytes for",
        path: "a temporary name".into(),
        source: Errno::EIO,
    })?;
    Ok(format!("{random:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_is_known_again_and_nothing_else_is() {
        assert!(is_temporary(&temporary("keys").unwrap(), "keys"));
        assert_ne!(temporary("keys").unwrap(), temporary("keys").unwrap());
        for other in [
            "keys",
            ".keys.agent-",
            ".keys.agent-0123456789abcde",
            ".keys.agent-0123456789abcdeg",
            ".keys.agent-0123456789abcdef0",
            ".keys2.agent-0123456789abcdef",
            "keys.agent-0123456789abcdef",
        ] {
            assert!(!is_temporary(other, "keys"), "{other}");
        }
    }
}
