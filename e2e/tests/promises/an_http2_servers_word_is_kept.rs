//! What an HTTP/2 server says about its connection is kept: how many streams it takes, when it wants to be rid of them,
//! how rarely it wants to be PINGed. A question that it has not looked at is sent elsewhere, at no cost; one that it may
//! have looked at is not.

use std::time::Duration;

use handoff_e2e::upstream::{Dialect, LastStream, Options, Protocol, Step, code, words};
use handoff_e2e::{Answer, Client, Daemon, Upstream};

/// One worker, so that all questions share its connections; and no further attempt that would hide one.
fn alone(llm: &Upstream, keys: &str) -> Daemon {
    let backend = llm.backend_toml("llm", Dialect::OpenAi);
    Daemon::confined(1, &format!("[backend]\nprovider = \"llm\"\n{backend}retries = 0\n{keys}"))
}

fn ask(daemon: &Daemon) -> Client {
    daemon.hand_over(r#"{"prompt":"x"}"#)
}

#[track_caller]
fn is_answered(client: Client) {
    let response = client.response();
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
}

fn waiting(gate: &str) -> Answer {
    Answer::openai().answer().first([Step::WaitFor(gate.to_owned())])
}

#[test]
fn how_many_streams_it_takes() {
    for (max, questions, delay) in [(1, 12, 0), (8, 40, 0), (8, 40, 300), (100, 120, 0)] {
        let settings_delay = Duration::from_millis(delay);
        let options =
            Options { max_concurrent_streams: Some(max), settings_delay, ..Options::new(Protocol::H2c) };
        let llm = Upstream::with(options);
        llm.script(waiting("all"));
        let daemon = alone(&llm, "");
        let clients: Vec<_> = (0..questions).map(|_| ask(&daemon)).collect();
        // They are all under way at once.
        llm.wait_for_request(questions - 1);
        let most = llm.connections().iter().map(|connection| connection.streams_max).max();
        assert!(most.is_some_and(|most| most <= max as usize), "{max}: {most:?}");
        llm.open("all");
        clients.into_iter().for_each(is_answered);
        assert_eq!(llm.request_count(), questions, "{max}: nobody was refused and asked again");
        // One more than they need, at most, and those that came before the server had said how many it takes.
        let connections = llm.connections().iter().filter(|connection| connection.requests > 0).count();
        assert!(connections >= questions.div_ceil(max as usize), "{max}: {connections} connections");
    }
}

#[test]
fn also_when_it_changes_its_mind() {
    let options = Options { max_concurrent_streams: Some(8), ..Options::new(Protocol::H2Tls) };
    let llm = Upstream::with(options);
    llm.script_each([
        Answer::openai().with_after(1, [Step::WaitFor("fewer".to_owned()), Step::MaxStreams(1)]),
        waiting("all"),
    ]);
    let daemon = alone(&llm, "");
    let mut first = ask(&daemon);
    first.read_until("w0 \"}\n\n");
    llm.open("fewer");
    is_rest(first);
    // The connection is idle now, and takes one stream: the next question is there, the others are elsewhere.
    let clients: Vec<_> = (0..4).map(|_| ask(&daemon)).collect();
    llm.wait_for_request(4);
    let connections = llm.connections();
    assert_eq!(connections[0].streams_max, 1, "{connections:?}");
    llm.open("all");
    clients.into_iter().for_each(is_answered);
}

/// What follows the first word.
fn is_rest(client: Client) {
    let rest = client.response();
    assert!(rest.broken.is_none() && rest.body.ends_with("event: done\ndata: [DONE]\n\n"), "{rest:?}");
}

#[test]
fn a_question_above_its_last_stream_is_sent_elsewhere() {
    let llm = Upstream::start(Protocol::H2c);
    let away = [Step::WaitFor("go".to_owned()), Step::GoAway(LastStream::This, code::NO_ERROR)];
    let end = [Step::WaitFor("end".to_owned())];
    llm.script_each([
        waiting("end"),
        Answer::openai().answer().first(away.into_iter().chain(end)),
        waiting("end"),
        waiting("end"),
    ]);
    let daemon = alone(&llm, "");
    let clients: Vec<_> = (0..3)
        .map(|number| {
            let client = ask(&daemon);
            llm.wait_for_request(number);
            client
        })
        .collect();
    let asked = llm.requests();
    assert!(asked.iter().all(|seen| seen.request.connection == asked[0].request.connection), "{asked:?}");
    llm.open("go");
    let again = llm.wait_for_request(3).request;
    assert_ne!(again.connection, asked[2].request.connection);
    let key = |number: usize| asked[number].request.header("idempotency-key").map(str::to_owned);
    assert_eq!(again.header("idempotency-key").map(str::to_owned), key(2), "the last one, and no other");
    llm.open("end");
    clients.into_iter().for_each(is_answered);
    assert_eq!(llm.request_count(), 4);
}

#[test]
fn a_question_that_it_has_not_looked_at_costs_no_attempt() {
    let llm = Upstream::start(Protocol::H2Tls);
    let refused = Answer::new(200).reset(code::REFUSED_STREAM);
    let gone = Answer::new(200).step(Step::GoAway(LastStream::BeforeThis, code::NO_ERROR)).hang();
    llm.script_each([refused.clone(), Answer::openai().answer(), gone, refused, Answer::openai().answer()]);
    let daemon = alone(&llm, "retry_budget = 0\n");
    is_answered(ask(&daemon));
    is_answered(ask(&daemon));
    assert_eq!(llm.request_count(), 5);
    assert_eq!(daemon.metric("handoffd_backend_retries_total"), 0.0);
}

#[test]
fn a_question_that_it_may_have_looked_at_is_not_asked_again() {
    let llm = Upstream::start(Protocol::H2c);
    let daemon = alone(&llm, "breaker_failures = 0\n");
    let away = Step::GoAway(LastStream::This, code::NO_ERROR);
    let failures = [
        Answer::new(200).reset(code::INTERNAL_ERROR),
        Answer::new(200).reset(code::CANCEL),
        Answer::new(200).step(away.clone()).cut(),
        Answer::new(200).cut(),
        Answer::sse().head().step(away).cut(),
    ];
    for (number, failure) in failures.into_iter().enumerate() {
        llm.script(failure);
        let response = ask(&daemon).response();
        assert_eq!(response.status, 502, "{number}: {response:?}");
        assert_eq!(llm.request_count(), number + 1, "{number}: asked once");
    }
    // Whatever became of those connections: the next question finds one.
    llm.script(Answer::openai());
    is_answered(ask(&daemon));
}

#[test]
fn how_rarely_it_wants_to_be_pinged() {
    let ping_interval_min = Duration::from_millis(150);
    let llm = Upstream::with(Options { ping_interval_min, ..Options::new(Protocol::H2c) });
    let answer = Answer::openai().with_after(1, [Step::WaitFor("calm".to_owned())]);
    llm.script(answer);
    let daemon = alone(&llm, "keep_alive_interval_secs = 0.1\nkeep_alive_timeout_secs = 5\n");
    let response = ask(&daemon).response();
    assert_eq!(
        response.error_code().as_deref(),
        Some("stream_incomplete"),
        "it ends the connection: {response:?}"
    );
    let mut client = ask(&daemon);
    client.read_until("w0 \"}\n\n");
    let second = llm.wait_for_request(1).request.connection;
    handoff_e2e::eventually("it is still PINGed", || {
        (llm.connections()[second].pings.len() >= 6).then_some(())
    });
    llm.open("calm");
    is_rest(client);
    assert_eq!(llm.request_count(), 2);
}
