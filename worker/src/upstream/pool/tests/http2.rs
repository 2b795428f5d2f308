//! HTTP/2.

use super::wire::*;
use super::*;

#[test]
fn requests_share_one_connection_when_the_server_allows_it() {
    run(async {
        let (base, accepted) = http2_server(|_, stream| async move {
            Wire::accept_with(stream, Some(100)).await.unwrap().serve_ok().await;
        })
        .await;
        let pool = pool(&base, &connection());
        let asked = (0..50).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            let response = asked.await.unwrap().unwrap();
            assert_eq!(response.version(), http::Version::HTTP_2);
            assert_eq!(text(response).await.unwrap(), "ok");
        }
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn settings_that_come_late_are_waited_for_with_one_stream() {
    run(async {
        let (base, _) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept(stream).await.unwrap();
            // One is asked without them; it is served without them.
            let first = wire.request().await.unwrap();
            let more = timeout(Duration::from_millis(200), wire.request()).await;
            assert!(more.is_err(), "a second stream before the settings: {more:?}");
            wire.settings(Some(10)).await;
            wire.ok(first).await;
            wire.serve_ok().await;
        })
        .await;
        let pool = pool(&base, &connections_max(1));
        let asked = (0..10).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            assert_eq!(text(asked.await.unwrap().unwrap()).await.unwrap(), "ok");
        }
    });
}

#[test]
fn a_refused_stream_is_sent_again_elsewhere() {
    run(async {
        let (base, accepted) = http2_server(|number, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            if number == 1 {
                let stream = wire.request().await.unwrap();
                wire.reset(stream, REFUSED_STREAM).await;
            }
            wire.serve_ok().await;
        })
        .await;
        assert_eq!(answer(&pool(&base, &connection()), "/").await, "ok");
        assert_eq!(accepted.get(), 2);
    });
}

#[test]
fn a_server_that_refuses_everything_is_not_asked_for_ever() {
    run(async {
        let (base, accepted) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            while let Some(stream) = wire.request().await {
                wire.reset(stream, REFUSED_STREAM).await;
            }
        })
        .await;
        let error = ask(&pool(&base, &connection()), "/").await.unwrap_err();
        assert!(matches!(error, PoolError::Unseen(_)), "{error:?}");
        assert!(accepted.get() <= 5, "{}", accepted.get());
    });
}

#[test]
fn a_request_above_a_goaway_goes_elsewhere_and_one_below_goes_on() {
    run(async {
        let (base, accepted) = http2_server(|number, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            if number == 1 {
                let below = wire.request().await.unwrap();
                wire.head(below).await;
                let above = wire.request().await.unwrap();
                assert!(above > below);
                wire.go_away(below, NO_ERROR).await;
                wire.heard().await;
                wire.send(DATA, END_STREAM, below, b"below").await;
                while wire.frame().await.is_some() {}
            } else {
                wire.serve_ok().await;
            }
        })
        .await;
        let pool = pool(&base, &connections_max(1));
        let below = ask(&pool, "/").await.unwrap();
        let above = asking(&pool, "/");
        assert_eq!(text(above.await.unwrap().unwrap()).await.unwrap(), "ok");
        assert_eq!(text(below).await.unwrap(), "below");
        assert_eq!(accepted.get(), 2);
        eventually("the first is closed", LONG, || pool.gauges().open == 1).await;
    });
}

#[test]
fn a_request_below_a_goaway_whose_connection_breaks_is_not_sent_again() {
    run(async {
        let (base, accepted) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            let stream = wire.request().await.unwrap();
            wire.go_away(stream, NO_ERROR).await;
            wire.heard().await;
        })
        .await;
        let error = ask(&pool(&base, &connections_max(1)), "/").await.unwrap_err();
        assert!(matches!(error, PoolError::Broken(_)), "{error:?}");
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn a_connection_that_goes_away_takes_no_more_requests() {
    run(async {
        let heard = Count::default();
        let said = heard.clone();
        let (base, accepted) = http2_server(move |number, stream| {
            let said = said.clone();
            async move {
                let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
                let stream = wire.request().await.unwrap();
                wire.head(stream).await;
                if number == 1 {
                    wire.go_away((1 << 31) - 1, NO_ERROR).await;
                    wire.heard().await;
                    said.add();
                    assert!(wire.request().await.is_none(), "asked after it said that it goes away");
                } else {
                    wire.send(DATA, END_STREAM, stream, b"ok").await;
                    wire.serve_ok().await;
                }
            }
        })
        .await;
        let pool = pool(&base, &connection());
        let first = ask(&pool, "/").await.unwrap();
        eventually("it is heard", LONG, || heard.get() == 1).await;
        assert_eq!(answer(&pool, "/").await, "ok");
        drop(first);
        assert_eq!(accepted.get(), 2);
    });
}

#[test]
fn a_stream_that_ends_without_its_end_is_an_error_whatever_the_server_calls_it() {
    for code in [NO_ERROR, 2, CANCEL] {
        run(async {
            let (base, _) = http2_server(move |_, stream| async move {
                let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
                let stream = wire.request().await.unwrap();
                wire.head(stream).await;
                wire.send(DATA, 0, stream, b"half").await;
                wire.reset(stream, code).await;
                while wire.frame().await.is_some() {}
            })
            .await;
            let read = text(ask(&pool(&base, &connection()), "/").await.unwrap()).await;
            assert!(read.is_err(), "code {code}: {read:?}");
        });
    }
}

#[test]
fn a_reset_with_no_error_behind_the_end_is_a_clean_end() {
    run(async {
        let (base, _) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            let stream = wire.request().await.unwrap();
            wire.head(stream).await;
            wire.send(DATA, END_STREAM, stream, b"ok").await;
            wire.reset(stream, NO_ERROR).await;
            wire.serve_ok().await;
        })
        .await;
        assert_eq!(answer(&pool(&base, &connection()), "/").await, "ok");
    });
}

