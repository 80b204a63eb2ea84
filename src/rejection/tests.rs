use http::Response;

use super::*;

fn head(status: u16, headers: &[(&str, &str)]) -> Parts {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap().into_parts().0
}

fn status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap()
}

fn grpc() -> Rejection {
    Rejection::header("grpc-status", HeaderValue::from_static("16"))
}

#[test]
fn a_401_is_a_sure_rejection_by_default_and_nothing_else_is_one() {
    let rejection = Rejection::default();
    assert_eq!(
        rejection.classify(&head(401, &[])),
        Verdict::Rejected(Certainty::Sure)
    );
    for other in [200, 302, 400, 403, 500, 503] {
        assert_eq!(
            rejection.classify(&head(other, &[])),
            Verdict::Accepted,
            "{other}"
        );
    }
}

#[test]
fn a_5xx_and_a_closure_are_unsure_unless_they_are_said_to_be_sure() {
    let by_status = Rejection::status(status(500));
    assert_eq!(
        by_status.classify(&head(500, &[])),
        Verdict::Rejected(Certainty::Unsure)
    );
    assert_eq!(
        by_status.sure().classify(&head(500, &[])),
        Verdict::Rejected(Certainty::Sure)
    );
    let by_closure = Rejection::when(|head| head.status == 419);
    assert_eq!(
        by_closure.classify(&head(419, &[])),
        Verdict::Rejected(Certainty::Unsure)
    );
    assert_eq!(
        by_closure.sure().classify(&head(419, &[])),
        Verdict::Rejected(Certainty::Sure)
    );
}

#[test]
fn sure_is_said_of_the_last_clause_only() {
    let rejection = Rejection::status(status(500)).or_status(status(503)).sure();
    assert_eq!(
        rejection.classify(&head(500, &[])),
        Verdict::Rejected(Certainty::Unsure)
    );
    assert_eq!(
        rejection.classify(&head(503, &[])),
        Verdict::Rejected(Certainty::Sure)
    );
}

#[test]
fn a_header_decides_whatever_the_status() {
    assert_eq!(
        grpc().classify(&head(200, &[("grpc-status", "0"), ("grpc-status", "16")])),
        Verdict::Rejected(Certainty::Sure)
    );
    assert_eq!(
        grpc().classify(&head(502, &[("grpc-status", "16")])),
        Verdict::Rejected(Certainty::Unsure)
    );
    assert_eq!(
        grpc().classify(&head(200, &[("grpc-status", "7")])),
        Verdict::Accepted
    );
}

#[test]
#[should_panic(expected = "invalid HTTP header name")]
fn an_invalid_header_name_panics_where_it_is_written() {
    let _ = Rejection::header("no name", HeaderValue::from_static("16"));
}

#[test]
fn any_clause_of_several_is_enough() {
    let rejection = Rejection::status(status(401))
        .or_header("grpc-status", HeaderValue::from_static("16"))
        .or_when(|head| head.status == 419);
    for (head, expected) in [
        (head(401, &[]), Certainty::Sure),
        (head(200, &[("grpc-status", "16")]), Certainty::Sure),
        (head(419, &[]), Certainty::Unsure),
    ] {
        assert_eq!(rejection.classify(&head), Verdict::Rejected(expected));
    }
}

#[test]
fn a_body_is_asked_for_only_where_the_status_fits() {
    let rejection = Rejection::status(status(401))
        .or_body_contains(status(500), "expired", 64)
        .or_body_contains(status(500), "invalid", 32);
    assert_eq!(
        rejection.classify(&head(500, &[])),
        Verdict::NeedsBody { bytes: 64 }
    );
    assert_eq!(rejection.classify(&head(200, &[])), Verdict::Accepted);
    assert_eq!(
        rejection.classify(&head(401, &[])),
        Verdict::Rejected(Certainty::Sure)
    );
}

#[test]
fn a_text_counts_only_within_its_bound() {
    let rejection = Rejection::body_contains(status(500), "expired", 16);
    let head = head(500, &[]);
    assert_eq!(
        rejection.classify_body(&head, Start::Complete(b"token expired")),
        Verdict::Rejected(Certainty::Unsure)
    );
    for other in ["the token is expired", "boom", ""] {
        assert_eq!(
            rejection.classify_body(&head, Start::Complete(other.as_bytes())),
            Verdict::Accepted
        );
    }
}

#[test]
fn an_unsure_head_stays_a_rejection_when_the_body_says_nothing() {
    let rejection = Rejection::when(|_| true).or_body_contains(status(500), "expired", 16);
    let head = head(500, &[]);
    assert_eq!(rejection.classify(&head), Verdict::NeedsBody { bytes: 16 });
    assert_eq!(
        rejection.classify_body(&head, Start::Complete(b"boom")),
        Verdict::Rejected(Certainty::Unsure)
    );
}

#[test]
fn only_methods_that_may_be_repeated_are_idempotent() {
    for method in [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ] {
        assert!(is_idempotent(&method), "{method}");
    }
    for method in [Method::POST, Method::PATCH, Method::CONNECT] {
        assert!(!is_idempotent(&method), "{method}");
    }
}

const SURE: Verdict = Verdict::Rejected(Certainty::Sure);
const UNSURE: Verdict = Verdict::Rejected(Certainty::Unsure);

#[test]
fn a_part_of_a_header_decides_in_either_case() {
    let rejection = Rejection::header_contains("x-error", "Session");
    assert_eq!(
        rejection.classify(&head(403, &[("x-error", "no session: x")])),
        SURE
    );
    assert_eq!(
        rejection.classify(&head(500, &[("x-error", "session")])),
        UNSURE
    );
    for headers in [[("x-error", "scope")], [("x-other", "session")]] {
        assert_eq!(rejection.classify(&head(403, &headers)), Verdict::Accepted);
    }
}

