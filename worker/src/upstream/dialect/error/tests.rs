use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

/// Sun, 06 Nov 1994 08:49:37 GMT
const NOW: Duration = Duration::from_secs(784_111_777);

fn at(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Trouble {
    let pairs = headers.iter();
    let headers = pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let status = StatusCode::from_u16(status).unwrap();
    of_status(status, &headers.collect(), body.as_bytes(), SystemTime::UNIX_EPOCH + NOW)
}

fn wait(status: u16, headers: &[(&'static str, &'static str)]) -> Option<Duration> {
    at(status, headers, "").failure.retry_after
}

#[test]
fn every_form_of_error_has_its_words_and_its_sentence() {
    for (body, word, sentence) in [
        (
            r#"{"error":{"message":"No.","type":"invalid_request_error","param":"x","code":"unsupported_parameter"}}"#,
            Some("unsupported_parameter"),
            "No.",
        ),
        (
            r#"{"error":{"message":"No.","type":"not_found_error","param":null,"code":null}}"#,
            Some("not_found_error"),
            "No.",
        ),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#,
            Some("overloaded_error"),
            "Overloaded",
        ),
        (
            r#"{"type":"error","code":null,"message":"Broken","param":null,"sequence_number":3}"#,
            None,
            "Broken",
        ),
        (r#"{"error":"model 'x' not found"}"#, None, "model 'x' not found"),
        (
            r#"{"object":"error","message":"Gone","type":"NotFoundError","code":404}"#,
            Some("not_found_error"),
            "Gone",
        ),
        (
            r#"{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}"#,
            Some("resource_exhausted"),
            "Quota",
        ),
        (
            r#"[{"error":{"code":400,"message":"Bad","status":"INVALID_ARGUMENT"}}]"#,
            Some("invalid_argument"),
            "Bad",
        ),
        (r#"{"detail":"Not Found"}"#, None, "Not Found"),
        (
            r#"{"detail":[{"type":"missing","loc":["body","model"],"msg":"Field required"}]}"#,
            Some("missing"),
            "Field required",
        ),
        (r#"{"response":{"error":{"code":"server_error","message":"Oh"}}}"#, Some("server_error"), "Oh"),
        (r#"{"choices":[{"error":{"code":502,"message":"Lost"},"finish_reason":"error"}]}"#, None, "Lost"),
        (
            r#"{"error":"invalid_client","error_description":"who?"}"#,
            Some("invalid_client"),
            "invalid_client",
        ),
        (r#"{"error":{"code":"sk-live-abc","message":5}}"#, None, ""),
        (r#"{"error":{}}"#, None, ""),
        ("upstream connect error\n", None, "upstream connect error"),
        (
            "<html><head><TITLE>502 Bad Gateway</TITLE></head><body>secrets</body></html>",
            None,
            "502 Bad Gateway",
        ),
        ("<!doctype html><h1>Oops</h1>", None, "Oops"),
        ("<p>", None, "a web page"),
        ("", None, ""),
    ] {
        let expected = (word.map(str::to_owned), sentence.to_owned());
        assert_eq!(error_body(body.as_bytes()), expected, "{body}");
    }
}

#[test]
fn a_status_says_who_may_be_asked_again() {
    use FailureReason::{Auth, NotAStream, RateLimited, Redirect, Rejected, Server};
    for (status, reason, code, again) in [
        (204, NotAStream, Code::UpstreamError, Again::Anybody),
        (301, Redirect, Code::UpstreamError, Again::Elsewhere),
        (308, Redirect, Code::UpstreamError, Again::Elsewhere),
        (400, Rejected, Code::InvalidRequest, Again::Nobody),
        (401, Auth, Code::UpstreamAuth, Again::Elsewhere),
        (402, Auth, Code::UpstreamAuth, Again::Elsewhere),
        (403, Auth, Code::UpstreamAuth, Again::Elsewhere),
        (404, Rejected, Code::InvalidRequest, Again::Elsewhere),
        (407, Auth, Code::UpstreamAuth, Again::Elsewhere),
        (408, Server, Code::UpstreamError, Again::Anybody),
        (409, Server, Code::UpstreamError, Again::Anybody),
        (413, Rejected, Code::InvalidRequest, Again::Nobody),
        (422, Rejected, Code::InvalidRequest, Again::Nobody),
        (429, RateLimited, Code::RateLimited, Again::Anybody),
        (500, Server, Code::UpstreamError, Again::Anybody),
        (502, Server, Code::UpstreamError, Again::Anybody),
        (503, Server, Code::Overloaded, Again::Anybody),
        (504, Server, Code::UpstreamError, Again::Anybody),
        (529, Server, Code::Overloaded, Again::Anybody),
        (599, Server, Code::UpstreamError, Again::Anybody),
    ] {
        let trouble = at(status, &[], "");
        assert_eq!((trouble.reason, trouble.failure.code, trouble.again), (reason, code, again), "{status}");
        assert!(trouble.detail.starts_with(&format!("status {status}")), "{}", trouble.detail);
    }
}

#[test]
fn who_has_nothing_left_is_not_asked_again() {
    let body = r#"{"error":{"message":"You exceeded your quota","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    let trouble = at(429, &[], body);
    assert_eq!((trouble.reason, trouble.again), (FailureReason::RateLimited, Again::Elsewhere));
    assert_eq!(of_event(body).again, Again::Elsewhere);
}

#[test]
fn the_upstream_may_say_itself_whether_to_try_again() {
    let said = |status, verdict| at(status, &[("x-should-retry", verdict)], "").again;
    assert_eq!(said(400, "true"), Again::Anybody);
    assert_eq!(said(401, "true"), Again::Anybody);
    assert_eq!(said(500, "false"), Again::Elsewhere);
    assert_eq!(said(429, "false"), Again::Elsewhere);
    assert_eq!(said(400, "false"), Again::Nobody);
    assert_eq!(said(500, "maybe"), Again::Anybody);
}

#[test]
fn a_client_is_told_the_word_and_never_the_sentence() {
    let body = r#"{"error":{"message":"key sk-123 of eu.api.example","type":"requests","code":"rate_limit_exceeded"}}"#;
    for trouble in [at(429, &[], body), of_event(body)] {
        assert_eq!(trouble.failure.message, "the upstream asks for patience (rate_limit_exceeded)");
        assert!(trouble.detail.ends_with("rate_limit_exceeded requests: key sk-123 of eu.api.example"));
    }
}

#[test]
fn retry_after_is_read_in_all_its_forms() {
    let secs = |secs| Some(Duration::from_secs_f64(secs));
    for (value, expected) in [
        ("7", secs(7.0)),
        ("0", secs(0.0)),
        (" 1.5 ", secs(1.5)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", secs(60.0)),
        ("Sunday, 06-Nov-94 08:50:37 GMT", secs(60.0)),
        ("Sun Nov  6 08:50:37 1994", secs(60.0)),
        ("Sun, 06 Nov 1994 08:48:37 GMT", secs(0.0)),
        ("99999999999999999999", secs(86_400.0)),
        ("inf", secs(86_400.0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", secs(86_400.0)),
        ("-1", None),
        ("NaN", None),
        ("soon", None),
        ("", None),
    ] {
        assert_eq!(wait(429, &[("retry-after", value)]), expected, "{value}");
        assert_eq!(wait(503, &[("retry-after", value)]), expected, "{value}");
    }
    assert_eq!(wait(429, &[("retry-after", "9"), ("retry-after-ms", "1500")]), secs(1.5));
    assert_eq!(wait(429, &[("retry-after", "9"), ("retry-after-ms", "x")]), secs(9.0));
    assert_eq!(wait(529, &[("retry-after-ms", "250.5")]), secs(0.2505));
    assert_eq!(wait(429, &[]), None);
}

#[test]
fn limits_that_are_used_up_say_when_they_are_reset() {
    let secs = |secs| Some(Duration::from_secs_f64(secs));
    for (reset, expected) in [
        ("120ms", secs(0.12)),
        ("6m0s", secs(360.0)),
        ("1h2m3.5s", secs(3723.5)),
        ("1000000h", secs(86_400.0)),
        ("17us", secs(0.000_017)),
        ("1", None),
        ("s", None),
        ("1x", None),
        ("1.2.3s", None),
        ("", None),
    ] {
        let headers = [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", reset)];
        assert_eq!(wait(429, &headers), expected, "{reset}");
        assert_eq!(wait(500, &headers), None);
    }
    let both = [
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-remaining-tokens", "12"),
        ("x-ratelimit-reset-tokens", "1m"),
    ];
    assert_eq!(wait(429, &both), secs(1.0));
}

#[test]
fn an_error_event_is_classified_by_its_words_before_its_number() {
    let of = |json| {
        let trouble = of_event(json);
        assert_eq!(trouble.reason, FailureReason::ErrorEvent);
        (trouble.failure.code, trouble.again)
    };
    for (json, expected) in [
        (
            r#"{"error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            (Code::Overloaded, Again::Anybody),
        ),
        (r#"{"error":{"type":"api_error","message":""}}"#, (Code::UpstreamError, Again::Anybody)),
        (
            r#"{"error":{"type":"invalid_request_error","code":"invalid_api_key"}}"#,
            (Code::UpstreamAuth, Again::Elsewhere),
        ),
        (
            r#"{"error":{"type":"invalid_request_error","code":"brand_new"}}"#,
            (Code::InvalidRequest, Again::Nobody),
        ),
        (r#"{"error":{"code":429,"message":"x"}}"#, (Code::RateLimited, Again::Anybody)),
        (r#"{"error":{"code":"429","message":"x"}}"#, (Code::RateLimited, Again::Anybody)),
        (r#"{"error":{"code":403}}"#, (Code::UpstreamAuth, Again::Elsewhere)),
        (r#"{"error":{"code":400}}"#, (Code::InvalidRequest, Again::Nobody)),
        (r#"{"error":{"code":529}}"#, (Code::Overloaded, Again::Anybody)),
        (r#"{"error":"something"}"#, (Code::UpstreamError, Again::Anybody)),
        ("{}", (Code::UpstreamError, Again::Anybody)),
    ] {
        assert_eq!(of(json), expected, "{json}");
    }
}

proptest! {
    #[test]
    fn any_body_is_some_trouble_with_a_word_for_programs(body: Vec<u8>, text: String, status in 100u16..1000) {
        let json = serde_json::json!({"error": {"code": text, "message": text}}).to_string();
        for body in [&body[..], text.as_bytes(), json.as_bytes()] {
            let (word, _) = error_body(body);
            let fits = |word: &String| word.len() <= 128 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            prop_assert!(word.as_ref().is_none_or(fits), "{word:?}");
            let trouble = of_status(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body, SystemTime::UNIX_EPOCH);
            prop_assert!(!trouble.detail.contains('\n'));
        }
    }
}
