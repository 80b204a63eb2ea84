//! The token stays at its origin, wherever redirects lead: a follower outside
//! of the layer, real servers, and every way of writing an address.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::policy::{Limited, PolicyExt, clone_body_fn};
use tower_http::follow_redirect::{FollowRedirectLayer, policy::Policy};
use tower_reauth::{
    Anonymous, BoxError, CredentialProvider, Error, ErrorKind, LoginContext, Origin, Profile,
    ProviderError, Session, SessionBody, Token,
};

const KEY: HeaderName = HeaderName::from_static("x-api-key");
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

// The token, and who has seen it.

/// Yields a token in each of the ways in which a request can carry one.
struct Login {
    profile: Profile,
    logins: Arc<AtomicUsize>,
}

impl CredentialProvider for Login {
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        let login = self.logins.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Token::bearer(format!("canary-{login}"))?
            .and_header(KEY, format!("canary-{login}"))?
            .and_cookie("sid", format!("canary-{login}"))?)
    }
}

/// A session with this profile, and how many logins it has made.
fn session(profile: Profile) -> (Session, Arc<AtomicUsize>) {
    let logins = Arc::default();
    let provider = Login {
        profile,
        logins: Arc::clone(&logins),
    };
    (Session::new(provider), logins)
}

fn at(origin: &str) -> Profile {
    Profile::at(origin.parse().unwrap())
}

/// A request as a server, or an inner service, has seen it.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    body: Bytes,
    /// Those headers that hold something of the token.
    token: Vec<HeaderName>,
}

impl Seen {
    fn new(head: &request::Parts, body: Bytes) -> Self {
        let holds_token = |value: &HeaderValue| {
            let value = String::from_utf8_lossy(value.as_bytes());
            value.contains("canary")
        };
        let with_token = head.headers.iter().filter(|(_, value)| holds_token(value));
        Self {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            body,
            token: with_token.map(|(name, _)| name.clone()).collect(),
        }
    }

    fn has_all_of_the_token(&self) -> bool {
        [header::AUTHORIZATION, KEY, header::COOKIE]
            .iter()
            .all(|name| self.token.contains(name))
    }

    fn has_none_of_the_token(&self) -> bool {
        self.token.is_empty()
    }
}

// The net.

type Answer = Response<Full<Bytes>>;
type Behaviour = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

/// A server on a port of its own, which remembers all that it was sent.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let welcome: Behaviour = Arc::new(|_| Answer::default());
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            behaviour: Arc::new(Mutex::new(welcome)),
        };
        let this = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (this, tls) = (this.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => this.serve(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => this.serve(stream).await,
                            Err(refused) => panic!("{refused}"),
                        },
                    }
                });
            }
        });
        server
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let this = self.clone();
            async move {
                let (head, body) = request.into_parts();
                let seen = Seen::new(&head, body.collect().await?.to_bytes());
                this.seen.lock().unwrap().push(seen.clone());
                let behaviour = this.behaviour.lock().unwrap().clone();
                Ok::<_, hyper::Error>(behaviour(&seen))
            }
        });
        let stream = TokioIo::new(stream);
        // A client that goes away is no failure of the server.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(stream, service)
            .await;
    }

    fn behave(&self, behaviour: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        *self.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// What it has seen since it was last asked.
    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn answer(status: u16) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn redirect(status: u16, location: &str) -> Answer {
    let mut answer = answer(status);
    let location = location.parse().unwrap();
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

/// Servers with names and ports of their own: `https://home.example` is where
/// the token belongs.
struct Net {
    home: Server,
    /// `http://home.example`.
    plain: Server,
    /// Every other name, and every other port of the same one.
    other: Server,
    certificate: CertificateDer<'static>,
}

impl Net {
    async fn start() -> Self {
        let names = [
            "home.example",
            "evil.example",
            "home.example.evil.example",
            "localhost",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
        ];
        let names = names.map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certificate = made.cert.der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        Self {
            home: Server::start(Some(tls.clone())).await,
            plain: Server::start(None).await,
            other: Server::start(Some(tls)).await,
            certificate,
        }
    }

    /// A client that knows these servers by their names, in place of a resolver.
    fn client(
        &self,
    ) -> impl Service<
        Request<Full<Bytes>>,
        Response = Response<Incoming>,
        Error = hyper_util::client::legacy::Error,
        Future: Send,
    > + Clone
    + use<> {
        let known = HashMap::from([
            ("https://home.example:443", self.home.address),
            ("http://home.example:80", self.plain.address),
        ]);
        let other = self.other.address;
        let connect = tower::service_fn(move |uri: Uri| {
            let scheme = uri.scheme_str().unwrap();
            let host = uri.host().unwrap().to_ascii_lowercase();
            let port = uri.port_u16().unwrap_or(match scheme {
                "https" => 443,
                _ => 80,
            });
            let place = format!("{scheme}://{host}:{port}");
            let address = *known.get(place.as_str()).unwrap_or(&other);
            async move { Ok::<_, io::Error>(TokioIo::new(TcpStream::connect(address).await?)) }
        });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connect);
        Client::builder(TokioExecutor::new()).build(connector)
    }

    /// Sends `request` through a follower that carries all it is given
    /// anywhere, and the layer inside of it.
    async fn send(
        &self,
        session: &Session,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<SessionBody<Incoming>>, BoxError> {
        ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(anywhere()))
            .layer(session.layer())
            .service(self.client())
            .oneshot(request)
            .await
    }
}

/// The most careless policy there is: headers and bodies go everywhere.
fn anywhere() -> impl Policy<Full<Bytes>, BoxError> + Clone {
    let again = clone_body_fn(|body: &Full<Bytes>| Some(body.clone()));
    Limited::default().and::<_, Full<Bytes>, BoxError>(again)
}

fn start(method: Method) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method);
    let request = request.uri("https://home.example/start");
    request.body(Full::from("a job")).unwrap()
}

