//! The provider, and what the session hears through it.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tower_reauth::provider::Api;
use tower_reauth::{
    BoxError, CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds,
    LogoutReason, PasswordContext, Profile, ProviderError, Rejection, Source, Token,
};

use super::account::{Purpose, Terms};
use super::server::{CALL, DEAD, Server, password_in};

pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Http = Client<HttpConnector, RequestBody>;
// The compiler cannot see that a future is `Send` which names `Http`'s own body.
type Calls = BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, legacy::Error>;

pub(crate) fn boxed<B>(request: Request<B>) -> Request<RequestBody>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    request.map(|body| body.map_err(Into::into).boxed_unsync())
}

pub(crate) struct Provider {
    api: Api<Calls>,
    source: Source,
    user: usize,
    terms: Terms,
    server: Server,
}

impl Provider {
    pub(crate) fn new(http: Http, base: &str, user: usize, server: Server) -> Self {
        let calls = BoxCloneSyncService::new(http.map_request(boxed));
        let (terms, credentials) = server.account().is_served(user);
        Self {
            api: Api::new(calls, base.parse().unwrap()).unwrap(),
            source: credentials.into(),
            user,
            terms,
            server,
        }
    }

    fn call(&self, purpose: Purpose) -> Call<'_> {
        let number = self.server.account().begins(self.user, purpose);
        Call {
            provider: self,
            purpose,
            number: Some(number),
        }
    }
}

/// A call under way, which ends whatever becomes of it.
struct Call<'a> {
    provider: &'a Provider,
    purpose: Purpose,
    number: Option<u64>,
}

impl Call<'_> {
    fn number(&self) -> String {
        self.number.expect("under way").to_string()
    }

    /// The session hears this.
    fn yields(&mut self, outcome: Result<Option<u64>, &ProviderError>) {
        self.end(Some(outcome));
    }

    fn end(&mut self, outcome: Option<Result<Option<u64>, &ProviderError>>) {
        if let Some(number) = self.number.take() {
            let mut account = self.provider.server.account();
            account.ends(self.provider.user, number, self.purpose, outcome);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.end(None);
    }
}

pub(crate) fn number_of(token: &Token) -> u64 {
    let data = token.data().expect("put there at login");
    data.expose_secret().parse().expect("a number of ours")
}

impl CredentialProvider for Provider {
    fn profile(&self) -> Profile {
        self.api
            .profile()
            .rejection(
                Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    DEAD,
                    64,
                ),
            )
            .logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let credentials = login.credentials()?;
        let mut call = self.call(Purpose::Login {
            password: password_in(credentials.password().expose_secret()),
            reason: login.reason(),
        });
        let request = self.api.post("/login").header(CALL, call.number()).form([
            ("user", credentials.username()),
            ("password", credentials.password().expose_secret()),
        ]);
        let answer = match request.login().await {
            Ok(answer) => answer,
            Err(error) => {
                call.yields(Err(&error));
                return Err(error);
            }
        };
        let text = answer.text()?;
        let number = text.strip_prefix("token-").expect("a token of ours");
        let number: u64 = number.parse().expect("a token of ours");
        let token = Token::bearer(text.to_owned())?.with_data(number.to_string());
        call.yields(Ok(Some(number)));
        Ok(match self.terms.lifetime {
            Some(lifetime) if self.terms.is_told => token.lives_for(lifetime),
            Some(_) | None => token,
        })
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let token = cx.token();
        let number = number_of(token);
        let mut call = self.call(match cx.reason() {
            LogoutReason::Replaced => Purpose::Retire { token: number },
            _ => Purpose::Logout { token: number },
        });
        let answer = self.api.delete("/login").token(token).logout().await;
        call.yields(answer.as_ref().map(|_| None));
        answer.map(drop)
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let (new, current) = (cx.new_password(), cx.current_password());
        let mut call = self.call(Purpose::Change {
            new: password_in(new.expose_secret()),
            current: current.map(|current| password_in(current.expose_secret())),
        });
        let current = current.map_or("", |current| current.expose_secret());
        let request = self.api.put("/password").token(cx.token().unwrap());
        let request = request.header(CALL, call.number());
        let fields = [("current", current), ("new", new.expose_secret())];
        let answer = request.form(fields).change().await;
        call.yields(answer.as_ref().map(|_| None));
        answer.map(|_| ())
    }
}
