//! Declarations of httpd 2.4's and APR's C interface: what this module uses, and what stands before it.
//! Source: httpd.h, http_config.h, util_filter.h, http_log.h, http_protocol.h of httpd 2.4; apr_buckets.h,
//! apr_tables.h, apr_pools.h of APR 1.
//!
//! `tests/layout.rs` compares every offset and size here with the installed headers.
//! Never: has code, beyond what C has as macros.

#![expect(non_camel_case_types, reason = "the names and the meaning are httpd's")]

use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

pub type apr_status_t = c_int;
pub type apr_off_t = i64;
pub type apr_time_t = i64;
pub type apr_size_t = usize;

pub const APR_SUCCESS: apr_status_t = 0;
/// `APR_BLOCK_READ` of `apr_read_type_e`.
pub const APR_BLOCK_READ: c_int = 0;
pub const APR_HOOK_LAST: c_int = 20;

/// `"AP24"`.
pub const MODULE_MAGIC_COOKIE: c_ulong = 0x4150_3234;
pub const MODULE_MAGIC_NUMBER_MAJOR: c_int = 20_120_211;
/// The lowest that has all that is used here: `ap_ssl_conn_is_ssl` came with it, httpd 2.4.48.
pub const MODULE_MAGIC_NUMBER_MINOR: c_int = 102;

/// Server configuration and virtual hosts, not directories.
pub const RSRC_CONF: c_int = 128;
/// `cmd_how`.
pub const TAKE1: c_int = 1;
pub const FLAG: c_int = 5;
pub const TAKE_ARGV: c_int = 12;

pub const AP_FTYPE_RESOURCE: c_int = 10;
pub const AP_FTYPE_PROTOCOL: c_int = 30;

pub const APLOG_ERR: c_int = 3;
pub const APLOG_WARNING: c_int = 4;
pub const APLOG_INFO: c_int = 6;

/// `AP_CONN_CLOSE` of `ap_conn_keepalive_e`.
pub const AP_CONN_CLOSE: c_int = 1;

