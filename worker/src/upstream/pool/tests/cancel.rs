//! A request that nobody wants any more ends wherever it is, and the server sees it soon.

use super::wire::*;
use super::*;

/// What the server saw, and when.
#[derive(Clone, Debug, Default)]
struct Sight(Rc<Cell<Option<Instant>>>);

impl Sight {
    fn now(&self) {
        self.0.set(Some(Instant::now()));
    }

    async fn soon_after(&self, since: Instant) {
        eventually("the server sees it", LONG, || self.0.get().is_some()).await;
        let after = self.0.get().unwrap().saturating_duration_since(since);
        assert!(after < SOON, "seen after {after:?}");
    }
}

/// Reads each request; answers its head and a piece of its body where it is to; then waits for the reset.
async fn http2_held(head: bool) -> (String, Sight, Count) {
    let (sight, asked) = (Sight::default(), Count::default());
    let (seen, counted) = (sight.clone(), asked.clone());
    let (base, _) = http2_server(move |_, stream| {
        let (seen, counted) = (seen.clone(), counted.clone());
        async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            let stream = wire.request().await.unwrap();
            if head {
                wire.head(stream).await;
                wire.send(DATA, 0, stream, b"half").await;
            }
            counted.add();
            let reset = wire.reset_seen().await.expect("the connection is closed, not the stream reset");
            assert_eq!((reset.stream, reset.code()), (stream, CANCEL));
            seen.now();
            wire.serve_ok().await;
        }
    })
    .await;
    (base, sight, asked)
}

#[test]
fn http2_waiting_for_the_head() {
    run(async {
        let (base, sight, asked) = http2_held(false).await;
        let pool = pool(&base, &connections_max(1));
        let request = asking(&pool, "/");
        eventually("it is asked", LONG, || asked.get() == 1).await;
        let since = Instant::now();
        request.abort();
        sight.soon_after(since).await;
        assert_eq!(answer(&pool, "/").await, "ok", "the connection goes on");
    });
}

#[test]
fn http2_within_the_body() {
    run(async {
        let (base, sight, _) = http2_held(true).await;
        let pool = pool(&base, &connections_max(1));
        let mut body = ask(&pool, "/").await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "half");
        let since = Instant::now();
        drop(body);
        sight.soon_after(since).await;
        assert_eq!(answer(&pool, "/").await, "ok", "the connection goes on");
    });
}

async fn http1_held(said: &'static str) -> (String, Sight, Count) {
    let (sight, asked) = (Sight::default(), Count::default());
    let (seen, counted) = (sight.clone(), asked.clone());
    let (base, _) = tcp_server(move |_, mut stream| {
        let (seen, counted) = (seen.clone(), counted.clone());
        async move {
            request(&mut stream).await.unwrap();
            say(&mut stream, said).await;
            counted.add();
            ended(&mut stream).await;
            seen.now();
        }
    })
    .await;
    (base, sight, asked)
}

#[test]
fn http1_waiting_for_the_head() {
    run(async {
        let (base, sight, asked) = http1_held("").await;
        let pool = pool(&base, &http1_only());
        let request = asking(&pool, "/");
        eventually("it is asked", LONG, || asked.get() == 1).await;
        let since = Instant::now();
        request.abort();
        sight.soon_after(since).await;
        eventually("none is open", SOON, || pool.gauges().open == 0).await;
    });
}

#[test]
fn http1_within_the_body() {
    run(async {
        let (base, sight, _) = http1_held(CHUNKED).await;
        let pool = pool(&base, &http1_only());
        let mut body = ask(&pool, "/").await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "one");
        let since = Instant::now();
        drop(body);
        sight.soon_after(since).await;
        eventually("none is open", SOON, || pool.gauges().open == 0).await;
    });
}

#[test]
fn within_the_tls_handshake() {
    run(async {
        let (sight, begun) = (Sight::default(), Count::default());
        let (seen, counted) = (sight.clone(), begun.clone());
        let (base, _) = tcp_server(move |_, mut stream| {
            let (seen, counted) = (seen.clone(), counted.clone());
            async move {
                stream.readable().await.unwrap();
                counted.add();
                ended(&mut stream).await;
                seen.now();
            }
        })
        .await;
        let base = base.replace("http://127.0.0.1", "https://localhost");
        let pool = pool(&base, &Connection { ca_file: Some(tls::ca().file()), ..connection() });
        let request = asking(&pool, "/");
        eventually("TLS begins", LONG, || begun.get() == 1).await;
        let since = Instant::now();
        request.abort();
        sight.soon_after(since).await;
        assert_eq!(pool.gauges().queued, 0);
    });
}

#[test]
fn a_dial_that_another_request_waits_for_goes_on() {
    run(async {
        let (base, accepted) = tcp_server(|_, mut stream| async move {
            // Slow to answer the probe: time to leave.
            if request(&mut stream).await.unwrap().starts_with("PRI ") {
                ended(&mut stream).await;
            } else {
                say(&mut stream, OK).await;
            }
        })
        .await;
        let pool = pool(&base, &connection());
        let (first, second) = (asking(&pool, "/"), asking(&pool, "/"));
        eventually("it is dialled", LONG, || accepted.get() == 1).await;
        first.abort();
        assert_eq!(text(second.await.unwrap().unwrap()).await.unwrap(), "ok");
        // The probe, and the connection.
        assert_eq!(accepted.get(), 2);
    });
}

#[test]
fn in_the_queue() {
    run(async {
        let (base, _, asked) = http2_held(false).await;
        let streams_max = NonZeroU32::new(1).unwrap();
        let pool = pool(&base, &Connection { streams_max, ..connections_max(1) });
        let first = asking(&pool, "/");
        eventually("it is asked", LONG, || asked.get() == 1).await;
        let waiting = asking(&pool, "/");
        eventually("one waits", LONG, || pool.gauges().queued == 1).await;
        waiting.abort();
        eventually("nobody waits", SOON, || pool.gauges().queued == 0).await;
        first.abort();
        // The place of the first is free, and nobody else has it.
        assert_eq!(answer(&pool, "/").await, "ok");
    });
}

#[test]
fn a_thousand_that_leave_leave_nothing_behind() {
    run(async {
        let (base, _) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(16)).await.unwrap();
            // Every other one is answered, and data goes on for the others.
            while let Some(stream) = wire.request().await {
                wire.head(stream).await;
                wire.send(DATA, 0, stream, b"half").await;
                if stream % 4 == 1 {
                    wire.send(DATA, END_STREAM, stream, b"end").await;
                }
            }
        })
        .await;
        let pool = pool(&base, &connections_max(2));
        for round in 0..100_u64 {
            let asked = (0..10).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            } else {
                sleep(Duration::from_micros(round * 50)).await;
            }
            asked.iter().for_each(JoinHandle::abort);
        }
        eventually("nobody waits", LONG, || pool.gauges().queued == 0).await;
        // All 32 places are to be had.
        let all = (0..32).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in all {
            asked.await.unwrap().unwrap();
        }
        assert!(pool.gauges().opened <= 2, "{:?}", pool.gauges());
    });
}
