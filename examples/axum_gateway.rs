//! A reverse proxy: callers need no credentials, and share one session with the
//! server behind the proxy. Bodies stream both ways.
//!
//! ```sh
//! cargo run --example axum_gateway
//! ```
//!
//! In a crate of its own, it needs:
//!
//! ```toml
//! axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }
//! bytes = "1"
//! http = "1"
//! http-body-util = { version = "0.1", features = ["channel"] }
//! hyper = { version = "1", features = ["http1", "server"] }
//! hyper-util = { version = "0.1", features = ["client-legacy", "http1", "tokio"] }
//! tokio = { version = "1", features = ["full"] }
//! tower = { version = "0.5", features = ["util"] }
//! tower-reauth = { path = "../tower-reauth" }
//! ```

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::{
    BoxError, Buffer, Error, ErrorKind, LoginContext, Profile, Reauth, ReauthFailure, Session,
    Token, provider_fn,
};

type Upstream = BoxCloneSyncService<Request, Response, BoxError>;

#[derive(Clone)]
struct Gateway {
    upstream: Upstream,
    authority: Authority,
}

impl Gateway {
    fn new(session: &Session, authority: Authority) -> Self {
        let http = Client::builder(TokioExecutor::new()).build_http();
        // Small bodies can be replayed, large ones stream through.
        let replay = Buffer::up_to(64 * 1024).into_body(Body::new);
        let upstream = ServiceBuilder::new()
            .map_response(|response: http::Response<_>| response.map(Body::new))
            .layer(session.layer().replay(replay))
            .service(http);
        Self {
            upstream: BoxCloneSyncService::new(upstream),
            authority,
        }
    }
}

async fn forward(State(gateway): State<Gateway>, mut request: Request) -> Response {
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(gateway.authority);
    let Ok(uri) = Uri::from_parts(uri) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    *request.uri_mut() = uri;
    // The caller's credentials are not meant for the server.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.headers_mut().remove(header::HOST);
    remove_hop_by_hop(request.headers_mut());
    let mut response = match gateway.upstream.oneshot(request).await {
        Ok(response) => response,
        Err(error) => return failed(Error::find(&*error)),
    };
    let reauth = response.extensions().get::<Reauth>();
    match reauth.map(|reauth| &reauth.failure) {
        // The rejected token is the gateway's: the caller cannot fix it.
        Some(ReauthFailure::RenewalFailed(error)) => return failed(Some(error)),
        Some(_) | None => remove_hop_by_hop(response.headers_mut()),
    }
    response
}

