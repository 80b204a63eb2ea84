//! Where a token may go: scheme, host and port, and nothing else decides it.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, Scheme};

/// A request extension that opts one request out: it passes without a token,
/// whatever its origin, and its response is not looked at.
///
/// A redirect follower outside of the layer makes new requests. tower-http's
/// keeps the extensions of one that stays at its origin, and drops them of one
/// that goes elsewhere: should that lead back home, the token goes along.
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
    Home,
    /// An origin of the token, but over plain `http` to another machine.
    Insecure,
    /// Somewhere else: the request is none of the session's business.
    Elsewhere,
    /// Nobody can tell: the session has no origin, or the request names none.
    Unknown,
}

#[derive(Clone, Debug)]
struct Origin {
    scheme: Scheme,
    /// `host` or `host:port` as the origin was written, for the quick comparison.
    /// Without userinfo, which may hold a password.
    authority: String,
    host: Host,
    port: Option<u16>,
    /// The scheme encrypts, or the host is this machine.
    safe: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Ip(IpAddr),
}

impl Origins {
    pub(crate) fn add(&mut self, uri: &Uri) {
        if let Some(origin) = Origin::of(uri) {
            let origins = self.list.iter().cloned().chain([origin]);
            self.list = origins.collect();
        }
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

    /// Whether `uri` is home, told by the bytes alone.
    ///
    /// `false` means that it takes a closer look, in [`Origins::locate`].
    #[inline]
    pub(crate) fn is_plainly_home(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return self.bound;
        };
        self.bound && (*scheme == Scheme::HTTPS || self.plain_http)
            || self.list.iter().any(|origin| {
                origin.authority == authority.as_str()
                    && origin.scheme == *scheme
                    && (origin.safe || self.plain_http)
            })
    }

    /// Where `uri` leads, with letter case, default ports and userinfo considered.
    #[cold]
    pub(crate) fn locate(&self, uri: &Uri) -> Destination {
        if self.bound {
            // Whatever the URI says, it goes to the one server; but how it gets
            // there, the URI does say.
            let is_safe = match (uri.scheme(), uri.host()) {
                (Some(scheme), Some(host)) => is_safe(scheme, &Host::parse(host)),
                _ => true,
            };
            return match is_safe || self.plain_http {
                true => Destination::Home,
                false => Destination::Insecure,
            };
        }
        if self.list.is_empty() {
            return Destination::Unknown;
        }
        let Some(there) = Place::of(uri) else {
            // An authority alone is a CONNECT: it asks for a tunnel, and the
            // proxy that opens it is not who the token is for.
            return match uri.authority() {
                Some(_) => Destination::Elsewhere,
                None => Destination::Unknown,
            };
        };
        match self.list.iter().find(|origin| origin.is_at(&there)) {
            Some(origin) if origin.safe || self.plain_http => Destination::Home,
            Some(_) => Destination::Insecure,
            None => Destination::Elsewhere,
        }
    }
}

