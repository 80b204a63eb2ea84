//! Why a request was not sent, or an operation of the session failed.

use std::fmt;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::BoxError;
use crate::secret::excerpt::Excerpt;
use crate::secret::redact::{quotes, redact};

/// An error of the session.
///
/// In place of a response it always means that **the request was not executed**:
/// errors of the inner service pass unchanged, and a rejection is a response.
/// It is cheap to clone: everybody who waited for a login gets the same one.
///
/// `Display` is one line: the operation that failed, what failed in it (the login
/// system, the credential source, the session), and the innermost cause. For
/// example `login failed: the login system was not reached: Connection refused`.
/// The source has the causes in between.
///
/// A response's body may end with an error of the kind
/// [`Truncated`](ErrorKind::Truncated), which is about that response only.
///
/// A service's error is boxed, as in tower. [`Error::find`] tells ours from
/// the inner service's:
///
/// ```
/// use tower_reauth::{BoxError, Error, ErrorKind};
///
/// fn may_be_retried(error: &BoxError) -> bool {
///     match Error::find(&**error).map(Error::kind) {
///         Some(ErrorKind::Unavailable | ErrorKind::DeadlineExceeded) => true,
///         Some(_) => false,
///         // An error of the inner service: the request may have been executed.
///         None => false,
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    /// The operation that failed, if one did.
    operation: Option<Operation>,
    /// The part that failed, if the kind does not name it.
    culprit: Option<&'static str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    retry_after: Option<Duration>,
}

/// An operation of the session that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Login,
    Logout,
    PasswordChange,
}

/// What kind of [`Error`] it is, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The session was logged out. [`Session::login`](crate::Session::login)
    /// opens it again.
    LoggedOut,
    /// The session was closed for good, with
    /// [`Session::close`](crate::Session::close). Make another one.
    Closed,
    /// The server refused the credentials, and they are not sent again.
    /// Put the right ones into their source, or call
    /// [`Session::login`](crate::Session::login) once they are right. Of a
    /// password change it says that the server denied it: choose another one.
    Refused,
    /// The password has expired. It is right, and not sent again until it is
    /// changed, the source yields another one, or
    /// [`Session::login`](crate::Session::login) is called.
    PasswordExpired,
    /// The account is locked, which says nothing about the password. Wait, or have
    /// it unlocked. The session tries again later.
    Locked,
    /// The login needs a person: a second factor or a consent, for example. Call
    /// [`Session::login`](crate::Session::login) when one is present.
    InteractionRequired,
    /// The login system cannot answer now, or the source of the credentials
    /// yields none: the error's source says which. Try again after
    /// [`Error::retry_after`].
    Unavailable,
    /// The login system's answer could not be read. Look at the error's
    /// source: most often something else answers at that address.
    Protocol,
    /// The answer was lost, so that it may or may not have happened. After a
    /// password change the session tries both passwords at its next login, and
    /// after a login it tries again later.
    Uncertain,
    /// The provider, or its source of credentials, cannot do that.
    Unsupported,
    /// The server rejected the token that a password change used, and the one
    /// that a renewal brought, if one could be made. The old password stays.
    TokenRejected,
    /// The provider, or its source of credentials, did not answer within the
    /// login timeout. Try again, or set a longer one with
    /// [`login_timeout`](crate::SessionBuilder::login_timeout).
    DeadlineExceeded,
    /// The provider panicked, which is a defect in it.
    ProviderPanicked,
    /// There is no tokio runtime to log in on, it has no timer, or it shut down
    /// meanwhile. Poll the request within one that was built with `enable_time` or
    /// `enable_all`. To see that a timer is missing, the session catches a panic of
    /// tokio, which the panic hook reports.
    NoRuntime,
    /// The provider sent a call through the session that it serves. Give it a
    /// client without the session's layer.
    Recursive,
    /// The session has no origin, or the request's URI names none. Give the
    /// session one with [`Profile::at`](crate::Profile::at) and requests an
    /// absolute URI, or say [`Profile::bound`](crate::Profile::bound).
    NoOrigin,
    /// The token would go over plain `http` to another machine. Use `https`,
    /// or say [`allow_plain_http`](crate::Profile::allow_plain_http).
    InsecureOrigin,
    /// A rejected response is returned without the rest of its body, which was longer
    /// than 16 KiB or slow: the connection was released for a replay, which then got
    /// no token. Only a [`SessionBody`](crate::SessionBody) yields this error, after
    /// the part that was read. It does not say that the request was not executed: the
    /// status of the response does, and its [`Reauth`](crate::Reauth) says why there
    /// was no replay.
    Truncated,
}

