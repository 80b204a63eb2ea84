//! A custom provider for a Redfish-style server: a POST opens a session
//! and answers with `X-Auth-Token` and the session's `Location`; a DELETE of
//! that location ends it. The server runs in this process.
//!
//! ```sh
//! cargo run --example custom_provider
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
//! tower-reauth = { path = "../tower-reauth", features = ["testing"] }
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::provider::Api;
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, ExposeSecret, LoginContext, LogoutContext,
    LogoutEnds, Profile, ProviderError, Session, Source, Token,
};

type Http = Client<HttpConnector, Full<Bytes>>;

/// Logs in to one Redfish service.
struct Redfish {
    api: Api<Http>, // over a client without a session layer: a login needs no token
    source: Source,
}

impl CredentialProvider for Redfish {
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        let user = cx.credentials()?;
        let body = BTreeMap::from([
            ("UserName", user.username()),
            ("Password", user.password().expose_secret()),
        ]);
        let sessions = self.api.post("/redfish/v1/SessionService/Sessions");
        let answer = sessions.json(&body).login().await?;
        let token = Token::header("x-auth-token", answer.header("x-auth-token")?)?;
        // The logout needs the address of the session. Without one, the token is used nevertheless:
        // the session on the server exists.
        Ok(match answer.header("location") {
            Ok(address) => token.with_data(address),
            Err(_) => token,
        })
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let Some(address) = cx.token().data() else {
            let why = "the server named no address of the session";
            return Err(ProviderError::unsupported(why));
        };
        let session = self.api.delete(address.expose_secret());
        session.token(cx.token()).logout().await?;
        Ok(())
    }
}

impl Redfish {
    fn new(http: Http, base: &str, source: impl Into<Source>) -> Result<Self, BoxError> {
        Ok(Self {
            api: Api::new(http, base.parse()?)?,
            source: source.into(),
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::Redfish::serve("admin", "s3cret").await?;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let credentials = Credentials::new("admin", "s3cret");
    let provider = Redfish::new(http.clone(), &server.base(), credentials)?;
    let session = Session::new(provider);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let systems = format!("{}/redfish/v1/Systems", server.base());
    let get = || Request::get(&systems).body(Full::default());
    let response = client.clone().oneshot(get()?).await?;
    println!(
        "systems: {}, after {} login",
        response.status(),
        server.logins()
    );

    server.restart();
    let response = client.oneshot(get()?).await?;
    println!(
        "after a restart: {}, and {} logins",
        response.status(),
        server.logins()
    );
    assert_eq!((response.status(), server.logins()), (StatusCode::OK, 2));

    session.logout().await?;
    println!("logged out: {} sessions are left", server.live());
    assert_eq!(server.live(), 0);
    Ok(())
}

/// The server that the example talks to.
mod server {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex, MutexGuard};

    use bytes::Bytes;
    use http::{HeaderMap, Method, Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

    #[derive(Clone)]
    pub(super) struct Redfish {
        address: SocketAddr,
        state: Arc<Mutex<State>>,
    }

    struct State {
        user: serde_json::Value,
        /// By location, the token.
        live: HashMap<String, String>,
        names_location: bool,
        logins: usize,
        failed: usize,
    }

    impl Redfish {
        pub(super) async fn serve(user: &str, password: &str) -> std::io::Result<Self> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let server = Self {
                address: listener.local_addr()?,
                state: Arc::new(Mutex::new(State {
                    user: serde_json::json!({ "UserName": user, "Password": password }),
                    live: HashMap::new(),
                    names_location: true,
                    logins: 0,
                    failed: 0,
                })),
            };
            let accepting = server.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let server = accepting.clone();
                    let service = service_fn(move |request| server.clone().answer(request));
                    let io = TokioIo::new(stream);
                    tokio::spawn(http1::Builder::new().serve_connection(io, service));
                }
            });
            Ok(server)
        }

        pub(super) fn base(&self) -> String {
            format!("http://{}", self.address)
        }

        /// Forgets all sessions.
        pub(super) fn restart(&self) {
            self.state().live.clear();
        }

        pub(super) fn logins(&self) -> usize {
            self.state().logins
        }

        pub(super) fn live(&self) -> usize {
            self.state().live.len()
        }

        #[cfg(test)]
        pub(super) fn leave_out_location(&self) {
            self.state().names_location = false;
        }

        #[cfg(test)]
        pub(super) fn failed(&self) -> usize {
            self.state().failed
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap()
        }

