//! Elasticsearch's token service: access tokens of twenty minutes, refresh
//! tokens that are good once, and an invalidation of either.
//!
//! Whoever asks for a token or refreshes one says who they are, by Basic: so a
//! 401 to a refresh is about the password, and only a 400 about the token.

use std::collections::BTreeMap;
use std::time::Duration;

use tower_reauth::ProviderErrorKind;
use tower_reauth::provider::{Answer, Api};
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds, Profile,
    ProviderError, Source, Token,
};

use super::server::Http;

const TOKEN: &str = "/_security/oauth2/token";

struct Elasticsearch {
    api: Api<Http>,
    source: Source,
}

impl CredentialProvider for Elasticsearch {
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let user = login.credentials()?;
        if let Some(refresh) = login.previous().and_then(Token::data) {
            let body = BTreeMap::from([
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh.expose_secret()),
            ]);
            let answer = self
                .api
                .post(TOKEN)
                .basic(user)
                .json(&body)
                .send_once()
                .await?;
            // Its Basic is the user's: a 401 is about the password.
            let answer = match answer.status().as_u16() {
                401 => Some(answer.of_login()?),
                _ => answer.of_exchange()?,
            };
            if let Some(answer) = answer {
                return Ok(token(&answer)?.continues_previous());
            }
        }
        let body = BTreeMap::from([
            ("grant_type", "password"),
            ("username", user.username()),
            ("password", user.password().expose_secret()),
        ]);
        token(&self.api.post(TOKEN).basic(user).json(&body).login().await?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let token = cx.token();
        // With the token as who asks, so the token itself comes last.
        if let Some(refresh) = token.data() {
            let body = BTreeMap::from([("refresh_token", refresh.expose_secret())]);
            match self
                .api
                .delete(TOKEN)
                .token(token)
                .json(&body)
                .logout()
                .await
            {
                Ok(_) => {}
                Err(error) if error.kind() == ProviderErrorKind::TokenRejected => {}
                Err(error) => return Err(error),
            }
        }
        let access = token.secret();
        let access = access.as_ref().map(ExposeSecret::expose_secret);
        let body = BTreeMap::from([("token", access)]);
        self.api
            .delete(TOKEN)
            .token(token)
            .json(&body)
            .logout()
            .await?;
        Ok(())
    }
}

fn token(answer: &Answer) -> Result<Token, ProviderError> {
    let token = Token::bearer(answer.secret("/access_token")?)?;
    let token = token.lives_for(answer.lifetime("/expires_in")?);
    Ok(token.with_data(answer.secret("/refresh_token")?))
}

mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use serde_json::json as object;
    use tokio::time::{Instant, sleep};
    use tower_reauth::ErrorKind;

    use super::super::server::{
        Answers, BASE, NO_PASSWORD_CHANGE, PASSWORD, Server, basic, credentials, header_of, json,
        json_of, target,
    };
    use super::*;

    const ACCESS: Duration = Duration::from_secs(20 * 60);
    const REFRESH: Duration = Duration::from_secs(24 * 3600);

    fn provider(server: &Server<State>) -> Elasticsearch {
        Elasticsearch {
            api: Api::new(server.http(), BASE.parse().unwrap()).unwrap(),
            source: credentials().into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        let server = Server::<State>::new();
        server
            .conforms(&provider(&server), NO_PASSWORD_CHANGE)
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_a_session() {
        let server = Server::<State>::new();
        server.serves(provider(&server)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_used_is_refreshed() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        for _ in 0..60 {
            assert_eq!(server.read(&client).await.0.status(), 200);
            sleep(Duration::from_secs(120)).await;
        }
        assert_eq!(server.state().counts(), (1, 0));
        session.logout().await.unwrap();
        assert_eq!(server.state().live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_password_that_was_changed_elsewhere_is_sent_once() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        server.read(&client).await;
        server.state().locked_out = true;
        assert_eq!(
            session.renew().await.unwrap_err().kind(),
            ErrorKind::Refused
        );
        assert_eq!(server.state().failed, 1);
    }

    #[derive(Default)]
    struct State {
        /// By access token, when it ends.
        access: HashMap<String, Instant>,
        /// By refresh token, when it ends.
        refresh: HashMap<String, Instant>,
        issued: usize,
        logins: usize,
        rejected: usize,
        failed: usize,
        /// The password is another one now.
        locked_out: bool,
    }

    impl State {
        /// Logins, and requests with a dead token.
        fn counts(&self) -> (usize, usize) {
            (self.logins, self.rejected)
        }

        fn issue(&mut self) -> Response<Bytes> {
            self.issued += 1;
            let (access, refresh) = (
                format!("dGhpcyBpcy{}", self.issued),
                format!("vLBPvmAB6K{}", self.issued),
            );
            self.access.insert(access.clone(), Instant::now() + ACCESS);
            self.refresh
                .insert(refresh.clone(), Instant::now() + REFRESH);
            json(
                200,
                object!({
                    "access_token": access, "type": "Bearer", "expires_in": ACCESS.as_secs(), "refresh_token": refresh,
                    "authentication": { "username": "ops", "roles": ["superuser"], "enabled": true },
                }),
            )
        }

        fn grant(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            if header_of(request, "authorization") != basic() || self.locked_out {
                self.failed += 1;
                return security_exception(
                    "unable to authenticate user [ops] for REST request [/_security/oauth2/token]",
                );
            }
            let body = json_of(request);
            match body["grant_type"].as_str() {
                Some("password") if body["password"] == PASSWORD => {
                    self.logins += 1;
                    self.issue()
                }
                Some("refresh_token") => {
                    let refresh = self.refresh.remove(body["refresh_token"].as_str().unwrap());
                    if refresh.is_some_and(|ends| ends > Instant::now()) {
                        return self.issue();
                    }
                    json(
                        400,
                        r#"{"error":"invalid_grant","error_description":"could not refresh the requested token"}"#,
                    )
                }
                _ => json(
                    400,
                    r#"{"error":"unsupported_grant_type","error_description":"grant_type is not supported"}"#,
                ),
            }
        }

        fn invalidate(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            let body = json_of(request);
            let (token, refresh) = (body["token"].as_str(), body["refresh_token"].as_str());
            let ended = match (token, refresh) {
                (Some(token), None) => self.access.remove(token),
                (None, Some(refresh)) => self.refresh.remove(refresh),
                _ => {
                    return json(
                        400,
                        r#"{"error":{"type":"action_request_validation_exception"},"status":400}"#,
                    );
                }
            };
            let number = u8::from(ended.is_some());
            let status = if ended.is_some() { 200 } else { 404 };
            json(
                status,
                object!({ "invalidated_tokens": number, "previously_invalidated_tokens": 0, "error_count": 0 }),
            )
        }
    }

    fn security_exception(reason: &str) -> Response<Bytes> {
        let cause = object!({ "type": "security_exception", "reason": reason });
        json(
            401,
            object!({ "error": { "root_cause": [cause], "type": "security_exception", "reason": reason }, "status": 401 }),
        )
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/_cat/indices";

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            if target(request) == (&Method::POST, TOKEN) {
                return self.grant(request);
            }
            let access = header_of(request, "authorization").strip_prefix("Bearer ");
            if access
                .and_then(|access| self.access.get(access))
                .is_none_or(|ends| *ends <= Instant::now())
            {
                self.rejected += 1;
                return security_exception("token expired");
            }
            match target(request) {
                (&Method::DELETE, TOKEN) => self.invalidate(request),
                (&Method::GET, Self::PROTECTED) => json(200, "[]"),
                _ => json(
                    404,
                    r#"{"error":{"type":"index_not_found_exception"},"status":404}"#,
                ),
            }
        }

        fn revoke_all(&mut self) {
            self.access.clear();
            self.refresh.clear();
        }

        fn live(&self) -> usize {
            self.refresh.len()
        }

        fn logins(&self) -> usize {
            self.logins
        }

        fn failed(&self) -> usize {
            self.failed
        }
    }
}
