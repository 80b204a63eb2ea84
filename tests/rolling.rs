//! Rule 18: responses that carry the next value of the token.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::sync::oneshot;
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt};
use tower_reauth::{
    BoxError, CredentialProvider, LoginContext, LogoutContext, LogoutEnds, Profile, ProviderError,
    Reason, Rejection, Rolling, Session, SetCookie, State, Token, provider_fn,
};

const ORIGIN: &str = "https://app.example.com";

/// What a server is told to answer, and what it saw.
#[derive(Clone, Default)]
struct Server {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// The headers that each request came with.
    seen: Vec<HeaderMap>,
    /// The answers to come, the next one last.
    answers: Vec<Answer>,
}

struct Answer {
    status: u16,
    headers: Vec<(HeaderName, String)>,
    /// Held until then.
    gate: Option<oneshot::Receiver<()>>,
}

impl Server {
    fn answers(&self, status: u16, headers: &[(HeaderName, &str)]) {
        self.push(status, headers, None);
    }

    fn answers_later(&self, headers: &[(HeaderName, &str)]) -> oneshot::Sender<()> {
        let (open, gate) = oneshot::channel();
        self.push(200, headers, Some(gate));
        open
    }

    fn push(
        &self,
        status: u16,
        headers: &[(HeaderName, &str)],
        gate: Option<oneshot::Receiver<()>>,
    ) {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), (*value).to_owned()));
        let headers = headers.collect();
        self.inner.lock().unwrap().answers.insert(
            0,
            Answer {
                status,
                headers,
                gate,
            },
        );
    }

    async fn answer(
        self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let answer = {
            let mut inner = self.inner.lock().unwrap();
            inner.seen.push(request.headers().clone());
            inner.answers.pop()
        };
        let mut response = Response::new(Full::default());
        if let Some(answer) = answer {
            if let Some(gate) = answer.gate {
                gate.await.unwrap();
            }
            *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
            for (name, value) in answer.headers {
                response.headers_mut().append(name, value.parse().unwrap());
            }
        }
        Ok(response)
    }

    /// What the last request carried in that header.
    fn last(&self, name: &str) -> String {
        let inner = self.inner.lock().unwrap();
        let value = &inner.seen.last().unwrap()[name];
        assert!(value.is_sensitive());
        value.to_str().unwrap().to_owned()
    }

    fn requests(&self) -> usize {
        self.inner.lock().unwrap().seen.len()
    }
}

fn set_cookie(line: &str) -> [(HeaderName, &str); 1] {
    [(header::SET_COOKIE, line)]
}

/// Logs in with `sid=login-N`, and tells how often.
fn provider(profile: Profile, token: fn(u32) -> Token) -> impl CredentialProvider {
    let logins = std::sync::atomic::AtomicU32::new(0);
    provider_fn(profile, move |_: LoginContext| {
        let login = 1 + logins.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move { Ok(token(login)) }
    })
}

fn sid(login: u32) -> Token {
    Token::cookie("sid", format!("login-{login}")).unwrap()
}

fn rolling(rolling: Rolling) -> Profile {
    Profile::at(ORIGIN.parse().unwrap()).rolling(rolling)
}

fn cookies() -> Session {
    Session::new(provider(rolling(Rolling::cookies()), sid))
}

async fn send(session: &Session, server: &Server) -> StatusCode {
    let request = Request::get(format!("{ORIGIN}/"))
        .body(Full::default())
        .unwrap();
    let server = server.clone();
    let http = tower::service_fn(move |request| server.clone().answer(request));
    let response = session.layer().layer(http).oneshot(request).await;
    response.unwrap().status()
}

fn logins(session: &Session) -> u64 {
    let stats = session.stats();
    let all = [
        Reason::Initial,
        Reason::Expiring,
        Reason::Expired,
        Reason::Rejected,
        Reason::Requested,
    ];
    all.into_iter()
        .map(|reason| stats.logins(reason).succeeded)
        .sum()
}

