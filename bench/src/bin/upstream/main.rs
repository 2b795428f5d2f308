//! The fastest scripted LLM server that we can write, so that what is measured behind it is handoffd.
//!
//! In: requests of any kind, on any path. Out: to each the same answer, as OpenAI's chat completions stream it: a head, a
//! chunk with the role, N tokens at their times, a finish reason, `data: [DONE]`.
//! Speaks HTTP/2 (prior knowledge, or ALPN under TLS) or, with `--h1`, HTTP/1.1. One thread, one epoll loop; what is due
//! at one moment on one connection goes out in one write.
//! Never: reads what is asked (no header is decoded, no body kept), sends beyond a window of the client's, keeps more
//! output than a client takes, outlives its standard input.

#![forbid(unsafe_code)]

mod http1;
mod http2;
mod link;
mod schedule;
mod script;
mod server;
mod tls;

use std::num::NonZeroU32;
use std::process::ExitCode;

use clap::Parser;
use handoff_bench::{announce, raise_file_limit};

use crate::server::Server;

/// Answers every request with the same stream of tokens, as an LLM would
///
/// Prints one line when it is ready: `upstream listens on URL`; with --tls, `upstream listens on URL with CA_FILE`. Ends by
/// SIGTERM or SIGINT, or when its standard input does.
#[derive(Debug, Parser)]
struct Arguments {
    /// An address and port, or the absolute path of a Unix socket; a socket that is there is replaced
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// TLS with a certificate of its own; the file to trust it by is printed
    #[arg(long)]
    tls: bool,
    /// HTTP/1.1 instead of HTTP/2
    #[arg(long)]
    h1: bool,
    /// Tokens of an answer
    #[arg(long, default_value_t = 19)]
    events: u32,
    /// Milliseconds from the request to the first token
    #[arg(long, default_value_t = 0)]
    first_ms: u64,
    /// Milliseconds from one token to the next; 0: all at once
    #[arg(long, default_value_t = 0)]
    interval_ms: u64,
    /// What is due within so many milliseconds goes out together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    tick_ms: u64,
    /// Streams that a connection may have; further ones are refused (HTTP/2)
    #[arg(long)]
    max_concurrent_streams: Option<NonZeroU32>,
    /// Each token is ` @` and the nanoseconds of CLOCK_MONOTONIC when it was written
    #[arg(long, conflicts_with = "token")]
    stamp: bool,
    /// The text of each token
    #[arg(long, default_value = " token")]
    token: String,
    /// A chunk with the usage, as for those who ask for it
    #[arg(long)]
    usage: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    raise_file_limit();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("upstream: {}: {error}", arguments.listen);
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> std::io::Result<()> {
    // Its file is there for as long as we are.
    let identity = arguments.tls.then(|| tls::identity(arguments.h1)).transpose()?;
    let mut server = Server::open(arguments, identity.as_ref().map(|identity| identity.config.clone()))?;
    let ca_file = identity.as_ref().map(|identity| format!(" with {}", identity.ca_file.path().display()));
    announce(&format!("upstream listens on {}{}", server.url()?, ca_file.unwrap_or_default()))?;
    server.run()
}
