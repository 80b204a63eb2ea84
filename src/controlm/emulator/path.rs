//! Paths: what a request's path is below the base path.

/// The segments of a path. Doubled and trailing slashes do not count, as with the real server.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The path in its normal form: `/` before each segment, and nothing for no segment.
pub(super) fn normal<'a>(segments: impl Iterator<Item = &'a str>) -> String {
    segments.fold(String::new(), |path, segment| path + "/" + segment)
}

/// The rest of `path` below `base`, or `None` if it is not below.
pub(super) fn below(base: &str, path: &str) -> Option<String> {
    let mut rest = segments(path);
    for segment in segments(base) {
        if rest.next() != Some(segment) {
            return None;
        }
    }
    Some(normal(rest))
}