#[test]
fn a_connection_that_breaks_within_an_answer_is_an_error() {
    run(async {
        let (base, _) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            let stream = wire.request().await.unwrap();
            wire.head(stream).await;
            wire.send(DATA, 0, stream, b"half").await;
        })
        .await;
        let read = text(ask(&pool(&base, &connection()), "/").await.unwrap()).await;
        assert!(matches!(read, Err(BodyError::Broken(_))), "{read:?}");
    });
}

#[test]
fn pings_are_sent_only_with_streams_and_half_as_often_after_enhance_your_calm() {
    run(async {
        let pings = Count::default();
        let heard = pings.clone();
        let (base, _) = http2_server(move |number, stream| {
            let heard = heard.clone();
            async move {
                let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
                let mut streams = 0;
                while let Some(frame) = wire.frame().await {
                    if frame.kind == PING {
                        heard.add();
                        wire.send(PING, 1, 0, &frame.payload).await;
                        if number == 1 && heard.get() == 2 {
                            wire.go_away(frame.stream, CALM).await;
                            return;
                        }
                    } else if frame.flags & END_STREAM != 0 {
                        streams += 1;
                        wire.head(frame.stream).await;
                        assert_eq!(streams, 1);
                    }
                }
            }
        })
        .await;
        let interval = Duration::from_millis(100);
        let connection = Connection { keep_alive_interval: interval, ..connection() };
        let pool = pool(&base, &connection);
        let first = ask(&pool, "/").await.unwrap();
        assert!(text(first).await.is_err());
        assert_eq!(pings.get(), 2);
        let mut second = ask(&pool, "/").await.unwrap().into_body();
        let since = Instant::now();
        tokio::select! {
            read = next(&mut second) => panic!("{read:?}"),
            () = eventually("a ping", LONG, || pings.get() == 3) => {}
        }
        assert!(since.elapsed() > Duration::from_millis(150), "after {:?}", since.elapsed());
        drop(second);
        let idle = pings.get();
        sleep(Duration::from_millis(500)).await;
        assert_eq!(pings.get(), idle, "a ping without streams");
    });
}

#[test]
fn a_server_that_answers_no_ping_is_given_up() {
    run(async {
        let (base, _) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            let stream = wire.request().await.unwrap();
            wire.head(stream).await;
            while wire.frame().await.is_some() {}
        })
        .await;
        let (keep_alive_interval, keep_alive_timeout) =
            (Duration::from_millis(100), Duration::from_millis(100));
        let pool = pool(&base, &Connection { keep_alive_interval, keep_alive_timeout, ..connection() });
        let response = ask(&pool, "/").await.unwrap();
        let since = Instant::now();
        let read = text(response).await;
        assert!(matches!(read, Err(BodyError::Broken(_))), "{read:?}");
        assert!(since.elapsed() < Duration::from_secs(2));
        eventually("it is closed", LONG, || pool.gauges().open < pool.gauges().opened).await;
    });
}

#[test]
fn a_body_that_is_not_read_does_not_slow_its_neighbours() {
    run(async {
        let (base, accepted) = tls::h2_server(|number, wire| Box::pin(flood(number, wire))).await;
        let connection = Connection { ca_file: Some(tls::ca().file()), ..connection() };
        let pool = pool(&base, &connection);
        let mut unread = vec![];
        for _ in 0..20 {
            unread.push(ask(&pool, "/").await.unwrap());
        }
        let asked = (0..80).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            let read = timeout(Duration::from_secs(10), text(asked.await.unwrap().unwrap())).await;
            assert_eq!(read.expect("a neighbour is slowed").unwrap().len(), 200_000);
        }
        assert_eq!(accepted.get(), 2, "it is about one connection, and its spare one");
        drop(unread);
    });
}

/// 200,000 bytes on each stream, by a server that keeps to the windows.
async fn flood(_number: usize, stream: tls::ServerStream) {
    let mut builder = h2::server::Builder::new();
    let mut connection = builder.max_concurrent_streams(100).handshake::<_, Bytes>(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        spawn_local(async move {
            let mut sender = respond.send_response(Response::new(()), false).unwrap();
            let mut left = 200_000;
            while left > 0 {
                sender.reserve_capacity(left);
                let Some(Ok(room)) = poll_fn(|cx| sender.poll_capacity(cx)).await else { return };
                let now = room.min(left);
                left -= now;
                if sender.send_data(Bytes::from(vec![b'x'; now]), left == 0).is_err() {
                    return;
                }
            }
        });
    }
}
