//! One clause of a rejection: a response meets it if it meets each of its conditions.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::response::Parts;

use super::challenge;
use super::login_page::LoginPage;

#[derive(Clone)]
pub(super) struct Clause {
    pub(super) statuses: Statuses,
    pub(super) headers: Vec<HeaderCondition>,
    pub(super) place: Place,
    pub(super) sure: bool,
}

/// The statuses of the responses that may meet a clause.
#[derive(Clone, Copy)]
pub(super) enum Statuses {
    Any,
    One(StatusCode),
    Redirections,
    ClientErrors,
}

/// Where a clause looks besides the status.
#[derive(Clone)]
pub(super) enum Place {
    /// In the headers.
    Head,
    /// In the head, by a closure.
    When(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
    /// In the headers and in the start of the body.
    Body { text: String, within: usize },
    /// In the trailers.
    Trailers,
}

/// A condition on headers or trailers.
#[derive(Clone)]
pub(super) enum HeaderCondition {
    Is(HeaderName, HeaderValue),
    Contains(HeaderName, String),
    ChallengeError(String),
    RedirectTo(LoginPage),
}

/// Whether a rejected request may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// It was not executed.
    Sure,
    /// It may have been.
    Unsure,
}

impl Statuses {
    #[inline]
    pub(super) fn contain(self, status: StatusCode) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => one == status,
            Self::Redirections => status.is_redirection(),
            Self::ClientErrors => status.is_client_error(),
        }
    }
}

impl Clause {
    pub(super) fn new(statuses: Statuses, place: Place) -> Self {
        Self {
            statuses,
            headers: Vec::new(),
            place,
            sure: false,
        }
    }

    pub(super) fn reads_trailers(&self) -> bool {
        matches!(self.place, Place::Trailers)
    }

    /// Returns whether a response meets each condition on its head.
    #[inline]
    pub(super) fn meets_head(&self, head: &Parts) -> bool {
        if !self.statuses.contain(head.status) {
            return false;
        }
        match &self.place {
            Place::Head | Place::Body { .. } => self.meets_headers(&head.headers),
            Place::When(is_rejection) => is_rejection(head) && self.meets_headers(&head.headers),
            Place::Trailers => true,
        }
    }

    pub(super) fn meets_headers(&self, headers: &HeaderMap) -> bool {
        self.headers
            .iter()
            .all(|condition| condition.is_met(headers))
    }

    /// Returns the certainty of a rejection by this clause with this status.
    pub(super) fn certainty(&self, status: StatusCode) -> Certainty {
        let is_guess = matches!(self.place, Place::When(_))
            || matches!(self.statuses, Statuses::Redirections)
            || status.is_server_error();
        match is_guess && !self.sure {
            true => Certainty::Unsure,
            false => Certainty::Sure,
        }
    }

    /// Returns the certainty of the least certain rejection by this clause.
    pub(super) fn worst_certainty(&self) -> Certainty {
        self.certainty(match self.statuses {
            Statuses::One(status) => status,
            Statuses::Any => StatusCode::INTERNAL_SERVER_ERROR,
            Statuses::Redirections => StatusCode::FOUND,
            Statuses::ClientErrors => StatusCode::UNAUTHORIZED,
        })
    }
}

impl HeaderCondition {
    fn is_met(&self, headers: &HeaderMap) -> bool {
        let any = |name: &HeaderName, is_met: &dyn Fn(&HeaderValue) -> bool| {
            headers.get_all(name).iter().any(is_met)
        };
        match self {
            Self::Is(name, value) => any(name, &|other| other == value),
            Self::Contains(name, text) => any(name, &|value| {
                contains_ignoring_case(value.as_bytes(), text.as_bytes())
            }),
            Self::ChallengeError(error) => any(&WWW_AUTHENTICATE, &|value| {
                challenge::parameters(value.as_bytes(), "error")
                    .any(|other| *other == *error.as_bytes())
            }),
            Self::RedirectTo(page) => any(&LOCATION, &|value| page.is_at(value.as_bytes())),
        }
    }
}

fn contains_ignoring_case(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty()
        || haystack
            .windows(needle.len())
            .any(|window| window.eq_ignore_ascii_case(needle))
}

impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.statuses {
            Statuses::Any => f.write_str("any status")?,
            Statuses::One(status) => write!(f, "status {status}")?,
            Statuses::Redirections => f.write_str("status 3xx")?,
            Statuses::ClientErrors => f.write_str("status 4xx")?,
        }
        match &self.place {
            Place::Head => {}
            Place::When(_) => f.write_str(" and a closure")?,
            Place::Body { text, within } => {
                write!(f, " with {text:?} in the first {within} bytes")?;
            }
            Place::Trailers => f.write_str(" and in the trailers")?,
        }
        for condition in &self.headers {
            match condition {
                HeaderCondition::Is(name, value) => write!(f, ", {name}: {value:?}")?,
                HeaderCondition::Contains(name, text) => write!(f, ", {name} with {text:?}")?,
                HeaderCondition::ChallengeError(error) => {
                    write!(f, ", a challenge with the error {error:?}")?;
                }
                HeaderCondition::RedirectTo(page) => write!(f, ", a redirect to {page}")?,
            }
        }
        f.write_str(if self.sure { " (sure)" } else { "" })
    }
}
