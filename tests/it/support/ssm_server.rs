//! A Parameter Store of the tests' own: it speaks the JSON protocol (`X-Amz-Target`), serves what was put
//! into it, and follows a script of faults that neither AWS nor moto can be asked for.
//!
//! ```ignore
//! let server = SsmServer::start([("/k/ec2-user", "ssh-ed25519 …")]);
//! server.script([Behaviour::Good, Behaviour::throttle()]); // the second call is throttled, later ones are good
//! server.always(Behaviour::Html(502));                     // from now on
//! server.put("/k/ec2-user", "…");                          // as a new version
//! assert_eq!(server.calls(), 2);
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::http_server::{Answer, HttpServer, Request};

/// How one call is answered.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// As the real service does, from what was put.
    Good,
    /// An error of the service: status, code, message.
    Error(u16, &'static str, &'static str),
    /// A status without a body.
    Status(u16),
    /// 200 and a list without anything in it, as an outage was once answered.
    EmptyList,
    /// 200 and this body.
    Body(String),
    /// 200 and the good body, cut in the middle but declared whole.
    TruncatedJson,
    /// A page of HTML, as proxies send it, with this status.
    Html(u16),
    /// The good page, and the same token with every call.
    SameToken,
    /// The good page, and a new token with every call, for ever.
    EndlessTokens,
    /// No parameter, and the token of the page that should have come.
    EmptyPage,
    /// 200 and a body of this many bytes.
    Huge(usize),
    /// Head and half of the good body, then silence.
    StallInBody,
    /// Head and half of the good body, then the end of the connection.
    CutInBody,
    /// No answer at all.
    Silence,
    /// The connection ends without an answer.
    HangUp,
    /// The good answer, and then the end of the connection.
    GoodThenHangUp,
    /// The good answer, late.
    Slow(Duration),
    /// A first page is good, this is all later ones.
    OnLaterPages(Box<Behaviour>),
    /// This for parameters that are asked for by name; by path they are good.
    ByName(Box<Behaviour>),
}

impl Behaviour {
    /// The service's own way to throttle, in no operation's list of errors.
    pub fn throttle() -> Self {
        Self::Error(400, "ThrottlingException", "Rate exceeded")
    }

    /// A session that is over.
    pub fn expired() -> Self {
        Self::Error(
            400,
            "ExpiredTokenException",
            "The security token included in the request is expired",
        )
    }

    /// What a role without the permission gets.
    pub fn denied() -> Self {
        Self::Error(
            400,
            "AccessDeniedException",
            "User: arn:aws:sts::111122223333:assumed-role/web/i-0abc is not authorized to perform: \
             ssm:GetParametersByPath on resource: arn:aws:ssm:eu-central-1:111122223333:parameter/k because no \
             identity-based policy allows the ssm:GetParametersByPath action",
        )
    }
}

/// A running stand-in.
pub struct SsmServer {
    http: HttpServer,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    parameters: BTreeMap<String, (u64, String)>,
    script: VecDeque<Behaviour>,
    otherwise: Behaviour,
    requests: Vec<Request>,
    /// What the `date` of every answer says.
    date: String,
}

