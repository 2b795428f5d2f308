//! `handoffctl stream`: one handoff, as Apache does it, and its answer.
//! In: a prompt, or a payload as it is. Out: the answer, token by token, as a client of the site would see it.
//! Never: keeps the daemon's end of the connection, calls a cut-off answer complete, except in the format `raw`: there
//! only the upstream's own language says what an end is, and the end of the connection is taken for it.

use std::fs;
use std::io::{self, Read, StdoutLock, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Map, Value, json};

use crate::answer::{BadAnswer, Decoder, ErrorMessage, Event, Format, Head, Meaning, Piece};
use crate::handover::HandoffSocket;
use crate::outcome::{Cut, Exit, Failure};

const HELP_TAIL: &str = "\
Exit codes:
  0  the answer is complete
  1  the answer is incomplete: an error event, or no end
  2  wrong usage
  3  the handoff could not be made: no socket, no permission, wrong kind, full backlog
  4  the answer is an HTTP error

Examples:
  handoffctl stream 'Why is the sky blue?'
  handoffctl stream --format openai --json 'Why?'
  handoffctl stream --backend claude --model claude-sonnet-4-5 --include usage,reasoning --json 'Why?'
  handoffctl stream --backend claude --format raw 'Why?'
  handoffctl stream --mock-length 5 --mock-fail-at 3 'Why?'
  handoffctl stream --head
  jq -n '{messages:[{role:\"user\",content:\"Why?\"}]}' | handoffctl stream --file -";

/// What to hand over, and how to show the answer.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP_TAIL)]
pub(crate) struct Args {
    /// What to ask
    #[arg(required_unless_present_any = ["file", "head"])]
    prompt: Option<String>,
    #[command(flatten)]
    socket: HandoffSocket,
    /// How the daemon writes its events; with --file, how to read them
    #[arg(short, long, value_enum, default_value = "content")]
    format: Format,
    /// Print each event as a line of JSON: event, data, id, at_ms (since the handoff)
    #[arg(long)]
    json: bool,
    /// Ask with the method HEAD and print the response head only
    #[arg(long, conflicts_with_all = ["file", "json"])]
    head: bool,
    /// Send this file's bytes (- for stdin) as the payload, as they are
    #[arg(long, value_name = "PATH", conflicts_with_all = ["prompt", "system", "backend", "model", "include", "user_id", "Mock"])]
    file: Option<PathBuf>,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The backend to ask, by its name in the configuration
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// The model to ask; without --backend it also decides who is asked
    #[arg(long)]
    model: Option<String>,
    /// What the answer carries besides text; to be seen with --json
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT,…")]
    include: Vec<Include>,
    /// The user, for the daemon's log
    #[arg(long, value_name = "ID")]
    user_id: Option<String>,
    /// Print the response head to stderr
    #[arg(long)]
    show_head: bool,
    /// The longest silence to put up with, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    #[command(flatten)]
    mock: Mock,
}

/// What an answer may carry besides its text.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Include {
    /// The model's thinking
    Reasoning,
    /// Calls of the site's tools
    ToolCalls,
    /// Why the answer ended
    FinishReason,
    /// Tokens spent
    Usage,
}

/// Wishes for the mock backend, where backend.mock.allow_request_options permits them.
#[derive(Debug, clap::Args)]
struct Mock {
    /// Mock backend: words in the answer
    #[arg(long, value_name = "WORDS")]
    mock_length: Option<u64>,
    /// Mock backend: milliseconds between two words
    #[arg(long, value_name = "MS")]
    mock_token_delay_ms: Option<u64>,
    /// Mock backend: milliseconds before the first word
    #[arg(long, value_name = "MS")]
    mock_first_token_delay_ms: Option<u64>,
    /// Mock backend: fail instead of sending this event; 1 is the first
    #[arg(long, value_name = "EVENT")]
    mock_fail_at: Option<u64>,
}

