//! Messages to packets and back. In: a message, or bytes from the other process. Out: bytes, or a message.
//! Never: allocates more than a packet's size for hostile bytes, accepts a packet that is not consumed whole.
//!
//! The only file that names `bincode`. A packet is a header of 12 bytes (little endian: magic, version, kind,
//! length of the body) and the body.

use std::hash::{DefaultHasher, Hasher};

use handoff_config::Config;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::{Generation, SlotId};
use crate::limits::PACKET_BYTES_MAX;
use crate::message::{Configure, PROTOCOL_VERSION, ToSupervisor, ToWorker};

const MAGIC: [u8; 4] = *b"hand";
const HEADER_BYTES: usize = 12;

/// A type that travels on a channel.
pub trait Message: Serialize + DeserializeOwned {
    /// Its number in the header: tells the two directions apart.
    const KIND: u16;

    /// Understood also when it comes from another version.
    fn is_frozen(&self) -> bool;
}

impl Message for ToWorker {
    const KIND: u16 = 1;

    fn is_frozen(&self) -> bool {
        self.is_frozen()
    }
}

impl Message for ToSupervisor {
    const KIND: u16 = 2;

    fn is_frozen(&self) -> bool {
        self.is_frozen()
    }
}

/// A message that does not fit.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Larger than [`PACKET_BYTES_MAX`].
    #[error("message of {bytes} bytes is larger than a packet ({PACKET_BYTES_MAX})")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The serializer refused it.
    #[error("message cannot be encoded")]
    Serialize(#[source] bincode::error::EncodeError),
}

/// Bytes that are not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than a header, or a length that is not the packet's.
    #[error("packet of {bytes} bytes is cut off")]
    CutOff {
        /// The packet's size.
        bytes: usize,
    },
    /// The first four bytes are not ours.
    #[error("packet does not start with our magic")]
    Magic,
    /// A message of another version, and none of those that are the same in all versions.
    #[error("packet is of protocol version {version}, ours is {PROTOCOL_VERSION}")]
    Version {
        /// The other side's.
        version: u16,
    },
    /// A message of the other direction, or of none.
    #[error("packet is of kind {kind}")]
    Kind {
        /// What the header says.
        kind: u16,
    },
    /// The body is no message.
    #[error("body cannot be decoded")]
    Body(#[source] bincode::error::DecodeError),
    /// Bytes follow the message.
    #[error("{bytes} bytes follow the message")]
    Surplus {
        /// How many.
        bytes: usize,
    },
}

/// A number that differs where two configurations differ. It means nothing outside of this version.
///
/// # Errors
/// When the configuration is larger than a packet.
pub fn fingerprint(config: &Config) -> Result<u64, EncodeError> {
    let mut packet = Vec::new();
    let configure = Configure { slot: SlotId(0), generation: Generation::FIRST, config: config.clone() };
    encode(&ToWorker::Configure(Box::new(configure)), &mut packet)?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&packet);
    Ok(hasher.finish())
}

