//! Every metric's name and meaning, and every value of its labels.

use handoff_shared::message::Outcome;
use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};

use crate::fleet::{Cause, LeaseEnding, Refusal};
use crate::listener::Rejection;

pub(super) const ACTIVE_CONNECTIONS: &str = "daemon_active_connections";
pub(super) const ACTIVE_STREAMS: &str = "daemon_active_streams";
pub(super) const PEAK_STREAMS: &str = "daemon_peak_streams";
pub(super) const CONNECTIONS: &str = "daemon_connections_total";
pub(super) const CONNECTIONS_REJECTED: &str = "daemon_connections_rejected_total";
pub(super) const HANDOFFS: &str = "daemon_handoffs_total";
pub(super) const HANDOFF_ERRORS: &str = "daemon_handoff_errors_total";
pub(super) const STREAM_ERRORS: &str = "daemon_stream_errors_total";
pub(super) const REJECTIONS: &str = "handoffd_rejections_total";
pub(super) const ENDINGS: &str = "handoffd_lease_endings_total";
pub(super) const RESTARTS: &str = "handoffd_worker_restarts_total";
pub(super) const REDISPATCHES: &str = "handoffd_redispatches_total";
pub(super) const EPITAPHS: &str = "handoffd_epitaphs_total";
pub(super) const POISON: &str = "handoffd_poison_total";
pub(super) const DUPS_DROPPED: &str = "handoffd_dups_dropped_total";
pub(super) const ACCEPT_PAUSES: &str = "handoffd_accept_pauses_total";
pub(super) const CHANNEL_FULL: &str = "handoffd_channel_full_total";
pub(super) const ADOPTED_WORKERS: &str = "handoffd_adopted_workers_total";
pub(super) const ADOPTED_LEASES: &str = "handoffd_adopted_leases_total";
pub(super) const UPGRADES: &str = "handoffd_upgrades_total";
pub(super) const RELOADS: &str = "handoffd_reloads_total";

const REASONS: [&str; 5] = ["client_disconnected", "timeout", "canceled", "network", "other"];
const REJECTION_REASONS: [&str; 8] =
    ["forbidden", "aborted", "timeout", "evicted", "no_fd", "bad_fd", "fd_lost", "io"];
const REFUSALS: [Refusal; 4] =
    [Refusal::Full, Refusal::NoWorker, Refusal::ShuttingDown, Refusal::WorkerCrashed];
pub(super) const RELOAD_RESULTS: [&str; 5] = ["done", "refused", "cannot_start", "superseded", "stopped"];

const UPGRADE_RESULTS: [&str; 2] = ["done", "failed"];

/// Why a worker takes the place of another one. Each is a series from the start: the first increase of one that
/// begins with 1 is none that Prometheus could see.
pub(super) const RESTART_CAUSES: [Cause; 12] = [
    Cause::Crash,
    Cause::Hang,
    Cause::Protocol,
    Cause::StartTimeout,
    Cause::DrainTimeout,
    Cause::Roll,
    Cause::Recycle,
    Cause::Operator,
    Cause::Memory,
    Cause::Suspects,
    Cause::Left,
    Cause::Stop,
];

/// What a worker, or a slot without one, may be doing.
pub(super) const WORKER_STATES: [&str; 6] = ["starting", "adopted", "ready", "draining", "dying", "backoff"];

/// Counters with the label `slot`.
pub(super) const BY_SLOT: [&str; 3] = [REDISPATCHES, EPITAPHS, CHANNEL_FULL];

