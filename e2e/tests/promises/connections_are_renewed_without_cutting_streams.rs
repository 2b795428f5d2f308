//! A connection to an upstream grows old: who is streaming there goes on, who comes later goes to a new one, and it ends
//! with its last stream.

use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Daemon, Options, eventually};
use nix::unistd::geteuid;

fn confined(workers: usize, llm: &Upstream, dialect: Dialect, more: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let backend = llm.backend_toml("llm", dialect);
    Daemon::start(&format!(
        "[workers]\ncount = {workers}\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}{more}"
    ))
}

/// What a site writes into `/etc/hosts` when it moves a name.
fn move_to(hosts: &Path, address: IpAddr) {
    std::fs::write(hosts, format!("{address} llm.test\n")).expect("a file");
}

/// Everything that comes to this address goes to a server somewhere else.
fn forward(from: SocketAddr, to: String) {
    let listener = TcpListener::bind(from).expect("an address");
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(&to).expect("a server");
            for (mut from, mut to) in [(&near, &far), (&far, &near)]
                .map(|(from, to)| (from.try_clone().expect("an fd"), to.try_clone().expect("an fd")))
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

#[test]
fn a_name_that_has_moved_is_followed() {
    if !geteuid().is_root() {
        eprintln!("NOT RUN: only root may have an /etc/hosts of its own");
        return;
    }
    let (before, after) = (Upstream::start(Protocol::H2c), Upstream::start(Protocol::H1));
    before.script_each([
        Answer::openai().with_after(1, [Step::WaitFor("later".to_owned())]),
        Answer::openai().answer(),
    ]);
    let first: SocketAddr = before.address().parse().expect("an address");
    let second = SocketAddr::new(Ipv4Addr::new(127, 0, 2, 2).into(), first.port());
    forward(second, after.address());
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    move_to(&hosts, first.ip());
    let backend = before.backend_toml("llm", Dialect::OpenAi).replace(&first.ip().to_string(), "llm.test");
    let toml = format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\nuser = 61234\ngroup = 61235\n[backend]\nprovider = \"llm\"\n\
         {backend}{AGE}"
    );
    let daemon = Daemon::with(&Options { toml, hosts: Some(hosts.clone()), ..Options::default() });
    let mut client = daemon.hand_over(r#"{"prompt":"x"}"#);
    client.read_until("w0 \"}\n\n");
    let ask = || {
        let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
        assert!(response.is_complete(), "{response:?}");
    };
    ask();
    assert_eq!(before.request_count(), 2);
    move_to(&hosts, second.ip());
    eventually("who comes later goes to the new place", || {
        ask();
        (after.request_count() > 0).then_some(())
    });
    before.open("later");
    let response = client.response();
    assert!(response.body.ends_with("[DONE]\n\n") && response.body.contains("w9 "), "{response:?}");
}

const AGE: &str = "connection_age_max_secs = 1\n";

#[test]
fn who_streams_goes_on_and_who_comes_later_goes_elsewhere() {
    for protocol in [Protocol::H2c, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        llm.script_each([
            Answer::openai().with_after(1, [Step::WaitFor("later".to_owned())]),
            Answer::openai().answer(),
        ]);
        let daemon = confined(1, &llm, Dialect::OpenAi, AGE);
        let mut client = daemon.hand_over(r#"{"prompt":"x"}"#);
        client.read_until("w0 \"}\n\n");
        let old = llm.wait_for_request(0).request.connection;
        eventually("who comes later goes elsewhere", || {
            let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
            assert!(response.is_complete(), "{response:?}");
            llm.requests().last().filter(|seen| seen.request.connection != old).map(|_| ())
        });
        let connections = llm.connections();
        let age = connections[old].opened.elapsed();
        assert!((Duration::from_millis(800)..Duration::from_millis(1700)).contains(&age), "{age:?}");
        assert!(connections[old].closed.is_none(), "somebody streams there");
        assert!(connections[old].requests > 1, "it was used as long as it was young");
        llm.open("later");
        let response = client.response();
        assert!(response.body.ends_with("[DONE]\n\n") && response.body.contains("w9 "), "{response:?}");
        eventually("the old one ends with its last stream", || llm.connections()[old].closed);
    }
}

#[test]
fn one_that_nobody_uses_ends_when_it_is_old() {
    for protocol in [Protocol::H1, Protocol::H2Tls, Protocol::Unix] {
        let llm = Upstream::start(protocol);
        let daemon = confined(1, &llm, Dialect::OpenAi, AGE);
        let ask = || assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
        ask();
        let used = llm.wait_for_request(0).request.connection;
        // The client has its answer before the last bytes behind it are read: the next question may come in between.
        eventually("it is used again", || {
            ask();
            let last = llm.wait_for_request(llm.request_count() - 1).request.connection;
            (last == used).then_some(())
        });
        let closed = eventually("it is closed", || llm.connections()[used].closed);
        let age = closed - llm.connections()[used].opened;
        assert!(
            (Duration::from_millis(800)..Duration::from_millis(1700)).contains(&age),
            "{protocol:?}: {age:?}"
        );
        assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
    }
}
