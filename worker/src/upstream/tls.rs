//! TLS towards upstreams.

use std::sync::Arc;

use handoff_config::backend::Connection;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {}

/// The system's roots, read once.
#[derive(Debug, Default)]
pub struct Roots {}

pub(super) fn client_config(
    _base: &str,
    _connection: &Connection,
    _roots: &mut Roots,
) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("rustls knows its own versions");
    Ok(Arc::new(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()))
}
