//! Whom to trust, and what to say when there is no trust.

use std::{fmt, io, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use crate::system::is_out_of_files;

/// The certificate authorities, and the certificates, that servers are checked against; clones are cheap.
#[derive(Clone)]
pub struct TlsRoots(Arc<ClientConfig>);

impl fmt::Debug for TlsRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsRoots(..)")
    }
}

impl TlsRoots {
    /// The platform's authorities and those in `extra` (PEM). A server's own certificate may stand there too, whoever
    /// signed it. Reads files, so make it once and again when they change.
    ///
    /// Fails when `extra` holds no usable certificate ([`io::ErrorKind::InvalidData`]), or when no file descriptor is
    /// left to read with. A platform without any is no error: then no handshake succeeds but with `extra`.
    pub fn platform(extra: Option<&[u8]>) -> Result<Self, io::Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        if let Some(error) = found.errors.into_iter().find_map(out_of_files) {
            return Err(error);
        }
        roots.add_parsable_certificates(found.certs);
        let mut given = Vec::new();
        if let Some(pem) = extra {
            let invalid = |detail: String| io::Error::new(io::ErrorKind::InvalidData, detail);
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| invalid(format!("cannot read the CA certificate: {error}")))?;
                let added = roots.add(certificate.clone());
                added.map_err(|error| invalid(format!("cannot use the CA certificate: {error}")))?;
                given.push(certificate);
            }
            if given.is_empty() {
                return Err(invalid("no CA certificate found: write it in PEM".into()));
            }
        }
        Self::of(roots, given)
    }

    /// Nobody: for servers that are spoken to without TLS.
    pub fn nobody() -> Result<Self, io::Error> {
        Self::of(RootCertStore::empty(), Vec::new())
    }

    fn of(roots: RootCertStore, given: Vec<CertificateDer<'static>>) -> Result<Self, io::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        // Without any authority there is nothing to check by; such a configuration refuses every server.
        let config = if roots.is_empty() {
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = Given { authorities: authorities.map_err(io::Error::other)?, given };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        };
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// Not knowing an authority for want of a file descriptor would look like a server that cannot be trusted.
fn out_of_files(error: rustls_native_certs::Error) -> Option<io::Error> {
    match error.kind {
        rustls_native_certs::ErrorKind::Io { inner, .. } => is_out_of_files(&inner).then_some(inner),
        _ => None,
    }
}

/// The name that the certificate must carry.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(|_| "this is no host name".to_owned())
}

/// As the authorities say, but that a server may also show one of the very certificates that were given, though it says of
/// itself that it is an authority: so does whatever `openssl req -x509` makes.
#[derive(Debug)]
struct Given {
    authorities: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Given {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.authorities.verify_server_cert(certificate, others, name, ocsp_response, now);
        match verified {
            // That is found out after the dates were looked at, and before the name is.
            Err(error) if is_of_authority(&error) && self.given.iter().any(|given| given == certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Whether a server is refused for showing a certificate that is an authority's.
fn is_of_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// What a handshake failed by, and what would mend it.
pub(super) fn problem(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return error.to_string() };
    let remedy = match tls {
        Error::AlertReceived(
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity,
        )
        | Error::PeerIncompatible(_) => {
            "the server has no version or cipher in common with us: it needs TLS 1.2 or 1.3, with ECDHE and AES-GCM or \
             ChaCha20-Poly1305"
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "add the authority that signed it, or the certificate itself, as ca.crt to the server's Secret"
        }
        Error::InvalidCertificate(_) if is_of_authority(tls) => {
            "the server shows an authority's certificate: add that very certificate as ca.crt to the server's Secret"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "set host, or tlsServerName, to a name that the certificate has",
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server needs a new certificate"
        }
        Error::InvalidMessage(_) => "what the server said is no TLS: see if the port wants tls StartTls or Implicit",
        _ => return tls.to_string(),
    };
    format!("{tls}; {remedy}")
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::io::duplex;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// As `openssl req -x509` makes it: signed by itself, and an authority by its own word.
    fn authority(name: &str) -> (String, Arc<ServerConfig>) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate that fits");
        (certificate.pem(), Arc::new(config))
    }

    async fn handshake(server: Arc<ServerConfig>, given: &str, name: &'static str) -> Result<(), String> {
        let roots = TlsRoots::platform(Some(given.as_bytes())).expect("roots");
        let (ours, theirs) = duplex(4096);
        let connecting = TlsConnector::from(roots.config()).connect(server_name(name).expect("a name"), ours);
        let (connected, _) = tokio::join!(connecting, TlsAcceptor::from(server).accept(theirs));
        connected.map(|_| ()).map_err(|error| problem(&error))
    }

    #[tokio::test]
    async fn a_certificate_that_was_given_is_good_though_it_is_an_authoritys() {
        let (given, server) = authority("mail.test");
        handshake(Arc::clone(&server), &given, "mail.test").await.expect("the very certificate");
        let error = handshake(Arc::clone(&server), &given, "other.test").await.expect_err("another name");
        assert!(error.contains("set host, or tlsServerName, to a name that the certificate has"), "{error}");
        // It is no licence for another of the same name.
        let (_, other) = authority("mail.test");
        let error = handshake(other, &given, "mail.test").await.expect_err("another certificate");
        assert!(error.contains("as ca.crt to the server's Secret"), "{error}");
    }

    #[test]
    fn a_handshake_without_a_cipher_in_common_says_what_is_needed() {
        for alert in [AlertDescription::HandshakeFailure, AlertDescription::ProtocolVersion] {
            let error = io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert));
            let problem = problem(&error);
            assert!(problem.contains("TLS 1.2 or 1.3") && problem.contains("ECDHE"), "{problem}");
        }
    }
}
