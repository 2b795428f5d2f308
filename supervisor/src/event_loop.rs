//! The loop: it performs, and decides nothing. In: signals, messages, deaths, handoffs, questions, time.
//! Out: what the fleet says.
//!
//! Never: waits for anything but an event; every call here returns at once.

mod adopt;
mod control;
mod cooldowns;
mod handover;
mod hear;
mod perform;
mod show;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::Write;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use handoff_config::Config;
use handoff_config::cli::Cli;
use handoff_shared::ids::{Generation, WorkerId};
use handoff_shared::limits::{AWAY_AFTER, REFUSED_LINGER, SHED_PER_SECOND};
use handoff_shared::log::Log;
use tokio::sync::mpsc;

use crate::admin::Question;
use crate::alarm::Alarm;
use crate::capacity::Capacity;
use crate::control::Control;
use crate::cooldowns::Cooldowns;
use crate::dispatcher::Dispatcher;
use crate::ear::Ear;
use crate::fleet::{Action, Event, Fleet, Intake, Outline, Policy, Refusal};
use crate::generation::Recipe;
use crate::inherit::Inherited;
use crate::link::Link;
use crate::listener::{Accepted, Arrival, BURST, Listener, Rejection};
use crate::metrics::Metrics;
use crate::notify::Notify;
use crate::poison::Poisons;
use crate::refusal::Refused;
use crate::signals::{Signal, Signals};
use crate::store::Store;
use crate::succession::{Invocation, Places};

use handover::Handover;

/// The loop turns at least this often, so that a pause of ours is noticed.
const PULSE: Duration = Duration::from_millis(500);
/// How often refused clients are looked at, and how often the shedding budget grows.
const SWEEP: Duration = Duration::from_millis(100);

/// What `main` has made ready.
pub(crate) struct Parts {
    pub(crate) recipe: Recipe,
    pub(crate) reload: Box<dyn Fn() -> Result<Recipe, String>>,
    pub(crate) cli: Cli,
    /// Why what is on disk cannot be used: the recipe is what an earlier supervisor kept.
    pub(crate) disk_error: Option<String>,
    pub(crate) inherited: Inherited,
    pub(crate) store: Store,
    pub(crate) places: Places,
    pub(crate) invocation: Invocation,
    /// This image has taken the place of one of this version.
    pub(crate) upgraded_from: Option<String>,
    pub(crate) fd_limit: u64,
    pub(crate) capacity: Capacity,
    pub(crate) start_number: u32,
    pub(crate) listener: Listener,
    pub(crate) signals: Signals,
    pub(crate) questions: Option<mpsc::Receiver<Question>>,
    pub(crate) control: Option<Control>,
    pub(crate) metrics: Metrics,
    pub(crate) notify: Notify,
    pub(crate) log: Log,
}

/// Everything that the loop holds.
pub(crate) struct EventLoop {
    fleet: Fleet,
    dispatcher: Dispatcher,
    links: BTreeMap<WorkerId, Link>,
    ear: Ear,
    /// Processes that could not be made; the fleet is told in the next turn.
    stillborn: Vec<WorkerId>,
    refused: Refused,
    poisons: Poisons,
    cooldowns: Cooldowns,
    recipes: BTreeMap<Generation, Recipe>,
    newest: Generation,
    /// The generation whose configuration holds.
    active: Generation,
    pub(crate) started_at: Instant,
    turned_at: Instant,
    swept_at: Instant,
    shed_budget: u32,
    alarm: Alarm,
    /// What systemd was told last.
    shown: Option<Outline>,
    is_ready: bool,
    pub(crate) last_reload: Option<String>,
    pub(crate) last_upgrade: Option<String>,
    handover: Option<Handover>,
    /// What was taken over is not what is on disk.
    is_roll_due: bool,
    /// Who waits for the end of what was ordered.
    waiting: control::Waiting,
    /// What an operator has set, until the next roll.
    log_level: Option<String>,
    /// Since when the fleet is gone; only clients that were refused may still be reading.
    over_at: Option<Instant>,
    /// A second signal: nobody is waited for.
    is_hurried: bool,
    parts: Parts,
}

