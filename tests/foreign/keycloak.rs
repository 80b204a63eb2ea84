//! Keycloak: OpenID Connect's password grant, with refresh tokens that are good
//! once, and its logout by refresh token.
//!
//! A wrong password is a 401, or a 400 where the realm disables the user for a
//! while; each says `invalid_grant`. A used refresh token ends the session.

use http::StatusCode;
use std::time::Duration;

use tower_reauth::provider::{Answer, Api};
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds, Profile,
    ProviderError, Source, Token,
};

use super::server::Http;

const CLIENT: (&str, &str) = ("client_id", "batch");

struct Keycloak {
    api: Api<Http>, // at `/realms/main/protocol/openid-connect/`
    source: Source,
}

impl CredentialProvider for Keycloak {
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        if let Some(refresh) = login.previous().and_then(Token::data) {
            let form = [
                CLIENT,
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh.expose_secret()),
            ];
            if let Some(answer) = self.api.post("token").form(form).exchange().await? {
                return Ok(token(&answer)?.continues_previous());
            }
        }
        let user = login.credentials()?;
        let password = user.password().expose_secret();
        let form = [
            CLIENT,
            ("grant_type", "password"),
            ("username", user.username()),
            ("password", password),
        ];
        token(
            &self
                .api
                .post("token")
                .form(form)
                .denied_by(&[StatusCode::BAD_REQUEST])
                .login()
                .await?,
        )
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let refresh = cx
            .token()
            .data()
            .ok_or_else(|| ProviderError::unsupported("a token without a refresh token"))?;
        let form = [CLIENT, ("refresh_token", refresh.expose_secret())];
        self.api
            .post("logout")
            .form(form)
            .denied_by(&[StatusCode::BAD_REQUEST])
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
        Answers, BASE, NO_PASSWORD_CHANGE, PASSWORD, Server, USER, credentials, form_of, header_of,
        json, target, text,
    };
    use super::*;

    const ACCESS: Duration = Duration::from_secs(300);
    const IDLE: Duration = Duration::from_secs(1800);

    fn provider(server: &Server<State>) -> Keycloak {
        let base = format!("{BASE}/realms/main/protocol/openid-connect/");
        Keycloak {
            api: Api::new(server.http(), base.parse().unwrap()).unwrap(),
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
    async fn a_used_session_is_refreshed_and_an_unused_one_logs_in_again() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        for _ in 0..60 {
            assert_eq!(server.read(&client).await.0.status(), 200);
            sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(server.state().counts(), (1, 0));
        sleep(IDLE * 2).await;
        assert_eq!(server.read(&client).await.0.status(), 200);
        assert_eq!(server.state().counts(), (2, 0));
        session.logout().await.unwrap();
        assert_eq!(server.state().live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disabled_user_is_refused() {
        let server = Server::<State>::new();
        server.state().disabled = true;
        let (session, _client) = server.session(provider(&server));
        assert_eq!(
            session.token().await.unwrap_err().kind(),
            ErrorKind::Refused
        );
    }

    #[derive(Default)]
    struct State {
        sessions: Vec<SsoSession>,
        /// By access token: its session, and when it ends.
        access: HashMap<String, (usize, Instant)>,
        issued: usize,
        logins: usize,
        rejected: usize,
        failed: usize,
        disabled: bool,
    }

    struct SsoSession {
        /// The refresh token that is good now; none after its end.
        refresh: Option<String>,
        /// All refresh tokens that were issued in it: each is signed, and so known.
        issued: Vec<String>,
        ends: Instant,
    }

    impl State {
        /// Logins, and requests with a dead token.
        fn counts(&self) -> (usize, usize) {
            (self.logins, self.rejected)
        }

        fn session_of(&self, refresh: &str) -> Option<usize> {
            self.sessions
                .iter()
                .position(|session| session.issued.iter().any(|issued| issued == refresh))
        }

        fn is_live(&self, session: usize) -> bool {
            let session = &self.sessions[session];
            session.refresh.is_some() && session.ends > Instant::now()
        }

        fn issue(&mut self, session: usize) -> Response<Bytes> {
            self.issued += 1;
            let (access, refresh) = (
                format!("eyJhbGciOi.a{}", self.issued),
                format!("eyJhbGciOi.r{}", self.issued),
            );
            self.access
                .insert(access.clone(), (session, Instant::now() + ACCESS));
            let session = &mut self.sessions[session];
            session.issued.push(refresh.clone());
            session.refresh = Some(refresh.clone());
            session.ends = Instant::now() + IDLE;
            json(
                200,
                object!({
                    "access_token": access, "expires_in": ACCESS.as_secs(),
                    "refresh_token": refresh, "refresh_expires_in": IDLE.as_secs(),
                    "token_type": "Bearer", "not-before-policy": 0, "session_state": "5a2b", "scope": "profile email",
                }),
            )
        }

        fn password_grant(&mut self, form: &HashMap<String, String>) -> Response<Bytes> {
            if self.disabled {
                return invalid_grant(400, "Account disabled");
            }
            if form["username"] != USER || form["password"] != PASSWORD {
                self.failed += 1;
                return invalid_grant(401, "Invalid user credentials");
            }
            self.logins += 1;
            self.sessions.push(SsoSession {
                refresh: None,
                issued: Vec::new(),
                ends: Instant::now(),
            });
            self.issue(self.sessions.len() - 1)
        }

        fn refresh_grant(&mut self, refresh: &str) -> Response<Bytes> {
            match self.session_of(refresh) {
                None => invalid_grant(400, "Invalid refresh token"),
                Some(session) if !self.is_live(session) => {
                    invalid_grant(400, "Token is not active")
                }
                Some(session) if self.sessions[session].refresh.as_deref() != Some(refresh) => {
                    self.sessions[session].refresh = None;
                    invalid_grant(400, "Maximum allowed refresh token reuse exceeded")
                }
                Some(session) => self.issue(session),
            }
        }

        fn log_out(&mut self, refresh: &str) -> Response<Bytes> {
            match self.session_of(refresh) {
                None => invalid_grant(400, "Invalid refresh token"),
                Some(session) => {
                    self.sessions[session].refresh = None;
                    text(204, "")
                }
            }
        }
    }

    fn invalid_grant(status: u16, description: &str) -> Response<Bytes> {
        json(
            status,
            object!({ "error": "invalid_grant", "error_description": description }),
        )
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/realms/main/protocol/openid-connect/userinfo";

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            let form = form_of(request);
            match target(request) {
                (&Method::POST, "/realms/main/protocol/openid-connect/token") => {
                    match form["grant_type"].as_str() {
                        "password" => self.password_grant(&form),
                        "refresh_token" => self.refresh_grant(&form["refresh_token"]),
                        _ => json(400, r#"{"error":"unsupported_grant_type"}"#),
                    }
                }
                (&Method::POST, "/realms/main/protocol/openid-connect/logout") => {
                    self.log_out(&form["refresh_token"])
                }
                (&Method::GET, Self::PROTECTED) => {
                    let access = header_of(request, "authorization").strip_prefix("Bearer ");
                    let known = access.and_then(|access| self.access.get(access));
                    if known.is_some_and(|(session, ends)| {
                        *ends > Instant::now() && self.is_live(*session)
                    }) {
                        return json(200, r#"{"sub":"f3a1","preferred_username":"ops"}"#);
                    }
                    self.rejected += 1;
                    json(
                        401,
                        r#"{"error":"invalid_token","error_description":"Token verification failed"}"#,
                    )
                }
                _ => json(404, r#"{"error":"RESTEASY003210"}"#),
            }
        }

        fn revoke_all(&mut self) {
            for session in &mut self.sessions {
                session.refresh = None;
            }
        }

        fn live(&self) -> usize {
            (0..self.sessions.len())
                .filter(|session| self.is_live(*session))
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
