//! Frames of HTTP/2 (RFC 9113, sections 4 and 6), read and written. In: bytes. Out: bytes. Never: remembers anything.

use crate::server::Broken;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
/// Of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
/// Of HEADERS and CONTINUATION.
pub(super) const END_HEADERS: u8 = 0x4;

pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

/// An error code (section 7).
pub(super) const REFUSED_STREAM: u32 = 7;

const HEADER_BYTES: usize = 9;
const SETTING_BYTES: usize = 6;
/// The highest bit of stream numbers and windows is reserved.
const LOW_31_BITS: u32 = (1 << 31) - 1;

#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

impl Header {
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A frame, and what comes behind it.
pub(super) struct Split<'a> {
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
    pub(super) rest: &'a [u8],
}

/// The first frame; none while it is not whole.
pub(super) fn split(bytes: &[u8], bytes_max: usize) -> Result<Option<Split<'_>>, Broken> {
    let Some((head, after)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [a, b, c, kind, flags, stream @ ..] = *head;
    let length = u32::from_be_bytes([0, a, b, c]);
    if length as usize > bytes_max {
        return Err(size_error("a frame is larger than 16 KiB"));
    }
    let header = Header { length, kind, flags, stream: u32::from_be_bytes(stream) & LOW_31_BITS };
    Ok(after.split_at_checked(length as usize).map(|(payload, rest)| Split { header, payload, rest }))
}

/// Puts a frame at the end of `out`. The payload is at most 16 KiB.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[length[0], length[1], length[2], kind, flags, a, b, c, d]);
    out.extend_from_slice(payload);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) id: u16,
    pub(super) value: u32,
}

impl Setting {
    pub(super) fn bytes(self) -> [u8; SETTING_BYTES] {
        let ([a, b], [c, d, e, f]) = (self.id.to_be_bytes(), self.value.to_be_bytes());
        [a, b, c, d, e, f]
    }
}

/// Those of a SETTINGS frame.
pub(super) fn settings(payload: &[u8]) -> Result<Vec<Setting>, Broken> {
    let (whole, rest) = payload.as_chunks::<SETTING_BYTES>();
    if !rest.is_empty() {
        return Err(size_error("a setting has 6 bytes"));
    }
    let read = |&[a, b, c, d, e, f]: &[u8; SETTING_BYTES]| {
        let setting = Setting { id: u16::from_be_bytes([a, b]), value: u32::from_be_bytes([c, d, e, f]) };
        let too_large = setting.id == INITIAL_WINDOW_SIZE && setting.value > LOW_31_BITS;
        if too_large { Err(flow_control_error()) } else { Ok(setting) }
    };
    whole.iter().map(read).collect()
}

/// What a WINDOW_UPDATE adds.
pub(super) fn window(payload: &[u8]) -> Result<i64, Broken> {
    let bytes = payload.try_into().map_err(|_| size_error("a WINDOW_UPDATE has 4 bytes"))?;
    match u32::from_be_bytes(bytes) & LOW_31_BITS {
        0 => Err(protocol_error("a window grows by nothing")),
        grown => Ok(i64::from(grown)),
    }
}

pub(super) fn protocol_error(what: &'static str) -> Broken {
    Broken { code: 1, what }
}

pub(super) fn flow_control_error() -> Broken {
    Broken { code: 3, what: "a window is larger than 2 GiB" }
}

pub(super) fn size_error(what: &'static str) -> Broken {
    Broken { code: 6, what }
}
