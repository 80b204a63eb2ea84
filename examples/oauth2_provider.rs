//! OAuth 2.0 through the `oauth2` crate: client credentials (RFC 6749, section
//! 4.4), and a refresh token that each use replaces (section 6). A server that
//! sees an old one again revokes them all (RFC 9700, section 4.14.2), so none
//! may be used twice, and none may be lost.
//!
//! ```sh
//! cargo run --example oauth2_provider
//! ```

use std::io;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oauth2::basic::{BasicClient, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, RefreshToken,
    RequestTokenError, StandardErrorResponse, TokenResponse, TokenUrl,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::{
    BoxError, CredentialProvider, ExposeSecret, LoginContext, Profile, ProviderError, Session,
    Token,
};

type Http = Client<HttpConnector, Full<Bytes>>;
type OAuth2Client =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;
type Failed = RequestTokenError<io::Error, StandardErrorResponse<BasicErrorResponseType>>;

struct OAuth2 {
    client: OAuth2Client,
    http: Http,
    profile: Profile,
}

impl CredentialProvider for OAuth2 {
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let http = |request| send(self.http.clone(), request);
        // Offered until it is used up, or nobody knows whether it is.
        if let Some(refresh) = login.previous().and_then(Token::data) {
            let refresh = RefreshToken::new(refresh.expose_secret().to_owned());
            let exchange = self.client.exchange_refresh_token(&refresh);
            match exchange.request_async(&http).await {
                Ok(answer) => return Ok(token(&answer)?.continues_previous()),
                // It is over: log in from the start.
                Err(RequestTokenError::ServerResponse(_)) => {}
                Err(lost) => return Err(ProviderError::uncertain(lost.to_string())),
            }
        }
        let grant = self.client.exchange_client_credentials();
        token(
            &grant
                .request_async(&http)
                .await
                .map_err(|error| failed(&error))?,
        )
    }
}

fn token(answer: &BasicTokenResponse) -> Result<Token, ProviderError> {
    let mut token = Token::bearer(answer.access_token().secret().as_str())?;
    if let Some(lifetime) = answer.expires_in() {
        token = token.lives_for(lifetime);
    }
    if let Some(refresh) = answer.refresh_token() {
        token = token.with_data(refresh.secret().as_str());
    }
    Ok(token)
}

/// Its text only: the error itself may hold the whole answer.
fn failed(error: &Failed) -> ProviderError {
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            BasicErrorResponseType::InvalidClient | BasicErrorResponseType::UnauthorizedClient => {
                ProviderError::refused(error.to_string())
            }
            _ => ProviderError::protocol(error.to_string()),
        },
        _ => ProviderError::unavailable(error.to_string()),
    }
}