#[tokio::test]
async fn each_answer_gives_the_next_request_its_cookie() {
    let (session, server) = (cookies(), Server::default());
    server.answers(200, &set_cookie("sid=one; Path=/; HttpOnly"));
    server.answers(500, &set_cookie("sid=two"));
    server.answers(200, &[]);
    for cookie in ["sid=login-1", "sid=one", "sid=two", "sid=two"] {
        send(&session, &server).await;
        assert_eq!(server.last("cookie"), cookie);
    }
    let token = session.token().await.unwrap();
    let mut headers = HeaderMap::new();
    token.apply_to(&mut headers);
    assert_eq!(headers[header::COOKIE], "sid=two");
    assert_eq!(token.generation(), 1);
    assert_eq!(logins(&session), 1);
}

#[tokio::test]
async fn of_several_lines_one_of_which_deletes_the_cookie_the_one_that_sets_it_counts() {
    let (session, server) = (cookies(), Server::default());
    server.answers(
        200,
        &[
            (header::SET_COOKIE, "other=1"),
            (header::SET_COOKIE, "sid=new; Path=/"),
            (header::SET_COOKIE, "sid=; Path=/old; Max-Age=0"),
        ],
    );
    send(&session, &server).await;
    server.answers(
        200,
        &set_cookie("sid=deleted; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
    );
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "sid=new");
    // A deleted cookie is no token: the last one stays until it is rejected.
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "sid=new");
    assert_eq!(logins(&session), 1);
}

#[tokio::test]
async fn an_answer_to_a_replaced_token_rolls_nothing() {
    let (session, server) = (cookies(), Server::default());
    let open = server.answers_later(&set_cookie("sid=late"));
    let mut slow = task::spawn(send(&session, &server));
    assert_pending!(slow.poll());
    while server.requests() == 0 {
        tokio::task::yield_now().await;
        assert_pending!(slow.poll());
    }
    session.renew().await.unwrap();
    open.send(()).unwrap();
    slow.await;
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "sid=login-2");
}

#[tokio::test]
async fn the_last_answer_wins_whatever_was_sent_first() {
    let (session, server) = (cookies(), Server::default());
    send(&session, &server).await;
    let open = server.answers_later(&set_cookie("sid=first-sent"));
    server.answers(200, &set_cookie("sid=second-sent"));
    let mut slow = task::spawn(send(&session, &server));
    assert_pending!(slow.poll());
    send(&session, &server).await;
    open.send(()).unwrap();
    slow.await;
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "sid=first-sent");
}

#[tokio::test]
async fn a_rejected_response_rolls_nothing() {
    let (session, server) = (cookies(), Server::default());
    server.answers(401, &set_cookie("sid=anonymous"));
    assert_eq!(send(&session, &server).await, 200);
    assert_eq!(server.last("cookie"), "sid=login-2");
    assert_eq!(session.token().await.unwrap().generation(), 2);
}

#[tokio::test]
async fn a_roll_while_the_token_is_suspended_is_not_lost_if_the_renewal_fails() {
    let logins = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let gate = Arc::new(tokio::sync::Notify::new());
    let (counted, held) = (logins.clone(), gate.clone());
    let provider = provider_fn(rolling(Rolling::cookies()), move |_: LoginContext| {
        let first = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        let held = held.clone();
        async move {
            if first {
                return Ok(sid(1));
            }
            held.notified().await;
            Err(ProviderError::unavailable("down"))
        }
    });
    let (session, server) = (Session::new(provider), Server::default());
    send(&session, &server).await;
    let open = server.answers_later(&set_cookie("sid=rolled"));
    server.answers(401, &[]);
    let mut good = task::spawn(send(&session, &server));
    assert_pending!(good.poll());
    let mut bad = task::spawn(send(&session, &server));
    assert_pending!(bad.poll());
    assert_eq!(session.status().state, State::Renewing);
    open.send(()).unwrap();
    assert_eq!(good.await, 200);
    // No new request carries it yet, whatever its value.
    let mut next = task::spawn(send(&session, &server));
    assert_pending!(next.poll());
    assert_eq!(server.requests(), 3);
    gate.notify_one();
    assert_eq!(bad.await, 401);
    assert_eq!(next.await, 200);
    assert_eq!(server.last("cookie"), "sid=rolled");
}

