//! Clauses, and the classification of a response by them.

use std::fmt;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, StatusCode};

use crate::header::expect_name;

/// Which responses reject the token: data, not code.
///
/// A rejection is a list of clauses. A response that meets any of them rejects the
/// token. The default is one clause, status 401.
///
/// # Sure and unsure
///
/// A server that rejects a request has not executed it, so the request may be
/// replayed, whatever its method. A 5xx may come from a nested call, after the
/// request was executed, and a closure may look at anything. These clauses are
/// *unsure*: they refresh the token, but only requests with an idempotent method
/// (RFC 9110, section 9.2.2) are replayed, unless the clause is declared
/// [`sure`](Rejection::sure).
///
/// ```
/// use http::StatusCode;
/// use tower_reauth::Rejection;
///
/// let control_m = Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
///     StatusCode::INTERNAL_SERVER_ERROR,
///     "Session token is invalid or expired",
///     4096,
/// );
/// ```
#[derive(Clone)]
#[must_use]
pub struct Rejection {
    // Shared by a provider and its sessions.
    clauses: Arc<[Clause]>,
}

#[derive(Clone)]
struct Clause {
    condition: Condition,
    sure: bool,
}

#[derive(Clone)]
enum Condition {
    Status(StatusCode),
    BodyContains {
        status: StatusCode,
        text: String,
        within: usize,
    },
    Header(HeaderName, HeaderValue),
    When(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

/// Whether a rejected request may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// It was not executed.
    Sure,
    /// It may have been.
    Unsure,
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
}

impl Rejection {
    /// Creates a rejection with one clause: a response with this status.
    pub fn status(status: StatusCode) -> Self {
        Self::of(Condition::Status(status))
    }

    /// Creates a rejection with one clause: a response with this status whose body
    /// contains `text` in its first `within` bytes.
    ///
    /// The body of a response with that status is read up to there, for at most two
    /// seconds, before the response is returned. Nothing of it is lost. Any body
    /// contains an empty `text`.
    pub fn body_contains(status: StatusCode, text: impl Into<String>, within: usize) -> Self {
        Self::of(Condition::BodyContains {
            status,
            text: text.into(),
            within,
        })
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
        Self::of(Condition::Header(expect_name(name), value))
    }