/// The client as the `oauth2` crate calls it.
async fn send(http: Http, request: HttpRequest) -> io::Result<HttpResponse> {
    let request = request.map(|body| Full::new(Bytes::from(body)));
    let (head, body) = http
        .request(request)
        .await
        .map_err(io::Error::other)?
        .into_parts();
    let body = body.collect().await.map_err(io::Error::other)?;
    Ok(HttpResponse::from_parts(head, body.to_bytes().into()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::Server::start().await?;
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let session = Session::new(OAuth2 {
        client: BasicClient::new(ClientId::new("my-service".into()))
            .set_client_secret(ClientSecret::new("my-secret".into()))
            .set_token_uri(TokenUrl::new(format!("{}/token", server.url))?),
        http: http.clone(),
        profile: Profile::at(server.url.parse()?),
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let call = || async {
        let request = Request::get(format!("{}/api", server.url)).body(Full::default())?;
        Ok::<_, BoxError>(client.clone().oneshot(request).await?.status())
    };

    assert_eq!(call().await?, StatusCode::OK);
    println!("client credentials: {:?}", server.seen());

    server.end_access_tokens();
    assert_eq!(call().await?, StatusCode::OK);
    println!(
        "the access token ends, and is refreshed: {:?}",
        server.seen()
    );
    assert_eq!(server.seen().refreshes, 1);

    // The server has taken the refresh token and not answered yet when the
    // caller gives up: what the answer brings is not lost with it.
    server.end_access_tokens();
    let held = server.hold().await;
    let impatient = tokio::spawn(
        client
            .clone()
            .oneshot(Request::get(format!("{}/api", server.url)).body(Full::default())?),
    );
    server.is_refreshing().await;
    impatient.abort();
    assert!(impatient.await.is_err_and(|error| error.is_cancelled()));
    drop(held);
    assert_eq!(call().await?, StatusCode::OK);
    println!("a caller gives up in the midst of it: {:?}", server.seen());
    assert_eq!((server.seen().refreshes, server.seen().reused), (2, 0));

    server.end_everything();
    assert_eq!(call().await?, StatusCode::OK);
    println!("the refresh token is over too: {:?}", server.seen());
    assert_eq!((server.seen().grants, server.seen().reused), (2, 0));
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

/// The other side: an authorization server and an API.
mod server {
    use std::collections::HashSet;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{HeaderMap, Request, Response, StatusCode, header};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;
    use tokio::sync::{Notify, OwnedMutexGuard};

    #[derive(Clone)]
    pub(crate) struct Server {
        pub(crate) url: String,
        desk: Arc<Desk>,
    }

    #[derive(Default)]
    struct Desk {
        state: Mutex<State>,
        /// Held by whoever wants no refresh to be answered.
        gate: Arc<tokio::sync::Mutex<()>>,
        refreshing: Notify,
    }

    #[derive(Default)]
    struct State {
        seen: Seen,
        issued: u32,
        access: HashSet<String>,
        refresh: Option<String>,
        used: HashSet<String>,
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Seen {
        pub(crate) grants: u32,
        pub(crate) refreshes: u32,
        /// How often a refresh token came a second time.
        pub(crate) reused: u32,
    }

    impl Server {
        pub(crate) async fn start() -> std::io::Result<Self> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", listener.local_addr()?);
            let desk = Arc::<Desk>::default();
            let server = Self {
                url,
                desk: desk.clone(),
            };
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let desk = desk.clone();
                    let service = hyper::service::service_fn(move |request| {
                        let desk = desk.clone();
                        async move { Ok::<_, Infallible>(desk.answer(request).await) }
                    });
                    let stream = TokioIo::new(stream);
                    tokio::spawn(http1::Builder::new().serve_connection(stream, service));
                }
            });
            Ok(server)
        }

        pub(crate) fn seen(&self) -> Seen {
            self.desk.state.lock().unwrap().seen
        }

        pub(crate) fn end_access_tokens(&self) {
            self.desk.state.lock().unwrap().access.clear();
        }

        pub(crate) fn end_everything(&self) {
            let mut state = self.desk.state.lock().unwrap();
            state.access.clear();
            state.refresh = None;
        }

        /// Answers no refresh until that is dropped.
        pub(crate) async fn hold(&self) -> OwnedMutexGuard<()> {
            self.desk.gate.clone().lock_owned().await
        }

        /// A refresh token was taken, and is not answered yet.
        pub(crate) async fn is_refreshing(&self) {
            self.desk.refreshing.notified().await;
        }
    }

    impl Desk {
        async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            match head.uri.path() {
                "/token" => self.token(&head.headers, &body).await,
                _ => self.api(&head.headers),
            }
        }

        fn api(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
            let bearer = headers.get(header::AUTHORIZATION);
            let bearer = bearer.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
            let state = self.state.lock().unwrap();
            match bearer.is_some_and(|bearer| state.access.contains(bearer)) {
                true => json(StatusCode::OK, "{}"),
                false => json(StatusCode::UNAUTHORIZED, "{}"),
            }
        }

        async fn token(&self, headers: &HeaderMap, body: &str) -> Response<Full<Bytes>> {
            // my-service:my-secret
            let basic = "Basic bXktc2VydmljZTpteS1zZWNyZXQ=";
            if headers
                .get(header::AUTHORIZATION)
                .is_none_or(|given| given != basic)
            {
                return json(StatusCode::UNAUTHORIZED, r#"{"error":"invalid_client"}"#);
            }
            let fields: Vec<_> = body
                .split('&')
                .filter_map(|field| field.split_once('='))
                .collect();
            let refresh = fields.iter().find(|(name, _)| *name == "refresh_token");
            let answer = {
                let mut state = self.state.lock().unwrap();
                match refresh {
                    None => {
                        state.seen.grants += 1;
                        Some(state.issue())
                    }
                    Some((_, refresh)) => state.refresh(refresh),
                }
            };
            if refresh.is_some() {
                self.refreshing.notify_one();
                drop(self.gate.lock().await);
            }
            match answer {
                Some(answer) => json(StatusCode::OK, &answer),
                None => json(StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#),
            }
        }
    }

    impl State {
        fn issue(&mut self) -> String {
            self.issued += 1;
            let (access, refresh) = (format!("a{}", self.issued), format!("r{}", self.issued));
            let answer = format!(
                r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":3600,"refresh_token":"{refresh}"}}"#
            );
            self.access.insert(access);
            self.refresh = Some(refresh);
            answer
        }

        fn refresh(&mut self, refresh: &str) -> Option<String> {
            if !self.used.insert(refresh.to_owned()) {
                self.seen.reused += 1;
                self.access.clear();
                self.refresh = None;
            }
            if self.refresh.as_deref() != Some(refresh) {
                return None;
            }
            self.seen.refreshes += 1;
            Some(self.issue())
        }
    }

    fn json(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
        let response = Response::builder().status(status);
        let response = response.header(header::CONTENT_TYPE, "application/json");
        response.body(Full::from(body.to_owned())).unwrap()
    }
}
