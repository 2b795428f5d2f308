//! Pages that several promises need, and how they are asked for.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use handoff_e2e::httpd::{Setup, World};
use handoff_e2e::{Daemon, Httpd, Response};

/// Hands over, by a header or (`body`) by its body: `prompt`, and the mock's `length` and `delay`; under the request's `id`,
/// to `socket` instead of the daemon.
pub(crate) const HANDOFF: &str = r"<?php
header('X-Socket-Handoff: ' . ($_GET['socket'] ?? $_SERVER['SOCKET']));
if (isset($_GET['id'])) header('X-Request-Id: ' . $_GET['id']);
$mock = ['token_delay_ms' => (int) ($_GET['delay'] ?? 0)];
if (isset($_GET['length'])) $mock['length'] = (int) $_GET['length'];
$payload = json_encode(['prompt' => $_GET['prompt'] ?? 'a question', 'mock' => $mock]);
if (isset($_GET['body'])) {
    header('X-Handoff-Body: 1');
    echo $payload;
} else {
    header('X-Handoff-Data: ' . $payload);
}
";

/// [`HANDOFF`] as `/handoff.php`, and `/plain.php`, which says `plain`.
pub(crate) fn setup(world: World, daemon: &Daemon) -> Setup {
    Setup::new(world, daemon).file("handoff.php", HANDOFF).file("plain.php", "<?php echo 'plain';")
}

/// The same with nothing special.
pub(crate) fn site(world: World, daemon: &Daemon) -> Httpd {
    setup(world, daemon).start()
}

/// A GET of a virtual host.
pub(crate) fn get_from(httpd: &Httpd, host: &str, path: &str) -> Response {
    let mut client = httpd.connect();
    let request = httpd.request("GET", path, "").replace(&httpd.address(), host);
    client.write_all(request.as_bytes()).expect("a request");
    client.response()
}

/// A server that answers each request with this, and ends the connection. Its address.
pub(crate) fn application(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0; 1];
                match client.read(&mut byte) {
                    Ok(1) => request.push(byte[0]),
                    _ => break,
                }
            }
            let _ = client.write_all(answer.as_bytes());
        }
    });
    address
}
