//! Every documented metric exists from the start, no counter ever goes down, and every handoff is accounted for.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use handoff_e2e::process::signal;
use handoff_e2e::{Crowd, Daemon, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;

const REASONS: [&str; 5] = ["client_disconnected", "timeout", "canceled", "network", "other"];

fn scrape(daemon: &Daemon) -> BTreeMap<String, f64> {
    let (status, body) = daemon.get("/metrics").expect("/metrics");
    assert_eq!(status, 200);
    let samples = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
        })
        .collect()
}

#[test]
fn every_documented_name_is_there_from_the_start_with_zero() {
    let daemon = Daemon::start("");
    let (_, body) = daemon.get("/metrics").expect("/metrics");
    let samples = scrape(&daemon);
    let mut expected: Vec<(&str, &str, String)> = Vec::new();
    for name in ["active_connections", "active_streams", "peak_streams"] {
        expected.push((name, "gauge", String::new()));
    }
    let plain = ["connections", "connections_rejected", "handoffs", "bytes_sent", "chunks_sent"];
    let plain = plain.map(|name| format!("{name}_total"));
    plain.iter().for_each(|name| expected.push((name, "counter", String::new())));
    for reason in REASONS {
        expected.push(("handoff_errors_total", "counter", format!("{{reason=\"{reason}\"}}")));
        expected.push(("stream_errors_total", "counter", format!("{{reason=\"{reason}\"}}")));
    }
    for name in ["backend_requests_total", "backend_errors_total"] {
        expected.push((name, "counter", "{backend=\"mock\"}".to_owned()));
        expected.push((name, "counter", "{backend=\"openai\"}".to_owned()));
    }
    for (name, kind, labels) in expected {
        assert!(body.contains(&format!("# TYPE daemon_{name} {kind}\n")), "{name} is no {kind}");
        assert_eq!(samples.get(&format!("daemon_{name}{labels}")), Some(&0.0), "daemon_{name}{labels}");
    }
}

#[test]
fn histograms_have_exactly_the_documented_buckets() {
    let daemon = Daemon::start("");
    assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
    eventually("the worker has reported", || {
        (daemon.metric("daemon_backend_requests_total") == 1.0).then_some(())
    });
    eventually("all of it", || (daemon.metric("daemon_stream_duration_seconds_count") == 1.0).then_some(()));
    let samples = scrape(&daemon);
    for (name, labels, first) in [
        ("handoff_duration", "", 0.0001),
        ("stream_duration", "", 0.01),
        ("backend_duration", "backend=\"mock\",", 0.01),
        ("backend_ttfb", "backend=\"mock\",", 0.001),
    ] {
        let prefix = format!("daemon_{name}_seconds_bucket{{{labels}le=\"");
        let mut buckets: Vec<(f64, f64)> = samples
            .iter()
            .filter_map(|(key, value)| {
                let bound = key.strip_prefix(&prefix)?.strip_suffix("\"}")?;
                Some((bound.replace("+Inf", "inf").parse().ok()?, *value))
            })
            .collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert_eq!(buckets.len(), 16, "{name}: {buckets:?}");
        for (power, (bound, _)) in buckets.iter().take(15).enumerate() {
            let wanted = first * f64::from(1 << power);
            assert!(
                (bound - wanted).abs() < wanted * 1e-9,
                "{name}: bucket {power} is {bound}, not {wanted}"
            );
        }
        assert!(
            buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
            "{name} is not cumulative: {buckets:?}"
        );
        let labels = labels.trim_end_matches(',');
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        assert_eq!(samples[&format!("daemon_{name}_seconds_count{labels}")], buckets[15].1, "{name}");
        assert!(samples[&format!("daemon_{name}_seconds_sum{labels}")] > 0.0, "{name}");
    }
}

#[test]
fn a_backend_is_counted_from_the_reload_that_adds_it_and_stays_after_the_one_that_takes_it_away() {
    let daemon = Daemon::start("");
    let series = || {
        let of_second = |name: &String| name.contains("{backend=\"second\"");
        scrape(&daemon).into_iter().filter(|(name, _)| of_second(name)).collect::<BTreeMap<_, _>>()
    };
    let reload = |done: f64| {
        daemon.signal(Signal::SIGHUP);
        eventually("the reload is done", || {
            (daemon.metric("handoffd_reloads_total{result=\"done\"") == done).then_some(())
        });
    };
    assert_eq!(series(), BTreeMap::new());
    let text = fs::read_to_string(daemon.config()).expect("a configuration");
    fs::write(daemon.config(), format!("{text}\n[backends.second]\nkind = \"mock\"\n"))
        .expect("a configuration");
    reload(1.0);
    let added = series();
    for name in
        ["daemon_backend_requests_total", "handoffd_backend_failovers_total", "handoffd_backend_cooling"]
    {
        assert_eq!(added.get(&format!("{name}{{backend=\"second\"}}")), Some(&0.0), "{name}");
    }
    fs::write(daemon.config(), text).expect("a configuration");
    reload(2.0);
    assert_eq!(series(), added, "a counter that vanished would be one that goes down");
}

