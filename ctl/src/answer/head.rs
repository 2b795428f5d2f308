//! The head of an HTTP/1 response. In: the bytes so far. Out: status and headers, once they are whole.
//! Never: interprets a body, joins repeated headers.

use std::fmt;

use super::BadAnswer;

/// The longest head that is read.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A response's status line and headers; `Display` gives them back as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The status code.
    pub(crate) status: u16,
    /// The reason phrase.
    pub(crate) reason: String,
    version: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The head and its length, the empty line included; nothing while that line has not come.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadAnswer> {
        if !bytes.starts_with(&b"HTTP/1."[..bytes.len().min(7)]) {
            return Err(BadAnswer::NoHead);
        }
        let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
            let too_long = bytes.len() > HEAD_BYTES_MAX;
            return if too_long { Err(BadAnswer::HeadTooLong) } else { Ok(None) };
        };
        let text = String::from_utf8_lossy(&bytes[..end]);
        let head = Self::from_lines(text.split("\r\n")).ok_or(BadAnswer::NoHead)?;
        Ok(Some((head, end + HEAD_END.len())))
    }

    fn from_lines<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut status_line = lines.next()?.splitn(3, ' ');
        let version = status_line.next()?.to_owned();
        let status = status_line.next()?.parse().ok()?;
        let reason = status_line.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        let headers = lines.map(header).collect::<Option<_>>()?;
        Some(Self { status, reason, version, headers })
    }

    /// The first header of this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether events follow.
    pub(crate) fn is_event_stream(&self) -> bool {
        self.header("content-type").is_some_and(|value| value.starts_with("text/event-stream"))
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.version, self.status, self.reason)?;
        self.headers.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_in_any_case() {
        let (head, length) =
            Head::parse(b"HTTP/1.1 429 Too Many\r\nretry-AFTER:  7 \r\n\r\nrest").unwrap().unwrap();
        assert_eq!((head.status, head.reason.as_str(), length), (429, "Too Many", 43));
        assert_eq!(head.header("Retry-After"), Some("7"));
        assert_eq!(head.to_string(), "HTTP/1.1 429 Too Many\nretry-AFTER: 7\n");
    }

    #[test]
    fn what_is_no_http_is_said_at_its_first_wrong_byte() {
        assert_eq!(Head::parse(b"SSH-2.0"), Err(BadAnswer::NoHead));
        assert_eq!(Head::parse(b"HTTP/1.1 abc\r\n\r\n"), Err(BadAnswer::NoHead));
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Err(BadAnswer::NoHead));
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut bytes = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
        bytes.resize(HEAD_BYTES_MAX + 1, b'a');
        assert_eq!(Head::parse(&bytes), Err(BadAnswer::HeadTooLong));
    }
}
