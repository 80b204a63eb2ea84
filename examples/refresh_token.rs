//! A server like Matrix: a login returns two tokens, a refresh replaces both, a
//! logout ends all tokens of one login, a password change ends the refresh
//! tokens, and not every 401 means a dead token.
//!
//! ```sh
//! cargo run --example refresh_token
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
//! serde_json = "1"
//! tokio = { version = "1", features = ["full"] }
//! tower = { version = "0.5", features = ["util"] }
//! tower-reauth = { path = "../tower-reauth" }
//! ```

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::provider::{Answer, Api, Call, Expiry};
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, ExposeSecret, LoginContext, LogoutContext,
    LogoutEnds, PasswordChange, PasswordContext, Profile, ProviderError, Rejection, SecretString,
    Session, Source, Token,
};

type Http = Client<HttpConnector, Full<Bytes>>;

struct Matrix {
    api: Api<Http>,
    source: Source,
}

impl CredentialProvider for Matrix {
    fn profile(&self) -> Profile {
        // Any other 401 concerns the request, not the token.
        let dead = Rejection::body_contains(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", 1024);
        let profile = self.api.profile().rejection(dead);
        profile.logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        if let Some(refresh) = cx.previous().and_then(Token::data) {
            let call = self.api.post("refresh");
            let call = call.json_field("/refresh_token", refresh.expose_secret());
            if let Some(answer) = call.exchange().await? {
                return Ok(token(&answer)?.continues_previous());
            }
        }
        let user = cx.credentials()?;
        let call = with_password(self.api.post("login"), "", user.username(), user.password());
        token(&call.json_field("/refresh_token", true).login().await?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let call = self.api.post("logout").token(cx.token());
        call.logout().await.map(drop)
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let (Some(token), Some(name), Some(current)) =
            (cx.token(), cx.username(), cx.current_password())
        else {
            return Err(ProviderError::unsupported("needs a token and a password"));
        };
        let new = cx.new_password().expose_secret();
        let call = self.api.post("account/password").token(token);
        // The server asks for the current password, in a 401 that names a dialog.
        let asked = call.json_field("/new_password", new).send().await?;
        let Ok(dialog) = asked.secret("/session") else {
            return asked.of_change().map(drop);
        };
        let call = self.api.post("account/password").token(token);
        let call = with_password(call, "/auth", name, current).json_field("/new_password", new);
        let call = call.json_field("/auth/session", dialog.expose_secret());
        // It asks once more if that is wrong.
        let call = call.refused_by(StatusCode::UNAUTHORIZED);
        call.change().await.map(drop)
    }
}

fn with_password(call: Call<Http>, at: &str, name: &str, password: &SecretString) -> Call<Http> {
    call.json_field(&format!("{at}/type"), "m.login.password")
        .json_field(&format!("{at}/identifier/type"), "m.id.user")
        .json_field(&format!("{at}/identifier/user"), name)
        .json_field(&format!("{at}/password"), password.expose_secret())
}

fn token(answer: &Answer) -> Result<Token, ProviderError> {
    let token = Token::bearer(answer.secret("/access_token")?)?;
    let token = token.lives_for(answer.lifetime(Expiry::Milliseconds("/expires_in_ms"))?);
    Ok(match answer.optional_secret("/refresh_token")? {
        Some(refresh) => token.with_data(refresh),
        None => token,
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::Server::start("alice", "first-password").await?;
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let session = Session::new(Matrix {
        api: Api::new(http.clone(), server.url.parse()?)?,
        source: Credentials::new("alice", "first-password").into(),
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let call = |path: &'static str| {
        let request = Request::get(format!("{}/{path}", server.url)).body(Full::default());
        let client = client.clone();
        async move { Ok::<_, BoxError>(client.oneshot(request?).await?.status().as_u16()) }
    };

    assert_eq!(call("sync").await?, 200);
    println!("logged in: {:?}", server.seen());

    assert_eq!(call("somebody-elses").await?, 401);
    println!("a 401 that is about the request: {:?}", server.seen());
    assert_eq!((server.seen().logins, server.seen().refreshes), (1, 0));

    server.end_access_tokens();
    assert_eq!(call("sync").await?, 200);
    println!("the access token ends: {:?}", server.seen());
    assert_eq!((server.seen().logins, server.seen().refreshes), (1, 1));

    // This time the server keeps the refresh token, and then takes it once more.
    for refreshes in 2..=3 {
        server.end_access_tokens();
        assert_eq!(call("sync").await?, 200);
        assert_eq!(
            (server.seen().logins, server.seen().refreshes),
            (1, refreshes)
        );
    }
    println!(
        "without a new refresh token, the old one stays: {:?}",
        server.seen()
    );

    let wrong = PasswordChange::to("second-password").current("wrong");
    let refused = session.change_password(wrong).await.unwrap_err();
    println!("a password change with a wrong password: {refused}");

    session
        .change_password(PasswordChange::to("second-password"))
        .await?;
    assert_eq!(call("sync").await?, 200);
    server.end_access_tokens();
    assert_eq!(call("sync").await?, 200);
    println!("the password was changed: {:?}", server.seen());
    // One login showed which password is right after the refused change.
    assert_eq!((server.seen().logins, server.seen().refreshes), (3, 3));
    assert_eq!(server.seen().refused, 0);

    session.logout().await?;
    println!("logged out: {:?}", server.seen());
    assert_eq!(server.seen().sessions, 0);
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

/// The server.
mod server {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{Request, Response, StatusCode, header};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    #[derive(Clone)]
    pub(crate) struct Server {
        pub(crate) url: String,
        state: Arc<Mutex<State>>,
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Seen {
        pub(crate) logins: u32,
        pub(crate) refreshes: u32,
        /// Logins with a wrong password.
        pub(crate) refused: u32,
        /// Logins with a live token.
        pub(crate) sessions: usize,
    }

    #[derive(Default)]
    struct State {
        seen: Seen,
        user: String,
        password: String,
        issued: u32,
        /// The session of each token.
        access: HashMap<String, u32>,
        refresh: HashMap<String, u32>,
    }

    type Answer = (StatusCode, Value);

    impl Server {
        pub(crate) async fn start(user: &str, password: &str) -> std::io::Result<Self> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", listener.local_addr()?);
            let state = Arc::new(Mutex::new(State {
                user: user.to_owned(),
                password: password.to_owned(),
                ..State::default()
            }));
            let server = Self {
                url,
                state: state.clone(),
            };
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = state.clone();
                    let service = hyper::service::service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(serve(&state, request).await) }
                    });
                    let stream = TokioIo::new(stream);
                    tokio::spawn(http1::Builder::new().serve_connection(stream, service));
                }
            });
            Ok(server)
        }

        pub(crate) fn seen(&self) -> Seen {
            let state = self.state.lock().unwrap();
            let mut sessions: Vec<_> = state
                .access
                .values()
                .chain(state.refresh.values())
                .collect();
            sessions.sort_unstable();
            sessions.dedup();
            Seen {
                sessions: sessions.len(),
                ..state.seen
            }
        }

        pub(crate) fn end_access_tokens(&self) {
            self.state.lock().unwrap().access.clear();
        }
    }