/// Puts a packet into `packet`, whose earlier content is dropped and whose memory is reused.
///
/// # Errors
/// When the message is larger than a packet.
pub fn encode<M: Message>(message: &M, packet: &mut Vec<u8>) -> Result<(), EncodeError> {
    packet.clear();
    packet.extend_from_slice(&MAGIC);
    packet.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    packet.extend_from_slice(&M::KIND.to_le_bytes());
    packet.extend_from_slice(&[0; 4]);
    bincode::serde::encode_into_std_write(message, packet, bincode::config::standard())
        .map_err(EncodeError::Serialize)?;
    let body_bytes = u32::try_from(packet.len() - HEADER_BYTES).ok();
    match body_bytes {
        Some(body_bytes) if packet.len() <= PACKET_BYTES_MAX => {
            packet[8..HEADER_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
            Ok(())
        }
        _ => Err(EncodeError::TooLarge { bytes: packet.len() }),
    }
}

/// Reads one whole packet.
///
/// # Errors
/// When the bytes are anything but exactly one message of this direction, and of this version or frozen.
pub fn decode<M: Message>(packet: &[u8]) -> Result<M, DecodeError> {
    let bytes = packet.len();
    let (header, body) = packet.split_at_checked(HEADER_BYTES).ok_or(DecodeError::CutOff { bytes })?;
    if header[..4] != MAGIC {
        return Err(DecodeError::Magic);
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    let kind = u16::from_le_bytes([header[6], header[7]]);
    if kind != M::KIND {
        return Err(DecodeError::Kind { kind });
    }
    if u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize != body.len() {
        return Err(DecodeError::CutOff { bytes });
    }
    let message: Result<M, DecodeError> = decode_body(body);
    match message {
        Ok(message) if version == PROTOCOL_VERSION || message.is_frozen() => Ok(message),
        Err(error) if version == PROTOCOL_VERSION => Err(error),
        Ok(_) | Err(_) => Err(DecodeError::Version { version }),
    }
}

fn decode_body<M: Message>(body: &[u8]) -> Result<M, DecodeError> {
    let bounded = bincode::config::standard().with_limit::<PACKET_BYTES_MAX>();
    let (message, consumed) = bincode::serde::decode_from_slice(body, bounded).map_err(DecodeError::Body)?;
    match body.len() - consumed {
        0 => Ok(message),
        bytes => Err(DecodeError::Surplus { bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaseId;
    use crate::limits::INLINE_BYTES_MAX;
    use crate::message::{Ending, Format, Handoff, Held, HeldLease, HeldStage, Outcome, Payload};
    use proptest::prelude::*;

    fn round_trip<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
        let mut packet = Vec::new();
        encode(message, &mut packet).unwrap();
        assert_eq!(&decode::<M>(&packet).unwrap(), message);
    }

    #[test]
    fn a_handoff_with_the_largest_inline_payload_fits_a_packet() {
        round_trip(&ToWorker::Handoff(Handoff {
            lease: LeaseId::first(7),
            attempt: 1,
            truncated: false,
            inline: Payload(vec![0xff; INLINE_BYTES_MAX]),
            memfd_bytes: None,
        }));
    }

    #[test]
    fn a_message_larger_than_a_packet_is_an_error() {
        let message = ToWorker::Handoff(Handoff {
            lease: LeaseId::first(7),
            attempt: 0,
            truncated: false,
            inline: Payload(vec![0; PACKET_BYTES_MAX]),
            memfd_bytes: None,
        });
        assert!(matches!(encode(&message, &mut Vec::new()), Err(EncodeError::TooLarge { .. })));
    }

    #[test]
    fn a_full_batch_of_endings_fits_a_packet() {
        let ending = Ending { lease: LeaseId::first(u32::MAX), outcome: Outcome::Internal };
        let endings = vec![ending; crate::limits::LEASES_PER_MESSAGE_MAX];
        round_trip(&ToSupervisor::Released { endings });
    }

    #[test]
    fn a_message_of_the_other_direction_is_refused() {
        let mut packet = Vec::new();
        encode(&ToWorker::Drain { remaining_ms: 5 }, &mut packet).unwrap();
        assert!(matches!(decode::<ToSupervisor>(&packet), Err(DecodeError::Kind { kind: 1 })));
    }

    #[test]
    fn of_another_version_only_the_frozen_messages_are_understood() {
        let of_version_9 = |message: &ToWorker| {
            let mut packet = Vec::new();
            encode(message, &mut packet).unwrap();
            packet[4..6].copy_from_slice(&9u16.to_le_bytes());
            packet
        };
        let drain = ToWorker::Drain { remaining_ms: 5 };
        assert_eq!(decode::<ToWorker>(&of_version_9(&drain)).unwrap(), drain);
        let epitaph = ToWorker::Epitaph { lease: LeaseId::first(1), format: Format::Text };
        let refused = decode::<ToWorker>(&of_version_9(&epitaph));
        assert!(matches!(refused, Err(DecodeError::Version { version: 9 })));
    }

    /// Adoption across versions depends on these bytes: whoever changes them breaks every upgrade from here.
    #[test]
    fn the_frozen_messages_are_the_bytes_that_they_were() {
        fn body<M: Message>(message: &M) -> Vec<u8> {
            let mut packet = Vec::new();
            encode(message, &mut packet).unwrap();
            packet[HEADER_BYTES..].to_vec()
        }
        let lease = LeaseId::first(0).next();
        assert_eq!(body(&ToWorker::Drain { remaining_ms: 5 }), [3, 5]);
        assert_eq!(body(&ToWorker::Resync { ticket: 9, fd_budget: 6 }), [4, 9, 6]);
        assert_eq!(body(&ToSupervisor::Ready { protocol_version: 1, build: "b".into() }), [0, 1, 1, b'b']);
        assert_eq!(body(&ToSupervisor::Taken { leases: vec![lease] }), [1, 1, 1]);
        assert_eq!(body(&ToSupervisor::Committed { leases: vec![(lease, Format::Raw)] }), [2, 1, 1, 4]);
        let endings = vec![Ending { lease, outcome: Outcome::Internal }];
        assert_eq!(body(&ToSupervisor::Released { endings }), [3, 1, 1, 12]);
        let stages = [
            HeldStage::Taken {
                truncated: false,
                inline: Payload(b"{}".to_vec()),
                memfd_bytes: Some(7),
                written: Some(8),
            },
            HeldStage::Committed { format: Format::Text },
            HeldStage::Epitaph,
        ];
        let leases = stages.map(|stage| HeldLease { lease, attempt: 2, stage, has_fd: true }).to_vec();
        let held = Held {
            ticket: 9,
            page: 1,
            last: true,
            protocol_version: 3,
            slot: SlotId(4),
            generation: Generation(5),
            drain_remaining_ms: None,
            leases,
        };
        let expected = [
            vec![4, 9, 1, 1, 3, 4, 5, 0, 3],
            vec![1, 2, 0, 0, 2, b'{', b'}', 1, 7, 1, 8, 1],
            vec![1, 2, 1, 1, 1],
            vec![1, 2, 2, 1],
        ];
        assert_eq!(body(&ToSupervisor::Held(held)), expected.concat());
    }

    #[test]
    fn the_documented_packets_are_what_we_send() {
        let document = include_str!("../../docs/PROTOCOL.md");
        let blocks = document.split("```packet\n").skip(1).filter_map(|rest| rest.split("```").next());
        let documented: Vec<Vec<u8>> = blocks
            .map(|block| block.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect())
            .collect();
        let (mut committed, mut drain) = (Vec::new(), Vec::new());
        let lease = LeaseId::first(7);
        encode(&ToSupervisor::Committed { leases: vec![(lease, Format::Events)] }, &mut committed).unwrap();
        encode(&ToWorker::Drain { remaining_ms: 250 }, &mut drain).unwrap();
        assert_eq!(documented, [committed, drain]);
    }

    #[test]
    fn a_hostile_length_costs_an_error_and_no_memory() {
        // `Taken` with a list that claims 2^60 leases.
        let body = [1, 253, 0, 0, 0, 0, 0, 0, 0, 16];
        let mut packet = Vec::new();
        encode(&ToSupervisor::Taken { leases: vec![] }, &mut packet).unwrap();
        packet.truncate(HEADER_BYTES);
        packet[8] = 10;
        packet.extend_from_slice(&body);
        assert!(decode::<ToSupervisor>(&packet).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode::<ToSupervisor>(&bytes);
            let _ = decode::<ToWorker>(&bytes);
        }

        #[test]
        fn any_body_behind_a_valid_header_is_a_message_or_an_error(
            body in proptest::collection::vec(any::<u8>(), 0..2000), kind in 1u16..=2,
        ) {
            let mut packet = MAGIC.to_vec();
            packet.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
            packet.extend_from_slice(&kind.to_le_bytes());
            packet.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
            packet.extend_from_slice(&body);
            let _ = decode::<ToSupervisor>(&packet);
            let _ = decode::<ToWorker>(&packet);
        }

        #[test]
        fn every_message_comes_back_as_it_went(lease in any::<u32>(), bytes in any::<Vec<u8>>(), memfd in any::<Option<u32>>()) {
            let lease = LeaseId::first(lease);
            round_trip(&ToSupervisor::Committed { leases: vec![(lease, Format::Events)] });
            round_trip(&ToSupervisor::Taken { leases: vec![lease, lease.next()] });
            round_trip(&ToWorker::Handoff(Handoff { lease, attempt: 0, truncated: true, inline: Payload(bytes), memfd_bytes: memfd }));
        }
    }
}
