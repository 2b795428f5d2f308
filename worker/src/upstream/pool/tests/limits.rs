//! How many requests and connections there are at once, who waits, and for how long.

use std::collections::BTreeSet;

use super::wire::*;
use super::*;

/// Streams on a connection: now, and at most.
#[derive(Clone, Debug, Default)]
struct Held {
    most: Rc<Cell<usize>>,
}

/// Allows `streams`, answers each request after `hold`; a stream too many fails the test.
async fn server(streams: u32, hold: Duration) -> (String, Count, Held) {
    let held = Held::default();
    let most = held.clone();
    let (base, accepted) = http2_server(move |_, stream| {
        let most = Rc::clone(&most.most);
        async move {
            let mut wire = Wire::accept_with(stream, Some(streams)).await.unwrap();
            let mut open = BTreeSet::new();
            let mut due = std::collections::VecDeque::new();
            loop {
                let next = due.front().map_or(Instant::now() + LONG, |(at, _)| *at);
                tokio::select! {
                    request = wire.request() => {
                        let Some(stream) = request else { return };
                        open.insert(stream);
                        assert!(open.len() <= streams as usize, "{} streams of {streams}", open.len());
                        most.set(most.get().max(open.len()));
                        due.push_back((Instant::now() + hold, stream));
                    }
                    () = tokio::time::sleep_until(next) => {
                        let (_, stream) = due.pop_front().unwrap();
                        open.remove(&stream);
                        wire.ok(stream).await;
                    }
                }
            }
        }
    })
    .await;
    (base, accepted, held)
}

#[test]
fn never_more_streams_than_the_server_allows_and_nobody_is_forgotten() {
    for streams in [1, 8, 100] {
        run(async {
            let (base, accepted, held) = server(streams, Duration::from_millis(5)).await;
            let pool = pool(&base, &connections_max(4));
            let asked = (0..300).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
            for asked in asked {
                assert_eq!(text(asked.await.unwrap().unwrap()).await.unwrap(), "ok");
            }
            assert_eq!(held.most.get(), streams as usize);
            assert!(accepted.get() <= 4, "{}", accepted.get());
            assert_eq!(pool.gauges().queued, 0);
        });
    }
}

#[test]
fn not_more_streams_on_a_connection_than_configured() {
    run(async {
        let (base, _, held) = server(100, Duration::from_millis(5)).await;
        let pool =
            pool(&base, &Connection { streams_max: NonZeroU32::new(3).unwrap(), ..connections_max(4) });
        let asked = (0..60).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            text(asked.await.unwrap().unwrap()).await.unwrap();
        }
        assert_eq!(held.most.get(), 3);
    });
}

#[test]
fn of_500_requests_at_once_to_a_server_that_takes_8_nobody_waits_for_the_end_of_another() {
    run(async {
        let (base, accepted, _) = server(8, Duration::from_secs(3)).await;
        let pool = pool(&base, &connection());
        // What is known of an origin that is in use.
        let first = asking(&pool, "/");
        eventually("a connection", LONG, || accepted.get() > 0).await;
        let asked = (0..500).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        let since = Instant::now();
        eventually("all ask", LONG, || pool.gauges().queued > 0).await;
        eventually("all have a place", LONG, || pool.gauges().queued == 0).await;
        let waited = since.elapsed();
        for asked in asked.into_iter().chain([first]) {
            assert_eq!(text(asked.await.unwrap().unwrap()).await.unwrap(), "ok");
        }
        assert!(accepted.get() <= 64, "{}", accepted.get());
        // Long before any of them ends: everybody got a place on a connection that was opened for them.
        assert!(waited < Duration::from_secs(1), "{waited:?}");
    });
}

#[test]
fn a_limit_that_is_lowered_holds_from_then_on() {
    run(async {
        let (base, _) = http2_server(|_, stream| async move {
            let mut wire = Wire::accept_with(stream, Some(100)).await.unwrap();
            let first = wire.request().await.unwrap();
            wire.settings(Some(2)).await;
            wire.heard().await;
            wire.ok(first).await;
            // Two, and no third before one of them ends.
            while let Some(one) = wire.request().await {
                let other = wire.request().await.unwrap();
                let third = timeout(Duration::from_millis(30), wire.request()).await;
                assert!(third.is_err(), "a third stream: {third:?}");
                wire.ok(one).await;
                wire.ok(other).await;
            }
        })
        .await;
        let pool = pool(&base, &connections_max(1));
        assert_eq!(answer(&pool, "/").await, "ok");
        let asked = (0..8).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            text(asked.await.unwrap().unwrap()).await.unwrap();
        }
    });
}

