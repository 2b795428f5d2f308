//! Faults over HTTP/2.

use std::time::{Duration, Instant};

use super::client::{Asker, Got, WINDOW_BYTES, nothing_within, run, until};
use crate::eventually;
use crate::upstream::{Answer, End, LastStream, Options, Protocol, Step, Upstream, code};

async fn ask(llm: &Upstream) -> Got {
    Asker::connect(llm, None, true).await.ask().await
}

#[test]
fn a_stream_is_reset_with_any_code_before_and_in_the_body() {
    let llm = Upstream::start(Protocol::H2c);
    for code in [code::INTERNAL_ERROR, code::REFUSED_STREAM, code::CANCEL, code::HTTP_1_1_REQUIRED] {
        llm.script(Answer::openai().broken_after(2, [Step::Reset(code)]).first([Step::Head]));
        let got = run(ask(&llm));
        assert_eq!((got.status, got.reason()), (200, Some(code)), "{got:?}");
        llm.script(Answer::sse().reset(code));
        let got = run(ask(&llm));
        assert_eq!((got.status, got.reason()), (0, Some(code)), "{got:?}");
    }
    assert!(llm.requests().iter().all(|seen| seen.end.unwrap().1 == End::Broken));
}

#[test]
fn what_was_sent_before_a_cut_arrives_and_no_end_does() {
    let llm = Upstream::start(Protocol::H2c);
    // At once, and again and again: nothing may depend on who comes first.
    llm.script(Answer::sse().send("data: 1\n\n").cut());
    for _ in 0..20 {
        let got = run(ask(&llm));
        assert!(got.error.is_some() && got.text() == "data: 1\n\n", "{got:?}");
    }
    // A reset may overtake what was sent.
    llm.script(Answer::sse().send("data: 1\n\n").wait_for("go").step(Step::ResetConnection));
    let got = run(async {
        let mut asker = Asker::connect(&llm, None, true).await;
        let response = asker.begin().await.unwrap();
        llm.open("go");
        super::client::read(response).await
    });
    assert!(got.error.is_some(), "{got:?}");
}

#[test]
fn a_goaway_names_the_stream_that_was_scripted() {
    let llm = Upstream::start(Protocol::H2c);
    run(async {
        // Ours is done: the answer goes on.
        llm.script(Answer::openai().answer().first([Step::GoAway(LastStream::This, code::NO_ERROR)]));
        let mut asker = Asker::connect(&llm, None, true).await;
        let got = asker.ask().await;
        assert!(got.error.is_none() && got.text().contains("[DONE]"), "{got:?}");
        assert!(asker.begin().await.is_err(), "no new stream after a GOAWAY");
        // Ours was not looked at: it ends at once, and may go elsewhere.
        llm.script(Answer::sse().step(Step::GoAway(LastStream::BeforeThis, code::NO_ERROR)).hang());
        let got = ask(&llm).await;
        assert_eq!((got.status, got.reason()), (0, Some(code::NO_ERROR)), "{got:?}");
        let error = std::error::Error::source(got.error.as_ref().unwrap()).unwrap();
        let h2 = error.downcast_ref::<h2::Error>().unwrap();
        assert!(h2.is_go_away() && h2.is_remote(), "{h2:?}");
    });
}

/// So many questions on one connection, all at once.
async fn ask_at_once(llm: &Upstream, count: usize) -> Vec<tokio::task::JoinHandle<Got>> {
    let Asker::H2(sender) = Asker::connect(llm, None, true).await else { panic!("HTTP/2") };
    let asks = (0..count).map(|_| {
        let mut asker = Asker::H2(sender.clone());
        tokio::spawn(async move { asker.ask().await })
    });
    asks.collect()
}

