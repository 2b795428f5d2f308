//! A real Chromium, headless, driven through ChromeDriver (W3C WebDriver). In: what a person does with a page. Out: what
//! the page shows.
//!
//! Elements are named by CSS selectors. A failing test leaves a picture of what was to be seen. Never: leaves a process
//! or any other file behind, waits without a deadline.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fantoccini::error::CmdError;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::{PATIENCE, eventually};

/// Browsers of one process run side by side; one that measures runs alone.
static BROWSERS: RwLock<()> = RwLock::new(());

#[derive(Debug)]
#[expect(dead_code, reason = "held, and released when dropped")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// What a page learns by `prefers-color-scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Light colours.
    Light,
    /// Dark ones.
    Dark,
}

/// One browser with one page.
#[derive(Debug)]
pub struct Browser {
    chromedriver: Child,
    /// None once it has quit.
    driver: Option<Client>,
    runtime: Runtime,
    _profile: TempDir,
    /// Dropped last.
    _turn: Turn,
}

impl Browser {
    /// Starts ChromeDriver and Chromium, with an empty profile.
    ///
    /// # Panics
    /// When they cannot be started; `scripts/test-packages` installs them.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Scheme::Light)
    }

    /// As [`Browser::start`], for somebody who prefers such colours.
    ///
    /// # Panics
    /// As [`Browser::start`].
    #[must_use]
    pub fn start_with(scheme: Scheme) -> Self {
        Self::start_in(Turn::Shared(BROWSERS.read().unwrap_or_else(PoisonError::into_inner)), scheme)
    }

    /// As [`Browser::start`], while no other browser of this process runs: for measurements.
    ///
    /// # Panics
    /// As [`Browser::start`].
    #[must_use]
    pub fn start_alone() -> Self {
        Self::start_in(Turn::Alone(BROWSERS.write().unwrap_or_else(PoisonError::into_inner)), Scheme::Light)
    }

    fn start_in(turn: Turn, scheme: Scheme) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let mut chromedriver = Command::new("chromedriver")
            .arg("--port=0")
            // What Chromium leaves behind goes with the profile.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: run scripts/test-packages");
        let stdout = chromedriver.stdout.take().expect("a pipe");
        let port = BufReader::new(stdout).lines().map_while(Result::ok).find_map(|line| {
            let digits = line.rsplit_once("started successfully on port ")?.1.trim_end_matches('.');
            digits.parse::<u16>().ok()
        });
        let url = format!("http://127.0.0.1:{}", port.expect("chromedriver says its port"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut browser = Self { chromedriver, driver: None, runtime, _profile: profile, _turn: turn };
        let mut client = ClientBuilder::new(HttpConnector::new());
        client.capabilities(capabilities(browser._profile.path(), scheme));
        let connected = browser.within_patience(client.connect(&url));
        browser.driver = Some(connected.expect("an answer of chromedriver").expect("Chromium starts"));
        browser
    }

    /// Loads a page.
    ///
    /// # Panics
    /// When nobody answers there.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.command(url, self.driver().goto(url));
    }

    /// Clicks an element, as a person does: scrolls to it, and nothing may be in front of it.
    ///
    /// # Panics
    /// When there is none, or it cannot be clicked.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.command(selector, async { self.driver().find(Locator::Css(selector)).await?.click().await });
    }

    /// Types into an element, behind what is in it. `\n` is the Enter key.
    ///
    /// # Panics
    /// When there is none, or it takes no keys.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let keys = async { self.driver().find(Locator::Css(selector)).await?.send_keys(text).await };
        self.command(selector, keys);
    }

    /// The text content of the last such element, to the character; empty when there is none.
    #[must_use]
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let script = format!("return [...document.querySelectorAll({selector:?})].at(-1)?.textContent");
        self.run(&script).as_str().unwrap_or_default().to_owned()
    }

    /// Runs a function's body in the page; what it returns.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.command(script, self.driver().execute(script, Vec::new()))
    }

    /// Waits until this expression is true in the page.
    ///
    /// # Panics
    /// When it is not in time.
    #[track_caller]
    pub fn wait(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        eventually(&format!("the page: {expression}"), || {
            (self.run(&script) == Value::Bool(true)).then_some(())
        });
    }

    /// The window gets this size, in CSS pixels; Chromium allows none narrower than 500.
    ///
    /// # Panics
    /// When Chromium refuses.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        self.command("a size", self.driver().set_window_size(width, height));
    }

    /// What is to be seen goes to `target/screenshots/NAME.png`.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn screenshot(&self, name: &str) {
        let png = self.command("a screenshot", self.driver().screenshot());
        keep(name, &png).expect("a picture is written");
    }

    /// One command of the protocol, under a deadline.
    #[track_caller]
    fn command<T>(&self, what: &str, command: impl Future<Output = Result<T, CmdError>>) -> T {
        match self.within_patience(command) {
            Some(Ok(value)) => value,
            Some(Err(error)) => panic!("{what}: {error}"),
            None => panic!("the browser does not answer: {what}"),
        }
    }

    fn within_patience<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { timeout(3 * PATIENCE, future).await.ok() })
    }

    fn driver(&self) -> &Client {
        self.driver.as_ref().expect("a browser that has not quit")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Quitting ends Chromium; killing the driver alone would leave it behind.
        if let Some(driver) = self.driver.take() {
            if std::thread::panicking()
                && let Some(Ok(png)) = self.within_patience(driver.screenshot())
            {
                let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
                let _ = keep(&format!("failed-{test}"), &png);
            }
            let _ = self.within_patience(driver.close());
        }
        let _ = self.chromedriver.kill();
        let _ = self.chromedriver.wait();
    }
}

fn capabilities(profile: &Path, scheme: Scheme) -> Capabilities {
    let scheme = match scheme {
        Scheme::Dark => 0,
        Scheme::Light => 1,
    };
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=900,900",
        // A page that was left is kept for the way back, with its connections.
        "--disable-features=BackForwardCache",
        &format!("--blink-settings=preferredColorScheme={scheme}"),
        &format!("--user-data-dir={}", profile.display()),
    ];
    Capabilities::from_iter([
        ("goog:chromeOptions".to_owned(), json!({ "args": arguments })),
        // Those of a private Apache are their own authority.
        ("acceptInsecureCerts".to_owned(), json!(true)),
    ])
}

fn keep(name: &str, png: &[u8]) -> io::Result<()> {
    let tests = std::env::current_exe()?;
    let target = tests.ancestors().nth(3).ok_or(io::ErrorKind::NotFound)?; // target/PROFILE/deps/test
    let directory = target.join("screenshots");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(format!("{name}.png")), png)
}
