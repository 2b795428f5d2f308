//! The control socket answers handoffd's own user and root. Whoever connects and is silent, endless or does not
//! read holds up nobody: not the streams, not the next operator.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use handoff_e2e::daemon::binary;
use handoff_e2e::operator::{ctl, dial, streams};
use handoff_e2e::{Client, Daemon, Door, Options, apache::Kind, eventually};
use nix::unistd::getuid;
use serde_json::Value;

const SHORT: &str = r#"{"prompt":"x","mock":{"length":2}}"#;

/// All that is said up to the end. Who has sent more than was read finds a reset there.
fn reply(mut stream: UnixStream) -> Vec<Value> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error} before the end"),
        Ok(_) | Err(_) => {}
    }
    let text = String::from_utf8(bytes).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn ask(daemon: &Daemon, bytes: &[u8]) -> Vec<Value> {
    let mut stream = dial(daemon);
    // A daemon that has heard enough may have hung up.
    let written = stream.write_all(bytes);
    assert!(written.is_ok() || written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe));
    reply(stream)
}

/// Clients are served and operators answered, in a fraction of what anybody here could hold up.
fn nobody_waits(daemon: &Daemon) {
    let began_at = Instant::now();
    for _ in 0..10 {
        assert!(daemon.hand_over(SHORT).response().is_complete());
    }
    let took = began_at.elapsed();
    assert!(took < Duration::from_secs(5), "10 short streams took {took:?}");
}

#[test]
fn its_file_is_for_the_owner() {
    let toml = "socket_mode = \"0o666\"\n".to_owned();
    let daemon = Daemon::with(&Options { toml, ..Options::default() });
    let file = fs::metadata(daemon.control_socket()).expect("a socket file");
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, getuid().as_raw()));
}

