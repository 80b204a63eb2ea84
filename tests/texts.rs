//! The one line that an error is displayed as: the operation, what failed, and why.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_reauth::controlm::ControlM;
use tower_reauth::provider::Api;
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, FixedToken, LoginContext, LogoutContext,
    PasswordChange, PasswordContext, Profile, ProviderError, Session, Source, SourceError, Token,
    provider_fn,
};

type Body = Full<Bytes>;

const HOME: &str = "https://api.test";
const ELSEWHERE: &str = "http://10.0.0.1";

/// A provider whose calls fail with these errors, if any.
#[derive(Default)]
struct Failing {
    source: Option<Source>,
    login: Option<ProviderError>,
    logout: Option<ProviderError>,
    change: Option<ProviderError>,
}

impl CredentialProvider for Failing {
    fn profile(&self) -> Profile {
        Profile::at(HOME.parse().unwrap())
    }

    fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        match &self.login {
            Some(error) => Err(error.clone()),
            None => Ok(Token::bearer("3f9a")?),
        }
    }

    async fn logout(&self, _: LogoutContext) -> Result<(), ProviderError> {
        self.logout.clone().map_or(Ok(()), Err)
    }

    async fn change_password(&self, _: PasswordContext) -> Result<(), ProviderError> {
        self.change.clone().map_or(Ok(()), Err)
    }
}

async fn login_error(provider: impl CredentialProvider) -> tower_reauth::Error {
    Session::new(provider).token().await.unwrap_err()
}

async fn login_text(error: ProviderError) -> String {
    let login = Some(error);
    let failing = Failing {
        login,
        ..Failing::default()
    };
    login_error(failing).await.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_failed_login_names_the_login_system_and_the_innermost_cause_once() {
    let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, Around("no route"));
    for (error, text) in [
        (
            ProviderError::unavailable("status 503"),
            "login failed: the login system is unavailable: status 503",
        ),
        (
            ProviderError::refused("wrong user or password"),
            "login failed: the server refused the credentials: wrong user or password",
        ),
        (
            ProviderError::lost(Outer(refused().into())),
            "login failed: the login system was not reached: around: no route",
        ),
        // A cause of ours is not named twice.
        (
            ProviderError::unavailable(ProviderError::unavailable("status 503")),
            "login failed: the login system is unavailable: status 503",
        ),
        (
            ProviderError::locked("the account is locked"),
            "login failed: the account is locked",
        ),
    ] {
        assert_eq!(login_text(error).await, text);
    }
}

/// An error whose text ends with that of its cause.
#[derive(Debug)]
struct Around(&'static str);

impl std::fmt::Display for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "around: {}", self.0)
    }
}

impl StdError for Around {}

#[derive(Debug)]
struct Outer(BoxError);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the client failed")
    }
}

impl StdError for Outer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_source_names_the_source() {
    let vault_is_down = || async { Err(SourceError::unavailable("vault: connection refused")) };
    let text = "login failed: the credential source cannot be reached: vault: connection refused";
    let of_source = Failing {
        source: Some(Source::from_fn(vault_is_down)),
        ..Failing::default()
    };
    assert_eq!(login_error(of_source).await.to_string(), text);
    let http = service(|_| {});
    let controlm = ControlM::new(http, HOME.parse().unwrap(), Source::from_fn(vault_is_down));
    assert_eq!(login_error(controlm.unwrap()).await.to_string(), text);
    // Read by the provider itself, and passed on in either way.
    let home = || Profile::at(HOME.parse().unwrap());
    let key = FixedToken::api_key_from(home(), vault_is_down_for_a_key);
    assert_eq!(login_error(key).await.to_string(), text);
    let boxed = provider_fn(home(), |_: LoginContext| async {
        Err::<Token, _>(ProviderError::unavailable(SourceError::unavailable(
            "vault: connection refused",
        )))
    });
    assert_eq!(login_error(boxed).await.to_string(), text);

    for (error, text) in [
        (
            SourceError::missing("the environment variable P is not set"),
            "login failed: the credential source has no credentials: the environment variable P is \
             not set",
        ),
        (
            SourceError::invalid("/run/p is empty"),
            "login failed: the content of the credential source is not credentials: /run/p is empty",
        ),
    ] {
        assert_eq!(login_text(error.into()).await, text);
    }
}

async fn vault_is_down_for_a_key() -> Result<secrecy::SecretString, SourceError> {
    Err(SourceError::unavailable("vault: connection refused"))
}

