//! httpd's structures, safely: what this module reads of a request, writes to it, and does with its connection.
//!
//! Each handle is made in a callback of httpd's from the pointer that it was given, and lives no longer than that
//! callback; httpd calls one thread at a time for a request. All unsafe blocks here rest on this, and on the layout
//! that `tests/layout.rs` compares with httpd's own headers.

mod brigade;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::ffi;
use crate::hooks;
use crate::settings::Settings;

pub(crate) use brigade::{Brigade, Filter, Piece};

/// What httpd's functions return; 0 is success.
pub(crate) type Status = ffi::apr_status_t;
pub(crate) const SUCCESS: Status = ffi::APR_SUCCESS;

/// How important a line in the error log is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Error,
    Warning,
    Note,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a>(NonNull<ffi::request_rec>, PhantomData<&'a ()>);

impl<'a> Request<'a> {
    /// # Safety
    /// httpd has given us this request for the time of `'a`.
    pub(crate) unsafe fn new(raw: *mut ffi::request_rec) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self(raw, PhantomData))
    }

    fn record(&self) -> *mut ffi::request_rec {
        self.0.as_ptr()
    }

    /// Neither a subrequest nor anything else whose answer goes into another one.
    pub(crate) fn is_main(&self) -> bool {
        // SAFETY: see the module.
        unsafe { (*self.record()).main.is_null() }
    }

    pub(crate) fn status(&self) -> c_int {
        // SAFETY: see the module.
        unsafe { (*self.record()).status }
    }

    pub(crate) fn set_status(&self, status: u16) {
        // SAFETY: see the module; without a line of its own httpd writes the status's usual one.
        unsafe {
            (*self.record()).status = c_int::from(status);
            (*self.record()).status_line = ptr::null();
        }
    }

    pub(crate) fn method(&self) -> String {
        // SAFETY: see the module.
        unsafe { text((*self.record()).method) }.unwrap_or_default()
    }

    /// Path and query, as the client has sent them: before any internal redirect.
    pub(crate) fn uri(&self) -> String {
        let mut record: *const ffi::request_rec = self.record();
        // SAFETY: see the module; a request lives as long as those that it was redirected to.
        unsafe {
            while !(*record).prev.is_null() {
                record = (*record).prev;
            }
            text((*record).unparsed_uri).unwrap_or_default()
        }
    }

    pub(crate) fn protocol(&self) -> String {
        // SAFETY: see the module.
        unsafe { text((*self.record()).protocol) }.unwrap_or_default()
    }

    /// The client's address; mod_remoteip's, where that is used.
    pub(crate) fn client(&self) -> String {
        // SAFETY: see the module.
        unsafe { text((*self.record()).useragent_ip) }.unwrap_or_default()
    }

    /// A variable of the request's environment.
    pub(crate) fn environment(&self, name: &CStr) -> Option<String> {
        // SAFETY: see the module.
        unsafe { text(ffi::apr_table_get((*self.record()).subprocess_env, name.as_ptr())) }
    }

    /// Calls back for each request header.
    pub(crate) fn each_request_header(&self, mut each: impl FnMut(&str, &str)) {
        unsafe extern "C" fn call<F: FnMut(&str, &str)>(
            context: *mut c_void,
            name: *const c_char,
            value: *const c_char,
        ) -> c_int {
            // SAFETY: the context is the closure below; the texts are the table's.
            unsafe {
                if let (Some(name), Some(value)) = (text(name), text(value)) {
                    (*context.cast::<F>())(&name, &value);
                }
            }
            1
        }
        fn callback<F: FnMut(&str, &str)>(_: &F) -> ffi::EachEntry {
            call::<F>
        }
        let callback = callback(&each);
        // SAFETY: see the module; the closure outlives the call.
        unsafe {
            ffi::apr_table_do(callback, (&raw mut each).cast(), (*self.record()).headers_in, ptr::null());
        }
    }

    /// A header of the response: mod_php puts it into one table, proxied FastCGI into the other.
    pub(crate) fn response_header(&self, name: &CStr) -> Option<Vec<u8>> {
        self.response_tables().into_iter().find_map(|table| {
            // SAFETY: see the module; the text is copied before anything can change the table.
            unsafe {
                let value = ffi::apr_table_get(table, name.as_ptr());
                (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes().to_vec())
            }
        })
    }

    pub(crate) fn remove_response_header(&self, name: &CStr) {
        for table in self.response_tables() {
            // SAFETY: see the module.
            unsafe { ffi::apr_table_unset(table, name.as_ptr()) }
        }
    }

    /// What PHP has said about a page that is not sent.
    pub(crate) fn clear_response_headers(&self) {
        for table in self.response_tables() {
            // SAFETY: see the module.
            unsafe { ffi::apr_table_clear(table) }
        }
    }

    /// A header of a successful answer. The two that httpd keeps elsewhere go there.
    pub(crate) fn add_response_header(&self, name: &str, value: &str) {
        let (Some(key), Some(value_in_pool)) = (self.keep(name), self.keep(value)) else { return };
        // SAFETY: see the module; the texts live as long as the request.
        unsafe {
            if name.eq_ignore_ascii_case("content-type") {
                ffi::ap_set_content_type(self.record(), value_in_pool);
            } else if name.eq_ignore_ascii_case("content-length") {
                if let Ok(bytes) = value.parse() {
                    ffi::ap_set_content_length(self.record(), bytes);
                }
            } else {
                ffi::apr_table_add((*self.record()).headers_out, key, value_in_pool);
            }
        }
    }

    /// A header that an error page has as well.
    pub(crate) fn set_error_header(&self, name: &CStr, value: &CStr) {
        // SAFETY: see the module; the table copies.
        unsafe { ffi::apr_table_set((*self.record()).err_headers_out, name.as_ptr(), value.as_ptr()) }
    }

    /// A note of this request; of an ErrorDocument's, the note of the request that it answers for.
    pub(crate) fn noted(&self, name: &CStr) -> Option<String> {
        let mut record: *const ffi::request_rec = self.record();
        while !record.is_null() {
            // SAFETY: see the module; a request lives as long as those that it was redirected to.
            let note = unsafe { text(ffi::apr_table_get((*record).notes, name.as_ptr())) };
            if note.is_some() {
                return note;
            }
            // SAFETY: as above.
            record = unsafe { (*record).prev };
        }
        None
    }

    /// For LogFormat: `%{name}n`.
    pub(crate) fn note(&self, name: &CStr, value: &str) {
        if let Some(value) = self.keep(value) {
            // SAFETY: see the module.
            unsafe { ffi::apr_table_set((*self.record()).notes, name.as_ptr(), value) }
        }
    }

    /// What the configuration says for this virtual host.
    pub(crate) fn settings(&self) -> &'a Settings {
        // SAFETY: see the module; the settings live as long as the configuration.
        unsafe { hooks::settings_of((*self.record()).server) }
    }

    /// Apache's `Timeout`.
    pub(crate) fn timeout(&self) -> Duration {
        // SAFETY: see the module.
        let microseconds = unsafe { (*(*self.record()).server).timeout };
        Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
    }

    /// Reads what is left of the request's body, and throws it away. 0, or the status to answer with.
    pub(crate) fn discard_body(&self) -> c_int {
        // SAFETY: see the module.
        unsafe { ffi::ap_discard_request_body(self.record()) }
    }

    pub(crate) fn connection(&self) -> Connection<'a> {
        // SAFETY: see the module; a request has a connection.
        Connection(unsafe { (*self.record()).connection }, PhantomData)
    }

    /// One line in the error log.
    pub(crate) fn log(&self, level: Level, sentence: &str) {
        let level = match level {
            Level::Error => ffi::APLOG_ERR,
            Level::Warning => ffi::APLOG_WARNING,
            Level::Note => ffi::APLOG_INFO,
        };
        let sentence = CString::new(sentence.replace('\0', "")).unwrap_or_default();
        // SAFETY: see the module; `%s` takes one C string.
        unsafe {
            ffi::ap_log_rerror_(
                c"mod_socket_handoff".as_ptr(),
                0,
                hooks::module_index(),
                level,
                SUCCESS,
                self.record(),
                c"%s".as_ptr(),
                sentence.as_ptr(),
            );
        }
    }

    fn response_tables(&self) -> [*mut ffi::apr_table_t; 2] {
        // SAFETY: see the module.
        unsafe { [(*self.record()).headers_out, (*self.record()).err_headers_out] }
    }

    /// A copy that lives as long as the request; none where C could not read it.
    fn keep(&self, text: &str) -> Option<*const c_char> {
        if text.contains('\0') {
            return None;
        }
        // SAFETY: see the module; the pool's copy gets a NUL behind it.
        let copy = unsafe { ffi::apr_pstrmemdup((*self.record()).pool, text.as_ptr().cast(), text.len()) };
        (!copy.is_null()).then_some(copy.cast_const())
    }
}

