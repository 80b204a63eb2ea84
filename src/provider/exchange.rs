//! The requests of a provider's own, and what their answers mean.
//!
//! Most login systems take a POST and say by a status what came of it. One
//! function for each call of a provider sends such a request through any tower
//! HTTP service, reads the answer, and makes a [`ProviderError`] of a failure,
//! as [`writing`](super::writing) tells; [`form`], [`json`] and [`basic`] make
//! what goes into it. None of them leaves a copy of a secret behind.
//!
//! | what happened | [`login`] | [`renew`] | [`logout`] | [`change_password`] |
//! |---|---|---|---|---|
//! | 2xx | the [`Reply`] | the [`Reply`] | the [`Reply`] | the [`Reply`] |
//! | a status that the provider names | `Refused` | `TokenRejected` | `TokenRejected` | `TokenRejected` |
//! | 425, 429 | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` |
//! | 408, any 5xx | `Unavailable` | `Uncertain` | `Unavailable` | `Uncertain` |
//! | any other 4xx | `Protocol` | `Protocol` | `Protocol` | `Refused` |
//! | any other status | `Protocol` | `Uncertain` | `Protocol` | `Uncertain` |
//! | nobody listens, or the service is not ready | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` |
//! | the answer was lost | `Unavailable` | `Uncertain` | `Unavailable` | `Uncertain` |
//! | a 2xx that is cut short, or longer than [`MAX_REPLY`] | `Protocol` | `Uncertain` | `Protocol` | `Uncertain` |
//!
//! A `Retry-After` goes along. An error names the status and quotes nothing of
//! the answer, which may hold what was sent.
//!
//! # Examples
//!
//! A login by a form, whose answer is a cookie. The server says 200 to a wrong
//! password too, and tells it in the body:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower_reauth::provider::exchange;
//! use tower_reauth::{ExposeSecret, LoginContext, ProviderError, Token};
//!
//! # type Http = tower::util::BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, tower_reauth::BoxError>;
//! async fn log_in(http: &Http, login: LoginContext) -> Result<Token, ProviderError> {
//!     let user = login.credentials()?;
//!     let form = exchange::form(&[
//!         ("username", user.username()),
//!         ("password", user.password().expose_secret()),
//!     ]);
//!     let request = Request::post("https://torrents.example.com/api/v2/auth/login")
//!         .header("content-type", exchange::FORM)
//!         .body(Full::from(form))?;
//!     let reply = exchange::login(http, request, &[403]).await?;
//!     if reply.body() == b"Fails." {
//!         return Err(ProviderError::refused("wrong user or password"));
//!     }
//!     Ok(Token::cookie("SID", reply.cookie("SID")?)?)
//! }
//! ```

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use tower_service::Service;
use zeroize::Zeroizing;

use super::ProviderError;
use super::retry_after::retry_after;
use crate::BoxError;
use crate::credentials::Credentials;
use crate::secret;

/// How many bytes of an answer are read.
pub const MAX_REPLY: usize = 64 * 1024;

/// The `Content-Type` of a [`form`].
pub const FORM: &str = "application/x-www-form-urlencoded";

/// The `Content-Type` of [`json`].
pub const JSON: &str = "application/json";

/// How long a login is left alone whose status says nothing that is known: it
/// may have been counted as a failed one.
const NOT_SOON: Duration = Duration::from_secs(60);

/// Sends a login. A status in `refused` says that the credentials are wrong.
///
/// # Errors
///
/// As the [table](self) says. One of the "other" statuses is not tried again
/// within a minute, since the server may have counted a failed login.
pub async fn login<S, B, RB>(
    http: &S,
    request: Request<B>,
    refused: &[u16],
) -> Result<Reply, ProviderError>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    exchange(Call::Login, http, request, refused).await
}

/// Sends the token before, or what is kept with it, in exchange for a new one.
/// A status in `dead` says that it is dead, and that a login is needed.
///
/// # Errors
///
/// As the [table](self) says. Where the answer was lost the error is
/// [`ProviderError::uncertain`], and the session does not offer that token
/// again: some servers revoke everything when one is used twice.
pub async fn renew<S, B, RB>(
    http: &S,
    request: Request<B>,
    dead: &[u16],
) -> Result<Reply, ProviderError>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    exchange(Call::Renew, http, request, dead).await
}

