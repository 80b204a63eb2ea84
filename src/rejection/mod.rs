//! Clauses, and the classification of a response by them.

pub(crate) mod challenge;
mod clause;
mod login_page;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, LazyLock};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, StatusCode};

pub(crate) use self::clause::Certainty;
use self::clause::{Clause, HeaderCondition, Place, Statuses};
use self::login_page::LoginPage;
use crate::header::expect_name;

/// Which responses reject the token: data, not code.
///
/// A rejection is a list of clauses. A response that meets any of them rejects the
/// token. The default is one clause, status 401.
///
/// | clause | meets a response |
/// |---|---|
/// | [`status`](Self::status) | with this status |
/// | [`challenge_error`](Self::challenge_error) | with this `error` in a challenge (`WWW-Authenticate`) |
/// | [`header`](Self::header), [`header_contains`](Self::header_contains) | with this header, or a part of it |
/// | [`redirect_to`](Self::redirect_to) | that redirects to the login page |
/// | [`body_contains`](Self::body_contains) | with this status and text |
/// | [`trailer`](Self::trailer) | with this trailer field behind its body |
/// | [`when`](Self::when) | for whose head a closure returns `true` |
///
/// [`and_header`](Self::and_header) and [`and_header_contains`](Self::and_header_contains)
/// narrow the last clause.
///
/// # Sure and unsure
///
/// A server that rejects a request has not executed it, so the request may be
/// replayed, whatever its method. A 5xx may come from a nested call, after the
/// request was executed; a redirect to the login page may follow a request that ended
/// the session; and a closure may look at anything. These clauses are *unsure*: they
/// refresh the token, but only requests with an idempotent method (RFC 9110, section
/// 9.2.2) are replayed, unless the clause is declared [`sure`](Rejection::sure).
///
/// # Compressed bodies
///
/// The text of a compressed body cannot be searched. If a response with such a
/// `Content-Encoding` arrives where a [`body_contains`](Self::body_contains) clause
/// has to read the body, the response is returned as it is, and the first time this is
/// logged at WARN. Decompress inside the session layer:
///
/// ```
/// # use std::convert::Infallible;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use tower::{ServiceBuilder, service_fn};
/// # use tower_http::decompression::DecompressionLayer;
/// # use tower_reauth::{FixedToken, Profile, Session};
/// # type Body = Full<bytes::Bytes>;
/// # let session = Session::new(FixedToken::bearer(Profile::default(), "3f9a"));
/// # let http = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::default())) });
/// let client = ServiceBuilder::new()
///     .layer(session.layer())
///     .layer(DecompressionLayer::new())
///     .service(http);
/// ```
///
/// # Examples
///
/// ```
/// use http::header::{CONTENT_TYPE, HeaderValue};
/// use http::StatusCode;
/// use tower_reauth::Rejection;
///
/// let control_m = Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
///     StatusCode::INTERNAL_SERVER_ERROR,
///     "Session token is invalid or expired",
///     4096,
/// );
///
/// // OAuth 2: a token without the scope of a request is not dead (RFC 6750, section 3.1).
/// let oauth = Rejection::challenge_error("invalid_token");
///
/// // gRPC: the status of a call without messages is in the head.
/// let unauthenticated = HeaderValue::from_static("16");
/// let grpc = Rejection::status(StatusCode::UNAUTHORIZED)
///     .or_header("grpc-status", unauthenticated.clone())
///     .or_trailer("grpc-status", unauthenticated);
///
/// // A web application without an API: its login page, by a redirect or at once.
/// let pages = Rejection::redirect_to("/login")
///     .or_body_contains(StatusCode::OK, r#"<form id="login""#, 4096)
///     .and_header_contains(CONTENT_TYPE, "text/html");
/// ```
#[derive(Clone)]
#[must_use]
pub struct Rejection {
    // Shared by a provider and its sessions.
    clauses: Arc<[Clause]>,
}

/// The classification of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Rejected(Certainty),
    /// It depends on the first `bytes` of the body.
    NeedsBody {
        bytes: usize,
    },
    /// It depends on a part of the body that cannot be read.
    Unknown,
}

