//! What a login yields: headers that are ready to send, a lifetime, and the provider's own data.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::credentials::Credentials;
use crate::secret;

/// A session token: the headers that carry it, rendered once, and how long it lives.
///
/// A [`CredentialProvider`](crate::CredentialProvider) makes one for each
/// login. The layer attaches it to requests; other protocols read it with
/// [`Token::headers`] or [`Token::apply_to`].
///
/// Cloning copies a pointer. Header values are marked as sensitive, `Debug`
/// shows their names only, and their bytes are wiped when the last copy drops.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, header};
/// use tower_reauth::Token;
///
/// let token = Token::bearer("A3F5BB6E")?.lives_for(Duration::from_secs(1800));
///
/// let mut headers = HeaderMap::new();
/// token.apply_to(&mut headers);
/// assert_eq!(headers[header::AUTHORIZATION], "Bearer A3F5BB6E");
/// # Ok::<(), tower_reauth::InvalidToken>(())
/// ```
#[derive(Clone)]
pub struct Token {
    inner: Arc<TokenParts>,
    generation: u64,
    /// Keeps the session aware that somebody still uses this token.
    lease: Option<Arc<dyn Any + Send + Sync>>,
}

#[derive(Clone, Default)]
struct TokenParts {
    headers: Vec<Header>,
    cookies: Vec<Cookie>,
    lifetime: Option<Duration>,
    idle_lifetime: Option<Duration>,
    // Boxed: few tokens have one.
    refresh_in: Option<Box<Duration>>,
    continues_previous: bool,
    data: Option<SecretString>,
}

#[derive(Clone)]
struct Header {
    name: HeaderName,
    value: HeaderValue,
    /// How many bytes of the value stand before the token.
    prefix: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct Cookie {
    name: String,
    /// `name=value`, as it stands in the header.
    pair: HeaderValue,
}

impl Token {
    /// A token sent as `Authorization: Bearer <token>` (RFC 6750, section 2.1).
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if the token holds a byte that no header value may
    /// hold (RFC 9110, section 5.5), or is empty or blank.
    pub fn bearer(token: impl Into<SecretString>) -> Result<Self, InvalidToken> {
        Self::empty().with(header::AUTHORIZATION, "Bearer ", &token.into())
    }

    /// Username and password themselves, sent with each request as
    /// `Authorization: Basic` (RFC 7617), as an API key often is.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if the username holds a colon, or one of both a control
    /// character (section 2).
    pub fn basic(credentials: &Credentials) -> Result<Self, InvalidToken> {
        let password = credentials.password().expose_secret();
        let value = secret::basic(credentials.username(), password);
        let value = value.ok_or(InvalidToken {
            carrier: Carrier::Header(header::AUTHORIZATION),
        })?;
        let mut token = Self::empty();
        Arc::make_mut(&mut token.inner).headers.push(Header {
            name: header::AUTHORIZATION,
            value,
            prefix: "Basic ".len(),
        });
        Ok(token)
    }

    /// A token sent as the value of the header `name`.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if `name` is not a header name, or if the value holds a byte
    /// that no header value may hold (RFC 9110, section 5.5), or is empty or blank.
    pub fn header(
        name: impl TryInto<HeaderName>,
        value: impl Into<SecretString>,
    ) -> Result<Self, InvalidToken> {
        Self::empty().with(name, "", &value.into())
    }

    /// A token sent as the value of the header `name`, behind `prefix`.
    ///
    /// The prefix is taken as it is: a scheme's name wants its space.
    ///
    /// # Errors
    ///
    /// As [`Token::header`].
    pub fn prefixed(
        name: impl TryInto<HeaderName>,
        prefix: &str,
        value: impl Into<SecretString>,
    ) -> Result<Self, InvalidToken> {
        Self::empty().with(name, prefix, &value.into())
    }

    /// A token sent as a cookie.
    ///
    /// # Errors
    ///
    /// As [`Token::and_cookie`].
    pub fn cookie(
        name: impl Into<String>,
        value: impl Into<SecretString>,
    ) -> Result<Self, InvalidToken> {
        Self::empty().and_cookie(name, value)
    }

    /// Sends one more header with each request.
    ///
    /// A second value for the same name replaces the first.
    ///
    /// # Errors
    ///
    /// As [`Token::header`].
    pub fn and_header(
        self,
        name: impl TryInto<HeaderName>,
        value: impl Into<SecretString>,
    ) -> Result<Self, InvalidToken> {
        self.with(name, "", &value.into())
    }

