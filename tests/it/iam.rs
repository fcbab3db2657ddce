//! The shipped policies: the instance role's reads the list and does nothing else; the organisation's lets nobody but
//! publishers change it.

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
                assert_eq!(both[0], "arn:aws*:ssm:*:*:parameter/authorized-keys");
                &both[1]
            }
            one => one,
        };
        let on = below.as_str().unwrap();
        assert!(!action.contains('*') && on != "*", "{statement}");
        assert!(actions.insert(action), "twice: {action}");
        match action.split_once(':').unwrap() {
            ("ssm", _) => {
                assert_eq!(on, "arn:aws*:ssm:*:*:parameter/authorized-keys/*");
                assert!(statement["Condition"].is_null());
            }
            ("kms", "Decrypt") => {
                // Only for Parameter Store, and only for parameters of the hierarchy (KMS guide, "How
                // Parameter Store uses AWS KMS": the encryption context is the parameter's ARN).
                let only = &statement["Condition"]["StringLike"];
                let through = serde_json::json!(["ssm.*.amazonaws.com", "ssm.*.amazonaws.com.cn"]);
                assert_eq!(only["kms:ViaService"], through);
                let parameters = "arn:aws*:ssm:*:*:parameter/authorized-keys/*";
                assert_eq!(only["kms:EncryptionContext:PARAMETER_ARN"], parameters);
                assert!(on.starts_with("arn:aws*:kms:"));
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

#[test]
fn the_organisation_s_policy_denies_changes_to_all_but_publishers() {
    let text = include_str!("../../packaging/aws/service-control-policy.json");
    // "Service control policies: 5,120 characters" (AWS Organizations guide, quotas). The AWS CLI sends blanks as they are.
    assert!(text.len() <= 5120, "{} characters", text.len());
    let policy: Value = serde_json::from_str(text).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    let list = |value: &Value| -> Vec<String> {
        match value.as_str() {
            Some(one) => vec![one.to_owned()],
            None => serde_json::from_value(value.clone()).unwrap(),
        }
    };
    let fits = |patterns: &Value, arn: &str| {
        let mut patterns = list(patterns).into_iter();
        patterns.any(|pattern| glob::Pattern::new(&pattern).unwrap().matches(arn))
    };
    let check = |who: &str, action: &str, on: &str, expected: bool| {
        let denied = statements.iter().any(|statement| {
            assert_eq!(statement["Effect"], "Deny");
            let exempt = &statement["Condition"]["ArnNotLike"]["aws:PrincipalArn"];
            list(&statement["Action"]).iter().any(|of| of == action)
                && fits(&statement["Resource"], on)
                && !fits(exempt, &format!("arn:aws-cn:iam::111122223333:{who}"))
        });
        assert_eq!(denied, expected, "{who} {action} {on}");
    };
    let key = "arn:aws-cn:ssm:cn-north-1:111122223333:parameter/authorized-keys/web/ec2-user/alice";
    let beside = "arn:aws:ssm:eu-central-1:111122223333:parameter/authorized-keys-old/web";
    let publisher = "role/authorized-keys-publisher";
    let function = "role/authorized-keys-key-pairs-Role-1ABCDEF";
    let page = include_str!("../../docs/security.md");
    for action in list(&statements[0]["Action"]) {
        check("role/admin", &action, key, true);
        check("user/alice", &action, key, true);
        check("root", &action, key, true);
        check("role/x/authorized-keys-publisher", &action, key, true);
        check(publisher, &action, key, false);
        check(function, &action, key, false);
        check("role/admin", &action, beside, false);
        assert!(
            page.contains(&format!("`{action}`")),
            "{action} is not on the page"
        );
    }
    check("role/web", "ssm:GetParametersByPath", key, false);
    // Who could become one of them could change the list.
    let administrator = "role/OrganizationAccountAccessRole";
    for action in list(&statements[1]["Action"]) {
        for role in [publisher, function] {
            let role = format!("arn:aws:iam::111122223333:{role}");
            check("role/admin", &action, &role, true);
            check(publisher, &action, &role, true);
            check(administrator, &action, &role, false);
        }
        check(
            "role/admin",
            &action,
            "arn:aws:iam::111122223333:role/web",
            false,
        );
    }
    check(administrator, "ssm:PutParameter", key, true);
}
