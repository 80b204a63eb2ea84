//! The ready client against servers that speak TLS, over sockets.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData, SigningKey,
};
use rustls::CertificateError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{pause, resume, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_reauth::client::{self, BuildError, HttpsClient};
use tower_reauth::provider::Api;
use tower_reauth::{LoginContext, ProviderError, Session, Token, provider_fn};

const CA: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);
const KINDS: [IsCa; 3] = [IsCa::NoCa, IsCa::ExplicitNoCa, CA];

/// A certificate and its key.
struct Own {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Own {
    /// For `localhost`, good until the year 4000, signed by itself.
    fn new(is_ca: IsCa) -> Self {
        Self::with(is_ca, |_| {})
    }

    fn with(is_ca: IsCa, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = parameters(is_ca, change);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn signed_by(issuer: &Own, is_ca: IsCa, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = parameters(is_ca, change);
        let issuer = Issuer::from_params(&issuer.params, &issuer.key);
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        Self { params, key, pem }
    }

    fn pem(&self) -> String {
        self.pem.clone()
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }
}

fn parameters(
    is_ca: IsCa,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = is_ca;
    params.not_after = rcgen::date_time_ymd(4000, 1, 1);
    change(&mut params);
    (params, KeyPair::generate().unwrap())
}

fn named(name: &str) -> impl FnOnce(&mut CertificateParams) {
    let name = name.to_owned();
    move |params| {
        let common = rcgen::DnType::CommonName;
        params.distinguished_name.push(common, name.as_str());
    }
}

/// An element in DER.
fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], &content].concat()
}

/// A certificate of X.509 version 1, signed by itself, and good in these years.
fn version_1(key: &KeyPair, not_before: &str, not_after: &str) -> CertificateDer<'static> {
    const ECDSA_WITH_SHA256: &[u8] = &[0x06, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2];
    const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];
    let algorithm = der(0x30, &[ECDSA_WITH_SHA256]);
    let common_name = der(0x30, &[COMMON_NAME, &der(0x0C, &[b"old"])]);
    let name = der(0x30, &[&der(0x31, &[&common_name])]);
    let date = |year: &str| match year.len() {
        2 => der(0x17, &[year.as_bytes(), b"0228235959Z"]),
        _ => der(0x18, &[year.as_bytes(), b"0228235959Z"]),
    };
    let validity = der(0x30, &[&date(not_before), &date(not_after)]);
    let key_info = key.subject_public_key_info();
    let fields = [
        &[2, 1, 7][..],
        &algorithm,
        &name,
        &validity,
        &name,
        &key_info,
    ];
    let signed = der(0x30, &fields);
    let signature = der(0x03, &[&[0], &key.sign(&signed).unwrap()]);
    der(0x30, &[&signed, &algorithm, &signature]).into()
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
}

/// Serves with a certificate of version 1, over this version of TLS.
async fn serve_version_1(
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    version: &'static rustls::SupportedProtocolVersion,
) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let own = rustls::sign::CertifiedKey::new(vec![certificate], key);
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own)));
    serve_by(TlsAcceptor::from(Arc::new(tls))).await
}

fn acceptor(own: &Own, chain: &[&Own], alpn: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = std::iter::once(own).chain(chain.iter().copied());
    let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Own::der).collect(), key)
        .unwrap();
    tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(tls))
}

/// Answers with the version of HTTP that was spoken, until the client hangs up.
async fn answer(stream: TlsStream<TcpStream>) {
    let service = hyper::service::service_fn(|request: Request<_>| async move {
        let version = format!("{:?}", request.version());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(version)))
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let _ = connection.await;
}

/// Serves over TLS. Yields its origin.
async fn serve(own: &Own, chain: &[&Own], alpn: &[&str]) -> String {
    serve_by(acceptor(own, chain, alpn)).await
}