/// Sends a logout. A status in `dead` says that the token was dead already.
///
/// # Errors
///
/// As the [table](self) says.
pub async fn logout<S, B, RB>(
    http: &S,
    request: Request<B>,
    dead: &[u16],
) -> Result<Reply, ProviderError>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    exchange(Call::Logout, http, request, dead).await
}

/// Sends a password change. A status in `dead` says that the token is dead.
///
/// # Errors
///
/// As the [table](self) says.
pub async fn change_password<S, B, RB>(
    http: &S,
    request: Request<B>,
    dead: &[u16],
) -> Result<Reply, ProviderError>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    exchange(Call::ChangePassword, http, request, dead).await
}

/// An answer whose status is a 2xx, read to its end.
///
/// Its body is wiped when it drops, and `Debug` shows the status only.
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The value of the header `name`.
    ///
    /// # Errors
    ///
    /// [`ProviderError::protocol`] if it is not there, or no text.
    pub fn header(&self, name: impl AsRef<str>) -> Result<SecretString, ProviderError> {
        let name = name.as_ref();
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        let missing = || ProviderError::protocol(format!("the answer has no header `{name}`"));
        value.map(SecretString::from).ok_or_else(missing)
    }

    /// The value of the cookie `name` that the answer sets.
    ///
    /// # Errors
    ///
    /// [`ProviderError::protocol`] if it sets none of that name.
    pub fn cookie(&self, name: &str) -> Result<SecretString, ProviderError> {
        let set = self.headers.get_all(header::SET_COOKIE).iter();
        let mut values = set.filter_map(|line| {
            let pair = line.to_str().ok()?.split(';').next()?;
            let (other, value) = pair.split_once('=')?;
            (other.trim() == name).then(|| value.trim().into())
        });
        let missing = || ProviderError::protocol(format!("the answer sets no cookie `{name}`"));
        // The last one holds (RFC 6265, section 5.3).
        values.next_back().ok_or_else(missing)
    }

    /// The message that the body is, in JSON.
    ///
    /// A field of type [`SecretString`] is wiped when it drops.
    ///
    /// # Errors
    ///
    /// [`ProviderError::protocol`] if the body is no such message.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ProviderError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // The parser's error is not kept, since it quotes what it stumbled over.
            let (line, column) = (error.line(), error.column());
            let found = format!("not the expected JSON, at line {line}, column {column}");
            ProviderError::protocol(found)
        })
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// `fields` as a form in a request's body, which is wiped when it drops.
#[must_use]
pub fn form(fields: &[(&str, &str)]) -> Bytes {
    // At most three bytes for one, and `=` and `&`.
    let room = |(name, value): &(&str, &str)| 3 * (name.len() + value.len()) + 2;
    let mut form = Zeroizing::new(Vec::with_capacity(fields.iter().map(room).sum()));
    for (name, value) in fields {
        if !form.is_empty() {
            form.push(b'&');
        }
        encode(name, &mut form);
        form.push(b'=');
        encode(value, &mut form);
    }
    secret::into_bytes(form)
}

/// As a form encodes it (WHATWG URL, section 5.2).
fn encode(text: &str, into: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'*' | b'-' | b'.' | b'_' => into.push(byte),
            b' ' => into.push(b'+'),
            _ => into.extend([
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
}

/// `message` as JSON in a request's body, which is wiped when it drops.
///
/// A struct of `&str`, or a map of them, copies no secret on the way; a
/// `serde_json::Value` does.
///
/// ```
/// use std::collections::BTreeMap;
/// use tower_reauth::provider::exchange;
///
/// let message = BTreeMap::from([("UserName", "root"), ("Password", "s3cret")]);
/// let body = exchange::json(&message);
/// assert_eq!(body, r#"{"Password":"s3cret","UserName":"root"}"#);
/// ```
///
/// # Panics
///
/// If the message cannot be JSON: it has a map whose keys are no texts, say.
#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
#[must_use]
pub fn json(message: &impl serde::Serialize) -> Bytes {
    const IS_JSON: &str = "a message that can be JSON";
    let mut length = Length(0);
    serde_json::to_writer(&mut length, message).expect(IS_JSON);
    // Of just that length: a buffer that grows leaves a copy behind.
    let mut json = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *json, message).expect(IS_JSON);
    secret::into_bytes(json)
}

#[cfg(feature = "json")]
struct Length(usize);

#[cfg(feature = "json")]
impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The `Authorization` of a user and a password (RFC 7617), marked as
/// sensitive and wiped when its last copy drops.
#[must_use]
pub fn basic(credentials: &Credentials) -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let password = credentials.password().expose_secret();
    let plain = secret::join(&[credentials.username().as_bytes(), b":", password.as_bytes()]);
    let mut encoded = Zeroizing::new(Vec::with_capacity(plain.len().div_ceil(3) * 4));
    for three in plain.chunks(3) {
        let byte = |at: usize| three.get(at).map_or(0, |byte| u32::from(*byte));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            encoded.push(match at > three.len() {
                true => b'=',
                false => ALPHABET[(bits >> (18 - 6 * at)) as usize & 63],
            });
        }
    }
    secret::header_value(&[b"Basic ", &encoded]).expect("letters, digits and three signs")
}

