//! Any bytes from a site are a request or a refusal.
#![no_main]

use handoff_worker::request::{method_of, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = method_of(bytes);
    if let Ok(request) = parse(bytes) {
        let _ = request.last_user_text();
        let _ = request.already_finished();
    }
});