    /// Creates a rejection with one clause: a response for whose head `is_rejection`
    /// returns `true`.
    ///
    /// It is called for each response, so it should be fast.
    pub fn when(is_rejection: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self::of(Condition::When(Arc::new(is_rejection)))
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

    /// Adds the clause of [`Rejection::when`].
    pub fn or_when(self, is_rejection: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.or(&Self::when(is_rejection))
    }

    /// Declares that a request rejected by the last added clause was never executed,
    /// so that it may be replayed whatever its method.
    pub fn sure(mut self) -> Self {
        if let Some(last) = Arc::make_mut(&mut self.clauses).last_mut() {
            last.sure = true;
        }
        self
    }

    /// Returns whether any response of this status is accepted.
    #[inline]
    pub(crate) fn accepts_status(&self, status: StatusCode) -> bool {
        self.clauses.iter().all(|clause| match &clause.condition {
            Condition::Status(other) | Condition::BodyContains { status: other, .. } => {
                *other != status
            }
            Condition::Header(..) | Condition::When(_) => false,
        })
    }

    /// Returns whether no rejection is unsure.
    pub(crate) fn is_sure(&self) -> bool {
        self.clauses.iter().all(|clause| {
            let status = match &clause.condition {
                Condition::Status(status) | Condition::BodyContains { status, .. } => *status,
                // Any status may come with it.
                Condition::Header(..) | Condition::When(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            matches!(clause.certainty(status), Certainty::Sure)
        })
    }

    /// Classifies a response by its head.
    #[inline]
    pub(crate) fn classify(&self, head: &Parts) -> Verdict {
        self.classify_with(head, None)
    }

    /// Classifies a response by its head and the start of its body.
    pub(crate) fn classify_body(&self, head: &Parts, start: &[u8]) -> Verdict {
        self.classify_with(head, Some(start))
    }

    fn classify_with(&self, head: &Parts, start: Option<&[u8]>) -> Verdict {
        let mut unsure = false;
        let mut needed = None;
        for clause in self.clauses.iter() {
            let met = match &clause.condition {
                Condition::Status(status) => *status == head.status,
                Condition::Header(name, value) => head
                    .headers
                    .get_all(name)
                    .iter()
                    .any(|other| other == value),
                Condition::When(is_rejection) => is_rejection(head),
                Condition::BodyContains { status, .. } if *status != head.status => false,
                Condition::BodyContains { text, within, .. } => match start {
                    Some(start) => contains(&start[..start.len().min(*within)], text.as_bytes()),
                    None => {
                        needed = needed.max(Some(*within));
                        false
                    }
                },
            };
            if met {
                match clause.certainty(head.status) {
                    Certainty::Sure => return Verdict::Rejected(Certainty::Sure),
                    Certainty::Unsure => unsure = true,
                }
            }
        }
        match needed {
            Some(bytes) => Verdict::NeedsBody { bytes },
            None if unsure => Verdict::Rejected(Certainty::Unsure),
            None => Verdict::Accepted,
        }
    }

    fn of(condition: Condition) -> Self {
        Self {
            clauses: Arc::new([Clause {
                condition,
                sure: false,
            }]),
        }
    }

    fn or(mut self, other: &Self) -> Self {
        let clauses = self.clauses.iter().chain(other.clauses.iter());
        self.clauses = clauses.cloned().collect();
        self
    }
}

impl Clause {
    fn certainty(&self, status: StatusCode) -> Certainty {
        let guess = match self.condition {
            Condition::When(_) => true,
            Condition::Status(_) | Condition::BodyContains { .. } | Condition::Header(..) => {
                status.is_server_error()
            }
        };
        match guess && !self.sure {
            true => Certainty::Unsure,
            false => Certainty::Sure,
        }
    }
}

impl Default for Rejection {
    fn default() -> Self {
        Self::status(StatusCode::UNAUTHORIZED)
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clauses.iter()).finish()
    }
}

impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.condition {
            Condition::Status(status) => write!(f, "status {status}")?,
            Condition::BodyContains {
                status,
                text,
                within,
            } => write!(
                f,
                "status {status} with {text:?} in the first {within} bytes"
            )?,
            Condition::Header(name, value) => write!(f, "{name}: {value:?}")?,
            Condition::When(_) => f.write_str("a closure")?,
        }
        f.write_str(if self.sure { " (sure)" } else { "" })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    fn head(status: u16, headers: &[(&str, &str)]) -> Parts {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    fn status(status: u16) -> StatusCode {
        StatusCode::from_u16(status).unwrap()
    }

    fn grpc() -> Rejection {
        Rejection::header("grpc-status", HeaderValue::from_static("16"))
    }

    #[test]
    fn a_401_is_a_sure_rejection_by_default_and_nothing_else_is_one() {
        let rejection = Rejection::default();
        assert_eq!(
            rejection.classify(&head(401, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
        for other in [200, 302, 400, 403, 500, 503] {
            assert_eq!(
                rejection.classify(&head(other, &[])),
                Verdict::Accepted,
                "{other}"
            );
        }
    }

    #[test]
    fn a_5xx_and_a_closure_are_unsure_unless_they_are_said_to_be_sure() {
        let by_status = Rejection::status(status(500));
        assert_eq!(
            by_status.classify(&head(500, &[])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            by_status.sure().classify(&head(500, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
        let by_closure = Rejection::when(|head| head.status == 419);
        assert_eq!(
            by_closure.classify(&head(419, &[])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            by_closure.sure().classify(&head(419, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
    }

    #[test]
    fn sure_is_said_of_the_last_clause_only() {
        let rejection = Rejection::status(status(500)).or_status(status(503)).sure();
        assert_eq!(
            rejection.classify(&head(500, &[])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            rejection.classify(&head(503, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
    }

    #[test]
    fn a_header_decides_whatever_the_status() {
        assert_eq!(
            grpc().classify(&head(200, &[("grpc-status", "0"), ("grpc-status", "16")])),
            Verdict::Rejected(Certainty::Sure)
        );
        assert_eq!(
            grpc().classify(&head(502, &[("grpc-status", "16")])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            grpc().classify(&head(200, &[("grpc-status", "7")])),
            Verdict::Accepted
        );
    }

    #[test]
    #[should_panic(expected = "invalid HTTP header name")]
    fn an_invalid_header_name_panics_where_it_is_written() {
        let _ = Rejection::header("no name", HeaderValue::from_static("16"));
    }

    #[test]
    fn any_clause_of_several_is_enough() {
        let rejection = Rejection::status(status(401))
            .or_header("grpc-status", HeaderValue::from_static("16"))
            .or_when(|head| head.status == 419);
        for (head, expected) in [
            (head(401, &[]), Certainty::Sure),
            (head(200, &[("grpc-status", "16")]), Certainty::Sure),
            (head(419, &[]), Certainty::Unsure),
        ] {
            assert_eq!(rejection.classify(&head), Verdict::Rejected(expected));
        }
    }

    #[test]
    fn a_body_is_asked_for_only_where_the_status_fits() {
        let rejection = Rejection::status(status(401))
            .or_body_contains(status(500), "expired", 64)
            .or_body_contains(status(500), "invalid", 32);
        assert_eq!(
            rejection.classify(&head(500, &[])),
            Verdict::NeedsBody { bytes: 64 }
        );
        assert_eq!(rejection.classify(&head(200, &[])), Verdict::Accepted);
        assert_eq!(
            rejection.classify(&head(401, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
    }

    #[test]
    fn a_text_counts_only_within_its_bound() {
        let rejection = Rejection::body_contains(status(500), "expired", 16);
        let head = head(500, &[]);
        assert_eq!(
            rejection.classify_body(&head, b"token expired"),
            Verdict::Rejected(Certainty::Unsure)
        );
        for other in ["the token is expired", "boom", ""] {
            assert_eq!(
                rejection.classify_body(&head, other.as_bytes()),
                Verdict::Accepted
            );
        }
    }

    #[test]
    fn an_unsure_head_stays_a_rejection_when_the_body_says_nothing() {
        let rejection = Rejection::when(|_| true).or_body_contains(status(500), "expired", 16);
        let head = head(500, &[]);
        assert_eq!(rejection.classify(&head), Verdict::NeedsBody { bytes: 16 });
        assert_eq!(
            rejection.classify_body(&head, b"boom"),
            Verdict::Rejected(Certainty::Unsure)
        );
    }

    #[test]
    fn only_methods_that_may_be_repeated_are_idempotent() {
        for method in [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ] {
            assert!(is_idempotent(&method), "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!is_idempotent(&method), "{method}");
        }
    }
}