#[derive(Clone, Copy)]
enum Call {
    Login,
    Renew,
    Logout,
    ChangePassword,
}

async fn exchange<S, B, RB>(
    call: Call,
    http: &S,
    request: Request<B>,
    named: &[u16],
) -> Result<Reply, ProviderError>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    let mut http = http.clone();
    poll_fn(|cx| http.poll_ready(cx))
        .await
        .map_err(ProviderError::unavailable)?;
    let response = http.call(request).await.map_err(|error| {
        let error = error.into();
        match was_not_sent(&*error) {
            true => ProviderError::unavailable(error),
            false => call.lost(error),
        }
    })?;
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        let error = call.failed(head.status, named);
        let asked_for = retry_after(&head.headers, SystemTime::now());
        return Err(match asked_for {
            Some(delay) => error.with_retry_after(delay),
            None => error,
        });
    }
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body: read(body).await.map_err(|error| call.unreadable(error))?,
    })
}

async fn read<RB>(body: RB) -> Result<Zeroizing<Vec<u8>>, BoxError>
where
    RB: Body,
    RB::Error: Into<BoxError>,
{
    // All of the room at once, since a buffer that grows leaves a copy of the
    // token in the memory that it outgrew.
    let mut read = Zeroizing::new(Vec::with_capacity(MAX_REPLY));
    let mut body = pin!(body);
    while let Some(frame) = body.as_mut().frame().await {
        let Ok(mut data) = frame.map_err(Into::into)?.into_data() else {
            continue;
        };
        if data.remaining() > MAX_REPLY - read.len() {
            return Err("the answer is too long".into());
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            read.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
    }
    Ok(read)
}

impl Call {
    /// The request may have been sent, and there is no answer.
    fn lost(self, error: BoxError) -> ProviderError {
        match self {
            Call::Login | Call::Logout => ProviderError::unavailable(error),
            Call::Renew | Call::ChangePassword => ProviderError::uncertain(error),
        }
    }

    /// The status says that it was done, and the rest of the answer is none.
    fn unreadable(self, error: BoxError) -> ProviderError {
        match self {
            Call::Login | Call::Logout => ProviderError::protocol(error),
            Call::Renew | Call::ChangePassword => ProviderError::uncertain(error),
        }
    }

    fn failed(self, status: StatusCode, named: &[u16]) -> ProviderError {
        let error = BoxError::from(format!("the server answered with {status}"));
        if named.contains(&status.as_u16()) {
            return match self {
                Call::Login => ProviderError::refused(error),
                Call::Renew | Call::Logout | Call::ChangePassword => {
                    ProviderError::token_rejected(error)
                }
            };
        }
        match status {
            StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                ProviderError::unavailable(error)
            }
            // A proxy says so too when it lost patience with the server behind it.
            StatusCode::REQUEST_TIMEOUT => self.lost(error),
            _ if status.is_server_error() => self.lost(error),
            _ => match self {
                Call::Login => ProviderError::protocol(error).with_retry_after(NOT_SOON),
                Call::Logout => ProviderError::protocol(error),
                Call::Renew if status.is_client_error() => ProviderError::protocol(error),
                Call::ChangePassword if status.is_client_error() => ProviderError::refused(error),
                Call::Renew | Call::ChangePassword => ProviderError::uncertain(error),
            },
        }
    }
}

