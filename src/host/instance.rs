//! Which EC2 instance this is, asked of its firmware: no network, no privilege, there before anything else runs.

use std::fs;

use crate::model::instance::Identity;

/// On a Nitro instance this is the instance id (EC2 guide, "Detect whether a host is an EC2 instance").
const ASSET_TAG: &str = "/sys/class/dmi/id/board_asset_tag";

/// On a Xen instance this begins with `ec2`; its firmware has no asset tag (the same guide).
const HYPERVISOR_UUID: &str = "/sys/hypervisor/uuid";

/// Asks the firmware.
pub fn identity() -> Identity {
    match fs::read_to_string(ASSET_TAG) {
        Ok(tag) if is_instance_id(tag.trim()) => Identity::Instance(tag.trim().to_owned()),
        Ok(_) if fs::read_to_string(HYPERVISOR_UUID).is_ok_and(|uuid| uuid.starts_with("ec2")) => {
            Identity::Unknown
        }
        Ok(_) => Identity::Other,
        Err(_) => Identity::Unknown,
    }
}

/// `i-` and 8 or 17 hexadecimal digits.
fn is_instance_id(tag: &str) -> bool {
    tag.strip_prefix("i-").is_some_and(|id| {
        matches!(id.len(), 8 | 17)
            && id
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::is_instance_id;

    #[test]
    fn an_asset_tag_is_an_instance_id_or_something_else() {
        for (tag, expected) in [
            ("i-0123456789abcdef0", true),
            ("i-1234abcd", true),
            ("i-0123456789ABCDEF0", false),
            ("i-0123456789abcdef", false),
            ("i-", false),
            ("Not Specified", false),
            ("", false),
        ] {
            assert_eq!(is_instance_id(tag), expected, "{tag}");
        }
    }
}