/// The part of a body that was read before its response is classified.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// As many bytes as a clause has asked for, or the whole body.
    Complete(&'a [u8]),
    /// The rest came too late, was lost, or cannot be read.
    Partial(&'a [u8]),
}

impl Rejection {
    /// Creates a rejection with one clause: a response with this status.
    pub fn status(status: StatusCode) -> Self {
        Self::of(Clause::new(Statuses::One(status), Place::Head))
    }

    /// Creates a rejection with one clause: a response with this status whose body
    /// contains `text` in its first `within` bytes.
    ///
    /// The body of a response with that status is read up to there, for at most two
    /// seconds, before the response is returned. Nothing of it is lost. Any body
    /// contains an empty `text`. If the text cannot be searched (the body is
    /// [compressed](Self#compressed-bodies), breaks off or is slower than that, or the
    /// method is `HEAD`), the response counts neither as a rejection nor as a sign that
    /// the token is good.
    pub fn body_contains(status: StatusCode, text: impl Into<String>, within: usize) -> Self {
        let text = text.into();
        Self::of(Clause::new(
            Statuses::One(status),
            Place::Body { text, within },
        ))
    }

    /// Creates a rejection with one clause: a response, whatever its status, with
    /// this header and value.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn header<N>(name: N, value: HeaderValue) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        Self::of(Clause::new(Statuses::Any, Place::Head)).and_header(name, value)
    }

    /// Creates a rejection with one clause: a response, whatever its status, with this
    /// header and a value that contains `text`. ASCII letters match in either case.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn header_contains<N>(name: N, text: impl Into<String>) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        Self::of(Clause::new(Statuses::Any, Place::Head)).and_header_contains(name, text)
    }

    /// Creates a rejection with one clause: a 4xx with a challenge in `WWW-Authenticate`
    /// whose `error` parameter is `error`, such as `invalid_token` (RFC 6750, section
    /// 3.1). The server may have sent several challenges, in one header or in several
    /// (RFC 9110, section 11.6.1).
    ///
    /// ```
    /// use tower_reauth::Rejection;
    ///
    /// let rejection = Rejection::challenge_error("invalid_token")
    ///     .or_challenge_error("insufficient_user_authentication"); // RFC 9470
    /// ```
    pub fn challenge_error(error: impl Into<String>) -> Self {
        let condition = HeaderCondition::ChallengeError(error.into());
        Self::of(Clause::new(Statuses::ClientErrors, Place::Head)).and(condition)
    }

    /// Creates a rejection with one clause: a 3xx whose `Location` is `page`, or a page
    /// below it. The query does not matter.
    ///
    /// `page` is a path, which matches on any host, or a whole `http` or `https` URI, which
    /// matches only a `Location` that names its host. A relative `Location` is compared
    /// with the end of the path. The clause is
    /// [unsure](Self#sure-and-unsure): a server may also redirect to the login page after
    /// a request that it has executed, such as a logout.
    ///
    /// # Panics
    ///
    /// If `page` is neither a path that begins with `/` nor such a URI.
    pub fn redirect_to(page: impl AsRef<str>) -> Self {
        let page = page.as_ref();
        let Some(login_page) = LoginPage::new(page) else {
            panic!("neither a path that begins with `/` nor an http(s) URI: {page:?}");
        };
        let condition = HeaderCondition::RedirectTo(login_page);
        Self::of(Clause::new(Statuses::Redirections, Place::Head)).and(condition)
    }

    /// Creates a rejection with one clause: a response, whatever its status, with this
    /// trailer field behind its body (RFC 9110, section 6.5).
    ///
    /// When the trailers arrive, the caller has the response already, so the request is
    /// not replayed: the token is refreshed for the next one. A response proves the token
    /// only once its body was read to the end. With such a clause each response leaves the
    /// fast path and costs an allocation, unless its body is empty, and a token that was refreshed ahead of time replaces the old one
    /// when that expires or is rejected.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn trailer<N>(name: N, value: HeaderValue) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        Self::of(Clause::new(Statuses::Any, Place::Trailers)).and_header(name, value)
    }

    /// Creates a rejection with one clause: a response for whose head `is_rejection`
    /// returns `true`.
    ///
    /// It is called for each response, so it should be fast.
    pub fn when(is_rejection: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        let closure = Place::When(Arc::new(is_rejection));
        Self::of(Clause::new(Statuses::Any, closure))
    }

    /// Adds the clause of [`Rejection::status`].
    pub fn or_status(self, status: StatusCode) -> Self {
        self.or(&Self::status(status))
    }

    /// Adds the clause of [`Rejection::body_contains`].
    pub fn or_body_contains(
        self,
        status: StatusCode,
        text: impl Into<String>,
        within: usize,
    ) -> Self {
        self.or(&Self::body_contains(status, text, within))
    }

    /// Adds the clause of [`Rejection::header`].
    ///
    /// # Panics
    ///
    /// As [`Rejection::header`].
    pub fn or_header<N>(self, name: N, value: HeaderValue) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.or(&Self::header(name, value))
    }

    /// Adds the clause of [`Rejection::header_contains`].
    ///
    /// # Panics
    ///
    /// As [`Rejection::header_contains`].
    pub fn or_header_contains<N>(self, name: N, text: impl Into<String>) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.or(&Self::header_contains(name, text))
    }

    /// Adds the clause of [`Rejection::challenge_error`].
    pub fn or_challenge_error(self, error: impl Into<String>) -> Self {
        self.or(&Self::challenge_error(error))
    }

    /// Adds the clause of [`Rejection::redirect_to`].
    ///
    /// # Panics
    ///
    /// As [`Rejection::redirect_to`].
    pub fn or_redirect_to(self, page: impl AsRef<str>) -> Self {
        self.or(&Self::redirect_to(page))
    }

    /// Adds the clause of [`Rejection::trailer`].
    ///
    /// # Panics
    ///
    /// As [`Rejection::trailer`].
    pub fn or_trailer<N>(self, name: N, value: HeaderValue) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.or(&Self::trailer(name, value))
    }

    /// Adds the clause of [`Rejection::when`].
    pub fn or_when(self, is_rejection: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.or(&Self::when(is_rejection))
    }

    /// Narrows the last clause to responses that also have this header and value. If that
    /// is a [`trailer`](Self::trailer) clause, both fields are trailers.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn and_header<N>(self, name: N, value: HeaderValue) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.and(HeaderCondition::Is(expect_name(name), value))
    }

    /// Narrows the last clause to responses that also have this header and a value that
    /// contains `text`. ASCII letters match in either case. If that is a
    /// [`trailer`](Self::trailer) clause, both fields are trailers.
    ///
    /// A [`body_contains`](Self::body_contains) clause then reads only the bodies of
    /// those responses.
    ///
    /// ```
    /// use http::StatusCode;
    /// use http::header::CONTENT_TYPE;
    /// use tower_reauth::Rejection;
    ///
    /// let login_page = Rejection::body_contains(StatusCode::OK, r#"<form id="login""#, 4096)
    ///     .and_header_contains(CONTENT_TYPE, "text/html");
    /// ```
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn and_header_contains<N>(self, name: N, text: impl Into<String>) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.and(HeaderCondition::Contains(expect_name(name), text.into()))
    }

    /// Declares that a request rejected by the last added clause was never executed,
    /// so that it may be replayed whatever its method.
    pub fn sure(mut self) -> Self {
        if let Some(last) = self.last() {
            last.sure = true;
        }
        self
    }

    /// Returns whether any response of this status is accepted, whatever its headers,
    /// body and trailers.
    #[inline]
    pub(crate) fn accepts_status(&self, status: StatusCode) -> bool {
        let mut clauses = self.clauses.iter();
        clauses.all(|clause| !clause.statuses.contain(status))
    }

    /// Returns whether any response with a status of 2xx is accepted.
    pub(crate) fn accepts_success(&self) -> bool {
        let mut successes = (200..300).filter_map(|status| StatusCode::from_u16(status).ok());
        successes.all(|status| self.accepts_status(status))
    }

    /// Returns whether a request with any method can be replayed after each rejection.
    pub(crate) fn is_sure(&self) -> bool {
        let mut clauses = self.clauses.iter();
        clauses.all(|clause| clause.worst_certainty() == Certainty::Sure)
    }

    /// Returns whether a rejection may come behind the body of a response.
    pub(crate) fn reads_trailers(&self) -> bool {
        self.clauses.iter().any(Clause::reads_trailers)
    }

    /// Returns whether the trailers of a response reject the token.
    pub(crate) fn rejects_trailers(&self, trailers: &HeaderMap) -> bool {
        let mut clauses = self.clauses.iter();
        clauses.any(|clause| clause.reads_trailers() && clause.meets_headers(trailers))
    }

    /// Classifies a response by its head.
    #[inline]
    pub(crate) fn classify(&self, head: &Parts) -> Verdict {
        self.classify_with(head, None)
    }

    /// Classifies a response by its head and the start of its body.
    pub(crate) fn classify_body(&self, head: &Parts, start: Start<'_>) -> Verdict {
        self.classify_with(head, Some(start))
    }

    fn classify_with(&self, head: &Parts, start: Option<Start<'_>>) -> Verdict {
        let mut unsure = false;
        let mut needed = None;
        for clause in self.clauses.iter().filter(|clause| clause.meets_head(head)) {
            let met = match (&clause.place, start) {
                (Place::Head | Place::When(_), _) => true,
                (Place::Trailers, _) => false,
                (Place::Body { within, .. }, None) => {
                    needed = needed.max(Some(*within));
                    false
                }
                (Place::Body { text, within }, Some(start)) => {
                    let (Start::Complete(bytes) | Start::Partial(bytes)) = start;
                    let met = contains(&bytes[..bytes.len().min(*within)], text.as_bytes());
                    if let Start::Partial(_) = start
                        && bytes.len() < *within
                    {
                        needed = needed.max(Some(*within));
                    }
                    met
                }
            };
            if met {
                match clause.certainty(head.status) {
                    Certainty::Sure => return Verdict::Rejected(Certainty::Sure),
                    Certainty::Unsure => unsure = true,
                }
            }
        }
        match (needed, start) {
            (Some(bytes), None) => Verdict::NeedsBody { bytes },
            _ if unsure => Verdict::Rejected(Certainty::Unsure),
            (Some(_), Some(_)) => Verdict::Unknown,
            (None, _) => Verdict::Accepted,
        }
    }

    fn of(clause: Clause) -> Self {
        Self {
            clauses: Arc::new([clause]),
        }
    }

    fn or(mut self, other: &Self) -> Self {
        let clauses = self.clauses.iter().chain(other.clauses.iter());
        self.clauses = clauses.cloned().collect();
        self
    }

    fn and(mut self, condition: HeaderCondition) -> Self {
        if let Some(last) = self.last() {
            last.headers.push(condition);
        }
        self
    }

    /// There is none in a rejection by an empty list of statuses.
    fn last(&mut self) -> Option<&mut Clause> {
        Arc::make_mut(&mut self.clauses).last_mut()
    }
}

