//! VMware vCenter: a session by Basic, whose id is the answer's whole body, a
//! JSON text. It ends after five minutes without a request, and two days after
//! its begin at the latest.

use std::time::Duration;

use http::HeaderName;
use tower_reauth::provider::Api;
use tower_reauth::{
    CredentialProvider, LoginContext, LogoutContext, LogoutEnds, Profile, ProviderError, Source,
    Token,
};

use super::server::Http;

const SESSION_ID: HeaderName = HeaderName::from_static("vmware-api-session-id");
const IDLE: Duration = Duration::from_secs(5 * 60);
const LIFETIME: Duration = Duration::from_secs(48 * 3600);

struct VCenter {
    api: Api<Http>, // at `/api/`
    source: Source,
}

impl CredentialProvider for VCenter {
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let answer = self
            .api
            .post("session")
            .basic(login.credentials()?)
            .login()
            .await?;
        let token = Token::header(SESSION_ID, answer.secret("")?)?;
        Ok(token.lives_for(LIFETIME).idles_out_after(IDLE))
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api
            .delete("session")
            .token(cx.token())
            .logout()
            .await?;
        Ok(())
    }
}

mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use tokio::time::{Instant, sleep};

    use super::super::server::{
        Answers, BASE, NO_PASSWORD_CHANGE, Server, basic, credentials, header_of, json, target,
        text,
    };
    use super::*;

    const UNAUTHENTICATED: &str = r#"{"error_type":"UNAUTHENTICATED","messages":[{"args":[],"default_message":"Authentication required.","id":"com.vmware.vapi.endpoint.method.authentication.required"}]}"#;

    fn provider(server: &Server<State>) -> VCenter {
        let api = Api::new(server.http(), format!("{BASE}/api/").parse().unwrap()).unwrap();
        VCenter {
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
    async fn a_session_that_is_used_goes_on_and_one_that_was_not_is_replaced_unasked() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        for _ in 0..30 {
            assert_eq!(server.read(&client).await.0.status(), 200);
            sleep(Duration::from_secs(120)).await;
        }
        assert_eq!(server.state().counts(), (1, 0));
        sleep(IDLE).await;
        assert_eq!(server.read(&client).await.0.status(), 200);
        assert_eq!(server.state().counts(), (2, 0));
        session.logout().await.unwrap();
        assert_eq!(server.state().live(), 0);
    }

    #[derive(Default)]
    struct State {
        /// By id, when it began and when it was used last.
        sessions: HashMap<String, (Instant, Instant)>,
        logins: usize,
        rejected: usize,
        failed: usize,
    }

    impl State {
        /// Logins, and requests with a dead token.
        fn counts(&self) -> (usize, usize) {
            (self.logins, self.rejected)
        }

        fn is_live(&self, id: &str) -> bool {
            let session = self.sessions.get(id);
            session.is_some_and(|(began, used)| began.elapsed() < LIFETIME && used.elapsed() < IDLE)
        }
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/api/vcenter/vm";

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            if target(request) == (&Method::POST, "/api/session") {
                if header_of(request, "authorization") != basic() {
                    self.failed += 1;
                    return json(401, UNAUTHENTICATED);
                }
                self.logins += 1;
                let id = format!("b00dd0f9c4e5a9a9e2d9f0d3f9c4{:04}", self.logins);
                self.sessions
                    .insert(id.clone(), (Instant::now(), Instant::now()));
                return json(201, format_args!("\"{id}\""));
            }
            let id = header_of(request, "vmware-api-session-id");
            if !self.is_live(id) {
                self.rejected += 1;
                return json(401, UNAUTHENTICATED);
            }
            if let Some((_, used)) = self.sessions.get_mut(id) {
                *used = Instant::now();
            }
            match target(request) {
                (&Method::DELETE, "/api/session") => {
                    self.sessions.remove(id);
                    text(204, "")
                }
                (&Method::GET, Self::PROTECTED) => {
                    json(200, r#"[{"vm":"vm-42","power_state":"POWERED_ON"}]"#)
                }
                _ => json(404, r#"{"error_type":"NOT_FOUND","messages":[]}"#),
            }
        }

        fn revoke_all(&mut self) {
            self.sessions.clear();
        }

        fn live(&self) -> usize {
            self.sessions.keys().filter(|id| self.is_live(id)).count()
        }

        fn logins(&self) -> usize {
            self.logins
        }

        fn failed(&self) -> usize {
            self.failed
        }
    }
}
