//! Decides where a token may go, by scheme, host and port only.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, Scheme};

/// A request extension that opts one request out: it passes without a token,
/// whatever its origin, and its response is not classified.
///
/// A redirect follower outside the layer makes new requests. The follower of
/// tower-http keeps the extensions of a request that stays at its origin, and drops
/// them if the request goes to another origin. If that origin redirects back, the
/// request gets the token.
///
/// ```
/// use http::Request;
/// use tower_reauth::Anonymous;
///
/// let request = Request::get("https://ctm.example.com:8443/automation-api/health")
///     .extension(Anonymous)
///     .body(())?;
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anonymous;

/// An origin: a scheme, a host and a port (RFC 6454, section 4).
///
/// Converted from a URI, or parsed from a string: `"https://api.example.com".parse()?`. Path
/// and query are ignored. Two origins are equal if scheme, host and port are,
/// however they are written.
///
/// ```
/// use tower_reauth::Origin;
///
/// let origin: Origin = "https://api.example.com/v1".parse()?;
/// assert_eq!(origin, "HTTPS://API.example.com:443".parse()?);
/// assert_eq!(origin.to_string(), "https://api.example.com");
/// # Ok::<(), tower_reauth::InvalidOrigin>(())
/// ```
#[derive(Clone)]
pub struct Origin {
    scheme: Scheme,
    /// `host` or `host:port` as the origin was written, for the fast comparison.
    authority: String,
    host: Host,
    port: Option<u16>,
    /// Whether the scheme encrypts, or the host is this machine.
    is_safe: bool,
}

/// A URI that names no origin, or a base address that no call can be sent to.
///
/// The URI itself is not quoted, since it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidOrigin {
    /// It is not a URI (RFC 3986). Encode what its syntax does not allow.
    NotAUri,
    /// It names no scheme and host. Write `https://` and the host first.
    NotAbsolute,
    /// Its port is not a number from 0 to 65535.
    Port,
    /// It holds a user or a password. Put them into the provider's credentials, and
    /// a gateway's own into an extra header.
    Userinfo,
    /// It is a base address whose scheme is neither `https` nor `http`.
    Scheme,
    /// It is a base address with a query, so that no path can follow.
    Query,
    /// It is a base address so long that no path can follow.
    TooLong,
}

/// The origins that a session's token may go to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    // Shared by a provider and its sessions.
    list: Arc<[Origin]>,
    bound: bool,
    plain_http: bool,
}

/// Where a request goes, as far as the token is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// An origin of the token.
    Allowed,
    /// An origin of the token, but over plain `http` to another machine.
    Insecure,
    /// Another origin: the request passes without the token.
    Foreign,
    /// Unknown: the session has no origin, or the request names none.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Name(String),
    Ip(IpAddr),
}

impl Origins {
    pub(crate) fn add(&mut self, origin: Origin) {
        let origins = self.list.iter().cloned().chain([origin]);
        self.list = origins.collect();
    }

    pub(crate) fn first(&self) -> Option<&Origin> {
        self.list.first()
    }

    pub(crate) fn bind(&mut self) {
        self.bound = true;
    }

    pub(crate) fn allow_plain_http(&mut self) {
        self.plain_http = true;
    }

    pub(crate) fn allows_plain_http(&self) -> bool {
        self.plain_http
    }

    /// Returns whether the token may go to `uri`, by comparing bytes only.
    ///
    /// After `false`, [`Origins::locate`] compares more closely.
    // Called once, on the fast path.
    #[inline(always)]
    pub(crate) fn matches_exactly(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return self.bound;
        };
        self.bound && (*scheme == Scheme::HTTPS || self.plain_http)
            || self.list.iter().any(|origin| {
                origin.authority == authority.as_str()
                    && origin.scheme == *scheme
                    && (origin.is_safe || self.plain_http)
            })
    }

    /// Returns where `uri` leads. Considers letter case, default ports and userinfo.
    #[cold]
    pub(crate) fn locate(&self, uri: &Uri) -> Destination {
        if self.bound {
            // Any URI leads to the one server, but its scheme decides how.
            let is_safe = match (uri.scheme(), uri.host()) {
                (Some(scheme), Some(host)) => is_safe(scheme, &Host::parse(host)),
                _ => true,
            };
            return match is_safe || self.plain_http {
                true => Destination::Allowed,
                false => Destination::Insecure,
            };
        }
        if self.list.is_empty() {
            return Destination::Unknown;
        }
        let Ok(there) = OriginRef::of(uri) else {
            // An authority alone is a CONNECT: it asks a proxy for a tunnel, and the
            // token is not for the proxy.
            return match uri.authority() {
                Some(_) => Destination::Foreign,
                None => Destination::Unknown,
            };
        };
        match self.list.iter().find(|origin| origin.is_at(&there)) {
            Some(origin) if origin.is_safe || self.plain_http => Destination::Allowed,
            Some(_) => Destination::Insecure,
            None => Destination::Foreign,
        }
    }
}

