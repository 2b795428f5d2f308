//! What the configuration says for one virtual host. In: directives and their arguments. Out: valid values.
//! Never: keeps a value that was not set, so that a virtual host inherits each by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

const MILLISECONDS_MAX: u64 = 60_000;
const RETRIES_MAX: u32 = 10;
const HEADERS_MAX: usize = 64;
const DEFAULT_PREFIX: &str = "/var/run/";
const DEFAULT_HEADERS: [&str; 4] = ["last-event-id", "origin", "traceparent", "tracestate"];

/// A directive that is On or Off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    Enabled,
    Body,
    Envelope,
    Relay,
}

/// A directive with one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    AllowedPrefix,
    ConnectTimeoutMs,
    SendTimeoutMs,
    MaxRetries,
}

/// What was set here; all else is inherited, and in the end the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    enabled: Option<bool>,
    prefix: Option<PathBuf>,
    connect_timeout: Option<Duration>,
    send_timeout: Option<Duration>,
    retries: Option<u32>,
    body: Option<bool>,
    envelope: Option<bool>,
    /// Names in lower case.
    headers: Option<Vec<String>>,
    relay: Option<bool>,
}

impl Settings {
    pub(crate) fn switch(&mut self, switch: Switch, on: bool) {
        let setting = match switch {
            Switch::Enabled => &mut self.enabled,
            Switch::Body => &mut self.body,
            Switch::Envelope => &mut self.envelope,
            Switch::Relay => &mut self.relay,
        };
        *setting = Some(on);
    }

    /// # Errors
    /// A sentence about what is allowed; httpd puts file and line before it.
    pub(crate) fn set(&mut self, value: Value, argument: &str) -> Result<(), String> {
        match value {
            Value::AllowedPrefix => self.prefix = Some(prefix(argument)?),
            Value::ConnectTimeoutMs => {
                self.connect_timeout = Some(milliseconds("SocketHandoffConnectTimeoutMs", argument)?);
            }
            Value::SendTimeoutMs => {
                self.send_timeout = Some(milliseconds("SocketHandoffSendTimeoutMs", argument)?);
            }
            Value::MaxRetries => self.retries = Some(retries(argument)?),
        }
        Ok(())
    }

    /// The request headers that the daemon is told.
    ///
    /// # Errors
    /// A sentence that names what is no header's name.
    pub(crate) fn forward<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let names: Vec<String> = names.map(str::to_ascii_lowercase).collect();
        if names.len() > HEADERS_MAX {
            return Err(format!("SocketHandoffForwardHeaders takes at most {HEADERS_MAX} names"));
        }
        if let Some(bad) = names.iter().find(|name| !is_header_name(name)) {
            return Err(format!(
                "SocketHandoffForwardHeaders takes names of request headers, or None, not \"{bad}\""
            ));
        }
        if names.iter().any(|name| name == "none") && names.len() > 1 {
            return Err(
                "SocketHandoffForwardHeaders takes names of request headers, or None alone".to_owned()
            );
        }
        self.headers = Some(names.into_iter().filter(|name| name != "none").collect());
        Ok(())
    }

    /// These settings, and where they say nothing, those of `base`.
    pub(crate) fn over(&self, base: &Self) -> Self {
        let new = self.clone();
        let base = base.clone();
        Self {
            enabled: new.enabled.or(base.enabled),
            prefix: new.prefix.or(base.prefix),
            connect_timeout: new.connect_timeout.or(base.connect_timeout),
            send_timeout: new.send_timeout.or(base.send_timeout),
            retries: new.retries.or(base.retries),
            body: new.body.or(base.body),
            envelope: new.envelope.or(base.envelope),
            headers: new.headers.or(base.headers),
            relay: new.relay.or(base.relay),
        }
    }

    pub(crate) fn enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }

    /// Beneath which sockets must be; empty: anywhere.
    pub(crate) fn prefix(&self) -> &Path {
        self.prefix.as_deref().unwrap_or(Path::new(DEFAULT_PREFIX))
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or(Duration::from_millis(100))
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.send_timeout.unwrap_or(Duration::from_millis(200))
    }

    pub(crate) fn retries(&self) -> u32 {
        self.retries.unwrap_or(2)
    }

    /// A response's body may be the payload.
    pub(crate) fn body(&self) -> bool {
        self.body.unwrap_or(true)
    }

    pub(crate) fn envelope(&self) -> bool {
        self.envelope.unwrap_or(true)
    }

    /// Whether this request header, in lower case, is told.
    pub(crate) fn forwards(&self, name: &str) -> bool {
        match &self.headers {
            Some(names) => names.iter().any(|known| known == name),
            None => DEFAULT_HEADERS.contains(&name),
        }
    }

    /// Connections whose socket cannot be passed are relayed.
    pub(crate) fn relay(&self) -> bool {
        self.relay.unwrap_or(false)
    }
}

