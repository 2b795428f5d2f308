//! However an API has to be reached, it is: through an egress proxy, over TLS of all kinds, with a certificate of our own,
//! over a Unix socket; by configuration, or by the environment alone.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};

use handoff_e2e::upstream::{
    API_KEY, Certificate, Dialect, Options, Protocol, Proxy, Spoken, Upstream, words,
};
use handoff_e2e::{Daemon, Response, daemon, eventually};
use nix::unistd::geteuid;

use crate::an_answer_comes_from_a_real_api::confined;

const QUESTION: &str = r#"{"prompt":"x","backend":"llm"}"#;

fn ask(daemon: &Daemon) -> Response {
    daemon.hand_over(QUESTION).response()
}

#[track_caller]
fn is_answered(response: &Response) {
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
}

/// What the log says of an attempt that failed.
fn failure(daemon: &Daemon) -> String {
    eventually("a failure is in the log", || {
        daemon.log().lines().find(|line| line.contains("upstream failed")).map(str::to_owned)
    })
}

/// Confined workers of a daemon with this environment.
fn with_environment(toml: &str, env: &[(&str, &str)]) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let toml = format!("[workers]\ncount = 2\nsandbox = \"require\"\n{run_as}\n{toml}");
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Daemon::with(&daemon::Options { toml, env, ..daemon::Options::default() })
}

#[test]
fn through_a_proxy_by_a_tunnel_or_with_the_whole_address() {
    for protocol in [Protocol::H1, Protocol::H1AndH2c, Protocol::H1Tls, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        let proxy = Proxy::for_whom("Basic dXNlcjpwYTpzcw==");
        let key = format!("proxy = \"http://user:pa%3Ass@{}\"\n", proxy.address());
        let daemon = confined(&(llm.backend_toml("llm", Dialect::OpenAi) + &key));
        is_answered(&ask(&daemon));
        let asked = proxy.asked();
        assert_eq!(asked.len(), 1, "{protocol:?}: {asked:?}");
        let request = llm.wait_for_request(0).request;
        if matches!(protocol, Protocol::H1Tls | Protocol::H2Tls) {
            assert_eq!((asked[0].method.as_str(), &asked[0].target), ("CONNECT", &llm.address()));
            assert!(!asked[0].head.contains(API_KEY), "the key is for nobody on the way");
        } else {
            // A proxy speaks HTTP/1.1, whoever is behind it.
            let target = format!("{}/v1/chat/completions", llm.origin());
            assert_eq!((asked[0].method.as_str(), &asked[0].target), ("POST", &target));
        }
        let is_h2 = protocol == Protocol::H2Tls;
        assert_eq!(request.spoken, if is_h2 { Spoken::H2 } else { Spoken::H1 }, "{protocol:?}");
        assert_eq!(request.header("proxy-authorization"), None, "{protocol:?}");
        assert!(request.header("authorization").is_some_and(|key| key.ends_with(API_KEY)), "{protocol:?}");
    }
}

#[test]
fn a_proxy_that_does_not_know_us_is_named_and_its_password_is_not() {
    for (protocol, says) in [(Protocol::H1, "407"), (Protocol::H2Tls, "proxy")] {
        let llm = Upstream::start(protocol);
        let proxy = Proxy::for_whom("Basic other");
        let key = format!("proxy = \"http://user:geheim@{}\"\n", proxy.address());
        let daemon = confined(&(llm.backend_toml("llm", Dialect::OpenAi) + &key));
        let response = ask(&daemon);
        assert_eq!(response.status, 502, "{protocol:?}: {response:?}");
        let line = failure(&daemon);
        assert!(line.contains(says), "{protocol:?}: {line}");
        let log = daemon.log();
        assert!(!log.contains("geheim") && !log.contains("dXNlcjpnZWhlaW0="), "{protocol:?}");
        assert_eq!(llm.request_count(), 0, "{protocol:?}");
    }
}

#[test]
fn through_the_proxy_that_the_environment_names_but_for_whom_it_excepts() {
    for (protocol, variable) in [(Protocol::H1, "http_proxy"), (Protocol::H1Tls, "HTTPS_PROXY")] {
        let llm = Upstream::start(protocol);
        let toml = llm.backend_toml("llm", Dialect::OpenAi);
        let host = llm.address().split(':').next().unwrap_or_default().to_owned();
        for (no_proxy, is_asked) in
            [("", true), ("other.example", true), (&*host, false), ("127.0.0.0/8", false)]
        {
            let proxy = Proxy::start();
            let address = format!("http://{}", proxy.address());
            let daemon = with_environment(&toml, &[(variable, &address), ("NO_PROXY", no_proxy)]);
            is_answered(&ask(&daemon));
            assert_eq!(proxy.asked().len(), usize::from(is_asked), "{variable} without {no_proxy:?}");
        }
        // The configuration has the last word.
        let proxy = Proxy::start();
        let address = format!("http://{}", proxy.address());
        let daemon = with_environment(&(toml + "proxy = \"\"\n"), &[(variable, &address)]);
        is_answered(&ask(&daemon));
        assert_eq!(proxy.asked().len(), 0, "{variable}");
    }
}

