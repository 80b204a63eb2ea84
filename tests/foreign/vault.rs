//! HashiCorp Vault, with its `userpass` method.
//!
//! `renew-self` prolongs the same token, up to the token's greatest lifetime. A
//! wrong password is a 400, a locked user a 403 without a reason, and a dead
//! token a 403 that says `invalid token`, where a missing policy is one that
//! does not.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use tower_reauth::provider::{Answer, Api, segment};
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds, PasswordContext,
    Profile, ProviderError, Reason, Rejection, Source, Token,
};

use super::server::Http;

const X_VAULT_TOKEN: HeaderName = HeaderName::from_static("x-vault-token");

struct Vault {
    api: Api<Http>, // at `/v1/`
    source: Source,
}

impl CredentialProvider for Vault {
    fn profile(&self) -> Profile {
        let rejection = Rejection::body_contains(StatusCode::FORBIDDEN, "invalid token", 1024);
        self.api
            .profile()
            .rejection(rejection)
            .logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        if let Some(renewed) = self.renew(&login).await? {
            return Ok(renewed);
        }
        let user = login.credentials()?;
        let body = BTreeMap::from([("password", user.password().expose_secret())]);
        let path = format!("auth/userpass/login/{}", segment(user.username()));
        token(
            &self
                .api
                .post(&path)
                .json(&body)
                .denied_by(&[StatusCode::BAD_REQUEST])
                .login()
                .await?,
        )
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let call = self.api.post("auth/token/revoke-self").token(cx.token());
        call.denied_by(&[StatusCode::FORBIDDEN]).logout().await?;
        Ok(())
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let user = cx
            .username()
            .ok_or_else(|| ProviderError::unsupported("whose password?"))?;
        let body = BTreeMap::from([("password", cx.new_password().expose_secret())]);
        let call = self
            .api
            .post(&format!("auth/userpass/users/{}/password", segment(user)));
        let answer = call
            .token(cx.token().unwrap())
            .json(&body)
            .send_once()
            .await?;
        if answer.status() == 403 && answer.text()?.contains("invalid token") {
            return Err(ProviderError::token_rejected("invalid token"));
        }
        answer.of_change()?;
        Ok(())
    }
}

impl Vault {
    /// The token before, prolonged, unless it is dead or near its greatest lifetime.
    async fn renew(&self, login: &LoginContext) -> Result<Option<Token>, ProviderError> {
        let Some(previous) = login
            .previous()
            .filter(|_| login.reason() != Reason::Rejected)
        else {
            return Ok(None);
        };
        let call = self.api.post("auth/token/renew-self").token(previous);
        let Some(answer) = call.exchange().await? else {
            return Ok(None);
        };
        let renewed = token(&answer)?.continues_previous();
        // Capped by the greatest lifetime: soon there is nothing left to renew.
        Ok(Some(renewed).filter(|renewed| renewed.lifetime() >= previous.lifetime()))
    }
}

fn token(answer: &Answer) -> Result<Token, ProviderError> {
    let token = Token::header(X_VAULT_TOKEN, answer.secret("/auth/client_token")?)?;
    Ok(token.lives_for(answer.lifetime("/auth/lease_duration")?))
}

mod tests {
    use tokio::time::{Instant, sleep};
    use tower_reauth::ErrorKind;

    use super::super::server::{
        Answers, BASE, PASSWORD, Server, USER, credentials, header_of, json, json_of, target, text,
    };
    use super::*;
    use bytes::Bytes;
    use http::{Method, Request, Response};
    use std::collections::HashMap;

    const TTL: Duration = Duration::from_secs(3600);
    const MAX_TTL: Duration = Duration::from_secs(4 * 3600);
    const INVALID: &str =
        r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#;

