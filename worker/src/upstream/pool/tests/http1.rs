//! HTTP/1.1.

use super::*;

#[test]
fn a_connection_is_used_again_after_an_answer_was_read_to_its_end() {
    run(async {
        let (base, accepted) = tcp_server(|_, stream| serve_ok(stream)).await;
        let pool = pool(&base, &http1_only());
        for _ in 0..5 {
            assert_eq!(answer(&pool, "/").await, "ok");
        }
        assert_eq!(accepted.get(), 1);
        assert_eq!((pool.gauges().opened, pool.gauges().open), (1, 1));
    });
}

#[test]
fn host_and_path_are_those_of_the_origin_and_the_request() {
    run(async {
        let (base, _) = tcp_server(|_, mut stream| async move {
            let request = request(&mut stream).await.unwrap();
            let length = request.len();
            say(&mut stream, &format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{request}")).await;
        })
        .await;
        let heard = answer(&pool(&base, &http1_only()), "/v1/chat?a=b").await;
        assert!(heard.starts_with("POST /v1/chat?a=b HTTP/1.1\r\n"), "{heard}");
        assert!(heard.contains(&format!("host: {}\r\n", base.strip_prefix("http://").unwrap())), "{heard}");
        assert!(heard.ends_with("\r\n\r\nquestion"), "{heard}");
    });
}

#[test]
fn a_server_without_http2_is_asked_by_http1_after_one_probe() {
    run(async {
        let (base, accepted) = tcp_server(|_, stream| serve_ok(stream)).await;
        let pool = pool(&base, &connection());
        for _ in 0..3 {
            assert_eq!(answer(&pool, "/").await, "ok");
        }
        // The probe, and the connection.
        assert_eq!(accepted.get(), 2);
    });
}

#[test]
fn a_server_that_says_nothing_to_a_probe_is_asked_by_http1() {
    run(async {
        let (base, _) = tcp_server(|number, mut stream| async move {
            match number {
                1 => ended(&mut stream).await,
                _ => serve_ok(stream).await,
            }
        })
        .await;
        assert_eq!(answer(&pool(&base, &connection()), "/").await, "ok");
    });
}

#[test]
fn a_unix_socket_is_asked_by_http1() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("llm.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(request(&mut stream).await.unwrap().contains("host: llm.example\r\n"));
            say(&mut stream, OK).await;
        });
        let connection = Connection { socket: Some(path), ..connection() };
        assert_eq!(answer(&pool("http://llm.example", &connection), "/").await, "ok");
    });
}

#[test]
fn an_idle_connection_that_the_server_closed_costs_nobody_an_answer() {
    run(async {
        // Closed when the next request has come: exactly what crosses on the wire.
        let (base, accepted) = tcp_server(|number, mut stream| async move {
            while let Some(_request) = request(&mut stream).await {
                say(&mut stream, OK).await;
                if number == 1 {
                    let mut one = [0];
                    let _ = stream.read(&mut one).await;
                    return;
                }
            }
        })
        .await;
        let pool = pool(&base, &http1_only());
        assert_eq!(answer(&pool, "/").await, "ok");
        assert_eq!(answer(&pool, "/").await, "ok");
        assert_eq!(accepted.get(), 2);
    });
}