fn prefix(argument: &str) -> Result<PathBuf, String> {
    match argument.is_empty() || argument.starts_with('/') {
        true => Ok(PathBuf::from(argument)),
        false => Err(format!("SocketHandoffAllowedPrefix must be an absolute path, not \"{argument}\"")),
    }
}

fn retries(argument: &str) -> Result<u32, String> {
    let retries = argument.parse().ok().filter(|retries| *retries <= RETRIES_MAX);
    retries.ok_or_else(|| {
        format!("SocketHandoffMaxRetries must be between 0 and {RETRIES_MAX}, not \"{argument}\"")
    })
}

fn milliseconds(name: &str, argument: &str) -> Result<Duration, String> {
    match argument.parse() {
        Ok(value @ 1..=MILLISECONDS_MAX) => Ok(Duration::from_millis(value)),
        Ok(_) | Err(_) => Err(format!("{name} must be between 1 and {MILLISECONDS_MAX}, not \"{argument}\"")),
    }
}

/// RFC 9110, section 5.6.2: a token.
fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_the_default() {
        let settings = Settings::default();
        assert!(settings.enabled() && settings.body() && settings.envelope() && !settings.relay());
        assert_eq!(settings.prefix(), Path::new("/var/run/"));
        assert_eq!(settings.connect_timeout(), Duration::from_millis(100));
        assert_eq!(settings.send_timeout(), Duration::from_millis(200));
        assert_eq!(settings.retries(), 2);
        assert!(settings.forwards("last-event-id"));
        assert!(!settings.forwards("cookie") && !settings.forwards("authorization"));
    }

    #[test]
    fn a_virtual_host_inherits_each_directive_by_itself() {
        let mut base = Settings::default();
        base.set(Value::AllowedPrefix, "/run/ours/").unwrap();
        base.set(Value::MaxRetries, "0").unwrap();
        base.switch(Switch::Relay, true);
        base.forward(["Cookie"].into_iter()).unwrap();
        let mut host = Settings::default();
        host.set(Value::ConnectTimeoutMs, "50").unwrap();
        host.switch(Switch::Enabled, false);
        let merged = host.over(&base);
        assert_eq!(merged.prefix(), Path::new("/run/ours/"));
        assert_eq!((merged.retries(), merged.connect_timeout()), (0, Duration::from_millis(50)));
        assert!(merged.relay() && !merged.enabled() && merged.forwards("cookie"));
        assert_eq!(base.over(&host).connect_timeout(), Duration::from_millis(50));
    }

    #[test]
    fn a_bad_argument_is_named_with_what_is_allowed() {
        let refusal = |directive, argument| Settings::default().set(directive, argument).unwrap_err();
        for argument in ["0", "60001", "-1", "1s", "", " 5"] {
            assert!(refusal(Value::ConnectTimeoutMs, argument).contains("between 1 and 60000"));
            assert!(refusal(Value::SendTimeoutMs, argument).contains("SocketHandoffSendTimeoutMs"));
        }
        for argument in ["11", "-1", "two"] {
            assert!(refusal(Value::MaxRetries, argument).contains("between 0 and 10"));
        }
        assert!(refusal(Value::AllowedPrefix, "run").contains("absolute"));
        let refusal = |names: &[&str]| Settings::default().forward(names.iter().copied()).unwrap_err();
        assert!(refusal(&["Origin", "a b"]).contains("\"a b\""));
        assert!(refusal(&["None", "Origin"]).contains("None alone"));
    }

    #[test]
    fn none_forwards_nothing() {
        let mut settings = Settings::default();
        settings.forward(["None"].into_iter()).unwrap();
        assert!(!settings.forwards("last-event-id"));
    }
}