    fn provider(server: &Server<State>) -> Vault {
        let api = Api::new(server.http(), format!("{BASE}/v1/").parse().unwrap()).unwrap();
        Vault {
            api,
            source: credentials().into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        let server = Server::<State>::new();
        server.conforms(&provider(&server), &[]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_a_session() {
        let server = Server::<State>::new();
        server.serves(provider(&server)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_to_its_greatest_lifetime_and_then_replaced() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        for _ in 0..60 {
            assert_eq!(server.read(&client).await.0.status(), 200);
            sleep(Duration::from_secs(300)).await;
        }
        let (logins, renewals, rejected) = {
            let state = server.state();
            (state.logins, state.renewals, state.rejected)
        };
        // Five hours: one login for the first four, and one before they end.
        assert_eq!((logins, rejected), (2, 0), "{renewals} renewals");
        assert!((5..10).contains(&renewals), "{renewals} renewals");
        session.logout().await.unwrap();
        assert_eq!(server.state().live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_policy_costs_no_login() {
        let server = Server::<State>::new();
        let (_session, client) = server.session(provider(&server));
        server.read(&client).await;
        server.state().forbids = true;
        let (response, reauth) = server.read(&client).await;
        assert_eq!((response.status().as_u16(), reauth.is_none()), (403, true));
        assert_eq!(server.state().logins, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_locked_user_is_refused() {
        let server = Server::<State>::new();
        server.state().failed = 5;
        let (session, _client) = server.session(provider(&server));
        assert_eq!(
            session.token().await.unwrap_err().kind(),
            ErrorKind::Refused
        );
    }

    #[test]
    fn a_user_s_name_stays_within_its_segment() {
        assert_eq!(segment("ops/../root?x#y z"), "ops%2F..%2Froot%3Fx%23y%20z");
    }

    struct State {
        password: String,
        /// By token: when it began, and when it ends.
        tokens: HashMap<String, (Instant, Instant)>,
        logins: usize,
        renewals: usize,
        rejected: usize,
        failed: usize,
        forbids: bool,
    }

    impl Default for State {
        fn default() -> Self {
            Self {
                password: PASSWORD.into(),
                tokens: HashMap::new(),
                logins: 0,
                renewals: 0,
                rejected: 0,
                failed: 0,
                forbids: false,
            }
        }
    }

    impl State {
        fn log_in(&mut self, password: &str) -> Response<Bytes> {
            if self.failed >= 5 {
                return json(403, r#"{"errors":["permission denied"]}"#);
            }
            if password != self.password {
                self.failed += 1;
                return json(400, r#"{"errors":["invalid username or password"]}"#);
            }
            self.failed = 0;
            self.logins += 1;
            let token = format!("hvs.CAESI{}", self.logins);
            let now = Instant::now();
            self.tokens.insert(token.clone(), (now, now + TTL));
            auth(&token, TTL, "null")
        }

        fn renew(&mut self, token: &str) -> Response<Bytes> {
            self.renewals += 1;
            let (began, ends) = self.tokens.get_mut(token).unwrap();
            let left = (*began + MAX_TTL).saturating_duration_since(Instant::now());
            *ends = Instant::now() + left.min(TTL);
            let warnings = if left < TTL {
                r#"["TTL of \"1h\" exceeded the effective max_ttl; TTL value is capped accordingly"]"#
            } else {
                "null"
            };
            auth(token, left.min(TTL), warnings)
        }
    }

    fn auth(token: &str, lease: Duration, warnings: &str) -> Response<Bytes> {
        let lease = lease.as_secs();
        json(
            200,
            format_args!(
                r#"{{"request_id":"8e33","lease_id":"","renewable":false,"lease_duration":0,"data":null,"wrap_info":null,"warnings":{warnings},"auth":{{"client_token":"{token}","accessor":"0e9e","policies":["default"],"metadata":{{"username":"{USER}"}},"lease_duration":{lease},"renewable":true,"token_type":"service","orphan":true}}}}"#
            ),
        )
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/v1/secret/data/app";

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            if target(request) == (&Method::POST, "/v1/auth/userpass/login/ops") {
                return self.log_in(json_of(request)["password"].as_str().unwrap());
            }
            let token = header_of(request, "x-vault-token");
            if self
                .tokens
                .get(token)
                .is_none_or(|(_, ends)| *ends <= Instant::now())
            {
                self.rejected += 1;
                return json(403, INVALID);
            }
            match target(request) {
                (&Method::POST, "/v1/auth/token/renew-self") => self.renew(token),
                (&Method::POST, "/v1/auth/token/revoke-self") => {
                    self.tokens.remove(token);
                    text(204, "")
                }
                (&Method::POST, "/v1/auth/userpass/users/ops/password") => {
                    self.password = json_of(request)["password"].as_str().unwrap().into();
                    text(204, "")
                }
                (&Method::GET, Self::PROTECTED) if self.forbids => json(
                    403,
                    r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
                ),
                (&Method::GET, Self::PROTECTED) => {
                    json(200, r#"{"data":{"data":{"key":"value"}}}"#)
                }
                _ => json(404, r#"{"errors":[]}"#),
            }
        }

        fn revoke_all(&mut self) {
            self.tokens.clear();
        }

        fn live(&self) -> usize {
            self.tokens
                .values()
                .filter(|(_, ends)| *ends > Instant::now())
                .count()
        }

        fn logins(&self) -> usize {
            self.logins
        }

        fn failed(&self) -> usize {
            self.failed
        }
    }
}