impl ErrorKind {
    /// The kind in `snake_case`, for logs and the labels of metrics. It never changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::PasswordExpired => "password_expired",
            Self::Locked => "locked",
            Self::InteractionRequired => "interaction_required",
            Self::Unavailable => "unavailable",
            Self::Protocol => "protocol",
            Self::Uncertain => "uncertain",
            Self::Unsupported => "unsupported",
            Self::TokenRejected => "token_rejected",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ProviderPanicked => "provider_panicked",
            Self::NoRuntime => "no_runtime",
            Self::Recursive => "recursive",
            Self::NoOrigin => "no_origin",
            Self::InsecureOrigin => "insecure_origin",
            Self::Truncated => "truncated",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self {
            kind,
            operation: None,
            culprit: None,
            source: None,
            retry_after: None,
        }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// How long to wait before another try can succeed, where that is known.
    ///
    /// The session's own times come first: it honours a `Retry-After` of the server for
    /// an hour at most, and after a refusal it asks the source of the credentials again
    /// after 10 s.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Finds an error of ours in `error` or among its sources.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
        with_causes(Some(error)).find_map(|error| error.downcast_ref())
    }

    /// Names the operation that failed, unless the error names one already.
    pub(crate) fn during(mut self, operation: Operation) -> Self {
        self.operation = self.operation.or(Some(operation));
        self
    }

    /// Names what failed.
    pub(crate) fn with_culprit(mut self, culprit: &'static str) -> Self {
        self.culprit = Some(culprit);
        self
    }

    pub(crate) fn with_source(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub(crate) fn without_retry_after(mut self) -> Self {
        self.retry_after = None;
        self
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        if let Some(delay) = &self.retry_after {
            debug.field("retry_after", delay);
        }
        debug.finish()
    }
}

impl Error {
    /// Returns the operation that failed, if the error is about one.
    fn operation(&self) -> Option<&'static str> {
        match self.kind {
            // About the session, a request or a response.
            ErrorKind::LoggedOut
            | ErrorKind::Closed
            | ErrorKind::NoOrigin
            | ErrorKind::InsecureOrigin
            | ErrorKind::Truncated => None,
            ErrorKind::Refused
            | ErrorKind::PasswordExpired
            | ErrorKind::Locked
            | ErrorKind::InteractionRequired
            | ErrorKind::Unavailable
            | ErrorKind::Protocol
            | ErrorKind::Uncertain
            | ErrorKind::Unsupported
            | ErrorKind::TokenRejected
            | ErrorKind::DeadlineExceeded
            | ErrorKind::ProviderPanicked
            | ErrorKind::NoRuntime
            | ErrorKind::Recursive => self.operation.map(|operation| match operation {
                Operation::Login => "login failed",
                Operation::Logout => "logout failed",
                Operation::PasswordChange => "password change failed",
            }),
        }
    }

    /// Returns what failed, and what to do about it.
    fn culprit(&self) -> &'static str {
        self.culprit.unwrap_or(match self.kind {
            ErrorKind::LoggedOut => "the session is logged out",
            ErrorKind::Closed => "the session is closed",
            ErrorKind::Refused if self.operation == Some(Operation::PasswordChange) => {
                "the server denied it"
            }
            ErrorKind::Refused => "the server refused the credentials",
            ErrorKind::PasswordExpired => "the password has expired",
            ErrorKind::Locked => "the account is locked",
            ErrorKind::InteractionRequired => "the login needs a person",
            ErrorKind::Unavailable => "the login system is unavailable",
            ErrorKind::Protocol => "the login system's answer could not be read",
            ErrorKind::Uncertain => "the answer was lost, so it may or may not have happened",
            ErrorKind::Unsupported => "the provider does not support that",
            ErrorKind::TokenRejected => "the server rejected the token",
            ErrorKind::DeadlineExceeded => "the provider did not answer within the login timeout",
            ErrorKind::ProviderPanicked => "the provider panicked",
            ErrorKind::NoRuntime => {
                "there is no tokio runtime with a timer: poll within one that was built with \
                 `enable_time` or `enable_all`"
            }
            ErrorKind::Recursive => "the provider calls through the session that it serves",
            ErrorKind::NoOrigin => {
                "it is not known whether the token may go there, since the session has no origin or \
                 the request's URI is relative: name the origin with `Profile::at`, or use \
                 `Profile::bound` if the client talks to one server only"
            }
            ErrorKind::InsecureOrigin => {
                "the token does not go over plain http to another machine: use https, or \
                 `Profile::allow_plain_http`"
            }
            ErrorKind::Truncated => {
                "the rest of the rejected response was dropped to release its connection for a \
                 replay, which got no token"
            }
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.operation() {
            write!(f, "{operation}: ")?;
        }
        let culprit = self.culprit();
        f.write_str(culprit)?;
        match innermost(std::error::Error::source(self)) {
            Some(cause) if !culprit.ends_with(cause.as_str()) => write!(f, ": {cause}"),
            Some(_) | None => Ok(()),
        }
    }
}

