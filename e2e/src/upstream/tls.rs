//! Certificates of a test's own. In: what is wrong with the server's. Out: the server's TLS, and files for the client:
//! `ca.pem` to trust, `client.pem` and `client.key` to show. Never: anything that another test could trust.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A name that the server's certificate is for, besides its address and `localhost`.
pub const SERVER_NAME: &str = "llm.test";

/// What the server shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// One for its address, for `localhost` and for [`SERVER_NAME`].
    #[default]
    Good,
    /// One for another name.
    WrongName,
    /// One that was good until the year 2001.
    Expired,
    /// One of an authority that nobody knows; `ca.pem` is another's.
    Unknown,
}

/// Writes the files, and makes the server's TLS.
pub(super) fn configure(
    directory: &Path,
    address: IpAddr,
    certificate: Certificate,
    wants_client_certificate: bool,
    alpn: &[&str],
) -> ServerConfig {
    let (authority, ca) = authority("the authority");
    let (stranger, _) = self::authority("a stranger");
    let issuer = if certificate == Certificate::Unknown { &stranger } else { &authority };
    let key = KeyPair::generate().expect("a key");
    let chain = vec![leaf(certificate, address).signed_by(&key, issuer).expect("a certificate").into()];
    let client_key = KeyPair::generate().expect("a key");
    let mut client = params(&["client.test"]);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = client.signed_by(&client_key, &authority).expect("a certificate");
    write(&directory.join("ca.pem"), &ca.pem());
    write(&directory.join("client.pem"), &client.pem());
    write(&directory.join("client.key"), &client_key.serialize_pem());

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions of TLS");
    let builder = if wants_client_certificate {
        let mut roots = RootCertStore::empty();
        roots.add(ca.into()).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = builder.with_single_cert(chain, key.into()).expect("a certificate and its key");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, rcgen::Certificate) {
    let key = KeyPair::generate().expect("a key");
    let mut params = params(&[]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    (Issuer::new(params, key), certificate)
}

fn leaf(certificate: Certificate, address: IpAddr) -> CertificateParams {
    let mut params = match certificate {
        Certificate::WrongName => params(&["wrong.test"]),
        Certificate::Good | Certificate::Expired | Certificate::Unknown => {
            let mut params = params(&[SERVER_NAME, "localhost"]);
            params.subject_alt_names.push(SanType::IpAddress(address));
            params
        }
    };
    if certificate == Certificate::Expired {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("names")
}

/// For everybody to read: workers are another user.
fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("a mode");
}