#[test]
fn with_a_certificate_of_our_own_for_who_asks() {
    for protocol in [Protocol::H1Tls, Protocol::H2Tls] {
        let llm = Upstream::with(Options { wants_client_certificate: true, ..Options::new(protocol) });
        let (certificate, key) = llm.client_certificate();
        let (certificate, key) = (certificate.display(), key.display());
        let toml = llm.backend_toml("llm", Dialect::OpenAi);
        let keys = format!("client_certificate_file = \"{certificate}\"\nclient_key_file = \"{key}\"\n");
        is_answered(&ask(&confined(&(toml.clone() + &keys))));
        assert_eq!(llm.request_count(), 1);

        let daemon = confined(&(toml + "retries = 0\n"));
        let response = ask(&daemon);
        assert_eq!(response.status, 502, "{protocol:?}: {response:?}");
        assert_eq!(llm.request_count(), 1, "{protocol:?}: nothing is told to who does not know us");
        let line = failure(&daemon);
        assert!(line.to_lowercase().contains("certificate"), "{protocol:?}: {line}");
    }
}

#[test]
fn over_http_1_where_that_is_wanted() {
    for protocol in [Protocol::H2Tls, Protocol::H1AndH2c] {
        let llm = Upstream::start(protocol);
        is_answered(&ask(&confined(&(llm.backend_toml("llm", Dialect::OpenAi) + "http2 = false\n"))));
        assert_eq!(llm.wait_for_request(0).request.spoken, Spoken::H1, "{protocol:?}");
    }
}

#[test]
fn by_the_environment_alone() {
    let payload = r#"{"prompt":"x","model":"m"}"#;
    let key = ("OPENAI_API_KEY", API_KEY);
    let provider = ("DAEMON_BACKEND_PROVIDER", "openai");
    let check = |llm: &Upstream, env: &[(&str, &str)], spoken: Spoken| {
        let daemon = with_environment("", &[&[key, provider], env].concat());
        is_answered(&daemon.hand_over(payload).response());
        let request = llm.wait_for_request(0).request;
        assert_eq!((request.spoken, request.path.as_str()), (spoken, "/v1/chat/completions"), "{env:?}");
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {API_KEY}")), "{env:?}");
    };
    for (protocol, spoken) in
        [(Protocol::H1, Spoken::H1), (Protocol::H2c, Spoken::H2), (Protocol::H1AndH2c, Spoken::H2)]
    {
        let llm = Upstream::start(protocol);
        check(&llm, &[("OPENAI_API_BASE", &format!("{}/v1", llm.origin()))], spoken);
    }
    let llm = Upstream::start(Protocol::Unix);
    check(&llm, &[("OPENAI_API_SOCKET", &llm.address())], Spoken::H1);
    for (protocol, spoken) in [(Protocol::H2Tls, Spoken::H2), (Protocol::TlsWithoutAlpn, Spoken::H1)] {
        let llm = Upstream::start(protocol);
        let trusted = llm.ca_file().display().to_string();
        let base = format!("{}/v1", llm.origin());
        check(&llm, &[("OPENAI_API_BASE", &base), ("SSL_CERT_FILE", &trusted)], spoken);
    }
    for (http2, spoken) in [("true", Spoken::H2), ("false", Spoken::H1), ("0", Spoken::H1)] {
        let llm =
            Upstream::with(Options { certificate: Certificate::Unknown, ..Options::new(Protocol::H2Tls) });
        let base = format!("{}/v1", llm.origin());
        let insecure = ("OPENAI_INSECURE_SSL", "1");
        check(&llm, &[("OPENAI_API_BASE", &base), insecure, ("OPENAI_HTTP2_ENABLED", http2)], spoken);
    }
}

#[test]
fn by_the_keys_of_the_daemon_that_sites_use_today() {
    let llm = Upstream::start(Protocol::H2Tls);
    let toml = llm.openai_toml()
        + "pool_max_idle_per_host = 10\n\
           [backend.openai.http2]\nenabled = true\ninitial_stream_window_kb = 768\n\
           initial_connection_window_kb = 102400\nadaptive_window = false\n\
           keep_alive_interval_secs = 5\nkeep_alive_timeout_secs = 5\n";
    let toml = toml.replacen("[backend]\n", "[backend]\ndefault_model = \"m-1\"\ntimeout_secs = 60\n", 1);
    let daemon = confined(&toml);
    is_answered(&daemon.hand_over(r#"{"prompt":"x","user_id":7}"#).response());
    let request = llm.wait_for_request(0).request;
    assert_eq!((request.spoken, &request.json()["model"]), (Spoken::H2, &"m-1".into()));
    let connection = &llm.connections()[request.connection];
    let window = connection.settings.iter().find(|(identifier, _)| *identifier == 4);
    assert_eq!(window, Some(&(4, 768 * 1024)), "SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, 6.5.2)");
}

/// Everything that comes to a port of `localhost` goes to a server that listens elsewhere.
fn relay(to: &Upstream) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, to) = (listener.local_addr().expect("an address").port(), to.address());
    std::thread::spawn(move || {
        // As long as there is a server behind it.
        while let Ok((client, _)) = listener.accept() {
            let Ok(server) = TcpStream::connect(&to) else { return };
            for (mut from, mut to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))]
                .map(|(from, to)| (from.expect("a socket"), to.expect("a socket")))
            {
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    port
}

#[test]
fn by_a_name_that_confined_workers_look_up() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        let there = format!("localhost:{}", relay(&llm));
        let toml = llm.backend_toml("llm", Dialect::OpenAi).replace(&llm.address(), &there);
        is_answered(&ask(&confined(&toml)));
        let request = llm.wait_for_request(0).request;
        assert_eq!(request.header("host"), Some(there.as_str()), "{protocol:?}");
        let name = llm.connections()[request.connection].server_name.clone();
        let is_tls = protocol == Protocol::H2Tls;
        assert_eq!(name.as_deref(), is_tls.then_some("localhost"), "{protocol:?}");
    }
}
