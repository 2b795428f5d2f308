//! `handoffctl status`: the fleet as a table.
//! In: the supervisor's word, over its control socket, or `/status` over plain HTTP. Out: a summary line and a row per worker.
//! Never: keeps anything between two looks, changes anything.

use std::env;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use handoff_shared::ids::SlotId;
use handoff_shared::status::{CooldownStatus, PoisonStatus, Status, WorkerStatus};

use crate::answer::{Decoder, Piece};
use crate::control::Place;
use crate::outcome::{Exit, Failure};

const DEFAULT_ADDRESS: &str = "127.0.0.1:9090";
const IO_TIMEOUT: Duration = Duration::from_secs(5);
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";
/// The others are counted; `--json` has them all.
const COOLDOWNS_SHOWN_MAX: usize = 8;
const COLUMNS: [&str; 11] =
    ["SLOT", "GENERATION", "PID", "STATE", "LEASES", "TOTAL", "RESTARTS", "RSS", "SANDBOX", "BEAT", "AGE"];

const HELP_TAIL: &str = "\
Exit codes:
  0  the fleet is ready
  1  it is starting, stopping or degraded
  2  wrong usage
  3  it could not be asked
  4  no reply in time

Examples:
  handoffctl status
  handoffctl status --watch 0.5
  handoffctl status --json | jq .leases";

/// Whom to ask, and how to show it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP_TAIL)]
pub(crate) struct Args {
    /// Ask at the daemon's metrics address [env: DAEMON_METRICS_ADDR]; without it at the control socket, and where
    /// that cannot be reached at 127.0.0.1:9090
    #[arg(short, long, value_name = "HOST:PORT", value_hint = clap::ValueHint::Hostname)]
    admin: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Print the daemon's JSON as it is
    #[arg(long)]
    json: bool,
    /// Show it again every SECS seconds, until Ctrl-C
    #[arg(short, long, value_name = "SECS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
}

/// Shows the fleet, once or again and again.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let Some(interval) = args.watch else {
        let look = Look::take(args)?;
        print(&look.text(args.json))?;
        return Ok(look.exit());
    };
    let clear = if io::stdout().is_terminal() && !args.json { CLEAR_SCREEN } else { "" };
    loop {
        // A daemon that is away for a moment is a sight worth watching, not an end.
        match Look::take(args) {
            Ok(look) => print(&format!("{clear}{}", look.text(args.json)))?,
            Err(failure) => eprintln!("{clear}handoffctl: {}", failure.sentence().unwrap_or_default()),
        }
        pause(interval);
    }
}

/// The fleet at this moment, as `/status` at this address says.
pub(crate) fn over_http(address: &str) -> Result<Status, Failure> {
    Look::at(address).map(|look| look.status)
}

/// One answer of the daemon.
struct Look {
    json: String,
    status: Status,
}

impl Look {
    /// Where the command line says, else where the environment does, else wherever somebody answers.
    fn take(args: &Args) -> Result<Self, Failure> {
        if let Some(address) = &args.admin {
            return Self::at(address);
        }
        if args.place.chosen().is_some() {
            return Self::ask(&args.place);
        }
        if let Ok(address) = env::var("DAEMON_METRICS_ADDR") {
            return Self::at(&address);
        }
        match Self::ask(&args.place) {
            Err(Failure::Control { .. }) => Self::at(DEFAULT_ADDRESS),
            answered => answered,
        }
    }

    fn ask(place: &Place) -> Result<Self, Failure> {
        let status = place.status()?;
        let json = serde_json::to_string_pretty(&status).map_err(|error| Failure::Output(error.into()))?;
        Ok(Self { json, status })
    }

    fn at(address: &str) -> Result<Self, Failure> {
        Self::fetch(address).map_err(|source| Failure::Status { address: address.to_owned(), source })
    }

