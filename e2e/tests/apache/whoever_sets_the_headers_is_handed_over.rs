//! The module does not ask which language has set its headers: a server behind ProxyPass is as good as PHP.

use handoff_e2e::httpd::{self, Setup, World};

use crate::pages::application;

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