#[tokio::test]
async fn what_is_logged_out_is_the_last_value() {
    struct Logout(Arc<Mutex<Vec<String>>>);
    impl CredentialProvider for Logout {
        fn profile(&self) -> Profile {
            rolling(Rolling::cookies())
        }
        async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
            Ok(sid(1))
        }
        async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
            let mut headers = HeaderMap::new();
            cx.token().apply_to(&mut headers);
            let cookie = headers[header::COOKIE].to_str().unwrap().to_owned();
            self.0.lock().unwrap().push(cookie);
            Ok(())
        }
    }
    let ended = Arc::default();
    let (session, server) = (Session::new(Logout(Arc::clone(&ended))), Server::default());
    server.answers(200, &set_cookie("sid=rolled"));
    send(&session, &server).await;
    session.logout().await.unwrap();
    assert_eq!(*ended.lock().unwrap(), ["sid=rolled"]);
}

#[tokio::test]
async fn a_provider_that_extends_gets_the_last_value() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let provider = provider_fn(rolling(Rolling::cookies()), move |login: LoginContext| {
        let mut headers = HeaderMap::new();
        if let Some(previous) = login.previous() {
            previous.apply_to(&mut headers);
        }
        kept.lock()
            .unwrap()
            .push(headers.get(header::COOKIE).cloned());
        async { Ok(sid(1)) }
    });
    let (session, server) = (Session::new(provider), Server::default());
    server.answers(200, &set_cookie("sid=rolled"));
    send(&session, &server).await;
    session.renew().await.unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen[0].is_none());
    assert_eq!(seen[1].as_ref().unwrap(), "sid=rolled");
}

#[tokio::test]
async fn each_cookie_rolls_alone_and_those_of_others_are_left_alone() {
    let profile = rolling(Rolling::cookies());
    let session = Session::new(provider(profile, |_| {
        sid(1).and_cookie("csrf", "c1").unwrap().with_data("kept")
    }));
    let server = Server::default();
    let open = server.answers_later(&set_cookie("csrf=c2"));
    server.answers(200, &set_cookie("sid=s2"));
    server.answers(200, &set_cookie("tracking=1"));
    session.token().await.unwrap();
    let mut slow = task::spawn(send(&session, &server));
    assert_pending!(slow.poll());
    send(&session, &server).await;
    open.send(()).unwrap();
    // Sent with `sid=login-1`, it leaves the `sid` that came since alone.
    slow.await;
    for _ in 0..2 {
        send(&session, &server).await;
        let cookies = server.last("cookie");
        let mut cookies: Vec<&str> = cookies.split("; ").collect();
        cookies.sort_unstable();
        assert_eq!(cookies, ["csrf=c2", "sid=s2"]);
    }
    assert!(session.token().await.unwrap().data().is_some());
}

#[tokio::test]
async fn a_header_rolls_to_what_the_response_says_and_no_prefix_is_added() {
    let profile = rolling(Rolling::header(header::AUTHORIZATION));
    let session = Session::new(provider(profile, |_| Token::bearer("t1").unwrap()));
    let server = Server::default();
    server.answers(200, &[(header::AUTHORIZATION, "Bearer t2")]);
    server.answers(200, &[(header::AUTHORIZATION, "t3")]);
    for carried in ["Bearer t1", "Bearer t2", "t3"] {
        send(&session, &server).await;
        assert_eq!(server.last("authorization"), carried);
    }
}

