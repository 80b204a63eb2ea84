//! JSON Pointers into an answer, and texts with escapes in it, as `serde_json`
//! reads them. An input is a pointer, a line break, and the JSON.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use tower_reauth::provider::Api;
use tower_reauth::{ExposeSecret, ProviderErrorKind};

pub(crate) fn secret(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let pointer = String::from_utf8_lossy(parts.next().unwrap()).into_owned();
    let json = Bytes::copy_from_slice(parts.next().unwrap_or_default());
    let body = json.clone();
    let http = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let response = Response::new(Full::new(body.clone()));
        async move { Ok::<_, Infallible>(response) }
    });
    let api = Api::new(http, "https://api.test".parse().unwrap()).unwrap();
    let answer = super::run(api.get("/").send()).unwrap();

    let found = answer.secret(&pointer);
    let number = answer.at::<u64>(&pointer);
    // What does not concern it, such as half a surrogate pair elsewhere, we
    // do not read.
    let Ok(value) = serde_json::from_slice::<Value>(&json) else {
        return;
    };
    let expected = value.pointer(&pointer);
    match found {
        Ok(secret) => assert_eq!(
            Some(secret.expose_secret()),
            expected.and_then(Value::as_str)
        ),
        Err(error) => {
            assert_eq!(error.kind(), ProviderErrorKind::Protocol);
            assert_eq!(None, expected.and_then(Value::as_str), "not found");
        }
    }
    assert_eq!(number.ok(), expected.and_then(Value::as_u64));
}
