//! Where a token goes, as the `url` crate sees origins. An input is the
//! session's origin and a request's URI, one a line.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::uri::Scheme;
use http::{Request, Response, Uri, header};
use http_body_util::Empty;
use tower::{Layer, ServiceExt};
use tower_reauth::provider::Api;
use tower_reauth::{FixedToken, Origin, Profile, Session, Token};
use url::Url;

type Body = Empty<bytes::Bytes>;

pub(crate) fn origin(input: &[u8]) {
    let Some((home, to)) = std::str::from_utf8(input).ok().and_then(|input| {
        let (home, to) = input.split_once('\n')?;
        Some((home, to.trim_end_matches('\n')))
    }) else {
        return;
    };
    let (Ok(home_uri), Ok(uri)) = (home.parse::<Uri>(), to.parse::<Uri>()) else {
        return;
    };
    // Of schemes that it does not know, `url` tells no origin.
    if Url::parse(home).is_ok_and(|home| !home.origin().is_tuple()) {
        return;
    }
    // Where there is no URL to those who know, it must be the same to a client
    // that looks no closer.
    let is_same = is_same(home, to).unwrap_or_else(|| letters(&home_uri) == letters(&uri));
    super::run(async {
        let goes = token_goes(&home_uri, &uri).await;
        assert!(!goes[0] || is_same, "{to} is not at {home}");
        assert_eq!(goes[0], goes[1], "{to}, seen quickly and closely");
        // Of a whole URI, too, a call takes the path only.
        if let Some(called) = called(&home_uri, to).await {
            assert_eq!(letters(&called), letters(&home_uri), "{to}");
        }
    });
}

/// `None` where one of them is no URL.
fn is_same(home: &str, to: &str) -> Option<bool> {
    let (home, to) = (Url::parse(home).ok()?, Url::parse(to).ok()?);
    Some(home.origin() == to.origin())
}

/// What is the same by its letters.
fn letters(uri: &Uri) -> (Option<&Scheme>, String, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https" | "wss") => Some(443),
        Some("http" | "ws") => Some(80),
        _ => None,
    });
    let host = uri.host().unwrap_or_default();
    (uri.scheme(), host.to_ascii_lowercase(), port)
}

/// Whether a request to `uri` carries the token of a session at `home`: one
/// that nobody has used yet, which is looked at closely, and one that is proven.
async fn token_goes(home: &Uri, uri: &Uri) -> [bool; 2] {
    let goes = Arc::new(AtomicBool::new(false));
    let http = tower::service_fn({
        let goes = goes.clone();
        move |request: Request<Body>| {
            let has_token = request.headers().contains_key(header::AUTHORIZATION);
            goes.store(has_token, Ordering::Relaxed);
            async { Ok::<_, Infallible>(Response::new(Body::new())) }
        }
    });
    let Ok(origin) = Origin::try_from(home.clone()) else {
        return [false; 2];
    };
    let profile = Profile::at(origin).allow_plain_http();
    let session = Session::builder(FixedToken::bearer(profile, "3f9a"))
        .initial_token(Token::bearer("3f9a").unwrap())
        .build();
    let client = session.layer().layer(http);
    let send = async |uri: &Uri| {
        goes.store(false, Ordering::Relaxed);
        let mut request = Request::new(Body::new());
        *request.uri_mut() = uri.clone();
        // An error of ours says that it was not sent at all.
        let _ = client.clone().oneshot(request).await;
        goes.load(Ordering::Relaxed)
    };
    let unproven = send(uri).await;
    send(home).await;
    [unproven, send(uri).await]
}

/// Where an `Api` at `home` sends a call to `to`.
async fn called(home: &Uri, to: &str) -> Option<Uri> {
    let called = Arc::new(Mutex::new(None));
    let http = tower::service_fn({
        let called = called.clone();
        move |request: Request<Body>| {
            *called.lock().unwrap() = Some(request.uri().clone());
            async { Ok::<_, Infallible>(Response::new(Body::new())) }
        }
    });
    let api = Api::with_body(http, home.clone(), |_| Body::new()).ok()?;
    let _ = api.allow_plain_http().get(to).send().await;
    called.lock().unwrap().take()
}
