//! What a request with a live token costs beyond the request itself, counted
//! in allocations.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use tower::{Layer, Service};
use tower_reauth::{
    Auto, FixedToken, IfEmpty, Never, Profile, Replay, Session, SessionService, Token,
};

const ORIGIN: &str = "https://ctm.example.com:8443";
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Answers at once, so that all that is counted is the way there and back.
#[derive(Clone)]
struct Bare;

impl Service<Request<Full<Bytes>>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let mut response = Response::new(Full::default());
        if !request.headers().contains_key(header::AUTHORIZATION) {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        ready(Ok(response))
    }
}

/// A request with `own` headers, all of whose parts are shared already: the
/// first clone of a `Bytes` allocates, whoever makes it.
fn request(own: usize) -> Request<Full<Bytes>> {
    let uri = format!("{ORIGIN}/automation-api/config/servers");
    let body = Bytes::from_static(b"{}");
    let mut request = Request::post(uri).body(Full::new(body)).unwrap();
    for number in 0..own {
        let name = HeaderName::from_static(format!("x-own-{number}").leak());
        let value = HeaderValue::from_static("application/json");
        request.headers_mut().insert(name, value);
    }
    request
}

/// How often a request allocates from the service's readiness to its response.
fn allocations<S, B>(service: &mut S, request: Request<Full<Bytes>>) -> u64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let counted = measure(|| {
        assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
        let response = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
            panic!("there is nothing to wait for");
        };
        assert_eq!(response.status(), StatusCode::OK);
    });
    counted.count_total
}

/// What the same request costs that has the token from the start.
fn bare(own: usize) -> u64 {
    let mut request = request(own);
    let mut value = HeaderValue::from_static(TOKEN);
    value.set_sensitive(true);
    let growth = measure(|| {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    });
    growth.count_total + allocations(&mut Bare, request)
}

fn session(token: Token) -> Session {
    let provider = FixedToken::bearer(Profile::at(ORIGIN.parse().unwrap()), TOKEN);
    Session::builder(provider).initial_token(token).build()
}

fn through<R>(replay: R) -> SessionService<Bare, R>
where
    R: Replay<Full<Bytes>, Body = Full<Bytes>> + Clone,
{
    let session = session(Token::bearer(TOKEN).unwrap());
    let mut service = session.layer().replay(replay).layer(Bare);
    // The first load of the token on a thread makes the thread's own slots.
    allocations(&mut service, request(0));
    service
}

#[test]
fn a_request_that_is_never_replayed_allocates_nothing_for_its_token() {
    let mut service = through(Never);
    for own in 0..40 {
        let expected = bare(own);
        assert_eq!(
            allocations(&mut service, request(own)),
            expected,
            "{own} headers"
        );
    }
}

#[test]
fn a_request_that_may_be_replayed_allocates_for_the_copy_of_its_head() {
    let mut auto = through(Auto);
    let mut if_empty = through(IfEmpty);
    // The retained request, and the buffer with its head.
    for own in 0..40 {
        let expected = bare(own) + 2;
        assert_eq!(
            allocations(&mut auto, request(own)),
            expected,
            "{own} headers"
        );
        // What is not empty is not kept, and so nothing is copied.
        assert_eq!(
            allocations(&mut if_empty, request(own)),
            bare(own),
            "{own} headers"
        );
    }
}

#[test]
fn a_cookie_allocates_for_the_header_it_is_merged_into() {
    let session = session(Token::cookie("sid", TOKEN).unwrap());
    let mut service = session.layer().replay(Never).layer(Anybody);
    allocations(&mut service, request(4));
    let alone = allocations(&mut service, request(4));
    assert!(alone > 0, "the docs of `and_cookie` say so");
}

/// As [`Bare`], whatever it is sent.
#[derive(Clone)]
struct Anybody;

impl Service<Request<Full<Bytes>>> for Anybody {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        ready(Ok(Response::new(Full::default())))
    }
}

#[test]
fn putting_a_token_into_headers_copies_none_of_its_bytes() {
    let token = Token::bearer(TOKEN).unwrap();
    let mut headers = HeaderMap::with_capacity(8);
    let counted = measure(|| token.apply_to(&mut headers));
    assert_eq!(counted.count_total, 0);
    let (_, held) = token.headers().next().unwrap();
    assert_eq!(
        headers[header::AUTHORIZATION].as_bytes().as_ptr(),
        held.as_bytes().as_ptr()
    );
}

#[test]
fn a_request_to_another_origin_allocates_nothing() {
    let mut service = session(Token::bearer(TOKEN).unwrap())
        .layer()
        .layer(Anybody);
    let elsewhere = || {
        let mut request = request(4);
        *request.uri_mut() = "https://elsewhere.example.com/".parse().unwrap();
        request
    };
    allocations(&mut service, elsewhere());
    let plain = allocations(&mut Anybody, elsewhere());
    assert_eq!(allocations(&mut service, elsewhere()), plain);
}
