//! What a site with a real Apache is promised, in both of its worlds: prefork with mod_php, event with php-fpm. One
//! promise a file.

#![forbid(unsafe_code)]

mod pages;

mod a_503_says_when_to_come_back;
mod a_bug_in_the_module_costs_one_request;
mod a_burst_waits_its_turn;
mod a_connection_that_cannot_be_passed_is_refused_or_relayed;
mod a_daemon_is_told_of_the_request;
mod a_handoff_of_php_is_a_whole_answer;
mod a_module_that_is_removed_stops_no_apache;
mod a_page_that_dies_is_no_answer;
mod a_page_without_a_handoff_is_untouched;
mod a_question_stays_out_of_apaches_memory;
mod a_refused_page_says_nothing_more;
mod a_relayed_answer_ends_as_the_daemons_does;
mod a_site_of_the_c_module_works_with_ours;
mod an_outcome_is_one_line_in_each_log;
mod apache_lets_go_of_the_client_at_once;
mod apache_may_restart_and_stop;
mod apaches_processes_keep_nothing;
mod apaches_workers_are_free_while_answers_stream;
mod handoff_headers_never_reach_a_client;
mod head_gets_the_head_alone;
mod no_filter_changes_the_payload;
mod only_sockets_beneath_the_prefix_are_handed_to;
mod the_connection_is_the_daemons_alone;
mod the_directives_do_what_they_say;
mod the_doctor_foretells_what_apache_does;
mod the_documentation_is_true;
mod the_first_daemon_that_is_there_answers;
mod the_payload_arrives_to_the_byte;
mod what_php_does_not_hand_over_is_passed_on;
mod whoever_sets_the_headers_is_handed_over;
