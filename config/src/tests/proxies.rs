//! Which proxy a backend has, and whose certificates it trusts: what the environment says to all programs.

use super::load;
use crate::Config;
use crate::backend::Kind;
use crate::cli::Cli;

fn config(base: &str, line: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let text = format!("[backends.x]\nkind = \"openai\"\napi_base = \"{base}\"\n{line}");
    load(&text, variables, &Cli::default()).map_err(|error| error.to_string())
}

/// The proxy of a backend with this base address, this further line and these variables.
#[track_caller]
fn proxy(base: &str, line: &str, variables: &[(&str, &str)]) -> Option<String> {
    let config = config(base, line, variables).unwrap();
    let Kind::Api(api) = &config.backends.find("x").unwrap().kind else { panic!("an API") };
    api.connection.proxy.as_ref().map(|proxy| proxy.address.expose().to_owned())
}

#[test]
fn the_environment_decides_as_for_curl() {
    let of = |base, variables: &[(&str, &str)]| proxy(base, "", variables).unwrap_or_default();
    let all = [
        ("https_proxy", "http://a:1"),
        ("HTTPS_PROXY", "http://b:1"),
        ("http_proxy", "http://c:1"),
        ("HTTP_PROXY", "http://d:1"),
        ("all_proxy", "http://e:1"),
        ("ALL_PROXY", "http://f:1"),
    ];
    for (first, of_https, of_http) in [
        (0, "http://a:1", "http://c:1"),
        (1, "http://b:1", "http://c:1"),
        (2, "http://e:1", "http://c:1"),
        (3, "http://e:1", "http://e:1"),
        (5, "http://f:1", "http://f:1"),
    ] {
        assert_eq!(of("https://api.example", &all[first..]), of_https);
        assert_eq!(of("http://api.example", &all[first..]), of_http);
    }
    assert_eq!(of("http://api.example", &[("HTTP_PROXY", "http://d:1")]), "");
    assert_eq!(
        of("https://api.example", &[("https_proxy", ""), ("ALL_PROXY", "p.example:3128/")]),
        "http://p.example:3128"
    );
    assert_eq!(of("https://api.example", &[("https_proxy", "https://u:p@[::1]:8")]), "https://u:p@[::1]:8");
}

#[test]
fn the_backends_own_word_wins_over_the_environments() {
    let variables = [("ALL_PROXY", "http://e:1")];
    assert_eq!(proxy("http://a", "proxy = \"\"", &variables), None);
    assert_eq!(proxy("http://a", "proxy = \"http://own:2\"", &variables).as_deref(), Some("http://own:2"));
    assert_eq!(proxy("http://a", "socket = \"/s\"", &variables), None);
}

#[test]
fn no_proxy_names_hosts_domains_addresses_and_networks() {
    for (base, list, is_excepted) in [
        ("https://a.example", "*", true),
        ("https://a.example", "b.example, a.example", true),
        ("https://a.example", "example", true),
        ("https://a.example", ".example", true),
        ("https://A.Example", "a.eXample.", true),
        ("https://aexample", "example", false),
        ("https://a.example", "a", false),
        ("https://a.example", "a.example:443", true),
        ("https://a.example", "a.example:444", false),
        ("https://a.example", "", false),
        ("https://a.example", ".", false),
        ("http://127.0.0.1:8", "localhost 127.0.0.1", true),
        ("http://127.0.0.1:8", "127.0.0.1:8", true),
        ("http://127.0.0.1:8", "127.0.0.1:9", false),
        ("http://127.0.0.1:8", "0.0.1", false),
        ("http://10.1.2.3", "10.0.0.0/8", true),
        ("http://11.1.2.3", "10.0.0.0/8", false),
        ("http://10.1.2.3", "0.0.0.0/0", true),
        ("http://10.1.2.3", "10.1.2.3/32", true),
        ("http://10.1.2.3", "10.1.2.3/33", false),
        ("http://[fd00::1]", "fd00::1", true),
        ("http://[fd00::1]:8", "[fd00::1]:8", true),
        ("http://[fd00::1]:8", "[fd00::1]:9", false),
        ("http://[fd00::1]", "fd00::/8", true),
        ("http://[fd00::1]", "::/0", true),
        ("http://[fe00::1]", "fd00::/8", false),
        ("http://10.1.2.3", "::/0", false),
    ] {
        for variable in ["no_proxy", "NO_PROXY"] {
            let variables = [("ALL_PROXY", "http://p:1"), (variable, list)];
            assert_eq!(proxy(base, "", &variables).is_none(), is_excepted, "{base} {list}");
        }
    }
}

#[test]
fn a_proxy_that_cannot_be_used_is_an_error_without_its_password() {
    for address in ["socks5://u:geheim@p:1", "http://", "http://u:geheim@", "http://p:1/path", "p:0", "p q"] {
        let error = config("http://a.example", "", &[("all_proxy", address)]).unwrap_err();
        assert!(
            error.starts_with("all_proxy: backend.openai.proxy = <secret>: must be http://host:port"),
            "{error}"
        );
        assert!(error.contains("set proxy = \"\"") && !error.contains("geheim"), "{error}");
        let error = config("http://a.example", &format!("proxy = \"{address}\""), &[]).unwrap_err();
        assert!(error.contains("backends.x.proxy = <secret>: must be http://host:port"), "{error}");
    }
}

#[test]
fn the_environments_certificates_are_for_who_names_none_and_speaks_tls() {
    let ca_file = |base: &str, line: &str, word: &str| {
        let config = config(base, line, &[("SSL_CERT_FILE", word)])?;
        let Kind::Api(api) = &config.backends.find("x").unwrap().kind else { panic!("an API") };
        Ok::<_, String>(api.connection.ca_file.as_ref().map(|path| path.display().to_string()))
    };
    let own = "ca_file = \"/own\"";
    assert_eq!(ca_file("https://a", "", "/all").unwrap().as_deref(), Some("/all"));
    assert_eq!(ca_file("https://a", own, "/all").unwrap().as_deref(), Some("/own"));
    assert_eq!(ca_file("https://a", "", "").unwrap(), None);
    assert_eq!(ca_file("http://a", "", "/all").unwrap(), None);
    let error = ca_file("https://a", "", "all").unwrap_err();
    assert!(error.contains("SSL_CERT_FILE") && error.contains("begins with /"), "{error}");
}
