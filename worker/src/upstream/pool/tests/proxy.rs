//! Egress proxies.

use handoff_config::backend::{Proxy, Secret};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::wire::*;
use super::*;

/// user:pa ss
const AUTHORIZATION: &str = "proxy-authorization: basic dxnlcjpwysbzcw==";

fn through(proxy: &str) -> Connection {
    let address = proxy.replace("http://", "http://user:pa%20ss@");
    Connection { proxy: Some(Proxy { address: Secret::new(address) }), ..connection() }
}

/// What it was asked, in lower case; CONNECT is served.
async fn proxy() -> (String, Rc<std::cell::RefCell<Vec<String>>>) {
    let heard = Rc::<std::cell::RefCell<Vec<String>>>::default();
    let asked = Rc::clone(&heard);
    let (base, _) = tcp_server(move |_, mut stream| {
        let asked = Rc::clone(&asked);
        async move {
            while let Some(request) = request(&mut stream).await {
                asked.borrow_mut().push(request.to_ascii_lowercase());
                let Some(to) = request.strip_prefix("CONNECT ") else {
                    say(&mut stream, OK).await;
                    continue;
                };
                let mut there = TcpStream::connect(to.split(' ').next().unwrap()).await.unwrap();
                say(&mut stream, "HTTP/1.1 200 Connected\r\n\r\n").await;
                let _ = copy_bidirectional(&mut stream, &mut there).await;
                return;
            }
        }
    })
    .await;
    (base, heard)
}

#[test]
fn https_goes_through_connect_and_then_speaks_with_the_origin() {
    run(async {
        let (proxy, heard) = proxy().await;
        let (base, _) = tls::h2_server(|_, stream| {
            Box::pin(async move { Wire::accept_with(stream, Some(8)).await.unwrap().serve_ok().await })
        })
        .await;
        let pool = pool(&base, &Connection { ca_file: Some(tls::ca().file()), ..through(&proxy) });
        let response = ask(&pool, "/").await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert_eq!(text(response).await.unwrap(), "ok");
        let heard = heard.borrow();
        let origin = base.strip_prefix("https://").unwrap();
        assert!(heard[0].starts_with(&format!("connect {origin} http/1.1\r\n")), "{heard:?}");
        assert!(heard[0].contains(AUTHORIZATION), "{heard:?}");
    });
}

#[test]
fn http_is_forwarded_with_the_whole_address_and_never_probed() {
    run(async {
        let (proxy, heard) = proxy().await;
        let pool = pool("http://llm.example:8000", &through(&proxy));
        for _ in 0..2 {
            assert_eq!(answer(&pool, "/v1/chat").await, "ok");
        }
        assert_eq!(pool.gauges().opened, 1);
        let heard = heard.borrow();
        assert_eq!(heard.len(), 2);
        for heard in heard.iter() {
            assert!(heard.starts_with("post http://llm.example:8000/v1/chat http/1.1\r\n"), "{heard}");
            assert!(heard.contains("host: llm.example:8000\r\n"), "{heard}");
            assert!(heard.contains(AUTHORIZATION), "{heard}");
        }
    });
}

#[test]
fn a_proxy_that_refuses_is_an_error_and_nobody_goes_around_it() {
    run(async {
        let (proxy, _) = tcp_server(|_, mut stream| async move {
            request(&mut stream).await;
            say(&mut stream, "HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n").await;
        })
        .await;
        let (base, accepted) = tls::h2_server(|_, _| Box::pin(async {})).await;
        for address in [proxy.as_str(), "nonsense://proxy.example"] {
            let pool = pool(&base, &Connection { ca_file: Some(tls::ca().file()), ..through(address) });
            let error = ask(&pool, "/").await.unwrap_err();
            assert!(matches!(error, PoolError::Connect(_)), "{error:?}");
            assert!(!format!("{error:?}").contains("pa ss"), "{error:?}");
        }
        assert_eq!(accepted.get(), 0);
    });
}

#[test]
fn a_proxy_may_itself_want_tls() {
    run(async {
        // What it speaks with us is HTTP/1.1, though it could do better.
        let (base, _) = tls::h2_server(|_, mut stream| {
            Box::pin(async move {
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                serve_ok(&mut stream).await;
            })
        })
        .await;
        let proxy = Some(Proxy { address: Secret::new(base) });
        let connection = Connection { proxy, ca_file: Some(tls::ca().file()), ..connection() };
        assert_eq!(answer(&pool("http://llm.example", &connection), "/").await, "ok");
    });
}
