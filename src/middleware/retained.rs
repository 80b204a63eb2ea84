//! The copy of a sent request that a replay needs.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Extensions, Method, Request, Uri, Version, uri};

use super::replay::Replay;
use crate::origin::Target;
use crate::secret::Wiped;
use crate::session::{Driver, Timestamp};

/// A request as it was before it got its token, with `K` in place of its body, and the
/// service to send it through once more.
pub(super) struct RetainedRequest<S, K> {
    /// Keeps the session: tower's `Oneshot` drops the service when it is called.
    pub(super) driver: Arc<Driver>,
    service: S,
    head: RetainedHead,
    pub(super) kept: K,
    /// When it was sent, if its outcome is to be reported.
    pub(super) reported: Option<Timestamp>,
}

/// The head of a request. Its URI and headers are copied into one buffer, since each
/// part of them that a request has to itself would need an allocation to be cloned. A
/// replay, which is rare, parses them again.
struct RetainedHead {
    method: Method,
    version: Version,
    scheme: Option<Scheme>,
    extensions: Extensions,
    /// The authority, the path with the query, and each header: its [`Prefix`], its
    /// name, and its value. Any of them may be a secret.
    bytes: Wiped,
    /// The length of the authority, or 0 if there is none.
    authority: usize,
    /// The length of the path with the query, or 0 if there is none.
    path_and_query: usize,
}

/// Precedes a header in the buffer, as a number of 64 bits: 16 for the length of the
/// name, 1 for the sensitivity of the value, 47 for the length of the value.
struct Prefix {
    name: usize,
    value: usize,
    is_sensitive: bool,
}

impl<S, K> RetainedRequest<S, K> {
    #[inline]
    pub(super) fn new<B>(
        driver: Arc<Driver>,
        service: &S,
        request: &Request<B>,
        kept: K,
        reported: Option<Timestamp>,
    ) -> Self
    where
        S: Clone,
    {
        Self {
            driver,
            service: service.clone(),
            head: RetainedHead::new(request),
            kept,
            reported,
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.head.method
    }

    pub(super) fn target(&self) -> Target {
        Target::of(&self.head.method, self.head.path())
    }

    /// Returns the request once more, and the service and the session to send it with,
    /// if its body is available.
    pub(super) fn again<R, B>(self) -> Option<(Arc<Driver>, S, Request<R::Body>)>
    where
        R: Replay<B, Kept = K>,
    {
        let body = R::again(self.kept)?;
        Some((self.driver, self.service, self.head.into_request(body)?))
    }
}

impl RetainedHead {
    #[inline]
    fn new<B>(request: &Request<B>) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        let authority = uri.authority().map_or("", Authority::as_str);
        let path_and_query = uri.path_and_query().map_or("", PathAndQuery::as_str);
        // A buffer that grows would leave a copy behind in the memory that it outgrew.
        let lengths = headers
            .iter()
            .map(|(name, value)| Prefix::LENGTH + name.as_str().len() + value.len());
        let length = authority.len() + path_and_query.len() + lengths.sum::<usize>();
        let mut bytes = Wiped::with_capacity(length);
        bytes.push(authority.as_bytes());
        bytes.push(path_and_query.as_bytes());
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            let prefix = Prefix {
                // At most 65,535, a limit of `HeaderName`.
                name: name.len(),
                value: value.len(),
                is_sensitive: value.is_sensitive(),
            };
            bytes.push(&prefix.to_bytes());
            bytes.push(name);
            bytes.push(value.as_bytes());
        }
        Self {
            method: request.method().clone(),
            version: request.version(),
            scheme: uri.scheme().cloned(),
            extensions: match request.extensions() {
                extensions if extensions.is_empty() => Extensions::new(),
                extensions => extensions.clone(),
            },
            bytes,
            authority: authority.len(),
            path_and_query: path_and_query.len(),
        }
    }

    /// Returns the path without the query, as [`Uri::path`] does.
    fn path(&self) -> &str {
        let bytes = &self.bytes.as_ref()[self.authority..][..self.path_and_query];
        let path = bytes.split(|byte| *byte == b'?').next();
        match std::str::from_utf8(path.unwrap_or_default()) {
            Ok("") if self.scheme.is_some() || self.path_and_query > 0 => "/",
            Ok(path) => path,
            // Not possible: it was a string.
            Err(_) => "",
        }
    }

    /// Returns the request with this head. Everything was parsed before, so parsing
    /// fails only for a value that was made without a check, by unsafe code.
    fn into_request<B>(self, body: B) -> Option<Request<B>> {
        let mut bytes = self.bytes.into_bytes();
        let mut parts = uri::Parts::default();
        parts.scheme = self.scheme;
        if self.authority > 0 {
            let authority = bytes.split_to(self.authority);
            parts.authority = Some(Authority::from_maybe_shared(authority).ok()?);
        }
        if self.path_and_query > 0 {
            let path_and_query = bytes.split_to(self.path_and_query);
            parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path_and_query).ok()?);
        }
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.headers_mut() = headers(bytes)?;
        *request.method_mut() = self.method;
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions;
        Some(request)
    }
}

/// Reads the headers from the rest of the buffer. Their values are slices of it.
fn headers(mut bytes: Bytes) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    while let Some(prefix) = bytes.first_chunk() {
        let prefix = Prefix::from_bytes(*prefix);
        let _ = bytes.split_to(Prefix::LENGTH);
        let name = HeaderName::from_bytes(&bytes.split_to(prefix.name)).ok()?;
        let mut value = HeaderValue::from_maybe_shared(bytes.split_to(prefix.value)).ok()?;
        value.set_sensitive(prefix.is_sensitive);
        headers.append(name, value);
    }
    Some(headers)
}