async fn serve_by(acceptor: TlsAcceptor) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // One that the client broke off is no connection.
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream).await;
                }
            });
        }
    });
    format!("https://localhost:{port}")
}

fn trusting(pem: impl Into<Vec<u8>>) -> HttpsClient {
    client::https().ca_pem(pem).build().unwrap()
}

async fn get(client: HttpsClient, uri: &str) -> Result<String, BoxError> {
    let request = Request::get(uri).body(Full::default())?;
    let response = client.oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

/// Why a client that trusts `pem` does not talk to that server.
async fn refusal(pem: String, uri: &str) -> CertificateError {
    let error = get(trusting(pem), uri).await.unwrap_err();
    let mut next: Option<&(dyn StdError + 'static)> = Some(&*error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return why.clone();
        }
        // What is wrapped in an `io::Error` is no source of it.
        next = match error.downcast_ref::<std::io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    panic!("not for its certificate: {error:?}");
}

#[tokio::test]
async fn a_server_is_trusted_by_its_own_certificate_of_any_kind() {
    for is_ca in KINDS {
        let own = Own::new(is_ca);
        let uri = serve(&own, &[], &[]).await;
        get(trusting(own.pem()), &uri).await.unwrap();
    }
}

#[tokio::test]
async fn the_certificate_of_another_server_is_refused() {
    for is_ca in KINDS {
        // Of the same names, as self-signed ones often are.
        let uri = serve(&Own::new(is_ca), &[], &[]).await;
        let stranger = Own::new(is_ca).pem();
        let why = refusal(stranger, &uri).await;
        match is_ca {
            // The one that was given could have signed it, and has not. Nor
            // does webpki look further where a server shows a CA.
            IsCa::Ca(_) => assert!(matches!(why, CertificateError::Other(_)), "{why:?}"),
            _ => assert!(matches!(why, CertificateError::UnknownIssuer), "{why:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_an_error_that_names_the_way_out() {
    for is_ca in KINDS {
        let uri = serve(&Own::new(is_ca), &[], &[]).await;
        let http = trusting(Own::with(IsCa::NoCa, named("another")).pem());
        let error = get(http.clone(), &uri).await.unwrap_err();
        let text = "the server's certificate is not trusted (if it is the right server, give its \
                    certificate or its CA to `ca_file`): invalid peer certificate: ";
        assert!(error.to_string().starts_with(text), "{error}");
        assert!(error.source().unwrap().is::<legacy::Error>());

        // As the error of a login too.
        let api = Api::new(http, uri.parse().unwrap()).unwrap();
        let provider = provider_fn(api.profile(), move |_: LoginContext| {
            let api = api.clone();
            async move {
                api.get("/login").login().await?;
                Ok::<_, ProviderError>(Token::bearer("3f9a")?)
            }
        });
        let error = Session::new(provider).token().await.unwrap_err();
        let start = format!("login failed: the login system was not reached: {text}");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    // Other faults have other ways out.
    let own = Own::new(IsCa::NoCa);
    let uri = serve(&own, &[], &[]).await;
    let uri = uri.replace("localhost", "127.0.0.1");
    let error = get(trusting(own.pem()), &uri).await.unwrap_err();
    assert!(error.is::<legacy::Error>(), "{error}");
}

#[tokio::test]
async fn a_certificate_that_was_given_is_refused_for_another_host() {
    for is_ca in KINDS {
        let own = Own::new(is_ca);
        let uri = serve(&own, &[], &[]).await;
        let uri = uri.replace("localhost", "127.0.0.1");
        let why = refusal(own.pem(), &uri).await;
        assert!(
            matches!(why, CertificateError::NotValidForNameContext { .. }),
            "{why:?}"
        );
    }
}

#[tokio::test]
async fn a_certificate_that_was_given_is_refused_outside_of_its_dates() {
    for is_ca in KINDS {
        let own = Own::with(is_ca, |params| {
            params.not_after = rcgen::date_time_ymd(2000, 1, 1);
        });
        let uri = serve(&own, &[], &[]).await;
        let why = refusal(own.pem(), &uri).await;
        assert!(
            matches!(why, CertificateError::ExpiredContext { .. }),
            "{why:?}"
        );

        let own = Own::with(is_ca, |params| {
            params.not_before = rcgen::date_time_ymd(3000, 1, 1);
        });
        let uri = serve(&own, &[], &[]).await;
        let why = refusal(own.pem(), &uri).await;
        assert!(
            matches!(why, CertificateError::NotValidYetContext { .. }),
            "{why:?}"
        );
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_ca_over_an_intermediate_too() {
    let root = Own::with(CA, named("root"));
    let between = Own::signed_by(&root, CA, named("between"));
    let own = Own::signed_by(&between, IsCa::NoCa, named("own"));
    let uri = serve(&own, &[&between], &[]).await;
    get(trusting(root.pem()), &uri).await.unwrap();

    let stranger = Own::with(CA, named("stranger"));
    let why = refusal(stranger.pem(), &uri).await;
    assert!(matches!(why, CertificateError::UnknownIssuer), "{why:?}");
}

#[tokio::test]
async fn a_certificate_that_was_given_needs_no_issuer() {
    let root = Own::with(CA, named("root"));
    let own = Own::signed_by(&root, IsCa::NoCa, named("own"));
    let uri = serve(&own, &[&root], &[]).await;
    get(trusting(own.pem()), &uri).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_no_ca_vouches_for_itself_only() {
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let one = Own::with(is_ca, named("one"));
        let other = Own::signed_by(&one, IsCa::NoCa, named("other"));
        let uri = serve(&other, &[], &[]).await;
        let why = refusal(one.pem(), &uri).await;
        assert!(matches!(why, CertificateError::UnknownIssuer), "{why:?}");
        // Nor beside a CA.
        let ca = Own::with(CA, named("ca"));
        let why = refusal(one.pem() + &ca.pem(), &uri).await;
        assert!(matches!(why, CertificateError::UnknownIssuer), "{why:?}");
    }
}

#[tokio::test]
async fn a_certificate_of_version_1_vouches_for_itself() {
    let key = KeyPair::generate().unwrap();
    for (not_before, not_after) in [("49", "51"), ("2049", "1951"), ("3000", "4000")] {
        // Before 1950 is 2049, so that these are not in date.
        let own = version_1(&key, not_before, not_after);
        let uri = serve_version_1(own.clone(), &key, &rustls::version::TLS13).await;
        let why = refusal(pem(&own), &uri).await;
        let is_in_the_future = matches!(why, CertificateError::NotValidYetContext { .. });
        assert!(is_in_the_future, "{not_before}: {why:?}");
    }
    let expired = version_1(&key, "1999", "00");
    let uri = serve_version_1(expired.clone(), &key, &rustls::version::TLS13).await;
    let why = refusal(pem(&expired), &uri).await;
    assert!(
        matches!(why, CertificateError::ExpiredContext { .. }),
        "{why:?}"
    );

    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let own = version_1(&key, "99", "4000");
        let uri = serve_version_1(own.clone(), &key, version).await;
        // It names no host.
        for uri in [&uri, &uri.replace("localhost", "127.0.0.1")] {
            get(trusting(pem(&own)), uri).await.unwrap();
        }
        // By another, which is the same but for its dates.
        let other = version_1(&key, "98", "4000");
        get(trusting(pem(&other)), &uri).await.unwrap_err();
        // A server that shows it and has another key.
        let stranger = KeyPair::generate().unwrap();
        let uri = serve_version_1(own.clone(), &stranger, version).await;
        let why = refusal(pem(&own), &uri).await;
        assert!(matches!(why, CertificateError::BadSignature), "{why:?}");
    }
}

#[tokio::test]
async fn a_certificate_of_version_1_vouches_for_no_other() {
    let issuer = Own::with(CA, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        named("old")(params);
    });
    let own = version_1(&issuer.key, "99", "4000");
    let other = Own::signed_by(&issuer, IsCa::NoCa, named("other"));
    let uri = serve(&other, &[], &[]).await;
    let why = refusal(pem(&own), &uri).await;
    assert!(matches!(why, CertificateError::UnknownIssuer), "{why:?}");
    get(trusting(issuer.pem()), &uri).await.unwrap();
}

/// As servers made it for themselves before names moved from the subject.
#[tokio::test]
async fn a_certificate_without_names_that_was_given_is_accepted_for_any_host() {
    for is_ca in KINDS {
        let nameless = |params: &mut CertificateParams| params.subject_alt_names.clear();
        let own = Own::with(is_ca, nameless);
        let uri = serve(&own, &[], &[]).await;
        for uri in [&uri, &uri.replace("localhost", "127.0.0.1")] {
            get(trusting(own.pem()), uri).await.unwrap();
        }
        // Only itself: not what a CA has signed.
        let ca = Own::with(CA, named("ca"));
        let signed = Own::signed_by(&ca, is_ca, nameless);
        let uri = serve(&signed, &[], &[]).await;
        get(trusting(ca.pem()), &uri).await.unwrap_err();
    }
}

#[test]
fn a_mark_before_a_certificate_is_skipped() {
    const MARK: &str = "\u{feff}";
    let (one, other) = (Own::new(CA).pem(), Own::new(IsCa::NoCa).pem());
    for pem in [
        format!("{MARK}{one}"),
        format!("{one}{MARK}{other}"),
        format!("{MARK}{one}{MARK}{other}{MARK}"),
    ] {
        trusting(pem);
    }
    let error = failure(client::https().ca_pem(format!("{MARK}{}", &one[..one.len() / 2])));
    assert!(matches!(error, BuildError::Unusable { .. }), "{error:?}");
}

/// Each certificate behind a mark is trusted, not the first alone.
#[tokio::test]
async fn a_certificate_behind_a_mark_is_trusted() {
    let own = Own::new(IsCa::NoCa);
    let uri = serve(&own, &[], &[]).await;
    let pem = format!("{}\u{feff}{}", Own::new(CA).pem(), own.pem());
    get(trusting(pem), &uri).await.unwrap();
}

#[tokio::test]
async fn all_that_was_given_is_trusted() {
    let directory = folder();
    let (ca, own) = (Own::with(CA, named("ca")), Own::new(IsCa::NoCa));
    let signed = Own::signed_by(&ca, IsCa::NoCa, named("signed"));
    // As a server keeps it: with its key, and what openssl says of it.
    let file = directory.0.join("server.pem");
    let text = format!("Subject: CN = x\n{}{}", own.key.serialize_pem(), own.pem());
    std::fs::write(&file, text).unwrap();
    let client = client::https().ca_file(&file).ca_pem(ca.pem());
    let client: HttpsClient = client.build().unwrap();
    for own in [&own, &signed] {
        let uri = serve(own, &[], &[]).await;
        get(client.clone(), &uri).await.unwrap();
    }
    let uri = serve(&Own::new(IsCa::NoCa), &[], &[]).await;
    get(client, &uri).await.unwrap_err();
}

#[tokio::test]
async fn the_version_of_http_is_agreed_upon() {
    let own = Own::new(IsCa::NoCa);
    let client = trusting(own.pem());
    for (alpn, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let uri = serve(&own, &[], alpn).await;
        let spoken = get(client.clone(), &uri).await.unwrap();
        assert_eq!(spoken, format!("{version:?}"), "{alpn:?}");
    }
}

/// As where a firewall forgot about it: it is open, and nothing passes.
#[tokio::test]
async fn a_connection_of_http_2_that_died_in_silence_is_replaced() {
    let own = Own::new(IsCa::NoCa);
    let acceptor = acceptor(&own, &[], &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let (die, dies) = oneshot::channel::<()>();
    let (dead, died) = oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut first = Box::pin(answer(acceptor.accept(stream).await.unwrap()));
        tokio::select! {
            () = &mut first => panic!("the client hung up"),
            _ = dies => dead.send(()).unwrap(),
        }
        let (stream, _) = listener.accept().await.unwrap();
        answer(acceptor.accept(stream).await.unwrap()).await;
    });
    let client = trusting(own.pem());
    get(client.clone(), &uri).await.unwrap();
    die.send(()).unwrap();
    died.await.unwrap();

    // Each is given up long before anybody asks after the connection.
    pause();
    for _ in 0..2 {
        let call = timeout(Duration::from_secs(1), get(client.clone(), &uri));
        call.await.unwrap_err();
        sleep(Duration::from_secs(60)).await;
    }
    resume();
    let call = timeout(Duration::from_secs(60), get(client, &uri)).await;
    let spoken = call.expect("the dead connection is used").unwrap();
    assert_eq!(spoken, "HTTP/2.0");
}

#[tokio::test]
async fn plain_http_passes_as_http_1() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(|request: Request<_>| async move {
            let version = format!("{:?}", request.version());
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(version)))
        });
        let http1 = hyper::server::conn::http1::Builder::new();
        http1.serve_connection(TokioIo::new(stream), service).await
    });
    let own = Own::new(IsCa::NoCa);
    assert_eq!(get(trusting(own.pem()), &uri).await.unwrap(), "HTTP/1.1");
}

