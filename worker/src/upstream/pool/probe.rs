//! Whether a server speaks HTTP/2 without TLS (RFC 9113, section 3.3). In: a connection of its own. Out: yes or no, in
//! half a second.
//!
//! Never: sends a request to a server that may not understand it; assumes.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::Stream;

/// A server that says nothing for so long does not speak HTTP/2.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// The client's preface and an empty SETTINGS frame (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The header of a frame; the server's first is SETTINGS, of the connection.
const HEADER_BYTES: usize = 9;
const SETTINGS: u8 = 0x4;

/// Whether a SETTINGS frame comes back.
pub(super) async fn speaks_http2(mut stream: Stream) -> bool {
    let mut header = [0; HEADER_BYTES];
    let asked = async {
        stream.write_all(PREFACE).await?;
        stream.read_exact(&mut header).await
    };
    let answered = matches!(timeout(PROBE_TIMEOUT, asked).await, Ok(Ok(_)));
    // An HTTP/1.1 answer begins with `HTTP/1.1 `: `/` is no type of a frame that could stand there.
    answered && header[3] == SETTINGS && header[4] == 0 && header[5..] == [0; 4]
}