// Over sockets.

#[tokio::test]
async fn no_redirect_takes_the_token_elsewhere() {
    let net = Net::start().await;
    let (session, logins) = session(at("https://home.example"));
    for location in [
        "https://evil.example/",
        "//evil.example/",
        // Another port, and names that only look like home.
        "https://home.example:8443/",
        "https://home.example.evil.example/",
        "https://home.example./",
        "https://evil.example/home.example",
        "https://evil.example?https://home.example/",
        "https://evil.example#@home.example/",
        // Home as a user's name, with a password or without.
        "https://home.example@evil.example/",
        "https://home.example:443@evil.example/",
        "https://home.example%2F@evil.example/",
        // This machine, which is not home either.
        "https://localhost/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
    ] {
        for status in REDIRECTS {
            for method in [Method::GET, Method::POST, Method::PUT] {
                let to = location.to_owned();
                net.home.behave(move |_| redirect(status, &to));
                let response = net.send(&session, start(method.clone())).await.unwrap();
                let case = format!("{status} of a {method} to {location}");

                assert_eq!(response.status(), StatusCode::OK, "{case}");
                let [left] = &net.home.seen()[..] else {
                    panic!("{case}: home was not asked once");
                };
                assert!(left.has_all_of_the_token(), "{case}");
                let [landed] = &net.other.seen()[..] else {
                    panic!("{case}: the other server was not asked once");
                };
                assert!(landed.has_none_of_the_token(), "{case}: {landed:?}");
                // Fetch, section 4.4: what becomes of the method and the body.
                let as_it_was = match status {
                    303 => false,
                    301 | 302 => method != Method::POST,
                    _ => true,
                };
                assert_eq!(landed.body == "a job", as_it_was, "{case}");
                let expected = match as_it_was {
                    true => method,
                    false => Method::GET,
                };
                assert_eq!(landed.method, expected, "{case}");
            }
        }
    }
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redirect_from_https_to_http_takes_no_token_along() {
    let net = Net::start().await;
    let (session, _) = session(at("https://home.example"));
    for status in REDIRECTS {
        for location in ["http://home.example/next", "http://home.example:80/next"] {
            net.home.behave(move |_| redirect(status, location));
            let response = net.send(&session, start(Method::GET)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(net.home.seen()[0].has_all_of_the_token());
            let [landed] = &net.plain.seen()[..] else {
                panic!("the plain server was not asked once");
            };
            assert!(landed.has_none_of_the_token(), "{landed:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_within_home_keeps_the_token_however_home_is_written() {
    let net = Net::start().await;
    let (session, logins) = session(at("https://home.example"));
    for location in [
        "/next",
        "next",
        "./a/../next",
        "//home.example/next",
        "//HOME.Example:443/next",
        "https://home.example/next",
        "HTTPS://home.EXAMPLE/next",
        "https://home.example:443/next",
        "https://home.example:/next",
        "https://user:password@home.example/next",
        "https://evil.example@home.example/next",
        // As a browser reads them.
        "https://%68ome.example/next",
        "https:\\\\home.example\\next",
    ] {
        for status in REDIRECTS {
            net.home.behave(move |seen| match seen.path.as_str() {
                "/start" => redirect(status, location),
                _ => answer(200),
            });
            let response = net.send(&session, start(Method::POST)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{location}");
            let seen = net.home.seen();
            assert_eq!(seen.len(), 2, "{location}: {seen:?}");
            assert_eq!(seen[1].path, "/next", "{location}");
            assert!(
                seen.iter().all(Seen::has_all_of_the_token),
                "{location}: {seen:?}"
            );
        }
    }
    assert!(net.other.seen().is_empty());
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redirect_that_comes_back_home_finds_the_token_there_again() {
    let net = Net::start().await;
    let (session, logins) = session(at("https://home.example"));
    net.home.behave(|seen| match seen.path.as_str() {
        "/start" => redirect(307, "https://evil.example/"),
        _ => answer(200),
    });
    net.other
        .behave(|_| redirect(307, "https://home.example/back"));
    let response = net.send(&session, start(Method::PUT)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let seen = net.home.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(Seen::has_all_of_the_token), "{seen:?}");
    let [away] = &net.other.seen()[..] else {
        panic!("the other server was not asked once");
    };
    assert!(away.has_none_of_the_token(), "{away:?}");
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_loop_of_redirects_logs_in_once_and_gives_the_token_to_nobody() {
    let net = Net::start().await;
    let (session, logins) = session(at("https://home.example"));
    net.home
        .behave(|_| redirect(302, "https://evil.example/loop"));
    net.other
        .behave(|_| redirect(302, "https://home.example/loop"));
    let response = net.send(&session, start(Method::GET)).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    let (home, other) = (net.home.seen(), net.other.seen());
    assert_eq!(home.len() + other.len(), 21, "the first and twenty more");
    assert!(home.iter().all(Seen::has_all_of_the_token));
    assert!(other.iter().all(Seen::has_none_of_the_token));
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_401_from_elsewhere_is_no_rejection() {
    let net = Net::start().await;
    let (session, logins) = session(at("https://home.example"));
    net.home.behave(|_| redirect(302, "https://evil.example/"));
    net.other.behave(|_| answer(401));
    for _ in 0..3 {
        let response = net.send(&session, start(Method::GET)).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(net.other.seen().len(), 3);
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_that_is_rejected_after_a_redirect_is_renewed_for_that_hop() {
    let net = Net::start().await;
    let (session, logins) = session(at("https://home.example"));
    let rejections = AtomicUsize::new(0);
    net.home.behave(move |seen| match seen.path.as_str() {
        "/start" => redirect(307, "/next"),
        _ if rejections.fetch_add(1, Ordering::SeqCst) == 0 => answer(401),
        _ => answer(200),
    });
    let response = net.send(&session, start(Method::POST)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let hops: Vec<_> = net
        .home
        .seen()
        .iter()
        .map(|seen| seen.path.clone())
        .collect();
    assert_eq!(hops, ["/start", "/next", "/next"]);
    assert_eq!(logins.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn localhost_and_its_address_are_two_origins() {
    let (home, other) = (Server::start(None).await, Server::start(None).await);
    for [name, to] in [["127.0.0.1", "localhost"], ["localhost", "127.0.0.1"]] {
        let here = format!("http://{name}:{}", home.address.port());
        let (session, _) = session(at(&here));
        // Each of the other's names, and home's own by the other name.
        for port in [other.address.port(), home.address.port()] {
            let there = format!("http://{to}:{port}/next");
            home.behave(move |seen| match seen.path.as_str() {
                "/start" => redirect(302, &there),
                _ => answer(200),
            });
            let client = ServiceBuilder::new()
                .layer(FollowRedirectLayer::with_policy(anywhere()))
                .layer(session.layer())
                .service(Client::builder(TokioExecutor::new()).build_http());
            let request = Request::get(format!("{here}/start"));
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let response = client.oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let mut seen = home.seen();
            seen.extend(other.seen());
            assert_eq!(seen.len(), 2, "{seen:?}");
            assert!(seen[0].has_all_of_the_token(), "{seen:?}");
            assert!(seen[1].has_none_of_the_token(), "{seen:?}");
        }
    }
}

/// Why the order of layers matters, as the crate's docs say.
#[tokio::test]
async fn a_follower_inside_the_layer_carries_the_token_away() {
    let net = Net::start().await;
    let (session, _) = session(at("https://home.example"));
    net.home.behave(|_| redirect(302, "https://evil.example/"));
    let client = ServiceBuilder::new()
        .layer(session.layer())
        // With the policy that drops what it takes for credentials.
        .layer(FollowRedirectLayer::new())
        .service(net.client());
    client.oneshot(start(Method::POST)).await.unwrap();
    let [landed] = &net.other.seen()[..] else {
        panic!("the other server was not asked once");
    };
    assert_eq!(landed.token, [KEY]);
}

/// What comes back from elsewhere has lost its extensions, by the policy that a
/// follower of tower-http has by default.
#[tokio::test]
async fn an_anonymous_request_stays_so_for_as_long_as_the_follower_keeps_its_extensions() {
    let net = Net::start().await;
    let (session, _) = session(at("https://home.example"));
    net.home.behave(|seen| match seen.path.as_str() {
        "/start" => redirect(303, "/next"),
        "/next" => redirect(303, "https://evil.example/"),
        _ => answer(200),
    });
    net.other
        .behave(|_| redirect(303, "https://home.example/back"));
    let anonymous = || {
        let mut request = start(Method::GET);
        request.extensions_mut().insert(Anonymous);
        request
    };
    net.send(&session, anonymous()).await.unwrap();
    let seen = net.home.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(Seen::has_none_of_the_token), "{seen:?}");

    let by_default = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(session.layer())
        .service(net.client());
    by_default.oneshot(anonymous()).await.unwrap();
    let seen = net.home.seen();
    let with_token: Vec<_> = seen.iter().map(Seen::has_all_of_the_token).collect();
    assert_eq!(with_token, [false, false, true]);
}

#[tokio::test]
async fn a_bound_service_takes_the_token_along_and_never_leaves() {
    let net = Net::start().await;
    let (session, logins) = session(at("https://home.example").bound());
    net.plain.behave(|seen| match seen.path.as_str() {
        "/start" => redirect(307, "https://evil.example/next"),
        "/down" => redirect(307, "http://evil.example/next"),
        _ => answer(200),
    });
    // One connection, to one server, whatever a URI says.
    let stream = TcpStream::connect(net.plain.address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let one = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let sender = sender.clone();
        async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            sender.send_request(request).await
        }
    });
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::with_policy(anywhere()))
        .layer(session.layer())
        .service(one);
    let send = async |uri: &str| {
        let request = Request::get(uri).body(Full::default()).unwrap();
        client.clone().oneshot(request).await
    };

    let response = send("https://home.example/start").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let seen = net.plain.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(Seen::has_all_of_the_token), "{seen:?}");

    // Relative ones too, which a follower cannot follow.
    let response = send("/start").await.unwrap();
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert!(net.plain.seen()[0].has_all_of_the_token());

    let error = send("https://home.example/down").await.unwrap_err();
    let error = Error::find(&*error).unwrap();
    assert_eq!(error.kind(), ErrorKind::InsecureOrigin);
    assert_eq!(net.plain.seen().len(), 1);
    assert!(net.other.seen().is_empty());
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

// The origin alone.

/// Where a request goes, as far as the token is concerned.
#[derive(Debug, PartialEq)]
enum Went {
    WithToken,
    WithoutToken,
    Nowhere(ErrorKind),
}

/// Sends a request to `uri` through a session whose token belongs to `origin`.
async fn went(origin: &str, uri: &str) -> Went {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let http = {
        let seen = seen.clone();
        tower::service_fn(move |request: Request<Full<Bytes>>| {
            let (head, _) = request.into_parts();
            seen.lock().unwrap().push(Seen::new(&head, Bytes::new()));
            async { Ok::<_, Infallible>(Answer::default()) }
        })
    };
    let (session, _) = session(at(origin));
    let request = Request::get(uri).body(Full::default()).unwrap();
    match session.layer().layer(http).oneshot(request).await {
        Ok(_) => {
            let seen = std::mem::take(&mut *seen.lock().unwrap());
            assert_eq!(seen.len(), 1);
            match seen[0].has_none_of_the_token() {
                true => Went::WithoutToken,
                false => {
                    assert!(seen[0].has_all_of_the_token());
                    Went::WithToken
                }
            }
        }
        Err(error) => {
            assert!(seen.lock().unwrap().is_empty());
            Went::Nowhere(Error::find(&*error).unwrap().kind())
        }
    }
}

#[tokio::test]
async fn where_a_token_goes_is_told_by_scheme_host_and_port() {
    use Went::{Nowhere, WithToken, WithoutToken};

    const HOME: &str = "https://home.example";
    for (origin, uri, expected) in [
        // Default ports, and an empty one.
        (HOME, "https://home.example/", WithToken),
        (HOME, "https://home.example:443/", WithToken),
        (HOME, "https://home.example:/", WithToken),
        (HOME, "https://home.example:0443/", WithToken),
        (HOME, "https://home.example:80/", WithoutToken),
        (HOME, "https://home.example:4433/", WithoutToken),
        (HOME, "https://home.example:65979/", WithoutToken),
        (
            "https://home.example:8443",
            "https://home.example:8443/",
            WithToken,
        ),
        (
            "https://home.example:8443",
            "https://home.example/",
            WithoutToken,
        ),
        (
            "https://home.example:443",
            "https://home.example/",
            WithToken,
        ),
        // Schemes.
        (HOME, "http://home.example/", WithoutToken),
        (HOME, "http://home.example:443/", WithoutToken),
        (HOME, "wss://home.example/", WithoutToken),
        ("wss://home.example", "wss://home.example:443/", WithToken),
        (
            "ftp://home.example",
            "ftp://home.example/",
            Nowhere(ErrorKind::InsecureOrigin),
        ),
        (
            "http://home.example",
            "http://home.example/",
            Nowhere(ErrorKind::InsecureOrigin),
        ),
        // Letter case.
        (HOME, "HTTPS://HOME.example/", WithToken),
        (
            "HTTPS://HOME.EXAMPLE:443",
            "https://home.example/",
            WithToken,
        ),
        // Names that end otherwise.
        (HOME, "https://home.example./", WithoutToken),
        (
            "https://home.example.",
            "https://home.example/",
            WithoutToken,
        ),
        (HOME, "https://home.example.evil.example/", WithoutToken),
        (HOME, "https://not-home.example/", WithoutToken),
        (HOME, "https://example/", WithoutToken),
        // Userinfo is no part of it.
        (HOME, "https://user@home.example/", WithToken),
        (HOME, "https://user:password@home.example:443/", WithToken),
        (HOME, "https://evil.example@home.example/", WithToken),
        (HOME, "https://home.example@evil.example/", WithoutToken),
        (HOME, "https://home.example:443@evil.example/", WithoutToken),
        // IPv6, however it is written.
        (
            "https://[::1]:8443",
            "https://[0:0:0:0:0:0:0:1]:8443/",
            WithToken,
        ),
        (
            "https://[2001:DB8::1]",
            "https://[2001:db8:0::0001]:443/",
            WithToken,
        ),
        (
            "https://[2001:db8::1]",
            "https://[2001:db8::2]/",
            WithoutToken,
        ),
        (
            "https://[::ffff:127.0.0.1]",
            "https://[::ffff:7f00:1]/",
            WithToken,
        ),
        (
            "https://[::ffff:127.0.0.1]",
            "https://127.0.0.1/",
            WithoutToken,
        ),
        ("https://127.0.0.1", "https://localhost/", WithoutToken),
        ("https://localhost", "https://[::1]/", WithoutToken),
        // No browser reads these.
        (HOME, "https://home.example:+443/", WithoutToken),
        ("https://127.0.0.1", "https://[127.0.0.1]/", WithoutToken),
        // Home in the path, the query, or nowhere.
        (HOME, "https://evil.example/home.example", WithoutToken),
        (HOME, "https://evil.example?@home.example", WithoutToken),
        (
            HOME,
            "https://evil.example/?https://home.example",
            WithoutToken,
        ),
        (HOME, "/home.example", Nowhere(ErrorKind::NoOrigin)),
        (HOME, "*", Nowhere(ErrorKind::NoOrigin)),
        (HOME, "home.example:443", WithoutToken),
    ] {
        assert_eq!(went(origin, uri).await, expected, "{uri} from {origin}");
    }
    // These are no addresses to begin with.
    for uri in [
        "https://%68ome.example/",
        "https://home%2Eexample/",
        "https://h\u{f6}me.example/",
        "https://home.example\\@evil.example/",
    ] {
        assert!(uri.parse::<Uri>().is_err(), "{uri}");
    }
}

/// Whom a client connects to: scheme, host and port.
fn as_a_client_reads(uri: &str) -> (String, String, u16) {
    let uri: Uri = uri.parse().unwrap();
    let scheme = uri.scheme_str().unwrap().to_ascii_lowercase();
    let host = uri.host().unwrap().trim_matches(['[', ']']);
    let default = match scheme.as_str() {
        "https" | "wss" => 443,
        _ => 80,
    };
    let port = uri.port_u16().unwrap_or(default);
    (scheme, host.to_ascii_lowercase(), port)
}

#[tokio::test]
async fn no_address_is_home_that_is_another_origin_to_a_browser() {
    let schemes = ["https://", "HTTPS://", "http://", "wss://"];
    let users = [
        "",
        "user@",
        "user:password@",
        "home.example@",
        "home.example:443@",
        ":@",
        "@",
    ];
    let hosts = [
        "home.example",
        "HOME.example",
        "home.example.",
        "home.example..",
        "%68ome.example",
        "home%2eexample",
        "home.example%00.evil.example",
        "home.example\u{ff0e}",
        "h\u{f6}me.example",
        "xn--hme-sna.example",
        "localhost",
        "localhost.",
        "a.localhost",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.01",
        "2130706433",
        "[127.0.0.1]",
        "[::1]",
        "[0:0::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[fe80::1%25eth0]",
        "[fe80::1]",
    ];
    let ports = [
        "", ":", ":443", ":0443", ":80", ":8443", ":65536", ":65979", ":443:443",
    ];
    let mut written = Vec::new();
    for scheme in schemes {
        for user in users {
            for host in hosts {
                for port in ports {
                    let uri = format!("{scheme}{user}{host}{port}/");
                    let read = url::Url::parse(&uri).map(|url| url.origin());
                    written.extend(uri.parse::<Uri>().map(|_| (uri, read)));
                }
            }
        }
    }
    assert!(written.len() > 3000, "{} addresses", written.len());

    let (mut same, mut closed) = (0, 0);
    let homes = written
        .iter()
        .filter(|(uri, _)| uri.parse::<Origin>().is_ok());
    // One in 19 of them, which is a prime, for the time it takes.
    for (origin, here) in homes.step_by(19) {
        let (session, _) = session(at(origin).allow_plain_http());
        session.login().await.unwrap();
        let seen = Arc::new(Mutex::new(None));
        let client = {
            let seen = seen.clone();
            session
                .layer()
                .layer(tower::service_fn(move |request: Request<Full<Bytes>>| {
                    let (head, _) = request.into_parts();
                    *seen.lock().unwrap() = Some(Seen::new(&head, Bytes::new()));
                    std::future::ready(Ok::<_, Infallible>(Answer::default()))
                }))
        };
        for (uri, there) in &written {
            let request = Request::get(uri).body(Full::default()).unwrap();
            let _ = client.clone().oneshot(request).await;
            let seen = seen.lock().unwrap().take();
            let is_home = seen.is_some_and(|seen| !seen.has_none_of_the_token());
            match (is_home, here, there) {
                (true, Ok(here), Ok(there)) => {
                    assert_eq!(here, there, "{uri} from {origin}");
                    same += 1;
                }
                // Some addresses no browser reads, but hyper's client does.
                (true, ..) => assert_eq!(as_a_client_reads(origin), as_a_client_reads(uri)),
                (false, Ok(here), Ok(there)) if here == there => closed += 1,
                (false, ..) => {}
            }
        }
    }
    assert!(
        same > 1000 && closed > 0,
        "{same} the same, {closed} closed"
    );
}
