//! Backends work in the unit as it is shipped: over a Unix socket and over TCP, with a key out of a credential, with
//! files that come along and recordings that stay.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;

use handoff_e2e::upstream::{Protocol, Upstream, words};
use handoff_e2e::{Container, Image, eventually};
use nix::sched::{CloneFlags, setns};

const KEY: &str = "sk-out-of-a-credential";

const CONFIG: &str = "\
[server]\nshutdown_timeout_secs = 5\n\n[workers]\ncount = 2\nuser = \"handoffd-worker\"\nsandbox = \"require\"\n\n\
[backend]\nprovider = \"tcp\"\nfiles_directory = \"/var/lib/handoffd/files\"\n\n\
[backends.tcp]\nkind = \"openai\"\napi_base = \"http://127.0.0.1:PORT/v1\"\napi_key_credential = \"llm_key\"\n\
record = \"/var/lib/handoffd/recordings\"\n\n\
[backends.unix]\nkind = \"openai\"\napi_base = \"http://localhost/v1\"\nsocket = \"/run/llm.sock\"\n\
api_key_credential = \"llm_key\"\n\n[logging]\nlevel = \"debug\"\n";

const DROP_IN: &str =
    "[Service]\nLoadCredential=llm_key:/etc/handoffd/llm_key\nReadWritePaths=/var/lib/handoffd\n";

/// What comes in by one goes out by the other.
macro_rules! carry {
    ($client:expr, $server:expr) => {{
        let (mut from, mut to) = ($client, $server);
        let mut back = (to.try_clone().expect("an fd"), from.try_clone().expect("an fd"));
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
        thread::spawn(move || {
            let _ = io::copy(&mut back.0, &mut back.1);
            let _ = back.1.shutdown(std::net::Shutdown::Both);
        });
    }};
}

/// The scripted server is outside. Inside, it is at this port of the loopback.
fn tcp_port(machine: &Container, llm: &Upstream) -> u16 {
    let network = fs::File::open(machine.path("/proc/1/ns/net")).expect("a network of its own");
    let (to, (sender, receiver)) = (llm.address(), mpsc::channel());
    thread::spawn(move || {
        setns(network.as_fd(), CloneFlags::CLONE_NEWNET).expect("root");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback");
        sender.send(listener.local_addr().expect("an address").port()).expect("who asked");
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = UnixStream::connect(&to) else { return };
            carry!(client as TcpStream, server);
        }
    });
    receiver.recv().expect("a port")
}

/// And on this Unix socket.
fn unix_socket(machine: &Container, llm: &Upstream) {
    let socket = machine.path("/run/llm.sock");
    let (to, listener) = (llm.address(), UnixListener::bind(&socket).expect("a socket"));
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("a mode");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = UnixStream::connect(&to) else { return };
            carry!(client, server);
        }
    });
}

#[test]
fn tcp_unix_sockets_credentials_files_and_recordings() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    let before = machine.another_supervisor(None);
    let llm = Upstream::start(Protocol::Unix);
    unix_socket(&machine, &llm);
    let port = tcp_port(&machine, &llm);
    machine.write("/etc/handoffd/llm_key", &format!("{KEY}\n"));
    machine.done(&["chmod", "0600", "/etc/handoffd/llm_key"]);
    for directory in ["files", "recordings"] {
        let path = format!("/var/lib/handoffd/{directory}");
        let owner = ["-o", "handoffd-worker", "-g", "handoffd-worker"];
        machine.done(&[&["install", "-d", "-m", "0700"][..], &owner, &[&path]].concat());
    }
    machine.write("/var/lib/handoffd/files/note.txt", "what the note says");
    machine.done(&["chown", "handoffd-worker:", "/var/lib/handoffd/files/note.txt"]);
    machine.write(handoff_e2e::container::CONFIG, &CONFIG.replace("PORT", &port.to_string()));
    machine.drop_in("backends", DROP_IN);
    machine.done(&["systemctl", "restart", "handoffd.service"]);
    machine.another_supervisor(Some(&before));
    // What was taken over may still be on its way out; a reload ends when that is over.
    machine.done(&["systemctl", "reload", "handoffd.service"]);

    let payload = r#"{"prompt":"{note}","attachments":{"note":"note.txt"}}"#;
    let response = machine.hand_over(payload).response();
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    let response = machine.hand_over(r#"{"prompt":"x","backend":"unix"}"#).response();
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    for number in 0..2 {
        let request = llm.wait_for_request(number).request;
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    }
    let asked = llm.wait_for_request(0).request.json().to_string();
    assert!(asked.contains("what the note says"), "{asked}");
    assert!(!machine.path("/var/lib/handoffd/files/note.txt").exists(), "the file is removed");
    eventually("the answer is recorded", || {
        let names = machine.done(&["find", "/var/lib/handoffd/recordings", "-name", "*.jsonl"]);
        (names.lines().count() == 1).then_some(())
    });
    assert!(!machine.journal().contains(KEY), "a key in the journal");
}

#[test]
fn a_host_without_certificates_serves_all_but_https() {
    let Some(image) = Image::with_handoffd() else { return };
    image.write(
        "/etc/systemd/system/handoffd.service.d/bare.conf",
        "[Service]\nInaccessiblePaths=-/etc/ssl -/usr/share/ca-certificates -/usr/lib/ssl\n",
    );
    let machine = image.boot();
    machine.another_supervisor(None);
    assert!(machine.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
}
