//! Who is trusted, and who we are. In: the configuration and the files that it names. Out: what each TLS connection to
//! an API begins with.
//!
//! Called before the worker is confined: afterwards no file can be read.
//! Never: trusts the system's certificates where others are named; sends a request in the handshake's first flight.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use handoff_config::backend::{ClientCertificate, Connection};
use http::Uri;
use http::uri::Scheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What a backend's TLS lacks.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file in PEM that cannot be read.
    #[error("{key}: {} is not to be had as PEM", file.display())]
    File {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        file: PathBuf,
        /// Why not.
        #[source]
        source: pem::Error,
    },
    /// A file without any certificate.
    #[error("{key}: {} has no certificate", file.display())]
    Empty {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        file: PathBuf,
    },
    /// A certificate or a key that rustls does not take.
    #[error("{key}: {} is of no use", file.display())]
    Unusable {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        file: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// No certificates on this host.
    #[error("this host has no certificates to trust (Debian: ca-certificates); ca_file can name some: {0}")]
    NoRoots(String),
    /// rustls does not take the provider.
    #[error("TLS cannot be set up")]
    Provider(#[source] rustls::Error),
}

/// Whose certificates are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// As configured, else the system's.
    Configured,
    /// Nobody's: for a backend that is there by itself. A site that uses another one needs no certificates for it, and
    /// its workers do not spend their first milliseconds on reading them.
    Nobody,
}

const CA_FILE: &str = "ca_file";
const CERTIFICATE: &str = "client_certificate";
const KEY: &str = "client_key";

/// What TLS connections to the origin of `base`, or to its proxy, begin with. The system's certificates are read once
/// a process, and only for who needs them. Sessions are resumed.
///
/// # Errors
/// A named file is missing or not what it should be; this host has no certificates, and TLS needs some.
pub fn client_config(
    base: &Uri,
    connection: &Connection,
    trust: Trust,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Provider)?;
    let builder = if connection.insecure_ssl {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        let roots = match trust {
            Trust::Configured => roots(base, connection)?,
            Trust::Nobody => Arc::new(RootCertStore::empty()),
        };
        builder.with_root_certificates(roots)
    };
    let mut config = match &connection.client_certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { certificate_file, key_file }) => {
            let chain = certificates(CERTIFICATE, certificate_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|source| TlsError::File {
                key: KEY,
                file: key_file.clone(),
                source,
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|source| TlsError::Unusable {
                key: KEY,
                file: key_file.clone(),
                source,
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if connection.http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(Arc::new(config))
}

fn roots(base: &Uri, connection: &Connection) -> Result<Arc<RootCertStore>, TlsError> {
    if let Some(file) = &connection.ca_file {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(CA_FILE, file)? {
            roots.add(certificate).map_err(|source| TlsError::Unusable {
                key: CA_FILE,
                file: file.clone(),
                source,
            })?;
        }
        return Ok(Arc::new(roots));
    }
    let https = base.scheme() == Some(&Scheme::HTTPS) && connection.socket.is_none();
    let proxy = connection.proxy.as_ref().map(|proxy| proxy.address.expose().to_ascii_lowercase());
    if https || proxy.is_some_and(|proxy| proxy.starts_with("https:")) {
        return system_roots();
    }
    Ok(Arc::new(RootCertStore::empty()))
}

/// The system's, from the usual places: a worker has no environment that could name others.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (valid, invalid) = roots.add_parsable_certificates(found.certs);
        if valid > 0 {
            return Ok(Arc::new(roots));
        }
        let errors = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(format!("{invalid} cannot be read, errors: [{errors}]"))
    });
    roots.clone().map_err(TlsError::NoRoots)
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::File { key, file: file.to_owned(), source };
    let all = CertificateDer::pem_file_iter(file).map_err(unreadable)?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if all.is_empty() {
        return Err(TlsError::Empty { key, file: file.to_owned() });
    }
    Ok(all)
}

/// `insecure_ssl`: any certificate will do; whoever sends it must still have its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
