//! The module does not ask which language has set its headers: a server behind ProxyPass is as good as PHP.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use handoff_e2e::httpd::{self, Setup, World};

/// Answers each request with this, and ends the connection.
fn application(answer: String) -> String {
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

#[test]
fn by_header_and_by_body() {
    let daemon = httpd::daemon("");
    let socket = daemon.socket();
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nX-Socket-Handoff: {}\r\n", socket.display());
    let payload = r#"{"prompt":"not of PHP"}"#;
    let by_header = format!("{head}X-Handoff-Data: {payload}\r\nContent-Length: 0\r\n\r\n");
    let length = payload.len();
    let by_body = format!("{head}X-Handoff-Body: 1\r\nContent-Length: {length}\r\n\r\n{payload}");
    for answer in [by_header, by_body] {
        let address = application(answer);
        let httpd = Setup::new(World::Event, &daemon)
            .modules(["proxy_http"])
            .directives(&format!("ProxyPass /app/ http://{address}/"))
            .start();
        let response = httpd.get("/app/chat");
        assert!(response.is_complete() && response.heads() == 1, "{response:?}");
        assert!(response.text().contains("not of PHP"), "{response:?}");
        assert!(httpd.accessed("/app/chat").contains(" sent "), "{:?}", httpd.access_log());
    }
}
