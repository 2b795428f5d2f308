//! A limit on everything that crosses between processes, and their relations.

use std::time::Duration;

/// Largest configurable handoff message.
pub const HANDOFF_BYTES_MAX: usize = 1024 * 1024;
/// Payloads up to this size travel inside the packet; larger ones in a sealed memfd.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Largest payload in a sealed memfd from the Apache module.
pub const MEMFD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest packet on a channel.
pub const PACKET_BYTES_MAX: usize = 192 * 1024;
/// Most fds in one packet: a `Held` page with a client and a memfd per lease.
pub const PACKET_FDS_MAX: usize = 2 * HELD_LEASES_PER_PAGE_MAX;
/// Leases in one `Held` page.
pub const HELD_LEASES_PER_PAGE_MAX: usize = 64;
/// Payloads and leases in one `Held` page, in bytes; a lease alone on its page may have more.
pub const HELD_BYTES_MAX: usize = 128 * 1024;
/// Bytes that may wait in a channel for the supervisor before a worker says no more about its beats: an absent
/// supervisor must not keep streams from saying that they commit.
pub const SNAPSHOT_BACKLOG_BYTES_MAX: u64 = 32 * 1024;
/// Sessions in one `Sessions` page.
pub const SESSIONS_PER_PAGE_MAX: usize = 256;
/// Characters of a session's `user_id` and `request_id` that an operator is shown.
pub const SHOWN_CHARS_MAX: usize = 64;
/// Lease ids in one `Taken`, endings in one `Released`.
pub const LEASES_PER_MESSAGE_MAX: usize = 1024;
/// Handoffs that a worker may have been sent without having taken them.
pub const CREDITS_PER_WORKER: u32 = 32;

/// Slots at most: what a configuration may ask for.
pub const SLOTS_MAX: u16 = 1024;
/// Backlog of the handoff sockets: the queue that Apache sees.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Connected peers that have sent nothing yet.
pub const SILENT_PEERS_MAX: usize = 1024;
/// Clients that were told 503 or 502 and have not hung up yet.
pub const REFUSED_CLIENTS_MAX: usize = 1024;
/// How long such a client is waited for.
pub const REFUSED_LINGER: Duration = Duration::from_secs(2);
/// Refusals a second when no worker has had a free place for `queue_timeout`.
pub const SHED_PER_SECOND: u32 = 1000;

/// Bytes of a model's name in a `Cooldown`.
pub const COOLDOWN_MODEL_BYTES_MAX: usize = 256;
/// Cooldowns that a worker, or the supervisor, knows at the same time; the earliest to end is forgotten first.
pub const COOLDOWNS_MAX: usize = 1024;
/// The longest cooldown that the supervisor believes in.
pub const COOLDOWN_MAX: Duration = Duration::from_secs(3600);
/// A cooldown that ends later than known by less than this is no news.
pub const COOLDOWN_NEWS_MIN: Duration = Duration::from_secs(1);
/// Cooldowns of one worker that the others are told in a second; what is beyond they find out themselves.
pub const COOLDOWNS_PER_SECOND: u32 = 32;

/// Fds that neither process spends on clients: log, channels, memfds, the connections of name service.
pub const FDS_RESERVED: u64 = 128;
/// Fds that one stream needs in a worker for its client alone; what its backend needs comes on top.
pub const FDS_PER_STREAM: u64 = 1;

/// From spawn to `Ready`.
pub const START_TIMEOUT: Duration = Duration::from_secs(10);
/// For an adopted worker to say what it holds.
pub const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Payloads that a supervisor keeps of one adopted worker, in bytes; what is beyond gets no second try.
pub const ADOPTED_PAYLOADS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// For a supervisor that leaves to get everything out of its hands.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(8);
/// Between two snapshots.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Without a snapshot for this long a worker is hung.
pub const BEAT_TIMEOUT: Duration = Duration::from_secs(5);
/// A handoff not taken for this long means a hung worker.
pub const TAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// What a worker gets after its drain's deadline to write its last events.
pub const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// The part of it that a stream may spend on writing: the worker ends by itself before it is ended.
pub const LAST_WORDS: Duration = Duration::from_secs(4);
/// A supervisor that was away this long re-arms every deadline about its workers.
pub const AWAY_AFTER: Duration = Duration::from_millis(1000);
/// A worker younger than this is not recycled.
pub const RECYCLE_AGE_MIN: Duration = Duration::from_secs(1);
/// A suspect that its sacrificial worker has survived for this long does not keep the next one waiting.
pub const PROBATION: Duration = Duration::from_millis(20);
/// The same when many wait: all of them are to have their turn within [`PROBATION_OF_ALL`], if this allows it.
pub const PROBATION_MIN: Duration = Duration::from_millis(2);
/// How long all suspects that wait may take together before their probation is made shorter.
pub const PROBATION_OF_ALL: Duration = Duration::from_millis(200);
/// A suspect waits for its turn this long at most, whatever else happens.
pub const SUSPECT_WAIT_MAX: Duration = Duration::from_secs(30);
/// A sacrificial worker without anything to do for this long is let go.
pub const QUARANTINE_IDLE: Duration = Duration::from_secs(10);
/// Hashes of poison payloads that are remembered, where the configuration wants that.
pub const POISON_MEMORY_MAX: usize = 1024;
/// From one roll's beginning to the next one's.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Generations that may be draining at the same time.
pub const DRAINING_GENERATIONS_MAX: usize = 2;

const _: () = assert!(INLINE_BYTES_MAX * 2 <= PACKET_BYTES_MAX, "a handoff and its header fit a packet");
const _: () = assert!(HELD_BYTES_MAX + 4096 <= PACKET_BYTES_MAX, "a full page and its header fit a packet");
const _: () = assert!(INLINE_BYTES_MAX + 4096 <= HELD_BYTES_MAX, "a lease alone fits a page");
const _: () = assert!(
    SESSIONS_PER_PAGE_MAX * (2 * 4 * SHOWN_CHARS_MAX + 64) <= PACKET_BYTES_MAX,
    "a full page of sessions fits a packet"
);
const _: () = assert!(PACKET_FDS_MAX <= 253, "the kernel's SCM_MAX_FD");
const _: () = assert!(LEASES_PER_MESSAGE_MAX * 16 <= PACKET_BYTES_MAX, "a full batch fits a packet");
const _: () = assert!(BEAT_INTERVAL.as_millis() * 4 < BEAT_TIMEOUT.as_millis(), "one late beat is no hang");
const _: () =
    assert!(LAST_WORDS.as_millis() + 500 < DRAIN_GRACE.as_millis(), "a worker ends before it is ended");
