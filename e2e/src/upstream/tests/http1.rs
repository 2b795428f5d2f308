//! Faults over HTTP/1.1.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Asker, nothing_within, read, run};
use crate::upstream::{Answer, End, Framing, Protocol, Step, Upstream};

async fn ask(llm: &Upstream) -> super::client::Got {
    Asker::connect(llm, None, false).await.ask().await
}

#[test]
fn a_body_without_its_end_is_seen_as_such() {
    let llm = Upstream::start(Protocol::H1);
    let talk = Answer::openai().words(5);
    for fault in [Step::Cut, Step::ResetConnection, Step::Reset(2)] {
        llm.script(talk.broken_after(2, [fault.clone()]));
        let got = run(ask(&llm));
        assert!(got.error.is_some(), "{fault:?}: {got:?}");
        assert_eq!(llm.requests().last().unwrap().end.unwrap().1, End::Broken);
    }
    llm.script(talk.broken_after(2, []));
    let got = run(ask(&llm));
    assert!(got.error.is_none() && got.text().contains("w1 ") && !got.text().contains("w2 "), "{got:?}");
}

#[test]
fn a_reset_is_a_reset_and_a_cut_is_none() {
    for (fault, is_reset) in [(Step::Cut, false), (Step::ResetConnection, true)] {
        let llm = Upstream::start(Protocol::H1);
        llm.script(Answer::sse().send("data: 1\n\n").wait_for("go").step(fault));
        let end = run(async {
            let mut stream = TcpStream::connect(llm.address()).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut bytes = vec![0; 4096];
            while !String::from_utf8_lossy(&bytes).contains("data: 1") {
                assert!(stream.read(&mut bytes).await.unwrap() > 0);
            }
            llm.open("go");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await
        });
        let is_error = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert_eq!(is_error, is_reset, "{end:?}");
    }
}

#[test]
fn each_step_is_a_chunk_and_each_byte_too_where_it_shall_be() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(Answer::sse().send("data: 1\n\n").send("data: 2\n\n").bytewise());
    let got = run(ask(&llm));
    assert_eq!(got.text(), "data: 1\n\ndata: 2\n\n");
    assert!(got.frames.iter().all(|frame| frame.len() == 1), "{got:?}");
    llm.script(Answer::sse().send("data: 1\n\n").wait(Duration::from_millis(20)).send("data: 2\n\n"));
    let got = run(ask(&llm));
    assert_eq!(got.frames, ["data: 1\n\n", "data: 2\n\n"]);
}

#[test]
fn bytes_without_http_are_sent_as_they_are() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"));
    let got = run(ask(&llm));
    assert!(got.status == 200 && got.error.is_some() && got.text() == "ab", "{got:?}");
    llm.script(Answer::raw("SSH-2.0-OpenSSH_9.6\r\n"));
    assert_eq!(run(ask(&llm)).status, 0);
}

#[test]
fn other_framings_and_bodies_without_one_are_understood() {
    let llm = Upstream::start(Protocol::H1);
    let answers = [
        Answer::sse().send("a").framed(Framing::UntilClose),
        Answer::sse().send("a").framed(Framing::Length(1)),
        Answer::json(200, &serde_json::json!(1)),
        Answer::new(204),
        Answer::redirect(307, "http://elsewhere.test/"),
    ];
    for (answer, text) in answers.into_iter().zip(["a", "a", "1", "", ""]) {
        llm.script(answer.clone());
        let got = run(ask(&llm));
        assert!(
            got.error.is_none() && got.text() == text && got.status == answer.status,
            "{answer:?}: {got:?}"
        );
    }
}

#[test]
fn the_head_waits_or_goes_ahead_as_scripted() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(Answer::sse().wait_for("head").head().wait_for("body").send("data: 1\n\n"));
    run(async {
        let mut asker = Asker::connect(&llm, None, false).await;
        let begin = asker.begin();
        tokio::pin!(begin);
        nothing_within(50, &mut begin).await;
        llm.open("head");
        let response = begin.await.unwrap();
        let rest = read(response);
        tokio::pin!(rest);
        nothing_within(50, &mut rest).await;
        assert_eq!(llm.requests()[0].bytes_sent, 0);
        llm.open("body");
        assert_eq!(rest.await.text(), "data: 1\n\n");
    });
}

#[test]
fn a_client_that_leaves_is_noticed_in_every_phase() {
    let answers = [
        Answer::sse().hang(),
        Answer::sse().head().hang(),
        Answer::sse().head().wait(Duration::from_secs(3600)),
        Answer::sse().head().wait_for("never"),
        Answer::sse().step(Step::SendForever(b"data: 1\n\n".to_vec(), Duration::from_millis(1))),
    ];
    let llm = Upstream::start(Protocol::H1);
    llm.script_each(answers.clone());
    for number in 0..answers.len() {
        let left = run(async {
            let mut asker = Asker::connect(&llm, None, false).await;
            let begin = asker.begin();
            tokio::pin!(begin);
            let _ = tokio::time::timeout(Duration::from_millis(50), begin).await;
            llm.wait_for_request(number);
            Instant::now()
        });
        let (at, end) = llm.wait_for_cancel(number);
        assert_eq!(end, End::Closed);
        assert!(at.saturating_duration_since(left) < Duration::from_secs(1), "{number}");
    }
}

#[test]
fn answers_come_in_their_order_and_the_last_one_stays() {
    let llm = Upstream::start(Protocol::H1);
    llm.script_each([Answer::new(503).header("retry-after", "2"), Answer::openai().answer()]);
    let got: Vec<_> = (0..3).map(|_| run(ask(&llm))).collect();
    assert_eq!(got.iter().map(|got| got.status).collect::<Vec<_>>(), [503, 200, 200]);
    assert_eq!(got[0].headers["retry-after"], "2");
}

#[test]
fn a_path_chooses_the_answer() {
    let llm = Upstream::start(Protocol::H1);
    llm.script_by_path([("/threads", Answer::new(409)), ("/completions", Answer::new(503))]);
    assert_eq!(run(ask(&llm)).status, 503);
    llm.script_by_path([("/threads", Answer::new(409))]);
    assert_eq!(run(ask(&llm)).status, 404);
}

#[test]
fn a_request_body_in_chunks_is_read() {
    let llm = Upstream::start(Protocol::H1);
    run(async {
        let mut stream = TcpStream::connect(llm.address()).await.unwrap();
        let request =
            "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(b"3;ext=1\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    });
    assert_eq!(llm.wait_for_request(0).request.json(), serde_json::json!([1, 2]));
}