    /// Sends a cookie with each request.
    ///
    /// It replaces the request's own cookie of that name and joins the others
    /// in one `Cookie` header (RFC 6265, section 5.4), which costs each
    /// request an allocation.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if the name is empty or holds `=`, a space or a tab, if
    /// name or value hold `;`, or if either holds a byte that no header value may
    /// hold.
    pub fn and_cookie(
        mut self,
        name: impl Into<String>,
        value: impl Into<SecretString>,
    ) -> Result<Self, InvalidToken> {
        let name = name.into();
        let value = value.into();
        let value = value.expose_secret().as_bytes();
        let named = !name.is_empty()
            && !name.contains(['=', ';', ' ', '\t'])
            && HeaderValue::from_str(&name).is_ok();
        if !named {
            return Err(InvalidToken {
                carrier: Carrier::Unnamed,
            });
        }
        if value.contains(&b';') {
            return Err(InvalidToken {
                carrier: Carrier::Cookie(name),
            });
        }
        let Ok(pair) = secret::header_value(&[name.as_bytes(), b"=", value]) else {
            return Err(InvalidToken {
                carrier: Carrier::Cookie(name),
            });
        };
        let inner = Arc::make_mut(&mut self.inner);
        // In its place, so that a token is the same one if only it is said again.
        match inner.cookies.iter_mut().find(|cookie| cookie.name == name) {
            Some(cookie) => cookie.pair = pair,
            None => inner.cookies.push(Cookie { name, pair }),
        }
        Ok(self)
    }

    /// Sets how long the token lives, counted from before the login was sent.
    ///
    /// Without a lifetime, or with `None`, it lives until the server rejects it. A
    /// lifetime that overflows the clock counts as none. A token whose lifetime is over
    /// when it arrives is used for one second, so that not each request logs in.
    #[must_use]
    pub fn lives_for(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.inner).lifetime = lifetime.into();
        self
    }

    /// Says after how long without a request the server ends the token.
    ///
    /// Each accepted response counts from when its request was sent, on the
    /// early side by a twentieth of `idle` at most, since only one request in
    /// each of those reads a clock. A token may have this, a lifetime, both or none.
    #[must_use]
    pub fn idles_out_after(mut self, idle: Duration) -> Self {
        Arc::make_mut(&mut self.inner).idle_lifetime = Some(idle);
        self
    }

    /// Sets when to refresh the token, counted from before the login was sent, for
    /// servers that name a time for it.
    ///
    /// Without it, the token is refreshed a fifth of its lifetime before its end, at
    /// most 5 min. A token without a lifetime may have this too. A lifetime that a
    /// response rolls ([`Rolling`](crate::Rolling)) replaces it.
    #[must_use]
    pub fn refresh_in(mut self, delay: Duration) -> Self {
        Arc::make_mut(&mut self.inner).refresh_in = Some(Box::new(delay));
        self
    }

    /// Declares that the token continues the server's session of the previous token, as
    /// a refreshed token does.
    ///
    /// The previous token is then never logged out, which would end this one. If this
    /// token has no [data](Token::with_data), it takes over that of the previous one: a
    /// server that returns no new refresh token expects the old one again (RFC 6749,
    /// section 6).
    #[must_use]
    pub fn continues_previous(mut self) -> Self {
        Arc::make_mut(&mut self.inner).continues_previous = true;
        self
    }