#[test]
fn a_fresh_connection_that_breaks_is_not_asked_again() {
    run(async {
        let (base, accepted) = tcp_server(|_, mut stream| async move {
            request(&mut stream).await;
        })
        .await;
        let error = ask(&pool(&base, &http1_only()), "/").await.unwrap_err();
        assert!(matches!(error, PoolError::Broken(_)), "{error:?}");
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn an_idle_connection_that_breaks_late_is_not_asked_again() {
    run(async {
        let (base, accepted) = tcp_server(|_, mut stream| async move {
            request(&mut stream).await;
            say(&mut stream, OK).await;
            request(&mut stream).await;
            sleep(Duration::from_millis(1200)).await;
        })
        .await;
        let pool = pool(&base, &http1_only());
        assert_eq!(answer(&pool, "/").await, "ok");
        let error = ask(&pool, "/").await.unwrap_err();
        assert!(matches!(error, PoolError::Broken(_)), "{error:?}");
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn each_clean_end_is_clean_and_each_cut_is_an_error() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\none", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\nx: y\r\n\r\n", true),
        (CHUNKED, false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none", false),
        ("HTTP/1.0 200 OK\r\n\r\none", true),
        ("HTTP/1.1 200 OK\r\n\r\none", true),
    ];
    for (said, clean) in cases {
        run(async {
            let (base, _) = tcp_server(move |_, mut stream| async move {
                request(&mut stream).await;
                say(&mut stream, said).await;
            })
            .await;
            let read = text(ask(&pool(&base, &http1_only()), "/").await.unwrap()).await;
            assert_eq!(read.is_ok(), clean, "{said:?}: {read:?}");
            assert!(read.is_err() || read.unwrap() == "one");
        });
    }
}

#[test]
fn no_more_connections_than_allowed_and_those_who_wait_come_in_turn() {
    run(async {
        let (base, accepted) = tcp_server(|_, stream| serve_ok(stream)).await;
        let pool =
            pool(&base, &Connection { http2: false, streams_max: NonZeroU32::MIN, ..connections_max(3) });
        let asked = (0..40).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            assert_eq!(text(asked.await.unwrap().unwrap()).await.unwrap(), "ok");
        }
        assert_eq!(accepted.get(), 3);
    });
}

#[test]
fn idle_connections_beyond_those_to_be_kept_are_closed() {
    run(async {
        let (base, _) = tcp_server(|_, stream| serve_ok(stream)).await;
        let pool = pool(&base, &Connection { idle_max: 2, ..http1_only() });
        let asked = (0..10).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            text(asked.await.unwrap().unwrap()).await.unwrap();
        }
        eventually("two are open", LONG, || pool.gauges().open == 2).await;
    });
}

#[test]
fn a_redirect_is_an_answer_and_not_followed() {
    run(async {
        let (base, accepted) = tcp_server(|_, mut stream| async move {
            request(&mut stream).await;
            say(
                &mut stream,
                "HTTP/1.1 307 Go\r\nlocation: http://evil.example/\r\ncontent-length: 0\r\n\r\n",
            )
            .await;
        })
        .await;
        assert_eq!(ask(&pool(&base, &http1_only()), "/").await.unwrap().status(), 307);
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn a_connect_that_fails_fails_all_who_wait_for_it_and_the_next_request_dials_again() {
    run(async {
        // Nobody who wants any port takes one of this address meanwhile.
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let pool = pool(&format!("http://{address}"), &connection());
        let asked = (0..20).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            let error = asked.await.unwrap().unwrap_err();
            assert!(matches!(error, PoolError::Connect(_)), "{error:?}");
        }
        let listener = TcpListener::bind(address).await.unwrap();
        spawn_local(async move {
            loop {
                spawn_local(serve_ok(listener.accept().await.unwrap().0));
            }
        });
        assert_eq!(answer(&pool, "/").await, "ok");
    });
}

#[test]
fn a_server_that_does_not_accept_is_given_up_in_time() {
    run(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // The kernel accepts some by itself, and then no more.
        let connecting = || timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(address));
        let mut held = vec![];
        while let Ok(stream) = connecting().await {
            held.push(stream);
        }
        let patience = Patience { connect: Duration::from_millis(200), ..PATIENCE };
        let since = Instant::now();
        let error = pool(&format!("http://{address}"), &connection()).send(post("/"), patience).await;
        let error = error.unwrap_err();
        assert!(matches!(error, PoolError::ConnectTimeout(_)), "{error:?}");
        assert!(since.elapsed() < Duration::from_secs(2));
    });
}
