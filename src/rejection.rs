//! How a response says that the token is dead, and what a returned one carries.

use std::fmt;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, StatusCode};

use crate::Error;

/// How a server says that a token is no longer good: data, not code.
///
/// A rejection is a list of clauses, and a response that meets any of them is
/// a rejection. The default is one clause, status 401.
///
/// # Sure and unsure
///
/// A server that rejects a request has not executed it, so the request may be
/// sent again, whatever its method. A 5xx may come from deeper inside, after
/// the request was executed; and what a closure looks at is not ours to know.
/// These are *unsure*: they renew the token, but only requests of an
/// idempotent method (RFC 9110, section 9.2.2) are replayed, unless
/// [`Rejection::sure`] says that the clause can be relied on.
///
/// ```
/// use tower_reauth::Rejection;
///
/// let control_m = Rejection::status(401)
///     .or_body_contains(500, "Session token is invalid or expired", 4096);
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

/// How far a rejection can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// The request was not executed.
    Sure,
    /// It may have been.
    Unsure,
}

/// What the head of a response tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Rejected(Certainty),
    /// It depends on what stands within the first `bytes` of the body.
    Ask {
        bytes: usize,
    },
}

impl Rejection {
    /// A response with this status.
    ///
    /// # Panics
    ///
    /// If `status` is no HTTP status: it is below 100 or above 999.
    pub fn status(status: u16) -> Self {
        Self::of(Condition::Status(status_code(status)))
    }

    /// A response with this status whose body holds `text` within its first
    /// `within` bytes.
    ///
    /// The body of a response with that status is read up to there, for at
    /// most two seconds, before the response is handed on; nothing of it is
    /// lost. An empty `text` is found in any body.
    ///
    /// # Panics
    ///
    /// As [`Rejection::status`].
    pub fn body_contains(status: u16, text: impl Into<String>, within: usize) -> Self {
        Self::of(Condition::BodyContains {
            status: status_code(status),
            text: text.into(),
            within,
        })
    }

    /// A response, whatever its status, with this header of this value.
    pub fn header(name: HeaderName, value: HeaderValue) -> Self {
        Self::of(Condition::Header(name, value))
    }

    /// A response of whose head `is_rejection` says so.
    ///
    /// It is called for each response, so it should be quick.
    pub fn when(is_rejection: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self::of(Condition::When(Arc::new(is_rejection)))
    }

    /// Adds the clause of [`Rejection::status`].
    ///
    /// # Panics
    ///
    /// As [`Rejection::status`].
    pub fn or_status(self, status: u16) -> Self {
        self.or(&Self::status(status))
    }

    /// Adds the clause of [`Rejection::body_contains`].
    ///
    /// # Panics
    ///
    /// As [`Rejection::status`].
    pub fn or_body_contains(self, status: u16, text: impl Into<String>, within: usize) -> Self {
        self.or(&Self::body_contains(status, text, within))
    }

    /// Adds the clause of [`Rejection::header`].
    pub fn or_header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.or(&Self::header(name, value))
    }

    /// Adds the clause of [`Rejection::when`].
    pub fn or_when(self, is_rejection: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.or(&Self::when(is_rejection))
    }

    /// Says of the clause added last that a request it rejects was never
    /// executed, so that it may be replayed whatever its method.
    pub fn sure(mut self) -> Self {
        if let Some(last) = Arc::make_mut(&mut self.clauses).last_mut() {
            last.sure = true;
        }
        self
    }

    /// Whether a response of this status is accepted, whatever else it says.
    #[inline]
    pub(crate) fn plainly_accepts(&self, status: StatusCode) -> bool {
        self.clauses.iter().all(|clause| match &clause.condition {
            Condition::Status(other) | Condition::BodyContains { status: other, .. } => {
                *other != status
            }
            Condition::Header(..) | Condition::When(_) => false,
        })
    }

    /// What the head of a response tells.
    #[inline]
    pub(crate) fn judge(&self, head: &Parts) -> Verdict {
        self.weigh(head, None)
    }

    /// What a response tells whose head left it open, by the start of its body.
    pub(crate) fn judge_body(&self, head: &Parts, start: &[u8]) -> Verdict {
        self.weigh(head, Some(start))
    }

    fn weigh(&self, head: &Parts, start: Option<&[u8]>) -> Verdict {
        let mut unsure = false;
        let mut ask = None;
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
                        ask = ask.max(Some(*within));
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
        match ask {
            Some(bytes) => Verdict::Ask { bytes },
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
        Self::status(401)
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

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("an HTTP status is between 100 and 999")
}

/// Returns whether `needle` occurs in `haystack`.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty()
        || haystack
            .windows(needle.len())
            .any(|window| window == needle)
}

/// Whether sending a request twice does no more than sending it once (RFC
/// 9110, section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    method.is_safe() || matches!(*method, Method::PUT | Method::DELETE)
}

/// An extension of a response that rejects the token and is returned all the
/// same: which token it was, and why nothing more could be done.
///
/// ```
/// use http::Response;
/// use tower_reauth::{Reauth, Why};
///
/// fn explain<B>(response: &Response<B>) -> &'static str {
///     match response.extensions().get::<Reauth>().map(|reauth| &reauth.why) {
///         None => "not a rejection",
///         Some(Why::StillRejected) => "a fresh token is rejected too: a permission is missing",
///         Some(Why::NotReplayable) => "the body cannot be sent twice; the next request has a new token",
///         Some(_) => "see the docs of `Why`",
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reauth {
    /// The generation of the token that the response rejects.
    pub generation: u64,
    /// Whether the request was sent a second time before.
    pub replayed: bool,
    /// Why the rejection is returned.
    pub why: Why,
}

