//! Whether the audit log will say who changed a managed file.

use crate::host::{audit, process};
use crate::model::past::audit_rules;
use crate::model::status::preflight::Finding;

/// The rule of `packaging/audit/`, where it is loaded. Only root may ask.
pub(super) fn look(findings: &mut Vec<Finding>) {
    let rules = if process::is_root() {
        audit::rules()
    } else {
        None
    };
    let Some(rules) = rules.filter(|rules| audit_rules::has_key(rules, audit::KEY)) else {
        return;
    };
    let key = audit::KEY;
    if audit_rules::silencer(&rules).is_none() {
        let message = format!("the rule `{key}` records who changes a file");
        return findings.push(Finding::ok("audit", message));
    }
    let rule = match audit::silencer() {
        Some((file, line)) => format!("line {line} of `{}`", file.display()),
        None => "`-a never,task`".to_owned(),
    };
    let hint = format!(
        "take {rule} away, then `augenrules --load`, or a reboot where the rules are locked (`-e 2`); what runs already stays \
         unrecorded until it is started again"
    );
    let message = format!("the rule `{key}` records nothing: `-a never,task` is loaded too");
    findings.push(Finding::warn("audit", message, hint));
}
