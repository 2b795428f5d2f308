//! The hand-written declarations are httpd's own: a C program, compiled with the installed headers, says every offset,
//! size and constant that the module relies on.

#![expect(dead_code, reason = "most of the declarations are for the module alone")]

#[path = "../src/ffi.rs"]
#[expect(unreachable_pub, reason = "made for another crate root")]
mod ffi;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::process::Command;

/// One fact: how C says it, and our value.
type Facts = Vec<(String, usize)>;

/// The offsets of a structure's members; C's name where it differs.
macro_rules! members {
    ($facts:ident, $c:literal, $rust:ident, $($member:ident $(= $name:literal)?),+ $(,)?) => {
        $(
            #[allow(unused_mut, unused_assignments, reason = "only some names differ")]
            let mut name = stringify!($member);
            $(name = $name;)?
            $facts.push((format!("offsetof({}, {name})", $c), offset_of!(ffi::$rust, $member)));
        )+
    };
}

fn structures() -> Facts {
    let mut facts = Facts::new();
    members!(
        facts,
        "request_rec",
        request_rec,
        pool,
        connection,
        server,
        prev,
        main,
        protocol,
        status_line,
        status,
        method,
        headers_in,
        headers_out,
        err_headers_out,
        subprocess_env,
        notes,
        unparsed_uri,
        output_filters,
        parsed_uri,
        finfo,
        useragent_ip
    );
    members!(
        facts,
        "conn_rec",
        conn_rec,
        pool,
        conn_config,
        output_filters,
        bucket_alloc,
        aborted,
        keepalive,
        master
    );
    members!(facts, "server_rec", server_rec, module_config, timeout);
    members!(facts, "ap_filter_t", ap_filter_t, frec, ctx, next, r, c);
    members!(facts, "apr_bucket", apr_bucket, link, kind = "type", length, start, data, free, list);
    members!(facts, "apr_bucket_type_t", apr_bucket_type_t, name, num_func, is_metadata, destroy, read);
    members!(facts, "apr_bucket_brigade", apr_bucket_brigade, p, list, bucket_alloc);
    members!(facts, "cmd_parms", cmd_parms, pool, server, cmd);
    members!(facts, "command_rec", command_rec, name, func, cmd_data, req_override, args_how, errmsg);
    members!(
        facts,
        "module",
        module,
        version,
        minor_version,
        module_index,
        name,
        dynamic_load_handle,
        next,
        magic,
        rewrite_args,
        create_dir_config,
        merge_dir_config,
        create_server_config,
        merge_server_config,
        cmds,
        register_hooks,
        flags
    );
    // What stands in an array, or is made by us, has to have the right size too.
    facts.push(("sizeof(command_rec)".into(), size_of::<ffi::command_rec>()));
    facts.push(("sizeof(cmd_func)".into(), size_of::<ffi::cmd_func>()));
    facts.push(("sizeof(module)".into(), size_of::<ffi::module>()));
    facts.push(("sizeof(apr_bucket)".into(), size_of::<ffi::apr_bucket>()));
    facts.push(("sizeof(apr_bucket_brigade)".into(), size_of::<ffi::apr_bucket_brigade>()));
    facts.push(("sizeof(apr_uri_t)".into(), size_of::<ffi::apr_uri_t>()));
    facts.push(("sizeof(apr_finfo_t)".into(), size_of::<ffi::apr_finfo_t>()));
    facts.push(("sizeof(apr_size_t)".into(), size_of::<ffi::apr_size_t>()));
    facts.push(("sizeof(apr_off_t)".into(), size_of::<ffi::apr_off_t>()));
    facts.push(("sizeof(apr_status_t)".into(), size_of::<ffi::apr_status_t>()));
    facts.push(("sizeof(apr_time_t)".into(), size_of::<ffi::apr_time_t>()));
    facts
}

fn constants() -> Facts {
    let value = |value: i32| usize::try_from(value).expect("no constant is negative");
    [
        ("APR_SUCCESS", value(ffi::APR_SUCCESS)),
        ("APR_BLOCK_READ", value(ffi::APR_BLOCK_READ)),
        ("APR_HOOK_LAST", value(ffi::APR_HOOK_LAST)),
        ("MODULE_MAGIC_NUMBER_MAJOR", value(ffi::MODULE_MAGIC_NUMBER_MAJOR)),
        ("MODULE_MAGIC_COOKIE", usize::try_from(ffi::MODULE_MAGIC_COOKIE).expect("64 bits")),
        ("RSRC_CONF", value(ffi::RSRC_CONF)),
        ("TAKE1", value(ffi::TAKE1)),
        ("FLAG", value(ffi::FLAG)),
        ("TAKE_ARGV", value(ffi::TAKE_ARGV)),
        ("AP_FTYPE_RESOURCE", value(ffi::AP_FTYPE_RESOURCE)),
        ("AP_FTYPE_PROTOCOL", value(ffi::AP_FTYPE_PROTOCOL)),
        ("APLOG_ERR", value(ffi::APLOG_ERR)),
        ("APLOG_WARNING", value(ffi::APLOG_WARNING)),
        ("APLOG_INFO", value(ffi::APLOG_INFO)),
        ("AP_CONN_CLOSE", value(ffi::AP_CONN_CLOSE)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// What the installed headers say.
fn ask_c(expressions: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut source = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"httpd.h\"\n#include \"http_config.h\"\n\
         #include \"http_log.h\"\n#include \"http_ssl.h\"\n#include \"util_filter.h\"\n#include \"apr_buckets.h\"\n\
         #include \"apr_hooks.h\"\nint main(void) {\n",
    );
    for expression in expressions {
        writeln!(source, "printf(\"%s=%zu\\n\", \"{expression}\", (size_t)({expression}));")
            .expect("a string grows");
    }
    source.push_str("return 0; }\n");
    let directory = tempfile::tempdir().expect("a directory");
    let (file, program) = (directory.path().join("layout.c"), directory.path().join("layout"));
    std::fs::write(&file, source).expect("a file");
    let apxs = |name: &str| {
        let output = Command::new("apxs")
            .args(["-q", name])
            .output()
            .expect("apxs: scripts/test-packages installs it");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let mut compiler = Command::new("cc");
    compiler.args(apxs("EXTRA_CPPFLAGS").split_whitespace());
    for directory in ["INCLUDEDIR", "APR_INCLUDEDIR", "APU_INCLUDEDIR"] {
        compiler.arg(format!("-I{}", apxs(directory)));
    }
    let compiled = compiler.arg("-o").arg(&program).arg(&file).output().expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let said = Command::new(&program).output().expect("the program runs");
    let text = String::from_utf8(said.stdout).expect("text");
    let pairs = text.lines().map(|line| line.rsplit_once('=').expect("a pair"));
    pairs.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

#[test]
fn every_declaration_is_httpds_own() {
    let facts = [structures(), constants()].concat();
    let said = ask_c(facts.iter().map(|(expression, _)| expression.clone()));
    let wrong: Vec<String> = facts
        .iter()
        .filter(|(expression, ours)| said[expression] != *ours)
        .map(|(expression, ours)| format!("{expression}: {} in C, {ours} here", said[expression]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_installed_httpd_has_all_that_the_module_declares_to_need() {
    let said = ask_c(["MODULE_MAGIC_NUMBER_MINOR".to_owned()].into_iter());
    let needed = usize::try_from(ffi::MODULE_MAGIC_NUMBER_MINOR).expect("a number");
    assert!(said["MODULE_MAGIC_NUMBER_MINOR"] >= needed);
}
