//! The promises that handoffd makes, each kept by a test that runs the real binaries. One promise a file.

#![forbid(unsafe_code)]

mod a_bad_payload_is_answered_with_an_error;
mod a_client_that_does_not_read_harms_nobody;
mod a_client_that_leaves_is_noticed_at_once;
mod a_failed_answer_says_so_once;
mod a_half_closed_client_has_left_unless_it_is_served;
mod a_handoff_becomes_a_stream;
mod a_storm_of_handoffs_is_answered;
mod an_envelope_comes_before_the_payload;
mod curl_gets_a_stream_through_the_front;
mod every_format_is_written_to_the_byte;
mod only_allowed_peers_hand_over;
mod only_stream_sockets_are_clients;
mod silence_is_filled_with_heartbeats;
mod silent_peers_hinder_nobody;
mod the_documented_examples_are_true;
mod the_site_shapes_the_head;
mod the_socket_file_is_ours_alone;
mod unread_request_bytes_never_cost_the_tail;