#[test]
fn a_limit_of_streams_is_announced_and_the_most_at_once_is_known() {
    let llm = Upstream::with(Options { max_concurrent_streams: Some(2), ..Options::new(Protocol::H2c) });
    llm.script(Answer::sse().head().wait_for("go").send("data: 1\n\n"));
    run(async {
        // hyper knows the limit once the first answer has come.
        let asks = ask_at_once(&llm, 1).await;
        llm.open("go");
        for ask in asks {
            assert_eq!(ask.await.unwrap().text(), "data: 1\n\n");
        }
        for ask in ask_at_once(&llm, 5).await {
            let got = ask.await.unwrap();
            // Those that were sent before SETTINGS had come are refused.
            assert!(got.text() == "data: 1\n\n" || got.reason() == Some(code::REFUSED_STREAM), "{got:?}");
        }
    });
    assert!(llm.connections().iter().all(|connection| connection.streams_max <= 2));
    assert!(llm.connections().iter().all(|connection| connection.streams == 0));
}

#[test]
fn late_settings_hold_back_everything() {
    let delay = Duration::from_secs(1);
    let llm = Upstream::with(Options { settings_delay: delay, ..Options::new(Protocol::H2c) });
    let began = Instant::now();
    run(async {
        let asks = ask_at_once(&llm, 3).await;
        until("requests come before SETTINGS went", || llm.request_count() == 3).await;
        assert!(began.elapsed() < delay, "a machine fast enough for this test");
        for ask in asks {
            assert!(ask.await.unwrap().error.is_none());
        }
    });
    assert!(began.elapsed() >= delay);
}

#[test]
fn a_limit_can_come_later_and_the_connection_bears_it() {
    let llm = Upstream::start(Protocol::H2c);
    llm.answer_with(|request| match request.number {
        0 => Answer::openai().answer().first([Step::MaxStreams(1)]),
        _ => Answer::sse().head().wait(Duration::from_millis(20)).send("data: 1\n\n"),
    });
    run(async {
        let Asker::H2(sender) = Asker::connect(&llm, None, true).await else { panic!("HTTP/2") };
        assert!(Asker::H2(sender.clone()).ask().await.error.is_none());
        let asks = (0..4).map(|_| {
            let mut asker = Asker::H2(sender.clone());
            tokio::spawn(async move { asker.ask().await })
        });
        for ask in asks.collect::<Vec<_>>() {
            assert_eq!(ask.await.unwrap().text(), "data: 1\n\n");
        }
    });
    let connections = llm.connections();
    assert_eq!((connections.len(), connections[0].requests, connections[0].streams_max), (1, 5, 1));
}

#[test]
fn a_cancelled_stream_is_noticed_in_every_phase_and_its_neighbour_is_not() {
    let llm = Upstream::start(Protocol::H2c);
    let forever = Step::SendForever(b"data: 1\n\n".to_vec(), Duration::from_millis(1));
    let answers = [Answer::sse().hang(), Answer::sse().head().hang(), Answer::sse().step(forever)];
    llm.answer_with(move |request| match request.number {
        0 => Answer::sse().head().wait_for("end").send("data: 1\n\n"),
        number => answers[number - 1].clone(),
    });
    run(async {
        let Asker::H2(sender) = Asker::connect(&llm, None, true).await else { panic!("HTTP/2") };
        let mut neighbour = Asker::H2(sender.clone());
        let neighbour = tokio::spawn(async move { neighbour.ask().await });
        until("the neighbour asks", || llm.request_count() == 1).await;
        for number in 1..=3 {
            let mut asker = Asker::H2(sender.clone());
            let ask = tokio::spawn(async move { asker.ask().await });
            until("it asks", || llm.request_count() == number + 1).await;
            let left = Instant::now();
            ask.abort();
            until("it is cancelled", || llm.requests()[number].end.is_some()).await;
            let (at, end) = llm.wait_for_cancel(number);
            assert_eq!(end, End::Reset(code::CANCEL));
            assert!(at - left < Duration::from_secs(1));
        }
        llm.open("end");
        assert_eq!(neighbour.await.unwrap().text(), "data: 1\n\n");
    });
    let resets: Vec<u32> = llm.connections()[0].resets.iter().map(|(_, code)| *code).collect();
    assert_eq!(resets, [code::CANCEL; 3]);
}