/// Something whose insides are not ours.
macro_rules! opaque {
    ($($name:ident),*) => {
        $(#[repr(C)] #[derive(Debug)] pub struct $name { _private: [u8; 0] })*
    };
}
opaque!(
    apr_pool_t,
    apr_table_t,
    apr_socket_t,
    apr_bucket_alloc_t,
    ap_conf_vector_t,
    ap_filter_rec_t,
    process_rec,
    apr_file_t,
    ap_method_list_t,
    ap_configfile_t,
    ap_directive_t,
    apr_sockaddr_t,
    conn_state_t,
    htaccess_result
);

#[repr(C)]
#[derive(Debug)]
pub struct apr_array_header_t {
    pub pool: *mut apr_pool_t,
    pub elt_size: c_int,
    pub nelts: c_int,
    pub nalloc: c_int,
    pub elts: *mut c_char,
}

#[repr(C)]
#[derive(Debug)]
pub struct ap_logconf {
    pub module_levels: *mut i8,
    pub level: c_int,
}

#[repr(C)]
#[derive(Debug)]
pub struct server_rec {
    pub process: *mut process_rec,
    pub next: *mut server_rec,
    pub error_fname: *mut c_char,
    pub error_log: *mut apr_file_t,
    pub log: ap_logconf,
    pub module_config: *mut ap_conf_vector_t,
    pub lookup_defaults: *mut ap_conf_vector_t,
    pub defn_name: *const c_char,
    pub defn_line_number: c_uint,
    pub is_virtual: c_char,
    pub port: u16,
    pub server_scheme: *const c_char,
    pub server_admin: *mut c_char,
    pub server_hostname: *mut c_char,
    pub addrs: *mut c_void,
    pub timeout: i64,
}

#[repr(C)]
#[derive(Debug)]
pub struct conn_rec {
    pub pool: *mut apr_pool_t,
    pub base_server: *mut server_rec,
    pub vhost_lookup_data: *mut c_void,
    pub local_addr: *mut apr_sockaddr_t,
    pub client_addr: *mut apr_sockaddr_t,
    pub client_ip: *mut c_char,
    pub remote_host: *mut c_char,
    pub remote_logname: *mut c_char,
    pub local_ip: *mut c_char,
    pub local_host: *mut c_char,
    pub id: c_long,
    pub conn_config: *mut ap_conf_vector_t,
    pub notes: *mut apr_table_t,
    pub input_filters: *mut ap_filter_t,
    pub output_filters: *mut ap_filter_t,
    pub sbh: *mut c_void,
    pub bucket_alloc: *mut apr_bucket_alloc_t,
    pub cs: *mut conn_state_t,
    pub data_in_input_filters: c_int,
    pub data_in_output_filters: c_int,
    /// `clogging_input_filters` and `double_reverse`.
    pub bits: c_uint,
    pub aborted: c_uint,
    pub keepalive: c_int,
    pub keepalives: c_int,
    pub log: *const ap_logconf,
    pub log_id: *const c_char,
    pub current_thread: *mut c_void,
    pub master: *mut conn_rec,
}

/// `apr_uri_t`: by its size.
#[repr(C)]
#[derive(Debug)]
pub struct apr_uri_t {
    pub words: [u64; 11],
}

/// `apr_finfo_t`: by its size.
#[repr(C)]
#[derive(Debug)]
pub struct apr_finfo_t {
    pub words: [u64; 15],
}

#[repr(C)]
#[derive(Debug)]
pub struct request_rec {
    pub pool: *mut apr_pool_t,
    pub connection: *mut conn_rec,
    pub server: *mut server_rec,
    pub next: *mut request_rec,
    pub prev: *mut request_rec,
    pub main: *mut request_rec,
    pub the_request: *mut c_char,
    pub assbackwards: c_int,
    pub proxyreq: c_int,
    pub header_only: c_int,
    pub proto_num: c_int,
    pub protocol: *mut c_char,
    pub hostname: *const c_char,
    pub request_time: apr_time_t,
    pub status_line: *const c_char,
    pub status: c_int,
    pub method_number: c_int,
    pub method: *const c_char,
    pub allowed: i64,
    pub allowed_xmethods: *mut apr_array_header_t,
    pub allowed_methods: *mut ap_method_list_t,
    pub sent_bodyct: apr_off_t,
    pub bytes_sent: apr_off_t,
    pub mtime: apr_time_t,
    pub range: *const c_char,
    pub clength: apr_off_t,
    pub chunked: c_int,
    pub read_body: c_int,
    pub read_chunked: c_int,
    pub expecting_100: c_uint,
    pub kept_body: *mut apr_bucket_brigade,
    pub body_table: *mut apr_table_t,
    pub remaining: apr_off_t,
    pub read_length: apr_off_t,
    pub headers_in: *mut apr_table_t,
    pub headers_out: *mut apr_table_t,
    pub err_headers_out: *mut apr_table_t,
    pub subprocess_env: *mut apr_table_t,
    pub notes: *mut apr_table_t,
    pub content_type: *const c_char,
    pub handler: *const c_char,
    pub content_encoding: *const c_char,
    pub content_languages: *mut apr_array_header_t,
    pub vlist_validator: *mut c_char,
    pub user: *mut c_char,
    pub ap_auth_type: *mut c_char,
    pub unparsed_uri: *mut c_char,
    pub uri: *mut c_char,
    pub filename: *mut c_char,
    pub canonical_filename: *mut c_char,
    pub path_info: *mut c_char,
    pub args: *mut c_char,
    pub used_path_info: c_int,
    pub eos_sent: c_int,
    pub per_dir_config: *mut ap_conf_vector_t,
    pub request_config: *mut ap_conf_vector_t,
    pub log: *const ap_logconf,
    pub log_id: *const c_char,
    pub htaccess: *const htaccess_result,
    pub output_filters: *mut ap_filter_t,
    pub input_filters: *mut ap_filter_t,
    pub proto_output_filters: *mut ap_filter_t,
    pub proto_input_filters: *mut ap_filter_t,
    pub no_cache: c_int,
    pub no_local_copy: c_int,
    pub invoke_mtx: *mut c_void,
    pub parsed_uri: apr_uri_t,
    pub finfo: apr_finfo_t,
    pub useragent_addr: *mut apr_sockaddr_t,
    pub useragent_ip: *mut c_char,
}

#[repr(C)]
#[derive(Debug)]
pub struct ap_filter_t {
    pub frec: *mut ap_filter_rec_t,
    pub ctx: *mut c_void,
    pub next: *mut ap_filter_t,
    pub r: *mut request_rec,
    pub c: *mut conn_rec,
}

/// `APR_RING_ENTRY(apr_bucket)`, which is also `APR_RING_HEAD`.
#[repr(C)]
#[derive(Debug)]
pub struct apr_bucket_link {
    pub next: *mut apr_bucket,
    pub prev: *mut apr_bucket,
}

#[repr(C)]
#[derive(Debug)]
pub struct apr_bucket_type_t {
    pub name: *const c_char,
    pub num_func: c_int,
    pub is_metadata: c_int,
    pub destroy: unsafe extern "C" fn(*mut c_void),
    pub read:
        unsafe extern "C" fn(*mut apr_bucket, *mut *const c_char, *mut apr_size_t, c_int) -> apr_status_t,
}

#[repr(C)]
#[derive(Debug)]
pub struct apr_bucket {
    pub link: apr_bucket_link,
    pub kind: *const apr_bucket_type_t,
    pub length: apr_size_t,
    pub start: apr_off_t,
    pub data: *mut c_void,
    pub free: unsafe extern "C" fn(*mut c_void),
    pub list: *mut apr_bucket_alloc_t,
}

#[repr(C)]
#[derive(Debug)]
pub struct apr_bucket_brigade {
    pub p: *mut apr_pool_t,
    pub list: apr_bucket_link,
    pub bucket_alloc: *mut apr_bucket_alloc_t,
}

#[repr(C)]
#[derive(Debug)]
pub struct cmd_parms {
    pub info: *mut c_void,
    pub override_: c_int,
    pub override_opts: c_int,
    pub override_list: *mut apr_table_t,
    pub limited: i64,
    pub limited_xmethods: *mut apr_array_header_t,
    pub xlimited: *mut ap_method_list_t,
    pub config_file: *mut ap_configfile_t,
    pub directive: *mut ap_directive_t,
    pub pool: *mut apr_pool_t,
    pub temp_pool: *mut apr_pool_t,
    pub server: *mut server_rec,
    pub path: *mut c_char,
    pub cmd: *const command_rec,
}

pub type Take1 = unsafe extern "C" fn(*mut cmd_parms, *mut c_void, *const c_char) -> *const c_char;
pub type TakeFlag = unsafe extern "C" fn(*mut cmd_parms, *mut c_void, c_int) -> *const c_char;
pub type TakeArgv =
    unsafe extern "C" fn(*mut cmd_parms, *mut c_void, c_int, *const *const c_char) -> *const c_char;

/// `cmd_func`: which member counts is said by [`command_rec::args_how`].
#[repr(C)]
#[derive(Clone, Copy)]
pub union cmd_func {
    pub take1: Take1,
    pub flag: TakeFlag,
    pub take_argv: TakeArgv,
    pub none: *const c_void,
}

#[repr(C)]
pub struct command_rec {
    pub name: *const c_char,
    pub func: cmd_func,
    pub cmd_data: *mut c_void,
    pub req_override: c_int,
    pub args_how: c_int,
    pub errmsg: *const c_char,
}

pub type CreateConfig = unsafe extern "C" fn(*mut apr_pool_t, *mut server_rec) -> *mut c_void;
pub type MergeConfig = unsafe extern "C" fn(*mut apr_pool_t, *mut c_void, *mut c_void) -> *mut c_void;

#[repr(C)]
#[derive(Debug)]
pub struct module {
    pub version: c_int,
    pub minor_version: c_int,
    pub module_index: c_int,
    pub name: *const c_char,
    pub dynamic_load_handle: *mut c_void,
    pub next: *mut module,
    pub magic: c_ulong,
    pub rewrite_args: Option<unsafe extern "C" fn(*mut process_rec)>,
    pub create_dir_config: Option<unsafe extern "C" fn(*mut apr_pool_t, *mut c_char) -> *mut c_void>,
    pub merge_dir_config: Option<MergeConfig>,
    pub create_server_config: Option<CreateConfig>,
    pub merge_server_config: Option<MergeConfig>,
    pub cmds: *const command_rec,
    pub register_hooks: Option<unsafe extern "C" fn(*mut apr_pool_t)>,
    pub flags: c_int,
}

pub type OutputFilter = unsafe extern "C" fn(*mut ap_filter_t, *mut apr_bucket_brigade) -> apr_status_t;
pub type RequestHook = unsafe extern "C" fn(*mut request_rec);
pub type Cleanup = unsafe extern "C" fn(*mut c_void) -> apr_status_t;
/// What `apr_table_do` calls for each entry; 0 ends it.
pub type EachEntry = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> c_int;

unsafe extern "C" {
    pub static apr_bucket_type_eos: apr_bucket_type_t;
    pub static ap_bucket_type_error: apr_bucket_type_t;

    pub fn apr_pool_cleanup_register(
        pool: *mut apr_pool_t,
        data: *const c_void,
        plain: Cleanup,
        child: Cleanup,
    );
    pub fn apr_pool_cleanup_null(data: *mut c_void) -> apr_status_t;
    pub fn apr_pstrmemdup(pool: *mut apr_pool_t, text: *const c_char, bytes: apr_size_t) -> *mut c_char;
    pub fn apr_generate_random_bytes(buffer: *mut u8, bytes: apr_size_t) -> apr_status_t;

    pub fn apr_table_get(table: *const apr_table_t, key: *const c_char) -> *const c_char;
    pub fn apr_table_set(table: *mut apr_table_t, key: *const c_char, value: *const c_char);
    pub fn apr_table_add(table: *mut apr_table_t, key: *const c_char, value: *const c_char);
    pub fn apr_table_unset(table: *mut apr_table_t, key: *const c_char);
    pub fn apr_table_clear(table: *mut apr_table_t);
    pub fn apr_table_do(
        each: EachEntry,
        context: *mut c_void,
        table: *const apr_table_t,
        end: *const c_char,
    ) -> c_int;

    pub fn apr_brigade_create(
        pool: *mut apr_pool_t,
        list: *mut apr_bucket_alloc_t,
    ) -> *mut apr_bucket_brigade;
    pub fn apr_brigade_cleanup(brigade: *mut c_void) -> apr_status_t;
    pub fn apr_bucket_eos_create(list: *mut apr_bucket_alloc_t) -> *mut apr_bucket;
    pub fn apr_bucket_flush_create(list: *mut apr_bucket_alloc_t) -> *mut apr_bucket;
    pub fn apr_bucket_heap_create(
        bytes: *const c_char,
        length: apr_size_t,
        free: Option<unsafe extern "C" fn(*mut c_void)>,
        list: *mut apr_bucket_alloc_t,
    ) -> *mut apr_bucket;
    pub fn ap_bucket_error_create(
        status: c_int,
        text: *const c_char,
        pool: *mut apr_pool_t,
        list: *mut apr_bucket_alloc_t,
    ) -> *mut apr_bucket;

    pub fn apr_os_sock_get(fd: *mut c_int, socket: *mut apr_socket_t) -> apr_status_t;

    pub fn ap_get_conn_socket(connection: *mut conn_rec) -> *mut apr_socket_t;
    pub fn ap_ssl_conn_is_ssl(connection: *mut conn_rec) -> c_int;
    pub fn ap_discard_request_body(request: *mut request_rec) -> c_int;
    pub fn ap_set_content_type(request: *mut request_rec, value: *const c_char);
    pub fn ap_set_content_length(request: *mut request_rec, bytes: apr_off_t);

    pub fn ap_register_output_filter(
        name: *const c_char,
        filter: OutputFilter,
        init: Option<unsafe extern "C" fn(*mut ap_filter_t) -> c_int>,
        kind: c_int,
    ) -> *mut ap_filter_rec_t;
    pub fn ap_add_output_filter(
        name: *const c_char,
        context: *mut c_void,
        request: *mut request_rec,
        connection: *mut conn_rec,
    ) -> *mut ap_filter_t;
    pub fn ap_remove_output_filter(filter: *mut ap_filter_t);
    pub fn ap_pass_brigade(filter: *mut ap_filter_t, brigade: *mut apr_bucket_brigade) -> apr_status_t;

    pub fn ap_hook_insert_filter(
        hook: RequestHook,
        before: *const *const c_char,
        after: *const *const c_char,
        order: c_int,
    );
    pub fn ap_hook_insert_error_filter(
        hook: RequestHook,
        before: *const *const c_char,
        after: *const *const c_char,
        order: c_int,
    );

    /// Variadic: the format is always `"%s"`.
    pub fn ap_log_rerror_(
        file: *const c_char,
        line: c_int,
        module_index: c_int,
        level: c_int,
        status: apr_status_t,
        request: *const request_rec,
        format: *const c_char,
        ...
    );
}
