//! A client that sends more than its request, such as a second, pipelined one, still gets its whole answer:
//! bytes that nobody has read when a connection is closed make the kernel reset it.

use std::io::{Read, Write};

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Client, Daemon, Door, eventually};

/// Several megabytes: much more than the client's side holds when the worker is done.
const WORDS: usize = 60_000;
const PIPELINED: &[u8] =
    b"GET /another HTTP/1.1\r\nHost: localhost\r\nX-Padding: 0123456789012345678901234567890\r\n\r\n";

#[test]
fn sent_before_the_handoff() {
    every_client_gets_its_tail(|client| client.write_all(PIPELINED).expect("a second request"), |_| {});
}

#[test]
fn sent_while_the_answer_comes() {
    every_client_gets_its_tail(|_| {}, |client| client.write_all(&PIPELINED[..50]).expect("a few bytes"));
}

#[test]
fn half_a_megabyte_of_them() {
    every_client_gets_its_tail(
        |client| client.write_all(&[b'x'; 65_536]).expect("the kernel keeps them"),
        |client| client.write_all(&[b'x'; 4096]).expect("the worker reads them away"),
    );
}

/// All that the worker has written waits in the kernel, and would be lost with a reset.
#[test]
fn sent_after_the_worker_has_written_its_last_event() {
    let daemon = Daemon::start("[client]\nlinger_secs = 20\n");
    for round in 0..3 {
        let request_id = format!("r{round}");
        let words = 40_000;
        let mut client = daemon.hand_over(payload(&request_id, words));
        let total = ((round + 1) * words) as f64;
        eventually("everything is written", || {
            client.write_all(&PIPELINED[..50]).expect("a few bytes");
            (daemon.metric("daemon_chunks_sent_total") >= total).then_some(())
        });
        let answer = read_sending(&mut client, |_| {});
        assert!(answer.ends_with("event: done\ndata: [DONE]\n\n"), "the tail is missing");
        assert_eq!(answer.matches(&format!("id: {request_id}:")).count(), words + 1);
    }
}

fn every_client_gets_its_tail(before: impl Fn(&mut Client), during: impl Fn(&mut Client)) {
    let daemon = Daemon::start("");
    for kind in [Kind::Tcp, Kind::Unix, Kind::Tcp, Kind::Tcp] {
        let (mut client, theirs) = apache::client_pair(kind);
        before(&mut client);
        let payload = payload("r", WORDS);
        apache::hand_over(&daemon.socket(), Door::SeqPacket, payload.as_bytes(), theirs).expect("a handoff");
        let answer = read_sending(&mut client, &during);
        assert!(answer.ends_with("event: done\ndata: [DONE]\n\n"), "{kind:?}: the tail is missing");
        assert_eq!(answer.matches("id: r:").count(), WORDS + 1, "{kind:?}");
    }
}

fn payload(request_id: &str, words: usize) -> String {
    let mock = format!(r#"{{"length":{words},"token_delay_ms":0}}"#);
    format!(r#"{{"prompt":"hi","request_id":"{request_id}","format":"text","mock":{mock}}}"#)
}

/// Reads the answer to its end; sends something after each of the first hundred pieces.
fn read_sending(client: &mut Client, during: impl Fn(&mut Client)) -> String {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 16_384];
    for piece in 0.. {
        match client.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) => panic!("{error} after {} bytes", answer.len()),
        }
        if piece < 100 && !answer.ends_with(b"data: [DONE]\n\n") {
            during(client);
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}
