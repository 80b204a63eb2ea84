//! Answers as login systems give them: where a token is found all the same, and what the
//! error says where it is not.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tower::service_fn;
use tower::util::BoxCloneSyncService;
use tower_reauth::provider::{Answer, Api, Expiry};
use tower_reauth::{
    BoxError, Credentials, ExposeSecret, ProviderError, ProviderErrorKind, Rejection,
};

type Body = Full<Bytes>;
type Http = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// An API whose server always answers like this.
fn api(status: u16, headers: &'static [(&'static str, &'static str)], body: &str) -> Api<Http> {
    let body = Bytes::from(body.to_owned());
    let http = service_fn(move |_: Request<Body>| {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(Body::from(body.clone())).unwrap();
        async move { Ok::<_, BoxError>(response) }
    });
    let http = BoxCloneSyncService::new(http);
    Api::new(http, "https://api.example.com".parse().unwrap()).unwrap()
}

async fn json(body: &str) -> Answer {
    api(200, &[], body).post("token").login().await.unwrap()
}

/// Returns the text of the cause.
fn cause(error: &ProviderError) -> String {
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn json_and_text_are_read_behind_a_byte_order_mark() {
    let answer = json("\u{feff}{\"token\":\"t\"}").await;
    assert_eq!(answer.secret("/token").unwrap().expose_secret(), "t");
    assert_eq!(answer.text().unwrap(), r#"{"token":"t"}"#);
    let map: BTreeMap<String, String> = answer.json().unwrap();
    assert_eq!(map["token"], "t");
    assert_eq!(answer.bytes().len(), 16);
}

#[tokio::test]
async fn an_error_names_the_status_the_content_type_and_what_was_expected() {
    let html = &[("content-type", "text/html; charset=utf-8")];
    let answered_as_json = &[("content-type", "application/json")];
    let compressed = &[
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    let secret_type = &[("content-type", "text/\"3f9a\"")];
    for (status, headers, body, expected) in [
        (
            301,
            &html[..],
            "<html>",
            "301 Moved Permanently with text/html where ",
        ),
        (200, html, "<html>", "200 OK with text/html where "),
        (204, &[], "", "204 No Content without a body where "),
        (200, &[], "token", "200 OK without a content type where "),
        (
            200,
            secret_type,
            "{}",
            "200 OK without a content type where ",
        ),
        (
            200,
            answered_as_json,
            r#"{"error":"invalid_grant","error_description":"canary"}"#,
            "200 OK with application/json and the error invalid_grant where ",
        ),
        // Not a code: it may quote the request.
        (
            200,
            answered_as_json,
            r#"{"error":"wrong: \"canary\""}"#,
            "200 OK with application/json where ",
        ),
        // Short, and perhaps a message that quotes the request.
        (
            200,
            answered_as_json,
            r#"{"error":"Invalid-key-3f9a"}"#,
            "200 OK with application/json where ",
        ),
        (
            200,
            compressed,
            "\u{1f}\u{8b}",
            "200 OK with application/json, compressed by gzip (put a decompression layer into \
             the client), where ",
        ),
    ] {
        let answer = api(status, headers, body)
            .post("login")
            .login()
            .await
            .unwrap();
        let error = answer.secret("/token").unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Protocol);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
        let expected = format!(
            "the answer to POST /login is a {expected}JSON with a text at \"/token\" was expected"
        );
        assert_eq!(cause(&error), expected);
    }
    // A redirect may be how a form logs in.
    let sid = &[("location", "/home"), ("set-cookie", "sid=1")];
    let answer = api(301, sid, "").post("login").login().await.unwrap();
    assert_eq!(
        answer.cookie("sid").unwrap().into_value().expose_secret(),
        "1"
    );
}

#[tokio::test]
async fn a_status_that_is_no_success_is_quoted_with_its_code() {
    let denied = api(400, &[], r#"{"error":"invalid_client"}"#);
    let error = denied.post("token").login().await.unwrap_err();
    let text = "POST /token was answered with 400 Bad Request (invalid_client)";
    assert_eq!(cause(&error), text);
}

#[tokio::test]
async fn a_lifetime_is_read_in_whatever_form_it_is_named() {
    let hour = Some(Duration::from_secs(3600));
    for (body, expected) in [
        (r#"{"expires_in":3600}"#, hour),
        (r#"{"expires_in":"3600"}"#, hour),
        (r#"{"expires_in":3600.0}"#, hour),
        (r#"{"expires_in":null}"#, None),
        (r#"{"expires_in":0}"#, None),
        (r#"{"expires_in":-1}"#, None),
        (r#"{"access_token":"a"}"#, None),
    ] {
        let lifetime = json(body).await.lifetime("/expires_in").unwrap();
        assert_eq!(lifetime, expected, "{body}");
    }
    let answer = json(r#"{"auth":{"ttl_ms":3600000}}"#).await;
    let lifetime = answer.lifetime(Expiry::Milliseconds("/auth/ttl_ms"));
    assert_eq!(lifetime.unwrap(), hour);
    // A server in another year: only its own clock counts.
    let date = &[("date", "Tue, 01 Dec 2020 00:00:00 GMT")];
    let body = r#"{"at":"2020-12-01T01:00:00Z","jwt":"e30.eyJleHAiOjE2MDY3ODQ0MDB9.x"}"#;
    let answer = api(200, date, body).post("token").login().await.unwrap();
    assert_eq!(answer.lifetime(Expiry::At("/at")).unwrap(), hour);
    assert_eq!(answer.lifetime(Expiry::Jwt("/jwt")).unwrap(), hour);
    // Without a `Date`, ours.
    let answer = json(body).await;
    assert_eq!(
        answer.lifetime(Expiry::At("/at")).unwrap(),
        Some(Duration::ZERO)
    );
}

#[tokio::test]
async fn a_lifetime_in_another_form_is_an_error_that_names_its_place() {
    for (body, expected) in [
        (
            r#"{"expires_in":"soon"}"#,
            r#"JSON with a number of seconds at "/expires_in""#,
        ),
        (
            r#"{"expires_in":[3600]}"#,
            r#"JSON with a number of seconds at "/expires_in""#,
        ),
        ("3600 s", "JSON"),
    ] {
        let error = json(body).await.lifetime("/expires_in").unwrap_err();
        let expected = format!("where {expected} was expected");
        assert!(cause(&error).ends_with(&expected), "{error:?}");
    }
    let error = json(r#"{"at":true}"#).await.lifetime(Expiry::At("/at"));
    assert!(cause(&error.unwrap_err()).contains("a point in time"));
}

#[tokio::test]
async fn a_refresh_token_may_be_missing_and_nothing_else_in_its_place() {
    let read = async |body| json(body).await.optional_secret("/refresh_token");
    let new = read(r#"{"refresh_token":"r2"}"#).await.unwrap();
    assert_eq!(new.unwrap().expose_secret(), "r2");
    for body in [r#"{"access_token":"a"}"#, r#"{"refresh_token":null}"#] {
        assert!(read(body).await.unwrap().is_none(), "{body}");
    }
    for body in [r#"{"refresh_token":5}"#, "<html>"] {
        assert!(read(body).await.is_err(), "{body}");
    }
}

#[tokio::test]
async fn what_denies_and_what_is_busy_holds_however_the_call_is_finished() {
    use ProviderErrorKind::{Refused, TokenRejected, Unavailable};
    let forbidden = api(403, &[], "");
    let busy = || forbidden.post("x").busy_by(&[StatusCode::FORBIDDEN]);
    let denied = || forbidden.post("x").denied_by(StatusCode::FORBIDDEN);
    let sent = busy().send().await.unwrap();
    assert_eq!(sent.of_login().unwrap_err().kind(), Unavailable);
    let sent = denied().send().await.unwrap();
    assert_eq!(sent.of_login().unwrap_err().kind(), Refused);
    let sent = denied().send().await.unwrap();
    assert_eq!(sent.of_logout().unwrap_err().kind(), TokenRejected);
    let sent = denied().send_once().await.unwrap();
    assert_eq!(sent.of_change().unwrap_err().kind(), TokenRejected);
    let sent = denied().send_once().await.unwrap();
    assert!(sent.of_exchange().unwrap().is_none());
    let sent = denied().send().await.unwrap();
    assert_eq!(sent.of_read().unwrap_err().kind(), TokenRejected);
    let refused = || denied().refused_by(StatusCode::FORBIDDEN);
    let change = refused().change().await;
    assert_eq!(change.unwrap_err().kind(), Refused);
    let exchange = refused().exchange().await;
    assert_eq!(exchange.unwrap_err().kind(), Refused);
    // Each call adds to those before, and a busy server has not looked at the rest.
    let call = busy()
        .busy_by(StatusCode::CONFLICT)
        .denied_by(StatusCode::FORBIDDEN);
    assert_eq!(call.login().await.unwrap_err().kind(), Unavailable);
}

#[tokio::test]
async fn a_text_tells_a_denied_login_from_a_success_of_the_same_status() {
    let fails = Rejection::body_contains(StatusCode::OK, "Fails.", 64);
    for (body, expected) in [("Fails.", Some(ProviderErrorKind::Refused)), ("Ok.", None)] {
        let call = api(200, &[], body).post("login").denied_by(fails.clone());
        let kind = call.login().await.err().map(|error| error.kind());
        assert_eq!(kind, expected, "{body}");
    }
    let too_many = Rejection::body_contains(StatusCode::UNAUTHORIZED, "too many sessions", 4096);
    let server = api(401, &[], r#"{"message":"too many sessions"}"#);
    let call = server.post("login").busy_by(too_many);
    let error = call.login().await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Unavailable);
    let back = Rejection::redirect_to("/login");
    let server = api(302, &[("location", "/login?error")], "");
    let error = server.post("login").denied_by(back).login().await;
    assert_eq!(error.unwrap_err().kind(), ProviderErrorKind::Refused);
}

/// The text that decides is compressed: what it means is not known.
#[tokio::test]
async fn a_compressed_answer_whose_text_decides_is_no_success() {
    use ProviderErrorKind::{Protocol, Refused, Uncertain};
    let compressed = &[("content-encoding", "gzip")];
    let wrong = Rejection::body_contains(StatusCode::OK, "wrong password", 512);
    let server = api(200, compressed, "\u{1f}\u{8b}");
    let call = || server.post("x").denied_by(wrong.clone());
    let error = call().login().await.unwrap_err();
    assert_eq!(error.kind(), Protocol);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
    assert!(cause(&error).ends_with("where a body that is not compressed was expected"));
    assert_eq!(call().change().await.unwrap_err().kind(), Uncertain);
    assert_eq!(call().exchange().await.unwrap_err().kind(), Uncertain);
    // Another clause, or the status, decides without it.
    let refused = call().refused_by(StatusCode::OK).change().await;
    assert_eq!(refused.unwrap_err().kind(), Refused);
    let call = server.post("x").denied_by(StatusCode::FORBIDDEN);
    assert!(call.change().await.is_ok());
}

#[tokio::test]
async fn a_pointer_that_is_none_is_an_error_and_not_a_missing_value() {
    let answer = json(r#"{"refresh_token":"r","expires_in":5}"#).await;
    for error in [
        answer.optional_secret("refresh_token").unwrap_err(),
        answer.lifetime("expires_in").unwrap_err(),
    ] {
        assert!(
            cause(&error).ends_with("is not a JSON Pointer"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_read_tells_a_dead_token_from_a_server_that_is_down() {
    use ProviderErrorKind::{Protocol, TokenRejected, Unavailable};
    for (status, expected) in [
        (200, None),
        (302, Some(Protocol)),
        (401, Some(TokenRejected)),
        (403, Some(Protocol)),
        (404, Some(Protocol)),
        (408, Some(Unavailable)),
        (429, Some(Unavailable)),
        (500, Some(Unavailable)),
        (503, Some(Unavailable)),
    ] {
        let read = api(status, &[], "").get("me").read().await;
        assert_eq!(read.err().map(|error| error.kind()), expected, "{status}");
    }
    let http = service_fn(|_: Request<Body>| async {
        Err::<Response<Body>, _>(std::io::Error::other("reset"))
    });
    let api: Api<_> = Api::new(http, "https://api.example.com".parse().unwrap()).unwrap();
    let error = api.get("me").read().await.unwrap_err();
    assert_eq!(error.kind(), Unavailable);
}

/// An API that keeps the last request: its `Authorization` and its body.
fn recording() -> (Api<Http>, Arc<Mutex<(String, Bytes)>>) {
    let seen: Arc<Mutex<(String, Bytes)>> = Arc::default();
    let seen_by_server = seen.clone();
    let http = service_fn(move |request: Request<Body>| {
        let seen = seen_by_server.clone();
        async move {
            let authorization = request.headers().get(header::AUTHORIZATION);
            let authorization = authorization.map_or("", |value| value.to_str().unwrap());
            let authorization = authorization.to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            *seen.lock().unwrap() = (authorization, body);
            Ok::<_, Infallible>(Response::new(Body::default()))
        }
    });
    let http = BoxCloneSyncService::new(tower::util::MapErr::new(http, BoxError::from));
    let api = Api::new(http, "https://api.example.com".parse().unwrap());
    (api.unwrap(), seen)
}

/// The example of RFC 6749, section 2.3.1, and one whose characters need the encoding.
#[tokio::test]
async fn basic_of_oauth_encodes_each_part_like_a_field_of_a_form_first() {
    let (api, seen) = recording();
    for (id, secret, expected) in [
        (
            "s6BhdRkqt3",
            "gX1fBat3bV",
            "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW",
        ),
        // `a%3Ab:c+d%25%C3%A4`
        ("a:b", "c d%\u{e4}", "Basic YSUzQWI6YytkJTI1JUMzJUE0"),
    ] {
        let client = Credentials::new(id, secret);
        api.post("token").oauth_basic(&client).send().await.unwrap();
        assert_eq!(seen.lock().unwrap().0, expected);
    }
}

#[tokio::test]
async fn json_fields_are_nested_and_mixed() {
    let (api, seen) = recording();
    let call = api
        .post("login")
        .json_field("/type", "m.login.password")
        .json_field("/identifier/user", "alice")
        .json_field("/identifier/type", "m.id.user")
        .json_field("/remember", true)
        .json_field("/scopes", ["a", "b"]);
    call.send().await.unwrap();
    let expected = r#"{"identifier":{"type":"m.id.user","user":"alice"},"remember":true,"scopes":["a","b"],"type":"m.login.password"}"#;
    assert_eq!(seen.lock().unwrap().1, expected);
}

#[tokio::test]
async fn a_json_field_in_the_wrong_place_fails_the_call_before_it_is_sent() {
    let (api, seen) = recording();
    let unserializable: BTreeMap<(u8, u8), u8> = BTreeMap::from([((1, 2), 3)]);
    for (call, expected) in [
        (
            api.post("x").json_field("user", "a"),
            r#""user" does not point to a field"#,
        ),
        (
            api.post("x").json_field("", "a"),
            r#""" does not point to a field"#,
        ),
        (
            api.post("x").json_field("/a", 1).json_field("/a/b", 2),
            r#""/a/b" is in the way of another field"#,
        ),
        (
            api.post("x").json_field("/a", unserializable),
            r#"the value at "/a" cannot be written as JSON"#,
        ),
        (
            api.post("x").json_field("/a", 1).form([("a", "b")]),
            "it has a body beside its JSON fields",
        ),
    ] {
        let error = call.send().await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Unsupported);
        assert_eq!(error.to_string(), "nothing was sent");
        assert_eq!(cause(&error), format!("POST /x was not sent: {expected}"));
        assert!(seen.lock().unwrap().1.is_empty());
    }
}
