//! A request under way, and what there still is of it to send it once more.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, Request, StatusCode, Uri, Version, response};

use crate::origin::Target;
use crate::replay::Replay;
use crate::session::{Lease, Live, Moment};

/// A request under way.
pub(crate) struct Sent<S, R: Replay<B>, B> {
    /// `None` once a response has it that is nothing but accepted.
    pub(crate) lease: Option<Lease>,
    pub(crate) replayed: bool,
    /// When it was sent, if its acceptance is of interest.
    pub(crate) watched: Option<Moment>,
    pub(crate) remnant: Remnant<S, R, B>,
}

/// What there still is of a request under way.
pub(crate) enum Remnant<S, R: Replay<B>, B> {
    /// All that it takes to send it once more.
    Spare(Box<Spare<S, R, B>>),
    /// Nothing, but where it went.
    Way(Way),
}

/// Where a request went.
pub(crate) struct Way {
    target: Target,
    /// Whether it asks for a tunnel (RFC 9110, section 9.3.6).
    connects: bool,
}

/// A request as it was before it got its token.
pub(crate) struct Spare<S, R: Replay<B>, B> {
    service: S,
    pub(crate) method: Method,
    uri: Uri,
    version: Version,
    headers: Headers,
    extensions: Extensions,
    pub(crate) kept: R::Kept,
}

/// A copy of a header map. It takes one allocation, where a map's takes two.
struct Headers(Vec<Field>);

/// Names and values by themselves: a pair of them would be moved once more.
enum Field {
    Name(HeaderName),
    Value(HeaderValue),
}

impl<S, R: Replay<B>, B> Sent<S, R, B> {
    /// A request that is sent for the first time.
    #[inline]
    pub(crate) fn first(lease: Lease, watched: Option<Moment>, remnant: Remnant<S, R, B>) -> Self {
        Self {
            lease: Some(lease),
            replayed: false,
            watched,
            remnant,
        }
    }

    /// A request that is sent for the second time, which is the last.
    pub(crate) fn again(lease: Lease, sent: Moment, way: Way) -> Self {
        Self {
            lease: Some(lease),
            replayed: true,
            watched: Some(sent),
            remnant: Remnant::Way(way),
        }
    }

    pub(crate) fn lease(&self) -> &Lease {
        let lease = self.lease.as_ref();
        lease.expect("a response that has it is the last")
    }

    pub(crate) fn generation(&self) -> u64 {
        self.lease().token().generation()
    }

    pub(crate) fn target(&self) -> Target {
        match &self.remnant {
            Remnant::Spare(spare) => Target::of(&spare.method, spare.uri.path()),
            Remnant::Way(way) => way.target,
        }
    }

    /// Whether its connection goes on in another protocol.
    #[inline]
    pub(crate) fn is_upgraded_by(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || self.connects() && status.is_success()
    }

    /// Gives the token to a response after which its connection goes on: the
    /// body ends there, and the use of the token does not.
    pub(crate) fn hand_out_if_upgraded(&self, head: &mut response::Parts) {
        if self.is_upgraded_by(head.status) {
            let token = Live::hand_out(self.lease().clone());
            // That of a session further in is used for as long.
            let token = match head.extensions.remove() {
                Some(inner) => token.holding(inner),
                None => token,
            };
            head.extensions.insert(token);
        }
    }

    #[inline]
    fn connects(&self) -> bool {
        match &self.remnant {
            Remnant::Spare(spare) => spare.method == Method::CONNECT,
            Remnant::Way(way) => way.connects,
        }
    }
}

impl Way {
    #[inline]
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            target: Target::of(request.method(), request.uri().path()),
            connects: request.method() == Method::CONNECT,
        }
    }
}

impl<S, R: Replay<B>, B> Spare<S, R, B> {
    #[inline]
    pub(crate) fn of(service: &S, request: &Request<R::Body>, kept: R::Kept) -> Self
    where
        S: Clone,
    {
        Self {
            service: service.clone(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: Headers::of(request.headers()),
            extensions: request.extensions().clone(),
            kept,
        }
    }

    /// The request once more, and what to send it through, if its body can be had.
    pub(crate) fn again(self) -> Option<(S, Request<R::Body>)> {
        let mut request = Request::new(R::again(self.kept)?);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.into_map();
        *request.extensions_mut() = self.extensions;
        Some((self.service, request))
    }
}

impl Headers {
    #[inline]
    fn of(map: &HeaderMap) -> Self {
        let mut fields = Vec::with_capacity(2 * map.len());
        for (name, value) in map {
            fields.push(Field::Name(name.clone()));
            fields.push(Field::Value(value.clone()));
        }
        Self(fields)
    }

    fn into_map(self) -> HeaderMap {
        let mut map = HeaderMap::new();
        let mut last = None;
        for field in self.0 {
            match field {
                Field::Name(name) => last = Some(name),
                Field::Value(value) => {
                    let name = last.take().expect("a name comes before each value");
                    map.append(name, value);
                }
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;
    use crate::Auto;

    #[test]
    fn a_spare_is_the_request_as_it_was() {
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        let request = Request::put("https://ctm.example.com:8443/jobs?name=x")
            .version(Version::HTTP_2)
            .header(header::COOKIE, "a=1")
            .header("x-api-key", secret)
            .header(header::ACCEPT, "text/csv")
            .header(header::COOKIE, "b=2")
            .extension(7_u8)
            .body("body")
            .unwrap();

        let spare = Spare::<u8, Auto, _>::of(&1, &request, "body");
        let (service, again) = spare.again().unwrap();
        assert_eq!(service, 1);
        assert_eq!(again.method(), request.method());
        assert_eq!(again.uri(), request.uri());
        assert_eq!(again.version(), request.version());
        assert_eq!(again.headers(), request.headers());
        assert!(again.headers().iter().eq(request.headers()));
        assert!(again.headers()["x-api-key"].is_sensitive());
        assert_eq!(again.extensions().get(), Some(&7_u8));
        assert_eq!(again.body(), request.body());
    }

    #[test]
    fn a_spare_takes_more_headers_than_a_map_has_names() {
        let mut request = Request::new("");
        for _ in 0..40_000 {
            let value = HeaderValue::from_static("a=1");
            request.headers_mut().append(header::COOKIE, value);
        }
        let spare = Spare::<(), Auto, _>::of(&(), &request, "");
        let ((), again) = spare.again().unwrap();
        assert_eq!(again.headers().len(), 40_000);
    }
}
