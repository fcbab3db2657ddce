//! A small HTTP/1.1 server on loopback that can also misbehave: it stalls, truncates and hangs up.
//! Threads of std, no crate; everything it holds ends when it is dropped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// What the handler makes of a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A whole answer; the connection stays open.
    Reply {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// Head and half of the body, then silence.
    StallInBody(Vec<u8>),
    /// Head and half of the body, then the connection ends.
    CutInBody(Vec<u8>),
    /// A whole answer, and then the end of the connection, as a server does that found it idle for long.
    ReplyAndHangUp(Vec<u8>),
    /// Nothing, and the connection stays open.
    Silence,
    /// The connection ends.
    HangUp,
    /// This, later.
    After(Duration, Box<Answer>),
}

/// A running server.
pub struct HttpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

type Handler = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Shared {
    handler: Handler,
    ended: AtomicBool,
    end: (Mutex<()>, Condvar),
    open: Mutex<Vec<TcpStream>>,
    accepted: Mutex<usize>,
    ended_connections: Mutex<usize>,
}

/// No answer is held back longer than this, whatever a test does.
const LONGEST: Duration = Duration::from_secs(30);

impl HttpServer {
    /// Serves on a free port of loopback until dropped.
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), handler)
    }

    /// Serves at an address until dropped; waits while the one before still holds it.
    #[expect(clippy::disallowed_methods, reason = "a test without threads fails")]
    pub fn start_at(
        address: SocketAddr,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = bind(address);
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            ended: AtomicBool::new(false),
            end: (Mutex::new(()), Condvar::new()),
            open: Mutex::default(),
            accepted: Mutex::default(),
            ended_connections: Mutex::default(),
        });
        let for_accept = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if for_accept.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                *for_accept.accepted.lock().unwrap() += 1;
                for_accept
                    .open
                    .lock()
                    .unwrap()
                    .push(stream.try_clone().unwrap());
                let shared = Arc::clone(&for_accept);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        *self.shared.accepted.lock().unwrap()
    }

    /// Connections that have ended.
    pub fn ended_connections(&self) -> usize {
        *self.shared.ended_connections.lock().unwrap()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.end.1.notify_all();
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then sees the end.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        stream.set_read_timeout(Some(LONGEST)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read(&mut reader) {
            let mut answer = (self.handler)(&request);
            while let Answer::After(wait, then) = answer {
                self.hold(wait);
                answer = *then;
            }
            match answer {
                Answer::Reply {
                    status,
                    headers,
                    body,
                } => {
                    if !write(&mut stream, status, &headers, &body, body.len()) {
                        break;
                    }
                }
                Answer::StallInBody(body) => {
                    write(&mut stream, 200, &[], &body[..body.len() / 2], body.len());
                    self.hold(LONGEST);
                    break;
                }
                Answer::CutInBody(body) => {
                    write(&mut stream, 200, &[], &body[..body.len() / 2], body.len());
                    break;
                }
                Answer::ReplyAndHangUp(body) => {
                    write(&mut stream, 200, &[], &body, body.len());
                    break;
                }
                Answer::Silence => {
                    self.hold(LONGEST);
                    break;
                }
                Answer::HangUp | Answer::After(..) => break,
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
        *self.ended_connections.lock().unwrap() += 1;
    }

    /// Waits for `wait` or for the end of the server.
    fn hold(&self, wait: Duration) {
        let guard = self.end.0.lock().unwrap();
        let running = |(): &mut ()| !self.ended.load(Ordering::SeqCst);
        drop(
            self.end
                .1
                .wait_timeout_while(guard, wait.min(LONGEST), running)
                .unwrap(),
        );
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    // What speaks TLS here gets what any HTTP server answers to it.
    let first = reader.fill_buf().ok()?.first().copied()?;
    if !first.is_ascii_uppercase() {
        let _ = reader
            .get_mut()
            .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        return None;
    }
    reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Writes a head that promises `length` bytes, then `body`; false when the client is gone.
fn write(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
    length: usize,
) -> bool {
    let mut head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n").into_bytes();
    for (name, value) in headers {
        head.extend(format!("{name}: {value}\r\n").bytes());
    }
    head.extend(b"\r\n");
    head.extend(body);
    stream.write_all(&head).is_ok()
}

/// Binds once the one before has let go of the address.
fn bind(address: SocketAddr) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(start.elapsed() < LONGEST, "{address}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// An endpoint where connections are refused: its port is bound, so that nobody else gets it, and nobody listens.
pub fn refusing() -> String {
    static BOUND: OnceLock<TcpSocket> = OnceLock::new();
    let bound = BOUND.get_or_init(|| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket
    });
    format!("http://{}", bound.local_addr().unwrap())
}

/// A listener at `address` with more connections than it takes, so that one more hangs; all end with the result.
pub fn full(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let listener = bind(address);
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 8192, "a listen queue has an end");
    }
    (listener, waiting)
}

/// An endpoint whose connections the kernel takes and nobody accepts, while the listener is kept.
pub fn never_accepting() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}
