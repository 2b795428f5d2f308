//! The page with a login in `php/README.md`, as it stands there: whom it lets ask, and whom it does not.

use std::fs;
use std::io::Write;

use handoff_e2e::Response;
use handoff_e2e::httpd::{self, Httpd, Setup, World};

use crate::tests;

const LOGIN: &str =
    "<?php session_start(); $_SESSION = ['user_id' => 7] + (isset($_GET['old']) ? [] : ['csrf' => 'good']);";

fn page() -> String {
    let readme = fs::read_to_string(tests().join("../README.md")).expect("a README");
    let mut blocks = readme.split("```php\n").filter(|block| block.starts_with("<?php"));
    let (page, _) = blocks.next().and_then(|block| block.split_once("```")).expect("a page");
    assert!(blocks.next().is_none(), "which page?");
    page.to_owned()
}

fn ask(httpd: &Httpd, cookie: &str, query: &str, form: &str) -> Response {
    let length = format!("Content-Length: {}\r\n", form.len());
    let lines = format!("Cookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\n{length}");
    let method = if form.is_empty() { "GET" } else { "POST" };
    let mut client = httpd.connect();
    let head = httpd.request(method, &format!("/chat.php{query}"), &lines);
    client.write_all(format!("{head}{form}").as_bytes()).expect("a request");
    client.response()
}

#[test]
fn lets_nobody_ask_in_another_users_name() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = Setup::new(world, &daemon)
            .directives("SetEnv HANDOFFD_SOCKET ${SOCKET}")
            .file("handoff.php", &fs::read_to_string(tests().join("../handoff.php")).expect("the class"))
            .file("login.php", LOGIN)
            .file("chat.php", &page())
            .start();
        let log_in = |query: &str| {
            let response = httpd.get(&format!("/login.php{query}"));
            let cookie = response.header("Set-Cookie").and_then(|cookie| cookie.split(';').next());
            cookie.expect("a session").to_owned()
        };
        let (user, without_token) = (log_in(""), log_in("?old"));
        for (cookie, query, form, status) in [
            ("", "?prompt=hi&csrf=good", "", 401),
            (&*user, "?prompt=hi", "", 403),
            (&*user, "?prompt=hi&csrf=bad", "", 403),
            (&*user, "?prompt=hi&csrf[]=good", "", 403),
            (&*user, "", "prompt=hi", 403),
            (&*without_token, "?prompt=hi&csrf=", "", 403),
            (&*without_token, "", "prompt=hi&csrf=", 403),
            (&*user, "?csrf=good&prompt=+", "", 400),
            (&*user, "?csrf=good&prompt=hi", "", 200),
            (&*user, "", "prompt=hi&csrf=good", 200),
        ] {
            let response = ask(&httpd, cookie, query, form);
            let case = format!("{world:?} {query} {form}: {response:?}");
            assert_eq!((response.status, response.is_complete()), (status, status == 200), "{case}");
        }
    }
}
