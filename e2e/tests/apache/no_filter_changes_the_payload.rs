//! The body that is the payload reaches the daemon as the page has said it, whatever Apache's own filters do to pages.

use handoff_e2e::Door;
use handoff_e2e::httpd::{Setup, Taker, World};

const PAGE: &str = r#"<?php
header('Content-Type: text/html');
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header('X-Handoff-Body: 1');
echo '{"prompt":"hello"}';
"#;

#[test]
fn neither_before_nor_behind_the_module() {
    for world in World::ALL {
        for filter in [
            "SetOutputFilter SUBSTITUTE",
            "AddOutputFilterByType SUBSTITUTE text/html",
            "SetOutputFilter DEFLATE",
            "SetOutputFilter INCLUDES",
            "SetOutputFilter SOCKET_HANDOFF",
        ] {
            let taker = Taker::listen(Door::SeqPacket, 10);
            let httpd = Setup::to_socket(world, taker.path())
                .modules(["filter", "substitute", "deflate", "include"])
                .directives(&format!("<Location />\n{filter}\nSubstitute s/hello/bye/\n</Location>"))
                .file("page.php", PAGE)
                .start();
            let _client = httpd.ask("/page.php");
            assert_eq!(taker.take().parts().1, br#"{"prompt":"hello"}"#, "{world:?}, {filter}");
        }
    }
}
