//! What people see: promises that are kept in a real browser. One promise a file.

#![forbid(unsafe_code)]

mod a_failure_never_looks_like_an_answer;
mod an_answer_appears_word_by_word;
mod page;
mod stop_stops_everything;