impl SsmServer {
    /// Starts with these parameters: name and value. `name:label` is readable by that name only.
    pub fn start<N: Into<String>, V: Into<String>>(
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), parameters)
    }

    /// Starts at an address where something else was before.
    pub fn start_at<N: Into<String>, V: Into<String>>(
        address: SocketAddr,
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let parameters = parameters
            .into_iter()
            .map(|(name, value)| (name.into(), (1, value.into())));
        let state = State {
            parameters: parameters.collect(),
            script: VecDeque::new(),
            otherwise: Behaviour::Good,
            requests: Vec::new(),
            date: "Tue, 14 Nov 2023 22:13:20 GMT".to_owned(),
        };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let for_handler = Arc::clone(&state);
        let http = HttpServer::start_at(address, move |request| {
            let mut state = for_handler.0.lock().unwrap();
            state.requests.push(request.clone());
            let behaviour = state
                .script
                .pop_front()
                .unwrap_or_else(|| state.otherwise.clone());
            let calls = state.requests.len();
            let answer = dated(
                behave(behaviour, request, &state.parameters, calls),
                &state.date,
            );
            drop(state);
            for_handler.1.notify_all();
            answer
        });
        Self { http, state }
    }

    /// `http://127.0.0.1:PORT`, for `AWS_ENDPOINT_URL_SSM`.
    pub fn endpoint(&self) -> String {
        self.http.endpoint()
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.http.address()
    }

    /// All parameters, name and value.
    pub fn parameters(&self) -> Vec<(String, String)> {
        let state = self.state.0.lock().unwrap();
        state
            .parameters
            .iter()
            .map(|(name, (_, value))| (name.clone(), value.clone()))
            .collect()
    }

    /// One behaviour for each of the next calls; those after them follow [`Self::always`], at first good.
    pub fn script(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.state.0.lock().unwrap().script = behaviours.into_iter().collect();
    }

    /// This behaviour for all calls from now on, instead of any script.
    pub fn always(&self, behaviour: Behaviour) {
        let mut state = self.state.0.lock().unwrap();
        state.script.clear();
        state.otherwise = behaviour;
    }

    /// A new parameter or the next version of one.
    pub fn put(&self, name: &str, value: &str) {
        let mut state = self.state.0.lock().unwrap();
        let version = state
            .parameters
            .get(name)
            .map_or(1, |(version, _)| version + 1);
        state
            .parameters
            .insert(name.to_owned(), (version, value.to_owned()));
    }

    /// Removes a parameter.
    pub fn delete(&self, name: &str) {
        self.state.0.lock().unwrap().parameters.remove(name);
    }

    /// What time the service says it is, from now on.
    pub fn set_clock(&self, at: Timestamp) {
        self.state.0.lock().unwrap().date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.state.0.lock().unwrap().requests.len()
    }

    /// Requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.state.0.lock().unwrap().requests.clone()
    }

    /// Waits until there were at least `calls`; false when `limit` passes first.
    pub fn wait_for_calls(&self, calls: usize, limit: Duration) -> bool {
        let state = self.state.0.lock().unwrap();
        let few = |state: &mut State| state.requests.len() < calls;
        !self
            .state
            .1
            .wait_timeout_while(state, limit, few)
            .unwrap()
            .1
            .timed_out()
    }

    /// Connections so far: one, while they are kept alive.
    pub fn connections(&self) -> usize {
        self.http.connections()
    }

    /// Connections that have ended.
    pub fn ended_connections(&self) -> usize {
        self.http.ended_connections()
    }
}

fn behave(
    behaviour: Behaviour,
    request: &Request,
    parameters: &BTreeMap<String, (u64, String)>,
    calls: usize,
) -> Answer {
    let good = || good(request, parameters);
    let body = || good().to_string().into_bytes();
    match behaviour {
        Behaviour::OnLaterPages(_) if !request.body.contains("NextToken") => reply(200, body()),
        Behaviour::ByName(_) if !request.body.contains("Names") => reply(200, body()),
        Behaviour::OnLaterPages(then) | Behaviour::ByName(then) => {
            behave(*then, request, parameters, calls)
        }
        Behaviour::Good => reply(200, body()),
        Behaviour::Error(status, code, message) => reply(
            status,
            json!({"__type": code, "message": message})
                .to_string()
                .into_bytes(),
        ),
        Behaviour::Status(status) => reply(status, Vec::new()),
        Behaviour::EmptyList => reply(200, json!({"Parameters": []}).to_string().into_bytes()),
        Behaviour::Body(body) => reply(200, body.into_bytes()),
        Behaviour::TruncatedJson => reply(200, body()[..body().len() / 2].to_vec()),
        Behaviour::Html(status) => html(status),
        Behaviour::SameToken => reply(200, with_token(good(), "same")),
        Behaviour::EndlessTokens => reply(200, with_token(good(), &format!("call-{calls}"))),
        Behaviour::EmptyPage => {
            let asked: Value = serde_json::from_str(&request.body).unwrap();
            let token = asked["NextToken"].as_str().unwrap_or("0").to_owned();
            // The same offset under another name, so that the token is a new one.
            reply(
                200,
                with_token(json!({"Parameters": []}), &format!("0{token}")),
            )
        }
        Behaviour::Huge(bytes) => reply(200, vec![b' '; bytes]),
        Behaviour::StallInBody => Answer::StallInBody(body()),
        Behaviour::CutInBody => Answer::CutInBody(body()),
        Behaviour::Silence => Answer::Silence,
        Behaviour::HangUp => Answer::HangUp,
        Behaviour::GoodThenHangUp => Answer::ReplyAndHangUp(body()),
        Behaviour::Slow(wait) => Answer::After(wait, Box::new(reply(200, body()))),
    }
}

