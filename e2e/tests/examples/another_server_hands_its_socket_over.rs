//! `examples/wsgi`: wsgiref, http.server and gunicorn each give their own client's connection away, let go of it, and
//! serve the next one.

use std::io::Write;
use std::process::Command;

use handoff_e2e::example::{self, Example};
use handoff_e2e::{Daemon, eventually};

const SERVERS: [&str; 4] = ["app.py", "plain.py", "gunicorn sync", "gunicorn gthread"];
const ADA: &str = "Host: site.example\r\nCookie: session=let-me-in\r\n";

fn start(server: &str, daemon: &Daemon) -> Example {
    let mut command = match server.split_once(' ') {
        Some((program, class)) => {
            let mut command = Command::new(program);
            let class = format!("--worker-class={class}");
            command.args(["--bind=127.0.0.1:0", "--workers=1", "--threads=4", &class, "app:application"]);
            command
        }
        None => {
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-B", server, "0"]);
            command
        }
    };
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("HANDOFFD_SOCKET", daemon.socket());
    Example::start(command.current_dir(example::directory("wsgi")))
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{ADA}\r\n")
}

#[test]
fn and_the_answer_is_whole() {
    let daemon = Daemon::start("");
    for server in SERVERS {
        let site = start(server, &daemon);
        let response = site.answer(&get("/chat?prompt=gr%C3%BC%C3%9Fe"));
        assert!(response.is_complete() && response.heads() == 1, "{server}: {response:?}");
        assert!(response.text().contains("This answer comes"), "{server}: {response:?}");

        let body = "prompt=from+a+form";
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let request =
            format!("POST /chat HTTP/1.1\r\n{ADA}{form}Content-Length: {}\r\n\r\n{body}", body.len());
        let response = site.answer(&request);
        assert!(response.is_complete() && response.heads() == 1, "{server}: {response:?}");
        let log = site.log();
        assert!(!log.contains("Traceback"), "{server} takes it for a fault: {log}");
    }
    let sessions = eventually("the log has every session", || {
        let sessions = daemon.sessions();
        (sessions.len() == 2 * SERVERS.len()).then_some(sessions)
    });
    assert!(sessions.iter().all(|session| session["user_id"] == "ada"), "{sessions:?}");
}

#[test]
fn and_only_for_those_who_may() {
    let daemon = Daemon::start("");
    for server in SERVERS {
        let site = start(server, &daemon);
        let stranger = "GET /chat?prompt=hello HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n";
        let response = site.answer(stranger);
        assert_eq!(response.status, 401, "{server}: {response:?}");
    }
    assert!(daemon.metric("daemon_handoffs_total") < 0.5, "nobody was handed over");
}

#[test]
fn and_no_body_without_its_length_is_left_in_the_socket() {
    let daemon = Daemon::start("");
    for server in SERVERS {
        let site = start(server, &daemon);
        for body in [
            "Transfer-Encoding: chunked\r\n\r\n9\r\nprompt=hi\r\n0\r\n\r\n",
            "Content-Length: -1\r\n\r\n",
            "Content-Length: x\r\n\r\n",
        ] {
            let response = site.answer(&format!("POST /chat?prompt=hello HTTP/1.1\r\n{ADA}{body}"));
            assert!([400, 411].contains(&response.status), "{server} {body}: {response:?}");
        }
        assert!(!site.log().contains("Traceback"), "{server}: {}", site.log());
    }
    assert!(daemon.metric("daemon_handoffs_total") < 0.5, "nobody was handed over");
}

#[test]
fn and_head_gets_the_head_alone() {
    let daemon = Daemon::start("");
    for server in SERVERS {
        let site = start(server, &daemon);
        let response = site.answer(&format!("HEAD /chat?prompt=hello HTTP/1.1\r\n{ADA}\r\n"));
        assert_eq!((response.status, response.body.as_str()), (200, ""), "{server}: {response:?}");
        assert_eq!(response.header("Content-Type"), Some("text/event-stream"), "{server}: {response:?}");
    }
}

#[test]
fn and_a_finished_answer_is_not_asked_for_again() {
    let daemon = Daemon::start("");
    for server in SERVERS {
        let site = start(server, &daemon);
        let again = format!("GET /chat?prompt=hello HTTP/1.1\r\n{ADA}Last-Event-ID: r1:end\r\n\r\n");
        let response = site.answer(&again);
        assert_eq!(response.status, 204, "{server}: {response:?}");
    }
}

#[test]
fn and_a_connection_that_was_kept_alive_may_be_given_away() {
    let daemon = Daemon::start("");
    // Those of the servers that keep connections.
    for server in ["plain.py", "gunicorn gthread"] {
        let site = start(server, &daemon);
        let mut client = site.ask(&get("/nothing-here"));
        client.read_until("only /chat\"}}");
        client.write_all(get("/chat?prompt=hello").as_bytes()).expect("the connection is open");
        let response = client.response();
        assert!(response.is_complete(), "{server}: {response:?}");
    }
}

#[test]
fn and_goes_on_serving_while_answers_stream() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 100\n");
    for server in SERVERS {
        let site = start(server, &daemon);
        let mut streaming = [site.ask(&get("/chat?prompt=one")), site.ask(&get("/chat?prompt=two"))];
        for client in &mut streaming {
            client.read_until("data: ");
        }
        let request = format!("GET / HTTP/1.1\r\n{ADA}Connection: close\r\n\r\n");
        assert_eq!(site.answer(&request).status, 404, "{server}");
        assert!(daemon.metric("daemon_active_streams") > 1.5, "{server}: both still stream");
        for client in &mut streaming {
            // What came so far has been read: this is the rest of each, to its proper end.
            let rest = client.read_response();
            assert!(rest.body.ends_with("event: done\ndata: [DONE]\n\n"), "{server}: {rest:?}");
        }
    }
}

#[test]
fn and_large_questions_arrive_whole() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    let question = "a question that fits no message ".repeat(20_000);
    let body = format!("prompt={}", question.replace(' ', "+"));
    for server in SERVERS {
        let site = start(server, &daemon);
        let head = format!("POST /chat HTTP/1.1\r\n{ADA}Content-Length: {}\r\n\r\n", body.len());
        let response = site.answer(&format!("{head}{body}"));
        assert!(response.is_complete(), "{server}: {response:?}");
        assert!(response.text().contains(&question), "{server}: the question came back changed");
    }
}

#[test]
fn and_without_a_daemon_the_client_is_told() {
    for server in SERVERS {
        let daemon = Daemon::start("");
        let site = start(server, &daemon);
        drop(daemon);
        let response =
            site.answer(&format!("GET /chat?prompt=hello HTTP/1.1\r\n{ADA}Connection: close\r\n\r\n"));
        assert_eq!(response.status, 503, "{server}: {response:?}");
        assert_eq!(response.header("Retry-After"), Some("1"), "{server}: {response:?}");
    }
}

#[test]
fn and_keeps_nothing_open() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    for server in SERVERS {
        let site = start(server, &daemon);
        assert!(site.answer(&get("/chat?prompt=first")).is_complete());
        let (site_fds, daemon_fds) = (site.fds(), daemon.fds());
        for _ in 0..200 {
            assert!(site.answer(&get("/chat?prompt=hello")).is_complete(), "{server}");
        }
        eventually(&format!("{server} has closed every connection"), || {
            (site.fds() <= site_fds && daemon.fds() <= daemon_fds).then_some(())
        });
    }
}
