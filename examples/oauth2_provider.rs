//! OAuth 2.0 client credentials through the `oauth2` crate, with a refresh token
//! that is good once (RFC 6749, section 6; RFC 9700, section 4.14.2).
//!
//! ```sh
//! cargo run --example oauth2_provider
//! ```
//!
//! In a crate of its own, it needs:
//!
//! ```toml
//! bytes = "1"
//! http = "1"
//! http-body-util = "0.1"
//! hyper = { version = "1", features = ["http1", "server"] }
//! hyper-util = { version = "0.1", features = ["client-legacy", "http1", "tokio"] }
//! oauth2 = { version = "5", default-features = false }
//! serde_json = "1"
//! tokio = { version = "1", features = ["full"] }
//! tower = { version = "0.5", features = ["util"] }
//! tower-reauth = { path = "../tower-reauth" }
//! ```

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oauth2::basic::{
    BasicClient, BasicErrorResponse, BasicErrorResponseType as Said, BasicTokenResponse,
};
use oauth2::{
    ClientId, ClientSecret, HttpRequest, HttpResponse, RefreshToken, RequestTokenError,
    TokenResponse, TokenUrl,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, Error, ErrorKind, ExposeSecret, LoginContext,
    Profile, ProviderError, Session, Source, Token,
};

type Http = Client<HttpConnector, Full<Bytes>>;

struct OAuth2 {
    http: Http,
    profile: Profile,
    token_url: TokenUrl,
    /// The client's id and secret.
    source: Source,
}

impl CredentialProvider for OAuth2 {
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        let client = cx.credentials()?;
        let secret = client.password().expose_secret().to_owned();
        let client = BasicClient::new(ClientId::new(client.username().to_owned()))
            .set_client_secret(ClientSecret::new(secret))
            .set_token_uri(self.token_url.clone());

        if let Some(refresh) = cx.previous().and_then(Token::data) {
            let refresh = RefreshToken::new(refresh.expose_secret().to_owned());
            // If the answer is lost, the refresh token may be spent. A second use
            // would end every token issued since the grant.
            let http = |request| send(self.http.clone(), request, ProviderError::uncertain);
            let exchange = client.exchange_refresh_token(&refresh);
            match exchange.request_async(&http).await {
                Ok(granted) => return Ok(issued(&granted)?.continues_previous()),
                // It is spent, expired or revoked: log in.
                Err(error) if said(&error) == Some(&Said::InvalidGrant) => {}
                Err(error) => return Err(denied(error)),
            }
        }
        let http = |request| send(self.http.clone(), request, ProviderError::unavailable);
        let grant = client.exchange_client_credentials();
        issued(&grant.request_async(&http).await.map_err(denied)?)
    }
}

fn issued(granted: &BasicTokenResponse) -> Result<Token, ProviderError> {
    let mut token = Token::bearer(granted.access_token().secret().as_str())?;
    if let Some(refresh) = granted.refresh_token() {
        token = token.with_data(refresh.secret().as_str());
    }
    Ok(match granted.expires_in() {
        Some(lifetime) => token.lives_for(lifetime),
        None => token,
    })
}

type Failed = RequestTokenError<ProviderError, BasicErrorResponse>;

/// The error code of RFC 6749, section 5.2, if the server gave one.
fn said(error: &Failed) -> Option<&Said> {
    match error {
        RequestTokenError::ServerResponse(response) => Some(response.error()),
        _ => None,
    }
}

fn denied(error: Failed) -> ProviderError {
    match error {
        RequestTokenError::Request(error) => error,
        RequestTokenError::ServerResponse(response) => match response.error() {
            Said::InvalidClient | Said::UnauthorizedClient => {
                ProviderError::refused(response.to_string())
            }
            _ => ProviderError::protocol(response.to_string()),
        },
        // The second field quotes the answer, which may contain a token.
        RequestTokenError::Parse(error, _) => ProviderError::protocol(error),
        RequestTokenError::Other(said) => ProviderError::protocol(said),
    }
}

