//! The shipped policy of the instance role: enough to read the list, and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

#[test]
fn the_policy_reads_the_hierarchy_and_nothing_else() {
    let text = include_str!("../../packaging/aws/iam-policy.json");
    let policy: Value = serde_json::from_str(text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    let mut actions = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        let action = statement["Action"].as_str().unwrap();
        // A read by path is authorised on the path itself, which may be the prefix.
        let below = match &statement["Resource"] {
            Value::Array(both) if action == "ssm:GetParametersByPath" => {
                assert_eq!(both.len(), 2);
                assert_eq!(both[0], "arn:aws:ssm:*:*:parameter/authorized-keys");
                &both[1]
            }
            one => one,
        };
        let on = below.as_str().unwrap();
        assert!(!action.contains('*') && on != "*", "{statement}");
        assert!(actions.insert(action), "twice: {action}");
        match action.split_once(':').unwrap() {
            ("ssm", _) => {
                assert_eq!(on, "arn:aws:ssm:*:*:parameter/authorized-keys/*");
                assert!(statement["Condition"].is_null());
            }
            ("kms", "Decrypt") => {
                // Only for Parameter Store, and only for parameters of the hierarchy (KMS guide, "How
                // Parameter Store uses AWS KMS": the encryption context is the parameter's ARN).
                let only = &statement["Condition"]["StringLike"];
                assert_eq!(only["kms:ViaService"], "ssm.*.amazonaws.com");
                let parameters = "arn:aws:ssm:*:*:parameter/authorized-keys/*";
                assert_eq!(only["kms:EncryptionContext:PARAMETER_ARN"], parameters);
                assert!(on.starts_with("arn:aws:kms:"));
            }
            _ => panic!("not needed: {action}"),
        }
    }
    let needed = [
        "kms:Decrypt",
        "ssm:GetParameters",
        "ssm:GetParametersByPath",
    ];
    assert_eq!(actions, needed.into());
}