/// Returns the text of the innermost cause, or that of a cause around it whose text
/// ends with it, such as `<file>: No such file`.
fn innermost(causes: Option<&(dyn std::error::Error + 'static)>) -> Option<Excerpt> {
    let texts = with_causes(causes).map(text_of);
    let last = texts.filter(|text| !text.as_str().is_empty()).last()?;
    // An error of ours repeats what failed.
    let others = with_causes(causes).filter(|cause| !cause.is::<Error>());
    let mut around = others.map(text_of).filter(|text| !text.is_cut());
    let around = around.find(|text| text.as_str().ends_with(last.as_str()));
    Some(around.unwrap_or(last))
}

/// Returns the text of an error, in memory that is wiped: it may quote a secret.
fn text_of(error: &(dyn std::error::Error + 'static)) -> Excerpt {
    let mut text = Excerpt::new(MOST_TEXT);
    text.append(error);
    text
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// The most errors of a chain that are read: sources may form a cycle.
const MOST_CAUSES: usize = 32;

/// The limit for the text of an error and its causes, in bytes: enough for a person,
/// where an error may quote a whole answer.
const MOST_TEXT: usize = 4 * 1024;

/// The limit for the `Debug` forms of an error and its causes, in bytes. They are only
/// searched for secrets. A backtrace, which some errors show, fits.
const MOST_DEBUG: usize = 64 * 1024;

/// Iterates over an error and its causes.
pub(crate) fn with_causes<'a>(
    error: Option<&'a (dyn std::error::Error + 'static)>,
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    iter::successors(error, |error| error.source()).take(MOST_CAUSES)
}

/// Displays an error and its causes on one line, which ends in "…" where it is too long.
///
/// Skips a cause that the line already ends with, since many errors include
/// the text of their source in their own.
pub(crate) struct ErrorChain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl ErrorChain<'_> {
    /// Returns the line. It is cut after [`MOST_TEXT`] bytes, or if there are causes
    /// that it does not show.
    fn line(&self) -> Excerpt {
        let mut line = Excerpt::new(MOST_TEXT);
        let mut last = self.0;
        for cause in with_causes(Some(self.0)) {
            last = cause;
            // In a buffer of its own: a cause that the line ends with must not cut it.
            let text = text_of(cause);
            if line.as_str().ends_with(text.as_str()) && !text.is_cut() {
                continue;
            }
            if !line.as_str().is_empty() {
                line.append(": ");
            }
            line.append(text.as_str());
            if text.is_cut() {
                line.cut();
            }
        }
        if last.source().is_some() {
            line.cut();
        }
        line
    }
}

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.line())
    }
}