/// Sends a request of the `oauth2` crate, and reports a server that is unavailable.
async fn send(
    http: Http,
    request: HttpRequest,
    lost: fn(BoxError) -> ProviderError,
) -> Result<HttpResponse, ProviderError> {
    let response = http.request(request.map(Full::from)).await;
    let (head, body) = response.map_err(|error| lost(error.into()))?.into_parts();
    match head.status {
        StatusCode::TOO_MANY_REQUESTS => return Err(ProviderError::unavailable("429")),
        status if status.is_server_error() => return Err(lost(status.to_string().into())),
        _ => {}
    }
    let body = body.collect().await.map_err(|error| lost(error.into()))?;
    Ok(Response::from_parts(head, body.to_bytes().to_vec()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::start().await?;
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let session_of = |secret: &str| {
        Ok::<_, BoxError>(Session::new(OAuth2 {
            http: http.clone(),
            profile: Profile::at(server.url.parse()?),
            token_url: TokenUrl::new(format!("{}/token", server.url))?,
            source: Credentials::new("robot", secret).into(),
        }))
    };
    let session = session_of("s3cret")?;
    let layered = ServiceBuilder::new().layer(session.layer());
    let client = layered.service(http.clone());
    let request = || Request::get(format!("{}/jobs", server.url)).body(Full::default());
    let call = async || {
        let response = client.clone().oneshot(request()?).await?;
        Ok::<StatusCode, BoxError>(response.status())
    };
    // Grants with the secret, refreshes, and second uses of a refresh token.
    let expect = |what: &str, expected: (u32, u32, u32)| {
        let seen = server.seen();
        println!("{what}: {seen:?}");
        assert_eq!((seen.grants, seen.refreshes, seen.reuses), expected);
    };

    assert_eq!(call().await?, StatusCode::OK);
    expect("the first call gets both tokens", (1, 0, 0));

    server.revoke_access();
    assert_eq!(call().await?, StatusCode::OK);
    expect("a dead access token is refreshed", (1, 1, 0));

    // The refresh token is spent, and the caller is cancelled before the answer.
    server.revoke_access();
    let held = server.hold_answers().await;
    let caller = tokio::spawn(client.clone().oneshot(request()?));
    server.answer_is_held().await;
    caller.abort();
    assert!(caller.await.is_err_and(|error| error.is_cancelled()));
    drop(held);
    assert_eq!(call().await?, StatusCode::OK);
    expect("a cancelled caller loses no refresh token", (1, 2, 0));

    server.revoke_access();
    assert_eq!(call().await?, StatusCode::OK);
    expect("the next refresh uses the newest", (1, 3, 0));

    // The refresh token may be spent, so it is not sent again.
    server.revoke_access();
    server.lose_next_answer();
    assert_eq!(call().await?, StatusCode::UNAUTHORIZED);
    session.login().await?;
    assert_eq!(call().await?, StatusCode::OK);
    expect("a lost answer is followed by a grant", (2, 4, 0));

    server.revoke_everything();
    assert_eq!(call().await?, StatusCode::OK);
    expect("a dead refresh token is followed by a grant", (3, 4, 0));
    assert_eq!(session.stats().all_logins().failed, 1);

    let session = session_of("wrong")?;
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    for _ in 0..3 {
        let error = client.clone().oneshot(request()?).await.unwrap_err();
        let error = Error::find(&*error).expect("an error of the session");
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    assert_eq!(server.seen().wrong_secrets, 1);
    println!("a wrong secret was sent once for three calls");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

#[test]
fn the_server_notices_a_second_use_of_a_refresh_token() {
    server::notices_a_second_use();
}

/// The authorization server, and the API that it protects.
mod server {
    use std::collections::HashMap;
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{Request, Response, StatusCode, header};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use tokio::sync::{Notify, OwnedRwLockWriteGuard, RwLock};

    /// The client "robot" with the secret "s3cret".
    const ROBOT: &str = "Basic cm9ib3Q6czNjcmV0";

    #[derive(Clone)]
    pub(crate) struct Server {
        pub(crate) url: String,
        state: Arc<Mutex<State>>,
        gate: Gate,
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Seen {
        pub(crate) grants: u32,
        pub(crate) refreshes: u32,
        pub(crate) reuses: u32,
        pub(crate) wrong_secrets: u32,
    }

    #[derive(Default)]
    struct State {
        seen: Seen,
        /// For each grant that is not revoked: the number of the newest refresh
        /// token, and whether its access token is good.
        families: HashMap<u32, (u32, bool)>,
    }

    /// Holds back answers of the token endpoint, and loses one on request.
    #[derive(Clone, Default)]
    struct Gate {
        closed: Arc<RwLock<()>>,
        loses: Arc<AtomicBool>,
        arrived: Arc<Notify>,
    }

    impl Server {
        pub(crate) fn seen(&self) -> Seen {
            self.state.lock().unwrap().seen
        }

        pub(crate) fn revoke_access(&self) {
            for (_, is_good) in self.state.lock().unwrap().families.values_mut() {
                *is_good = false;
            }
        }

        pub(crate) fn revoke_everything(&self) {
            self.state.lock().unwrap().families.clear();
        }

        /// Holds back all answers of the token endpoint until the guard drops.
        pub(crate) async fn hold_answers(&self) -> OwnedRwLockWriteGuard<()> {
            self.gate.closed.clone().write_owned().await
        }

        pub(crate) fn lose_next_answer(&self) {
            self.gate.loses.store(true, Ordering::Relaxed);
        }

        pub(crate) async fn answer_is_held(&self) {
            self.gate.arrived.notified().await;
        }
    }

    impl Gate {
        async fn pass(&self) -> io::Result<()> {
            if self.loses.swap(false, Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if self.closed.try_read().is_err() {
                self.arrived.notify_one();
                drop(self.closed.read().await);
            }
            Ok(())
        }
    }

    pub(crate) async fn start() -> io::Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = Server {
            url: format!("http://{}", listener.local_addr()?),
            state: Arc::default(),
            gate: Gate::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                let service = hyper::service::service_fn(move |request| {
                    let serving = serving.clone();
                    async move { serving.answer(request).await }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(server)
    }

    impl Server {
        async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            let authorization = head.headers.get(header::AUTHORIZATION);
            let authorization = authorization.and_then(|value| value.to_str().ok());
            let authorization = authorization.unwrap_or_default();
            if head.uri.path() == "/token" {
                let (status, answer) = self.state.lock().unwrap().token(authorization, &body);
                self.gate.pass().await?;
                let response = Response::builder()
                    .status(status)
                    .header(header::CONTENT_TYPE, "application/json");
                let response = response.body(Full::from(answer.to_string()));
                return response.map_err(io::Error::other);
            }
            let access = authorization.strip_prefix("Bearer access-");
            let is_good = access.is_some_and(|access| self.state.lock().unwrap().is_good(access));
            let mut response = Response::new(Full::default());
            if !is_good {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
            }
            Ok(response)
        }
    }

    impl State {
        fn token(&mut self, authorization: &str, body: &str) -> (StatusCode, Value) {
            if authorization != ROBOT {
                self.seen.wrong_secrets += 1;
                return failure(StatusCode::UNAUTHORIZED, "invalid_client");
            }
            let refresh = field(body, "refresh_token").and_then(|refresh| {
                let (family, number) = refresh.strip_prefix("refresh-")?.split_once('-')?;
                Some((family.parse::<u32>().ok()?, number.parse::<u32>().ok()?))
            });
            match (field(body, "grant_type"), refresh) {
                (Some("client_credentials"), None) => {
                    self.seen.grants += 1;
                    self.issue(self.seen.grants, 1)
                }
                (Some("refresh_token"), Some((family, number))) => {
                    match self.families.get(&family) {
                        Some((newest, _)) if *newest == number => {
                            self.seen.refreshes += 1;
                            self.issue(family, number + 1)
                        }
                        Some(_) => {
                            // A second use: the token may be stolen, so revoke the family.
                            self.seen.reuses += 1;
                            self.families.remove(&family);
                            failure(StatusCode::BAD_REQUEST, "invalid_grant")
                        }
                        None => failure(StatusCode::BAD_REQUEST, "invalid_grant"),
                    }
                }
                _ => failure(StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            }
        }

        fn issue(&mut self, family: u32, number: u32) -> (StatusCode, Value) {
            self.families.insert(family, (number, true));
            let answer = json!({
                "access_token": format!("access-{family}-{number}"),
                "refresh_token": format!("refresh-{family}-{number}"),
                "token_type": "Bearer",
                "expires_in": 300,
            });
            (StatusCode::OK, answer)
        }

        fn is_good(&self, access: &str) -> bool {
            let mut good = self.families.iter().filter(|(_, (_, is_good))| *is_good);
            good.any(|(family, (number, _))| access == format!("{family}-{number}"))
        }
    }

    fn field<'a>(form: &'a str, name: &str) -> Option<&'a str> {
        let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    fn failure(status: StatusCode, code: &str) -> (StatusCode, Value) {
        (status, json!({ "error": code }))
    }

    #[cfg(test)]
    pub(crate) fn notices_a_second_use() {
        let mut state = State::default();
        let refresh = |token: &str| format!("grant_type=refresh_token&refresh_token={token}");
        state.token(ROBOT, "grant_type=client_credentials");
        let (first, _) = state.token(ROBOT, &refresh("refresh-1-1"));
        let (second, _) = state.token(ROBOT, &refresh("refresh-1-1"));
        assert_eq!((first, second), (StatusCode::OK, StatusCode::BAD_REQUEST));
        assert_eq!(state.seen.reuses, 1);
        let (newest, _) = state.token(ROBOT, &refresh("refresh-1-2"));
        assert_eq!(newest, StatusCode::BAD_REQUEST);
    }
}
