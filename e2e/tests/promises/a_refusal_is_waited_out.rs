//! An upstream that cannot answer now is asked again, at most twice and not before the time that it has named; its client
//! notices nothing but the delay, and gets a status that says when to come back if that does not help.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handoff_e2e::upstream::{Dialect, Protocol, words};
use handoff_e2e::{Answer, Daemon, Upstream};

/// So long after now, to the second, as HTTP writes dates.
fn date(after: Duration) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock") + after;
    let date = std::process::Command::new("date")
        .env("LC_ALL", "C")
        .args(["-u", "-d", &format!("@{}", at.as_secs()), "+%a, %d %b %Y %H:%M:%S GMT"])
        .output()
        .expect("date(1)");
    String::from_utf8(date.stdout).expect("a date").trim_end().to_owned()
}

fn refusal(status: u16) -> Answer {
    Answer::openai_error(status, "requests", "rate_limit_exceeded", "not now")
}

#[test]
fn not_before_the_time_that_it_names_in_whatever_form() {
    let second = Duration::from_secs(1);
    let limits = |reset: &str| {
        let answer = refusal(429).header("x-ratelimit-remaining-requests", "0");
        answer.header("x-ratelimit-reset-requests", reset)
    };
    let forms = [
        ("seconds", refusal(429).header("retry-after", "1"), second),
        // A date has no fractions: it may be a second less.
        ("date", refusal(503).header("retry-after", &date(4 * second)), second),
        ("milliseconds", refusal(429).header("retry-after-ms", "900"), 9 * second / 10),
        ("limits", limits("1s"), second),
        ("both", refusal(529).header("retry-after", "9").header("retry-after-ms", "700"), 7 * second / 10),
        // A wait of our own.
        ("none", refusal(429), second / 8),
    ];
    let asked = forms.map(|(name, refusal, earliest)| {
        let llm = Upstream::start(Protocol::H1);
        llm.script_each([refusal, Answer::openai().answer()]);
        (name, llm, earliest)
    });
    let backends = asked.each_ref().map(|(name, llm, _)| llm.backend_toml(name, Dialect::OpenAi));
    let daemon = Daemon::confined(2, &backends.join("\n"));
    let clients = asked.each_ref().map(|(name, ..)| {
        daemon.hand_over(format!(r#"{{"prompt":"x","backend":"{name}","request_id":"{name}"}}"#))
    });
    for ((name, llm, earliest), client) in asked.iter().zip(clients) {
        let response = client.response();
        assert!(response.is_complete() && response.text() == words(10), "{name}: {response:?}");
        assert_eq!(response.heads(), 1, "{name}: {response:?}");
        let waited = llm.wait_for_request(1).request.arrived - llm.wait_for_request(0).request.arrived;
        assert!(waited >= *earliest, "{name}: asked again after {waited:?}, before {earliest:?}");
        assert_eq!(llm.request_count(), 2, "{name}");
        assert_eq!(daemon.session(name)["attempts"], 2, "{name}");
    }
}

#[test]
fn twice_at_most_and_then_its_client_is_told() {
    let cases = [
        (429, 429, "rate_limited"),
        (529, 503, "overloaded"),
        (503, 503, "overloaded"),
        (500, 502, "upstream_error"),
        (408, 502, "upstream_error"),
    ];
    let asked = cases.map(|(status, told, code)| {
        let llm = Upstream::start(Protocol::H1);
        llm.script(Answer::anthropic_error(status, "of_its_own", "not now"));
        (format!("of-{status}"), llm, told, code)
    });
    let backends = asked.each_ref().map(|(name, llm, ..)| llm.backend_toml(name, Dialect::Anthropic));
    let daemon = Daemon::confined(2, &backends.join("\n"));
    let clients = asked
        .each_ref()
        .map(|(name, ..)| daemon.hand_over(format!(r#"{{"prompt":"x","backend":"{name}"}}"#)));
    for ((name, llm, told, code), client) in asked.iter().zip(clients) {
        let response = client.response();
        assert_eq!((response.status, response.error_code().as_deref()), (*told, Some(*code)), "{name}");
        let later = response.header("retry-after").and_then(|after| after.parse::<u64>().ok());
        assert_eq!(later.is_some_and(|after| after >= 1), *told != 502, "{name}: {response:?}");
        assert!(!response.body.contains("not now"), "the upstream's words are not ours: {response:?}");
        assert_eq!(llm.request_count(), 3, "{name}");
        let gaps: Vec<_> =
            llm.requests().windows(2).map(|two| two[1].request.arrived - two[0].request.arrived).collect();
        assert!(gaps[0] >= Duration::from_millis(125) && gaps[1] >= Duration::from_millis(250), "{gaps:?}");
    }
}

#[test]
fn who_would_have_to_wait_too_long_is_told_so_at_once() {
    let llm = Upstream::start(Protocol::H2c);
    llm.script(refusal(429).header("retry-after", "30"));
    let daemon = Daemon::confined(
        2,
        &format!("[backend]\nprovider = \"llm\"\n{}", llm.backend_toml("llm", Dialect::OpenAi)),
    );
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert_eq!((response.status, response.header("retry-after")), (429, Some("30")), "{response:?}");
    assert_eq!(llm.request_count(), 1);
}
