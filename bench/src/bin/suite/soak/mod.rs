//! A steady load for minutes: does anything grow? In: settings. Out: a table of slopes, and whether all is well.
//! Two daemons at the same time: one whose workers stay, so that what they lose adds up, and one that is rolled all the time,
//! so that what is lost with each worker adds up in its supervisor. Both have streams that are held, streams that come and go,
//! and clients that leave in the middle.
//! Never: takes noise for a leak; says nothing of a leak below its limits.

mod leaver;
mod series;

use std::collections::VecDeque;
use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::Error;
use crate::report::{Metric, Report};
use crate::running::{Running, Stop};
use crate::scenario::Pace;
use crate::settings::{Binaries, Settings};
use crate::subject::{Target, mock};
use crate::tree::{self, Process};
use crate::{bench, machine, say};
use series::Series;

/// Between two looks at all processes.
const SAMPLE: Duration = Duration::from_secs(3);
/// Between two rolls: some of them are in the warm-up, for what a supervisor keeps of a generation is allocated then; and
/// the streams of the one before have ended.
const ROLL: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(30));
/// Between two clients that leave in the middle.
const LEAVER: Duration = Duration::from_millis(50);
/// So many of them at a time.
const LEAVERS: usize = 8;
/// How much of the time is not looked at: allocators and caches fill.
const WARM_UP: f64 = 0.25;
/// When the load is over, all must be as it was after this.
const CALM_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams of a tenth of a second, and of ten.
const BRIEF: (u32, Pace) = (20, Pace { events: 21, interval_ms: 5 });
const LONG: (u32, Pace) = (200, Pace { events: 51, interval_ms: 200 });

/// Whether nothing has grown, and no stream has failed.
///
/// # Errors
/// When it cannot be measured.
pub(crate) fn run(settings: &Settings, stop: &Stop) -> Result<bool, Error> {
    let length = Duration::from_secs_f64(settings.soak_minutes * 60.0);
    say(&format!("{}; {}; {} minutes", machine::place(), machine::time(), settings.soak_minutes))?;
    let mut steady = Soaked::start("steady", length, &settings.binaries, stop)?;
    let mut rolled = Soaked::start("rolled", length, &settings.binaries, stop)?;
    let rolls = go_on(&mut steady, &mut rolled, length, stop)?;
    let mut complaints = Vec::new();
    let mut streams = 0;
    for soaked in [&mut steady, &mut rolled] {
        streams += soaked.finish(&mut complaints, stop)?;
    }
    let warm = WARM_UP * settings.soak_minutes;
    let series = [steady.series_of_each(), rolled.series_of_supervisor(), rolled.series_of_all()].concat();
    let table = series::table(&series, warm, &mut complaints);
    let summary = format!(
        "*{}: {} minutes, {streams} streams to their end, {rolls} rolls.*",
        machine::time(),
        settings.soak_minutes
    );
    say(&format!("\n{summary}\n\n{table}"))?;
    complaints.iter().try_for_each(|complaint| say(&format!("soak: {complaint}")))?;
    if settings.writes_document && complaints.is_empty() {
        bench::write_document(&[("soak", format!("{summary}\n\n{table}"))])?;
    }
    say(if complaints.is_empty() { "nothing grows" } else { "SOMETHING IS WRONG" })?;
    Ok(complaints.is_empty())
}

/// The load, for so long. Returns how often one of them was rolled.
fn go_on(steady: &mut Soaked, rolled: &mut Soaked, length: Duration, stop: &Stop) -> Result<u32, Error> {
    let (began, mut rolls) = (Instant::now(), 0);
    let roll_every = (length / 24).clamp(ROLL.0, ROLL.1);
    let sample_every = SAMPLE.min(length / 60);
    let (mut next_sample, mut next_roll) = (Duration::ZERO, roll_every);
    while began.elapsed() < length {
        let now = began.elapsed();
        for soaked in [&mut *steady, &mut *rolled] {
            soaked.leave_in_the_middle()?;
            if now >= next_sample {
                soaked.sample(now)?;
            }
        }
        if now >= next_sample {
            next_sample += sample_every;
        }
        // None in the last moments: a roll needs time to end.
        if now >= next_roll && now + roll_every / 2 < length {
            next_roll += roll_every;
            rolls += 1;
            rolled.target.daemon.signal(Signal::SIGHUP);
        }
        stop.pause(LEAVER)?;
    }
    Ok(rolls)
}

/// A daemon under this load.
struct Soaked {
    name: &'static str,
    target: Target,
    generators: Vec<(Running, String)>,
    leavers: VecDeque<TcpStream>,
    /// Its processes and what each had open, before the first stream.
    before: Vec<(Process, u64)>,
    samples: Vec<series::Sample>,
}

