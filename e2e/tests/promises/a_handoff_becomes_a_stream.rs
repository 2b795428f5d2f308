//! A handoff sent exactly as Apache sends it becomes a complete stream.

use handoff_e2e::apache::Kind;
use handoff_e2e::{Daemon, Door, Options};

#[test]
fn over_tcp_and_unix_through_both_doors() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    for door in [Door::SeqPacket, Door::Stream] {
        for kind in [Kind::Tcp, Kind::Unix] {
            let response = daemon.hand_over_by(door, kind, br#"{"prompt":"a question"}"#).response();
            assert!(response.is_complete(), "{door:?} {kind:?}: {response:?}");
            assert!(response.text().contains("You asked: a question"), "{response:?}");
        }
    }
}