#[tokio::test]
async fn headers_and_functions_roll_too() {
    let name = HeaderName::from_static("x-token");
    let by = Rolling::by(|token, response| {
        let next = response.headers.get("x-next")?.to_str().ok()?;
        token
            .clone()
            .and_header(HeaderName::from_static("x-csrf"), next)
            .ok()
    });
    let profile = rolling(Rolling::cookies().and(Rolling::header(name)).and(by));
    let session = Session::new(provider(profile, |_| {
        sid(1)
            .and_header(HeaderName::from_static("x-token"), "t1")
            .unwrap()
    }));
    let server = Server::default();
    let next = HeaderName::from_static("x-next");
    server.answers(
        200,
        &[
            (header::SET_COOKIE, "sid=s2"),
            (HeaderName::from_static("x-token"), "t2"),
            (next.clone(), "c2"),
        ],
    );
    server.answers(200, &[(next, "c3")]);
    server.answers(200, &[(HeaderName::from_static("x-token"), "")]);
    for (cookie, token) in [
        ("sid=login-1", "t1"),
        ("sid=s2", "t2"),
        ("sid=s2", "t2"),
        ("sid=s2", "t2"),
    ] {
        send(&session, &server).await;
        assert_eq!(server.last("cookie"), cookie);
        assert_eq!(server.last("x-token"), token);
    }
    assert_eq!(server.last("x-csrf"), "c3");
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_that_the_answer_gives_takes_the_place_of_the_old_one() {
    let profile = rolling(Rolling::cookies());
    let session = Session::new(provider(profile, |login| {
        sid(login).lives_for(Duration::from_secs(100))
    }));
    let server = Server::default();
    send(&session, &server).await;
    let left = |session: &Session| session.status().expires_in.unwrap().as_secs();
    assert_eq!(left(&session), 100);
    tokio::time::advance(Duration::from_secs(50)).await;

    // A value alone extends nothing.
    server.answers(200, &set_cookie("sid=one"));
    send(&session, &server).await;
    assert_eq!(left(&session), 50);
    assert_eq!(
        session.token().await.unwrap().lifetime(),
        Some(Duration::from_secs(100))
    );

    // It counts from when the request was sent.
    let open = server.answers_later(&set_cookie("sid=one; Max-Age=1000"));
    let mut slow = task::spawn(send(&session, &server));
    assert_pending!(slow.poll());
    tokio::time::advance(Duration::from_secs(10)).await;
    open.send(()).unwrap();
    slow.await;
    assert_eq!(left(&session), 990);
    assert_eq!(
        session.token().await.unwrap().lifetime(),
        Some(Duration::from_secs(1000))
    );

    // And is renewed ahead of that end.
    tokio::time::advance(Duration::from_secs(700)).await;
    send(&session, &server).await;
    assert_eq!(logins(&session), 1);
    tokio::time::advance(Duration::from_secs(150)).await;
    while logins(&session) == 1 {
        tokio::task::yield_now().await;
    }
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "sid=login-2");
    assert_eq!(session.stats().waited, 1);
}

#[tokio::test]
async fn sixty_four_callers_whose_cookies_all_roll_share_one_login_when_all_are_revoked() {
    // Every answer sets another cookie; all of them are good until they are revoked.
    #[derive(Default)]
    struct Jar {
        good: std::collections::HashSet<String>,
        issued: u32,
        executed: u32,
        logins: u32,
    }
    impl Jar {
        fn issue(&mut self) -> String {
            self.issued += 1;
            let sid = format!("s{}", self.issued);
            self.good.insert(sid.clone());
            sid
        }
    }
    let jar = Arc::new(Mutex::new(Jar::default()));
    let login_jar = jar.clone();
    let provider = provider_fn(rolling(Rolling::cookies()), move |_: LoginContext| {
        let sid = {
            let mut jar = login_jar.lock().unwrap();
            jar.logins += 1;
            jar.issue()
        };
        async move {
            tokio::task::yield_now().await;
            Ok(Token::cookie("sid", sid)?)
        }
    });
    let session = Session::new(provider);
    let service_jar = jar.clone();
    let http = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let jar = service_jar.clone();
        async move {
            let came = request.headers()[header::COOKIE]
                .to_str()
                .unwrap()
                .to_owned();
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let mut jar = jar.lock().unwrap();
            let mut response = Response::new(Full::<Bytes>::default());
            if jar.good.contains(came.trim_start_matches("sid=")) {
                jar.executed += 1;
                let next = format!("sid={}; Path=/", jar.issue());
                response
                    .headers_mut()
                    .insert(header::SET_COOKIE, next.parse().unwrap());
            } else {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let client = session.layer().layer(http);
    for round in 1..=5 {
        let calls: Vec<_> = (0..64)
            .map(|_| {
                let request = Request::post(format!("{ORIGIN}/jobs"))
                    .body(Full::default())
                    .unwrap();
                tokio::spawn(client.clone().oneshot(request))
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status(), 200);
        }
        let mut jar = jar.lock().unwrap();
        assert_eq!((jar.executed, jar.logins), (64 * round, round));
        jar.good.clear();
    }
}

#[tokio::test]
async fn a_cookie_that_the_login_sets_is_a_token_in_two_lines() {
    let provider = provider_fn(rolling(Rolling::cookies()), |_: LoginContext| async {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SET_COOKIE,
            "JSESSIONID=abc; Path=/; HttpOnly".parse().unwrap(),
        );
        let sid = SetCookie::find(&headers, "JSESSIONID");
        let sid = sid.ok_or_else(|| ProviderError::protocol("the login sets no JSESSIONID"))?;
        Ok(Token::cookie("JSESSIONID", sid.into_value())?)
    });
    let (session, server) = (Session::new(provider), Server::default());
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "JSESSIONID=abc");
}

