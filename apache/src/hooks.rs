//! What httpd calls: the module's record, its directives, its hooks and filters. In: httpd's pointers. Out: calls to
//! safe code.
//! Never: lets a panic through to C, where it would end the process.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use crate::ffi;
use crate::filter::{self, State};
use crate::httpd::{Brigade, Filter, Level, SUCCESS, Status};
use crate::settings::{Settings, Switch, Value};

const HANDOFF: &CStr = c"SOCKET_HANDOFF";
const STRIP: &CStr = c"SOCKET_HANDOFF_STRIP";
const INTERNAL_SERVER_ERROR: c_int = 500;

/// What `LoadModule socket_handoff_module` looks for.
#[unsafe(no_mangle)]
pub(crate) static mut socket_handoff_module: ffi::module = ffi::module {
    version: ffi::MODULE_MAGIC_NUMBER_MAJOR,
    minor_version: ffi::MODULE_MAGIC_NUMBER_MINOR,
    module_index: -1,
    name: c"mod_socket_handoff.c".as_ptr(),
    dynamic_load_handle: ptr::null_mut(),
    next: ptr::null_mut(),
    magic: ffi::MODULE_MAGIC_COOKIE,
    rewrite_args: None,
    create_dir_config: None,
    merge_dir_config: None,
    create_server_config: Some(create_server_config),
    merge_server_config: Some(merge_server_config),
    cmds: (&raw const DIRECTIVES.0).cast(),
    register_hooks: Some(register_hooks),
    flags: 0,
};

/// Where httpd keeps what belongs to this module.
pub(crate) fn module_index() -> c_int {
    // SAFETY: httpd writes it while it loads the module, before anything else is called.
    unsafe { (&raw const socket_handoff_module.module_index).read() }
}

/// # Safety
/// The server is httpd's own, with its configuration read.
pub(crate) unsafe fn settings_of<'a>(server: *const ffi::server_rec) -> &'a Settings {
    // SAFETY: as the caller says.
    unsafe { &*settings_at((*server).module_config) }
}

/// # Safety
/// A vector of configurations whose entry for this module is ours, from [`keep`].
unsafe fn settings_at(vector: *const ffi::ap_conf_vector_t) -> *mut Settings {
    let index = usize::try_from(module_index()).unwrap_or_default();
    // SAFETY: httpd's ap_get_module_config is this very expression.
    unsafe { *vector.cast::<*mut Settings>().add(index) }
}

/// Gives a value to a pool, which drops it at its end.
///
/// # Safety
/// The pool is httpd's.
unsafe fn keep<T>(pool: *mut ffi::apr_pool_t, value: T) -> *mut T {
    unsafe extern "C" fn drop_it<T>(value: *mut c_void) -> Status {
        // SAFETY: made by `Box::into_raw` below, and dropped this once. A panic would end the process: no `drop`
        // of ours has one.
        drop(unsafe { Box::from_raw(value.cast::<T>()) });
        SUCCESS
    }
    let value = Box::into_raw(Box::new(value));
    // SAFETY: as the caller says.
    unsafe {
        ffi::apr_pool_cleanup_register(
            pool,
            value.cast_const().cast(),
            drop_it::<T>,
            ffi::apr_pool_cleanup_null,
        );
    }
    value
}

unsafe extern "C" fn create_server_config(
    pool: *mut ffi::apr_pool_t,
    _: *mut ffi::server_rec,
) -> *mut c_void {
    // SAFETY: httpd's pool.
    unsafe { keep(pool, Settings::default()) }.cast()
}

unsafe extern "C" fn merge_server_config(
    pool: *mut ffi::apr_pool_t,
    base: *mut c_void,
    host: *mut c_void,
) -> *mut c_void {
    // SAFETY: httpd's pool, and what `create_server_config` has made.
    unsafe { keep(pool, (*host.cast::<Settings>()).over(&*base.cast::<Settings>())) }.cast()
}

/// The table of directives, with the entry that ends it.
struct Directives([ffi::command_rec; 10]);
// SAFETY: nobody ever writes to it.
unsafe impl Sync for Directives {}