    /// Keeps something of the provider's own with the token, such as a refresh
    /// token or the address to log out at.
    ///
    /// It is never sent, and read with [`Token::data`]. It may outlive the token: an
    /// expired token with data is logged out once a login yields one that does not
    /// continue it, or with the session. A login that yields the same headers with
    /// other data yields another token.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<SecretString>) -> Self {
        Arc::make_mut(&mut self.inner).data = Some(data.into());
        self
    }

    /// The headers that carry the token, in the order they were given.
    ///
    /// Cookies are not among them, since they join a request's own: see
    /// [`Token::apply_to`].
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        let headers = self.inner.headers.iter();
        headers.map(|header| (&header.name, &header.value))
    }

    /// Puts the token into `headers`, replacing what has the same name.
    #[inline]
    pub fn apply_to(&self, headers: &mut HeaderMap) {
        for Header { name, value, .. } in &self.inner.headers {
            // Where the compiler knows the name, most of the map's work is done.
            if *name == header::AUTHORIZATION {
                headers.insert(header::AUTHORIZATION, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
        if !self.inner.cookies.is_empty() {
            self.merge_cookies(headers);
        }
    }

    /// The token by itself, for a call that wants it elsewhere than in its
    /// header: the value of the first header without its scheme, or of the
    /// first cookie.
    #[must_use]
    pub fn secret(&self) -> Option<SecretString> {
        let header = self.inner.headers.first().map(Header::bare);
        let cookie = self.inner.cookies.first().map(Cookie::value);
        text(header.or(cookie)?)
    }

    /// What the provider keeps with the token.
    #[must_use]
    pub fn data(&self) -> Option<&SecretString> {
        self.inner.data.as_ref()
    }

    /// The number of the login that the token comes from: 1 for a session's
    /// first, and 0 for a token that no session has published.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How long the token lives, if its provider said so.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.inner.lifetime
    }

    /// After how long without a request it ends, if its provider said so.
    #[must_use]
    pub fn idle_lifetime(&self) -> Option<Duration> {
        self.inner.idle_lifetime
    }

    /// When to refresh it, counted from its login, if its provider set a time.
    pub(crate) fn refresh_delay(&self) -> Option<Duration> {
        self.inner.refresh_in.as_deref().copied()
    }

    /// Whether it goes on with the server's session of the one before it.
    pub(crate) fn is_continuation(&self) -> bool {
        self.inner.continues_previous
    }

    /// Takes over the data of the token that it continues, unless it has data of its own.
    pub(crate) fn with_data_of(mut self, previous: Option<&Self>) -> Self {
        if self.is_continuation()
            && self.data().is_none()
            && let Some(data) = previous.and_then(Self::data)
        {
            self = self.with_data(data.clone());
        }
        self
    }

    /// The names of its cookies.
    pub(crate) fn cookie_names(&self) -> impl Iterator<Item = &str> {
        self.inner.cookies.iter().map(|cookie| cookie.name.as_str())
    }

    /// The token with that lifetime, or none.
    pub(crate) fn with_lifetime(mut self, lifetime: Option<Duration>) -> Self {
        if self.inner.lifetime != lifetime {
            Arc::make_mut(&mut self.inner).lifetime = lifetime;
        }
        self
    }

    /// Whether both tokens put the same into a request.
    pub(crate) fn sends_the_same_as(&self, other: &Token) -> bool {
        self.headers().eq(other.headers()) && self.inner.cookies == other.inner.cookies
    }

    /// Returns whether it is `earlier` once more. With other data it is another token,
    /// unless it continues the one before it.
    pub(crate) fn repeats(&self, earlier: &Token) -> bool {
        let data = self.data().map(ExposeSecret::expose_secret);
        let has_same_data = || data == earlier.data().map(ExposeSecret::expose_secret);
        self.sends_the_same_as(earlier) && (self.is_continuation() || has_same_data())
    }

    /// What must not be quoted of it: the values without what stands before
    /// them, and the data.
    pub(crate) fn secrets(&self) -> Vec<SecretString> {
        let headers = self.inner.headers.iter().flat_map(|header| {
            // Where no prefix was said, it may be of several words, too.
            let whole = (header.prefix == 0).then(|| header.value.as_bytes());
            [Some(header.bare()), whole].into_iter().flatten()
        });
        let cookies = self.inner.cookies.iter().map(Cookie::value);
        // Space around a value does not get as far as the server.
        let values = headers.chain(cookies).map(<[u8]>::trim_ascii);
        let texts = values.filter_map(text);
        texts.chain(self.inner.data.clone()).collect()
    }

    /// The token as the session publishes it.
    pub(crate) fn of_generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        // It may be one that was handed out. Published, it is nobody's in particular.
        self.lease = None;
        self
    }

    /// The token as it is handed out, counted as used until it drops.
    pub(crate) fn leased(mut self, lease: Arc<dyn Any + Send + Sync>) -> Self {
        self.lease = Some(lease);
        self
    }

    fn empty() -> Self {
        Self {
            inner: Arc::default(),
            generation: 0,
            lease: None,
        }
    }

    fn with(
        mut self,
        name: impl TryInto<HeaderName>,
        prefix: &str,
        value: &SecretString,
    ) -> Result<Self, InvalidToken> {
        let name = name.try_into().map_err(|_| InvalidToken {
            carrier: Carrier::InvalidHeader,
        })?;
        let value = value.expose_secret().as_bytes();
        let rendered = match secret::header_value(&[prefix.as_bytes(), value]) {
            // Space around a value does not get as far as the server.
            Ok(rendered) if !value.trim_ascii().is_empty() => rendered,
            Ok(_) | Err(_) => {
                return Err(InvalidToken {
                    carrier: Carrier::Header(name),
                });
            }
        };
        let inner = Arc::make_mut(&mut self.inner);
        let header = Header {
            name,
            value: rendered,
            prefix: prefix.len(),
        };
        match inner
            .headers
            .iter_mut()
            .find(|other| other.name == header.name)
        {
            Some(other) => *other = header,
            None => {
                // Most tokens are a single header.
                inner.headers.reserve_exact(1);
                inner.headers.push(header);
            }
        }
        Ok(self)
    }

    #[cold]
    fn merge_cookies(&self, headers: &mut HeaderMap) {
        let ours = &self.inner.cookies;
        let mut pairs: Vec<&[u8]> = Vec::new();
        for line in headers.get_all(header::COOKIE) {
            for pair in line.as_bytes().split(|byte| *byte == b';') {
                let pair = pair.trim_ascii();
                let name = pair.split(|byte| *byte == b'=').next().unwrap_or(pair);
                let replaced = ours.iter().any(|cookie| cookie.name.as_bytes() == name);
                if !pair.is_empty() && !replaced {
                    pairs.push(pair);
                }
            }
        }
        pairs.extend(ours.iter().map(|cookie| cookie.pair.as_bytes()));

        let mut parts: Vec<&[u8]> = Vec::with_capacity(pairs.len() * 2);
        for pair in pairs {
            if !parts.is_empty() {
                parts.push(b"; ");
            }
            parts.push(pair);
        }
        let merged = secret::header_value(&parts).expect(
            "joined of header values and of cookies that were checked when the token was made",
        );
        headers.insert(header::COOKIE, merged);
    }
}

