//! The proxy, seen by clients of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Asker, encrypt, run, trust};
use crate::upstream::proxy::Proxy;
use crate::upstream::{Protocol, Upstream};

async fn say(proxy: &Proxy, text: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(stream.read_u8().await.expect("a head")));
    }
    (stream, head)
}

#[test]
fn a_tunnel_leads_to_a_name_that_only_the_proxy_knows() {
    let (llm, proxy) = (Upstream::start(Protocol::H2Tls), Proxy::start());
    proxy.route("llm.test:443", &llm.address());
    run(async {
        let (stream, head) = say(&proxy, "CONNECT llm.test:443 HTTP/1.1\r\nhost: llm.test:443\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let stream = encrypt(trust(&llm, false, &["h2"]), stream, "llm.test:443").await.unwrap();
        let got = Asker::over(stream, true).await.ask().await;
        assert!(got.error.is_none() && got.text().contains("[DONE]"), "{got:?}");
    });
    assert_eq!(llm.connections()[0].server_name.as_deref(), Some("llm.test"));
    assert_eq!((proxy.tunnels(), proxy.asked()[0].target.as_str()), (1, "llm.test:443"));
}

#[test]
fn a_request_is_forwarded_without_what_is_the_proxys() {
    let (llm, proxy) = (Upstream::start(Protocol::H1), Proxy::for_whom("Basic dXNlcjpwYXNz"));
    let question = |further: &str| {
        let fields = format!("host: {}\r\ncontent-length: 2\r\n{further}", llm.address());
        format!("POST http://{}/v1/x?y=1 HTTP/1.1\r\n{fields}\r\n{{}}", llm.address())
    };
    run(async {
        let (_, head) = say(&proxy, &question("")).await;
        assert!(head.starts_with("HTTP/1.1 407 ") && head.contains("proxy-authenticate"), "{head}");
        let authorization = "Proxy-Authorization: Basic dXNlcjpwYXNz\r\n";
        let (mut stream, head) = say(&proxy, &question(authorization)).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("connection: close"), "{head}");
        let mut body = String::new();
        stream.read_to_string(&mut body).await.unwrap();
        assert!(body.ends_with("\r\n0\r\n\r\n"), "{body}");
        let (_, head) = say(&proxy, &format!("CONNECT 127.0.0.1:1 HTTP/1.1\r\n{authorization}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    });
    let request = llm.wait_for_request(0).request;
    assert_eq!((request.path.as_str(), request.json()), ("/v1/x?y=1", serde_json::json!({})));
    assert_eq!(request.header("proxy-authorization"), None);
    assert_eq!(llm.request_count(), 1);
    let served: Vec<bool> = proxy.asked().iter().map(|asked| asked.is_served).collect();
    assert_eq!(served, [false, true, false]);
    assert_eq!(proxy.tunnels(), 0);
}