/// Why a rejection is returned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Why {
    /// The request's body cannot be sent again. The token is being renewed for
    /// the next request: a caller that can make the request anew may do so.
    NotReplayable,
    /// The request may have been executed and its method is not idempotent.
    /// The token is being renewed for the next request.
    Unsure,
    /// A renewal did not help this target lately, or several did not help
    /// others. Nothing was renewed.
    CoolingDown,
    /// The token could not be renewed, for this reason. Nothing was replayed.
    RenewalFailed(Error),
    /// The request was replayed with a new token, and that was rejected too;
    /// or the login system gave the same token once more. The user most likely
    /// lacks a permission.
    StillRejected,
    /// The session was logged out while the request was under way.
    LoggedOut,
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

    fn grpc() -> Rejection {
        Rejection::header(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("16"),
        )
    }

    #[test]
    fn a_401_is_a_sure_rejection_by_default_and_nothing_else_is_one() {
        let rejection = Rejection::default();
        assert_eq!(
            rejection.judge(&head(401, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
        for other in [200, 302, 400, 403, 500, 503] {
            assert_eq!(
                rejection.judge(&head(other, &[])),
                Verdict::Accepted,
                "{other}"
            );
        }
    }

    #[test]
    fn a_5xx_and_a_closure_are_unsure_unless_they_are_said_to_be_sure() {
        let by_status = Rejection::status(500);
        assert_eq!(
            by_status.judge(&head(500, &[])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            by_status.sure().judge(&head(500, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
        let by_closure = Rejection::when(|head| head.status == 419);
        assert_eq!(
            by_closure.judge(&head(419, &[])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            by_closure.sure().judge(&head(419, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
    }

    #[test]
    fn sure_is_said_of_the_last_clause_only() {
        let rejection = Rejection::status(500).or_status(503).sure();
        assert_eq!(
            rejection.judge(&head(500, &[])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            rejection.judge(&head(503, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
    }

    #[test]
    fn a_header_decides_whatever_the_status() {
        assert_eq!(
            grpc().judge(&head(200, &[("grpc-status", "0"), ("grpc-status", "16")])),
            Verdict::Rejected(Certainty::Sure)
        );
        assert_eq!(
            grpc().judge(&head(502, &[("grpc-status", "16")])),
            Verdict::Rejected(Certainty::Unsure)
        );
        assert_eq!(
            grpc().judge(&head(200, &[("grpc-status", "7")])),
            Verdict::Accepted
        );
    }

    #[test]
    fn what_is_no_status_panics_where_it_is_written() {
        let panics = |status| std::panic::catch_unwind(|| Rejection::status(status)).is_err();
        assert!(panics(99) && panics(1000));
        assert!(!panics(100) && !panics(999));
        let in_a_clause = || Rejection::default().or_body_contains(0, "x", 1);
        assert!(std::panic::catch_unwind(in_a_clause).is_err());
        let in_a_clause = || Rejection::default().or_status(1000);
        assert!(std::panic::catch_unwind(in_a_clause).is_err());
    }

    #[test]
    fn any_clause_of_several_is_enough() {
        let rejection = Rejection::status(401)
            .or_header(
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("16"),
            )
            .or_when(|head| head.status == 419);
        for (head, expected) in [
            (head(401, &[]), Certainty::Sure),
            (head(200, &[("grpc-status", "16")]), Certainty::Sure),
            (head(419, &[]), Certainty::Unsure),
        ] {
            assert_eq!(rejection.judge(&head), Verdict::Rejected(expected));
        }
    }

    #[test]
    fn a_body_is_asked_for_only_where_the_status_fits() {
        let rejection = Rejection::status(401)
            .or_body_contains(500, "expired", 64)
            .or_body_contains(500, "invalid", 32);
        assert_eq!(rejection.judge(&head(500, &[])), Verdict::Ask { bytes: 64 });
        assert_eq!(rejection.judge(&head(200, &[])), Verdict::Accepted);
        assert_eq!(
            rejection.judge(&head(401, &[])),
            Verdict::Rejected(Certainty::Sure)
        );
    }

    #[test]
    fn a_text_counts_only_within_its_bound() {
        let rejection = Rejection::body_contains(500, "expired", 16);
        let head = head(500, &[]);
        assert_eq!(
            rejection.judge_body(&head, b"token expired"),
            Verdict::Rejected(Certainty::Unsure)
        );
        for other in ["the token is expired", "boom", ""] {
            assert_eq!(
                rejection.judge_body(&head, other.as_bytes()),
                Verdict::Accepted
            );
        }
    }

    #[test]
    fn an_unsure_head_stays_a_rejection_when_the_body_says_nothing() {
        let rejection = Rejection::when(|_| true).or_body_contains(500, "expired", 16);
        let head = head(500, &[]);
        assert_eq!(rejection.judge(&head), Verdict::Ask { bytes: 16 });
        assert_eq!(
            rejection.judge_body(&head, b"boom"),
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
