//! Server-sent events, as the HTML standard reads them. In: bytes, split anywhere. Out: events.
//! Never: hands out an event whose empty line has not come, keeps more than one unfinished event.

use super::BadAnswer;

/// The longest event that is read.
pub(super) const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its `event` field; none means `message`.
    pub(crate) name: Option<String>,
    /// Its `data` lines, joined by newlines.
    pub(crate) data: String,
    /// Its own `id` field.
    pub(crate) id: Option<String>,
}

/// An incremental parser.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last byte was a CR: an LF right behind it ends no further line.
    after_cr: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes, hands out the events that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, BadAnswer> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            self.after_cr = byte == b'\r';
        }
        if self.line.len() + self.event.data.len() > EVENT_BYTES_MAX {
            return Err(BadAnswer::EventTooLong);
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<Event> {
        if self.line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let line = String::from_utf8_lossy(&self.line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = Some(value.to_owned()),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            _ => {} // comments, heartbeats among them, and fields that the standard ignores
        }
        self.line.clear();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Event> {
        Parser::default().feed(text.as_bytes()).unwrap()
    }

    #[test]
    fn fields_comments_and_line_ends_are_read_as_the_standard_says() {
        let events = parse(": hi\n\nevent: delta\rid: 7\r\ndata:  two\ndata\ndata:three\n\nretry: 5\n\n");
        let delta = Event { name: Some("delta".into()), data: " two\n\nthree".into(), id: Some("7".into()) };
        assert_eq!(events, [delta]);
    }

    #[test]
    fn an_event_without_its_empty_line_is_not_handed_out() {
        assert_eq!(parse("data: half\n"), []);
    }

    #[test]
    fn an_empty_data_line_is_an_event() {
        assert_eq!(parse("data:\n\n"), [Event::default()]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(BadAnswer::EventTooLong));
    }
}
