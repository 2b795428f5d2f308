use std::path::Path;
use std::time::Duration;

use super::{error_of, from_text};
use crate::{HalfClose, Identity, SocketMode};

#[test]
fn a_socket_mode_is_octal_however_it_is_written() {
    for mode in ["\"0o660\"", "\"0660\"", "\"660\"", "660", "0o660"] {
        let config = from_text(&format!("server.socket_mode = {mode}")).unwrap();
        assert_eq!(config.server.socket_mode, SocketMode(0o660), "{mode}");
    }
    for mode in ["\"0x1b0\"", "0x1b0", "\"1000\"", "1000", "-660", "\"rw\"", "\"\"", "true", "6.6"] {
        let error = error_of(&format!("server.socket_mode = {mode}"));
        assert!(error.ends_with("must be octal digits, such as \"0o660\", at most 0o777"), "{error}");
    }
}

#[test]
fn seconds_may_be_fractions() {
    let config = from_text("server.queue_timeout_secs = 0.2\nserver.write_timeout_secs = 1_000").unwrap();
    assert_eq!(config.server.queue_timeout, Duration::from_millis(200));
    assert_eq!(config.server.write_timeout, Duration::from_secs(1_000));
    for secs in ["0", "-1", "nan", "inf", "86401", "0.0001", "1e300", "\"5\"", "[]"] {
        let error = error_of(&format!("server.queue_timeout_secs = {secs}"));
        assert!(error.contains("must be seconds from 0.001 to 86400"), "{error}");
    }
}

#[test]
fn zero_turns_off_what_is_off_by_default() {
    let on = "client.stream_max_secs = 1.5\n[workers]\nage_max_secs = 60\nstreams_max = 9\nrss_max_mb = 2\n\
              rss_hard_max_mb = 3\n[server]\npoison_memory_secs = 60";
    let config = from_text(on).unwrap();
    assert_eq!(config.client.stream_max, Some(Duration::from_millis(1_500)));
    assert_eq!(config.workers.age_max, Some(Duration::from_secs(60)));
    assert_eq!(config.workers.streams_max.unwrap().get(), 9);
    assert_eq!(config.workers.rss_max_bytes.unwrap().get(), 2 << 20);
    assert_eq!(config.workers.rss_hard_max_bytes.unwrap().get(), 3 << 20);
    assert_eq!(config.server.poison_memory, Some(Duration::from_secs(60)));
    let off = "client.stream_max_secs = 0\n[workers]\nage_max_secs = 0.0\nstreams_max = 0\nrss_max_mb = 0";
    assert_eq!(from_text(off).unwrap(), from_text("").unwrap());
}

#[test]
fn the_hard_limit_of_memory_is_not_below_the_soft_one() {
    let limits = |soft, hard| format!("[workers]\nrss_max_mb = {soft}\nrss_hard_max_mb = {hard}");
    for (soft, hard) in [(0, 1), (2, 2), (2, 3), (2, 0)] {
        assert!(from_text(&limits(soft, hard)).is_ok(), "{soft} {hard}");
    }
    let error = error_of(&limits(3, 2));
    assert!(
        error.contains("workers.rss_hard_max_mb = 2: must be at least workers.rss_max_mb, or 0"),
        "{error}"
    );
}

#[test]
fn zero_workers_means_one_per_core_and_at_least_two() {
    assert!(from_text("workers.count = 0").unwrap().workers.count.get() >= 2);
    assert_eq!(from_text("workers.count = 1").unwrap().workers.count.get(), 1);
}

#[test]
fn half_close_may_be_served() {
    assert_eq!(from_text("client.half_close = \"serve\"").unwrap().client.half_close, HalfClose::Serve);
}

#[test]
fn the_empty_string_means_none() {
    let text = "workers.binary = \"\"\nserver.stream_socket_path = \"\"\nbackend.openai.api_key = \"\"";
    assert_eq!(from_text(text).unwrap(), from_text("").unwrap());
}

#[test]
fn metrics_that_are_off_are_served_nowhere() {
    assert_eq!(from_text("metrics.enabled = false").unwrap().metrics.listen_addr, None);
}

#[test]
fn users_and_groups_may_be_names_or_ids() {
    let text = "[server]\nsocket_owner = \"root\"\nsocket_group = 12\nallowed_users = [\"root\", 33, \"34\"]";
    let server = from_text(text).unwrap().server;
    assert_eq!((server.socket_owner, server.socket_group), (Some(0), Some(12)));
    assert_eq!(server.allowed_users, [0, 33, 34]);
}

#[test]
fn every_unknown_user_and_group_is_named() {
    let error = error_of(
        "[server]\nallowed_users = [\"root\", \"no-such-user\", \"nor-this\"]\nsocket_group = \"no-such\"",
    );
    assert!(
        error.contains("this host knows no user \"no-such-user\"; this host knows no user \"nor-this\""),
        "{error}"
    );
    assert!(
        error.contains("server.socket_group = \"no-such\": this host knows no group \"no-such\""),
        "{error}"
    );
    assert!(error_of("server.allowed_users = [4294967295]").contains("or a numeric id up to 4294967294"));
    assert!(
        error_of("server.allowed_users = \"root\"").contains("must be a list of at most 1024 names or ids")
    );
}