impl Header {
    /// The token by itself: without its prefix or, where none was said, the
    /// last word, which stands behind a scheme.
    fn bare(&self) -> &[u8] {
        let value = self.value.as_bytes();
        match value.rsplit(|byte| *byte == b' ').next() {
            Some(word) if self.prefix == 0 && !word.is_empty() => word,
            Some(_) | None => &value[self.prefix..],
        }
    }
}

impl Cookie {
    fn value(&self) -> &[u8] {
        &self.pair.as_bytes()[self.name.len() + 1..]
    }
}

fn text(secret: &[u8]) -> Option<SecretString> {
    std::str::from_utf8(secret).ok().map(SecretString::from)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers().map(|(name, _)| name).collect();
        let cookies: Vec<_> = self
            .inner
            .cookies
            .iter()
            .map(|cookie| &cookie.name)
            .collect();
        f.debug_struct("Token")
            .field("generation", &self.generation)
            .field("headers", &headers)
            .field("cookies", &cookies)
            .field("lifetime", &self.inner.lifetime)
            .field("idle_lifetime", &self.inner.idle_lifetime)
            .field("continues_previous", &self.inner.continues_previous)
            .field("leased", &self.lease.is_some())
            .finish_non_exhaustive()
    }
}

/// A token that no request can carry.
///
/// It names the header or cookie and never the value. Most often the server's
/// answer was not what the provider took it for: look there first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidToken {
    carrier: Carrier,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Carrier {
    Header(HeaderName),
    Cookie(String),
    /// Not kept: an invalid name may be the whole cookie, value included.
    Unnamed,
    /// Not kept: an invalid name may be the whole header, value included.
    InvalidHeader,
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.carrier {
            Carrier::Header(name) => write!(
                f,
                "the token is empty or holds bytes that the header `{name}` may not hold"
            ),
            Carrier::Cookie(name) => {
                write!(f, "the token is no valid value of a cookie named {name:?}")
            }
            Carrier::Unnamed => f.write_str("the token's cookie has no valid name"),
            Carrier::InvalidHeader => f.write_str("the token's header has no valid name"),
        }
    }
}

