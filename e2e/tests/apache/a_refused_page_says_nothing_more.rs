//! A page that is refused gets an error in its place, and no client a byte of it, however long it goes on talking: the
//! next answer on the connection is the next request's.

use std::io::Write;

use handoff_e2e::Httpd;
use handoff_e2e::httpd::{self, Setup, World, read_one, unchunked};

/// As PHP does that wants to finish its work, and as an application of another kind that asks nobody.
const PHP: &str = r"<?php
ignore_user_abort(true);
while (ob_get_level() > 0) ob_end_clean();
if (isset($_GET['socket'])) header('X-Socket-Handoff: ' . $_GET['socket']);
header('X-Handoff-Body: 1');
for ($i = 0; $i < 50; $i++) { echo str_repeat('SECRET ', 3000); flush(); }
";
const LUA: &str = r#"function handle(r)
  local socket = r:parseargs().socket
  if socket then r.headers_out["X-Socket-Handoff"] = socket end
  r.headers_out["X-Handoff-Body"] = "1"
  for i = 1, 50 do r:puts(string.rep("SECRET ", 3000)) r:flush() end
  return apache2.OK
end
"#;

fn says_nothing_more(what: &str, httpd: &Httpd, path: &str, status: u16) {
    let host = httpd.address();
    let mut client = httpd.connect();
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).expect("a request");
    let response = read_one(&mut client);
    assert_eq!(response.status, status, "{what}: {response:?}");
    // After a 500 or a 503 httpd ends the connection, and with it the error page.
    let is_kept = response.header("Connection") != Some("close");
    if is_kept {
        client.write_all(httpd.request("GET", "/plain.php", "").as_bytes()).expect("a request");
    }
    let rest = unchunked(client.response());
    assert_eq!(rest.heads(), usize::from(is_kept), "{what}: {rest:?}");
    assert_eq!(rest.body == "plain", is_kept, "{what}: {rest:?}");
    assert!(!format!("{response:?}{rest:?}").contains("SECRET"), "{what}: {response:?}, {rest:?}");
}

#[test]
fn whatever_it_was_refused_for() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = Setup::new(world, &daemon)
            .modules(["lua"])
            .directives("AddHandler lua-script .lua\nSocketHandoffMaxRetries 0")
            .file("page.php", PHP)
            .file("page.lua", LUA)
            .file("plain.php", "<?php echo 'plain';")
            .start();
        let nobody = daemon.directory().join("nobody.sock");
        for page in ["page.php", "page.lua"] {
            let unavailable = format!("?socket={}", nobody.display());
            for (query, status) in [("?socket=/etc/passwd", 403), (unavailable.as_str(), 503), ("", 500)] {
                let path = format!("/{page}{query}");
                says_nothing_more(&format!("{world:?}, {path}"), &httpd, &path, status);
            }
        }
    }
}

#[test]
fn nor_inside_of_another_page() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = Setup::new(world, &daemon)
            .modules(["include"])
            .directives("AddOutputFilter INCLUDES .html\n<Directory />\nOptions +Includes\n</Directory>")
            .file("page.php", PHP)
            .file("around.html", "before, <!--#include virtual=\"/page.php?socket=/etc/passwd\" -->after")
            .start();
        let response = httpd.get("/around.html");
        assert_eq!(
            (response.status, response.body.as_str()),
            (200, "before, after"),
            "{world:?}: {response:?}"
        );
        httpd.complained("a part of another one");
    }
    assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0);
}
