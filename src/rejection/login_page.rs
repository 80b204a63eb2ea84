//! The address of a login page, to which a server redirects in place of an answer.

use std::fmt;

use http::Uri;
use http::uri::Authority;

/// A path on any host, or on one.
#[derive(Clone)]
pub(super) struct LoginPage {
    authority: Option<Authority>,
    /// Without a `/` at its end.
    path: String,
}

impl LoginPage {
    /// Returns `None` if `page` is neither a path from the root nor an `http` or `https`
    /// URI.
    pub(super) fn new(page: &str) -> Option<Self> {
        let uri: Uri = page.parse().ok()?;
        let is_path = page.starts_with('/') && !page.starts_with("//");
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        (is_path || is_web).then(|| Self {
            path: uri.path().trim_end_matches('/').to_owned(),
            authority: uri.into_parts().authority,
        })
    }

    /// Returns whether a `Location` (RFC 9110, section 10.2.2) leads to this page or to one
    /// below it.
    pub(super) fn is_at(&self, location: &[u8]) -> bool {
        let mut bytes = location.iter();
        let end = bytes.position(|byte| matches!(byte, b'?' | b'#'));
        let Ok(location) = std::str::from_utf8(&location[..end.unwrap_or(location.len())]) else {
            return false;
        };
        let is_web = |scheme: &str| {
            let schemes = ["", "http:", "https:"];
            schemes.iter().any(|web| scheme.eq_ignore_ascii_case(web))
        };
        match (location.split_once("//"), &self.authority) {
            (Some((scheme, rest)), authority) if is_web(scheme) => {
                let (found, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let is_host =
                    |page: &Authority| host(page.as_str()).eq_ignore_ascii_case(host(found));
                authority.as_ref().is_none_or(is_host) && self.is_at_path(path)
            }
            // The host of the request is not known here.
            (_, Some(_)) => false,
            _ if location.starts_with('/') => self.is_at_path(location),
            // Nor is its path.
            _ => self.ends_with(location),
        }
    }

    fn is_at_path(&self, path: &str) -> bool {
        match path.strip_prefix(self.path.as_str()) {
            // On any host, each page would be below the root.
            Some(below) if self.path.is_empty() && self.authority.is_none() => {
                matches!(below, "" | "/")
            }
            Some(below) => below.is_empty() || below.starts_with(['/', ';']),
            None => false,
        }
    }

    /// Returns whether the path ends with a relative reference (RFC 3986, section 4.2), or
    /// the reference leads below.
    fn ends_with(&self, relative: &str) -> bool {
        let mut relative = relative;
        while let Some(rest) = relative
            .strip_prefix("./")
            .or_else(|| relative.strip_prefix("../"))
        {
            relative = rest;
        }
        let ends = relative.match_indices(['/', ';']).map(|(end, _)| end);
        let mut ends = ends.chain([relative.len()]).filter(|end| *end > 0);
        ends.any(|end| {
            let before = self.path.strip_suffix(&relative[..end]);
            before.is_some_and(|before| before.ends_with('/'))
        })
    }
}

/// Returns an authority without a default port: a proxy may end TLS before the server.
fn host(authority: &str) -> &str {
    let host = authority.strip_suffix(":443");
    let host = host.or_else(|| authority.strip_suffix(":80"));
    host.unwrap_or(authority)
}

impl fmt::Display for LoginPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(authority) = &self.authority {
            write!(f, "//{authority}")?;
        }
        f.write_str(&self.path)?;
        f.write_str(if self.path.is_empty() { "/" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_at(page: &str, location: &str) -> bool {
        LoginPage::new(page).unwrap().is_at(location.as_bytes())
    }

    #[test]
    fn a_path_is_found_on_any_host_with_any_query_and_below() {
        for location in [
            "/login",
            "/login/",
            "/login?next=/jobs",
            "/login#top",
            "/login/step1",
            "/login;jsessionid=1",
            "http://10.0.0.5:8080/login",
            "https://sso.example.com/login?x=//",
            "//sso.example.com/login",
            "login",
            "./login?x",
            "../login/",
            ".././login;x=1",
            "login/step1",
            "HTTPS://x.test/login",
        ] {
            assert!(is_at("/login", location), "{location}");
            assert!(is_at("/login/", location), "{location}");
        }
        for location in [
            "/",
            "",
            "/loginhelp",
            "/jobs/login",
            "/jobs?next=/login",
            "https://login/",
            "https://x.test",
            "in",
            "?login",
            "mailto:login",
        ] {
            assert!(!is_at("/login", location), "{location}");
        }
        assert!(is_at("/app/login", "login"));
        assert!(is_at("/", "/"));
        assert!(is_at("/", "https://x.test?a=b"));
        assert!(!is_at("/", "/jobs"));
    }

    #[test]
    fn a_uri_is_found_on_its_host_only() {
        let page = "https://sso.example.com/oauth2";
        for location in [
            "https://sso.example.com/oauth2/authorize?client_id=1",
            "https://SSO.example.com:443/oauth2",
            "//sso.example.com/oauth2",
        ] {
            assert!(is_at(page, location), "{location}");
        }
        for location in [
            "https://sso.example.com.evil.test/oauth2",
            "https://sso.example.com/",
            "https://evil.test/oauth2",
            "https://sso.example.com:8443/oauth2",
            // On the host of the request.
            "/oauth2",
            "oauth2",
        ] {
            assert!(!is_at(page, location), "{location}");
        }
        assert!(is_at(
            "https://sso.example.com",
            "https://sso.example.com/authorize"
        ));
        assert!(!is_at("https://sso.example.com", "/"));
        let latin_1 = LoginPage::new("/login").unwrap();
        assert!(latin_1.is_at(b"/login?next=/caf\xe9"));
        assert!(!latin_1.is_at(b"/caf\xe9"));
    }

    #[test]
    fn a_page_is_a_path_from_the_root_or_a_web_address() {
        for page in [
            "login",
            "",
            "sso.example.com",
            "ftp://x.test/login",
            "/a b",
            "*",
            "//sso.example.com/login",
        ] {
            assert!(LoginPage::new(page).is_none(), "{page:?}");
        }
    }
}