impl Prefix {
    const LENGTH: usize = 8;

    #[inline]
    fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let (name, value) = (self.name as u64, self.value as u64);
        (value << 17 | u64::from(self.is_sensitive) << 16 | name).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let prefix = u64::from_le_bytes(bytes);
        Self {
            name: (prefix & 0xffff) as usize,
            value: (prefix >> 17) as usize,
            is_sensitive: prefix >> 16 & 1 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Checks that a replay sends the same request, and returns it.
    fn replayed(request: &Request<String>) -> Request<String> {
        let head = RetainedHead::new(request);
        assert_eq!(head.path(), request.uri().path());
        let again = head.into_request(request.body().clone()).unwrap();
        assert_eq!(again.method(), request.method());
        assert_eq!(again.version(), request.version());
        assert_eq!(again.uri(), request.uri());
        assert_eq!(again.uri().to_string(), request.uri().to_string());
        assert_eq!(again.headers(), request.headers());
        // Also the order, and the values of one name among each other.
        assert!(again.headers().iter().eq(request.headers()));
        let sensitive = |request: &Request<String>| -> Vec<bool> {
            let values = request.headers().values();
            values.map(HeaderValue::is_sensitive).collect()
        };
        assert_eq!(sensitive(&again), sensitive(request));
        assert_eq!(again.body(), request.body());
        again
    }

    fn request_to(uri: Uri) -> Request<String> {
        let mut request = Request::new(String::new());
        *request.uri_mut() = uri;
        request
    }

    #[test]
    fn a_retained_request_equals_the_one_that_was_sent() {
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        let request = Request::put("https://ctm.example.com:8443/jobs?name=x")
            .version(Version::HTTP_2)
            .header(header::COOKIE, "a=1")
            .header("x-api-key", secret)
            .header(header::ACCEPT, "text/csv")
            .header(header::COOKIE, "b=2")
            .header("x-empty", "")
            .header("x-bytes", &b"\x80\xff\t"[..])
            .extension(7_u8)
            .body(String::from("body"))
            .unwrap();
        let again = replayed(&request);
        assert!(again.headers()["x-api-key"].is_sensitive());
        assert_eq!(again.extensions().get(), Some(&7_u8));
    }

    #[test]
    fn a_retained_request_keeps_every_form_of_uri() {
        for uri in [
            "/",
            "/a?",
            "/a?b=c?d",
            "*",
            "api.example.com:443",
            "http://api.example.com",
            "http://api.example.com?q",
            "https://user:pass@api.example.com:8443/%20?q=%3F",
            "custom://[::1]:1/\u{e9}?\u{e9}",
        ] {
            replayed(&request_to(uri.parse().unwrap()));
        }
    }

    /// As one text it would be longer than a URI may be that is parsed.
    #[test]
    fn a_retained_request_keeps_a_uri_that_was_built_from_long_parts() {
        let long = "a".repeat(65_000);
        let uri = Uri::builder()
            .scheme("https")
            .authority(&*long)
            .path_and_query(format!("/{long}"))
            .build()
            .unwrap();
        assert!(uri.to_string().parse::<Uri>().is_err());
        replayed(&request_to(uri));
    }

    #[test]
    fn a_retained_request_may_have_more_values_than_a_map_has_names() {
        let mut request = Request::new(String::new());
        for _ in 0..40_000 {
            let value = HeaderValue::from_static("a=1");
            request.headers_mut().append(header::COOKIE, value);
        }
        assert_eq!(replayed(&request).headers().len(), 40_000);
    }

    #[test]
    fn a_retained_request_keeps_a_name_of_the_greatest_length() {
        let mut request = Request::new(String::new());
        let name = HeaderName::from_bytes(&[b'a'; 65_535]).unwrap();
        let value = HeaderValue::from_bytes(&[b'b'; 70_000]).unwrap();
        request.headers_mut().insert(name, value);
        assert!(HeaderName::from_bytes(&[b'a'; 65_536]).is_err());
        replayed(&request);
    }

    #[test]
    fn a_replay_copies_neither_the_values_nor_the_uri() {
        let request = Request::post("https://api.example.com/v1/items?id=42")
            .header("x-request-id", "0f8fad5b")
            .body(())
            .unwrap();
        let head = RetainedHead::new(&request);
        let bytes = head.bytes.as_ref();
        let start = bytes.as_ptr().addr();
        let buffer = start..start + bytes.len();
        let again = head.into_request(()).unwrap();
        let value = again.headers()["x-request-id"].as_bytes();
        assert!(buffer.contains(&value.as_ptr().addr()));
        assert!(buffer.contains(&again.uri().path().as_ptr().addr()));
    }

    proptest! {
        /// Whatever `http` parses once it parses again.
        #[test]
        fn any_request_parses_back(
            path in "[/?*#a-z%{}\"\u{e9}]{0,9}",
            prefix in "|https?://[a-z@:.]{0,9}|x://a",
            headers in vec(("[a-c]{1,2}", vec(any::<u8>(), 0..5), any::<bool>()), 0..9),
        ) {
            let Ok(uri) = format!("{prefix}{path}").parse::<Uri>() else {
                return Ok(());
            };
            let mut request = request_to(uri);
            for (name, value, is_sensitive) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                if let Ok(mut value) = HeaderValue::from_bytes(&value) {
                    value.set_sensitive(is_sensitive);
                    request.headers_mut().append(name, value);
                }
            }
            replayed(&request);
        }
    }
}
