//! A token that was refreshed ahead of time, until a request has proven it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Iter, iter};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, ServiceExt};
use tower_reauth::{
    Buffer, Buffered, IfEmpty, LoginContext, LogoutEnds, Profile, ProviderError, Rolling, Session,
    Token, provider_fn,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A stream whose length is not known.
type Blocks = StreamBody<Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// `previous()` is the token of the newest login, also after an answer has rolled the
/// older one that is in use.
#[tokio::test(start_paused = true)]
async fn a_roll_of_the_old_token_does_not_replace_the_newest_as_previous() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let profile = Profile::at("https://api.test".parse().unwrap())
        .logout_ends(LogoutEnds::Token)
        .rolling(Rolling::cookies());
    let provider = provider_fn(profile, move |login: LoginContext| {
        let mut seen = kept.lock().unwrap();
        seen.push(login.previous().map(|token| token.generation()));
        let number = seen.len();
        let token = Token::cookie("sid", format!("s{number}"));
        async move { Ok::<_, ProviderError>(token?.lives_for(HOUR)) }
    });
    let session = Session::new(provider);
    let service = tower::service_fn(|request: Request<Full<Bytes>>| async move {
        let sid = request.headers()[header::COOKIE]
            .to_str()
            .unwrap()
            .to_owned();
        let mut response = Response::new(Full::<Bytes>::default());
        let next = format!("{sid}x");
        response
            .headers_mut()
            .insert(header::SET_COOKIE, next.parse().unwrap());
        Ok::<_, Infallible>(response)
    });
    let send = |method: Method| {
        let layer = session.layer().replay(IfEmpty);
        let client = layer.layer(service);
        let body = match method == Method::POST {
            true => Full::from("x"),
            false => Full::default(),
        };
        let request = Request::builder()
            .method(method)
            .uri("https://api.test/")
            .body(body)
            .unwrap();
        async move { client.oneshot(request).await.unwrap().status() }
    };
    send(Method::GET).await;
    tokio::time::sleep(HOUR - Duration::from_secs(200)).await;
    assert_eq!(seen.lock().unwrap().len(), 2, "a refresh ahead");
    // It cannot be replayed, so it carries the old token, and rolls it.
    send(Method::POST).await;
    assert_eq!(session.status().generation, Some(1));
    session.renew().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [None, Some(1), Some(2)]);
}

/// An API that lags behind its login system rejects no request.
#[tokio::test(start_paused = true)]
async fn a_body_that_outgrows_its_buffer_does_not_carry_the_candidate() {
    let profile = Profile::at("https://api.test".parse().unwrap());
    let count = Arc::new(Mutex::new(0));
    let provider = provider_fn(profile, move |_: LoginContext| {
        let mut count = count.lock().unwrap();
        *count += 1;
        let token = Token::bearer(format!("t{count}"));
        async move { Ok::<_, ProviderError>(token?.lives_for(HOUR)) }
    });
    let session = Session::new(provider);
    // Knows token 1 only.
    let service = tower::service_fn(|request: Request<Buffered<Blocks>>| async move {
        let known = request.headers()[header::AUTHORIZATION] == "Bearer t1";
        let _ = request.into_body().collect().await;
        let mut response = Response::new(Full::<Bytes>::default());
        if !known {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        Ok::<_, Infallible>(response)
    });
    let send = |blocks: usize| {
        let client = session.layer().replay(Buffer::up_to(8)).layer(service);
        let frames: Vec<_> = (0..blocks)
            .map(|_| Ok(Frame::data(Bytes::from_static(b"0123"))))
            .collect();
        let body: Blocks = StreamBody::new(iter(frames));
        let request = Request::put("https://api.test/").body(body).unwrap();
        async move { client.oneshot(request).await.unwrap().status() }
    };
    assert_eq!(send(1).await, 200);
    tokio::time::sleep(HOUR - Duration::from_secs(200)).await;
    // The old token is good for more than three minutes.
    assert_eq!(send(100).await, 200);
}