/// 64 random bits as text.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 8];
    // SAFETY: APR fills exactly this buffer.
    unsafe { ffi::apr_generate_random_bytes(bytes.as_mut_ptr(), bytes.len()) };
    format!("{:016x}", u64::from_ne_bytes(bytes))
}

/// The connection that a request came by; of HTTP/2, the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection<'a>(*mut ffi::conn_rec, PhantomData<&'a ()>);

impl<'a> Connection<'a> {
    /// The connection itself, where this is one of HTTP/2's streams.
    fn master(&self) -> Self {
        // SAFETY: see the module.
        let master = unsafe { (*self.0).master };
        Self(if master.is_null() { self.0 } else { master }, PhantomData)
    }

    /// One stream of several on the same socket.
    pub(crate) fn is_stream(&self) -> bool {
        self.master().0 != self.0
    }

    pub(crate) fn is_tls(&self) -> bool {
        // SAFETY: see the module.
        unsafe { ffi::ap_ssl_conn_is_ssl(self.0) != 0 || ffi::ap_ssl_conn_is_ssl(self.master().0) != 0 }
    }

    /// The client is gone, or httpd believes so.
    pub(crate) fn is_aborted(&self) -> bool {
        // SAFETY: see the module.
        unsafe { (*self.0).aborted != 0 }
    }

