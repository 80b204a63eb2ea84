//! Where a token goes, as the `url` crate sees origins. An input is the
//! session's origin and a request's URI, one a line.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Request, Response, Uri, header};
use http_body_util::Empty;
use tower::{Layer, ServiceExt};
use tower_reauth::provider::Api;
use tower_reauth::{FixedToken, Profile, Session, Token};
use url::Url;

type Body = Empty<bytes::Bytes>;

#[test]
fn a_token_goes_only_where_url_sees_the_same_origin() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    crate::fuzz("origins", 10_000, |input| {
        let Some((home, to)) = std::str::from_utf8(input).ok().and_then(|input| {
            let (home, to) = input.split_once('\n')?;
            Some((home, to.trim_end_matches('\n')))
        }) else {
            return;
        };
        let (Ok(home_uri), Ok(uri)) = (home.parse::<Uri>(), to.parse::<Uri>()) else {
            return;
        };
        let is_same = is_same(home, to);
        let goes = runtime.block_on(async {
            let there = token_goes(&home_uri, &uri).await;
            let through_api = is_called(&home_uri, to).await;
            // A path is a place at home, and no URI of its own.
            assert!(!through_api || !to.contains("://") || is_same != Some(false));
            there
        });
        match is_same {
            Some(is_same) => assert!(is_same || !goes, "{to} is not at {home}"),
            // No URL at all, to those who know: it must be the very same.
            None => assert!(!goes || is_plainly_same(&home_uri, &uri), "{to} at {home}"),
        }
    });
}

/// `None` where one of them is no URL.
fn is_same(home: &str, to: &str) -> Option<bool> {
    let (home, to) = (Url::parse(home).ok()?, Url::parse(to).ok()?);
    Some(home.origin() == to.origin())
}

/// As a client sees it that looks no closer: `[1.2.3.4]` is an address to most.
fn is_plainly_same(home: &Uri, to: &Uri) -> bool {
    let of = |uri: &Uri| {
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let host = host.trim_matches(['[', ']']).to_owned();
        (uri.scheme().cloned(), host)
    };
    of(home) == of(to)
}

/// Whether a request to `uri` carries the token of a session at `home`.
async fn token_goes(home: &Uri, uri: &Uri) -> bool {
    let goes = Arc::new(AtomicBool::new(false));
    let http = tower::service_fn({
        let goes = goes.clone();
        move |request: Request<Body>| {
            let has_token = request.headers().contains_key(header::AUTHORIZATION);
            goes.store(has_token, Ordering::Relaxed);
            async { Ok::<_, Infallible>(Response::new(Body::new())) }
        }
    });
    let profile = Profile::at(home.clone()).allow_plain_http();
    let session = Session::builder(FixedToken::bearer(profile, "3f9a"))
        .initial(Token::bearer("3f9a").unwrap())
        .build();
    let mut request = Request::new(Body::new());
    *request.uri_mut() = uri.clone();
    // An error of ours says that it was not sent at all.
    let _ = session.layer().layer(http).oneshot(request).await;
    goes.load(Ordering::Relaxed)
}

/// Whether a call to `to` is sent by an `Api` at `home`.
async fn is_called(home: &Uri, to: &str) -> bool {
    let http = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::new()))
    });
    let api = Api::with_body(http, home.clone(), |_| Body::new()).allow_plain_http();
    api.get(to).send().await.is_ok()
}
