//! However a body is cut, its events are the same. The first byte says how: its framing, its bound, its pieces.
#![no_main]

use handoff_worker::upstream::event_reader::{EventReader, Framing, TooLarge};
use libfuzzer_sys::fuzz_target;

type Seen = (Option<String>, String, Vec<u8>);

fn read<'a>(
    mut reader: EventReader,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Seen>, Result<(), TooLarge>) {
    let mut seen = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(event)) => seen.push((
                    event.name.map(str::to_owned),
                    event.data.clone().into_owned(),
                    event.raw.to_vec(),
                )),
                Ok(None) => break,
                Err(too_large) => return (seen, Err(too_large)),
            }
        }
    }
    if let Some(event) = reader.rest() {
        seen.push((event.name.map(str::to_owned), event.data.clone().into_owned(), event.raw.to_vec()));
    }
    (seen, Ok(()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, body)) = bytes.split_first() else { return };
    let framing = if how & 1 == 0 { Framing::ServerSentEvents } else { Framing::Lines };
    let bytes_max = if how & 2 == 0 { 1 << 20 } else { 16 };
    let reader = || EventReader::new(framing, bytes_max);
    let whole = read(reader(), std::iter::once(body).filter(|body| !body.is_empty()));
    assert_eq!(read(reader(), body.chunks(usize::from(how >> 2) + 1)), whole);
});
