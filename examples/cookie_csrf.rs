//! A server with a login page: a session cookie that each response renews, and a
//! CSRF header.
//!
//! ```sh
//! cargo run --example cookie_csrf
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
use tower_reauth::provider::Api;
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, ExposeSecret, LoginContext, LogoutContext,
    LogoutEnds, Profile, ProviderError, Rejection, Rolling, Session, Source, Token,
};

type Http = Client<HttpConnector, Full<Bytes>>;

struct LoginPage {
    api: Api<Http>,
    source: Source,
}

impl CredentialProvider for LoginPage {
    fn profile(&self) -> Profile {
        self.api
            .profile()
            // The server redirects requests without a session to its login page,
            // before it executes anything. So a POST may be replayed as well.
            .rejection(Rejection::redirect_to("/login").sure())
            .rolling(Rolling::cookies())
            .logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        let page = self.api.get("/login").login().await?;
        let before = Token::cookie("sid", page.cookie("sid")?.into_value())?;
        let csrf = hidden_field(page.text()?, "csrf");
        let csrf = csrf.ok_or_else(|| page.unexpected("has no field `csrf`"))?;
        let user = cx.credentials()?;
        let form = [
            ("username", user.username()),
            ("password", user.password().expose_secret()),
            ("csrf", csrf),
        ];
        let answer = self.api.post("/login").token(&before).form(form);
        let answer = answer.login().await?;
        let sid = answer.cookie("sid")?.into_value();
        let csrf = answer.cookie("csrf")?.into_value();
        Ok(Token::cookie("sid", sid)?.and_header("x-csrf-token", csrf)?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api.post("/logout").token(cx.token()).logout().await?;
        Ok(())
    }
}

/// The value of a hidden field of a form.
fn hidden_field<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\""))?;
    rest.split('"').next()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::start("admin", "secret").await?;
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let session = Session::new(LoginPage {
        api: Api::new(http.clone(), server.url.parse()?)?,
        source: Credentials::new("admin", "secret").into(),
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    for round in 1..=3 {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let request = Request::post(format!("{}/orders", server.url)).body(Full::default())?;
            calls.spawn(client.clone().oneshot(request));
        }
        while let Some(response) = calls.join_next().await {
            let response = response?.map_err(|error| error.to_string())?;
            assert_eq!(response.status(), StatusCode::CREATED);
        }
        let seen = server.seen();
        println!(
            "round {round}: {} orders, {} logins, {} cookies issued",
            seen.orders, seen.logins, seen.issued
        );
        assert_eq!((seen.orders, seen.logins), (64 * round, round));
        server.revoke_all();
    }
    session.logout().await?;
    assert_eq!(server.seen().live, 0);
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

/// The server: an application with a login page.
mod server {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{HeaderValue, Method, Request, Response, StatusCode, header};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    #[derive(Clone)]
    pub(crate) struct Server {
        pub(crate) url: String,
        state: Arc<Mutex<State>>,
    }

    #[derive(Clone, Copy, Default)]
    pub(crate) struct Seen {
        pub(crate) orders: u32,
        pub(crate) logins: u32,
        pub(crate) issued: u32,
        pub(crate) live: usize,
    }

    #[derive(Default)]
    struct State {
        seen: Seen,
        user: (String, String),
        /// The valid cookies and the session of each. A cookie of the login page
        /// has none.
        cookies: HashMap<String, Option<u32>>,
    }

    impl Server {
        pub(crate) fn seen(&self) -> Seen {
            let state = self.state.lock().unwrap();
            let live = state.cookies.values().flatten().count();
            Seen { live, ..state.seen }
        }

        pub(crate) fn revoke_all(&self) {
            self.state.lock().unwrap().cookies.clear();
        }
    }

    pub(crate) async fn start(user: &str, password: &str) -> std::io::Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let state = State {
            user: (user.to_owned(), password.to_owned()),
            ..State::default()
        };
        let server = Server {
            url: format!("http://{}", listener.local_addr()?),
            state: Arc::new(Mutex::new(state)),
        };
        let state = server.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                let service = hyper::service::service_fn(move |request| {
                    let state = state.clone();
                    async move { Ok::<_, Infallible>(answer(&state, request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(server)
    }

    async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
        let cookie = head.headers.get(header::COOKIE);
        let cookie = cookie.and_then(|cookie| cookie.to_str().ok()?.strip_prefix("sid="));
        let csrf = head.headers.get("x-csrf-token");
        let csrf = csrf.and_then(|csrf| csrf.to_str().ok());
        let mut state = state.lock().unwrap();
        let owner = cookie.and_then(|cookie| state.cookies.get(cookie).copied());
        match (&head.method, head.uri.path(), owner) {
            (&Method::GET, "/login", _) => {
                let sid = state.issue(None);
                let page = format!("<form><input type=\"hidden\" name=\"csrf\" value=\"f-{sid}\">");
                with_cookie(StatusCode::OK, &page, "sid", &sid)
            }
            (&Method::POST, "/login", Some(None)) => {
                let (user, password) = &state.user;
                let sid = cookie.unwrap_or_default();
                let expected = format!("username={user}&password={password}&csrf=f-{sid}");
                if body != expected {
                    return status(StatusCode::UNAUTHORIZED);
                }
                state.seen.logins += 1;
                let session = state.seen.logins;
                let sid = state.issue(Some(session));
                let mut response = with_cookie(StatusCode::FOUND, "", "sid", &sid);
                // Delete the cookie of the login page, and set the CSRF cookie.
                for line in [
                    "sid=; Path=/login; Max-Age=0",
                    &format!("csrf=c{session}; Path=/"),
                ] {
                    let line = HeaderValue::from_str(line).unwrap();
                    response.headers_mut().append(header::SET_COOKIE, line);
                }
                let home = HeaderValue::from_static("/");
                response.headers_mut().insert(header::LOCATION, home);
                response
            }
            (&Method::POST, "/orders", Some(Some(session))) => {
                if csrf != Some(&format!("c{session}")) {
                    return status(StatusCode::FORBIDDEN);
                }
                state.seen.orders += 1;
                let sid = state.issue(Some(session));
                with_cookie(StatusCode::CREATED, "", "sid", &sid)
            }
            (&Method::POST, "/logout", Some(Some(session))) => {
                state.cookies.retain(|_, owner| *owner != Some(session));
                status(StatusCode::NO_CONTENT)
            }
            _ => {
                let mut response = status(StatusCode::FOUND);
                let login = HeaderValue::from_static("/login");
                response.headers_mut().insert(header::LOCATION, login);
                response
            }
        }
    }

    impl State {
        fn issue(&mut self, session: Option<u32>) -> String {
            self.seen.issued += 1;
            let sid = format!("s{}", self.seen.issued);
            self.cookies.insert(sid.clone(), session);
            sid
        }
    }

    fn status(status: StatusCode) -> Response<Full<Bytes>> {
        let mut response = Response::default();
        *response.status_mut() = status;
        response
    }

    fn with_cookie(
        status: StatusCode,
        body: &str,
        name: &str,
        value: &str,
    ) -> Response<Full<Bytes>> {
        let line = format!("{name}={value}; Path=/; HttpOnly");
        let response = Response::builder()
            .status(status)
            .header(header::SET_COOKIE, line);
        response.body(Full::from(body.to_owned())).unwrap()
    }
}
