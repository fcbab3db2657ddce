//! `packaging/aws/cloudwatch.yaml` and the configuration of the `CloudWatch` agent: what the agent logs comes through them to
//! the right alarm.
//!
//! What the `CloudWatch` agent does with its configuration was read in its source (1.300071.0: the translators for journald in
//! `translator/translate/otel`, the journald input and the `CloudWatch` Logs exporter of `opentelemetry-collector-contrib`): it
//! runs `journalctl --utc --output=json --follow`, with `--unit` for each unit and `--priority`, and sends each line as the
//! field `body`, without its time. The same command is run here, on a journal of what the agent really logged.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use authorized_keys_agent::agent::events::id;

use crate::journal::{Entry, Journald, with_journald};
use crate::support::deployed::{Deployed, packaging};
use crate::support::moto::Moto;
use crate::support::world::{ALICE, Ends, World, key, shown};

/// `SD_MESSAGE_UNIT_FAILURE_RESULT` (`sd-messages.h`).
const UNIT_FAILED: &str = "d9b373ed55a64feb8242e02dbe79a49c";
/// `SD_MESSAGE_UNIT_STARTED`.
const UNIT_STARTED: &str = "39f53479d3a045ac8e11786248231fbf";

/// What the `CloudWatch` agent would send of these entries, each with the unit that logged it.
fn sent(config: &Value, entries: &[(&str, Entry)]) -> Vec<Value> {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("entries.journal");
    let mut export = Vec::new();
    for (number, (unit, entry)) in entries.iter().enumerate() {
        // `journal-export-formats`: as text, for none of the values has a line break.
        let mut field = |name: &str, value: &str| {
            assert!(!value.contains('\n'), "{name}: {value}");
            writeln!(export, "{name}={value}").unwrap();
        };
        // What journald itself adds.
        field(
            "__REALTIME_TIMESTAMP",
            &format!("{}", 1_800_000_000_000_000 + number),
        );
        field("__MONOTONIC_TIMESTAMP", &format!("{}", 1 + number));
        field("_BOOT_ID", "0123456789abcdef0123456789abcdef");
        if !entry.contains_key("_PID") {
            field("_SYSTEMD_UNIT", unit);
        }
        for (name, value) in entry {
            field(name, value);
        }
        export.push(b'\n');
    }
    let mut remote = Command::new("/lib/systemd/systemd-journal-remote")
        .arg("-o")
        .args([&journal, &PathBuf::from("-")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("systemd-journal-remote");
    remote.stdin.take().unwrap().write_all(&export).unwrap();
    assert!(remote.wait().unwrap().success());

    let mut journalctl = Command::new("journalctl");
    journalctl
        .args(["--utc", "--output=json", "--file"])
        .arg(&journal);
    for unit in config["units"].as_array().unwrap() {
        journalctl.args(["--unit", unit.as_str().unwrap()]);
    }
    let priority = config["priority"].as_str().unwrap();
    let done = journalctl.args(["--priority", priority]).output().unwrap();
    assert!(done.status.success(), "{}", shown(&done.stderr));
    let lines = shown(&done.stdout);
    let event = |line: &str| {
        let mut body: Value = serde_json::from_str(line).unwrap();
        body.as_object_mut().unwrap().remove("__REALTIME_TIMESTAMP");
        json!({"body": body})
    };
    lines.lines().map(event).collect()
}

/// Of `CloudWatch` Logs' filter patterns for JSON, what the template uses: strings that are equal, a regular expression that
/// is a word, `&&`, `||` and parentheses.
struct Pattern<'a>(&'a str);

impl Pattern<'_> {
    fn matches(pattern: &str, event: &Value) -> bool {
        let inner = pattern
            .trim()
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        let mut rest = Pattern(inner.unwrap_or_else(|| panic!("no pattern for JSON: {pattern}")));
        let is_match = rest.any(event);
        assert_eq!(rest.0.trim(), "", "{pattern}");
        is_match
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.0.trim_start().strip_prefix(token);
        self.0 = found.unwrap_or(self.0);
        found.is_some()
    }

    fn up_to(&mut self, end: char) -> String {
        let (value, rest) = self.0.split_once(end).unwrap();
        self.0 = rest;
        value.trim().to_owned()
    }

    fn any(&mut self, event: &Value) -> bool {
        let mut is_match = self.all(event);
        while self.take("||") {
            is_match |= self.all(event);
        }
        is_match
    }

    fn all(&mut self, event: &Value) -> bool {
        let mut is_match = self.one(event);
        while self.take("&&") {
            is_match &= self.one(event);
        }
        is_match
    }

    fn one(&mut self, event: &Value) -> bool {
        if self.take("(") {
            let is_match = self.any(event);
            assert!(self.take(")"), "{}", self.0);
            return is_match;
        }
        assert!(self.take("$."), "{}", self.0);
        let mut value = event;
        for name in self.up_to('=').split('.') {
            value = &value[name];
        }
        let value = value.as_str();
        if self.take("%") {
            let word = self.up_to('%');
            assert!(
                word.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{word}"
            );
            return value.is_some_and(|value| value.contains(&word));
        }
        assert!(self.take("\""), "{}", self.0);
        let wanted = self.up_to('"');
        value == Some(&wanted)
    }
}

