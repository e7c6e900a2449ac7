//! A certificate of the sink's own.

use std::{fs, io, path::Path, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

/// A self-signed certificate and what serves with it.
#[derive(Clone)]
pub(crate) struct Tls {
    pub acceptor: TlsAcceptor,
    pub certificate: String,
}

impl Tls {
    /// For these names and addresses; the certificate is written to `ca.crt` in `folder`, if there is one.
    pub fn new(names: &[String], folder: Option<&Path>) -> io::Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .map_err(io::Error::other)?;
        let certificate = cert.pem();
        if let Some(folder) = folder {
            fs::create_dir_all(folder)?;
            fs::write(folder.join("ca.crt"), &certificate)?;
        }
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }
}
