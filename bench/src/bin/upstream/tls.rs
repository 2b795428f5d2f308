//! Who this server is. In: nothing. Out: a certificate made for this run, and a file with the authority to trust it by.
//! Never: a key in a file.

use std::fs::Permissions;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tempfile::NamedTempFile;

pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    /// For everybody to read; it goes when this does.
    pub(crate) ca_file: NamedTempFile,
}

pub(crate) fn identity(h1: bool) -> io::Result<Identity> {
    let (config, ca) = certified(h1).map_err(io::Error::other)?;
    let mut ca_file = tempfile::Builder::new()
        .prefix("upstream-ca-")
        .suffix(".pem")
        .permissions(Permissions::from_mode(0o644))
        .tempfile()?;
    ca_file.write_all(ca.as_bytes())?;
    Ok(Identity { config: Arc::new(config), ca_file })
}

fn certified(h1: bool) -> Result<(ServerConfig, String), Box<dyn std::error::Error + Send + Sync>> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "authority of a measurement");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key)?;
    let issuer = Issuer::new(params, ca_key);

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer)?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.into()], key.into())?;
    config.alpn_protocols = vec![if h1 { b"http/1.1".to_vec() } else { b"h2".to_vec() }];
    Ok((config, ca.pem()))
}
