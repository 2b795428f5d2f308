//! While the upstream is silent the client gets a sign of life: the head after `commit_after_secs`, then a
//! heartbeat after each `heartbeat_secs`, and the answer is as whole as ever.

use std::time::{Duration, Instant};

use handoff_e2e::{Client, Daemon};

const KEEP_ALIVE: &str = ": keep-alive\n\n";

#[test]
fn between_two_words() {
    let daemon = Daemon::start("[client]\nheartbeat_secs = 0.2\n");
    let mut client = ask(&daemon, r#""token_delay_ms":1100,"length":2"#, "");
    client.read_until("{\"content\":\"Hello\"}\n\n");
    let silence = client.read_until("id: r:2\n");
    let beats = silence.matches(KEEP_ALIVE).count();
    assert!((2..=5).contains(&beats), "1.1 s of silence, a beat each 0.2 s: {silence}");
    let rest = client.response();
    assert!(rest.body.starts_with("data: {\"content\":\" from\"}\n\n"), "{rest:?}");
    assert!(rest.body.ends_with("event: done\ndata: [DONE]\n\n"), "{rest:?}");
}

#[test]
fn before_the_first_word_once_the_head_is_out() {
    let daemon = Daemon::start("[client]\nheartbeat_secs = 0.2\ncommit_after_secs = 0.3\n");
    let began_at = Instant::now();
    let mut client = ask(&daemon, r#""first_token_delay_ms":1500,"length":1"#, "");
    let head = client.read_until("\r\n\r\n");
    let waited = began_at.elapsed();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        waited > Duration::from_millis(290) && waited < Duration::from_millis(1400),
        "the head after {waited:?}"
    );
    let silence = client.read_until("id: r:1\n");
    assert_eq!(silence.replace(KEEP_ALIVE, ""), "id: r:1\n", "nothing but heartbeats: {silence}");
    assert!((2..=6).contains(&silence.matches(KEEP_ALIVE).count()), "{silence}");
    let rest = client.response();
    assert!(rest.body.ends_with("event: done\ndata: [DONE]\n\n"), "{rest:?}");
}

#[test]
fn the_head_waits_for_the_first_word_where_that_comes_in_time() {
    let daemon = Daemon::start("[client]\nheartbeat_secs = 0.1\ncommit_after_secs = 5\n");
    let mut client = ask(&daemon, r#""first_token_delay_ms":600,"length":1"#, "");
    let began_at = Instant::now();
    let first = client.read_until("\n\n");
    assert!(
        began_at.elapsed() > Duration::from_millis(500),
        "something went out before there was anything to say"
    );
    assert!(first.ends_with("\r\n\r\nid: r:1\ndata: {\"content\":\"Hello\"}\n\n"), "{first}");
}

#[test]
fn a_request_may_ask_for_more_of_them_but_not_for_fewer() {
    let daemon = Daemon::start("[client]\nheartbeat_secs = 0.3\n");
    let silence = |heartbeat: &str| {
        let mut client = ask(&daemon, r#""token_delay_ms":1000,"length":2"#, heartbeat);
        client.read_until("{\"content\":\"Hello\"}\n\n");
        client.read_until("id: r:2\n").matches(KEEP_ALIVE).count()
    };
    let (often, seldom) = (silence(r#""heartbeat":0.1,"#), silence(r#""heartbeat":60,"#));
    assert!((4..=10).contains(&often), "{often} heartbeats in 1 s, one each 0.1 s");
    assert!((1..=3).contains(&seldom), "{seldom} heartbeats in 1 s, one each 0.3 s");
}

fn ask(daemon: &Daemon, mock: &str, more: &str) -> Client {
    daemon.hand_over(format!(r#"{{"prompt":"hi","request_id":"r",{more}"mock":{{{mock}}}}}"#))
}