        async fn answer(
            self,
            request: Request<Incoming>,
        ) -> Result<Response<Full<Bytes>>, Infallible> {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(_) => return Ok(status(StatusCode::BAD_REQUEST)),
            };
            let path = head.uri.path();
            let mut state = self.state();
            Ok(match (&head.method, path) {
                (&Method::POST, SESSIONS) => state.open(&body),
                _ if !state.is_live(&head.headers) => status(StatusCode::UNAUTHORIZED),
                (&Method::DELETE, _) => match state.live.remove(path) {
                    Some(_) => status(StatusCode::NO_CONTENT),
                    None => status(StatusCode::NOT_FOUND),
                },
                _ => status(StatusCode::OK),
            })
        }
    }

    impl State {
        fn open(&mut self, body: &[u8]) -> Response<Full<Bytes>> {
            if serde_json::from_slice(body).ok().as_ref() != Some(&self.user) {
                self.failed += 1;
                return status(StatusCode::UNAUTHORIZED);
            }
            self.logins += 1;
            let location = format!("{SESSIONS}/{}", self.logins);
            let token = format!("token-{}", self.logins);
            self.live.insert(location.clone(), token.clone());
            let mut response = status(StatusCode::CREATED);
            let headers = response.headers_mut();
            headers.insert("x-auth-token", token.parse().unwrap());
            if self.names_location {
                headers.insert("location", location.parse().unwrap());
            }
            response
        }

        fn is_live(&self, headers: &HeaderMap) -> bool {
            let token = headers.get("x-auth-token");
            token.is_some_and(|token| self.live.values().any(|live| token == live))
        }
    }

    fn status(status: StatusCode) -> Response<Full<Bytes>> {
        let mut response = Response::default();
        *response.status_mut() = status;
        response
    }
}

#[cfg(test)]
mod tests {
    use http::Response;
    use tower_reauth::testing::{Check, TestServer, conformance, conformance_unreachable};

    use super::*;

    /// Asks the server directly, without a session, for the conformance check.
    struct Tried {
        server: server::Redfish,
        http: Http,
    }

    impl TestServer for Tried {
        async fn accepts(&self, token: &Token) -> bool {
            let answer = self.response_to(token).await;
            answer.is_some_and(|answer| answer.status() == StatusCode::OK)
        }

        async fn revoke_all(&self) -> bool {
            self.server.restart();
            true
        }

        async fn response_to(&self, token: &Token) -> Option<Response<Bytes>> {
            let systems = format!("{}/redfish/v1/Systems", self.server.base());
            let mut request = Request::get(systems).body(Full::default()).ok()?;
            token.apply_to(request.headers_mut());
            let answer = self.http.request(request).await.ok()?;
            Some(answer.map(|_| Bytes::new()))
        }

        async fn live_sessions(&self) -> Option<usize> {
            Some(self.server.live())
        }

        async fn failed_logins(&self) -> Option<usize> {
            Some(self.server.failed())
        }
    }

    fn provider(http: Http, base: &str) -> Redfish {
        Redfish::new(http, base, Credentials::new("admin", "s3cret")).unwrap()
    }

    #[test]
    fn runs() {
        main().unwrap();
    }

    #[tokio::test]
    async fn a_login_without_a_location_yields_a_token_that_cannot_be_logged_out() {
        let http: Http = Client::builder(TokioExecutor::new()).build_http();
        let server = server::Redfish::serve("admin", "s3cret").await.unwrap();
        server.leave_out_location();
        let session = Session::new(provider(http.clone(), &server.base()));
        let client = ServiceBuilder::new().layer(session.layer()).service(http);
        let systems = format!("{}/redfish/v1/Systems", server.base());
        for _ in 0..3 {
            let request = Request::get(&systems).body(Full::default()).unwrap();
            let response = client.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        assert_eq!((server.logins(), server.live()), (1, 1));
        let error = session.logout().await.unwrap_err();
        assert!(error.to_string().contains("named no address"), "{error}");
    }

    #[tokio::test]
    async fn the_provider_conforms() {
        let http: Http = Client::builder(TokioExecutor::new()).build_http();
        let server = server::Redfish::serve("admin", "s3cret").await.unwrap();
        let provider = provider(http.clone(), &server.base());
        let report = conformance(&provider, &Tried { server, http }).await;
        let report = report.unwrap();
        println!("{report}");
        for check in [
            Check::Login,
            Check::Rejection,
            Check::RejectedResponse,
            Check::Renewal,
            Check::Logout,
            Check::DeadLogout,
            Check::LogoutEnds,
            Check::WrongPassword,
            Check::DroppedLogin,
        ] {
            assert!(report.kept(check), "{report}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_unavailable() {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = format!("http://{}", port.local_addr().unwrap());
        drop(port);
        let tried = conformance_unreachable(&provider(http, &closed)).await;
        assert!(tried.unwrap().kept(Check::Unreachable));
    }
}
