//! How a request sets out, and what it still is when it is sent once more.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use tokio::time::{sleep, timeout};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_reauth::testing::{ScriptedProvider, ScriptedService};
use tower_reauth::{
    Anonymous, Auto, BoxError, Error, ErrorKind, LogoutEnds, Never, Profile, Reauth, ReauthFailure,
    Rejection, Replay, ResponseFuture, Session, SessionBody, Token,
};

/// Answers with a status, and counts how often it was readied.
#[derive(Clone)]
struct Always(StatusCode, Arc<AtomicUsize>);

impl Service<Request<Full<Bytes>>> for Always {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.1.fetch_add(1, SeqCst);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        let mut response = Response::new(Full::default());
        *response.status_mut() = self.0;
        ready(Ok(response))
    }
}

fn session(at: &str) -> Session {
    Session::new(ScriptedProvider::new(Profile::at(at.parse().unwrap())))
}

fn get() -> Request<Full<Bytes>> {
    let request = Request::get("https://api.test/").body(Full::default());
    request.unwrap()
}

async fn tunnel<R>(replay: R, status: StatusCode) -> bool
where
    R: Replay<Full<Bytes>, Body = Full<Bytes>> + Clone,
{
    tunnel_of(&session("https://api.test"), replay, status).await
}

async fn tunnel_of<R>(session: &Session, replay: R, status: StatusCode) -> bool
where
    R: Replay<Full<Bytes>, Body = Full<Bytes>> + Clone,
{
    session.login().await.unwrap();
    let layer = session.layer().replay(replay);
    let client = layer.layer(Always(status, Arc::default()));
    let request = Request::connect("https://api.test/").body(Full::default());
    let response = client.oneshot(request.unwrap()).await.unwrap();
    response.extensions().get::<Token>().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_opened_at_once_has_its_token_whether_or_not_it_may_be_replayed() {
    assert!(tunnel(Auto, StatusCode::OK).await);
    assert!(tunnel(Never, StatusCode::OK).await);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_not_opened_has_no_token() {
    assert!(!tunnel(Auto, StatusCode::BAD_GATEWAY).await);
    assert!(!tunnel(Never, StatusCode::BAD_GATEWAY).await);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_whose_answer_is_looked_at_for_a_rejection_has_its_token_too() {
    let profile = Profile::at("https://api.test".parse().unwrap());
    let profile = profile.rejection(Rejection::body_contains(StatusCode::OK, "log in", 1024));
    let session = Session::new(ScriptedProvider::new(profile));
    assert!(tunnel_of(&session, Auto, StatusCode::OK).await);
    assert!(tunnel_of(&session, Never, StatusCode::OK).await);
}

type Log = Arc<Mutex<Vec<&'static str>>>;

/// Clones each body, and notes what it is asked for.
#[derive(Clone)]
struct Noting(Log);

impl Replay<Full<Bytes>> for Noting {
    type Body = Full<Bytes>;
    type Kept = (Full<Bytes>, Log);

    fn keep(&self, body: Full<Bytes>) -> (Full<Bytes>, Option<Self::Kept>) {
        self.0.lock().unwrap().push("keep");
        (body.clone(), Some((body, self.0.clone())))
    }

    fn is_kept((_, log): &Self::Kept) -> bool {
        log.lock().unwrap().push("is it kept?");
        true
    }

    fn again((body, log): Self::Kept) -> Option<Full<Bytes>> {
        log.lock().unwrap().push("again");
        Some(body)
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_keeps_each_body_and_makes_one_again_before_the_service_is_readied() {
    let log = Log::default();
    let service = ScriptedService::new();
    service.accept_only(["token-2"]);
    let service = Noted(service, log.clone());
    let session = session("https://api.test");
    session.login().await.unwrap();
    let client = session.layer().replay(Noting(log.clone())).layer(service);
    let response = client.clone().oneshot(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    let steps = std::mem::take(&mut *log.lock().unwrap());
    let first = ["ready", "keep", "call", "is it kept?"];
    assert_eq!(steps, [&first[..], &["again", "ready", "call"]].concat());

    let mut request = get();
    request.extensions_mut().insert(Anonymous);
    client.oneshot(request).await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["ready", "keep", "call"]);
}

/// Notes when it is readied and called.
#[derive(Clone)]
struct Noted<S>(S, Log);

impl<S: Service<Request<Full<Bytes>>>> Service<Request<Full<Bytes>>> for Noted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.1.lock().unwrap().push("ready");
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> S::Future {
        self.1.lock().unwrap().push("call");
        self.0.call(request)
    }
}

/// One session around another: each answers for its own status.
#[tokio::test(start_paused = true)]
async fn a_request_through_two_sessions_is_replayed_for_either_token() {
    let profile = Profile::default()
        .bound()
        .rejection(Rejection::status(StatusCode::PROXY_AUTHENTICATION_REQUIRED));
    let proxy = ScriptedProvider::new(profile).issuing(|number| {
        Token::header(header::PROXY_AUTHORIZATION, format!("token-{number}")).unwrap()
    });
    let server = ScriptedProvider::at("https://api.test".parse().unwrap());
    let behind = ScriptedService::new();
    let before = ScriptedService::new().token_in_header(header::PROXY_AUTHORIZATION);
    let both = (before.clone(), behind.clone());
    let http = service_fn(move |request: Request<Full<Bytes>>| {
        let (before, behind) = both.clone();
        async move {
            let mut answer = before.oneshot(request.clone()).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                *answer.status_mut() = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
                return Ok(answer);
            }
            behind.oneshot(request).await
        }
    });
    let client = Session::new(proxy.clone()).layer().layer(http);
    let client = Session::new(server.clone()).layer().layer(client);
    let get = async || client.clone().oneshot(get()).await.unwrap().status();

    assert_eq!(get().await, StatusCode::OK);
    before.accept_only(["token-2"]);
    assert_eq!(get().await, StatusCode::OK);
    assert_eq!([proxy.logins(), server.logins()], [2, 1]);
    behind.accept_only(["token-2"]);
    assert_eq!(get().await, StatusCode::OK);
    assert_eq!([proxy.logins(), server.logins()], [2, 2]);
    before.accept_only(["token-3"]);
    behind.accept_only(["token-3"]);
    assert_eq!(get().await, StatusCode::OK);
    assert_eq!([proxy.logins(), server.logins()], [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_panics_leaves_nothing_in_use() {
    let session = session("https://api.test");
    let calls = Arc::<AtomicUsize>::default();
    let http = service_fn(move |_: Request<Full<Bytes>>| {
        let call = calls.fetch_add(1, SeqCst);
        assert_ne!(call, 1, "the call panics");
        async move {
            // The last is a replay.
            assert!(call != 2 && call != 4, "its future panics");
            let mut response = Response::new(Full::<Bytes>::default());
            if call == 3 {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let client = session.layer().layer(http);
    for panics in [false, true, true, true, false] {
        let request = tokio::spawn(client.clone().oneshot(get()));
        assert_eq!(request.await.is_err(), panics);
    }
    session.close(Duration::from_secs(1)).await.unwrap();
}

/// The inner session's token is for the proxy, the outer one's for the server.
#[tokio::test(start_paused = true)]
async fn a_tunnel_through_two_sessions_uses_the_outer_token_only() {
    let provider = |profile: Profile| {
        let profile = profile.logout_ends(LogoutEnds::Token);
        ScriptedProvider::new(profile).issuing(|number| {
            let name = HeaderName::from_static("x-token");
            Token::header(name, format!("token-{number}")).unwrap()
        })
    };
    let proxy = provider(Profile::default().bound());
    let server = provider(Profile::at("https://api.test".parse().unwrap()));
    let sessions = [Session::new(proxy.clone()), Session::new(server.clone())];

    let client = sessions[0]
        .layer()
        .layer(Always(StatusCode::OK, Arc::default()));
    let client = sessions[1].layer().layer(client);
    let request = Request::connect("https://api.test/").body(Full::default());
    let response = client.oneshot(request.unwrap()).await.unwrap();
    let tunnel = response.into_parts().0.extensions;
    for session in &sessions {
        session.renew().await.unwrap();
        session.accept(&session.token().await.unwrap());
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!([proxy.logouts(), server.logouts()], [1, 0]);
    drop(tunnel);
    sleep(Duration::from_secs(60)).await;
    assert_eq!([proxy.logouts(), server.logouts()], [1, 1]);
}

async fn fails_and_holds_no_permit(session: &Session, uri: &str, expected: ErrorKind) {
    let http = ConcurrencyLimit::new(Always(StatusCode::OK, Arc::default()), 1);
    let mut client = session.layer().layer(http.clone());
    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut client).await;
    let error = ready.unwrap().call(request).await.unwrap_err();
    assert_eq!(Error::find(&*error).unwrap().kind(), expected);
    let mut other = http.clone();
    let free = timeout(Duration::from_secs(1), other.ready()).await;
    assert!(free.is_ok(), "{expected:?} holds the permit");
}

#[tokio::test(start_paused = true)]
async fn a_request_to_an_insecure_origin_holds_no_permit() {
    let session = session("http://api.test");
    fails_and_holds_no_permit(&session, "http://api.test/", ErrorKind::InsecureOrigin).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_after_close_holds_no_permit() {
    let session = session("https://api.test");
    session.close(Duration::from_secs(1)).await.unwrap();
    fails_and_holds_no_permit(&session, "https://api.test/", ErrorKind::Closed).await;
}

/// Rule 11, on the slow way, which a token takes that nobody has used yet.
#[tokio::test(start_paused = true)]
async fn a_request_with_a_token_that_is_not_proven_goes_through_the_readied_service() {
    let session = session("https://api.test");
    session.login().await.unwrap();
    let http = Always(StatusCode::OK, Arc::default());
    let mut client = session.layer().layer(http.clone());
    let request = Request::get("https://api.test/").body(Full::<Bytes>::default());
    let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut client).await;
    ready.unwrap().call(request.unwrap()).await.unwrap();
    assert_eq!(http.1.load(SeqCst), 1, "readied once");
}

/// Rejects its first request, and breaks then.
#[derive(Clone, Default)]
struct Breaks(Arc<AtomicUsize>);

impl Service<Request<Full<Bytes>>> for Breaks {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(match self.0.load(SeqCst) {
            0 => Ok(()),
            _ => Err("broken".into()),
        })
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        self.0.fetch_add(1, SeqCst);
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        ready(Ok(response))
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_before_a_replay_passes_unchanged() {
    let http = Breaks::default();
    let client = session("https://api.test").layer().layer(http.clone());
    let error = client.oneshot(get()).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    assert!(Error::find(&*error).is_none());
    assert_eq!(http.0.load(SeqCst), 1);
}

/// The next token may have other headers than the one that was rejected.
#[tokio::test(start_paused = true)]
async fn a_replay_has_no_header_of_the_rejected_token() {
    let profile = Profile::at("https://api.test".parse().unwrap());
    let provider = ScriptedProvider::new(profile).issuing(|number| {
        let name = HeaderName::try_from(format!("x-token-{number}")).unwrap();
        Token::header(name, "secret").unwrap()
    });
    let session = Session::new(provider);
    let seen: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let told = seen.clone();
    let http = service_fn(move |request: Request<Full<Bytes>>| {
        let names = request.headers().keys().map(ToString::to_string).collect();
        let mut seen = told.lock().unwrap();
        seen.push(names);
        let mut response = Response::new(Full::<Bytes>::default());
        if seen.len() == 1 {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        ready(Ok::<_, Infallible>(response))
    });
    let client = session.layer().layer(http);
    let request = Request::get("https://api.test/").body(Full::<Bytes>::default());
    client.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [["x-token-1"], ["x-token-2"]]);
}

/// Rule 9: a session that really died is noticed at once on any other target,
/// however much its path is like that of a forbidden one.
#[tokio::test(start_paused = true)]
async fn a_target_does_not_cool_down_with_one_that_is_much_like_it() {
    let places = [
        "/automation-api/config/server/{}/agents",
        "/api/v1/users/{}/posts",
    ];
    for (place, numbers) in places
        .into_iter()
        .zip([["1190", "1940"], ["00900", "08400"]])
    {
        let [forbidden, other] = numbers.map(|number| place.replace("{}", number));
        let provider = ScriptedProvider::at("https://api.test".parse().unwrap());
        let session = Session::new(provider.clone());
        let service = ScriptedService::new();
        let client = session.layer().layer(service.clone());
        let get = async |path: String| {
            let request = Request::get(format!("https://api.test{path}"));
            let request = request.body(Full::<Bytes>::default()).unwrap();
            client.clone().oneshot(request).await.unwrap().status()
        };
        service.accept_only(["token-1"]);
        assert_eq!(get(other.clone()).await, StatusCode::OK);
        service.accept_only(["none"]);
        assert_eq!(get(forbidden).await, StatusCode::UNAUTHORIZED);
        assert_eq!(provider.logins(), 2);
        service.accept_only(["token-3"]);
        assert_eq!(get(other).await, StatusCode::OK);
        assert_eq!(provider.logins(), 3);
    }
}

/// Rule 10, with a token that is used and proven.
#[tokio::test(start_paused = true)]
async fn an_anonymous_request_carries_no_token_that_is_proven() {
    let session = session("https://api.test");
    let service = ScriptedService::new();
    let client = session.layer().layer(service.clone());
    for _ in 0..3 {
        client.clone().oneshot(get()).await.unwrap();
    }
    let mut anonymous = get();
    anonymous.extensions_mut().insert(Anonymous);
    client.oneshot(anonymous).await.unwrap();
    assert_eq!(service.tokens(), ["token-1", "token-1", "token-1", ""]);
}

/// An inner future that says when it is dropped.
struct Answers(Result<(), ()>, Arc<AtomicBool>);

impl Future for Answers {
    type Output = Result<Response<Full<Bytes>>, BoxError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.0 {
            Ok(()) => Ok(Response::new(Full::default())),
            Err(()) => Err("broken".into()),
        })
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.1.store(true, SeqCst);
    }
}

async fn is_done_with_its_call(session: &Session, answer: Result<(), ()>) {
    let dropped: Arc<AtomicBool> = Arc::default();
    let told = dropped.clone();
    let http = service_fn(move |_: Request<Full<Bytes>>| Answers(answer, told.clone()));
    let mut client = session.layer().layer(http);
    let mut future = Box::pin(client.call(get()));
    assert_eq!(future.as_mut().await.is_ok(), answer.is_ok());
    assert!(
        dropped.load(SeqCst),
        "the inner future goes with its answer"
    );
    let again = poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        Poll::Ready(polled.is_err())
    });
    assert!(again.await, "polled after it was ready");
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_the_inner_future() {
    let session = session("https://api.test");
    // The first waits for the login, and the second shows that its token is good.
    for _ in 0..3 {
        is_done_with_its_call(&session, Ok(())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_the_inner_future_after_a_login() {
    let session = session("https://api.test");
    is_done_with_its_call(&session, Err(())).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_the_inner_future_with_a_token_that_is_proven() {
    let session = session("https://api.test");
    for answer in [Ok(()), Ok(()), Err(())] {
        is_done_with_its_call(&session, answer).await;
    }
}

/// A future around ours asks no more of the strategy than ours does.
#[allow(dead_code, reason = "is compiled")]
struct Around<S, R, B, RB>(Pin<Box<ResponseFuture<S, R, B, RB>>>)
where
    S: Service<Request<R::Body>>,
    R: Replay<B>,
    RB: Body;

impl<S, R, B, RB> Future for Around<S, R, B, RB>
where
    S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    R: Replay<B>,
    RB: Body,
{
    type Output = Result<Response<SessionBody<RB>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// A strategy that reports to a channel.
struct Reporting(mpsc::Sender<&'static str>);

impl Deref for Reporting {
    type Target = mpsc::Sender<&'static str>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<B> Replay<B> for Reporting {
    type Body = B;
    type Kept = ();

    fn keep(&self, body: B) -> (B, Option<()>) {
        self.send("kept").unwrap();
        (body, None)
    }

    fn again((): ()) -> Option<B> {
        None
    }
}

#[test]
fn the_trait_of_the_strategies_takes_no_methods_name_from_one() {
    let (to, from) = mpsc::channel();
    let _ = Reporting(to).keep("");
    assert_eq!(from.try_recv(), Ok("kept"));
}

/// Answers with 200, and once with 401 after `reject_once`.
#[derive(Clone, Default)]
struct Server(Arc<AtomicBool>);

impl Server {
    fn reject_once(&self) {
        self.0.store(true, SeqCst);
    }
}

impl Service<Request<Full<Bytes>>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        let mut response = Response::new(Full::default());
        if self.0.swap(false, SeqCst) {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        ready(Ok(response))
    }
}

/// Sends a request with a proven token and drops every handle before its response, a
/// rejection, is read. Returns the response and the number of logins.
async fn rejected_behind_its_session<R>(replay: R) -> (Response<SessionBody<Full<Bytes>>>, usize)
where
    R: Replay<Full<Bytes>, Body = Full<Bytes>> + Clone,
{
    let provider = ScriptedProvider::at("https://api.test".parse().unwrap());
    let session = Session::new(provider.clone());
    let server = Server::default();
    let mut client = session.layer().replay(replay).layer(server.clone());
    for _ in 0..3 {
        client.ready().await.unwrap().call(get()).await.unwrap();
    }
    server.reject_once();
    let response = client.ready().await.unwrap().call(get());
    drop((client, session));
    (response.await.unwrap(), provider.logins())
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_keeps_its_session_only_if_it_can_be_replayed() {
    let (response, logins) = rejected_behind_its_session(Auto).await;
    assert_eq!((response.status(), logins), (StatusCode::OK, 2));

    let (response, logins) = rejected_behind_its_session(Never).await;
    assert_eq!((response.status(), logins), (StatusCode::UNAUTHORIZED, 1));
    let reauth = response.extensions().get::<Reauth>().unwrap();
    assert_eq!(reauth.generation, Some(1));
    assert!(matches!(reauth.failure, ReauthFailure::NotReplayable));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_last_handle_although_a_request_that_cannot_be_replayed_goes_on() {
    let session = session("https://api.test");
    let mut events = session.events();
    let mut client = session.layer().replay(Never).layer(Server::default());
    for _ in 0..3 {
        client.ready().await.unwrap().call(get()).await.unwrap();
    }
    let response = client.ready().await.unwrap().call(get());
    drop((client, session));
    while events.recv().await.is_some() {}
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
}
