//! What stands before moto and sees every call: it passes calls on, or not, as the test says.
//!
//! Only writes are numbered, from 1; a test does what it likes before one of them is passed on, such as to publish something
//! else, and then says what becomes of it.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http_server::{Answer, HttpServer, Request};
use crate::support::moto::Moto;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Passed,
    /// Passed on, and its answer never arrives.
    Unanswered,
    /// Neither passed on nor answered.
    Lost,
    Throttled,
    Denied,
}

/// One call, as its caller made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `ssm:PutParameter`.
    pub action: String,
    /// `Name` or `Path` of the call.
    pub on: String,
    pub body: Value,
    /// Which write it is; none of a read.
    pub write: Option<usize>,
}

pub struct SsmFront {
    http: HttpServer,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl SsmFront {
    pub fn start(moto: &Moto, fate: impl Fn(&Call) -> Fate + Send + Sync + 'static) -> Self {
        let address = moto.address();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let seen = Arc::clone(&calls);
        let http = HttpServer::start(move |request| {
            let call = {
                let mut seen = seen.lock().unwrap();
                let call = read(request, &seen);
                seen.push(call.clone());
                call
            };
            match fate(&call) {
                Fate::Passed => pass(address, request),
                Fate::Unanswered => {
                    pass(address, request);
                    Answer::HangUp
                }
                Fate::Lost => Answer::HangUp,
                Fate::Throttled => refused("ThrottlingException", "Rate exceeded"),
                Fate::Denied => {
                    let message = format!(
                        "User: arn:aws:iam::111122223333:user/ci is not authorized to perform: {} on resource: \
                         arn:aws:ssm:eu-central-1:111122223333:parameter{} because no identity-based policy allows it",
                        call.action, call.on
                    );
                    refused("AccessDeniedException", &message)
                }
            }
        });
        Self { http, calls }
    }

    pub fn endpoint(&self) -> String {
        self.http.endpoint()
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Those of them that write.
    pub fn writes(&self) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.write.is_some());
        calls
    }
}

fn read(request: &Request, before: &[Call]) -> Call {
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let target = &request.headers["x-amz-target"];
    let action = format!("ssm:{}", target.trim_start_matches("AmazonSSM."));
    let on = body["Name"].as_str().or(body["Path"].as_str());
    let is_write = !action.starts_with("ssm:Get");
    let writes = before.iter().filter(|call| call.write.is_some()).count();
    Call {
        on: on.unwrap_or_default().to_owned(),
        write: is_write.then_some(writes + 1),
        action,
        body,
    }
}

fn pass(address: std::net::SocketAddr, request: &Request) -> Answer {
    let mut head = String::from("POST / HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in &request.headers {
        if name != "connection" {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    let whole = format!("{head}\r\n{}", request.body);
    stream.write_all(whole.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    answer(status, body.as_bytes().to_vec())
}

fn refused(code: &str, message: &str) -> Answer {
    let body = json!({"__type": code, "message": message});
    answer(400, body.to_string().into_bytes())
}

fn answer(status: u16, body: Vec<u8>) -> Answer {
    let kind = "application/x-amz-json-1.1".to_owned();
    Answer::Reply {
        status,
        headers: vec![("content-type".to_owned(), kind)],
        body,
    }
}
