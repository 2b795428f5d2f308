//! The files of `examples/`, as they are, against a real daemon. One file is one promise.

#![forbid(unsafe_code)]

mod a_shell_can_read_an_answer;
mod another_server_hands_its_socket_over;