/// Hands over and shows the answer.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let payload = match &args.file {
        Some(path) => read_payload(path).map_err(|source| Failure::Input { path: path.clone(), source })?,
        None => args.payload().to_string().into_bytes(),
    };
    let (client, server) = loopback_pair().map_err(Failure::Loopback)?;
    args.socket.hand_over(&payload, &server)?;
    drop(server); // the daemon's now: with a copy of ours open, its end would never reach the client
    let silence_max = Duration::from_secs(args.timeout);
    client.set_read_timeout(Some(silence_max)).map_err(Failure::Loopback)?;

    let mut view = View::new(args);
    let shown = show(client, &mut view, silence_max);
    view.end_line()?;
    shown.map(|()| Exit::Complete)
}

impl Args {
    fn payload(&self) -> Value {
        let mut payload = without_nulls(json!({
            "prompt": self.prompt,
            "format": self.format.name(),
            "method": self.head.then_some("HEAD"),
            "system": self.system,
            "backend": self.backend,
            "model": self.model,
            "user_id": self.user_id,
        }));
        if !self.include.is_empty() {
            let names = self.include.iter().map(|include| include.name()).collect::<Value>();
            payload.insert("include".into(), names);
        }
        let mock = without_nulls(json!({
            "length": self.mock.mock_length,
            "token_delay_ms": self.mock.mock_token_delay_ms,
            "first_token_delay_ms": self.mock.mock_first_token_delay_ms,
            "fail_at": self.mock.mock_fail_at,
        }));
        if !mock.is_empty() {
            payload.insert("mock".into(), mock.into());
        }
        payload.into()
    }
}

impl Include {
    /// The name that a payload uses.
    fn name(self) -> &'static str {
        match self {
            Self::Reasoning => "reasoning",
            Self::ToolCalls => "tool_calls",
            Self::FinishReason => "finish_reason",
            Self::Usage => "usage",
        }
    }
}

fn without_nulls(object: Value) -> Map<String, Value> {
    let Value::Object(mut object) = object else { return Map::new() };
    object.retain(|_, value| !value.is_null());
    object
}

fn read_payload(path: &Path) -> io::Result<Vec<u8>> {
    if path != Path::new("-") {
        return fs::read(path);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A client's end and the end that Apache would have accepted, with the options that Apache sets.
fn loopback_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let ours = client.local_addr()?;
    // Whoever else found the port in this moment is not our client.
    let server = loop {
        let (server, peer) = listener.accept()?;
        if peer == ours {
            break server;
        }
    };
    server.set_nonblocking(true)?;
    server.set_nodelay(true)?;
    setsockopt(&server, sockopt::KeepAlive, &true)?;
    Ok((client, server))
}

/// Reads the answer to the end of the connection; complete or not, what came is shown.
fn show(mut client: TcpStream, view: &mut View<'_>, silence_max: Duration) -> Result<(), Failure> {
    let mut decoder = if view.is_verbatim() { Decoder::verbatim() } else { Decoder::new() };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match client.read(&mut buffer) {
            Ok(0) => return view.verdict(decoder.body()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Cut::Silence(silence_max))?,
            Err(error) => Err(Cut::Broken(error))?,
        };
        for piece in decoder.feed(&buffer[..length]).map_err(Cut::from)? {
            match piece {
                Piece::Head(head) => view.head(head)?,
                Piece::Bytes(bytes) => view.print(&bytes)?,
                Piece::Event(event) => view.event(&event)?,
            }
        }
    }
}

/// The terminal, and what it has shown so far.
struct View<'a> {
    args: &'a Args,
    out: StdoutLock<'static>,
    handed_over_at: Instant,
    head: Option<Head>,
    line_is_open: bool,
    ended: bool,
    error: Option<ErrorMessage>,
}

impl<'a> View<'a> {
    fn new(args: &'a Args) -> Self {
        let out = io::stdout().lock();
        let handed_over_at = Instant::now();
        Self { args, out, handed_over_at, head: None, line_is_open: false, ended: false, error: None }
    }

    /// The stream is printed as it comes.
    fn is_verbatim(&self) -> bool {
        self.args.format == Format::Raw && !self.args.json
    }