#[test]
fn a_socket_path_fits_into_an_address() {
    let fits = "x".repeat(107);
    let config = from_text(&format!("server.socket_path = \"{fits}\"")).unwrap();
    assert_eq!(config.server.socket_path, Path::new(&fits));
    for path in [&"x".repeat(108), "", "a\\u0000b"] {
        let error = error_of(&format!("server.socket_path = \"{path}\""));
        assert!(error.ends_with("must be a path in UTF-8 of 1 to 107 bytes"), "{error}");
    }
}

#[test]
fn headers_are_logged_by_name_and_never_those_that_log_somebody_in() {
    let names = |list: &str| from_text(&format!("logging.request_headers = {list}"));
    let logged = |list: &str| names(list).unwrap().logging.request_headers;
    assert_eq!(logged("[]"), Vec::<String>::new());
    assert_eq!(logged("[\"User-Agent\", \"x_a\"]"), ["user-agent", "x_a"]);
    for secret in ["Cookie", "authorization", "Proxy-Authorization"] {
        let error = error_of(&format!("logging.request_headers = [\"origin\", \"{secret}\"]"));
        let expected = format!("must be without {:?}: who reads the log", secret.to_ascii_lowercase());
        assert!(error.contains(&expected), "{error}");
    }
    let many = format!("[{}]", (0..17).map(|n| format!("\"x-{n}\",")).collect::<String>());
    let long = format!("[\"{}\"]", "x".repeat(65));
    for list in ["\"origin\"", "[\"a b\"]", "[\"\"]", "[1]", "[\"a\", \"A\"]", "[\"a:\"]", &many, &long] {
        let error = error_of(&format!("logging.request_headers = {list}"));
        assert!(error.contains("must be a list of up to 16 names of headers"), "{list}: {error}");
    }
}

#[test]
fn the_two_sockets_differ() {
    let error = error_of("[server]\nsocket_path = \"/a\"\nstream_socket_path = \"/a\"");
    assert_eq!(error, "test.toml:3: server.stream_socket_path = \"/a\": must differ from server.socket_path");
}

#[test]
fn a_connection_window_holds_at_least_one_stream_window() {
    let windows = |stream, connection| {
        format!(
            "[backend.openai.http2]\ninitial_stream_window_kb = {stream}\n\
             initial_connection_window_kb = {connection}"
        )
    };
    let error = error_of(&windows(20_000, 19_999));
    assert!(
        error.contains("initial_connection_window_kb must be at least initial_stream_window_kb"),
        "{error}"
    );
    assert!(from_text(&windows(20_000, 20_000)).is_ok());
}

#[test]
fn a_user_brings_its_group_and_a_group_needs_a_user() {
    let identity = |text: &str| from_text(text).map(|config| config.workers.run_as);
    assert_eq!(identity("").unwrap(), None);
    let root = Some(Identity { uid: 0, gid: 0 });
    assert_eq!(identity("[workers]\nuser = \"root\"\n").unwrap(), root);
    let both = Some(Identity { uid: 4_000_000_001, gid: 7 });
    assert_eq!(identity("[workers]\nuser = 4000000001\ngroup = 7\n").unwrap(), both);
    for (text, wanted) in [
        (
            "[workers]\nuser = 4000000001\n",
            "workers.user: has no group of its own on this host; set workers.group",
        ),
        ("[server]\ngroup = 0\n", "goes with server.user only"),
        ("[workers]\nuser = \"nobody-of-that-name\"\n", "this host knows no user"),
        ("[workers]\nsandbox = \"yes\"\n", "\"require\" or \"best-effort\" or \"off\""),
        ("[workers]\ndata_max_mb = 5\n", "must be 0 (no limit) or at least 32"),
    ] {
        let error = error_of(text);
        assert!(wanted.split(": ").all(|part| error.contains(part)), "{text}: {error}");
    }
}

#[test]
fn the_control_socket_is_beside_the_other_one_elsewhere_or_nowhere() {
    let path = |text: &str| from_text(text).unwrap().server.control_socket_path;
    assert_eq!(path("").as_deref(), Some(Path::new("/run/handoffd/control.sock")));
    assert_eq!(path("server.socket_path = \"/a/b.sock\"").as_deref(), Some(Path::new("/a/control.sock")));
    assert_eq!(path("server.control_socket_path = \"/c\"").as_deref(), Some(Path::new("/c")));
    assert_eq!(path("server.control_socket_path = \"\""), None);
    let error = error_of("server.socket_path = \"/a\"\nserver.control_socket_path = \"/a\"");
    assert!(error.contains("must differ from the sockets for handoffs"), "{error}");
    let error = error_of(&format!("server.socket_path = \"/{}/s\"", "x".repeat(100)));
    assert!(error.contains("set server.control_socket_path"), "{error}");
}