/// What the real service answers.
fn good(request: &Request, parameters: &BTreeMap<String, (u64, String)>) -> Value {
    let asked: Value = serde_json::from_str(&request.body).unwrap();
    match request.headers["x-amz-target"].as_str() {
        "AmazonSSM.GetParametersByPath" => page(&asked, parameters),
        "AmazonSSM.GetParameters" => named(&asked, parameters),
        other => panic!("not spoken here: {other}"),
    }
}

fn page(asked: &Value, parameters: &BTreeMap<String, (u64, String)>) -> Value {
    let below = format!("{}/", asked["Path"].as_str().unwrap().trim_end_matches('/'));
    let all = parameters
        .iter()
        .filter(|(name, _)| name.starts_with(&below) && !name.contains(':'));
    let start: usize = asked["NextToken"]
        .as_str()
        .map_or(0, |token| token.parse().unwrap_or(0));
    let most = usize::try_from(asked["MaxResults"].as_u64().unwrap()).unwrap();
    let mut page: Vec<_> = all
        .skip(start)
        .take(most + 1)
        .map(|(name, of)| shown(name, of))
        .collect();
    let more = page.len() > most;
    page.truncate(most);
    let mut reply = json!({"Parameters": page});
    if more {
        reply["NextToken"] = json!((start + most).to_string());
    }
    reply
}

fn named(asked: &Value, parameters: &BTreeMap<String, (u64, String)>) -> Value {
    let names: Vec<_> = asked["Names"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_str().unwrap())
        .collect();
    assert!(names.len() <= 10, "the service takes ten names");
    let (found, missing): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|&n| parameters.contains_key(n));
    let found: Vec<_> = found
        .iter()
        .map(|&name| shown(name, &parameters[name]))
        .collect();
    json!({"Parameters": found, "InvalidParameters": missing})
}

fn shown(name: &str, (version, value): &(u64, String)) -> Value {
    let bare = name.split(':').next().unwrap();
    json!({"Name": bare, "Type": "String", "Value": value, "Version": version, "LastModifiedDate": 1_700_000_000.5,
           "ARN": format!("arn:aws:ssm:eu-central-1:111122223333:parameter{bare}"), "DataType": "text"})
}

fn with_token(mut page: Value, token: &str) -> Vec<u8> {
    page["NextToken"] = json!(token);
    page.to_string().into_bytes()
}

fn reply(status: u16, body: Vec<u8>) -> Answer {
    let headers = vec![(
        "content-type".to_owned(),
        "application/x-amz-json-1.1".to_owned(),
    )];
    Answer::Reply {
        status,
        headers,
        body,
    }
}

/// With the time of the service, unless a proxy answers for it.
fn dated(mut answer: Answer, date: &str) -> Answer {
    if let Answer::Reply { headers, .. } = &mut answer
        && headers.iter().all(|(_, value)| value != "text/html")
    {
        headers.push(("date".to_owned(), date.to_owned()));
    }
    answer
}

fn html(status: u16) -> Answer {
    let body = b"<!DOCTYPE html><html><body><h1>Sign in to continue</h1></body></html>".to_vec();
    Answer::Reply {
        status,
        headers: vec![("content-type".to_owned(), "text/html".to_owned())],
        body,
    }
}