/// Answers a request that was not executed.
fn failed(error: Option<&Error>) -> Response {
    let Some(error) = error else {
        return (StatusCode::BAD_GATEWAY, "the server does not answer").into_response();
    };
    let status = match error.kind() {
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut response = (status, error.to_string()).into_response();
    if let Some(delay) = error.retry_after() {
        let seconds = delay.as_secs() + 1;
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Removes the headers for the next hop only (RFC 9110, section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    for name in named {
        headers.remove(name);
    }
    for name in always {
        headers.remove(name);
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::Server::start().await?;
    let desk = server.clone();
    let provider = provider_fn(
        Profile::at(format!("http://{}", server.authority).parse()?),
        move |_: LoginContext| {
            let token = desk.log_in();
            async move { Ok(Token::bearer(token?)?) }
        },
    );
    let session = Session::new(provider);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let here = listener.local_addr()?;
    let gateway = Gateway::new(&session, server.authority.parse()?);
    let router = Router::new().fallback(forward).with_state(gateway);
    tokio::spawn(async move { axum::serve(listener, router).await });

    tour::take(here, &server).await
}

#[test]
fn runs() {
    main().unwrap();
}

/// A caller of the gateway.
mod tour {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use axum::body::Body;
    use bytes::Bytes;
    use http::{Request, Response, StatusCode, header};
    use http_body_util::{BodyExt, Channel};
    use hyper::body::Incoming;
    use hyper_util::client::legacy::Client;
    use hyper_util::client::legacy::connect::HttpConnector;
    use hyper_util::rt::TokioExecutor;
    use tower_reauth::BoxError;

    use super::server::Server;

    pub(crate) async fn take(gateway: SocketAddr, server: &Server) -> Result<(), BoxError> {
        let http: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
        let post = |body: Body| {
            let request = Request::post(format!("http://{gateway}/echo"));
            request
                .header(header::AUTHORIZATION, "Bearer mine")
                .body(body)
        };

        let response = http.request(post(Body::from("hello"))?).await?;
        assert_eq!(read(response).await?, (StatusCode::OK, "hello".into()));
        println!("a caller without credentials is answered");

        server.revoke();
        let response = http.request(post(Body::from("once more"))?).await?;
        assert_eq!(read(response).await?, (StatusCode::OK, "once more".into()));
        assert_eq!((server.logins(), server.executed()), (2, 2));
        println!("the token is dead, and the caller does not notice");

        // Each piece is echoed before the next one is sent.
        let (mut pieces, body) = Channel::<Bytes, Infallible>::new(1);
        pieces.send_data("first".into()).await?;
        let response = http.request(post(Body::new(body))?).await?;
        let mut echo = response.into_body();
        for piece in ["first", "second", "third"] {
            if piece != "first" {
                pieces.send_data(piece.into()).await?;
            }
            let frame = echo.frame().await.ok_or("it ends early")??;
            assert_eq!(frame.into_data().ok(), Some(piece.into()));
        }
        drop(pieces);
        assert!(echo.frame().await.is_none());
        println!("bodies stream both ways");

        server.revoke();
        server.is_down(true);
        for _ in 0..2 {
            let response = http.request(post(Body::empty())?).await?;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
        }
        println!("while logins fail, callers get a 503");
        Ok(())
    }

    async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), BoxError> {
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

/// The server behind the gateway. It echoes the request's body.
mod server {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Body;
    use axum::extract::{Request, State};
    use axum::response::{IntoResponse, Response};
    use axum::routing::post;
    use http::{StatusCode, header};
    use tower_reauth::ProviderError;

    #[derive(Clone)]
    pub(crate) struct Server {
        pub(crate) authority: String,
        desk: Desk,
    }

    type Desk = Arc<Mutex<Inner>>;

    #[derive(Default)]
    struct Inner {
        good: Option<String>,
        logins: u32,
        executed: u32,
        down: bool,
    }

    impl Server {
        pub(crate) async fn start() -> std::io::Result<Self> {
            let desk = Desk::default();
            let router = Router::new()
                .route("/echo", post(echo))
                .with_state(desk.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let authority = listener.local_addr()?.to_string();
            tokio::spawn(async move { axum::serve(listener, router).await });
            Ok(Self { authority, desk })
        }

        pub(crate) fn log_in(&self) -> Result<String, ProviderError> {
            let mut desk = self.desk.lock().unwrap();
            if desk.down {
                return Err(ProviderError::unavailable("the login system is down"));
            }
            desk.logins += 1;
            let token = format!("token-{}", desk.logins);
            desk.good = Some(token.clone());
            Ok(token)
        }

        pub(crate) fn revoke(&self) {
            self.desk.lock().unwrap().good = None;
        }

        pub(crate) fn is_down(&self, down: bool) {
            self.desk.lock().unwrap().down = down;
        }

        pub(crate) fn logins(&self) -> u32 {
            self.desk.lock().unwrap().logins
        }

        pub(crate) fn executed(&self) -> u32 {
            self.desk.lock().unwrap().executed
        }
    }

    async fn echo(State(desk): State<Desk>, request: Request) -> Response {
        let mut desk = desk.lock().unwrap();
        let good = desk.good.as_ref().map(|token| format!("Bearer {token}"));
        let given = request.headers().get(header::AUTHORIZATION);
        if good.is_none() || given.and_then(|given| given.to_str().ok()) != good.as_deref() {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        desk.executed += 1;
        let body: Body = request.into_body();
        body.into_response()
    }
}
