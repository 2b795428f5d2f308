//! `systemctl stop` returns at once, and the streams go on: their workers end by themselves.

use std::time::{Duration, Instant};

use handoff_e2e::container::{CONFIG, SOCKET};
use handoff_e2e::{Image, eventually};

#[test]
fn a_stop_returns_at_once_and_cuts_no_stream() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    let mut client = machine.hand_over(r#"{"prompt":"x","mock":{"length":100,"token_delay_ms":30}}"#);
    client.read_until("\n\n");
    let began_at = Instant::now();
    machine.done(&["systemctl", "stop", "handoffd.socket", "handoffd.service"]);
    assert!(began_at.elapsed() < Duration::from_secs(2), "stop took {:?}", began_at.elapsed());
    assert_eq!(machine.show("handoffd.service", "ActiveState"), "inactive");
    assert_eq!(machine.show("handoffd.service", "NFileDescriptorStore"), "0");
    assert!(!machine.path(SOCKET).exists(), "Apache fails at once where nobody listens");
    let rest = client.response();
    assert!(rest.body.ends_with("event: done\ndata: [DONE]\n\n"), "{rest:?}");
    eventually("the workers are gone", || machine.workers().is_empty().then_some(()));
    // And back.
    machine.done(&["systemctl", "start", "handoffd.service"]);
    assert!(machine.hand_over(r#"{"prompt":"x","mock":{"length":3}}"#).response().is_complete());
}

#[test]
fn a_stream_that_outlives_the_limit_is_told_so() {
    let Some(image) = Image::with_handoffd() else { return };
    let config = std::fs::read_to_string(image.path(CONFIG)).expect("a configuration");
    image.write(CONFIG, &config.replace("shutdown_timeout_secs = 20", "shutdown_timeout_secs = 1"));
    let machine = image.boot();
    let mut client = machine.hand_over(r#"{"prompt":"x","mock":{"length":100000,"token_delay_ms":30}}"#);
    client.read_until("\n\n");
    machine.done(&["systemctl", "stop", "handoffd.socket"]);
    let rest = client.response();
    assert_eq!(rest.error_code().as_deref(), Some("shutting_down"), "{rest:?}");
    eventually("the workers are gone", || machine.workers().is_empty().then_some(()));
}
