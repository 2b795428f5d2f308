//! TLS of a private Apache. In: its address. Out: a certificate that is its own authority, and a client that trusts it
//! alone. Never: anything that another test could trust.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::PATIENCE;
use crate::client::Response;

/// Writes `tls.pem` and `tls.key`, for this address and `localhost`.
pub(super) fn write_certificate(root: &Path, address: &str) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    let address: IpAddr = address.parse().expect("an address");
    params.subject_alt_names.push(SanType::IpAddress(address));
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(root.join("tls.pem"), certificate.pem()).expect("a file");
    fs::write(root.join("tls.key"), key.serialize_pem()).expect("a file");
}

/// A client's configuration that trusts this certificate alone.
pub(super) fn trusting(authority: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(authority).expect("a certificate");
    roots.add(certificate).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A client's end of a TLS connection. Every read has a deadline.
#[derive(Debug)]
pub struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    pub(super) fn connect(address: &str, port: u16, authority: &Path) -> Self {
        let config = trusting(authority);
        let name = ServerName::try_from(address.to_owned()).expect("an address");
        let stream = TcpStream::connect((address, port)).expect("Apache takes the connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        let session = ClientConnection::new(Arc::new(config), name).expect("a TLS session");
        Self(StreamOwned::new(session, stream))
    }

    /// Reads until the connection ends; an end without TLS's own word for it is noted as one that broke.
    #[must_use]
    pub fn response(mut self) -> Response {
        let mut bytes = Vec::new();
        let broken = self.0.read_to_end(&mut bytes).err().map(|error| error.kind());
        Response::parse(&bytes, broken)
    }
}

impl Read for TlsClient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for TlsClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
