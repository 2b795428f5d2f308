//! What supervisor and worker say about every lease, to packets and back.

use std::fmt::Debug;
use std::hint::black_box;

use handoff_shared::codec::{Message, decode, encode};
use handoff_shared::ids::LeaseId;
use handoff_shared::message::{Ending, Format, Handoff, Outcome, Payload, ToSupervisor, ToWorker};

use crate::{Case, Operation};

pub(crate) const CASES: &[Case] = &[
    Case::new("codec.encode_handoff_of_100_bytes", || encoding(handoff(100))),
    Case::new("codec.decode_handoff_of_100_bytes", || decoding(&handoff(100))),
    Case::new("codec.encode_handoff_of_8_kb", || encoding(handoff(8192))),
    Case::new("codec.decode_handoff_of_8_kb", || decoding(&handoff(8192))),
    Case::new("codec.encode_taken", || encoding(taken())),
    Case::new("codec.decode_taken", || decoding(&taken())),
    Case::new("codec.encode_committed", || encoding(committed())),
    Case::new("codec.decode_committed", || decoding(&committed())),
    Case::new("codec.encode_released", || encoding(released(1))),
    Case::new("codec.decode_released", || decoding(&released(1))),
    Case::new("codec.encode_64_released", || encoding(released(64))),
    Case::new("codec.decode_64_released", || decoding(&released(64))),
];

/// Neither a first lease nor of a first start: their numbers are shorter.
fn lease() -> LeaseId {
    (0..1000).fold(LeaseId::first(7), |lease, _| lease.next())
}

fn handoff(bytes: usize) -> ToWorker {
    let inline = Payload(vec![b'x'; bytes]);
    ToWorker::Handoff(Handoff { lease: lease(), attempt: 0, truncated: false, inline, memfd_bytes: None })
}

fn taken() -> ToSupervisor {
    ToSupervisor::Taken { leases: vec![lease()] }
}

fn committed() -> ToSupervisor {
    ToSupervisor::Committed { leases: vec![(lease(), Format::Content)] }
}

fn released(count: usize) -> ToSupervisor {
    ToSupervisor::Released { endings: vec![Ending { lease: lease(), outcome: Outcome::Complete }; count] }
}

fn encoding<M: Message + 'static>(message: M) -> Operation {
    let mut packet = Vec::new();
    Box::new(move || {
        let encoded = encode(black_box(&message), &mut packet);
        assert!(encoded.is_ok(), "it fits a packet");
        black_box(&packet);
    })
}

fn decoding<M: Message + Debug>(message: &M) -> Operation {
    let mut packet = Vec::new();
    assert!(encode(message, &mut packet).is_ok(), "it fits a packet");
    Box::new(move || {
        let decoded = black_box(decode::<M>(black_box(&packet)));
        assert!(decoded.is_ok(), "it is a packet");
    })
}
