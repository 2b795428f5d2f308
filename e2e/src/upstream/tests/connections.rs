//! Faults of whole connections, and of TLS.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Asker, encrypt, nothing_within, run, trust, until};
use crate::eventually;
use crate::upstream::{Answer, Certificate, End, Opening, Options, Protocol, Upstream};

#[test]
fn connections_open_as_they_were_told_and_then_as_ever() {
    let llm = Upstream::start(Protocol::H1);
    let openings = [Opening::Silent, Opening::Close, Opening::Reset, Opening::Raw(b"SSH-2.0-x\r\n")];
    llm.next_connections(openings);
    run(async {
        let read = async |ask: bool| {
            let mut stream = TcpStream::connect(llm.address()).await?;
            if ask {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
            }
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.map(|_| bytes)
        };
        nothing_within(100, read(true)).await;
        assert_eq!(read(false).await.unwrap(), b"");
        assert_eq!(read(false).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(read(false).await.unwrap(), b"SSH-2.0-x\r\n");
        assert!(read(true).await.unwrap().starts_with(b"HTTP/1.1 200 "));
    });
    assert_eq!((llm.connections().len(), llm.request_count()), (5, 1));
}

#[test]
fn silence_comes_before_or_after_tls() {
    let llm = Upstream::start(Protocol::H2Tls);
    llm.next_connections([Opening::Silent, Opening::SilentAfterTls]);
    run(async {
        let connect = async || {
            let stream = TcpStream::connect(llm.address()).await.unwrap();
            encrypt(trust(&llm, false, &["h2"]), stream, &llm.address()).await
        };
        nothing_within(100, connect()).await;
        let mut stream = connect().await.unwrap();
        nothing_within(100, stream.read_u8()).await;
    });
}

#[test]
fn a_port_refuses_pauses_and_comes_back() {
    for protocol in [Protocol::H1, Protocol::Unix] {
        let llm = Upstream::start(protocol);
        let ask = || run(async { Asker::connect(&llm, None, false).await.ask().await });
        assert!(ask().error.is_none());
        llm.refuse();
        if protocol == Protocol::H1 {
            let refused = std::net::TcpStream::connect(llm.address()).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        } else {
            assert!(std::os::unix::net::UnixStream::connect(llm.address()).is_err());
        }
        llm.listen();
        assert!(ask().error.is_none());
        llm.pause_accepting();
        run(async {
            let mut asker = Asker::connect(&llm, None, false).await;
            let ask = asker.ask();
            tokio::pin!(ask);
            nothing_within(100, &mut ask).await;
            llm.listen();
            assert!(ask.await.error.is_none());
        });
        assert_eq!(llm.connections().len(), 3, "{protocol:?}");
        eventually("all have ended", || (llm.open_connections() == 0).then_some(()));
    }
}

#[test]
fn each_certificate_is_as_good_as_it_says() {
    let tries = [
        (Certificate::Good, None),
        (Certificate::WrongName, Some("NotValidForName")),
        (Certificate::Expired, Some("Expired")),
        (Certificate::Unknown, Some("UnknownIssuer")),
    ];
    for (certificate, error) in tries {
        let llm = Upstream::with(Options { certificate, ..Options::new(Protocol::H2Tls) });
        let result = run(async {
            let stream = TcpStream::connect(llm.address()).await.unwrap();
            encrypt(trust(&llm, false, &["h2"]), stream, &llm.address()).await
        });
        match error {
            None => assert!(result.is_ok(), "{result:?}"),
            Some(error) => {
                let got = format!("{:?}", result.err());
                let known = got.contains(error) || (error == "UnknownIssuer" && got.contains("BadSignature"));
                assert!(known, "{certificate:?}: {got}");
                eventually("the server knows why", || llm.connections()[0].tls_error.clone());
            }
        }
    }
}

#[test]
fn a_client_certificate_is_wanted_where_it_is_wanted() {
    let options = Options { wants_client_certificate: true, ..Options::new(Protocol::H1Tls) };
    let llm = Upstream::with(options);
    let ask = |shows_itself| {
        let tls = trust(&llm, shows_itself, &[]);
        run(async { Asker::connect(&llm, Some(tls), false).await.ask().await })
    };
    assert!(ask(true).error.is_none());
    assert!(ask(false).error.is_some());
    assert_eq!(llm.request_count(), 1);
}

#[test]
fn tls_sessions_are_resumed_unless_they_must_not() {
    for resumes_tls in [true, false] {
        let llm = Upstream::with(Options { resumes_tls, ..Options::new(Protocol::H1Tls) });
        let tls = trust(&llm, false, &[]);
        run(async {
            for _ in 0..2 {
                assert!(Asker::connect(&llm, Some(tls.clone()), false).await.ask().await.error.is_none());
            }
        });
        let resumed: Vec<_> = llm.connections().iter().map(|connection| connection.is_resumed).collect();
        assert_eq!(resumed, [false, resumes_tls]);
    }
}

#[test]
fn a_dropped_server_is_gone_with_all_its_connections() {
    let llm = Upstream::start(Protocol::H2c);
    llm.script(Answer::sse().head().hang());
    run(async {
        let address = llm.address();
        let mut asker = Asker::connect(&llm, None, true).await;
        let response = asker.begin().await.unwrap();
        drop(llm);
        assert!(super::client::read(response).await.error.is_some());
        assert!(TcpStream::connect(address).await.is_err());
    });
}

#[test]
fn a_cut_tls_connection_says_no_goodbye() {
    let llm = Upstream::start(Protocol::H1Tls);
    llm.script(Answer::sse().send("data: 1\n\n").framed(crate::upstream::Framing::UntilClose));
    let got = run(async { Asker::connect(&llm, Some(trust(&llm, false, &[])), false).await.ask().await });
    assert!(got.error.is_none(), "{got:?}");
    let cut = Answer::sse().send("data: 1\n\n").framed(crate::upstream::Framing::UntilClose);
    llm.script(cut.wait(Duration::from_millis(20)).cut());
    let got = run(async { Asker::connect(&llm, Some(trust(&llm, false, &[])), false).await.ask().await });
    assert!(got.error.is_some() && got.text() == "data: 1\n\n", "{got:?}");
}

#[test]
fn five_hundred_streams_at_once_are_no_trouble() {
    let llm = Upstream::start(Protocol::H2c);
    llm.script(Answer::openai().words(20).pause_ms(2));
    run(async {
        let Asker::H2(sender) = Asker::connect(&llm, None, true).await else { panic!("HTTP/2") };
        let asks = (0..500).map(|_| {
            let mut asker = Asker::H2(sender.clone());
            tokio::spawn(async move { asker.ask().await })
        });
        for ask in asks.collect::<Vec<_>>() {
            assert!(ask.await.unwrap().text().ends_with("data: [DONE]\n\n"));
        }
        until("all have ended", || llm.requests().iter().all(|seen| seen.end.is_some())).await;
    });
    assert!(llm.requests().iter().all(|seen| seen.end.unwrap().1 == End::Complete));
}
