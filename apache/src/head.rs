//! The head of the daemon's HTTP/1 answer, where Apache relays it. In: bytes. Out: status, headers, what is left.
//! Never: takes half a head for a whole one.

/// A larger head is none.
const BYTES_MAX: usize = 64 * 1024;

/// What the daemon has said about its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Without those that concern the connection alone (RFC 9110, section 7.6.1).
    pub(crate) headers: Vec<(String, String)>,
    /// How many bytes it had, the empty line included.
    pub(crate) bytes: usize,
}

/// That is no answer of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotHttp;

const OF_THE_CONNECTION: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// None as long as its end has not come.
///
/// # Errors
/// When it will never be a head.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head>, NotHttp> {
    const START: &[u8] = b"HTTP/1.";
    let seen = bytes.len().min(START.len());
    if bytes[..seen] != START[..seen] {
        return Err(NotHttp);
    }
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > BYTES_MAX { Err(NotHttp) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| NotHttp)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or(NotHttp)?;
    let status = status.parse().ok().filter(|status| (200..600).contains(status)).ok_or(NotHttp)?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(NotHttp)?;
        let is_ours = !OF_THE_CONNECTION.iter().any(|known| name.eq_ignore_ascii_case(known));
        if is_ours {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    Ok(Some(Head { status, headers, bytes: end + 4 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_however_it_is_cut() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\
            Set-Cookie: a=1\r\nSet-Cookie: b=2: 3\r\n\r\ndata: hi\n\n";
        let head = parse(answer.as_bytes()).unwrap().unwrap();
        assert_eq!(head.status, 200);
        let expected =
            [("Content-Type", "text/event-stream"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2: 3")];
        assert_eq!(head.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(&answer[head.bytes..], "data: hi\n\n");
        for cut in 0..head.bytes {
            assert_eq!(parse(&answer.as_bytes()[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn what_is_no_head_is_said_to_be_none() {
        for bytes in [
            "data: hi",
            "HTTP/2 200",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad\r\n\r\n",
        ] {
            assert_eq!(parse(bytes.as_bytes()), Err(NotHttp), "{bytes}");
        }
        assert_eq!(parse(&[b"HTTP/1.1 200 OK\r\nA: ", &vec![b'x'; BYTES_MAX][..]].concat()), Err(NotHttp));
    }
}