    fn head(&mut self, head: Head) -> Result<(), Failure> {
        if self.args.head {
            self.print(head.to_string().as_bytes())?;
        } else if self.args.show_head {
            eprintln!("{head}");
        }
        self.head = Some(head);
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        let meaning = self.args.format.meaning(event);
        if self.args.json {
            let name = event.name.as_deref().unwrap_or("message");
            let at_ms = self.handed_over_at.elapsed().as_millis();
            let line = json!({"event": name, "data": event.data, "id": event.id, "at_ms": at_ms});
            self.print(format!("{line}\n").as_bytes())?;
        }
        match meaning {
            Meaning::Text(text) if !self.args.json => self.print(text.as_bytes())?,
            Meaning::Text(_) | Meaning::Other => {}
            Meaning::End => self.ended = true,
            Meaning::Error(error) => self.error = Some(error),
        }
        Ok(())
    }

    /// What the connection's end makes of the answer.
    fn verdict(&mut self, body: &[u8]) -> Result<(), Failure> {
        let head = self.head.take().ok_or(Cut::NoAnswer)?;
        if head.status >= 400 {
            let message = ErrorMessage::parse(body)
                .map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), |error| error.to_string());
            return Err(Failure::Refused { head, message });
        }
        if let Some(error) = self.error.take() {
            return Err(Cut::ErrorEvent(error).into());
        }
        if self.args.head || self.ended {
            return Ok(());
        }
        if head.status == 204 {
            eprintln!("handoffctl: nothing to tell: this stream had already ended (204)");
            return Ok(());
        }
        if head.is_event_stream() {
            return Err(Cut::NoEnd.into());
        }
        let content_type = head.header("content-type").unwrap_or("none").to_owned();
        Err(Cut::from(BadAnswer::NoStream(content_type)).into())
    }

    fn print(&mut self, text: &[u8]) -> Result<(), Failure> {
        if let Some(last) = text.last() {
            self.line_is_open = *last != b'\n';
        }
        self.out.write_all(text).and_then(|()| self.out.flush()).map_err(Failure::Output)
    }

    fn end_line(&mut self) -> Result<(), Failure> {
        if self.line_is_open { self.print(b"\n") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["stream"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn the_payload_holds_what_was_asked_for_and_nothing_else() {
        assert_eq!(parse(&["hi"]).unwrap().payload(), json!({"prompt": "hi", "format": "content"}));
        let words = ["hi", "--format", "events", "--model", "m", "--mock-length", "3", "--mock-fail-at", "2"];
        let expected =
            json!({"prompt": "hi", "format": "events", "model": "m", "mock": {"length": 3, "fail_at": 2}});
        assert_eq!(parse(&words).unwrap().payload(), expected);
        let words = [
            "hi",
            "--format",
            "raw",
            "--backend",
            "b",
            "--include",
            "usage,tool_calls",
            "--include",
            "reasoning",
        ];
        let expected = json!({
            "prompt": "hi", "format": "raw", "backend": "b", "include": ["usage", "tool_calls", "reasoning"],
        });
        assert_eq!(parse(&words).unwrap().payload(), expected);
        assert_eq!(parse(&["--head"]).unwrap().payload(), json!({"format": "content", "method": "HEAD"}));
    }

    #[test]
    fn a_file_is_sent_as_it_is_or_not_at_all() {
        assert!(parse(&["--file", "-"]).is_ok());
        for others in [
            &["hi"][..],
            &["--head"],
            &["--model", "m"],
            &["--backend", "b"],
            &["--include", "usage"],
            &["--mock-length", "3"],
        ] {
            assert!(parse(&[&["--file", "-"], others].concat()).is_err(), "{others:?}");
        }
        assert!(parse(&[]).is_err());
    }

    #[test]
    fn the_daemons_end_has_the_options_that_apache_sets() {
        let (client, server) = loopback_pair().unwrap();
        assert_eq!(client.local_addr().unwrap(), server.peer_addr().unwrap());
        assert!(server.nodelay().unwrap());
        assert_eq!((&server).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
