//! How a response may carry the next value of the token.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, response};
use secrecy::SecretString;

use crate::cookie::SetCookie;
use crate::header::expect_name;
use crate::token::Token;

/// How an accepted response may carry the next value of the token, as that of a
/// server does whose session cookie slides along.
///
/// Said by [`Profile::rolling`](crate::Profile::rolling). The token stays the
/// same one as far as the session goes: its generation stays, nothing is logged
/// in or out, and only its headers change. The last response wins. One to a
/// token that was replaced meanwhile changes nothing, nor does one that was
/// rejected, or one that deletes the value.
///
/// A lifetime that the response gives counts from when the request was sent,
/// and takes the place of the one before; otherwise that goes on.
///
/// The response is taken for the origin's own. A client that follows redirects to
/// other servers lets those set the token: tell it not to.
///
/// A server that ends the old value at once rejects the other requests that
/// are under way with it, which costs a login. Each request of such a session
/// takes a lock.
///
/// ```
/// use tower_reauth::{Profile, Rolling};
///
/// // A session cookie that each answer renews, and a second header beside it.
/// let csrf = Rolling::header("x-csrf-token");
/// let profile = Profile::at("https://app.example.com".parse()?)
///     .rolling(Rolling::cookies().and(csrf));
/// # Ok::<(), tower_reauth::InvalidOrigin>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Rolling {
    next: Arc<Next>,
}

type Next = dyn Fn(&Token, &response::Parts) -> Option<Token> + Send + Sync;

impl Rolling {
    /// Each cookie of the token is renewed by a `Set-Cookie` of its name
    /// (RFC 6265, section 4.1).
    pub fn cookies() -> Self {
        Self::by(|token, response| {
            let mut next = None;
            for name in token.cookie_names() {
                if let Some(set) = SetCookie::find(&response.headers, name) {
                    let rolled = next.take().unwrap_or_else(|| token.clone());
                    next = Some(rolled_to(rolled, name, set)?);
                }
            }
            next
        })
    }

    /// Takes the token's header `name` from a response header of that name. Its value
    /// is sent unchanged: without the prefix that the token had.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn header<N>(name: N) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        let name = expect_name(name);
        Self::by(move |token, response| {
            let value = response.headers.get(&name)?.to_str().ok()?;
            token.clone().and_header(name.clone(), value).ok()
        })
    }

    /// The token becomes what `next` makes of it and of the response's head, if
    /// it makes anything of them.
    ///
    /// `next` may run more than once for a response, and holds it up. The token
    /// that it gets has no lifetime: one that it returns with
    /// [`Token::lives_for`] has a new one, and any other keeps the old one.
    pub fn by(
        next: impl Fn(&Token, &response::Parts) -> Option<Token> + Send + Sync + 'static,
    ) -> Self {
        Self {
            next: Arc::new(next),
        }
    }

    /// By both, one after the other.
    pub fn and(self, other: Self) -> Self {
        Self::by(move |token, response| {
            let first = self.next(token, response);
            let second = other.next(first.as_ref().unwrap_or(token), response);
            second.or(first)
        })
    }

    /// What the token becomes by this response.
    pub(crate) fn next(&self, token: &Token, response: &response::Parts) -> Option<Token> {
        (self.next)(token, response)
    }
}

fn rolled_to(token: Token, name: &str, set: SetCookie) -> Option<Token> {
    let lifetime = match (token.lifetime(), set.lifetime()) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let value: SecretString = set.into_value();
    let token = token.and_cookie(name, value).ok()?;
    Some(match lifetime {
        Some(lifetime) => token.lives_for(lifetime),
        None => token,
    })
}

impl fmt::Debug for Rolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rolling").finish_non_exhaustive()
    }
}
