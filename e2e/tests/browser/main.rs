//! What people see: promises that are kept in a real browser. One promise a file.

#![forbid(unsafe_code)]

mod a_failure_never_looks_like_an_answer;
mod a_reload_goes_unseen;
mod an_answer_appears_word_by_word;
mod an_answer_is_paid_for_once;
mod chat;
mod page;
mod pages_of_today_show_the_answer;
mod site;
mod stop_stops_everything;
mod the_chat_streams_and_recovers;