#[test]
fn a_client_that_goes_away_ends_all_its_streams() {
    let llm = Upstream::start(Protocol::H2c);
    llm.script(Answer::sse().head().hang());
    run(async {
        let _asks = ask_at_once(&llm, 3).await;
        until("they ask", || llm.request_count() == 3).await;
    });
    // The runtime is gone, and its connections with it.
    for number in 0..3 {
        assert_eq!(llm.wait_for_cancel(number).1, End::Closed);
    }
    eventually("the connection has ended", || (llm.open_connections() == 0).then_some(()));
}

#[test]
fn nobody_sends_more_than_the_window_of_who_does_not_read() {
    let llm = Upstream::start(Protocol::H2c);
    llm.script(Answer::sse().send(vec![b'x'; 1 << 20]));
    run(async {
        let mut asker = Asker::connect(&llm, None, true).await;
        let response = asker.begin().await.unwrap();
        until("the window is full", || llm.requests()[0].bytes_sent > 40_000).await;
        nothing_within(100, std::future::pending::<()>()).await;
        let sent = llm.requests()[0].bytes_sent;
        assert!(sent <= u64::from(WINDOW_BYTES), "{sent}");
        let got = super::client::read(response).await;
        assert_eq!(got.frames.concat().len(), 1 << 20);
    });
    assert_eq!(llm.wait_for_end(0).1, End::Complete);
}

/// h2's own client, which can send PINGs whenever it likes: how many were answered, until the connection ended or said
/// nothing for a while.
async fn pings(llm: &Upstream, count: usize) -> (usize, Option<u32>) {
    let stream = tokio::net::TcpStream::connect(llm.address()).await.unwrap();
    let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut pinger = connection.ping_pong().unwrap();
    let end = tokio::spawn(connection);
    let mut answered = 0;
    for _ in 0..count {
        let pong = tokio::time::timeout(Duration::from_secs(1), pinger.ping(h2::Ping::opaque()));
        match pong.await {
            Ok(Ok(_)) => answered += 1,
            Ok(Err(_)) => break,
            Err(_) => return (answered, None),
        }
    }
    drop(client);
    let reason = end.await.unwrap().err().and_then(|error| error.reason()).map(u32::from);
    (answered, reason)
}

#[test]
fn pings_are_counted_answered_or_not() {
    let llm = Upstream::start(Protocol::H2c);
    assert_eq!(run(pings(&llm, 5)), (5, None));
    assert_eq!(llm.connections()[0].pings.len(), 5);
    let deaf = Upstream::with(Options { answers_pings: false, ..Options::new(Protocol::H2c) });
    assert_eq!(run(pings(&deaf, 5)), (0, None));
    assert_eq!(deaf.connections()[0].pings.len(), 1);
}

#[test]
fn who_pings_too_fast_is_told_to_calm_down() {
    let interval = Duration::from_secs(60);
    let llm = Upstream::with(Options { ping_interval_min: interval, ..Options::new(Protocol::H2c) });
    let (answered, reason) = run(pings(&llm, 10));
    assert!(answered < 5, "{answered}");
    assert_eq!(reason, Some(code::ENHANCE_YOUR_CALM));
    let calm =
        Upstream::with(Options { ping_interval_min: Duration::from_nanos(1), ..Options::new(Protocol::H2c) });
    assert_eq!(run(pings(&calm, 10)), (10, None));
}

#[test]
fn what_the_client_has_set_is_known() {
    let llm = Upstream::start(Protocol::H2c);
    assert!(run(ask(&llm)).error.is_none());
    // SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, section 6.5.2).
    let settings = &llm.connections()[0].settings;
    assert!(settings.contains(&(4, WINDOW_BYTES)), "{settings:?}");
}