#[test]
fn the_error_of_a_challenge_tells_a_dead_token_from_a_missing_scope() {
    let rejection = Rejection::challenge_error("invalid_token");
    let dead = r#"Bearer realm="x", error="invalid_token""#;
    let basic = r#"Basic realm="error=invalid_token""#;
    let scope = r#"Bearer error="insufficient_scope", error_description="invalid_token""#;
    for headers in [
        &[("www-authenticate", dead)][..],
        &[("www-authenticate", basic), ("www-authenticate", dead)],
    ] {
        assert_eq!(rejection.classify(&head(401, headers)), SURE);
        assert_eq!(rejection.classify(&head(403, headers)), SURE);
        // Not a rejection: an offer to log in.
        assert_eq!(rejection.classify(&head(200, headers)), Verdict::Accepted);
    }
    for headers in [
        &[("www-authenticate", scope)][..],
        &[("www-authenticate", basic)],
        &[("authorization", dead)],
        &[],
    ] {
        assert_eq!(rejection.classify(&head(401, headers)), Verdict::Accepted);
    }
    assert!(rejection.accepts_status(status(200)));
    assert!(!rejection.accepts_status(status(403)));
}

#[test]
fn a_redirect_to_the_login_page_is_unsure() {
    let rejection = Rejection::redirect_to("/login");
    let location = [("location", "https://x.test/login?next=/jobs")];
    assert_eq!(rejection.classify(&head(302, &location)), UNSURE);
    assert_eq!(rejection.classify(&head(201, &location)), Verdict::Accepted);
    assert_eq!(
        rejection.classify(&head(302, &[("location", "/")])),
        Verdict::Accepted
    );
    assert!(!rejection.is_sure());
    assert!(rejection.accepts_status(status(200)));
    assert_eq!(rejection.sure().classify(&head(302, &location)), SURE);
}

#[test]
#[should_panic(expected = "neither a path that begins with `/` nor an http(s) URI: \"login\"")]
fn a_login_page_without_a_root_panics_where_it_is_written() {
    let _ = Rejection::redirect_to("login");
}

#[test]
fn a_clause_is_narrowed_by_headers_before_a_body_is_read() {
    let rejection = Rejection::status(status(401))
        .or_body_contains(status(200), "<form", 64)
        .and_header_contains("content-type", "text/html")
        .and_header("x-login", HeaderValue::from_static("1"));
    let html = [
        ("content-type", "text/html; charset=utf-8"),
        ("x-login", "1"),
    ];
    let page = head(200, &html);
    assert_eq!(rejection.classify(&page), Verdict::NeedsBody { bytes: 64 });
    let form = Start::Complete(b"<form id=x>");
    assert_eq!(rejection.classify_body(&page, form), SURE);
    for headers in [
        &html[..1],
        &html[1..],
        &[("content-type", "text/json"), html[1]],
    ] {
        assert_eq!(rejection.classify(&head(200, headers)), Verdict::Accepted);
    }
    // The clause before it is not.
    assert_eq!(rejection.classify(&head(401, &[])), SURE);
}

#[test]
fn a_text_that_may_follow_decides_nothing_unless_another_clause_does() {
    let rejection = Rejection::body_contains(status(500), "expired", 16);
    let failed = head(500, &[]);
    let partial = |start| rejection.classify_body(&failed, Start::Partial(start));
    assert_eq!(partial(b"boom"), Verdict::Unknown);
    assert_eq!(partial(b""), Verdict::Unknown);
    assert_eq!(partial(b"expired"), UNSURE);
    assert_eq!(partial(b"sixteen bytes ok"), Verdict::Accepted);
    let or_closure = rejection.clone().or_when(|head| head.status == 500);
    assert_eq!(
        or_closure.classify_body(&failed, Start::Partial(b"")),
        UNSURE
    );
    let or_status = rejection.or_status(status(500)).sure();
    assert_eq!(or_status.classify(&failed), SURE);
}

#[test]
fn trailers_reject_by_their_own_clauses_only() {
    let unauthenticated = HeaderValue::from_static("16");
    let rejection = grpc()
        .or_trailer("grpc-status", unauthenticated)
        .and_header_contains("grpc-message", "expired")
        .or_header("x-dead", HeaderValue::from_static("1"));
    assert!(rejection.reads_trailers());
    assert!(!grpc().reads_trailers());
    assert!(!rejection.accepts_status(status(200)));
    // The head of a response is not its trailers.
    let expired = [("grpc-status", "16"), ("grpc-message", "token expired")];
    let by_trailer = Rejection::trailer("grpc-status", HeaderValue::from_static("16"));
    assert_eq!(by_trailer.classify(&head(200, &expired)), Verdict::Accepted);
    for (trailers, expected) in [
        (&expired[..], true),
        (&expired[..1], false),
        (&[("grpc-status", "0"), expired[1]], false),
        (&[("x-dead", "1")], false),
    ] {
        let trailers = head(200, trailers).headers;
        assert_eq!(rejection.rejects_trailers(&trailers), expected);
    }
}

#[test]
fn the_debug_output_shows_each_condition() {
    let rejection = Rejection::challenge_error("invalid_token")
        .or_redirect_to("https://x.test/login")
        .sure()
        .or_body_contains(status(200), "<form", 64)
        .and_header_contains("content-type", "html")
        .or_trailer("grpc-status", HeaderValue::from_static("16"));
    assert_eq!(
        format!("{rejection:?}"),
        "[status 4xx, a challenge with the error \"invalid_token\", \
         status 3xx, a redirect to //x.test/login (sure), \
         status 200 OK with \"<form\" in the first 64 bytes, content-type with \"html\", \
         any status and in the trailers, grpc-status: \"16\"]"
    );
}
