//! F5 BIG-IP: tokens of twenty minutes, of which a user may have a hundred. The
//! next login is then a 400, which says nothing of the password and passes by
//! itself, so each replaced token is logged out.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use tower_reauth::provider::Api;
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds, PasswordContext,
    Profile, ProviderError, Source, Token,
};

use super::server::Http;

const X_F5_AUTH_TOKEN: HeaderName = HeaderName::from_static("x-f5-auth-token");

struct BigIp {
    api: Api<Http>, // at `/mgmt/shared/`
    source: Source,
}

impl CredentialProvider for BigIp {
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let user = login.credentials()?;
        let body = BTreeMap::from([
            ("username", user.username()),
            ("password", user.password().expose_secret()),
            ("loginProviderName", "tmos"),
        ]);
        let answer = self.api.post("authn/login").json(&body).send().await?;
        if answer.status() == 400 && answer.text()?.contains("maximum active login tokens") {
            return Err(ProviderError::unavailable("the user has too many tokens"));
        }
        let answer = answer.of_login()?;
        let name = answer.secret("/token/token")?;
        let lifetime = Duration::from_secs(answer.at("/token/timeout")?);
        let token = Token::header(X_F5_AUTH_TOKEN, name.clone())?;
        Ok(token.lives_for(lifetime).with_data(name)) // the logout's path ends with it
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let token = cx.token();
        let name = token
            .data()
            .ok_or_else(|| ProviderError::unsupported("a token without its name"))?;
        let call = self
            .api
            .delete(&format!("authz/tokens/{}", name.expose_secret()));
        call.token(token).logout().await?;
        Ok(())
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let (Some(user), Some(current)) = (cx.username(), cx.current_password()) else {
            return Err(ProviderError::unsupported(
                "BIG-IP asks for the user and the current password",
            ));
        };
        let body = BTreeMap::from([
            ("oldPassword", current.expose_secret()),
            ("password", cx.new_password().expose_secret()),
        ]);
        let call = self.api.patch(&format!("authz/users/{user}"));
        call.token(cx.token().unwrap()).json(&body).change().await?;
        Ok(())
    }
}

mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use serde_json::{Value, json as object};
    use tokio::time::{Instant, sleep};
    use tower_reauth::ErrorKind;

    use super::super::server::{
        Answers, BASE, PASSWORD, Server, USER, credentials, header_of, json, json_of, target,
    };
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1200);

    fn provider(server: &Server<State>) -> BigIp {
        let api = Api::new(
            server.http(),
            format!("{BASE}/mgmt/shared/").parse().unwrap(),
        )
        .unwrap();
        BigIp {
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
    async fn no_token_is_left_behind_by_a_day_of_use() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        for _ in 0..288 {
            assert_eq!(server.read(&client).await.0.status(), 200);
            sleep(Duration::from_secs(300)).await;
        }
        assert_eq!(server.state().most, 2);
        session.logout().await.unwrap();
        assert_eq!(server.state().live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_tokens_are_no_refusal_and_are_waited_for() {
        let server = Server::<State>::new();
        for other in 0..100 {
            server
                .state()
                .tokens
                .insert(format!("other-{other}"), Instant::now() + TIMEOUT);
        }
        let (session, client) = server.session(provider(&server));
        assert_eq!(
            session.token().await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        sleep(TIMEOUT).await;
        assert_eq!(server.read(&client).await.0.status(), 200);
    }

    #[derive(Default)]
    struct State {
        /// If it is no longer the first one.
        password: Option<String>,
        /// By token, when it ends.
        tokens: HashMap<String, Instant>,
        most: usize,
        logins: usize,
        failed: usize,
    }

    fn error(code: u16, message: &str, request: &Request<Bytes>) -> Response<Bytes> {
        // It echoes the request, the password included.
        json(
            code,
            object!({
                "code": code, "message": message, "originalRequestBody": String::from_utf8_lossy(request.body()),
                "referer": "127.0.0.1", "restOperationId": 6_732_453, "kind": ":resterrorresponse",
            }),
        )
    }

    impl State {
        fn password(&self) -> &str {
            self.password.as_deref().unwrap_or(PASSWORD)
        }

        fn log_in(&mut self, body: &Value, request: &Request<Bytes>) -> Response<Bytes> {
            if body["username"] != USER || body["password"] != self.password() {
                self.failed += 1;
                return error(401, "Authentication failed.", request);
            }
            if self.live() >= 100 {
                let message = "user 21232f29-7a57-35a7-8389-4a0e4a801fc3 has reached maximum active login tokens";
                return error(400, message, request);
            }
            self.logins += 1;
            let token = format!("MF6APSRUYKTMSDBEOOEWLCNSO{}", self.logins);
            self.tokens.insert(token.clone(), Instant::now() + TIMEOUT);
            self.most = self.most.max(self.live());
            json(
                200,
                object!({
                    "username": USER, "loginProviderName": "tmos", "generation": 0,
                    "token": { "token": token, "name": token, "timeout": TIMEOUT.as_secs(), "kind": "shared:authz:tokens:authtokenitemstate" },
                }),
            )
        }

        fn change_password(&mut self, body: &Value, request: &Request<Bytes>) -> Response<Bytes> {
            if body["oldPassword"] != self.password() {
                return error(400, "The old password is wrong.", request);
            }
            self.password = body["password"].as_str().map(str::to_owned);
            json(
                200,
                object!({ "name": USER, "kind": "shared:authz:users:usersworkerstate" }),
            )
        }
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/mgmt/tm/ltm/pool";

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            let body = json_of(request);
            if target(request) == (&Method::POST, "/mgmt/shared/authn/login") {
                return self.log_in(&body, request);
            }
            let token = header_of(request, "x-f5-auth-token");
            if self
                .tokens
                .get(token)
                .is_none_or(|ends| *ends <= Instant::now())
            {
                return error(401, "X-F5-Auth-Token does not exist.", request);
            }
            match target(request) {
                (&Method::PATCH, "/mgmt/shared/authz/users/ops") => {
                    self.change_password(&body, request)
                }
                (&Method::DELETE, path) => {
                    match self.tokens.remove(path.rsplit('/').next().unwrap()) {
                        Some(_) => json(200, object!({ "token": token })),
                        None => error(404, "Public URI path not registered", request),
                    }
                }
                (&Method::GET, Self::PROTECTED) => json(200, object!({ "items": [] })),
                _ => error(404, "Public URI path not registered", request),
            }
        }

        fn revoke_all(&mut self) {
            self.tokens.clear();
        }

        fn live(&self) -> usize {
            self.tokens
                .values()
                .filter(|ends| **ends > Instant::now())
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
