//! Over HTTP/2 the token is a never-indexed literal (RFC 7541, section 6.2.3):
//! in no compression table, of this connection or of a proxy on the way, where
//! an attacker could guess it from the sizes of other requests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_reauth::controlm::ControlM;
use tower_reauth::{
    Credentials, LoginContext, PasswordChange, Profile, Session, Token, provider_fn,
};

const KEY: HeaderName = HeaderName::from_static("x-api-key");
const PLAIN: HeaderName = HeaderName::from_static("x-plain");

// HPACK, as far as it takes to tell how a field is written.

/// How a field is written (RFC 7541, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// By its place in a table.
    Indexed,
    /// Put into the table for the next request.
    AddedToTable,
    /// Not put into the table; a proxy may.
    NotIndexed,
    /// Not put into the table, nor into any other on the way.
    NeverIndexed,
}

/// The forms of all fields of a name, for each block of headers.
type Block = HashMap<HeaderName, Vec<Form>>;

/// Reads blocks of headers one after the other, as one connection sends them.
#[derive(Default)]
struct Blocks {
    /// The names in the dynamic table, newest first. It never gets full here.
    table: Vec<Option<HeaderName>>,
}

impl Blocks {
    fn read(&mut self, mut bytes: &[u8]) -> Block {
        let mut block = Block::new();
        while let Some(first) = bytes.first().copied() {
            let (form, bits) = match first.leading_zeros() {
                0 => (Form::Indexed, 7),
                1 => (Form::AddedToTable, 6),
                2 => {
                    integer(&mut bytes, 5);
                    continue;
                }
                3 => (Form::NeverIndexed, 4),
                _ => (Form::NotIndexed, 4),
            };
            let index = integer(&mut bytes, bits);
            let name = match index {
                0 => known_name(string(&mut bytes)),
                1..=61 => static_name(index),
                _ => self.table[index - 62].clone(),
            };
            match form {
                Form::Indexed => {}
                Form::AddedToTable => {
                    string(&mut bytes);
                    self.table.insert(0, name.clone());
                }
                Form::NotIndexed | Form::NeverIndexed => {
                    string(&mut bytes);
                }
            }
            if let Some(name) = name {
                block.entry(name).or_default().push(form);
            }
        }
        block
    }
}

/// RFC 7541, section 5.1.
fn integer(bytes: &mut &[u8], bits: u32) -> usize {
    let mut next = || {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        usize::from(*first)
    };
    let most = (1 << bits) - 1;
    let mut value = next() & most;
    if value < most {
        return value;
    }
    for shift in (0..).step_by(7) {
        let byte = next();
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// Passes a text over (RFC 7541, section 5.2), and yields it as it is written.
fn string<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    assert_eq!(
        bytes[0] & 0x80,
        0x80,
        "hyper writes all texts in Huffman's code"
    );
    let length = integer(bytes, 7);
    let (string, rest) = bytes.split_at(length);
    *bytes = rest;
    string
}

/// Those of the static table that matter here (RFC 7541, appendix A).
fn static_name(index: usize) -> Option<HeaderName> {
    match index {
        23 => Some(header::AUTHORIZATION),
        32 => Some(header::COOKIE),
        _ => None,
    }
}

fn known_name(written: &[u8]) -> Option<HeaderName> {
    [KEY, PLAIN]
        .into_iter()
        .find(|name| huffman(name.as_str()) == written)
}

/// `name` in Huffman's code, as far as the names here need it (RFC 7541, appendix B).
fn huffman(name: &str) -> Vec<u8> {
    let bits: String = name
        .chars()
        .map(|character| match character {
            '-' => "010110",
            'a' => "00011",
            'e' => "00101",
            'i' => "00110",
            'k' => "1110101",
            'l' => "101000",
            'n' => "101010",
            'p' => "101011",
            'x' => "1111001",
            'y' => "1111010",
            other => panic!("{other} is in none of the names"),
        })
        .collect();
    // The rest of the last byte is ones.
    let byte = |bits: &[u8]| {
        (0..8).fold(0, |byte, at| {
            byte << 1 | u8::from(bits.get(at) != Some(&b'0'))
        })
    };
    bits.as_bytes().chunks(8).map(byte).collect()
}

/// The blocks of headers that a client has sent (RFC 9113, section 4).
fn blocks(mut sent: &[u8]) -> Vec<Block> {
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;

    sent = sent
        .strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    let mut reader = Blocks::default();
    let mut blocks = Vec::new();
    while let Some((frame, rest)) = sent.split_at_checked(9) {
        let length =
            usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
        let (kind, flags) = (frame[3], frame[4]);
        // What follows the last request may still be under way.
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        sent = rest;
        assert_ne!(kind, CONTINUATION, "a block of headers fits into a frame");
        if kind == HEADERS {
            // Whole, and neither padded nor with a priority.
            assert_eq!(flags & 0b10_1100, 0b00_0100);
            blocks.push(reader.read(payload));
        }
    }
    blocks
}

// A server, and what it was sent.

type Http = Client<HttpConnector, Full<Bytes>>;

#[derive(Clone)]
struct Server {
    origin: String,
    /// All that came over each connection.
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    async fn start(answer: fn(&str, &HeaderMap) -> (u16, &'static str)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            sent: Arc::default(),
        };
        let sent = server.sent.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = {
                    let mut sent = sent.lock().unwrap();
                    sent.push(Vec::new());
                    sent.len() - 1
                };
                let (mut from_client, mut to_client) = stream.into_split();
                let (tee, served) = tokio::io::duplex(1 << 16);
                let (mut from_server, mut to_server) = tokio::io::split(tee);
                let sent = sent.clone();
                tokio::spawn(async move {
                    let mut chunk = vec![0; 1 << 14];
                    loop {
                        let read = from_client.read(&mut chunk).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        // Before the server has it, so that an answer comes after.
                        sent.lock().unwrap()[connection].extend_from_slice(&chunk[..read]);
                        to_server.write_all(&chunk[..read]).await.unwrap();
                    }
                });
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
                tokio::spawn(serve(served, answer));
            }
        });
        server
    }

    fn profile(&self) -> Profile {
        Profile::at(self.origin.parse().unwrap())
    }

    fn get(&self) -> Request<Full<Bytes>> {
        let request = Request::get(format!("{}/servers", self.origin));
        request
            .header(PLAIN, "in plain sight")
            .body(Full::default())
            .unwrap()
    }

    /// The blocks of headers that came over its one connection.
    fn blocks(&self) -> Vec<Block> {
        let sent = self.sent.lock().unwrap();
        assert_eq!(sent.len(), 1, "one table for all requests");
        blocks(&sent[0])
    }
}