impl EventLoop {
    /// # Errors
    /// When we are out of fds.
    pub(crate) fn new(parts: Parts) -> std::io::Result<Self> {
        let now = Instant::now();
        let policy = policy(&parts.recipe.config, &parts.capacity);
        let seed = u64::from(parts.start_number);
        Ok(Self {
            ear: Ear::new(now)?,
            fleet: Fleet::new(now, policy, seed),
            dispatcher: Dispatcher::new(parts.start_number, parts.capacity.dups_max),
            links: BTreeMap::new(),
            stillborn: Vec::new(),
            refused: Refused::new(parts.capacity.refused_max),
            poisons: Poisons::default(),
            cooldowns: Cooldowns::default(),
            recipes: BTreeMap::new(),
            newest: Generation::FIRST,
            started_at: now,
            turned_at: now,
            swept_at: now,
            shed_budget: 0,
            alarm: Alarm::new()?,
            shown: None,
            is_ready: false,
            last_reload: None,
            last_upgrade: parts.upgraded_from.as_ref().map(|version| format!("done, from {version}")),
            handover: None,
            is_roll_due: false,
            waiting: control::Waiting::default(),
            log_level: None,
            over_at: None,
            active: Generation::FIRST,
            is_hurried: false,
            parts,
        })
    }

    /// Turns until the fleet says that everything is over.
    pub(crate) async fn run(mut self) {
        self.begin();
        poll_fn(|cx| self.turn(cx)).await;
        if let Some(control) = &self.parts.control {
            control.unlink();
        }
        let summary = self.parts.metrics.summary();
        tracing::info!(
            streams = summary.started,
            completed = summary.completed,
            failed = summary.failed,
            "stopped"
        );
        if self.parts.recipe.config.benchmark == handoff_config::Benchmark::On {
            let _ = writeln!(std::io::stdout(), "{summary}");
        }
    }