/// The redaction of a token that the source's error quotes keeps the source named.
#[tokio::test(start_paused = true)]
async fn an_error_of_a_source_names_the_source_also_without_a_secret_that_it_quotes() {
    let home = Profile::at(HOME.parse().unwrap());
    let provider = FixedToken::api_key_from(home, || async {
        Err(SourceError::unavailable("no such key: 3f9a77c1"))
    });
    let session = Session::builder(provider)
        .initial_token(Token::bearer("3f9a77c1").unwrap())
        .build();
    let text = session.renew().await.unwrap_err().to_string();
    let start = "login failed: the credential source cannot be reached: no such key: ";
    assert!(
        text.starts_with(start) && !text.contains("3f9a77c1"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_named_by_its_path() {
    let file = tower_reauth::credentials::File::plain("emuser", "/no/such/file");
    let failing = Failing {
        source: Some(Source::new(file)),
        ..Failing::default()
    };
    let text = login_error(failing).await.to_string();
    let start = "login failed: the credential source has no credentials: /no/such/file: ";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(text.matches("/no/such/file").count(), 1, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_logout_and_a_failed_change_name_their_operation() {
    let session = Session::new(Failing {
        source: Some(Credentials::new("emuser", "old password").into()),
        logout: Some(ProviderError::unavailable("status 503")),
        change: Some(ProviderError::refused("too short")),
        ..Failing::default()
    });
    session.login().await.unwrap();
    let change = PasswordChange::to("new password").allow_unstored();
    let error = session.change_password(change).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "password change failed: the server denied it: too short"
    );
    let empty = PasswordChange::to("").allow_unstored();
    let error = session.change_password(empty).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "password change failed: nothing was sent: the new password is empty"
    );
    let error = session.logout().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "logout failed: the login system is unavailable: status 503"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_stored_names_the_source() {
    let session = Session::new(Failing {
        source: Some(Source::from_fn(|| async {
            Ok(Credentials::new("emuser", "old password"))
        })),
        ..Failing::default()
    });
    session.login().await.unwrap();
    let change = PasswordChange::to("new password");
    let error = session.change_password(change).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "password change failed: the credential source cannot be written"
    );
}

fn service(
    see: impl Fn(Request<Body>) + Clone + Send + Sync + 'static,
) -> impl tower::Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<Body>, Infallible>>,
> + Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |request| {
        see(request);
        std::future::ready(Ok(Response::new(Body::default())))
    })
}

async fn request_text(profile: Profile, uri: &str) -> String {
    let session = Session::builder(FixedToken::bearer(profile, "3f9a")).build();
    let client = session.layer().layer(service(|_| panic!("it was sent")));
    let request = Request::get(uri).body(Body::default()).unwrap();
    client.oneshot(request).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_token_over_plain_http_names_how_to_allow_it() {
    let text = request_text(Profile::at(ELSEWHERE.parse().unwrap()), ELSEWHERE).await;
    assert!(text.contains("`Profile::allow_plain_http`"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_login_over_plain_http_names_how_to_allow_it() {
    let http = service(|_| panic!("it was sent"));
    let api: Api<_> = Api::new(http.clone(), ELSEWHERE.parse().unwrap()).unwrap();
    let provider = provider_fn(api.profile(), move |_: LoginContext| {
        let api = api.clone();
        async move {
            api.post("/login").login().await?;
            Ok::<_, ProviderError>(Token::bearer("3f9a")?)
        }
    });
    let text = login_error(provider).await.to_string();
    assert_eq!(
        text,
        "login failed: nothing was sent: plain http to another machine is not allowed: use https, \
         or `Api::allow_plain_http`"
    );

    let base = ELSEWHERE.parse().unwrap();
    let controlm = ControlM::new(http, base, Credentials::new("emuser", "s3cret")).unwrap();
    let text = login_error(controlm).await.to_string();
    assert!(text.ends_with("use https, or `allow_plain_http`"), "{text}");
}

#[tokio::test]
async fn a_request_without_an_origin_names_how_to_give_one() {
    for (profile, uri) in [
        (Profile::default(), HOME),
        (Profile::at(HOME.parse().unwrap()), "/servers"),
    ] {
        let text = request_text(profile, uri).await;
        assert!(text.contains("`Profile::at`"), "{text}");
        assert!(text.contains("`Profile::bound`"), "{text}");
    }
}
