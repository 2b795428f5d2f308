//! What a server says about its HTTP/2 connection as a whole (RFC 9113, sections 4.1, 6.5 and 6.8). In: the bytes that
//! it sends, however they are cut. Out: SETTINGS and GOAWAY.
//!
//! hyper says neither when it learns them: it would be known only by asking it in vain.
//! Never: changes a byte, holds more than one frame of 64 bytes.

/// Length, type, flags, stream.
const HEADER_BYTES: usize = 9;
/// Of a payload no more is looked at in one piece.
const PART_BYTES: usize = 8;

const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const ACK: u8 = 0x1;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
/// `ENHANCE_YOUR_CALM`, RFC 9113, section 7.
const CALM: u32 = 0xb;

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A SETTINGS frame has ended. The limit of streams, if it had one.
    Settings {
        /// `SETTINGS_MAX_CONCURRENT_STREAMS`.
        streams: Option<u32>,
    },
    /// A GOAWAY frame: no more streams here.
    GoAway {
        /// Because we ask too much of it.
        calm: bool,
    },
}

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    part: [u8; HEADER_BYTES],
    part_bytes: usize,
    within: Option<Within>,
}

#[derive(Clone, Copy, Debug)]
struct Within {
    kind: Kind,
    left_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Settings(Option<u32>),
    GoAway,
    Other,
}

impl Frames {
    /// The next bytes; `say` is called for each fact in them.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut say: impl FnMut(Said)) {
        while !bytes.is_empty() {
            match self.within {
                None => {
                    if self.fill(&mut bytes, HEADER_BYTES) {
                        self.begin(&mut say);
                    }
                }
                Some(Within { kind: Kind::Other, left_bytes }) => {
                    let skipped = left_bytes.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.left(Kind::Other, left_bytes - skipped);
                }
                Some(Within { kind: Kind::Settings(streams), left_bytes }) => {
                    if self.fill(&mut bytes, 6) {
                        let id = u16::from_be_bytes([self.part[0], self.part[1]]);
                        let value = be32(&self.part[2..]);
                        let streams = if id == MAX_CONCURRENT_STREAMS { Some(value) } else { streams };
                        self.left(Kind::Settings(streams), left_bytes.saturating_sub(6));
                        if self.within.is_none() {
                            say(Said::Settings { streams });
                        }
                    }
                }
                Some(Within { kind: Kind::GoAway, left_bytes }) => {
                    if self.fill(&mut bytes, PART_BYTES) {
                        say(Said::GoAway { calm: be32(&self.part[4..]) == CALM });
                        self.left(Kind::Other, left_bytes.saturating_sub(PART_BYTES));
                    }
                }
            }
        }
    }

    /// Collects `wanted` bytes; whether they are there.
    fn fill(&mut self, bytes: &mut &[u8], wanted: usize) -> bool {
        let taken = (wanted - self.part_bytes).min(bytes.len());
        self.part[self.part_bytes..self.part_bytes + taken].copy_from_slice(&bytes[..taken]);
        *bytes = &bytes[taken..];
        self.part_bytes = (self.part_bytes + taken) % wanted;
        self.part_bytes == 0
    }

    fn begin(&mut self, say: &mut impl FnMut(Said)) {
        let [high, middle, low, kind, flags, ..] = self.part;
        let bytes = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            SETTINGS if flags & ACK == 0 && bytes == 0 => say(Said::Settings { streams: None }),
            SETTINGS if flags & ACK == 0 => self.left(Kind::Settings(None), bytes),
            GOAWAY if bytes >= PART_BYTES => self.left(Kind::GoAway, bytes),
            _ => self.left(Kind::Other, bytes),
        }
    }

    fn left(&mut self, kind: Kind, left_bytes: usize) {
        self.within = (left_bytes > 0).then_some(Within { kind, left_bytes });
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    proptest! {
        #[test]
        fn settings_and_goaway_are_found_however_the_bytes_are_cut(cuts in prop::collection::vec(1usize..40, 1..60)) {
            let bytes = [
                frame(SETTINGS, 0, &[setting(4, 65_535), setting(3, 8), setting(5, 16_384)].concat()),
                frame(SETTINGS, ACK, &[]),
                frame(0, 0, &[SETTINGS; 300]),
                frame(SETTINGS, 0, &setting(3, 2)),
                frame(6, 0, &[7; 8]),
                frame(SETTINGS, 0, &[]),
                frame(GOAWAY, 0, b"\0\0\0\x01\0\0\0\x0btoo_many_pings"),
                frame(GOAWAY, 0, &[0; 8]),
                frame(1, 0, &[]),
            ]
            .concat();
            let (mut frames, mut said, mut rest) = (Frames::default(), vec![], &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                frames.read(now, |fact| said.push(fact));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            let settings = |streams| Said::Settings { streams };
            let expected = [settings(Some(8)), settings(Some(2)), settings(None),
                Said::GoAway { calm: true }, Said::GoAway { calm: false }];
            prop_assert_eq!(said, expected);
        }
    }
}
