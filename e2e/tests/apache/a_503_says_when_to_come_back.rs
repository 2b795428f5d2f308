//! Where no daemon takes a client, the 503 has Retry-After; also when the site has an error page of its own.

use handoff_e2e::httpd::{self, Setup, World};

const PAGE: &str = "<?php header('X-Socket-Handoff: ' . dirname($_SERVER['SOCKET']) . '/nobody.sock');
header('X-Handoff-Data: {\"prompt\":\"a secret\"}');";
const SORRY: &str = "<?php echo 'sorry, ', $_SERVER['REDIRECT_STATUS'];";

#[test]
fn whoever_makes_its_page() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        for document in ["", "ErrorDocument 503 sorry", "ErrorDocument 503 /sorry.php"] {
            let httpd = Setup::new(world, &daemon)
                .file("page.php", PAGE)
                .file("sorry.php", SORRY)
                .directives("SocketHandoffMaxRetries 0")
                .directives(document)
                .start();
            let response = httpd.get("/page.php");
            assert_eq!(
                (response.status, response.header("Retry-After")),
                (503, Some("2")),
                "{world:?} {document}: {response:?}"
            );
            assert_eq!(response.body.contains("sorry"), !document.is_empty(), "{response:?}");
            assert!(!format!("{response:?}").contains("secret"), "{response:?}");
            // The access log knows why, whoever has made the page.
            let line = httpd.accessed("/page.php");
            let notes: Vec<&str> = line.split(' ').skip(2).take(2).collect();
            assert_eq!((notes[0], notes[1].len()), ("unavailable", 16), "{world:?} {document}: {line}");
            // The next request on the same Apache has nothing of it.
            assert_eq!(httpd.get("/sorry.php").header("Retry-After"), None);
        }
    }
}