// A request's own credentials.

async fn own(session: &Session, headers: &[(HeaderName, &str)], server: &Server) -> StatusCode {
    let mut request = Request::get(format!("{ORIGIN}/"));
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let server = server.clone();
    let http = tower::service_fn(move |request| server.clone().answer(request));
    let request = request.body(Full::default()).unwrap();
    let response = session.layer().layer(http).oneshot(request).await;
    response.unwrap().status()
}

fn bearer(login: u32) -> Token {
    Token::bearer(format!("login-{login}")).unwrap()
}

#[tokio::test]
async fn a_requests_own_authorization_is_replaced() {
    let profile = Profile::at(ORIGIN.parse().unwrap());
    let (session, server) = (Session::new(provider(profile, bearer)), Server::default());
    own(&session, &[(header::AUTHORIZATION, "Basic b3du")], &server).await;
    assert_eq!(server.last("authorization"), "Bearer login-1");
}

#[tokio::test]
async fn one_that_is_kept_goes_as_it_is_and_is_not_answered_by_a_renewal() -> Result<(), BoxError> {
    let profile = Profile::at(ORIGIN.parse()?);
    let session = Session::builder(provider(profile, bearer))
        .skip_if_present(header::AUTHORIZATION)
        .skip_if_present("x-api-key")
        .build();
    let server = Server::default();
    for round in 0..2 {
        for (name, value) in [("authorization", "Basic b3du"), ("x-api-key", "mine")] {
            server.answers(401, &[]);
            let name = HeaderName::from_static(name);
            assert_eq!(own(&session, &[(name.clone(), value)], &server).await, 401);
            let seen = server.inner.lock().unwrap().seen.last().unwrap().clone();
            assert_eq!(seen.len(), 1);
            assert_eq!(seen[&name], value);
        }
        assert_eq!((logins(&session), session.stats().rejections), (round, 0));
        // Others have the token.
        own(&session, &[(header::ACCEPT, "*/*")], &server).await;
        assert_eq!(server.last("authorization"), "Bearer login-1");
    }
    Ok(())
}

#[tokio::test]
async fn one_that_is_kept_goes_without_a_login_even_where_none_can_be_had() {
    let profile = Profile::at(ORIGIN.parse().unwrap());
    let refused = provider_fn(profile, |_: LoginContext| async {
        Err(ProviderError::refused("no"))
    });
    let session = Session::builder(refused)
        .skip_if_present(header::AUTHORIZATION)
        .build();
    let server = Server::default();
    let status = own(&session, &[(header::AUTHORIZATION, "Basic b3du")], &server).await;
    assert_eq!(status, 200);
    assert!(session.token().await.is_err());
}

// What happens while a response is looked at.