#[tokio::test]
async fn it_serves_both_a_session_and_its_provider() {
    let own = Own::new(IsCa::NoCa);
    let uri = serve(&own, &[], &["h2"]).await;
    let http = trusting(own.pem());
    let api = Api::new(http.clone(), uri.parse().unwrap()).unwrap();
    let provider = provider_fn(api.profile(), move |_: LoginContext| {
        let api = api.clone();
        async move {
            let answer = api.get("/login").login().await?;
            let token = answer.text().map(str::to_owned)?;
            Ok::<_, ProviderError>(Token::bearer(token)?)
        }
    });
    let session = Session::new(provider);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let request = Request::get(&uri).body(Full::<Bytes>::default()).unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let token = session.token().await.unwrap();
    assert_eq!(token.headers().count(), 1);
}

#[test]
fn everything_can_be_shared_and_moved() {
    fn free<T: Send + Sync + Unpin + 'static>() {}
    free::<HttpsClient>();
    free::<client::Builder>();
    free::<BuildError>();
    fn sent<T: Send + Unpin + 'static>() {}
    sent::<client::ResponseFuture>();
}

// Where there is no client.

fn failure(builder: client::Builder) -> BuildError {
    builder.build::<Full<Bytes>>().unwrap_err()
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = folder();
    let missing = directory.0.join("missing.pem");
    let error = failure(client::https().ca_file(&missing));
    assert_eq!(
        error.to_string(),
        format!("cannot read {}", missing.display())
    );
    let BuildError::Unreadable { file, source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(file, missing);
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn what_holds_no_certificate_is_no_trust() {
    let own = Own::new(IsCa::NoCa);
    for pem in [
        Vec::new(),
        b"nothing".to_vec(),
        own.key.serialize_pem().into_bytes(),
        own.der().to_vec(),
    ] {
        let error = failure(client::https().ca_pem(pem));
        assert!(
            matches!(error, BuildError::NoCertificate { file: None, .. }),
            "{error:?}"
        );
    }
    let good = own.pem();
    let error = failure(client::https().ca_pem(good).ca_pem(""));
    assert!(
        matches!(error, BuildError::NoCertificate { .. }),
        "one of two: {error:?}"
    );
}

#[test]
fn a_certificate_that_is_broken_is_no_trust() {
    let pem = Own::new(CA).pem();
    let half = pem.len() / 2;
    let no_end = pem[..half].to_owned();
    let no_base64 = pem.replacen("MII", "M!I", 1);
    let no_certificate =
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_owned();
    for pem in [no_end, no_base64, no_certificate] {
        let error = failure(client::https().ca_pem(pem));
        assert!(matches!(error, BuildError::Unusable { .. }), "{error:?}");
        assert!(error.source().is_some());
    }
}

/// Some keep both in one file, of which the keys are skipped.
#[test]
fn a_key_among_the_certificates_is_not_shown() {
    let own = Own::new(IsCa::NoCa);
    let both = own.key.serialize_pem() + &own.pem();
    let shown = format!("{:?}", client::https().ca_pem(both.clone()));
    let key = format!("{:?}", own.key.serialize_pem().as_bytes());
    assert!(!shown.contains(key.trim_matches(['[', ']'])), "{shown}");
}

/// As in a variable that lost its line breaks.
#[test]
fn a_key_in_pem_of_one_line_is_not_quoted() {
    let own = Own::new(IsCa::NoCa);
    let one_line = (own.key.serialize_pem() + &own.pem()).replace('\n', "");
    let key = format!("{:?}", &one_line.as_bytes()[40..60]);
    let end = one_line.find("-----END").unwrap();
    for broken in [&one_line, &one_line[..end]] {
        let error = failure(client::https().ca_pem(broken));
        let cause = error.source().unwrap();
        for shown in [
            format!("{error:?}"),
            format!("{cause:?}"),
            format!("{cause}"),
        ] {
            assert!(!shown.contains(key.trim_matches(['[', ']'])), "{shown}");
        }
    }
}

/// Not a test of its own: what
/// [`the_systems_roots_are_trusted_and_missed`] runs as a process of its own,
/// since the system's roots are named by the environment.
#[tokio::test]
#[ignore = "run by another"]
async fn in_a_system_of_its_own() {
    let Ok(key) = std::env::var("KEY_OF_THE_ROOT") else {
        let error = failure(client::https());
        assert!(
            matches!(error, BuildError::NoSystemRoots { .. }),
            "{error:?}"
        );
        return;
    };
    let (params, _) = parameters(CA, named("root"));
    let root = Own {
        params,
        key: KeyPair::from_pem(&key).unwrap(),
        pem: std::fs::read_to_string(std::env::var("SSL_CERT_FILE").unwrap()).unwrap(),
    };
    let own = Own::signed_by(&root, IsCa::NoCa, named("own"));
    let client: HttpsClient = client::https().build().unwrap();
    // By its issuer, and by itself.
    for own in [&own, &root] {
        let uri = serve(own, &[], &[]).await;
        get(client.clone(), &uri).await.unwrap();
    }
    let uri = serve(&own, &[], &[]).await;
    // Given certificates are trusted instead.
    let why = refusal(Own::new(CA).pem(), &uri).await;
    assert!(matches!(why, CertificateError::UnknownIssuer), "{why:?}");
}

#[test]
fn the_systems_roots_are_trusted_and_missed() {
    let directory = folder();
    let roots = directory.0.join("roots.pem");
    let root = Own::with(CA, named("root"));
    let runs = |key: Option<String>| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "in_a_system_of_its_own", "--ignored"])
            .env("SSL_CERT_FILE", &roots)
            .env_remove("SSL_CERT_DIR");
        if let Some(key) = key {
            child.env("KEY_OF_THE_ROOT", key);
        }
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
    };
    runs(None);
    std::fs::write(&roots, "nothing").unwrap();
    runs(None);
    std::fs::write(&roots, root.pem()).unwrap();
    runs(Some(root.key.serialize_pem()));
}

/// A folder that goes with its test.
struct Folder(std::path::PathBuf);

fn folder() -> Folder {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("tower-reauth-client-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir(&path).unwrap();
    Folder(path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