    async fn serve(state: &Mutex<State>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        let body = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let bearer = head.headers.get(header::AUTHORIZATION);
        let bearer = bearer.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let (status, answer) = state.lock().unwrap().answer(head.uri.path(), bearer, &body);
        let response = Response::builder().status(status);
        let response = response.header(header::CONTENT_TYPE, "application/json");
        response.body(Full::from(answer.to_string())).unwrap()
    }

    impl State {
        fn answer(&mut self, path: &str, bearer: Option<&str>, body: &Value) -> Answer {
            match path {
                "/login" => {
                    if !self.is_password(body) {
                        self.seen.refused += 1;
                        return failed(StatusCode::FORBIDDEN, "M_FORBIDDEN");
                    }
                    self.seen.logins += 1;
                    return self.issue(self.seen.logins);
                }
                "/refresh" => {
                    let refresh = body["refresh_token"].as_str().unwrap_or_default();
                    let Some(session) = self.refresh.remove(refresh) else {
                        return failed(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN");
                    };
                    self.seen.refreshes += 1;
                    self.access.retain(|_, owner| *owner != session);
                    // Every second time it keeps the refresh token.
                    if self.seen.refreshes % 2 == 1 {
                        return self.issue(session);
                    }
                    let (status, mut answer) = self.issue(session);
                    let new = answer["refresh_token"].take();
                    self.refresh.remove(new.as_str().unwrap_or_default());
                    self.refresh.insert(refresh.to_owned(), session);
                    return (status, answer);
                }
                _ => {}
            }
            let Some(session) = bearer.and_then(|bearer| self.access.get(bearer).copied()) else {
                return failed(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN");
            };
            match path {
                "/sync" => (StatusCode::OK, json!({})),
                "/logout" => {
                    self.access.retain(|_, owner| *owner != session);
                    self.refresh.retain(|_, owner| *owner != session);
                    (StatusCode::OK, json!({}))
                }
                "/account/password" => {
                    if body["auth"]["session"] != "dialog-1" || !self.is_password(&body["auth"]) {
                        let flows = json!([{ "stages": ["m.login.password"] }]);
                        let asks = json!({ "session": "dialog-1", "flows": flows });
                        return (StatusCode::UNAUTHORIZED, asks);
                    }
                    self.password = body["new_password"].as_str().unwrap_or_default().to_owned();
                    self.refresh.clear();
                    (StatusCode::OK, json!({}))
                }
                _ => failed(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED"),
            }
        }

        fn is_password(&self, body: &Value) -> bool {
            body["type"] == "m.login.password"
                && body["identifier"]["user"] == self.user
                && body["password"] == self.password
        }

        fn issue(&mut self, session: u32) -> Answer {
            self.issued += 1;
            let (access, refresh) = (format!("a{}", self.issued), format!("r{}", self.issued));
            let answer = json!({
                "access_token": access,
                "refresh_token": refresh,
                "expires_in_ms": 3_600_000,
            });
            self.access.insert(access, session);
            self.refresh.insert(refresh, session);
            (StatusCode::OK, answer)
        }
    }

    fn failed(status: StatusCode, code: &str) -> Answer {
        (status, json!({ "errcode": code }))
    }
}