/// Cookies roll, and once, while a response is looked at, `does` runs to its end.
fn meanwhile<F: Future<Output = ()> + 'static>(does: fn(Session) -> F) -> Session {
    let this: Arc<OnceLock<Session>> = Arc::default();
    let (session, done) = (this.clone(), AtomicBool::new(false));
    let cookies = Rolling::cookies();
    let look = Rolling::by(move |_, _| {
        if !done.swap(true, Ordering::SeqCst) {
            let session = session.get().unwrap().clone();
            let other = std::thread::spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(does(session));
            });
            other.join().unwrap();
        }
        None
    });
    let session = Session::new(provider(rolling(cookies.and(look)), |login| {
        sid(login).and_cookie("csrf", "c1").unwrap()
    }));
    this.set(session.clone()).unwrap();
    session
}

#[tokio::test]
async fn a_login_that_lands_while_a_response_is_looked_at_is_not_undone_by_it() {
    let session = meanwhile(|session| async move { session.renew().await.unwrap() });
    let server = Server::default();
    server.answers(200, &set_cookie("sid=late"));
    send(&session, &server).await;
    assert_eq!(session.token().await.unwrap().generation(), 2);
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "sid=login-2; csrf=c1");
}

#[tokio::test]
async fn a_logout_that_comes_while_a_response_is_looked_at_is_not_undone_by_it() {
    let session = meanwhile(|session| async move {
        // This provider cannot log out, which ends the session all the same.
        let _ = session.logout().await;
    });
    let server = Server::default();
    server.answers(200, &set_cookie("sid=late"));
    send(&session, &server).await;
    assert_eq!(session.status().state, State::LoggedOut);
    assert!(session.token().await.is_err());
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn another_answer_that_comes_while_a_response_is_looked_at_is_not_undone_by_it() {
    let session = meanwhile(|session| async move {
        let server = Server::default();
        server.answers(200, &set_cookie("csrf=c2"));
        send(&session, &server).await;
    });
    let server = Server::default();
    server.answers(200, &set_cookie("sid=rolled"));
    send(&session, &server).await;
    send(&session, &server).await;
    let cookies = server.last("cookie");
    assert!(
        cookies.contains("sid=rolled") && cookies.contains("csrf=c2"),
        "{cookies}"
    );
}

#[tokio::test]
async fn a_function_that_panics_costs_its_response_and_no_other() {
    let calls = AtomicU32::new(0);
    let panics = Rolling::by(move |_, _| {
        assert!(calls.fetch_add(1, Ordering::SeqCst) != 0, "once");
        None
    });
    let session = Session::new(provider(rolling(panics), sid));
    let server = Server::default();
    let panicked = tokio::spawn({
        let (session, server) = (session.clone(), server.clone());
        async move { send(&session, &server).await }
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(send(&session, &server).await, 200);
    assert_eq!((server.requests(), logins(&session)), (2, 1));
}

#[tokio::test]
async fn two_cookies_of_one_answer_roll_together_and_live_as_long_as_the_shorter() {
    for (sid_lives, csrf_lives) in [(60, 600), (600, 60)] {
        let session = Session::new(provider(rolling(Rolling::cookies()), |login| {
            sid(login).and_cookie("csrf", "c1").unwrap()
        }));
        let server = Server::default();
        let lines = [
            format!("sid=s2; Max-Age={sid_lives}"),
            format!("csrf=c2; Max-Age={csrf_lives}"),
        ];
        let lines = [0, 1].map(|line: usize| (header::SET_COOKIE, lines[line].as_str()));
        server.answers(200, &lines);
        send(&session, &server).await;
        send(&session, &server).await;
        assert_eq!(server.last("cookie"), "sid=s2; csrf=c2");
        let lifetime = session.token().await.unwrap().lifetime();
        assert_eq!(lifetime, Some(Duration::from_secs(60)));
    }
}

#[tokio::test]
async fn an_answer_whose_body_was_asked_for_rolls_too() {
    let rejection = Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
        StatusCode::INTERNAL_SERVER_ERROR,
        "dead",
        64,
    );
    let profile = rolling(Rolling::cookies()).rejection(rejection);
    let session = Session::new(provider(profile, sid));
    let server = Server::default();
    server.answers(500, &set_cookie("sid=rolled"));
    assert_eq!(send(&session, &server).await, 500);
    send(&session, &server).await;
    assert_eq!(server.last("cookie"), "sid=rolled");
}

#[tokio::test]
async fn of_two_ways_to_roll_either_will_do() {
    let (a, b) = ("x-a", "x-b");
    let header = |name| Rolling::header(HeaderName::from_static(name));
    let session = Session::new(provider(rolling(header(a).and(header(b))), |_| {
        let token = Token::header(HeaderName::from_static("x-a"), "a1").unwrap();
        token
            .and_header(HeaderName::from_static("x-b"), "b1")
            .unwrap()
    }));
    let server = Server::default();
    server.answers(200, &[(HeaderName::from_static(a), "a2")]);
    send(&session, &server).await;
    // An empty value is none.
    let (empty, b2) = (
        (HeaderName::from_static(a), ""),
        (HeaderName::from_static(b), "b2"),
    );
    server.answers(200, &[empty, b2]);
    send(&session, &server).await;
    send(&session, &server).await;
    assert_eq!((server.last(a), server.last(b)), ("a2".into(), "b2".into()));
}

/// A cookie that slides along keeps its value, and its login may yield it again.
#[tokio::test(start_paused = true)]
async fn a_token_in_use_is_not_logged_out_for_the_order_of_its_cookies() {
    struct Same(Arc<Mutex<u32>>);
    impl CredentialProvider for Same {
        fn profile(&self) -> Profile {
            rolling(Rolling::cookies()).logout_ends(LogoutEnds::Token)
        }
        async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
            Ok(sid(1).and_cookie("csrf", "c1")?)
        }
        async fn logout(&self, _: LogoutContext) -> Result<(), ProviderError> {
            *self.0.lock().unwrap() += 1;
            Ok(())
        }
    }
    let logouts: Arc<Mutex<u32>> = Arc::default();
    let (session, server) = (Session::new(Same(logouts.clone())), Server::default());
    server.answers(200, &set_cookie("sid=login-1"));
    send(&session, &server).await;
    session.renew().await.unwrap();
    // Time enough for whatever is to be logged out.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*logouts.lock().unwrap(), 0);
}

/// As a provider does that keeps what `Session::token` gave it.
#[tokio::test(start_paused = true)]
async fn a_token_that_was_handed_out_and_is_published_again_is_used_by_nobody() {
    let handed_out: Arc<Mutex<Option<Token>>> = Arc::default();
    let kept = handed_out.clone();
    let rolls = Rolling::by(move |_, _| kept.lock().unwrap().take());
    let session = Session::new(provider(rolling(rolls), sid));
    *handed_out.lock().unwrap() = Some(session.token().await.unwrap());
    let server = Server::default();
    send(&session, &server).await;
    let start = tokio::time::Instant::now();
    let _ = session.close(Duration::from_secs(1)).await;
    // It waited for nobody.
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// A value that comes back is not logged out as the one that was replaced.
#[tokio::test(start_paused = true)]
async fn a_roll_to_the_value_of_a_replaced_token_saves_that_from_its_logout() {
    struct Provider(Arc<Mutex<Vec<String>>>);
    impl CredentialProvider for Provider {
        fn profile(&self) -> Profile {
            rolling(Rolling::cookies()).logout_ends(LogoutEnds::Token)
        }
        async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
            let number = login.previous().map_or(1, |_| 2);
            Ok(sid(number))
        }
        async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
            let mut headers = HeaderMap::new();
            cx.token().apply_to(&mut headers);
            let cookie = headers[header::COOKIE].to_str().unwrap().to_owned();
            self.0.lock().unwrap().push(cookie);
            Ok(())
        }
    }
    let ended: Arc<Mutex<Vec<String>>> = Arc::default();
    let (session, server) = (Session::new(Provider(ended.clone())), Server::default());
    // Somebody still uses the first one when the second one takes its value.
    let held = session.token().await.unwrap();
    session.renew().await.unwrap();
    server.answers(200, &set_cookie("sid=login-1"));
    send(&session, &server).await;
    drop(held);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*ended.lock().unwrap(), [""; 0]);
    session.logout().await.unwrap();
    assert_eq!(*ended.lock().unwrap(), ["sid=login-1"]);
}
