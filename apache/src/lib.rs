//! mod_socket_handoff: an Apache module that passes a client's socket to handoffd.
