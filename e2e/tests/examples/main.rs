//! The files of `examples/`, as they are, against a real daemon. One file is one promise.

#![forbid(unsafe_code)]

mod a_shell_can_read_an_answer;
mod a_site_with_the_c_module_stays_as_it_is;
mod another_server_hands_its_socket_over;