#[test]
fn through_deaths_and_rolls_no_counter_goes_down_and_every_handoff_is_accounted_for() {
    let daemon = Daemon::start("max_connections = 60\n[workers]\ncount = 3\n");
    let mut crowd = Crowd::default();
    let (began_at, mut before) = (Instant::now(), scrape(&daemon));
    for number in 0..600_u32 {
        let payload = match number % 5 {
            0 => "no JSON",
            1 => r#"{"prompt":"x","method":"HEAD"}"#,
            2 => r#"{"prompt":"x","mock":{"length":5,"fail_at":3}}"#,
            _ => r#"{"prompt":"x","mock":{"first_token_delay_ms":100,"length":10,"token_delay_ms":10}}"#,
        };
        let client = daemon.hand_over(payload);
        match number % 7 {
            0 => client.reset(),
            _ => crowd.join(client),
        }
        if number % 60 == 30 {
            daemon.workers("ready").first().iter().for_each(|pid| signal(**pid, Signal::SIGKILL));
        }
        if number % 200 == 100 {
            daemon.signal(Signal::SIGHUP);
        }
        if number % 20 == 0 {
            let now = scrape(&daemon);
            assert_never_down(&before, &now);
            before = now;
        }
        crowd
            .listen((began_at + Duration::from_millis(4) * number).saturating_duration_since(Instant::now()));
    }
    let responses = crowd.responses(PATIENCE);
    let unanswered = responses.iter().filter(|response| response.heads() != 1).count();
    assert_eq!(unanswered, 0, "of {}", responses.len());
    eventually("nobody is served any more", || {
        (daemon.metric("daemon_active_connections") == 0.0).then_some(())
    });
    assert_never_down(&before, &scrape(&daemon));
    assert_eq!(daemon.metric("daemon_handoffs_total"), 600.0);
    assert_eq!(daemon.metric("handoffd_lease_endings_total"), 600.0);
    let ended = |outcome| daemon.metric(&format!("handoffd_lease_endings_total{{outcome=\"{outcome}\""));
    assert!(ended("refused") > 0.0 && ended("answered") > 0.0 && ended("upstream_failed") > 0.0);
    assert_eq!(
        ended("refused_full") + ended("refused_no_worker"),
        daemon.metric("daemon_connections_rejected_total")
    );
    let well = ended("complete") + ended("answered");
    let rejected = daemon.metric("daemon_connections_rejected_total") + ended("refused");
    assert_eq!(
        well + rejected + daemon.metric("daemon_stream_errors_total"),
        600.0,
        "by the documented names"
    );
}

fn assert_never_down(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) {
    let counts = |name: &str| {
        ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .any(|end| name.split('{').next().unwrap_or("").ends_with(end))
    };
    for (name, value) in before.iter().filter(|(name, _)| counts(name)) {
        let after = now.get(name).copied().unwrap_or(-1.0);
        assert!(after >= *value, "{name} went from {value} to {after}");
    }
}

#[test]
fn benchmark_prints_a_summary_at_the_end_instead() {
    let mut daemon =
        Daemon::with(&Options { args: vec!["--benchmark".to_owned()], no_wait: true, ..Options::default() });
    eventually("it is ready", || daemon.log().contains("\"message\":\"ready\"").then_some(()));
    let clients: Vec<_> = (0..3).map(|_| daemon.hand_over(r#"{"prompt":"x"}"#)).collect();
    let bytes: usize = clients
        .into_iter()
        .map(|client| {
            let response = client.response();
            assert!(response.is_complete(), "{response:?}");
            response.head.len() + 4 + response.body.len()
        })
        .sum();
    assert_eq!(daemon.hand_over("no JSON").response().status, 400);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let stdout = daemon.stdout();
    for line in ["Total streams started: 4", "Total streams completed: 3", "Total streams failed: 1"] {
        assert!(stdout.lines().any(|own| own == line), "{line:?} is not in {stdout:?}");
    }
    let number = |start: &str| -> usize {
        let line = stdout
            .lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_else(|| panic!("{start}: {stdout}"));
        line.trim().parse().expect("a number")
    };
    assert!((1..=4).contains(&number("Peak concurrent streams:")), "{stdout}");
    assert!(number("Total bytes sent:") >= bytes, "{bytes} came to the clients: {stdout}");
}
