//! TLS as docs/protocol.md asks for it: 1.3 only, ALPN `iris/2`, the server name always `iris.internal`, and no trust but in
//! the cluster's own CA, given as a certificate or as its fingerprint.

use std::sync::Arc;
use std::time::Duration;

use iris_protocol::frame::ALPN;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use crate::config::Trust;
use crate::error::ClientError;

/// No earlier time is believed when a pinned CA's chain is verified: 2026, before which there was no cluster. A machine without a
/// battery starts in 1970, and certificates would seem to be none yet. The clusters' certificates begin long before.
const CLOCK_S_MIN: u64 = 1_767_225_600;

/// What every node's certificate says, whatever address was dialled.
const SERVER_NAME: &str = "iris.internal";

/// The name to ask for and to check, whatever address is dialled.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a constant DNS name")
}

/// The TLS side of a client that trusts `trust`.
pub(crate) fn client_config(trust: &Trust) -> Result<Arc<rustls::ClientConfig>, ClientError> {
    tls_config(trust, ALPN)
}

/// TLS settings for a protocol of the cluster: 1.3 only, and no trust but in its own CA. For the other protocols on a node's
/// client port; [`crate::Client`] makes its own. The provider is named, never the process's default: two libraries in one
/// program need not agree on it.
///
/// # Errors
/// The CA's certificate can't be read.
pub fn tls_config(trust: &Trust, alpn: &[u8]) -> Result<Arc<rustls::ClientConfig>, ClientError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let broken = |error: &dyn std::fmt::Display| ClientError::Config(format!("TLS: {error}"));
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::CaPem(pem) => WebPkiServerVerifier::builder_with_provider(Arc::new(roots_of_pem(pem)?), provider)
            .build()
            .map_err(|error| broken(&error))?,
        Trust::CaSha256(ca_sha256) => Arc::new(PinnedCa { ca_sha256: *ca_sha256, provider }),
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots_of_pem(pem: &str) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let refuse = |why: String| ClientError::Config(format!("the CA's certificate: {why}"));
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(ClientError::Config("the CA's file holds no certificate".into()));
    }
    Ok(roots)
}

/// Takes the certificate with the known fingerprint from the chain the server sent and verifies the chain with it as the only
/// root. Who holds no key under that CA can present the CA's certificate, but no leaf that descends from it.
#[derive(Debug)]
struct PinnedCa {
    ca_sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = now.max(UnixTime::since_unix_epoch(Duration::from_secs(CLOCK_S_MIN)));
        let is_pinned = |certificate: &&CertificateDer<'_>| Sha256::digest(certificate.as_ref())[..] == self.ca_sha256;
        let ca =
            intermediates.iter().find(is_pinned).ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_that_is_none_is_refused_at_the_start() {
        let refused = |pem: &str| {
            assert!(matches!(client_config(&Trust::CaPem(pem.into())), Err(ClientError::Config(_))), "{pem}");
        };
        refused("");
        refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(client_config(&Trust::CaSha256([0; 32])).is_ok());
    }
}