/// Describes every metric of the recorder and makes it exist with value 0.
pub(super) fn describe_all() {
    describe_gauge!(ACTIVE_CONNECTIONS, "clients that are being served or wait for a worker");
    describe_gauge!(ACTIVE_STREAMS, "clients that a worker serves");
    describe_gauge!(PEAK_STREAMS, "most streams at the same time since the start");
    for name in [ACTIVE_CONNECTIONS, ACTIVE_STREAMS, PEAK_STREAMS] {
        gauge!(name).set(0.0);
    }
    describe_counter!(CONNECTIONS, "connections on the handoff sockets");
    describe_counter!(CONNECTIONS_REJECTED, "handoffs answered 503: too many, or no worker free in time");
    describe_counter!(HANDOFFS, "handoffs received");
    describe_counter!(REDISPATCHES, "handoffs given to a further worker after theirs had died");
    describe_counter!(EPITAPHS, "streams whose last event was written for a dead worker");
    describe_counter!(POISON, "handoffs that killed every worker that tried them");
    describe_counter!(DUPS_DROPPED, "streams that would get no last event if their worker died: too few fds");
    describe_counter!(ACCEPT_PAUSES, "times accepting paused near the fd limit");
    describe_counter!(CHANNEL_FULL, "times a worker's channel was full when a message was ready");
    describe_counter!(ADOPTED_WORKERS, "workers taken over from an earlier supervisor");
    describe_counter!(ADOPTED_LEASES, "leases taken over from an earlier supervisor");
    let adopted = [ADOPTED_WORKERS, ADOPTED_LEASES];
    adopted.into_iter().for_each(|name| zero(&counter!(name)));
    let plain = [CONNECTIONS, CONNECTIONS_REJECTED, HANDOFFS, POISON, DUPS_DROPPED, ACCEPT_PAUSES];
    plain.into_iter().for_each(|name| zero(&counter!(name)));
    describe_counter!(HANDOFF_ERRORS, "connections and handoffs that came to no stream, by reason");
    describe_counter!(STREAM_ERRORS, "streams that did not end well, by reason");
    for reason in REASONS {
        zero(&counter!(HANDOFF_ERRORS, "reason" => reason));
        zero(&counter!(STREAM_ERRORS, "reason" => reason));
    }
    describe_counter!(REJECTIONS, "connections that brought no handoff, by exact reason");
    REJECTION_REASONS.into_iter().for_each(|reason| zero(&counter!(REJECTIONS, "reason" => reason)));
    describe_counter!(
        ENDINGS,
        "how leases ended; with the live ones they add up to handoffs and adopted leases"
    );
    let released = Outcome::ALL.into_iter().map(|outcome| ending(LeaseEnding::Released(outcome)));
    let refused = REFUSALS.into_iter().map(refusal).chain([ending(LeaseEnding::EpitaphLost)]);
    released.chain(refused).for_each(|outcome| zero(&counter!(ENDINGS, "outcome" => outcome)));
    describe_counter!(RELOADS, "reloads by result");
    RELOAD_RESULTS.into_iter().for_each(|result| zero(&counter!(RELOADS, "result" => result)));
    describe_counter!(UPGRADES, "upgrades in place by result; a new image begins with what led to it");
    UPGRADE_RESULTS.into_iter().for_each(|result| zero(&counter!(UPGRADES, "result" => result)));
    describe_counter!(RESTARTS, "workers started again, by slot and reason");
}

fn zero(counter: &Counter) {
    counter.increment(0);
}

/// The reason as sites know it, and the exact one.
pub(super) fn rejection(rejection: &Rejection) -> (&'static str, &'static str) {
    match rejection {
        Rejection::Forbidden { .. } => ("other", "forbidden"),
        Rejection::Aborted => ("client_disconnected", "aborted"),
        Rejection::Timeout => ("timeout", "timeout"),
        Rejection::Evicted => ("timeout", "evicted"),
        Rejection::NoFd { .. } => ("other", "no_fd"),
        Rejection::BadFd(_) => ("other", "bad_fd"),
        Rejection::FdLost => ("other", "fd_lost"),
        Rejection::Io(_) => ("network", "io"),
    }
}

pub(super) fn refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Full => "refused_full",
        Refusal::NoWorker => "refused_no_worker",
        Refusal::ShuttingDown => "refused_shutting_down",
        Refusal::WorkerCrashed => "refused_worker_crashed",
    }
}

pub(super) fn ending(ending: LeaseEnding) -> &'static str {
    match ending {
        LeaseEnding::Released(outcome) => outcome.as_str(),
        LeaseEnding::EpitaphLost => "epitaph_lost",
    }
}

/// The reason as sites know it.
pub(super) fn stream_error(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::ClientGone => "client_disconnected",
        Outcome::ClientTooSlow | Outcome::UpstreamTimeout | Outcome::StreamTooLong => "timeout",
        Outcome::ShuttingDown | Outcome::Canceled => "canceled",
        Outcome::UpstreamFailed | Outcome::StreamIncomplete => "network",
        Outcome::EpitaphWritten | Outcome::UnreportedEnd | Outcome::Internal => "other",
        Outcome::Complete | Outcome::Answered | Outcome::Refused => "other",
    }
}

pub(super) fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Start => "start",
        Cause::Crash => "crash",
        Cause::Hang => "hang",
        Cause::Protocol => "protocol",
        Cause::StartTimeout => "start_timeout",
        Cause::DrainTimeout => "drain_timeout",
        Cause::Roll => "roll",
        Cause::Recycle => "recycle",
        Cause::Operator => "operator",
        Cause::Memory => "memory",
        Cause::Suspects => "suspects",
        Cause::Left => "left",
        Cause::Stop => "stop",
    }
}