#[test]
fn another_user_is_turned_away_even_when_the_file_would_let_him_in() {
    if !getuid().is_root() {
        return; // Only root becomes somebody else.
    }
    let daemon = Daemon::start("");
    let as_nobody = |arguments: &[&str]| {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(binary("handoffctl"))
            .args(arguments)
            .arg("--control")
            .arg(daemon.control_socket())
            .output()
            .expect("setpriv runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for path in [daemon.directory().to_owned(), daemon.control_socket()] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
    }
    for arguments in [&["status", "--json"][..], &["streams"], &["reload", "--wait"], &["log", "off"]] {
        let (code, error) = as_nobody(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        assert!(error.contains("uid 65534 may not"), "{arguments:?}: {error}");
    }
    fs::set_permissions(daemon.control_socket(), PermissionsExt::from_mode(0o600)).expect("a mode");
    let (code, error) = as_nobody(&["reload", "--wait"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("ermission denied") || error.contains("EACCES"), "{error}");
    assert_eq!(daemon.status()["generation"], 1, "nothing was reloaded");
    assert_eq!(ctl(&daemon, &["status"]).code, 0);
}

#[test]
fn the_user_that_handoffd_has_become_may_order_also_after_an_upgrade() {
    const USER: u32 = 61236;
    if !getuid().is_root() {
        return; // Only root becomes somebody else.
    }
    let daemon = Daemon::start(&format!("user = {USER}\ngroup = {USER}\n"));
    // It can be passed through, but nothing can be made there: the socket could not be bound again.
    fs::set_permissions(daemon.directory(), PermissionsExt::from_mode(0o711)).expect("a mode");
    let as_user = |arguments: &[&str]| {
        let output = Command::new("setpriv")
            .args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()])
            .arg(binary("handoffctl"))
            .args(arguments)
            .arg("--control")
            .arg(daemon.control_socket())
            .output()
            .expect("setpriv runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [
        &["status"][..],
        &["reload", "--wait"],
        &["upgrade", "--wait", "--timeout", "20"],
        &["status"],
        &["streams"],
    ] {
        assert_eq!(as_user(arguments), (Some(0), String::new()), "{arguments:?}");
    }
    assert_eq!(ctl(&daemon, &["status"]).code, 0, "root may too");
}

#[test]
fn what_is_no_request_is_told_so() {
    let daemon = Daemon::start("");
    let endless = vec![b'x'; 1 << 20];
    let cases: [(&[u8], &str); 7] = [
        (b"\n", "EOF while parsing"),
        (b"nonsense\n", "expected"),
        (b"{\"command\":\"dance\"}\n", "unknown variant `dance`"),
        (b"{\"command\":\"drain\"}\n", "missing field `slot`"),
        (b"{\"command\":\"drain\",\"slot\":-1}\n", "invalid value"),
        (b"{\"command\":\"reload\",\"wiat\":true}\n", "unknown field `wiat`"),
        (&endless, "at most 8192 bytes"),
    ];
    for (bytes, reason) in cases {
        let said = ask(&daemon, bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(said.len(), 1, "{shown}: {said:?}");
        assert_eq!(
            (&said[0]["reply"], &said[0]["code"]),
            (&"refused".into(), &"bad_request".into()),
            "{shown}"
        );
        assert!(said[0]["reason"].as_str().is_some_and(|text| text.contains(reason)), "{shown}: {said:?}");
    }
    assert_eq!(daemon.status()["generation"], 1);
    // What comes behind a request is not read.
    let said = ask(&daemon, b"{\"command\":\"status\"}\n{\"command\":\"reload\"}\n");
    assert_eq!((said.len(), &said[0]["reply"]), (1, &"status".into()), "{said:?}");
}

#[test]
fn whoever_says_nothing_or_half_a_line_is_let_go() {
    let daemon = Daemon::start("");
    let silent = dial(&daemon);
    let mut half = dial(&daemon);
    half.write_all(b"{\"command\":").expect("half a line");
    nobody_waits(&daemon);
    for stream in [silent, half] {
        let said = reply(stream);
        assert!(said[0]["reason"].as_str().is_some_and(|text| text.contains("no request came")), "{said:?}");
    }
}

#[test]
fn a_hundred_at_once_are_answered() {
    let daemon = Daemon::start("");
    let mut streams: Vec<UnixStream> = (0..100).map(|_| dial(&daemon)).collect();
    for stream in &mut streams {
        stream.write_all(b"{\"command\":\"status\"}\n").expect("a request");
    }
    nobody_waits(&daemon);
    for stream in streams {
        assert_eq!(reply(stream)[0]["status"]["state"], "ready");
    }
}

#[test]
fn a_hundred_that_are_silent_keep_nobody_out_for_long() {
    let daemon = Daemon::start("");
    let fds = daemon.fds();
    let silent: Vec<UnixStream> = (0..100).map(|_| dial(&daemon)).collect();
    nobody_waits(&daemon);
    assert_eq!(ctl(&daemon, &["status"]).code, 0, "it has to wait for two seconds or so");
    drop(silent);
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

#[test]
fn whoever_does_not_read_is_let_go() {
    const STREAMS: usize = 600;
    let daemon = Daemon::start("");
    let name = "\u{1f600}".repeat(64);
    let payload = format!(r#"{{"prompt":"x","user_id":"{name}","mock":{{"first_token_delay_ms":60000}}}}"#);
    let clients: Vec<Client> =
        (0..STREAMS).map(|_| daemon.hand_over_by(Door::SeqPacket, Kind::Unix, payload.as_bytes())).collect();
    eventually("all are there", || (streams(&daemon).len() == STREAMS).then_some(()));
    let fds = daemon.fds();
    // More than the kernel keeps for somebody who does not read.
    let deaf: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut stream = dial(&daemon);
            stream.write_all(b"{\"command\":\"streams\"}\n").expect("a request");
            stream
        })
        .collect();
    nobody_waits(&daemon);
    assert_eq!(streams(&daemon).len(), STREAMS, "others are shown all of them meanwhile");
    eventually("they are let go", || (daemon.fds() <= fds).then_some(()));
    for mut stream in deaf {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("what the kernel has kept");
        // The cut may be inside a character.
        let text = String::from_utf8_lossy(&bytes);
        let last = text.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        assert!(last.is_none_or(|last| last["reply"] == "stream"), "a cut list has no last word");
    }
    drop(clients);
}

#[test]
fn there_may_be_none() {
    let toml = "control_socket_path = \"\"\n".to_owned();
    let daemon = Daemon::with(&Options { toml, ..Options::default() });
    assert!(!daemon.control_socket().exists());
    assert_eq!(ctl(&daemon, &["streams"]).code, 3);
    assert!(daemon.hand_over(SHORT).response().is_complete());
}
