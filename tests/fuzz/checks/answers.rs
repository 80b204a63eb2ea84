//! Answers of a Control-M server, or of whatever else answers at its address.
//! An input is a status, headers, one a line, an empty line, and the body.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use tower_reauth::controlm::model::{LoginCredentials, PasswordsObject};
use tower_reauth::controlm::{Error, ErrorKind, SessionApi};
use tower_reauth::{ExposeSecret, SecretString};

const PASSWORD: &str = "canary-p\"w\\<&>";
const NEW_PASSWORD: &str = "canary-new-p\"w";
const TOKEN: &str = "A3F5BB6ECANARY_0D2C";

pub(crate) fn answer(input: &[u8]) {
    let response = response(input);
    let status = response.status();
    let http = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let response = response.clone();
        async move { Ok::<_, Infallible>(response) }
    });
    let api = SessionApi::new(http, "https://ctm.test/automation-api".parse().unwrap());
    let api = api.unwrap();
    let token = SecretString::from(TOKEN);
    let credentials = LoginCredentials {
        username: "emuser".to_owned(),
        password: PASSWORD.into(),
    };
    let passwords = PasswordsObject {
        user: None,
        current_password: PASSWORD.into(),
        new_password: NEW_PASSWORD.into(),
    };
    let all = [PASSWORD, NEW_PASSWORD, TOKEN];
    super::run(async {
        match api.login(&credentials).await {
            Ok(result) => {
                assert!(status.is_success());
                let token = result.token.as_ref().unwrap().expose_secret();
                HeaderValue::from_str(token).unwrap();
                shows_none_of(&[PASSWORD], &format!("{result:?}"));
            }
            Err(error) => is_sound(&error, status, &[PASSWORD]),
        }
        match api.logout(&token).await {
            Ok(done) => {
                assert!(status.is_success());
                shows_none_of(&[TOKEN], &format!("{done:?}"));
            }
            Err(error) => is_sound(&error, status, &[TOKEN]),
        }
        match api.update_my_password(&token, &passwords).await {
            Ok(done) => {
                assert!(status.is_success());
                shows_none_of(&all, &format!("{done:?}"));
            }
            Err(error) => is_sound(&error, status, &all),
        }
    });
}

fn response(input: &[u8]) -> Response<Full<Bytes>> {
    let end = input.windows(2).position(|bytes| bytes == b"\n\n");
    let (head, body) = input.split_at(end.unwrap_or(input.len()));
    let body = body.strip_prefix(b"\n\n").unwrap_or(body);
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body)));
    let mut lines = head.split(|byte| *byte == b'\n');
    if let Ok(status) = StatusCode::from_bytes(lines.next().unwrap_or_default()) {
        *response.status_mut() = status;
    }
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Whether an error says what came, and nothing of the secrets that were sent.
fn is_sound(error: &Error, status: StatusCode, secrets: &[&str]) {
    match error.kind() {
        ErrorKind::Status(said) => assert!(said == status && !status.is_success()),
        ErrorKind::Unreadable(_) => assert!(status.is_success()),
        other => panic!("{other:?}: there was an answer"),
    }
    assert_eq!(error.status(), Some(status));
    let mut shown = format!("{error} {error:?} {:?} {:?}", error.text(), error.errors());
    let mut source = error.source();
    while let Some(cause) = source {
        write!(shown, " {cause} {cause:?}").unwrap();
        source = cause.source();
    }
    shows_none_of(secrets, &shown);
    assert!(
        error
            .text()
            .is_none_or(|text| !text.contains(char::is_control))
    );
}

fn shows_none_of(secrets: &[&str], shown: &str) {
    for secret in secrets {
        assert!(!shown.contains(*secret), "{shown}");
        let quoted = format!("{secret:?}");
        assert!(!shown.contains(quoted.trim_matches('"')), "{shown}");
    }
}