/// The resources of a type, by their names in the template.
fn resources<'a>(template: &'a Value, kind: &str) -> Vec<(&'a str, &'a Value)> {
    let all = template["Resources"].as_object().unwrap().iter();
    let of_kind = all.filter(|(_, resource)| resource["Type"] == kind);
    of_kind
        .map(|(name, resource)| (name.as_str(), &resource["Properties"]))
        .collect()
}

fn config() -> Value {
    let text = fs::read_to_string(packaging("aws/cloudwatch-agent.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_the_agent_logs_comes_to_the_right_alarm() {
    let agent = "authorized-keys-agent.service";
    let mut logged: Vec<(&str, Entry)> = Vec::new();

    // A change undone, and then a list that takes everything away.
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    let journald = Journald::of(&world);
    world.put("alice", ALICE, &key("rogue"));
    let once = |world: &World| {
        let status = with_journald(world, &["enforce", "--once"]).status();
        assert!(status.unwrap().code().is_some());
    };
    once(&world);
    logged.extend(
        journald
            .until(id::REPAIRED)
            .into_iter()
            .map(|entry| (agent, entry)),
    );
    world.revoke("alice", "laptop");
    world.approve("bob", "laptop", &key("bob@laptop"));
    world.run(&["fetch", "--once"]);
    once(&world);
    logged.extend(
        journald
            .until(id::HELD)
            .into_iter()
            .map(|entry| (agent, entry)),
    );

    // A source that is gone for long, and comes back.
    let mut world = World::new();
    world.source = "stale-after = \"1s\"".to_owned();
    world.tables = "[verify]\nevery = \"500ms\"\n".to_owned();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    let journald = Journald::of(&world);
    fs::rename(world.path("approved"), world.path("gone")).unwrap();
    let running = Ends(with_journald(&world, &["run"]).spawn().unwrap());
    loop {
        let told = journald.until(id::DEGRADED);
        let is_stale = told.last().unwrap()["PROBLEMS"].contains("list-stale");
        logged.extend(told.into_iter().map(|entry| (agent, entry)));
        if is_stale {
            break;
        }
    }
    fs::rename(world.path("gone"), world.path("approved")).unwrap();
    logged.extend(
        journald
            .until(id::HEALTHY)
            .into_iter()
            .map(|entry| (agent, entry)),
    );
    drop(running);

    // systemd's word about the unit, and what others say: a program that pretends to be the agent, and another unit.
    let pid_1 = [
        ("_PID", "1"),
        ("UNIT", "authorized-keys-fetch.service"),
        ("MESSAGE_ID", UNIT_FAILED),
        (
            "MESSAGE",
            "authorized-keys-fetch.service: Failed with result 'watchdog'.",
        ),
        ("PRIORITY", "4"),
    ];
    let entry = |fields: &[(&str, &str)]| {
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    logged.push(("init.scope", entry(&pid_1)));
    let forged = entry(&[
        ("MESSAGE_ID", id::HELD),
        ("MESSAGE", "forged"),
        ("PRIORITY", "4"),
    ]);
    logged.push(("user@1000.service", forged));
    let debug = entry(&[("MESSAGE", "too much"), ("PRIORITY", "7")]);
    logged.push((agent, debug));

    let collected = &config()["logs"]["logs_collected"]["journald"]["collect_list"][0];
    let events = sent(collected, &logged);
    assert_eq!(
        events.len(),
        logged.len() - 2,
        "all but the last two: {events:#?}"
    );
    let template = Deployed::reader().read("template", "aws/cloudwatch.yaml");
    let filters = resources(&template, "AWS::Logs::MetricFilter");
    let of = |message_id: &str, problem: &str| {
        let is_it = |event: &&Value| {
            let body = &event["body"];
            body["MESSAGE_ID"] == message_id
                && (problem.is_empty() || body["PROBLEMS"].as_str().unwrap().contains(problem))
        };
        events.iter().filter(is_it).cloned().collect::<Vec<_>>()
    };
    let expected = BTreeMap::from([
        ("UndoneFilter", of(id::REPAIRED, "")),
        ("HeldFilter", of(id::HELD, "")),
        ("DegradedFilter", of(id::DEGRADED, "")),
        ("StaleFilter", of(id::DEGRADED, "list-stale")),
        ("FetchFailingFilter", of(id::DEGRADED, "fetch-failed")),
        ("UnitFailedFilter", of(UNIT_FAILED, "")),
    ]);
    let found: BTreeMap<&str, Vec<Value>> = filters
        .iter()
        .map(|(name, filter)| {
            let pattern = filter["FilterPattern"].as_str().unwrap();
            let matching = events
                .iter()
                .filter(|event| Pattern::matches(pattern, event));
            (*name, matching.cloned().collect())
        })
        .collect();
    assert_eq!(found, expected);
    assert!(
        expected.values().all(|found| !found.is_empty()),
        "{expected:#?}"
    );
    // While a list is held the agent goes on saying so.
    let held = json!({"body": {"MESSAGE_ID": id::DEGRADED, "PROBLEMS": "file-refused, list-held"}});
    let pattern = template["Resources"]["HeldFilter"]["Properties"]["FilterPattern"]
        .as_str()
        .unwrap();
    assert!(Pattern::matches(pattern, &held));

    // Each saved query asks for the kind of entries that its alarm counts, and for fields that these have.
    for (name, query) in resources(&template, "AWS::Logs::QueryDefinition") {
        let text = query["QueryString"].as_str().unwrap();
        let about = name.strip_suffix("Query").unwrap();
        let about = if about == "Held" { "Degraded" } else { about };
        let counted = &expected[format!("{about}Filter").as_str()];
        let message_id = counted[0]["body"]["MESSAGE_ID"].as_str().unwrap();
        assert!(text.contains(message_id), "{name}");
        let asked: Vec<&str> = text
            .split("body.")
            .skip(1)
            .map(|rest| rest.split([')', ' ']).next().unwrap())
            .collect();
        // An enforcer that was started says nothing of what it no longer finds.
        let start = format!("(body.MESSAGE_ID = \"{UNIT_STARTED}\" and body.UNIT = \"{agent}\")");
        assert_eq!(text.contains(&start), text.contains(id::HEALTHY), "{name}");
        for field in asked {
            let known = [&counted[0], &expected["UnitFailedFilter"][0]];
            assert!(
                known.iter().any(|event| !event["body"][field].is_null()),
                "{name}: {field} of {}",
                counted[0]
            );
        }
    }
}

/// What the `CloudWatch` agent's own schema asks of this part (`translator/config/schema.json`), in words of our own.
fn rules() -> Value {
    json!({
        "type": "object", "required": ["logs"], "additionalProperties": false,
        "properties": {"logs": {
            "type": "object", "required": ["logs_collected"], "additionalProperties": false,
            "properties": {"logs_collected": {
                "type": "object", "required": ["journald"], "additionalProperties": false,
                "properties": {"journald": {
                    "type": "object", "required": ["collect_list"], "additionalProperties": false,
                    "properties": {"collect_list": {
                        "type": "array", "minItems": 1, "uniqueItems": true,
                        "items": {
                            "type": "object", "required": ["log_group_name"], "additionalProperties": false,
                            "properties": {
                                "log_group_name": {"type": "string", "minLength": 1, "maxLength": 512},
                                "log_stream_name": {"type": "string", "minLength": 1, "maxLength": 512},
                                "units": {"type": "array", "minItems": 1, "uniqueItems": true,
                                          "items": {"type": "string", "maxLength": 256}},
                                "priority": {"enum": ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]},
                            },
                        },
                    }},
                }},
            }},
        }},
    })
}

#[test]
fn the_configuration_is_one_for_the_cloudwatch_agent() {
    let mut deployed = Deployed::reader();
    let mut errors = |document: &Value| {
        deployed.ask(&json!({"do": "violations", "schema": rules(), "document": document}))
    };
    assert_eq!(errors(&config()), json!([]));
    let mut other = config();
    other["logs"]["logs_collected"]["journald"]["collect_list"][0]["priority"] = json!("warn");
    assert_ne!(errors(&other), json!([]));
    // The units are those that are shipped.
    let collected = &config()["logs"]["logs_collected"]["journald"]["collect_list"][0];
    for unit in collected["units"].as_array().unwrap() {
        assert!(
            packaging("../systemd")
                .join(unit.as_str().unwrap())
                .is_file(),
            "{unit}"
        );
    }
}

#[test]
fn the_alarms_watch_the_metrics_that_the_filters_make() {
    let moto = Moto::start();
    let mut deployed = Deployed::in_moto(&moto);
    let topic = "arn:aws:sns:eu-central-1:123456789012:alarms";
    let queue = "https://sqs.eu-central-1.amazonaws.com/123456789012/push-Undelivered-1A2B";
    let given = [
        ("TopicArn", topic),
        ("UndeliveredQueueUrl", queue),
        ("KeyPairFunctionName", "key-pairs-Function-3C4D"),
    ];
    let (outputs, _) = deployed.create("logs", "cloudwatch.yaml", &given);
    // moto makes the log group, the policy and the parameter.
    let groups = deployed.aws("logs", "describe_log_groups", &json!({}));
    assert_eq!(
        groups["logGroups"][0]["logGroupName"],
        "/authorized-keys-agent"
    );
    assert_eq!(groups["logGroups"][0]["retentionInDays"], 90);
    let group = &groups["logGroups"][0]["arn"];
    let version = json!({"PolicyArn": outputs["PolicyArn"], "VersionId": "v1"});
    let policy =
        deployed.aws("iam", "get_policy_version", &version)["PolicyVersion"]["Document"].take();
    assert_eq!(
        policy["Statement"][0]["Action"],
        json!(["logs:CreateLogStream", "logs:PutLogEvents"])
    );
    assert_eq!(
        policy["Statement"][0]["Resource"]
            .as_str()
            .unwrap()
            .trim_end_matches(":*"),
        group.as_str().unwrap().trim_end_matches(":*")
    );
    let name = outputs["ConfigParameterName"].as_str().unwrap();
    assert_eq!(name, "AmazonCloudWatch-logs");
    let parameter = format!("arn:aws:ssm:eu-central-1:123456789012:parameter/{name}");
    assert_eq!(policy["Statement"][1]["Resource"], parameter);
    let value =
        deployed.aws("ssm", "get_parameter", &json!({"Name": name}))["Parameter"]["Value"].take();
    let value: Value = serde_json::from_str(value.as_str().unwrap()).unwrap();
    assert_eq!(value, config(), "the parameter and the file are the same");

    // The rest through the calls that CloudFormation makes, with the template's own values.
    let template = deployed.read("template", "aws/cloudwatch.yaml");
    let resolved = |properties: &Value| {
        let text = properties.to_string();
        let text = text
            .replace(
                r#"{"Fn::If":["Tells",[{"Ref":"TopicArn"}],{"Ref":"AWS::NoValue"}]}"#,
                &format!("[\"{topic}\"]"),
            )
            .replace(
                r#"{"Fn::Select":[4,{"Fn::Split":["/",{"Ref":"UndeliveredQueueUrl"}]}]}"#,
                &format!("\"{}\"", queue.split('/').nth(4).unwrap()),
            )
            .replace(
                r#"{"Ref":"KeyPairFunctionName"}"#,
                "\"key-pairs-Function-3C4D\"",
            )
            .replace(r#"{"Ref":"Log"}"#, "\"/authorized-keys-agent\"")
            .replace("${AWS::StackName}", "logs");
        let mut value: Value = serde_json::from_str(&text).unwrap();
        for property in value.as_object_mut().unwrap().values_mut() {
            if let Some(inner) = property.get_mut("Fn::Sub") {
                *property = inner.take();
            }
        }
        assert!(
            !value["MetricTransformations"].is_null() || !value.to_string().contains("Fn::"),
            "{value}"
        );
        value
    };
    let mut metrics = BTreeMap::new();
    for (name, filter) in resources(&template, "AWS::Logs::MetricFilter") {
        let filter = resolved(filter);
        let made = &filter["MetricTransformations"][0];
        let namespace = made["MetricNamespace"]["Fn::Sub"].as_str().unwrap();
        let wanted = json!({"logGroupName": filter["LogGroupName"], "filterName": name, "filterPattern": filter["FilterPattern"],
            "metricTransformations": [{"metricName": made["MetricName"], "metricNamespace": namespace, "metricValue": made["MetricValue"]}]});
        deployed.aws("logs", "put_metric_filter", &wanted);
        metrics.insert(
            made["MetricName"].as_str().unwrap().to_owned(),
            namespace.to_owned(),
        );
    }
    for (_, alarm) in resources(&template, "AWS::CloudWatch::Alarm") {
        deployed.aws("cloudwatch", "put_metric_alarm", &resolved(alarm));
    }
    let alarms = deployed.aws("cloudwatch", "describe_alarms", &json!({}));
    let alarms = alarms["MetricAlarms"].as_array().unwrap();
    assert_eq!(alarms.len(), metrics.len() + 2);
    let queries: Vec<String> = resources(&template, "AWS::Logs::QueryDefinition")
        .iter()
        .map(|(_, query)| resolved(query)["Name"].as_str().unwrap().to_owned())
        .collect();
    for alarm in alarms {
        assert_eq!(
            (&alarm["AlarmActions"], &alarm["OKActions"]),
            (&json!([topic]), &json!([topic])),
            "{alarm}"
        );
        assert_eq!(
            (&alarm["TreatMissingData"], &alarm["Threshold"]),
            (&json!("notBreaching"), &json!(1.0)),
            "{alarm}"
        );
        let metric = alarm["MetricName"].as_str().unwrap();
        match alarm["Namespace"].as_str().unwrap() {
            "AWS/SQS" => assert_eq!(
                (metric, &alarm["Dimensions"]),
                (
                    "ApproximateNumberOfMessagesVisible",
                    &json!([{"Name": "QueueName", "Value": "push-Undelivered-1A2B"}])
                )
            ),
            "AWS/Lambda" => assert_eq!(
                (metric, &alarm["Dimensions"]),
                (
                    "Errors",
                    &json!([{"Name": "FunctionName", "Value": "key-pairs-Function-3C4D"}])
                )
            ),
            namespace => {
                assert_eq!(metrics[metric], namespace);
                let name = alarm["AlarmName"].as_str().unwrap();
                let query = name.replacen('-', "/", 1);
                assert!(queries.contains(&query), "{name} has its query");
                assert!(
                    alarm["AlarmDescription"].as_str().unwrap().contains(&query),
                    "{alarm}"
                );
            }
        }
    }
}
