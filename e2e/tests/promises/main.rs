//! The promises that handoffd makes, each kept by a test that runs the real binaries. One promise a file.

#![forbid(unsafe_code)]

mod a_handoff_becomes_a_stream;
mod curl_gets_a_stream_through_the_front;
mod the_documented_examples_are_true;