/// Returns the text of a cause without `secrets`, if it may quote one: a server's message
/// may quote the request, and a store's the record.
///
/// A cause that quotes no secret, as it is or escaped once, keeps its type. A cause that
/// is too long to be read to its end may quote a secret in the rest. Secrets of fewer than
/// four bytes are not searched for, since any text contains those.
pub(crate) fn redacted_cause(
    cause: &(dyn std::error::Error + 'static),
    secrets: &[SecretString],
) -> Option<BoxError> {
    let secrets = secrets.iter().map(ExposeSecret::expose_secret);
    let secrets = secrets.filter(|secret| secret.len() >= 4);
    let secrets: Vec<&str> = secrets.collect();
    let may_quote = |text: &Excerpt| text.is_cut() || quotes(text.as_str(), &secrets);
    let line = ErrorChain(cause).line();
    if !may_quote(&line) && !may_quote(&debug(cause)) {
        return None;
    }
    let mut text = redact(line.as_str(), line.extent(), &secrets).into_owned();
    if line.is_cut() {
        text.push('…');
    }
    Some(text.into())
}

/// Returns how an error and its causes look to `Debug`.
fn debug(error: &(dyn std::error::Error + 'static)) -> Excerpt {
    let mut text = Excerpt::new(MOST_DEBUG);
    for cause in with_causes(Some(error)) {
        text.append(format_args!("{cause:?}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::provider::ProviderError;
    use crate::secret::percent::percent_encoded;

    /// An error whose source is itself, or the given one.
    #[derive(Debug)]
    struct Caused(&'static str, Option<Box<Caused>>, bool);

    impl fmt::Display for Caused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Caused {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            match &self.1 {
                Some(cause) => Some(&**cause),
                None => self.2.then_some(self as _),
            }
        }
    }

    fn chain(texts: &[&'static str], ends_in_cycle: bool) -> Caused {
        let mut texts = texts.iter().rev();
        let last = texts.next().expect("there is a text");
        let last = Caused(last, None, ends_in_cycle);
        texts.fold(last, |cause, text| Caused(text, Some(cause.into()), false))
    }

    #[test]
    fn an_error_is_displayed_with_each_cause_once() {
        let half: &str = "x".repeat(MOST_TEXT / 2 + 1).leak();
        for (texts, line) in [
            (&["a"][..], "a"),
            (&["a", "b", "c"], "a: b: c"),
            (&["a: b: c", "b: c", "c", "d"], "a: b: c: d"),
            (&["a", "", "b"], "a: b"),
            (&["", "a"], "a"),
            (&[half, half], half),
        ] {
            assert_eq!(ErrorChain(&chain(texts, false)).to_string(), line);
        }
    }

    #[test]
    fn a_cycle_of_causes_is_displayed_once() {
        let error = chain(&["a", "b"], true);
        assert_eq!(ErrorChain(&error).to_string(), "a: b…");
        assert!(Error::find(&error).is_none());
    }

    #[test]
    fn a_chain_is_cut_behind_its_last_readable_cause() {
        let texts = ["x"; MOST_CAUSES + 1];
        assert_eq!(ErrorChain(&chain(&texts[1..], false)).to_string(), "x");
        assert_eq!(ErrorChain(&chain(&texts, false)).to_string(), "x…");
    }

    #[test]
    fn a_long_chain_is_cut() {
        let most: &str = "x".repeat(MOST_TEXT).leak();
        assert_eq!(ErrorChain(&chain(&[most], false)).to_string(), most);
        let longer: &str = format!("{most}x").leak();
        for texts in [[most, "b"], ["a", most], [most, longer]] {
            let line = ErrorChain(&chain(&texts, false)).to_string();
            assert_eq!(line.len(), MOST_TEXT + "…".len());
            assert!(line.ends_with("x…"));
        }
    }

    const SECRET: &str = "secret \"& of many characters";

    fn without_secret(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
        let redacted = redacted_cause(cause, &[SecretString::from(SECRET)]);
        redacted.map(|redacted| redacted.to_string())
    }

    /// An error whose text has no end, and which counts how much of it was read.
    #[derive(Default)]
    struct Endless {
        read: Cell<usize>,
        has_text: bool,
    }

    impl Endless {
        fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str(&"x".repeat(100))?;
                self.read.set(self.read.get() + 100);
            }
        }
    }

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.has_text {
                true => f.write_str("text"),
                false => self.write(f),
            }
        }
    }

    impl fmt::Debug for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.write(f)
        }
    }

    impl std::error::Error for Endless {}

    #[test]
    fn a_cause_is_read_up_to_a_limit() {
        let endless = Endless::default();
        let text = without_secret(&endless).expect("a text that is cut is replaced");
        assert_eq!(text, format!("{}…", "x".repeat(MOST_TEXT)));
        assert!(endless.read.get() <= MOST_TEXT);

        let endless = Endless {
            has_text: true,
            ..Endless::default()
        };
        assert_eq!(without_secret(&endless).as_deref(), Some("text"));
        assert!(endless.read.get() <= MOST_DEBUG);
    }

    #[test]
    fn a_cause_that_is_read_to_its_end_and_quotes_nothing_keeps_its_type() {
        let text = |length| &*"x".repeat(length).leak();
        let most = chain(&[text(MOST_TEXT)], false);
        assert_eq!(without_secret(&most), None);
        let longer = chain(&[text(MOST_TEXT + 1)], false);
        assert!(without_secret(&longer).is_some());
    }

    #[test]
    fn no_start_of_a_secret_is_left_where_a_cause_is_cut() {
        let percent = percent_encoded(SECRET);
        let json = SECRET.replace('"', "\\\"");
        for quotation in [SECRET, &percent, &json] {
            for left in 0..quotation.len() {
                let before = ".".repeat(MOST_TEXT - left);
                let error = chain(&[format!("{before}{quotation}").leak()], false);
                let text = without_secret(&error).expect("a text that is cut is replaced");
                assert_eq!(text, format!("{before}…"));
            }
        }
    }

    #[test]
    fn a_secret_that_only_debug_shows_is_removed_at_any_depth() {
        /// An error whose source is not a part of its `Debug`.
        struct Outer(Inner);
        #[derive(Debug)]
        struct Inner(#[expect(dead_code, reason = "shown by `Debug`")] &'static str);

        impl fmt::Debug for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("Outer")
            }
        }

        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outer")
            }
        }

        impl fmt::Display for Inner {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("inner")
            }
        }

        impl std::error::Error for Inner {}

        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }

        let text = without_secret(&Outer(Inner(SECRET)));
        assert_eq!(text.as_deref(), Some("outer: inner"));
        assert_eq!(without_secret(&Outer(Inner("none"))), None);
    }

    #[test]
    fn a_kinds_label_is_its_own_and_never_changes() {
        for (kind, label) in [
            (ErrorKind::LoggedOut, "logged_out"),
            (ErrorKind::Closed, "closed"),
            (ErrorKind::Refused, "refused"),
            (ErrorKind::PasswordExpired, "password_expired"),
            (ErrorKind::Locked, "locked"),
            (ErrorKind::InteractionRequired, "interaction_required"),
            (ErrorKind::Unavailable, "unavailable"),
            (ErrorKind::Protocol, "protocol"),
            (ErrorKind::Uncertain, "uncertain"),
            (ErrorKind::Unsupported, "unsupported"),
            (ErrorKind::TokenRejected, "token_rejected"),
            (ErrorKind::DeadlineExceeded, "deadline_exceeded"),
            (ErrorKind::ProviderPanicked, "provider_panicked"),
            (ErrorKind::NoRuntime, "no_runtime"),
            (ErrorKind::Recursive, "recursive"),
            (ErrorKind::NoOrigin, "no_origin"),
            (ErrorKind::InsecureOrigin, "insecure_origin"),
            (ErrorKind::Truncated, "truncated"),
        ] {
            assert_eq!(kind.as_str(), label);
        }
    }

    #[test]
    fn an_error_of_ours_is_found_among_the_sources_of_another() {
        let ours = Error::new(ErrorKind::Closed);
        let around = ProviderError::unavailable(ProviderError::unavailable(ours.clone()));
        for error in [&ours as &dyn std::error::Error, &around] {
            let found = Error::find(error).map(Error::kind);
            assert_eq!(found, Some(ErrorKind::Closed));
        }
        let another = ProviderError::unavailable("of the client");
        assert!(Error::find(&another).is_none());
    }
}
