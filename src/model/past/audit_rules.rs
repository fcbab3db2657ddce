//! The rules of the Linux audit system, as `auditctl -l` prints them and as files have them (auditctl(8)).

/// Whether a rule writes this key into its records.
pub fn has_key(rules: &str, key: &str) -> bool {
    rules.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_rule = words.next().is_some_and(|word| word.starts_with('-'));
        is_rule && words.any(|word| word.strip_prefix("key=").unwrap_or(word) == key)
    })
}

/// The line, from 1, of the rule by which no process that starts has its system calls recorded, so that all rules about
/// these are without effect ("DISABLED BY DEFAULT" in auditctl(8)). The first rule for tasks that fits a process counts.
pub fn silencer(rules: &str) -> Option<usize> {
    for (at, line) in rules.lines().enumerate() {
        let mut words = line.split_ascii_whitespace();
        let option = words.next();
        let rule = words.next();
        // With fields or a key it is about some processes.
        if !matches!(option, Some("-a" | "-A")) || words.next().is_some() {
            continue;
        }
        match rule {
            Some("never,task" | "task,never") => return Some(at + 1),
            Some("always,task" | "task,always") => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_records_no_process_is_found() {
        for (rules, expected) in [
            ("", None),
            ("No rules\n", None),
            ("-a never,task", Some(1)),
            // auditd's own 10-no-audit.rules, and what Amazon Linux has.
            (
                "## suppresses\n-D\n\n-a task,never\n-w /etc -p wa\n",
                Some(4),
            ),
            ("-D\n-b 8192\n  -A never,task  \n", Some(3)),
            ("#-a never,task\n# -a never,task\n", None),
            ("-a never,task -F uid=12345\n-a never,exit\n", None),
            ("-a never,task -F uid=12345\n-a never,task\n", Some(2)),
            ("-a always,task\n-a never,task\n", None),
            ("-a always,task -F uid=0\n-a never,task\n", Some(2)),
            ("-d never,task\n-a\n-w never,task\n", None),
        ] {
            assert_eq!(silencer(rules), expected, "{rules}");
        }
    }

    #[test]
    fn a_rule_with_the_key_is_found_as_it_was_written_and_as_it_is_listed() {
        let written = "-a always,exit -F arch=b64 -F dir=/home/a/.ssh -F perm=wa -k KEY";
        let listed = "-a always,exit -F arch=b64 -S all -F dir=/home/a/.ssh -F perm=wa -F key=KEY";
        for (rules, expected) in [
            (written, true),
            (listed, true),
            ("-w /home/a/.ssh -p wa -k KEY", true),
            ("No rules", false),
            ("# -w /home/a/.ssh -p wa -k KEY", false),
            ("-w /home/KEY -p wa -k OTHER", false),
            ("-w /home/a -p wa -k KEYS", false),
        ] {
            assert_eq!(has_key(rules, "KEY"), expected, "{rules}");
        }
    }
}
