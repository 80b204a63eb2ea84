//! Splunk: a session key behind a scheme of its own, which ends after an hour
//! without a request. The logout names the key in its path.

use std::time::Duration;

use http::header::AUTHORIZATION;
use tower_reauth::provider::Api;
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds, Profile,
    ProviderError, Source, Token,
};

use super::server::Http;

const IDLE: Duration = Duration::from_secs(3600);

struct Splunk {
    api: Api<Http>, // at `/services/`
    source: Source,
}

impl CredentialProvider for Splunk {
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let user = login.credentials()?;
        let password = user.password().expose_secret();
        let form = [
            ("username", user.username()),
            ("password", password),
            ("output_mode", "json"),
        ];
        let answer = self.api.post("auth/login").form(form).login().await?;
        let key = answer.secret("/sessionKey")?;
        let token = Token::prefixed(AUTHORIZATION, "Splunk ", key.clone())?;
        Ok(token.idles_out_after(IDLE).with_data(key)) // the logout needs the key without its scheme
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let token = cx.token();
        let key = token
            .data()
            .ok_or_else(|| ProviderError::unsupported("a token without its key"))?;
        let call = self.api.delete(&format!(
            "authentication/httpauth-tokens/{}",
            key.expose_secret()
        ));
        call.token(token).logout().await?;
        Ok(())
    }
}

mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use serde_json::json as object;
    use tokio::time::{Instant, sleep};

    use super::super::server::{
        Answers, BASE, NO_PASSWORD_CHANGE, PASSWORD, Server, USER, credentials, form_of, header_of,
        json, target,
    };
    use super::*;

    fn provider(server: &Server<State>) -> Splunk {
        let api = Api::new(server.http(), format!("{BASE}/services/").parse().unwrap()).unwrap();
        Splunk {
            api,
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
    async fn a_session_that_was_not_used_is_replaced_unasked() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        assert_eq!(server.read(&client).await.0.status(), 200);
        sleep(IDLE + Duration::from_secs(1)).await;
        assert_eq!(server.read(&client).await.0.status(), 200);
        assert_eq!(session.stats().rejections, 0);
        // But the logout of the old key, whose address might have outlived it.
        assert_eq!(server.state().rejected, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_does_not_quote_the_key_in_the_path() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        server.read(&client).await;
        let key = server.state().sessions.keys().next().unwrap().clone();
        server.state().broken = true;
        let error = session.logout().await.unwrap_err();
        let mut told = format!("{error:?}");
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            told += &format!(" {error}");
            cause = error.source();
        }
        assert!(
            told.contains("httpauth-tokens") && !told.contains(&key),
            "{told}"
        );
    }

    #[derive(Default)]
    struct State {
        /// By key, when it was used last.
        sessions: HashMap<String, Instant>,
        logins: usize,
        rejected: usize,
        failed: usize,
        broken: bool,
    }

    fn message(status: u16, kind: &str, text: &str) -> Response<Bytes> {
        json(
            status,
            object!({ "messages": [{ "type": kind, "text": text }] }),
        )
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/services/server/info";

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            if self.broken {
                return message(500, "FATAL", "internal error");
            }
            if target(request) == (&Method::POST, "/services/auth/login") {
                let form = form_of(request);
                if form["username"] != USER || form["password"] != PASSWORD {
                    self.failed += 1;
                    return message(401, "WARN", "Login failed");
                }
                self.logins += 1;
                let key = format!("3Xk_^SessionKey^of^this^login_{}", self.logins);
                self.sessions.insert(key.clone(), Instant::now());
                return json(
                    200,
                    object!({ "sessionKey": key, "message": "", "code": "" }),
                );
            }
            let key = header_of(request, "authorization")
                .strip_prefix("Splunk ")
                .unwrap_or_default();
            match self.sessions.get_mut(key) {
                Some(used) if used.elapsed() < IDLE => *used = Instant::now(),
                _ => {
                    self.rejected += 1;
                    return message(401, "WARN", "call not properly authenticated");
                }
            }
            match target(request) {
                (&Method::GET, Self::PROTECTED) => json(200, object!({ "entry": [] })),
                (&Method::DELETE, path) => {
                    let named = path
                        .strip_prefix("/services/authentication/httpauth-tokens/")
                        .unwrap();
                    match self.sessions.remove(named) {
                        Some(_) => json(200, object!({ "entry": [] })),
                        None => message(404, "ERROR", "Could not find object"),
                    }
                }
                _ => message(404, "ERROR", "Not Found"),
            }
        }

        fn revoke_all(&mut self) {
            self.sessions.clear();
        }

        fn live(&self) -> usize {
            self.sessions
                .values()
                .filter(|used| used.elapsed() < IDLE)
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
