//! A metadata service of the tests' own (IMDSv2): session token, region, account, instance id, tags, a role.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::http_server::{Answer, HttpServer, Request};

/// What the service shows, and how it misbehaves.
#[derive(Clone, Debug)]
pub struct Instance {
    pub region: &'static str,
    pub id: &'static str,
    /// `None`: instance metadata does not show tags.
    pub tags: Option<BTreeMap<&'static str, &'static str>>,
    /// The name of an instance role that has credentials.
    pub role: Option<&'static str>,
    /// Every answer has this status, such as 503, or 403 as with the service disabled.
    pub status: Option<u16>,
    /// Every answer takes this long.
    pub delay: Duration,
    /// What every fact is instead: a page of something else.
    pub instead: Option<&'static str>,
    /// The document that the role has.
    pub credentials: &'static str,
}

impl Default for Instance {
    fn default() -> Self {
        Self {
            region: "eu-central-1",
            id: "i-0123456789abcdef0",
            tags: None,
            role: None,
            status: None,
            delay: Duration::ZERO,
            instead: None,
            credentials: CREDENTIALS,
        }
    }
}

/// A running stand-in.
pub struct ImdsServer {
    http: HttpServer,
    instance: Arc<Mutex<Instance>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

const TOKEN: &str = "session-token-of-the-tests";

impl ImdsServer {
    /// Shows `instance` until dropped.
    pub fn start(instance: Instance) -> Self {
        let instance = Arc::new(Mutex::new(instance));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (shown, seen) = (Arc::clone(&instance), Arc::clone(&requests));
        let http = HttpServer::start(move |request| {
            seen.lock().unwrap().push(request.clone());
            let instance = shown.lock().unwrap().clone();
            let answer = answer(request, &instance);
            if instance.delay.is_zero() {
                answer
            } else {
                Answer::After(instance.delay, Box::new(answer))
            }
        });
        Self {
            http,
            instance,
            requests,
        }
    }

    /// `http://127.0.0.1:PORT`, for `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.http.endpoint()
    }

    /// Changes what is shown from now on.
    pub fn change(&self, change: impl FnOnce(&mut Instance)) {
        change(&mut self.instance.lock().unwrap());
    }

    /// Paths asked so far, in order.
    pub fn paths(&self) -> Vec<String> {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .map(|request| request.path.clone())
            .collect()
    }
}

fn answer(request: &Request, instance: &Instance) -> Answer {
    if let Some(status) = instance.status {
        return text(status, "");
    }
    if request.method == "PUT" && request.path == "/latest/api/token" {
        let ttl = request.headers["x-aws-ec2-metadata-token-ttl-seconds"].clone();
        let headers = vec![("x-aws-ec2-metadata-token-ttl-seconds".to_owned(), ttl)];
        return Answer::Reply {
            status: 200,
            headers,
            body: TOKEN.into(),
        };
    }
    if request
        .headers
        .get("x-aws-ec2-metadata-token")
        .map(String::as_str)
        != Some(TOKEN)
    {
        return text(401, "");
    }
    if request.path == "/latest/dynamic/instance-identity/document" {
        return text(200, instance.instead.unwrap_or(IDENTITY));
    }
    let path = request
        .path
        .strip_prefix("/latest/meta-data/")
        .unwrap_or_default()
        .trim_end_matches('/');
    match (path, &instance.tags, instance.role) {
        ("placement/region", ..) => text(200, instance.instead.unwrap_or(instance.region)),
        ("instance-id", ..) => text(200, instance.instead.unwrap_or(instance.id)),
        ("tags/instance", Some(tags), _) => {
            text(200, &tags.keys().copied().collect::<Vec<_>>().join("\n"))
        }
        ("iam/security-credentials" | "iam/security-credentials-extended", _, Some(role)) => {
            text(200, role)
        }
        (path, tags, role) => {
            if let Some(value) = tags
                .as_ref()
                .and_then(|t| t.get(path.strip_prefix("tags/instance/")?))
            {
                text(200, value)
            } else if role.is_some_and(|role| path.ends_with(&format!("/{role}"))) {
                text(200, instance.credentials)
            } else {
                text(404, "")
            }
        }
    }
}

const CREDENTIALS: &str = r#"{"Code": "Success", "LastUpdated": "2026-01-01T00:00:00Z", "Type": "AWS-HMAC",
  "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": "secret-of-the-role", "Token": "token-of-the-role",
  "AccountId": "111122223333", "Expiration": "2099-01-01T00:00:00Z"}"#;

/// As the EC2 guide shows one, shortened.
const IDENTITY: &str = r#"{
  "accountId" : "111122223333",
  "architecture" : "x86_64",
  "availabilityZone" : "eu-central-1a",
  "billingProducts" : null,
  "imageId" : "ami-0123456789abcdef0",
  "instanceId" : "i-0123456789abcdef0",
  "region" : "eu-central-1"
}"#;

fn text(status: u16, body: &str) -> Answer {
    let headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
    Answer::Reply {
        status,
        headers,
        body: body.into(),
    }
}