static DIRECTIVES: Directives = Directives([
    switch(c"SocketHandoffEnabled", &Switch::Enabled, c"On (default) or Off: hand requests over"),
    value(
        c"SocketHandoffAllowedPrefix",
        &Value::AllowedPrefix,
        c"the directory beneath which sockets must be (/var/run/)",
    ),
    value(
        c"SocketHandoffConnectTimeoutMs",
        &Value::ConnectTimeoutMs,
        c"milliseconds to connect to the daemon, 1 to 60000 (100)",
    ),
    value(
        c"SocketHandoffSendTimeoutMs",
        &Value::SendTimeoutMs,
        c"milliseconds to send to the daemon, 1 to 60000 (200)",
    ),
    value(
        c"SocketHandoffMaxRetries",
        &Value::MaxRetries,
        c"further attempts when no daemon listens, 0 to 10 (2)",
    ),
    switch(
        c"SocketHandoffBody",
        &Switch::Body,
        c"On (default) or Off: a response with X-Handoff-Body: 1 is the payload",
    ),
    switch(
        c"SocketHandoffEnvelope",
        &Switch::Envelope,
        c"On (default) or Off: tell the daemon about the request",
    ),
    ffi::command_rec {
        name: c"SocketHandoffForwardHeaders".as_ptr(),
        func: ffi::cmd_func { take_argv: forward_headers },
        cmd_data: ptr::null_mut(),
        req_override: ffi::RSRC_CONF,
        args_how: ffi::TAKE_ARGV,
        errmsg: c"names of request headers that the daemon is told, or None".as_ptr(),
    },
    switch(
        c"SocketHandoffRelay",
        &Switch::Relay,
        c"On or Off (default): relay where the socket cannot be passed (TLS, HTTP/2)",
    ),
    ffi::command_rec {
        name: ptr::null(),
        func: ffi::cmd_func { none: ptr::null() },
        cmd_data: ptr::null_mut(),
        req_override: 0,
        args_how: 0,
        errmsg: ptr::null(),
    },
]);

const fn switch(name: &'static CStr, switch: &'static Switch, usage: &'static CStr) -> ffi::command_rec {
    ffi::command_rec {
        name: name.as_ptr(),
        func: ffi::cmd_func { flag: set_switch },
        cmd_data: ptr::from_ref(switch).cast_mut().cast(),
        req_override: ffi::RSRC_CONF,
        args_how: ffi::FLAG,
        errmsg: usage.as_ptr(),
    }
}

const fn value(name: &'static CStr, value: &'static Value, usage: &'static CStr) -> ffi::command_rec {
    ffi::command_rec {
        name: name.as_ptr(),
        func: ffi::cmd_func { take1: set_value },
        cmd_data: ptr::from_ref(value).cast_mut().cast(),
        req_override: ffi::RSRC_CONF,
        args_how: ffi::TAKE1,
        errmsg: usage.as_ptr(),
    }
}

/// Calls with the settings of the server that is being configured, and says what it says to httpd.
///
/// # Safety
/// httpd's own parameters of a directive.
unsafe fn configure(
    parms: *mut ffi::cmd_parms,
    set: impl FnOnce(&mut Settings) -> Result<(), String>,
) -> *const c_char {
    // SAFETY: as the caller says; configuring has one thread.
    let settings = unsafe { &mut *settings_at((*(*parms).server).module_config) };
    let refusal = match catch_unwind(AssertUnwindSafe(|| set(settings))) {
        Ok(Ok(())) => return ptr::null(),
        Ok(Err(refusal)) => refusal,
        Err(_) => "mod_socket_handoff has a bug in its configuration".to_owned(),
    };
    // SAFETY: httpd's pool; the copy gets a NUL behind it.
    unsafe { ffi::apr_pstrmemdup((*parms).pool, refusal.as_ptr().cast(), refusal.len()) }
}

unsafe extern "C" fn set_switch(parms: *mut ffi::cmd_parms, _: *mut c_void, on: c_int) -> *const c_char {
    // SAFETY: httpd's own parameters, of a directive that `switch` has made.
    unsafe {
        let switch = *(*(*parms).cmd).cmd_data.cast::<Switch>();
        configure(parms, |settings| {
            settings.switch(switch, on != 0);
            Ok(())
        })
    }
}

unsafe extern "C" fn set_value(
    parms: *mut ffi::cmd_parms,
    _: *mut c_void,
    argument: *const c_char,
) -> *const c_char {
    // SAFETY: httpd's own parameters, of a directive that `value` has made.
    unsafe {
        let value = *(*(*parms).cmd).cmd_data.cast::<Value>();
        let argument = CStr::from_ptr(argument).to_string_lossy();
        configure(parms, |settings| settings.set(value, &argument))
    }
}