impl std::error::Error for InvalidToken {}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(token: &Token, own: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in own {
            headers.append(name, value.parse().unwrap());
        }
        token.apply_to(&mut headers);
        headers
    }

    #[test]
    fn a_token_replaces_the_requests_own_header_of_that_name() {
        let token = Token::bearer("new").unwrap();
        let headers = applied(&token, &[(header::AUTHORIZATION, "Bearer old")]);
        assert_eq!(headers.get_all(header::AUTHORIZATION).iter().count(), 1);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer new");
        assert!(headers[header::AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn username_and_password_may_be_the_token() {
        let token = Token::basic(&Credentials::new("Aladdin", "open sesame")).unwrap();
        let headers = applied(&token, &[]);
        // RFC 7617, section 2.
        let expected = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(headers[header::AUTHORIZATION], expected);
        assert!(headers[header::AUTHORIZATION].is_sensitive());
        for (username, password) in [("a:b", "c"), ("a\n", "b"), ("a", "b\u{7f}")] {
            assert!(Token::basic(&Credentials::new(username, password)).is_err());
        }
    }

    #[test]
    fn what_is_nothing_on_its_way_is_no_token() {
        for nothing in ["", " ", "\t "] {
            assert!(Token::bearer(nothing).is_err());
            assert!(Token::header(header::COOKIE, nothing).is_err());
        }
    }

    #[test]
    fn a_token_is_read_without_what_it_travels_in() {
        let secret = |token: Token| {
            let secret = token.secret();
            secret.map(|secret| secret.expose_secret().to_owned())
        };
        let bearer = Token::bearer("a").unwrap().with_data("b");
        assert_eq!(secret(bearer).as_deref(), Some("a"));
        let name = HeaderName::from_static("x-key");
        assert_eq!(
            secret(Token::header(name, "c").unwrap()).as_deref(),
            Some("c")
        );
        let cookie = Token::cookie("sid", "d=e").unwrap();
        assert_eq!(secret(cookie).as_deref(), Some("d=e"));
        assert_eq!(secret(Token::empty().with_data("b")), None);
        // Whatever it travels behind, and however many words it is.
        let name = HeaderName::from_static("x-key");
        let prefixed = Token::prefixed(name.clone(), "Key=", "c").unwrap();
        assert_eq!(secret(prefixed).as_deref(), Some("c"));
        let words = Token::bearer("one two").unwrap();
        assert_eq!(secret(words).as_deref(), Some("one two"));
        let written_out = Token::header(name, "Bearer c").unwrap();
        assert_eq!(secret(written_out).as_deref(), Some("c"));
        let spaced = Token::bearer("c ").unwrap();
        let secrets = spaced.secrets().into_iter();
        let secrets: Vec<_> = secrets.map(|it| it.expose_secret().to_owned()).collect();
        assert_eq!(secrets, ["c"]);
        let spaced = Token::header(header::COOKIE, "c ").unwrap();
        assert_eq!(secret(spaced).as_deref(), Some("c "));
    }

    #[test]
    fn several_headers_travel_together() {
        let token = Token::bearer("a")
            .unwrap()
            .and_header(HeaderName::from_static("x-csrf"), "b")
            .unwrap();
        let headers = applied(&token, &[]);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer a");
        assert_eq!(headers["x-csrf"], "b");
        assert_eq!(token.headers().len(), 2);
    }

    #[test]
    fn a_cookie_replaces_its_namesake_and_joins_the_others() {
        let token = Token::cookie("sid", "new").unwrap();
        let headers = applied(
            &token,
            &[
                (header::COOKIE, "a=1; sid=old"),
                (header::COOKIE, "sidney=2;sid=older"),
            ],
        );
        assert_eq!(headers.get_all(header::COOKIE).iter().count(), 1);
        assert_eq!(headers[header::COOKIE], "a=1; sidney=2; sid=new");
        assert!(headers[header::COOKIE].is_sensitive());
    }

    #[test]
    fn what_no_header_can_hold_is_an_error_that_does_not_quote_it() {
        for broken in ["ab\r\nc", "ab\0c", ""] {
            let error = Token::bearer(broken).unwrap_err();
            assert!(!error.to_string().contains("ab"), "{error}");
        }
        for broken in ["ab;c", "ab\nc"] {
            let error = Token::cookie("sid", broken).unwrap_err();
            assert!(!error.to_string().contains("ab"), "{error}");
        }
        for broken in ["", "a=b", "a;b", "a b", "a\tb", "a\nb"] {
            assert!(Token::cookie(broken, "c").is_err(), "{broken:?}");
        }
    }

    #[test]
    fn debug_shows_names_and_no_values() {
        let token = Token::bearer("canary")
            .unwrap()
            .and_cookie("sid", "canary")
            .unwrap()
            .with_data("canary");
        let shown = format!("{token:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("authorization") && shown.contains("sid"));
    }

    #[test]
    fn two_tokens_are_the_same_if_they_send_the_same() {
        let token = Token::bearer("a").unwrap();
        assert!(token.sends_the_same_as(&Token::bearer("a").unwrap().lives_for(Duration::ZERO)));
        assert!(!token.sends_the_same_as(&Token::bearer("b").unwrap()));
    }

    #[test]
    fn the_same_headers_with_other_data_are_another_token_unless_it_continues() {
        let token = |data| Token::bearer("a").unwrap().with_data(data);
        assert!(token("r-1").repeats(&token("r-1")));
        assert!(!token("r-2").repeats(&token("r-1")));
        assert!(!token("r-2").repeats(&Token::bearer("a").unwrap()));
        assert!(
            !Token::bearer("b")
                .unwrap()
                .repeats(&Token::bearer("a").unwrap())
        );
        assert!(token("r-2").continues_previous().repeats(&token("r-1")));
    }
}