#[test]
fn a_further_connection_is_open_before_the_last_place_is_taken() {
    run(async {
        let (base, accepted, _) = server(8, Duration::from_secs(5)).await;
        let pool = pool(&base, &connection());
        let mut asked = vec![];
        for _ in 0..7 {
            asked.push(asking(&pool, "/"));
            eventually("it has a place", LONG, || pool.gauges().queued == 0).await;
        }
        eventually("two are open", LONG, || accepted.get() == 2).await;
        assert_eq!(pool.gauges().open, 2);
    });
}

#[test]
fn who_finds_no_place_in_time_is_told_so() {
    run(async {
        let (base, _, _) = server(1, Duration::from_secs(1)).await;
        let pool = pool(&base, &connections_max(1));
        let first = asking(&pool, "/");
        eventually("it is asked", LONG, || pool.gauges().open == 1 && pool.gauges().queued == 0).await;
        let patience = Patience { queue: Duration::from_millis(50), ..PATIENCE };
        let since = Instant::now();
        let error = pool.send(post("/"), patience).await.unwrap_err();
        assert!(matches!(error, PoolError::QueueTimeout(_)), "{error:?}");
        assert!(since.elapsed() < Duration::from_millis(500));
        assert_eq!(pool.gauges().queued, 0);
        assert_eq!(text(first.await.unwrap().unwrap()).await.unwrap(), "ok");
    });
}

#[test]
fn an_answer_that_does_not_begin_in_time_is_given_up() {
    run(async {
        let (base, _, _) = server(10, Duration::from_secs(10)).await;
        let patience = Patience { head: Duration::from_millis(700), ..PATIENCE };
        let error = pool(&base, &connection()).send(post("/"), patience).await.unwrap_err();
        assert!(matches!(error, PoolError::HeadTimeout(_)), "{error:?}");
    });
}

#[test]
fn an_old_connection_takes_no_more_requests_and_ends_with_those_that_it_has() {
    run(async {
        let (base, accepted, _) = server(100, Duration::from_millis(600)).await;
        let pool = pool(&base, &Connection { age_max: Duration::from_millis(200), ..connections_max(1) });
        let first = asking(&pool, "/");
        sleep(Duration::from_millis(300)).await;
        let second = asking(&pool, "/");
        assert_eq!(text(first.await.unwrap().unwrap()).await.unwrap(), "ok");
        assert_eq!(text(second.await.unwrap().unwrap()).await.unwrap(), "ok");
        assert_eq!(accepted.get(), 2);
        eventually("both are closed", Duration::from_secs(2), || pool.gauges().open == 0).await;
    });
}

#[test]
fn many_requests_at_the_beginning_open_one_connection_until_the_protocol_is_known() {
    run(async {
        let (base, accepted) = tls::h2_server(|_, stream| {
            Box::pin(async move { Wire::accept_with(stream, Some(200)).await.unwrap().serve_ok().await })
        })
        .await;
        let pool = pool(&base, &Connection { ca_file: Some(tls::ca().file()), ..connection() });
        let asked = (0..80).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        for asked in asked {
            text(asked.await.unwrap().unwrap()).await.unwrap();
        }
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn a_pool_that_is_dropped_closes_its_connections() {
    run(async {
        let closed = Count::default();
        let counted = closed.clone();
        let (base, accepted) = http2_server(move |_, stream| {
            let counted = counted.clone();
            async move {
                Wire::accept_with(stream, Some(8)).await.unwrap().serve_ok().await;
                counted.add();
            }
        })
        .await;
        let pool = pool(&base, &connection());
        assert_eq!(answer(&pool, "/").await, "ok");
        drop(pool);
        eventually("closed", LONG, || closed.get() == accepted.get()).await;
    });
}

#[test]
fn the_end_of_the_process_with_requests_under_way_is_quiet() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = LocalSet::new();
    let (pool, left) = tasks.block_on(&runtime, async {
        let (base, _, _) = server(2, LONG).await;
        let pool = pool(&base, &connections_max(2));
        let asked = (0..10).map(|_| asking(&pool, "/")).collect::<Vec<_>>();
        eventually("some wait", LONG, || pool.gauges().open == 2 && pool.gauges().queued == 6).await;
        (pool, asked)
    });
    drop(tasks);
    assert_eq!(pool.gauges().open, 0);
    drop((left, pool));
}