/// The origin that a URI names, borrowed from it.
struct OriginRef<'a> {
    scheme: &'a Scheme,
    authority: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> OriginRef<'a> {
    fn of(uri: &'a Uri) -> Result<Self, InvalidOrigin> {
        let (Some(scheme), Some(authority), Some(host)) =
            (uri.scheme(), uri.authority(), uri.host())
        else {
            return Err(InvalidOrigin::NotAbsolute);
        };
        if host.is_empty() {
            return Err(InvalidOrigin::NotAbsolute);
        }
        let authority = without_userinfo(authority);
        // Clients differ in how they read an invalid port. It is not the default port.
        let port = match authority.strip_prefix(host) {
            Some("" | ":") => default_port(scheme),
            port => {
                let port = port.and_then(|port| port.strip_prefix(':'));
                Some(port.and_then(parse_port).ok_or(InvalidOrigin::Port)?)
            }
        };
        Ok(Self {
            scheme,
            authority,
            host,
            port,
        })
    }
}

impl Origin {
    /// Returns the origin of a base address for calls: `http` or `https`, and a path
    /// can follow.
    pub(crate) fn of_base(uri: &Uri) -> Result<Self, InvalidOrigin> {
        let origin = Self::try_from(uri.clone())?;
        if origin.scheme != Scheme::HTTP && origin.scheme != Scheme::HTTPS {
            return Err(InvalidOrigin::Scheme);
        }
        match uri.query() {
            Some(_) => Err(InvalidOrigin::Query),
            None => Ok(origin),
        }
    }

    /// Compares by RFC 6454, section 5. `Scheme` compares without letter case.
    fn is_at(&self, other: &OriginRef<'_>) -> bool {
        self.scheme == *other.scheme && self.port == other.port && self.host.is(other.host)
    }
}

impl TryFrom<Uri> for Origin {
    type Error = InvalidOrigin;

    fn try_from(uri: Uri) -> Result<Self, InvalidOrigin> {
        let origin = OriginRef::of(&uri)?;
        if uri
            .authority()
            .is_some_and(|whole| whole.as_str() != origin.authority)
        {
            return Err(InvalidOrigin::Userinfo);
        }
        let host = Host::parse(origin.host);
        Ok(Self {
            scheme: origin.scheme.clone(),
            authority: origin.authority.to_owned(),
            is_safe: is_safe(origin.scheme, &host),
            host,
            port: origin.port,
        })
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(uri: &str) -> Result<Self, InvalidOrigin> {
        let uri: Uri = uri.parse().map_err(|_| InvalidOrigin::NotAUri)?;
        uri.try_into()
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.port == other.port && self.host == other.host
    }
}

impl Eq for Origin {}

impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scheme.hash(state);
        self.port.hash(state);
        self.host.hash(state);
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAUri => "the address is not a URI",
            Self::NotAbsolute => {
                "the address names no scheme and host: write `https://` and the host first"
            }
            Self::Port => "the port of the address is not a number from 0 to 65535",
            Self::Userinfo => {
                "the address holds a user or a password: put them into the credentials"
            }
            Self::Scheme => "the scheme of the base address is neither https nor http",
            Self::Query => "the base address has a query, so that no path can follow",
            Self::TooLong => "the base address is so long that no path can follow",
        })
    }
}

impl std::error::Error for InvalidOrigin {}

impl Host {
    fn parse(host: &str) -> Self {
        match ip(host) {
            Some(ip) => Self::Ip(ip),
            None => Self::Name(host.to_ascii_lowercase()),
        }
    }