unsafe extern "C" fn forward_headers(
    parms: *mut ffi::cmd_parms,
    _: *mut c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> *const c_char {
    // SAFETY: httpd's own parameters: so many C strings.
    unsafe {
        let count = usize::try_from(count).unwrap_or_default();
        let names: Vec<_> =
            (0..count).map(|at| CStr::from_ptr(*arguments.add(at)).to_string_lossy()).collect();
        configure(parms, |settings| match names.is_empty() {
            true => Err("SocketHandoffForwardHeaders takes names of request headers, or None".to_owned()),
            false => settings.forward(names.iter().map(AsRef::as_ref)),
        })
    }
}

unsafe extern "C" fn register_hooks(_: *mut ffi::apr_pool_t) {
    // SAFETY: httpd is reading its modules; names and functions live as long as the module.
    unsafe {
        // Before anything that changes the content, mod_substitute's kind too: the body may be the payload.
        ffi::ap_register_output_filter(HANDOFF.as_ptr(), handoff_filter, None, ffi::AP_FTYPE_RESOURCE - 1);
        // Behind everything that sets headers, and before they are written.
        ffi::ap_register_output_filter(STRIP.as_ptr(), strip_filter, None, ffi::AP_FTYPE_PROTOCOL - 1);
        ffi::ap_hook_insert_filter(insert_filters, ptr::null(), ptr::null(), ffi::APR_HOOK_LAST);
        ffi::ap_hook_insert_error_filter(insert_strip, ptr::null(), ptr::null(), ffi::APR_HOOK_LAST);
    }
}

unsafe extern "C" fn insert_filters(request: *mut ffi::request_rec) {
    // SAFETY: httpd's own request.
    unsafe {
        insert(HANDOFF, request);
        insert(STRIP, request);
    }
}

unsafe extern "C" fn insert_strip(request: *mut ffi::request_rec) {
    // SAFETY: httpd's own request.
    unsafe { insert(STRIP, request) }
}

/// # Safety
/// httpd's own request.
unsafe fn insert(filter: &CStr, request: *mut ffi::request_rec) {
    // SAFETY: as the caller says; the state is dropped with the request's pool.
    unsafe {
        let state = keep((*request).pool, State::Undecided);
        ffi::ap_add_output_filter(filter.as_ptr(), state.cast(), request, (*request).connection);
    }
}

unsafe extern "C" fn handoff_filter(
    raw: *mut ffi::ap_filter_t,
    brigade: *mut ffi::apr_bucket_brigade,
) -> Status {
    // SAFETY: httpd's own filter and brigade.
    unsafe { guarded(raw, brigade, filter::hand_off) }
}

unsafe extern "C" fn strip_filter(
    raw: *mut ffi::ap_filter_t,
    brigade: *mut ffi::apr_bucket_brigade,
) -> Status {
    // SAFETY: httpd's own filter and brigade.
    unsafe { guarded(raw, brigade, filter::strip) }
}

/// Runs a filter. A panic is a 500 for this request, and nothing for its neighbours.
///
/// # Safety
/// httpd's own filter and brigade; the filter's context is what [`insert`] has put there, or null.
unsafe fn guarded(
    raw: *mut ffi::ap_filter_t,
    brigade: *mut ffi::apr_bucket_brigade,
    run: impl FnOnce(Filter<'_>, &mut State, Brigade<'_>) -> Status,
) -> Status {
    // SAFETY: as the caller says.
    let Some(filter) = (unsafe { Filter::new(raw) }) else { return SUCCESS };
    // SAFETY: as the caller says; nobody else has the state of a filter that runs.
    let (taken, state) = unsafe { (Brigade::from_raw(brigade), (*raw).ctx.cast::<State>().as_mut()) };
    let run = || match state {
        Some(state) => run(filter, state, taken),
        // Somebody has added the filter by its name (SetOutputFilter).
        None => filter::pass_on(filter, taken),
    };
    if let Ok(status) = catch_unwind(AssertUnwindSafe(run)) {
        return status;
    }
    let answer = || {
        if let Some(request) = filter.request() {
            request.log(Level::Error, "mod_socket_handoff: a bug in this module has ended this request");
            // What the page still says is behind its error page: for nobody.
            request.connection().close();
        }
        // SAFETY: as the caller says; what is left in the brigade is not sent.
        unsafe { Brigade::from_raw(brigade) }.clear();
        filter.remove();
        let error = filter.brigade();
        error.push_error(INTERNAL_SERVER_ERROR);
        error.push_end();
        filter.pass(&error)
    };
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or(INTERNAL_SERVER_ERROR)
}
