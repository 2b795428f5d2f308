use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const ENOUGH: usize = 1 << 20;

/// Name, data, raw.
type Seen = (Option<String>, String, Vec<u8>);

fn own(event: &RawEvent<'_>) -> Seen {
    (event.name.map(str::to_owned), event.data.clone().into_owned(), event.raw.to_vec())
}

fn drain(reader: &mut EventReader, seen: &mut Vec<Seen>) -> Result<(), TooLarge> {
    while let Some(event) = reader.next()? {
        seen.push(own(&event));
    }
    Ok(())
}

/// All events of these pieces, and what was left.
fn read_pieces<'a>(
    framing: Framing,
    bytes_max: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Seen>, Result<Option<Seen>, TooLarge>) {
    let mut reader = EventReader::new(framing, bytes_max);
    let mut seen = Vec::new();
    for piece in pieces {
        reader.push(piece);
        if let Err(too_large) = drain(&mut reader, &mut seen) {
            return (seen, Err(too_large));
        }
    }
    (seen, Ok(reader.rest().as_ref().map(own)))
}

fn events(body: &[u8]) -> Vec<(Option<String>, String)> {
    let (seen, rest) = read_pieces(Framing::ServerSentEvents, ENOUGH, [body]);
    // Here is no need to wait for the LF of a CRLF.
    let whole = rest.unwrap().filter(|_| body.ends_with(b"\n\r"));
    seen.into_iter().chain(whole).map(|(name, data, _)| (name, data)).collect()
}

fn data(body: &[u8]) -> Vec<String> {
    events(body).into_iter().map(|(_, data)| data).collect()
}

/// The standard's algorithm, word by word, over a whole body.
fn as_the_standard_says(body: &[u8]) -> Vec<(Option<String>, String)> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = body.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&&b'\n');
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            other => lines.last_mut().unwrap().push(*other),
        }
    }
    lines.pop();
    let (mut name, mut data, mut seen) = (None, String::new(), Vec::new());
    for line in lines {
        if line.is_empty() {
            if data.pop().is_some() {
                seen.push((name, data));
            }
            (name, data) = (None, String::new());
            continue;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (field, value) = (parts.next().unwrap(), parts.next().unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => data = data + &String::from_utf8_lossy(value) + "\n",
            b"event" => name = String::from_utf8(value.to_vec()).ok().filter(|name| !name.is_empty()),
            _ => {}
        }
    }
    seen
}

#[test]
fn lines_end_with_lf_cr_and_crlf_alike() {
    for body in [&b"data: a\n\ndata: b\n\n"[..], b"data: a\r\rdata: b\r\r", b"data: a\r\n\r\ndata: b\r\n\r\n"]
    {
        assert_eq!(data(body), ["a", "b"], "{}", body.escape_ascii());
        let (seen, _) = read_pieces(Framing::ServerSentEvents, ENOUGH, body.chunks(1));
        let raw: Vec<u8> = seen.into_iter().flat_map(|(.., raw)| raw).collect();
        assert_eq!(raw, body, "{}", body.escape_ascii());
    }
}

#[test]
fn an_event_is_lent_with_the_byte_that_ends_it() {
    for body in [&b"data: a\n\n"[..], b"data: a\r\r", b"data: a\r\n\r\n"] {
        let mut reader = EventReader::new(Framing::ServerSentEvents, ENOUGH);
        for byte in &body[..body.len() - 1] {
            reader.push(&[*byte]);
            assert_eq!(reader.next(), Ok(None), "{}", body.escape_ascii());
        }
        reader.push(&body[body.len() - 1..]);
        assert_eq!(reader.next().unwrap().unwrap().data, "a", "{}", body.escape_ascii());
    }
}

#[test]
fn fields_are_read_as_the_standard_says() {
    let no_name = |data: &str| (None, data.to_owned());
    let named = |name: &str, data: &str| (Some(name.to_owned()), data.to_owned());
    for (body, expected) in [
        ("\u{feff}data: a\n\n", vec![no_name("a")]),
        ("data:a\n\ndata:  a\n\n", vec![no_name("a"), no_name(" a")]),
        ("data: a\ndata: b\ndata\ndata:\n\n", vec![no_name("a\nb\n\n")]),
        ("data\n\ndata:\n\n", vec![no_name(""), no_name("")]),
        (": ping\n\nevent: ping\n\nid: 1\nretry: 3\n\n", vec![]),
        ("event: x\n\ndata: a\n\n", vec![no_name("a")]),
        ("event: x\nevent:y\ndata: a\n: c\nid: 7\n\n", vec![named("y", "a")]),
        ("event:\ndata: a\n\n", vec![no_name("a")]),
        ("Data: a\ndatas: b\n data: c\ndat: d\n\n", vec![]),
        ("data: a\0b\nevent: \0\n\n", vec![named("\0", "a\0b")]),
        ("\n\n\r\n\rdata: a\n\n", vec![no_name("a")]),
        ("data: {\"a\" : 1}  \n\n", vec![no_name("{\"a\" : 1}  ")]),
        ("data: a\n", vec![]),
    ] {
        assert_eq!(events(body.as_bytes()), expected, "{body:?}");
    }
}

