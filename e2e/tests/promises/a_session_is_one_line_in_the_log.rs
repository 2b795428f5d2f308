//! One line a session, with everything but what was asked and answered.

use handoff_e2e::{Daemon, Options, eventually};
use serde_json::Value;

const SECRET: &str = "my-secret-question";

fn sessions(daemon: &Daemon) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "session ended").collect()
}

fn session(daemon: &Daemon, payload: &str) -> Value {
    let before = sessions(daemon).len();
    let _ = daemon.hand_over(payload).response();
    eventually("the line is written", || sessions(daemon).get(before).cloned())
}

#[test]
fn with_the_documented_fields() {
    let daemon = Daemon::start("");
    let line =
        session(&daemon, r#"{"prompt":"x","user_id":7,"request_id":"r-1","model":"m","mock":{"length":3}}"#);
    assert_eq!((&line["outcome"], &line["request_id"]), (&"complete".into(), &"r-1".into()), "{line}");
    assert_eq!(
        (&line["user_id"], &line["backend"], &line["model"]),
        (&"7".into(), &"mock".into(), &"m".into()),
        "{line}"
    );
    for number in ["events", "bytes", "first_byte_ms", "duration_ms", "slot", "generation"] {
        assert!(line[number].is_number(), "{number} of {line}");
    }
    assert!(line["bytes"].as_u64() > Some(100) && line["events"].as_u64() >= Some(3), "{line}");
    assert_eq!(line["level"], "INFO", "{line}");
    let refused = session(&daemon, "no JSON");
    assert_eq!(refused["outcome"], "refused", "{refused}");
    let failed = session(&daemon, r#"{"prompt":"x","mock":{"fail_at":2}}"#);
    assert_eq!(failed["outcome"], "upstream_failed", "{failed}");
    assert!(failed["error"].is_string(), "{failed}");
    let defaults = session(&daemon, r#"{"prompt":"x","mock":{"length":1}}"#);
    assert_eq!(
        (&defaults["model"], &defaults["request_id"]),
        (&"gpt-4o".into(), &defaults["lease"]),
        "{defaults}"
    );
    assert_eq!(sessions(&daemon).len(), 4, "one line each");
}

#[test]
fn without_the_prompt_even_at_the_finest_level() {
    let toml = "[logging]\nformat = \"json\"\nlevel = \"trace\"\n".to_owned();
    let env = vec![("OPENAI_API_KEY".to_owned(), "sk-very-secret".to_owned())];
    let daemon = Daemon::with(&Options { toml, env, ..Options::default() });
    for payload in [
        format!(r#"{{"prompt":"{SECRET}"}}"#),
        format!(r#"{{"messages":[{{"role":"user","content":"{SECRET}"}}]}}"#),
        format!(r#"{{"system":"{SECRET}","prompt":"{SECRET}","temperature":"hot"}}"#),
        format!(r#"{{"prompt":"{SECRET}","#),
        SECRET.to_owned(),
    ] {
        session(&daemon, &payload);
    }
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains(SECRET) || line.contains("sk-very-secret"));
    assert_eq!(line, None);
}

#[test]
fn with_the_prompt_only_where_it_is_switched_on() {
    let daemon = Daemon::start("[logging]\nformat = \"json\"\nlevel = \"info\"\nprompts = true\n");
    let line = session(&daemon, &format!(r#"{{"prompt":"{SECRET}","mock":{{"length":1}}}}"#));
    assert_eq!(line["prompt"], SECRET, "{line}");
}

#[test]
fn for_people_it_is_one_line_too() {
    let daemon = Daemon::start("[logging]\nformat = \"pretty\"\nlevel = \"info\"\n");
    assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
    let line = eventually("the line is written", || {
        daemon.log().lines().find(|line| line.contains("session ended")).map(str::to_owned)
    });
    assert!(line.contains("outcome=\"complete\"") && line.contains(" INFO "), "{line}");
    assert!(!daemon.log().contains('\u{1b}'), "colours in a file");
}