    fn fetch(address: &str) -> io::Result<Self> {
        let mut connection = connect(address)?;
        // HTTP/1.0: the answer is neither chunked nor kept alive.
        write!(connection, "GET /status HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut decoder = Decoder::new();
        let mut status_code = None;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = connection.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            for piece in decoder.feed(&buffer[..length]).map_err(io::Error::other)? {
                if let Piece::Head(head) = piece {
                    status_code = Some(head.status);
                }
            }
        }
        match status_code {
            Some(200) => {
                let status = serde_json::from_slice(decoder.body())?;
                Ok(Self { json: String::from_utf8_lossy(decoder.body()).into_owned(), status })
            }
            Some(other) => Err(io::Error::other(format!("/status answered {other}"))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn text(&self, json: bool) -> String {
        if json { format!("{}\n", self.json.trim_end()) } else { table(&self.status) }
    }

    fn exit(&self) -> Exit {
        if self.status.state == "ready" { Exit::Complete } else { Exit::Incomplete }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut error = io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, IO_TIMEOUT) {
            Ok(connection) => {
                connection.set_read_timeout(Some(IO_TIMEOUT))?;
                connection.set_write_timeout(Some(IO_TIMEOUT))?;
                return Ok(connection);
            }
            Err(refusal) => error = refusal,
        }
    }
    Err(error)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

fn pause(interval: Duration) {
    let until = Instant::now() + interval;
    while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        thread::park_timeout(rest);
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let in_range = |seconds: &f64| (0.1..=3600.0).contains(seconds);
    let seconds = text.parse().ok().filter(in_range).ok_or("must be a number from 0.1 to 3600")?;
    Ok(Duration::from_secs_f64(seconds))
}

fn table(status: &Status) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(status.workers.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();

    let mut text = summary(status);
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn summary(status: &Status) -> String {
    let Status { version, pid, state, generation, leases, leases_queued, max_connections, .. } = status;
    let uptime = age(status.uptime_secs);
    let mut text = format!(
        "handoffd {version}, pid {pid}: {state}, up {uptime}; generation {generation}; \
         {leases} of {max_connections} leases, {leases_queued} queued\n"
    );
    if let Some(roll) = &status.roll {
        text.push_str(&format!("rolling to generation {}: {} of {} slots\n", roll.to, roll.done, roll.slots));
    }
    if status.reload_pending {
        text.push_str("a further reload waits\n");
    }
    if let Some(reload) = &status.last_reload {
        text.push_str(&format!("last reload: {reload}\n"));
    }
    if let Some(PoisonStatus { lease, bytes, hash, age_secs }) = &status.last_poison {
        let ago = age(*age_secs);
        text.push_str(&format!("last poison: lease {lease}, {bytes} bytes, hash {hash}, {ago} ago\n"));
    }
    for CooldownStatus { backend, model, must, remaining_ms } in
        status.cooldowns.iter().take(COOLDOWNS_SHOWN_MAX)
    {
        let model = model.as_ref().map_or(String::new(), |model| format!(", model {model:?}"));
        let left = age(remaining_ms.div_ceil(1000));
        let what = if *must { "left alone" } else { "asked last" };
        text.push_str(&format!("{what}: backend {backend}{model}, {left} left\n"));
    }
    if let Some(more) = status.cooldowns.len().checked_sub(COOLDOWNS_SHOWN_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("left alone, or asked last: {more} more\n"));
    }
    text
}

fn row(worker: &WorkerStatus) -> [String; COLUMNS.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let deadline = worker.deadline_ms.map(|ms| format!(" ({} left)", age(ms.div_ceil(1000))));
    [
        SlotId(worker.slot).to_string(),
        worker.generation.to_string(),
        or_dash(worker.pid.map(|pid| pid.to_string())),
        format!("{}{}", worker.state, deadline.unwrap_or_default()),
        worker.leases.to_string(),
        worker.leases_total.to_string(),
        worker.restarts.to_string(),
        or_dash(worker.pid.map(|_| format!("{} MiB", worker.rss_bytes.div_ceil(1 << 20)))),
        or_dash(worker.sandbox.map(|sandbox| sandbox.level.to_string())),
        or_dash(worker.beat_age_ms.map(|ms| format!("{ms} ms"))),
        or_dash(worker.pid.map(|_| age(worker.age_secs))),
    ]
}

/// Seconds for a person: the two largest units.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handoff_shared::sandbox::{SandboxLevel, SandboxState};
    use handoff_shared::status::RollStatus;

    fn fleet() -> Status {
        let ready = WorkerStatus {
            slot: 0,
            generation: 2,
            pid: Some(4711),
            state: "ready".into(),
            deadline_ms: None,
            age_secs: 3725,
            leases: 12,
            leases_total: 40_000,
            restarts: 1,
            rss_bytes: 9 << 20,
            sandbox: Some(SandboxState { level: SandboxLevel::Full, ..SandboxState::default() }),
            beat_age_ms: Some(230),
        };
        let backoff = WorkerStatus {
            slot: 1,
            pid: None,
            state: "backoff".into(),
            deadline_ms: Some(1500),
            sandbox: None,
            beat_age_ms: None,
            leases: 0,
            ..ready.clone()
        };
        let quarantined = WorkerStatus { slot: SlotId::QUARANTINE.0, leases: 1, ..ready.clone() };
        Status {
            version: "0.1.0".into(),
            pid: 4700,
            uptime_secs: 90_000,
            state: "ready".into(),
            generation: 2,
            roll: Some(RollStatus { to: 3, done: 1, slots: 2 }),
            reload_pending: true,
            last_reload: None,
            last_upgrade: None,
            config_error: None,
            last_poison: Some(PoisonStatus {
                lease: "0000000100000007".into(),
                bytes: 512,
                hash: "00c0ffee00c0ffee".into(),
                age_secs: 70,
            }),
            cooldowns: vec![CooldownStatus {
                backend: "openai".into(),
                model: Some("gpt-4o".into()),
                must: true,
                remaining_ms: 61_500,
            }],
            leases: 12,
            leases_queued: 0,
            max_connections: 1000,
            workers: vec![ready, backoff, quarantined],
        }
    }

    #[test]
    fn the_table_has_a_summary_and_a_row_per_worker() {
        let expected = "\
handoffd 0.1.0, pid 4700: ready, up 1d01h; generation 2; 12 of 1000 leases, 0 queued
rolling to generation 3: 1 of 2 slots
a further reload waits
last poison: lease 0000000100000007, 512 bytes, hash 00c0ffee00c0ffee, 1m10s ago
left alone: backend openai, model \"gpt-4o\", 1m02s left
SLOT        GENERATION  PID   STATE              LEASES  TOTAL  RESTARTS  RSS    SANDBOX  BEAT    AGE
0           2           4711  ready              12      40000  1         9 MiB  full     230 ms  1h02m
1           2           -     backoff (2s left)  0       40000  1         -      -        -       -
quarantine  2           4711  ready              1       40000  1         9 MiB  full     230 ms  1h02m
";
        assert_eq!(table(&fleet()), expected);
    }

    #[test]
    fn of_many_cooldowns_the_first_are_shown_and_the_others_counted() {
        let one = CooldownStatus { backend: "eu".into(), model: None, must: false, remaining_ms: 900 };
        let many = Status { cooldowns: vec![one; COOLDOWNS_SHOWN_MAX + 3], ..fleet() };
        let text = table(&many);
        assert_eq!(text.matches("asked last: backend eu, 1s left\n").count(), COOLDOWNS_SHOWN_MAX);
        assert!(text.contains("left alone, or asked last: 3 more\n"), "{text}");
    }

    #[test]
    fn a_slot_is_a_number_or_the_quarantine() {
        let json = serde_json::to_value(fleet()).unwrap();
        let slots: Vec<_> =
            json["workers"].as_array().unwrap().iter().map(|worker| &worker["slot"]).collect();
        assert_eq!(slots, [&serde_json::json!(0), &serde_json::json!(1), &serde_json::json!("quarantine")]);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), fleet());
    }

    #[test]
    fn only_a_ready_fleet_is_a_success() {
        let mut look = Look { json: String::new(), status: fleet() };
        assert_eq!(look.exit(), Exit::Complete);
        look.status.state = "degraded".into();
        assert_eq!(look.exit(), Exit::Incomplete);
    }

    #[test]
    fn watching_neither_spins_nor_sleeps_for_ever() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "NaN", "1e9", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