#[test]
fn what_is_not_utf_8_is_replaced_and_what_is_cut_inside_a_character_is_not() {
    assert_eq!(data(b"data: a\xffb\n\n"), ["a\u{fffd}b"]);
    let body = "data: \u{1f980}é\n\n".as_bytes();
    let (seen, _) = read_pieces(Framing::ServerSentEvents, ENOUGH, body.chunks(1));
    assert_eq!(seen, [(None, "\u{1f980}é".to_owned(), body.to_vec())]);
}

#[test]
fn comments_before_an_event_belong_to_nobody_and_those_inside_to_it() {
    let body = b": OPENROUTER PROCESSING\n: again\nid: 3\n: inside\ndata: a\n\n";
    let (seen, _) = read_pieces(Framing::ServerSentEvents, ENOUGH, [&body[..]]);
    assert_eq!(seen[0].2, b"id: 3\n: inside\ndata: a\n\n");
}

#[test]
fn comments_without_end_are_not_too_large() {
    let mut reader = EventReader::new(Framing::ServerSentEvents, 64);
    for _ in 0..1000 {
        reader.push(b": keep-alive\n");
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.buffer.capacity() < 64);
    }
}

#[test]
fn an_event_that_never_ends_is_too_large_however_it_grows() {
    let endless: [&[u8]; 4] = [b"x", b"data: a\n", b": a\rdata:\r", b"event: a\n"];
    for piece in endless {
        for framing in [Framing::ServerSentEvents, Framing::Lines] {
            let piece = if framing == Framing::Lines { b"x" } else { piece };
            let (_, end) = read_pieces(framing, 1000, std::iter::repeat_n(piece, 1001));
            assert_eq!(end, Err(TooLarge { bytes_max: 1000 }), "{framing:?} {}", piece.escape_ascii());
        }
    }
}

#[test]
fn an_event_may_have_all_of_its_bytes_and_not_one_more() {
    let body = b"data: 123\r\n\r\n";
    for (bytes_max, fits) in [(body.len(), true), (body.len() - 1, false)] {
        for size in 1..=body.len() {
            let (seen, end) = read_pieces(Framing::ServerSentEvents, bytes_max, body.chunks(size));
            assert_eq!((seen.len() == 1, end.is_ok()), (fits, fits), "{bytes_max} {size}");
        }
    }
}

#[test]
fn nothing_follows_what_is_too_large() {
    let mut reader = EventReader::new(Framing::ServerSentEvents, 20);
    reader.push(b"data: a\n\ndata: a long way to go\n\ndata: b\n\n");
    assert_eq!(reader.next().unwrap().unwrap().data, "a");
    for _ in 0..2 {
        assert_eq!(reader.next(), Err(TooLarge { bytes_max: 20 }));
        reader.push(b"data: b\n\n");
        assert_eq!((reader.buffer.capacity(), reader.rest()), (0, None));
    }
}

#[test]
fn five_megabytes_byte_by_byte_are_read_once() {
    let mut reader = EventReader::new(Framing::ServerSentEvents, 16 << 20);
    let begun = std::time::Instant::now();
    let bytes = 5 << 20;
    reader.push(b"data: ");
    for byte in 0..bytes {
        reader.push(b"x");
        assert!(reader.next().unwrap().is_none());
        // Read anew for each byte it would be 13 TB: hours.
        assert!(
            byte % 1024 != 0 || begun.elapsed().as_secs() < 30,
            "{byte} bytes after {:?}",
            begun.elapsed()
        );
    }
    reader.push(b"\n\n");
    assert_eq!(reader.next().unwrap().unwrap().data.len(), bytes);
}

#[test]
fn memory_is_given_back_after_a_large_event_and_between_events() {
    let mut reader = EventReader::new(Framing::ServerSentEvents, 16 << 20);
    reader.push(b"data: ");
    reader.push(&vec![b'x'; 5 << 20]);
    reader.push(b"\n\ndata: half");
    assert!(reader.next().unwrap().is_some());
    assert_eq!(reader.next(), Ok(None));
    assert!(reader.buffer.capacity() <= SPARE_BYTES_MAX);
    reader.push(b"\n\n");
    assert_eq!(reader.next().unwrap().unwrap().data, "half");
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.buffer.capacity(), 0);
}

