//! Any bytes on a channel are a message or an error, in bounded memory.
#![no_main]

use handoff_shared::codec::decode;
use handoff_shared::message::{ToSupervisor, ToWorker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode::<ToSupervisor>(bytes);
    let _ = decode::<ToWorker>(bytes);
    // Behind a valid header too, where random bytes seldom get.
    for kind in [1u16, 2] {
        let mut packet = b"hand".to_vec();
        packet.extend_from_slice(&handoff_shared::message::PROTOCOL_VERSION.to_le_bytes());
        packet.extend_from_slice(&kind.to_le_bytes());
        packet.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        packet.extend_from_slice(bytes);
        let _ = decode::<ToSupervisor>(&packet);
        let _ = decode::<ToWorker>(&packet);
    }
});