/// Whether nobody listened, so that no byte of the request was sent.
///
/// Other failures of a connection cannot be told from those of a request that
/// was sent: the transport's error types are its own.
pub(crate) fn was_not_sent(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                return true;
            }
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use http_body_util::Full;

    use super::*;
    use crate::provider::ProviderErrorKind::{self, *};

    const CALLS: [Call; 4] = [Call::Login, Call::Renew, Call::Logout, Call::ChangePassword];

    async fn answered(call: Call, status: u16) -> Result<Reply, ProviderError> {
        let http = tower::service_fn(move |_: Request<()>| {
            let response = Response::builder().status(status);
            let response = response.header(header::RETRY_AFTER, "7");
            ready(response.body(Full::<Bytes>::from("body")))
        });
        exchange(call, &http, Request::new(()), &[401]).await
    }

    #[tokio::test]
    async fn each_status_is_what_the_table_says() {
        let rows: [(&[u16], [ProviderErrorKind; 4]); 5] = [
            (
                &[401],
                [Refused, TokenRejected, TokenRejected, TokenRejected],
            ),
            (&[425, 429], [Unavailable; 4]),
            (
                &[408, 500, 503],
                [Unavailable, Uncertain, Unavailable, Uncertain],
            ),
            (
                &[400, 403, 404, 409],
                [Protocol, Protocol, Protocol, Refused],
            ),
            (&[302, 304], [Protocol, Uncertain, Protocol, Uncertain]),
        ];
        for (statuses, kinds) in rows {
            for status in statuses {
                for (call, kind) in CALLS.into_iter().zip(kinds) {
                    let error = answered(call, *status).await.unwrap_err();
                    assert_eq!(error.kind(), kind, "{status}");
                    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
                }
            }
        }
        let reply = answered(Call::Login, 204).await.unwrap();
        assert_eq!(
            (reply.status(), reply.body()),
            (StatusCode::NO_CONTENT, &b"body"[..])
        );
    }

    #[tokio::test]
    async fn a_lost_answer_is_uncertain_for_a_change_and_a_refused_connection_is_not() {
        for (lost, kinds) in [
            (
                io::ErrorKind::ConnectionReset,
                [Unavailable, Uncertain, Unavailable, Uncertain],
            ),
            (io::ErrorKind::ConnectionRefused, [Unavailable; 4]),
        ] {
            let http = tower::service_fn(move |_: Request<()>| {
                ready(Err::<Response<Full<Bytes>>, _>(io::Error::from(lost)))
            });
            for (call, kind) in CALLS.into_iter().zip(kinds) {
                let answer = exchange(call, &http, Request::new(()), &[]).await;
                assert_eq!(answer.unwrap_err().kind(), kind, "{lost}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_bound() {
        for (more, fits) in [(0, true), (1, false)] {
            let http = tower::service_fn(move |_: Request<()>| {
                let body = Full::new(Bytes::from(vec![b'x'; MAX_REPLY + more]));
                ready(Ok::<_, io::Error>(Response::new(body)))
            });
            let reply = login(&http, Request::new(()), &[]).await;
            assert_eq!(reply.map_err(|error| error.kind()).is_ok(), fits);
        }
    }

    #[test]
    fn a_form_is_encoded_in_a_buffer_that_never_grows() {
        let form = form(&[("user name", "ü+&="), ("p", "*-._aZ9")]);
        assert_eq!(form, "user+name=%C3%BC%2B%26%3D&p=*-._aZ9");
    }

    #[test]
    fn basic_is_what_the_rfc_says() {
        for (user, password, encoded) in [
            (
                "Aladdin",
                "open sesame",
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ),
            ("test", "123£", "Basic dGVzdDoxMjPCow=="),
            ("a", "b", "Basic YTpi"),
            ("", "", "Basic Og=="),
            ("ab", "c", "Basic YWI6Yw=="),
            ("ab", "cd", "Basic YWI6Y2Q="),
        ] {
            let value = basic(&Credentials::new(user, password));
            assert_eq!(value, encoded);
            assert!(value.is_sensitive());
        }
    }

    #[test]
    fn the_last_cookie_of_a_name_is_read_without_its_attributes() {
        let set = |value| (header::SET_COOKIE, HeaderValue::from_static(value));
        let reply = Reply {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([
                set("sid=old; Path=/"),
                set("other=1"),
                set("sid=a=b; HttpOnly"),
            ]),
            body: Zeroizing::default(),
        };
        assert_eq!(reply.cookie("sid").unwrap().expose_secret(), "a=b");
        assert_eq!(reply.cookie("SID").unwrap_err().kind(), Protocol);
        assert_eq!(reply.header("x-token").unwrap_err().kind(), Protocol);
    }
}