#[test]
fn the_rest_is_what_lacks_its_blank_line_which_is_added() {
    for (body, expected) in [
        (&b"data: a\n\ndata: b"[..], Some(("b", &b"data: b\n\n"[..]))),
        (b"data: b\n", Some(("b", b"data: b\n\n"))),
        (b"data: b\r", Some(("b", b"data: b\r\n\n"))),
        (b"data: b\r\n", Some(("b", b"data: b\r\n\n"))),
        (b"data: b\r\n\r", Some(("b", b"data: b\r\n\r"))),
        (b"data: b\n\n", None),
        (b": a\nevent: b\n", None),
        (b"", None),
    ] {
        let (_, rest) = read_pieces(Framing::ServerSentEvents, ENOUGH, [body]);
        let rest = rest.unwrap().map(|(_, data, raw)| (data, raw));
        let expected = expected.map(|(data, raw)| (data.to_owned(), raw.to_vec()));
        assert_eq!(rest, expected, "{}", body.escape_ascii());
        if let Some((data, raw)) = rest {
            assert_eq!(self::data(&raw), [data]);
        }
    }
}

#[test]
fn one_event_a_line_where_the_framing_says_so() {
    let body = b"\n{\"a\":1}\r\n  \n\r\n{\"b\"\r:2}\n{\"c\":3}";
    for size in 1..=body.len() {
        let (seen, rest) = read_pieces(Framing::Lines, ENOUGH, body.chunks(size));
        let expected = [("{\"a\":1}", "{\"a\":1}\r\n"), ("{\"b\"\r:2}", "{\"b\"\r:2}\n")];
        assert_eq!(seen, expected.map(|(data, raw)| (None, data.to_owned(), raw.as_bytes().to_vec())));
        assert_eq!(rest.unwrap().unwrap().2, b"{\"c\":3}\n");
    }
}

/// What streams are made of, so that properties meet the corners.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"data",
        b"event",
        b"id",
        b"retry",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"x",
        b"data: a\n",
        b"data: b\r\n",
        b"event: e\r",
        BYTE_ORDER_MARK,
        b"\xe2",
        b"\x82\xac",
        b"\0",
    ];
    vec(select(pieces), 0..40).prop_map(|pieces| pieces.concat())
}

fn cut<'a>(body: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = body;
    let mut sizes = sizes.iter();
    std::iter::from_fn(move || {
        let size = sizes.next().copied().unwrap_or(usize::MAX).min(rest.len());
        let (piece, behind) = rest.split_at(size);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

fn framing() -> impl Strategy<Value = Framing> {
    select(vec![Framing::ServerSentEvents, Framing::Lines])
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_events(
        body in body(), sizes in vec(1usize..9, 0..200), framing in framing(), bytes_max in 8usize..200,
    ) {
        let whole = read_pieces(framing, bytes_max, [&body[..]]);
        prop_assert_eq!(&read_pieces(framing, bytes_max, cut(&body, &sizes)), &whole);
        prop_assert_eq!(&read_pieces(framing, bytes_max, body.chunks(1)), &whole);
    }

    #[test]
    fn events_are_those_of_the_standard(body in body()) {
        prop_assert_eq!(events(&body), as_the_standard_says(&body));
    }

    #[test]
    fn the_bytes_of_all_events_are_the_same_events_again(body in body()) {
        let (seen, rest) = read_pieces(Framing::ServerSentEvents, ENOUGH, [&body[..]]);
        let all: Vec<Seen> = seen.into_iter().chain(rest.unwrap()).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|(.., raw)| raw.clone()).collect();
        let (mut again, rest) = read_pieces(Framing::ServerSentEvents, ENOUGH, [&bytes[..]]);
        again.extend(rest.unwrap().filter(|_| bytes.ends_with(b"\n\r")));
        prop_assert_eq!(again, all);
    }

    #[test]
    fn any_bytes_are_read_within_the_bound(
        pieces in vec(vec(any::<u8>(), 0..300), 0..30), framing in framing(), bytes_max in 1usize..300,
    ) {
        let mut reader = EventReader::new(framing, bytes_max);
        for piece in &pieces {
            reader.push(piece);
            let ended = drain(&mut reader, &mut Vec::new());
            prop_assert!(reader.buffer.len() <= bytes_max);
            prop_assert!(reader.buffer.capacity() <= bytes_max * 2 + SPARE_BYTES_MAX);
            prop_assert!(ended.is_ok() || reader.buffer.capacity() == 0);
        }
        reader.rest();
    }
}
