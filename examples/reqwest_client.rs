//! A reqwest client inside the layer, and a redirect follower outside of it: the
//! token goes to its own server only.
//!
//! ```sh
//! cargo run --example reqwest_client
//! ```
//!
//! In a crate of its own, it needs:
//!
//! ```toml
//! axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }
//! http = "1"
//! reqwest = { version = "0.13", default-features = false, features = ["stream"] }
//! tokio = { version = "1", features = ["full"] }
//! tower = { version = "0.5", features = ["filter", "util"] }
//! tower-http = { version = "0.7", features = ["follow-redirect"] }
//! tower-reauth = { path = "../tower-reauth" }
//! ```

use http::Request;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_reauth::{
    BoxError, IfEmpty, LoginContext, Profile, Session, Token, provider_fn, replay_fn,
};

/// Converts a request for reqwest's client, which has its own request type.
fn to_reqwest(request: Request<reqwest::Body>) -> Result<reqwest::Request, BoxError> {
    Ok(request.try_into()?)
}

/// Copies a body if it is in memory, not a stream.
fn again(body: &reqwest::Body) -> Option<reqwest::Body> {
    body.as_bytes().map(|bytes| bytes.to_vec().into())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let home = server::Server::start().await?;
    let elsewhere = server::Server::start().await?;
    let desk = home.clone();
    let profile = Profile::at(home.url("/").parse()?);
    let session = Session::new(provider_fn(profile, move |_: LoginContext| {
        let token = desk.log_in();
        async move { Ok(Token::header("x-api-key", token)?) }
    }));

    let http = reqwest::Client::builder()
        // A redirect follower inside the layer forwards the `x-api-key` header to
        // any host, and the layer cannot see it.
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let http = ServiceBuilder::new()
        .map_response(http::Response::<reqwest::Body>::from)
        .filter(to_reqwest)
        .service(http);
    let client = ServiceBuilder::new()
        .map_response(|response: http::Response<_>| {
            reqwest::Response::from(response.map(reqwest::Body::wrap))
        })
        .layer(FollowRedirectLayer::new())
        .layer(session.layer().replay(replay_fn(again)))
        .service(http.clone());

    let request = || Request::post(home.url("/echo"));
    let response = client.clone().oneshot(request().body("hello".into())?);
    assert_eq!(response.await?.text().await?, "hello");
    println!("a call, after one login");

    home.revoke();
    let response = client.clone().oneshot(request().body("once more".into())?);
    // The future borrows nothing, so it can run in its own task.
    let response = tokio::spawn(response).await??;
    assert_eq!(response.text().await?, "once more");
    assert_eq!((home.logins(), home.rejected()), (2, 1));
    println!("the token was dead: the call was sent once more, body included");

    home.redirect_to(&elsewhere.url("/open"));
    let request = Request::get(home.url("/moved")).body(reqwest::Body::default())?;
    let response = client.clone().oneshot(request).await?;
    assert_eq!(response.text().await?, "no key");
    assert_eq!(elsewhere.keys_seen(), 0);
    println!("the redirect's target, another server, saw no token");

    // `IfEmpty` is enough for a client whose requests have no body.
    let reader = session.layer().replay(IfEmpty).layer(http);
    home.revoke();
    let request = Request::get(home.url("/echo")).body(reqwest::Body::default())?;
    let response = reader.oneshot(request).await?;
    assert_eq!(response.status(), 200);
    assert_eq!((home.logins(), home.rejected()), (3, 2));
    println!("and a client that only reads copies nothing");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

/// A server that needs a key, echoes, and redirects.
mod server {
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Body;
    use axum::extract::{Request, State};
    use axum::response::{IntoResponse, Response};
    use axum::routing::{any, get};
    use http::{HeaderMap, StatusCode, header};

    const KEY: &str = "x-api-key";

    #[derive(Clone)]
    pub(crate) struct Server {
        address: SocketAddr,
        desk: Desk,
    }

    type Desk = Arc<Mutex<Inner>>;

    #[derive(Default)]
    struct Inner {
        good: Option<String>,
        redirect: String,
        logins: u32,
        rejected: u32,
        keys_seen: u32,
    }

    impl Server {
        pub(crate) async fn start() -> std::io::Result<Self> {
            let desk = Desk::default();
            let router = Router::new()
                .route("/echo", any(echo))
                .route("/moved", get(moved))
                .route("/open", get(open))
                .with_state(desk.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            tokio::spawn(async move { axum::serve(listener, router).await });
            Ok(Self { address, desk })
        }

        pub(crate) fn url(&self, path: &str) -> String {
            format!("http://{}{path}", self.address)
        }

        pub(crate) fn log_in(&self) -> String {
            let mut desk = self.desk.lock().unwrap();
            desk.logins += 1;
            let key = format!("key-{}", desk.logins);
            desk.good = Some(key.clone());
            key
        }

        pub(crate) fn revoke(&self) {
            self.desk.lock().unwrap().good = None;
        }

        pub(crate) fn redirect_to(&self, url: &str) {
            self.desk.lock().unwrap().redirect = url.into();
        }

        pub(crate) fn logins(&self) -> u32 {
            self.desk.lock().unwrap().logins
        }

        pub(crate) fn rejected(&self) -> u32 {
            self.desk.lock().unwrap().rejected
        }

        pub(crate) fn keys_seen(&self) -> u32 {
            self.desk.lock().unwrap().keys_seen
        }
    }

    async fn echo(State(desk): State<Desk>, request: Request) -> Response {
        if !admits(&desk, request.headers()) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let body: Body = request.into_body();
        body.into_response()
    }

    async fn moved(State(desk): State<Desk>, headers: HeaderMap) -> Response {
        if !admits(&desk, &headers) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let location = desk.lock().unwrap().redirect.clone();
        (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
    }

    async fn open(State(desk): State<Desk>, headers: HeaderMap) -> &'static str {
        if headers.contains_key(KEY) {
            desk.lock().unwrap().keys_seen += 1;
            return "a key";
        }
        "no key"
    }

    fn admits(desk: &Desk, headers: &HeaderMap) -> bool {
        let mut desk = desk.lock().unwrap();
        let given = headers.get(KEY).and_then(|given| given.to_str().ok());
        let good = desk.good.is_some() && given == desk.good.as_deref();
        desk.rejected += u32::from(!good);
        good
    }
}
