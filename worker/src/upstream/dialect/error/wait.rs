//! How long an upstream asks us to wait. In: the headers of its refusal. Out: a duration, or none.
//! Never: believes in more than a day, reads a clock.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

/// Nobody means more.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// `retry-after-ms`, else `Retry-After` (RFC 9110, 10.2.3) in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let millis = text("retry-after-ms").and_then(|millis| seconds(millis, 0.001));
    let after = || {
        let after = text("retry-after")?;
        let date = || {
            let date = httpdate::parse_http_date(after).ok()?;
            Some(date.duration_since(now).unwrap_or_default().min(WAIT_MAX))
        };
        seconds(after, 1.0).or_else(date)
    };
    millis.or_else(after)
}

/// `x-ratelimit-reset-*` of the limits that are used up; the longest of them.
pub(super) fn until_limits_reset(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: String| headers.get(name)?.to_str().ok().map(str::trim);
    let waits = ["requests", "tokens"].iter().filter_map(|limit| {
        let remaining: i64 = text(format!("x-ratelimit-remaining-{limit}"))?.parse().ok()?;
        let reset = text(format!("x-ratelimit-reset-{limit}"))?;
        (remaining <= 0).then(|| go_duration(reset)).flatten()
    });
    waits.max()
}

/// `6m0s`, `1h2m3.5s`, `120ms`: Go's way to write a duration.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[number..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| number + end);
        let scale = match &rest[number..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum = (sum + seconds(&rest[..number], scale)?).min(WAIT_MAX);
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

fn seconds(number: &str, scale: f64) -> Option<Duration> {
    let seconds = number.parse::<f64>().ok().filter(|number| *number >= 0.0)? * scale;
    Some(Duration::try_from_secs_f64(seconds).map_or(WAIT_MAX, |wait| wait.min(WAIT_MAX)))
}
