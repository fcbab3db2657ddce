//! The example for Terraform: each stack has a template, and gives it what it needs.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::deployed::{Deployed, packaging};

/// The longest template that goes as text, in bytes (API reference, `CreateStack`).
const TEMPLATE_BODY: usize = 51_200;

/// The names in an object, none where there is no such object.
fn names(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object();
    object
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn every_stack_has_a_template_and_gives_it_what_it_needs() {
    let mut reader = Deployed::reader();
    let path = packaging("examples/terraform/main.tf");
    let text = fs::read_to_string(&path).unwrap();
    let example = reader.read("hcl", "examples/terraform/main.tf");
    let declared = |kind: &str| -> BTreeSet<String> {
        let all = example[kind].as_array().unwrap().iter().flat_map(names);
        all.map(ToOwned::to_owned).collect()
    };
    let variables = declared("variable");
    for used in text.split("var.").skip(1) {
        let name = used
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap();
        assert!(variables.contains(name), "{name}");
    }
    let templates = example["locals"][0]["templates"].as_str().unwrap();
    let directory = templates.replace("${path.module}", path.parent().unwrap().to_str().unwrap());
    assert_eq!(fs::canonicalize(directory).unwrap(), packaging("aws"));
    let mut outputs = BTreeSet::new();
    for resource in example["resource"].as_array().unwrap() {
        let (stack, given) = resource["aws_cloudformation_stack"]
            .as_object()
            .and_then(|one| one.iter().next())
            .unwrap();
        let file = given["template_body"].as_str().unwrap();
        let file = file
            .strip_prefix("${file(\"${local.templates}/")
            .and_then(|rest| rest.strip_suffix("\")}"))
            .unwrap();
        let size = fs::metadata(packaging("aws").join(file)).unwrap().len();
        assert!(usize::try_from(size).unwrap() <= TEMPLATE_BODY, "{file}");
        let template = reader.read("template", &format!("aws/{file}"));
        let known = names(&template["Parameters"]);
        let needed = known
            .iter()
            .copied()
            .filter(|name| template["Parameters"][name]["Default"].is_null())
            .collect();
        let given_ones = names(&given["parameters"]);
        assert!(given_ones.is_subset(&known), "{stack}: {given_ones:?}");
        assert!(given_ones.is_superset(&needed), "{stack}: {needed:?}");
        let makes_roles = template["Resources"].to_string().contains("\"AWS::IAM::");
        assert_eq!(
            given["capabilities"][0] == "CAPABILITY_IAM",
            makes_roles,
            "{stack}"
        );
        for output in names(&template["Outputs"]) {
            outputs.insert(format!(
                "aws_cloudformation_stack.{stack}.outputs[\"{output}\"]"
            ));
        }
    }
    let mut read = 0;
    for used in text.match_indices("aws_cloudformation_stack.") {
        let output = text[used.0..].split_inclusive(']').next().unwrap();
        assert!(outputs.contains(output), "{output}");
        read += 1;
    }
    assert!(read >= 2, "{read}");
}