impl Soaked {
    fn start(name: &'static str, length: Duration, binaries: &Binaries, stop: &Stop) -> Result<Self, Error> {
        let directory =
            tempfile::Builder::new().prefix("handoffd-soak-").tempdir().map_err(Error::io("a directory"))?;
        let backend = format!("{}allow_request_options = true\n", mock(BRIEF.1, false));
        let mut target = Target::handoffd(&backend, 2, None, directory, binaries, stop)?;
        // The first look of a metrics scraper, the first timer: what opens an fd for good does so now.
        stop.pause(Duration::from_secs(1))?;
        target.daemon.still_runs()?;
        let before = tree::of(target.daemon.pid()).into_iter().filter_map(|process| {
            let fds = process.holdings()?.fds;
            Some((process, fds))
        });
        let before = before.collect();
        let generators = [("brief", BRIEF), ("long", LONG)]
            .into_iter()
            .map(|(kind, (open, pace))| {
                let json = target.directory.path().join(format!("{kind}.json"));
                let mut command = Command::new(&binaries.handoffctl);
                command.args(["bench", "churn", "--open", &open.to_string(), "--timeout", "60"]);
                command.args(["--seconds", &length.as_secs().max(1).to_string()]);
                command.arg("--socket").arg(&target.socket).args(["--pid", &target.daemon.pid().to_string()]);
                command.args(["--payload", &payload(pace), "--json"]).arg(&json);
                let running = Running::start(command, kind, target.directory.path())?;
                Ok((running, json.to_string_lossy().into_owned()))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { name, target, generators, leavers: VecDeque::new(), before, samples: Vec::new() })
    }

    /// A further client comes, and the one who came first leaves, whatever it has got by then.
    fn leave_in_the_middle(&mut self) -> Result<(), Error> {
        let client = leaver::hand_over(&self.target.socket, payload(LONG.1).as_bytes())
            .map_err(Error::io(format!("{}: a handoff", self.name)))?;
        self.leavers.push_back(client);
        if self.leavers.len() > LEAVERS {
            self.leavers.pop_front();
        }
        Ok(())
    }

    fn sample(&mut self, now: Duration) -> Result<(), Error> {
        self.target.daemon.still_runs()?;
        let minutes = now.as_secs_f64() / 60.0;
        let held = tree::of(self.target.daemon.pid()).into_iter().filter_map(|process| {
            let holdings = process.holdings()?;
            Some((process, holdings))
        });
        self.samples.push(series::Sample { minutes, held: held.collect() });
        Ok(())
    }

    /// Waits for the last streams. Returns how many came to their end; complains of those that did not, and of fds that are
    /// still open when all have gone.
    fn finish(&mut self, complaints: &mut Vec<String>, stop: &Stop) -> Result<u64, Error> {
        self.leavers.clear();
        let mut completed = 0;
        for (generator, json) in &mut self.generators {
            stop.until(CALM_TIMEOUT * 2, "the generators' reports", || generator.ended())?;
            let text = fs::read_to_string(&*json).map_err(|_| Error::Said(generator.last_words()))?;
            let report = Report::parse(&text).map_err(|error| Error::Said(format!("{json}: {error}")))?;
            completed += report.completed;
            if report.get(Metric::Failed) != Some(0.0) {
                complaints.push(format!("{}: streams failed: {:?}", self.name, report.failed));
            }
        }
        let deadline = Instant::now() + CALM_TIMEOUT;
        loop {
            let left_open = self.left_open();
            if left_open.is_empty() {
                return Ok(completed);
            }
            if Instant::now() > deadline {
                complaints.extend(left_open);
                return Ok(completed);
            }
            stop.pause(Duration::from_millis(200))?;
        }
    }

    /// Of processes that were there before the load: who has more open now than then.
    fn left_open(&self) -> Vec<String> {
        let now = self.before.iter().filter_map(|(process, fds)| {
            let now = process.is_alive().then(|| process.holdings()).flatten()?.fds;
            let who = format!("{}: {} (pid {})", self.name, process.name, process.pid);
            (now > *fds).then(|| format!("{who} had {fds} fds before the load, and has {now} after it"))
        });
        now.collect()
    }

    fn series_of_each(&self) -> Vec<Series> {
        self.before.iter().map(|(process, _)| Series::of(self.name, process, &self.samples)).collect()
    }

    fn series_of_supervisor(&self) -> Vec<Series> {
        self.before.iter().take(1).map(|(process, _)| Series::of(self.name, process, &self.samples)).collect()
    }

    fn series_of_all(&self) -> Vec<Series> {
        vec![Series::of_all(self.name, &self.samples)]
    }
}

fn payload(pace: Pace) -> String {
    format!(
        r#"{{"prompt":"soak","mock":{{"length":{},"token_delay_ms":{}}}}}"#,
        pace.events, pace.interval_ms
    )
}
