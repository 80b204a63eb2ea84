//! Zabbix: JSON-RPC, where each answer is a 200. What went wrong stands in
//! `error.data`: a wrong password in an answer to a login, and `Session
//! terminated, re-login, please.` in one to a dead session.

use http::StatusCode;
use serde::Serialize;
use tower_reauth::provider::{Answer, Api};
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds, Profile,
    ProviderError, Rejection, Source, Token,
};

use super::server::Http;

const TERMINATED: &str = "Session terminated, re-login, please.";

struct Zabbix {
    api: Api<Http>, // at `/zabbix/`
    source: Source,
}

#[derive(Serialize)]
struct Rpc<P> {
    jsonrpc: &'static str,
    method: &'static str,
    params: P,
    id: u8,
}

#[derive(Serialize)]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
}

impl CredentialProvider for Zabbix {
    fn profile(&self) -> Profile {
        let rejection =
            Rejection::body_contains(StatusCode::OK, format!(r#""data":"{TERMINATED}""#), 512);
        self.api
            .profile()
            .rejection(rejection)
            .logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let user = login.credentials()?;
        let params = Login {
            username: user.username(),
            password: user.password().expose_secret(),
        };
        let answer = self
            .api
            .post("api_jsonrpc.php")
            .json(&rpc("user.login", params))
            .login()
            .await?;
        match error_of(&answer) {
            Some(error) if error.starts_with("Incorrect user name or password") => {
                Err(ProviderError::refused(error))
            }
            Some(error) if error == "No permissions for system access." => {
                Err(ProviderError::refused(error))
            }
            Some(_) => Err(answer.unexpected("is another error")),
            None => Ok(Token::bearer(answer.secret("/result")?)?),
        }
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let call = self.api.post("api_jsonrpc.php").token(cx.token());
        let answer = call.json(&rpc("user.logout", [(); 0])).logout().await?;
        match error_of(&answer) {
            Some(error) if error == TERMINATED => Err(ProviderError::token_rejected(error)),
            Some(_) => Err(answer.unexpected("is an error")),
            None => Ok(()),
        }
    }
}

fn rpc<P>(method: &'static str, params: P) -> Rpc<P> {
    Rpc {
        jsonrpc: "2.0",
        method,
        params,
        id: 1,
    }
}

fn error_of(answer: &Answer) -> Option<String> {
    answer.at("/error/data").ok()
}

mod tests {
    use std::collections::HashSet;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use serde_json::json as object;

    use super::super::server::{
        Answers, BASE, NO_PASSWORD_CHANGE, PASSWORD, Server, USER, credentials, header_of, json,
        json_of,
    };
    use super::*;

    fn provider(server: &Server<State>) -> Zabbix {
        let api = Api::new(server.http(), format!("{BASE}/zabbix/").parse().unwrap()).unwrap();
        Zabbix {
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

    #[derive(Default)]
    struct State {
        sessions: HashSet<String>,
        logins: usize,
        failed: usize,
    }

    fn error(code: i32, message: &str, data: &str) -> Response<Bytes> {
        json(
            200,
            object!({ "jsonrpc": "2.0", "error": { "code": code, "message": message, "data": data }, "id": 1 }),
        )
    }

    fn result(result: impl Serialize) -> Response<Bytes> {
        json(
            200,
            object!({ "jsonrpc": "2.0", "result": result, "id": 1 }),
        )
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/zabbix/api_jsonrpc.php";

        fn probe() -> Request<Full<Bytes>> {
            let body = object!({ "jsonrpc": "2.0", "method": "host.get", "params": {}, "id": 1 })
                .to_string();
            let request = Request::post(format!("{BASE}{}", Self::PROTECTED));
            request
                .header("content-type", "application/json-rpc")
                .body(body.into())
                .unwrap()
        }

        fn accepted(response: &Response<Bytes>) -> bool {
            serde_json::from_slice::<serde_json::Value>(response.body())
                .unwrap()
                .get("result")
                .is_some()
        }

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            let body = json_of(request);
            if body["method"] == "user.login" {
                if body["params"] != object!({ "username": USER, "password": PASSWORD }) {
                    self.failed += 1;
                    let data = "Incorrect user name or password or account is temporarily blocked.";
                    return error(-32500, "Application error.", data);
                }
                self.logins += 1;
                let session = format!("0424bd59b807674191e7d775{:08}", self.logins);
                self.sessions.insert(session.clone());
                return result(session);
            }
            let session = header_of(request, "authorization")
                .strip_prefix("Bearer ")
                .unwrap_or_default();
            if !self.sessions.contains(session) {
                return error(-32602, "Invalid params.", TERMINATED);
            }
            match body["method"].as_str() {
                Some("user.logout") => result(self.sessions.remove(session)),
                Some("host.get") => result([object!({ "hostid": "10084" })]),
                _ => error(-32601, "Method not found.", "Incorrect API."),
            }
        }

        fn revoke_all(&mut self) {
            self.sessions.clear();
        }

        fn live(&self) -> usize {
            self.sessions.len()
        }

        fn logins(&self) -> usize {
            self.logins
        }

        fn failed(&self) -> usize {
            self.failed
        }
    }
}