    fn is(&self, host: &str) -> bool {
        match self {
            Self::Ip(this) => ip(host) == Some(*this),
            Self::Name(name) => name.eq_ignore_ascii_case(host),
        }
    }

    /// Names below `localhost` are not: RFC 6761, section 6.3, only recommends that
    /// resolvers answer them locally. Some ask a DNS server, which may return any
    /// address.
    fn is_this_machine(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

/// Parses an address. In brackets it is an IPv6 address (RFC 3986, section 3.2.2).
fn ip(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

/// Parses a port. It has digits only: Rust's own parser accepts a sign too.
fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

fn without_userinfo(authority: &Authority) -> &str {
    let authority = authority.as_str();
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, rest)| rest)
}

fn default_port(scheme: &Scheme) -> Option<u16> {
    match scheme.as_str() {
        scheme if scheme.eq_ignore_ascii_case("https") => Some(443),
        scheme if scheme.eq_ignore_ascii_case("wss") => Some(443),
        scheme if scheme.eq_ignore_ascii_case("http") => Some(80),
        scheme if scheme.eq_ignore_ascii_case("ws") => Some(80),
        _ => None,
    }
}

fn is_safe(scheme: &Scheme, host: &Host) -> bool {
    encrypts(scheme) || host.is_this_machine()
}

fn encrypts(scheme: &Scheme) -> bool {
    ["https", "wss"]
        .iter()
        .any(|secure| scheme.as_str().eq_ignore_ascii_case(secure))
}

/// The method and path of a request, as a hash.
///
/// It is computed for each request, so it is cheap rather than strong: two targets
/// that collide share a cool-down and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target(u64);

impl Target {
    #[inline]
    pub(crate) fn of(method: &http::Method, path: &str) -> Self {
        let mut hasher = Mix(SEED ^ path.len() as u64);
        method.hash(&mut hasher);
        hasher.write(path.as_bytes());
        Self(hasher.finish())
    }
}

/// Hashes words of eight bytes, each by a multiplication whose two halves both
/// count, as in wyhash. Shifts and single multiplications are not enough: many paths
/// whose numbers differ in two digits would collide.
struct Mix(u64);

/// Any odd number that looks random; this one is the golden ratio's.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for Mix {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.last_chunk() {
            let mut rest = bytes;
            while let Some((word, behind)) = rest.split_first_chunk() {
                self.write_u64(u64::from_le_bytes(*word));
                rest = behind;
            }
            // The rest, together with some bytes that were read already.
            self.write_u64(u64::from_le_bytes(*end));
        } else {
            for byte in bytes {
                self.write_u64(u64::from(*byte));
            }
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(SEED);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn write_isize(&mut self, discriminant: isize) {
        self.write_u64(discriminant as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn origins(uris: &[&str]) -> Origins {
        let mut origins = Origins::default();
        for uri in uris {
            origins.add(uri.parse().unwrap());
        }
        origins
    }

    fn locate(origin: &str, uri: &str) -> Destination {
        let origins = origins(&[origin]);
        let uri: Uri = uri.parse().unwrap();
        let destination = origins.locate(&uri);
        assert!(
            destination == Destination::Allowed || !origins.matches_exactly(&uri),
            "the fast comparison and the closer one disagree about {uri}"
        );
        destination
    }

    #[test]
    fn the_same_scheme_host_and_port_are_allowed_however_they_are_written() {
        for uri in [
            "https://ctm.example.com/x?y",
            "https://ctm.example.com:443/",
            "https://CTM.Example.COM/",
            "HTTPS://ctm.example.com/",
            "https://user:secret@ctm.example.com/",
        ] {
            assert_eq!(
                locate("https://ctm.example.com/api", uri),
                Destination::Allowed,
                "{uri}"
            );
        }
        assert_eq!(
            locate("https://[::1]:8443", "https://[0:0::1]:8443/"),
            Destination::Allowed
        );
    }

    #[test]
    fn any_other_origin_is_foreign() {
        for uri in [
            "https://ctm.example.com:8443/",
            "http://ctm.example.com/",
            "http://ctm.example.com:443/",
            "https://example.com/",
            "https://ctm.example.com.evil.com/",
            "https://evil.com/ctm.example.com",
            "https://ctm.example.com@evil.com/",
            "https://ctm.example.com./",
            "wss://ctm.example.com/",
            "https://ctm.example.com:65979/",
            "ctm.example.com:443",
        ] {
            assert_eq!(
                locate("https://ctm.example.com", uri),
                Destination::Foreign,
                "{uri}"
            );
        }
    }

    #[test]
    fn a_port_that_is_not_written_is_the_default_of_the_scheme() {
        for (origin, uri, expected) in [
            ("wss://a.test", "wss://a.test:443/", Destination::Allowed),
            ("ws://localhost", "ws://localhost:80/", Destination::Allowed),
            (
                "http://localhost",
                "http://localhost:80/",
                Destination::Allowed,
            ),
            (
                "coap://localhost",
                "coap://localhost/",
                Destination::Allowed,
            ),
            (
                "coap://localhost",
                "coap://localhost:80/",
                Destination::Foreign,
            ),
            (
                "coap://localhost",
                "coap://localhost:443/",
                Destination::Foreign,
            ),
        ] {
            assert_eq!(locate(origin, uri), expected, "{uri}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_or_if_it_is_allowed() {
        assert_eq!(
            locate("http://10.0.0.1:80", "http://10.0.0.1/"),
            Destination::Insecure
        );
        assert_eq!(
            locate("ws://ctm.example.com", "ws://ctm.example.com"),
            Destination::Insecure
        );
        for here in [
            "http://127.8.0.1:80",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]:80",
            "http://localhost",
            "http://LOCALHOST:8080",
        ] {
            assert_eq!(locate(here, here), Destination::Allowed, "{here}");
        }
        let mut allowed = origins(&["http://10.0.0.1"]);
        allowed.allow_plain_http();
        let uri = "http://10.0.0.1/".parse().unwrap();
        assert_eq!(allowed.locate(&uri), Destination::Allowed);
    }

    #[test]
    fn a_name_below_localhost_is_another_machine() {
        for there in [
            "http://a.localhost",
            "http://a.localhost:8080",
            "ws://localhost.localhost",
            "http://localhost.",
        ] {
            assert_eq!(locate(there, there), Destination::Insecure, "{there}");
        }
        let encrypted = "https://a.localhost";
        assert_eq!(locate(encrypted, encrypted), Destination::Allowed);
    }

    #[test]
    fn a_relative_uri_is_unknown_unless_the_service_is_bound() {
        let relative: Uri = "/config/servers".parse().unwrap();
        let mut origins = origins(&["https://ctm.example.com"]);
        assert_eq!(origins.locate(&relative), Destination::Unknown);
        origins.bind();
        assert_eq!(origins.locate(&relative), Destination::Allowed);
        let elsewhere = "https://proxy.example.com/".parse().unwrap();
        assert_eq!(origins.locate(&elsewhere), Destination::Allowed);
        let open = "http://ctm.example.com/".parse().unwrap();
        assert_eq!(origins.locate(&open), Destination::Insecure);
        // An invalid port makes it no safer.
        let odd = "http://ctm.example.com:65979/".parse().unwrap();
        assert_eq!(origins.locate(&odd), Destination::Insecure);
        let odd = "https://ctm.example.com:65979/".parse().unwrap();
        assert_eq!(origins.locate(&odd), Destination::Allowed);
        origins.allow_plain_http();
        assert_eq!(origins.locate(&open), Destination::Allowed);
    }

    #[test]
    fn a_bound_service_matches_every_uri_that_is_safe() {
        let mut bound = origins(&[]);
        let plainly = |origins: &Origins, uri: &str| origins.matches_exactly(&uri.parse().unwrap());
        assert!(!plainly(&bound, "/config/servers"));
        bound.bind();
        for uri in [
            "/config/servers",
            "*",
            "ctm:8443",
            "https://other.example.com/",
        ] {
            assert!(plainly(&bound, uri), "{uri}");
        }
        assert!(!plainly(&bound, "http://ctm.example.com/"));
        bound.allow_plain_http();
        assert!(plainly(&bound, "http://ctm.example.com/"));
    }

    #[test]
    fn without_an_origin_every_destination_is_unknown() {
        let uri = "https://ctm.example.com".parse().unwrap();
        assert_eq!(Origins::default().locate(&uri), Destination::Unknown);
    }

    #[test]
    fn a_second_origin_is_allowed_too() {
        let origins = origins(&["https://a.example.com", "https://b.example.com"]);
        assert!(origins.matches_exactly(&"https://b.example.com/x".parse().unwrap()));
    }

    #[test]
    fn an_address_without_an_origin_is_an_error_that_does_not_quote_it() {
        for (address, expected) in [
            ("", InvalidOrigin::NotAUri),
            ("https://a b", InvalidOrigin::NotAUri),
            ("/relative", InvalidOrigin::NotAbsolute),
            ("ctm.example.com:8443", InvalidOrigin::NotAbsolute),
            ("https://ctm.example.com:65979", InvalidOrigin::Port),
            ("https://ctm.example.com:+80", InvalidOrigin::Port),
            (
                "https://user:secret@ctm.example.com",
                InvalidOrigin::Userinfo,
            ),
        ] {
            let error = address.parse::<Origin>().unwrap_err();
            assert_eq!(error, expected, "{address}");
            assert!(!error.to_string().contains("secret"));
        }
        for (base, expected) in [
            ("wss://ctm.example.com", InvalidOrigin::Scheme),
            ("https://ctm.example.com/?a", InvalidOrigin::Query),
        ] {
            let base: Uri = base.parse().unwrap();
            assert_eq!(Origin::of_base(&base).unwrap_err(), expected);
            assert!(Origin::try_from(base).is_ok());
        }
    }

    #[test]
    fn origins_are_equal_however_they_are_written() {
        let origin = |uri: &str| uri.parse::<Origin>().unwrap();
        let one = origin("https://ctm.example.com/api?x");
        for same in ["https://CTM.example.com:443", "HTTPS://ctm.example.com:/"] {
            assert_eq!(one, origin(same), "{same}");
        }
        assert_ne!(one, origin("https://ctm.example.com:8443"));
        assert_ne!(one, origin("http://ctm.example.com:443"));
    }

    #[test]
    fn targets_differ_by_method_and_by_path() {
        let target = Target::of(&Method::GET, "/run/jobs/status");
        assert_eq!(target, Target::of(&Method::GET, "/run/jobs/status"));
        assert_ne!(target, Target::of(&Method::POST, "/run/jobs/status"));
        assert_ne!(target, Target::of(&Method::GET, "/run/jobs/statuses"));
        assert_ne!(target, Target::of(&Method::GET, "/run/jobs/statuT"));
    }

    #[test]
    fn targets_differ_by_each_byte_of_the_path_and_by_its_length() {
        let mut seen = std::collections::HashMap::new();
        for length in 0..40 {
            for place in 0..=length {
                let mut path = "x".repeat(length);
                if place < length {
                    path.replace_range(place..=place, "y");
                }
                let target = Target::of(&Method::GET, &path);
                assert_eq!(target, Target::of(&Method::GET, &path.clone()));
                let same = seen.insert(target.0, path.clone());
                assert_eq!(same, None, "as {path}");
            }
        }
    }

    #[test]
    fn targets_differ_by_the_number_in_the_path() {
        let ids = |place: &str| {
            let decimal = (0..20_000).map(|number| format!("{number:05}"));
            let hexadecimal = (0..20_000).map(|number| format!("{number:x}"));
            let ids = decimal.chain(hexadecimal.filter(|id| id.len() != 5));
            let places = ids.map(|id| place.replace("{}", &id));
            places.collect::<std::collections::HashSet<_>>()
        };
        for start in [
            "",
            "/",
            "/jobs",
            "/api/v1/users",
            "/automation-api/config/server",
        ] {
            for end in ["", "/", "/logs", "/agents", "/status/output"] {
                let paths = ids(&format!("{start}/{{}}{end}"));
                let targets = paths.iter().map(|path| Target::of(&Method::GET, path));
                let targets: std::collections::HashSet<_> = targets.collect();
                assert_eq!(targets.len(), paths.len(), "{start}/..{end}");
            }
        }
    }

    #[test]
    fn targets_differ_by_a_custom_method() {
        let targets = [
            "PURGE",
            "PURGF",
            "A-METHOD-THAT-IS-LONGER",
            "A-METHOD-THAT-IS-LONGES",
        ];
        let targets = targets.map(|method| Target::of(&method.parse().unwrap(), "/"));
        for (place, target) in targets.iter().enumerate() {
            assert!(!targets[..place].contains(target));
        }
    }
}