impl Default for Rejection {
    fn default() -> Self {
        /// Shared by all sessions that have no other.
        static UNAUTHORIZED: LazyLock<Rejection> =
            LazyLock::new(|| Rejection::status(StatusCode::UNAUTHORIZED));

        UNAUTHORIZED.clone()
    }
}

impl From<StatusCode> for Rejection {
    fn from(status: StatusCode) -> Self {
        Self::status(status)
    }
}

/// A response with any of these statuses.
impl From<&[StatusCode]> for Rejection {
    fn from(statuses: &[StatusCode]) -> Self {
        let clauses = statuses.iter();
        let clause = |status: &StatusCode| Clause::new(Statuses::One(*status), Place::Head);
        Self {
            clauses: clauses.map(clause).collect(),
        }
    }
}

/// A response with any of these statuses.
impl<const N: usize> From<&[StatusCode; N]> for Rejection {
    fn from(statuses: &[StatusCode; N]) -> Self {
        Self::from(statuses.as_slice())
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clauses.iter()).finish()
    }
}

/// Returns whether a response of this status, which is not a rejection, proves that the
/// token is good. A server that is overloaded or broken may not have looked at it.
pub(crate) fn is_proof(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

/// Returns whether `needle` occurs in `haystack`.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty()
        || haystack
            .windows(needle.len())
            .any(|window| window == needle)
}

/// Returns whether a method is idempotent: sending a request twice has the same
/// effect as sending it once (RFC 9110, section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    method.is_safe() || matches!(*method, Method::PUT | Method::DELETE)
}