/// What a URI says of the origin it is at (RFC 6454, section 4).
struct Place<'a> {
    scheme: &'a Scheme,
    authority: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Place<'a> {
    fn of(uri: &'a Uri) -> Option<Self> {
        let scheme = uri.scheme()?;
        let authority = without_userinfo(uri.authority()?);
        let host = uri.host()?;
        // What is no port is nobody's default: clients differ in where it leads.
        let port = match authority.strip_prefix(host)? {
            "" | ":" => default_port(scheme),
            port => Some(port_of(port.strip_prefix(':')?)?),
        };
        Some(Self {
            scheme,
            authority,
            host,
            port,
        })
    }
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let place = Place::of(uri)?;
        let host = Host::parse(place.host);
        let safe = is_safe(place.scheme, &host);
        Some(Self {
            scheme: place.scheme.clone(),
            authority: place.authority.to_owned(),
            host,
            port: place.port,
            safe,
        })
    }

    /// RFC 6454, section 5. `http::uri::Scheme` compares without letter case.
    fn is_at(&self, place: &Place<'_>) -> bool {
        self.scheme == *place.scheme && self.port == place.port && self.host.is(place.host)
    }
}

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

    /// RFC 6761, section 6.3: `localhost` and what ends in it never leave the machine.
    fn is_this_machine(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

/// An address in brackets is one of version 6 (RFC 3986, section 3.2.2).
fn ip(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

/// A port is digits: Rust's own parser takes a sign too.
fn port_of(text: &str) -> Option<u16> {
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

/// The method and path of a request, told apart from others by a hash.
///
/// It is made for each request, so it is cheap rather than strong: two targets
/// that collide share a cool-down, and no more.
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

/// Words of eight bytes, each folded in by a multiplication whose two halves
/// both count, as in wyhash. Shifts and single multiplications are not enough:
/// numbers that differ in two digits would be the same in many paths.
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
            // Whatever is left over, together with some of what was read.
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
            origins.add(&uri.parse().unwrap());
        }
        origins
    }

    fn locate(origin: &str, uri: &str) -> Destination {
        let origins = origins(&[origin]);
        let uri: Uri = uri.parse().unwrap();
        let destination = origins.locate(&uri);
        assert!(
            destination == Destination::Home || !origins.is_plainly_home(&uri),
            "the quick look and the closer one disagree about {uri}"
        );
        destination
    }

    #[test]
    fn the_same_scheme_host_and_port_are_home_however_they_are_written() {
        for uri in [
            "https://ctm.example.com/x?y",
            "https://ctm.example.com:443/",
            "https://CTM.Example.COM/",
            "HTTPS://ctm.example.com/",
            "https://user:secret@ctm.example.com/",
        ] {
            assert_eq!(
                locate("https://ctm.example.com/api", uri),
                Destination::Home,
                "{uri}"
            );
        }
        assert_eq!(
            locate("https://[::1]:8443", "https://[0:0::1]:8443/"),
            Destination::Home
        );
        for uri in [
            "https://ctm.example.com/",
            "https://ctm.example.com:/",
            "https://user:secret@ctm.example.com:443/",
        ] {
            assert_eq!(
                locate("https://other:secret@ctm.example.com", uri),
                Destination::Home,
                "{uri}"
            );
        }
    }

    #[test]
    fn anything_else_is_elsewhere() {
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
                Destination::Elsewhere,
                "{uri}"
            );
        }
    }

    #[test]
    fn a_port_that_is_not_written_is_the_schemes_own() {
        for (origin, uri, expected) in [
            ("wss://a.test", "wss://a.test:443/", Destination::Home),
            ("ws://localhost", "ws://localhost:80/", Destination::Home),
            (
                "http://localhost",
                "http://localhost:80/",
                Destination::Home,
            ),
            ("coap://localhost", "coap://localhost/", Destination::Home),
            (
                "coap://localhost",
                "coap://localhost:80/",
                Destination::Elsewhere,
            ),
            (
                "coap://localhost",
                "coap://localhost:443/",
                Destination::Elsewhere,
            ),
        ] {
            assert_eq!(locate(origin, uri), expected, "{uri}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_or_for_whoever_says_so() {
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
            "http://localhost",
            "http://a.localhost",
        ] {
            assert_eq!(locate(here, here), Destination::Home, "{here}");
        }
        let mut told = origins(&["http://10.0.0.1"]);
        told.allow_plain_http();
        let uri = "http://10.0.0.1/".parse().unwrap();
        assert_eq!(told.locate(&uri), Destination::Home);
    }

    #[test]
    fn a_relative_uri_leads_nowhere_unless_the_service_is_bound() {
        let relative: Uri = "/config/servers".parse().unwrap();
        let mut origins = origins(&["https://ctm.example.com"]);
        assert_eq!(origins.locate(&relative), Destination::Unknown);
        origins.bind();
        assert_eq!(origins.locate(&relative), Destination::Home);
        let elsewhere = "https://proxy.example.com/".parse().unwrap();
        assert_eq!(origins.locate(&elsewhere), Destination::Home);
        let open = "http://ctm.example.com/".parse().unwrap();
        assert_eq!(origins.locate(&open), Destination::Insecure);
        // What is no port makes it no safer.
        let odd = "http://ctm.example.com:65979/".parse().unwrap();
        assert_eq!(origins.locate(&odd), Destination::Insecure);
        let odd = "https://ctm.example.com:65979/".parse().unwrap();
        assert_eq!(origins.locate(&odd), Destination::Home);
        origins.allow_plain_http();
        assert_eq!(origins.locate(&open), Destination::Home);
    }

    #[test]
    fn what_a_bound_service_is_sent_is_plainly_home_where_it_is_safe() {
        let mut bound = origins(&[]);
        let plainly = |origins: &Origins, uri: &str| origins.is_plainly_home(&uri.parse().unwrap());
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
    fn without_an_origin_nobody_can_tell() {
        let uri = "https://ctm.example.com".parse().unwrap();
        assert_eq!(Origins::default().locate(&uri), Destination::Unknown);
        assert_eq!(origins(&["/relative"]).locate(&uri), Destination::Unknown);
    }

    #[test]
    fn a_second_origin_is_home_too() {
        let origins = origins(&["https://a.example.com", "https://b.example.com"]);
        assert!(origins.is_plainly_home(&"https://b.example.com/x".parse().unwrap()));
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
    fn a_target_is_told_by_each_byte_of_its_path_and_by_its_length() {
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
    fn a_target_is_told_by_the_number_in_its_path() {
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
    fn a_target_is_told_by_a_method_of_ones_own() {
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
