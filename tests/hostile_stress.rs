//! Real threads, a server that keeps account, and a close in the middle of it:
//! `S=30 cargo test --test hostile_stress -- --ignored --nocapture`.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::*;
#[derive(Clone, Default)]
struct D(Arc<I>);
#[derive(Default)]
struct I {
    n: AtomicU64,
    live: Mutex<BTreeSet<u64>>,
    inuse_err: AtomicU64,
    bare: AtomicU64,
}
impl CredentialProvider for D {
    fn profile(&self) -> Profile {
        Profile::at("https://a.test".parse().unwrap()).logout_ends(LogoutEnds::Token)
    }
    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        tokio::time::sleep(Duration::from_micros(200)).await;
        let n = self.0.n.fetch_add(1, SeqCst);
        if n % 7 == 3 {
            return Err(ProviderError::unavailable("x").with_retry_after(Duration::from_millis(1)));
        }
        self.0.live.lock().unwrap().insert(n);
        Ok(Token::bearer(n.to_string())?.lives_for(Duration::from_millis(2500)))
    }
    async fn logout(&self, t: Token) -> Result<(), ProviderError> {
        let (_, v) = t.headers().next().unwrap();
        let n: u64 = v.to_str().unwrap()[7..].parse().unwrap();
        tokio::time::sleep(Duration::from_micros(100)).await;
        self.0.live.lock().unwrap().remove(&n);
        Ok(())
    }
}
#[test]
#[ignore = "real threads and real time; S=seconds"]
fn stress() {
    let until = Instant::now()
        + Duration::from_secs(
            std::env::var("S")
                .ok()
                .and_then(|s| s.parse().ok())
                .unwrap_or(10),
        );
    let mut rounds = 0;
    while Instant::now() < until {
        rounds += 1;
        let rt = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let d = D::default();
        let dd = d.clone();
        rt.block_on(async {
            let s = Session::new(d.clone());
            let d2 = d.clone();
            let svc = service_fn(move |r: Request<Full<Bytes>>| {
                let d = d2.clone();
                async move {
                    let Some(v) = r.headers().get("authorization") else {
                        d.0.bare.fetch_add(1, SeqCst);
                        panic!("bare")
                    };
                    let n: u64 = v.to_str().unwrap()[7..].parse().unwrap();
                    let live = |d: &D| d.0.live.lock().unwrap().contains(&n);
                    let before = live(&d);
                    tokio::task::yield_now().await;
                    if before && !live(&d) {
                        d.0.inuse_err.fetch_add(1, SeqCst);
                    }
                    let mut resp = Response::new(Full::new(Bytes::from("x")));
                    if !before || r.uri().path() == "/f" {
                        *resp.status_mut() = http::StatusCode::UNAUTHORIZED;
                    }
                    Ok::<_, std::convert::Infallible>(resp)
                }
            });
            let client = s.layer().layer(svc);
            let stop = Arc::new(AtomicBool::new(false));
            let mut hs = vec![];
            for i in 0..6u64 {
                let (client, s, stop) = (client.clone(), s.clone(), stop.clone());
                hs.push(tokio::spawn(async move {
                    let mut x = i * 7919 + 1;
                    while !stop.load(SeqCst) {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        match x % 12 {
                            0 => {
                                let _ = s.renew().await;
                            }
                            1 => {
                                let _ =
                                    tokio::time::timeout(Duration::from_micros(x % 500), s.renew())
                                        .await;
                            }
                            2 => {
                                if let Ok(t) = s.token().await {
                                    tokio::task::yield_now().await;
                                    drop(t);
                                }
                            }
                            3 if x % 50 == 3 => {
                                if let Ok(t) = s.token().await {
                                    s.reject(&t);
                                }
                            }
                            4 => {
                                let r = Request::get("https://a.test/f")
                                    .body(Full::default())
                                    .unwrap();
                                let _ = tokio::time::timeout(
                                    Duration::from_micros(x % 300),
                                    client.clone().oneshot(r),
                                )
                                .await;
                            }
                            _ => {
                                let r = Request::get("https://a.test/x")
                                    .body(Full::default())
                                    .unwrap();
                                match client.clone().oneshot(r).await {
                                    Ok(r) => {
                                        let _ = r.into_body().collect().await;
                                    }
                                    Err(_) => tokio::task::yield_now().await,
                                }
                            }
                        }
                    }
                }));
            }
            tokio::time::sleep(Duration::from_millis(120)).await;
            let c = tokio::time::timeout(Duration::from_secs(20), s.close(Duration::from_secs(5)))
                .await
                .expect("close hangs");
            stop.store(true, SeqCst);
            for h in hs {
                tokio::time::timeout(Duration::from_secs(10), h)
                    .await
                    .expect("request hangs")
                    .unwrap();
            }
            if let Err(e) = &c {
                eprintln!("round {rounds}: {e:?}");
            }
            drop((s, client));
            let mut left = 0;
            for _ in 0..200 {
                left = tokio::runtime::Handle::current()
                    .metrics()
                    .num_alive_tasks();
                if left == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if left > 0 {
                eprintln!("round {rounds}: {left} tasks remain");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            let left = dd.0.live.lock().unwrap().len();
            if left > 0 {
                eprintln!("round {rounds}: {left} sessions live");
            }
            if dd.0.inuse_err.load(SeqCst) > 0 {
                eprintln!(
                    "round {rounds}: logged out while in use {}",
                    dd.0.inuse_err.load(SeqCst)
                );
            }
        });
    }
    eprintln!("{rounds} rounds");
}
