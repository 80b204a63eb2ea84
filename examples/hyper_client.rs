//! The HTTPS client of this crate against a server with a self-signed
//! certificate: a login, a token that dies early, and replayed requests, over one
//! HTTP/2 connection.
//!
//! ```sh
//! cargo run --example hyper_client
//! ```
//!
//! In a crate of its own, it needs:
//!
//! ```toml
//! bytes = "1"
//! http = "1"
//! http-body-util = "0.1"
//! hyper = { version = "1", features = ["server"] }
//! hyper-util = { version = "0.1", features = ["http1", "http2", "server", "service", "tokio"] }
//! rcgen = { version = "0.14", default-features = false, features = ["crypto", "pem", "ring"] }
//! rustls = { version = "0.23", default-features = false, features = ["ring", "std", "tls12"] }
//! tokio = { version = "1", features = ["full"] }
//! tokio-rustls = { version = "0.26", default-features = false, features = ["ring", "tls12"] }
//! tower = { version = "0.5", features = ["util"] }
//! tower-reauth = { path = "../tower-reauth", features = ["hyper-client"] }
//! ```

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::client::{self, HttpsClient};
use tower_reauth::provider::Api;
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, ExposeSecret, LoginContext, LogoutContext,
    LogoutEnds, Profile, ProviderError, Session, Source, Token,
};

const TOKEN: &str = "x-auth-token";

struct Jobs {
    api: Api<HttpsClient>,
    source: Source,
}

impl CredentialProvider for Jobs {
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        let user = cx.credentials()?;
        let form = [
            ("user", user.username()),
            ("password", user.password().expose_secret()),
        ];
        let answer = self.api.post("/login").form(form).login().await?;
        Ok(Token::header(TOKEN, answer.header(TOKEN)?)?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api.post("/logout").token(cx.token()).logout().await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::start().await?;

    // For a PEM file use `client::https().ca_file("server.pem")`. For a publicly
    // trusted certificate `client::https()` is enough.
    let http = client::https().ca_pem(server.certificate.clone()).build()?;
    let session = Session::new(Jobs {
        api: Api::new(http.clone(), server.url.parse()?)?,
        source: Credentials::new("admin", "secret").into(),
    });
    let client = ServiceBuilder::new()
        .layer(session.layer())
        .service(http.clone());

    for round in 1..=3 {
        let mut runs = tokio::task::JoinSet::new();
        for job in 0..64 {
            let body = Full::from(format!("job {job}"));
            let request = Request::post(format!("{}/run", server.url)).body(body)?;
            runs.spawn(client.clone().oneshot(request));
        }
        while let Some(response) = runs.join_next().await {
            let response = response?.map_err(|error| error.to_string())?;
            assert_eq!(response.status(), StatusCode::CREATED);
            assert_eq!(response.version(), Version::HTTP_2);
            response.into_body().collect().await?;
        }
        let seen = server.seen();
        println!(
            "round {round}: {} jobs have run, {} requests were rejected, {} logins, {} connection",
            seen.runs, seen.rejected, seen.logins, seen.connections
        );
        assert_eq!((seen.runs, seen.logins), (64 * round, round));
        assert_eq!(seen.connections, 1);
        server.revoke_all();
    }
    // The last token is already dead, which counts as logged out.
    session.logout().await?;

    // Call the same server by a name that its certificate does not contain.
    let elsewhere = server.url.replace("localhost", "127.0.0.1");
    let request = Request::get(elsewhere).body(Full::<Bytes>::default())?;
    let refused = http.oneshot(request).await.unwrap_err();
    let mut cause: &dyn std::error::Error = &*refused;
    while let Some(source) = cause.source() {
        cause = source;
    }
    println!("by another name: {cause}");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

/// The server, with a self-signed certificate.
mod server {
    use std::collections::HashSet;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{HeaderValue, Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tower_reauth::BoxError;

    pub(crate) struct Server {
        pub(crate) url: String,
        /// The certificate, as PEM.
        pub(crate) certificate: String,
        state: Arc<Mutex<State>>,
    }

    #[derive(Clone, Copy, Default)]
    pub(crate) struct Seen {
        pub(crate) connections: u32,
        pub(crate) logins: u32,
        pub(crate) rejected: u32,
        pub(crate) runs: u32,
    }

    #[derive(Default)]
    struct State {
        seen: Seen,
        tokens: HashSet<String>,
    }

    impl Server {
        pub(crate) fn seen(&self) -> Seen {
            self.state.lock().unwrap().seen
        }

        pub(crate) fn revoke_all(&self) {
            self.state.lock().unwrap().tokens.clear();
        }
    }

    pub(crate) async fn start() -> Result<Server, BoxError> {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = Server {
            url: format!("https://localhost:{}", listener.local_addr()?.port()),
            certificate: own.cert.pem(),
            state: Arc::default(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(tls(&own)?));
        let state = server.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), state.clone());
                tokio::spawn(async move {
                    // A handshake that the client aborts does not count.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    state.lock().unwrap().seen.connections += 1;
                    let service = hyper::service::service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(answer(&state, request).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let stream = TokioIo::new(stream);
                    // The client reports connection errors.
                    let _ = builder.serve_connection(stream, service).await;
                });
            }
        });
        Ok(server)
    }

    fn tls(own: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Result<ServerConfig, BoxError> {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
        let mut tls = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(tls)
    }

    async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        let body = body.unwrap_or_default();
        let token = head.headers.get("x-auth-token");
        let token = token.and_then(|token| token.to_str().ok());
        let mut state = state.lock().unwrap();
        let known = token.is_some_and(|token| state.tokens.contains(token));
        let mut response = Response::default();
        *response.status_mut() = match head.uri.path() {
            "/login" if body == "user=admin&password=secret" => {
                state.seen.logins += 1;
                let token = format!("token-{}", state.seen.logins);
                let value = HeaderValue::from_str(&token).unwrap();
                response.headers_mut().insert("x-auth-token", value);
                state.tokens.insert(token);
                StatusCode::CREATED
            }
            "/logout" if known => {
                state.tokens.remove(token.unwrap_or_default());
                StatusCode::NO_CONTENT
            }
            "/run" if known => {
                state.seen.runs += 1;
                StatusCode::CREATED
            }
            _ => {
                state.seen.rejected += 1;
                StatusCode::UNAUTHORIZED
            }
        };
        response
    }
}