async fn serve(
    stream: tokio::io::DuplexStream,
    answer: fn(&str, &HeaderMap) -> (u16, &'static str),
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (status, body) = answer(request.uri().path(), request.headers());
        let mut response = Response::new(Full::<Bytes>::from(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn client() -> Http {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

#[tokio::test]
async fn a_token_is_never_indexed_in_a_request_the_next_and_a_replay() {
    // As a server that has thrown the second token away.
    let server =
        Server::start(
            |_, headers| match headers.get(KEY).is_some_and(|key| key == "key-2") {
                true => (401, ""),
                false => (200, ""),
            },
        )
        .await;
    let logins = AtomicUsize::new(1);
    let provider = provider_fn(server.profile(), move |_: LoginContext| {
        let login = logins.fetch_add(1, Ordering::SeqCst);
        async move {
            Ok(Token::bearer("the-same-each-time")?
                .and_header(KEY, format!("key-{login}"))?
                .and_cookie("sid", "the-same-each-time")?)
        }
    });
    let session = Session::new(provider);
    let client = session.layer().layer(client());
    let send = async || {
        let mut request = server.get();
        let own = HeaderValue::from_static("theme=dark");
        request.headers_mut().insert(header::COOKIE, own);
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    };

    send().await;
    send().await;
    session.login().await.unwrap();
    // With the second token, and once more with the third.
    send().await;

    let blocks = server.blocks();
    assert_eq!(blocks.len(), 4);
    for block in &blocks {
        for name in [header::AUTHORIZATION, KEY, header::COOKIE] {
            assert_eq!(block[&name], [Form::NeverIndexed], "{name}");
        }
    }
    // What is no secret is in the table from the second time on.
    let plain: Vec<_> = blocks.iter().map(|block| block[&PLAIN][0]).collect();
    let [first, rest @ ..] = &plain[..] else {
        panic!("no requests");
    };
    assert_eq!(*first, Form::AddedToTable);
    assert!(rest.iter().all(|form| *form == Form::Indexed), "{plain:?}");
}

#[tokio::test]
async fn the_calls_of_a_provider_carry_the_token_never_indexed_too() {
    let server = Server::start(|path, _| match path {
        "/session/login" => (200, r#"{"username":"emuser","token":"A3F5BB6E"}"#),
        _ => (200, "{}"),
    })
    .await;
    let base = server.origin.parse().unwrap();
    let credentials = Credentials::new("emuser", "s3cret");
    let provider = ControlM::new(client(), base, credentials)
        .unwrap()
        .extra_header(KEY, HeaderValue::from_static("3f9a"));
    let session = Session::new(provider);
    session.login().await.unwrap();
    let change = PasswordChange::to("an0ther");
    session.change_password(change).await.unwrap();
    session.logout().await.unwrap();

    let blocks = server.blocks();
    let forms = |name: HeaderName| -> Vec<_> {
        blocks
            .iter()
            .map(|block| block.get(&name).cloned())
            .collect()
    };
    let never = Some(vec![Form::NeverIndexed]);
    let [login, change, logout] = [None, never.clone(), never.clone()];
    assert_eq!(forms(header::AUTHORIZATION), [login, change, logout]);
    assert_eq!(forms(KEY), [never.clone(), never.clone(), never]);
}

/// What the tests above would find if the mark were lost.
#[tokio::test]
async fn a_token_that_is_not_marked_as_sensitive_is_indexed() {
    let server = Server::start(|_, _| (200, "")).await;
    let client = client();
    for _ in 0..2 {
        let mut request = server.get();
        for name in [header::AUTHORIZATION, KEY, header::COOKIE] {
            let value = HeaderValue::from_static("not marked");
            request.headers_mut().insert(name, value);
        }
        client.request(request).await.unwrap();
    }
    let [first, second] = &server.blocks()[..] else {
        panic!("two requests were sent");
    };
    assert_eq!(first[&KEY], [Form::AddedToTable]);
    assert_eq!(second[&KEY], [Form::Indexed]);
    for block in [first, second] {
        assert_ne!(block[&header::AUTHORIZATION], [Form::NeverIndexed]);
        assert_ne!(block[&header::COOKIE], [Form::NeverIndexed]);
    }
}