    /// Looks at everything once. Deadlines come last: nobody is late whose words we have not read.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let was_away = now.duration_since(self.turned_at) > PULSE + AWAY_AFTER;
        self.turned_at = now;
        let mut busy = self.poll_signals(cx);
        busy |= self.poll_kept(cx);
        busy |= self.poll_workers(cx, now);
        busy |= self.poll_arrivals(cx);
        busy |= self.poll_listener(cx, now);
        self.answer_questions(cx, now);
        busy |= self.poll_orders(cx, now);
        if was_away {
            tracing::warn!("the supervisor was away; deadlines start again");
            self.hear_everybody();
            self.tell(Event::Away);
            busy = true;
        }
        if self.fleet.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.hear_everybody();
            // By the turn's own clock: who froze us meanwhile has frozen the workers too.
            self.tell_at(now, Event::Tick);
            busy = true;
        }
        self.start_due_roll();
        self.sweep(now);
        self.flush(cx);
        if self.poll_handover(cx, now).is_ready() {
            return Poll::Ready(());
        }
        self.show(now);
        self.ear.settle(cx, now, self.fleet.awaits_words());
        busy |= self.ear.is_behind();
        if self.over_at.is_some_and(|over_at| self.is_hurried || self.is_nobody_left(busy, over_at)) {
            return Poll::Ready(());
        }
        if busy || !self.stillborn.is_empty() {
            cx.waker().wake_by_ref();
        }
        self.sleep(cx, now);
        Poll::Pending
    }

    fn poll_signals(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(signal) = self.parts.signals.poll(cx) {
            any = true;
            match signal {
                Signal::Terminate | Signal::Interrupt if self.fleet.outline().stopping => {
                    tracing::warn!("second signal: ending at once");
                    self.is_hurried = true;
                    self.tell(Event::StopNow);
                }
                Signal::Terminate | Signal::Interrupt if self.is_leaving_for_good() => self.is_hurried = true,
                Signal::Terminate if self.parts.store.is_there() => self.leave(),
                Signal::Terminate | Signal::Interrupt => self.stop(),
                Signal::Upgrade => self.begin_upgrade(),
                Signal::Reload => self.tell(Event::Reload),
                Signal::Show => {
                    self.hear_everybody();
                    let status = self.status(Instant::now());
                    let text = serde_json::to_string(&status).unwrap_or_default();
                    tracing::info!(status = %text, "fleet");
                }
            }
        }
        any
    }

    fn stop(&mut self) {
        let timeout = self.parts.recipe.config.server.shutdown_timeout;
        tracing::info!(timeout_secs = timeout.as_secs_f64(), "stopping: streams may finish");
        self.give_up_upgrade();
        self.parts.notify.stopping();
        self.parts.listener.unlink();
        self.waiting.stopping();
        self.tell(Event::Stop { deadline: Instant::now() + timeout });
    }

    /// The backlog is empty, and every client that was refused has read it, or had the time to.
    fn is_nobody_left(&mut self, busy: bool, over_at: Instant) -> bool {
        let is_late = over_at.elapsed() > REFUSED_LINGER + self.parts.recipe.config.server.handoff_timeout;
        let is_idle = !busy
            && self.refused.next_deadline().is_none()
            && self.parts.listener.paused_until().is_none()
            && self.parts.listener.is_idle();
        is_idle || is_late
    }

    fn poll_arrivals(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(arrival) = self.parts.listener.poll_arrival(cx) {
            if !any && self.fleet.is_short() {
                self.hear_speakers(Instant::now());
            }
            any = true;
            self.receive(arrival);
        }
        any
    }

    fn poll_listener(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut is_heard = false;
        for _ in 0..BURST {
            // Places that have been given back, and that nobody has heard of yet.
            if self.fleet.is_short() && !std::mem::replace(&mut is_heard, true) {
                self.hear_speakers(now);
            }
            match self.fleet.intake(now) {
                Intake::Hold => return false,
                Intake::Shed if self.shed_budget == 0 => return false,
                Intake::Shed => self.shed_budget -= 1,
                // Closed: who is in the backlog already gets an answer too, if only a refusal.
                Intake::Open | Intake::Closed => {}
            }
            match self.parts.listener.poll_accept(cx, now) {
                Accepted::Nobody => return false,
                Accepted::Silent => self.parts.metrics.connected(),
                Accepted::Arrived(arrival) => {
                    self.parts.metrics.connected();
                    self.receive(arrival);
                }
                Accepted::ShortOfFds => {
                    self.parts.metrics.short_of_fds();
                    return false;
                }
            }
        }
        true
    }

    fn receive(&mut self, arrival: Arrival) {
        match arrival.result {
            Ok(handoff) => {
                self.parts.metrics.received(arrival.accepted_at.elapsed());
                let (lease, dropped) = self.dispatcher.admit(handoff);
                self.drop_dup(dropped);
                match self.over_at.is_some() {
                    false if self.is_known_poison(lease) => {
                        tracing::warn!(%lease, "this payload was poison lately: refused");
                        self.perform(Action::Refuse { lease, refusal: Refusal::WorkerCrashed });
                    }
                    false => self.tell(Event::Received { lease }),
                    // The fleet has ended, and hears nothing any more.
                    true => self.perform(Action::Refuse { lease, refusal: Refusal::ShuttingDown }),
                }
            }
            Err(rejection) => {
                self.parts.metrics.rejected(&rejection);
                match rejection {
                    Rejection::Aborted | Rejection::Timeout | Rejection::Evicted => {
                        tracing::debug!(reason = %rejection, "connection without a handoff");
                    }
                    Rejection::Forbidden { .. }
                    | Rejection::NoFd { .. }
                    | Rejection::BadFd(_)
                    | Rejection::FdLost
                    | Rejection::Io(_) => tracing::warn!(reason = %rejection, "handoff rejected"),
                }
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept_at) >= SWEEP {
            self.swept_at = now;
            self.refused.sweep(now);
            self.shed_budget = SHED_PER_SECOND / 10;
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        for link in self.links.values_mut() {
            while link.flush(&self.dispatcher) {
                self.parts.metrics.channel_full(link.slot);
                if !link.poll_writable(cx) {
                    break;
                }
            }
        }
    }

    fn sleep(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut until = now + PULSE;
        let swept = self.refused.next_deadline().map(|_| self.swept_at + SWEEP);
        let shed = self.fleet.shed_at().map(|shed_at| shed_at.max(self.swept_at + SWEEP));
        let deadlines = [
            self.ear.next_deadline(),
            self.fleet.next_deadline(),
            self.parts.listener.paused_until().filter(|until| *until > now),
            swept,
            shed,
            self.parts.notify.next_deadline().filter(|due| *due > now),
        ];
        for deadline in deadlines.into_iter().flatten() {
            until = until.min(deadline);
        }
        self.alarm.set(cx, now, until);
    }
}

/// What a configuration says about the fleet.
fn policy(config: &Config, capacity: &Capacity) -> Policy {
    Policy {
        slots: config.workers.count.get(),
        leases_max: capacity.leases_max,
        leases_per_worker_max: capacity.leases_per_worker_max,
        queue_timeout: config.server.queue_timeout,
        redispatch_max: config.server.redispatch_max,
        drain_timeout: config.workers.drain_timeout,
        age_max: config.workers.age_max,
        streams_max: config.workers.streams_max.map(Into::into),
        rss_max_bytes: config.workers.rss_max_bytes.map(Into::into),
        rss_hard_max_bytes: config.workers.rss_hard_max_bytes.map(Into::into),
    }
}