    /// httpd writes nothing more, and does not wait for another request.
    pub(crate) fn abort(&self) {
        self.close();
        // SAFETY: see the module.
        unsafe { (*self.0).aborted = 1 };
    }

    /// httpd does not wait for another request.
    pub(crate) fn close(&self) {
        // SAFETY: see the module.
        unsafe { (*self.0).keepalive = ffi::AP_CONN_CLOSE };
    }

    /// The client's socket.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'a>> {
        let mut fd = -1;
        // SAFETY: see the module; APR writes the fd, which stays open as long as the connection.
        unsafe {
            let socket = ffi::ap_get_conn_socket(self.master().0);
            if socket.is_null() || ffi::apr_os_sock_get(&raw mut fd, socket) != SUCCESS || fd < 0 {
                return None;
            }
            Some(BorrowedFd::borrow_raw(fd))
        }
    }

    /// Writes out what earlier, pipelined requests have left with httpd.
    pub(crate) fn flush(&self) -> Status {
        // SAFETY: see the module; the brigade and its bucket belong to the connection.
        unsafe {
            let brigade = Brigade::new((*self.0).pool, (*self.0).bucket_alloc);
            brigade.push_flush();
            ffi::ap_pass_brigade((*self.0).output_filters, brigade.raw())
        }
    }
}

/// A socket without anybody at its other end.
#[derive(Debug)]
pub(crate) struct DeadSocket(OwnedFd);

impl DeadSocket {
    /// # Errors
    /// When there is no fd left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?))
    }

    /// Puts it in the client's place: httpd's last reference to the client's socket is gone with it, and whatever
    /// httpd still does with that number concerns nobody.
    ///
    /// # Errors
    /// As of dup3(2).
    pub(crate) fn replace(self, client: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the number stays httpd's own, open, and a socket: only what it refers to is another one.
        let result = unsafe { nix::unistd::dup3_raw(&self.0, client.as_raw_fd(), OFlag::O_CLOEXEC) };
        // The number has its owner already.
        result.map(std::os::fd::IntoRawFd::into_raw_fd).map(drop).map_err(io::Error::from)
    }
}

/// # Safety
/// Null, or a C string.
unsafe fn text(raw: *const c_char) -> Option<String> {
    // SAFETY: as the caller says.
    (!raw.is_null()).then(|| unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}
