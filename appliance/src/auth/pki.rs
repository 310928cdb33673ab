//! The cluster's own certificate authority, its one leaf certificate, and the TLS settings made from them (D10, B1).

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use iris_protocol::frame::ALPN;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::cluster::meta::{Pki, Secret};

/// The name every client checks, whatever address it dialled (docs/protocol.md, Connection).
pub const SERVER_NAME: &str = "iris.internal";

/// Years the certificates are valid: longer than the machines live. The leaf lives as long as the CA, because nothing reissues it yet.
const VALID_YEARS: i32 = 10;

/// Certificates count from this year, and are made as if no clock stood before [`YEAR_MIN`]: a machine without a battery may boot in
/// 1970 and found a cluster.
const NOT_BEFORE_YEAR: i32 = 2000;
const YEAR_MIN: i32 = 2026;

/// Makes a CA and a leaf certificate that carries these names besides [`SERVER_NAME`] and `localhost`: node names and
/// addresses, for clients that check those. `year` is the current one.
///
/// # Errors
/// The crypto library failed, or a name is no DNS name or address.
pub fn found(cluster: &str, names: &[String], year: i32) -> anyhow::Result<Pki> {
    let not_after = rcgen::date_time_ymd(year.max(YEAR_MIN) + VALID_YEARS, 1, 1);
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, format!("Iris CA {cluster}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.not_before = rcgen::date_time_ymd(NOT_BEFORE_YEAR, 1, 1);
    ca.not_after = not_after;
    let ca_cert = ca.self_signed(&ca_key)?;

    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(subject_names(names))?;
    leaf.distinguished_name.push(DnType::CommonName, format!("Iris {cluster}"));
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    leaf.not_before = rcgen::date_time_ymd(NOT_BEFORE_YEAR, 1, 1);
    leaf.not_after = not_after;
    let leaf_cert = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &ca_key))?;

    Ok(Pki {
        ca_cert_pem: ca_cert.pem(),
        ca_key_pem: Secret::new(ca_key.serialize_pem()),
        leaf_cert_pem: leaf_cert.pem(),
        leaf_key_pem: Secret::new(leaf_key.serialize_pem()),
    })
}

/// The names that can stand in a certificate, each once. A machine's name may hold characters a DNS name can't: it is left
/// out, as clients check [`SERVER_NAME`].
fn subject_names(names: &[String]) -> Vec<String> {
    let mut all = vec![SERVER_NAME.to_owned(), "localhost".to_owned()];
    for name in names {
        let is_dns = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
        if (name.parse::<IpAddr>().is_ok() || is_dns) && !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

/// SHA-256 of the CA's certificate (its DER), lowercase hex: what clients pin.
///
/// # Errors
/// The certificate in the meta state is damaged.
pub fn ca_sha256(pki: &Pki) -> anyhow::Result<String> {
    let der = CertificateDer::from_pem_slice(pki.ca_cert_pem.as_bytes()).context("the CA's certificate is damaged")?;
    Ok(Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// TLS 1.3 only, `iris/2` only, the leaf followed by the CA.
///
/// # Errors
/// The certificates in the meta state are damaged.
pub fn server_config(pki: &Pki) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = [&pki.leaf_cert_pem, &pki.ca_cert_pem].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
    let chain = chain.into_iter().collect::<Result<Vec<_>, _>>().context("the cluster's certificates are damaged")?;
    let key =
        PrivateKeyDer::from_pem_slice(pki.leaf_key_pem.expose().as_bytes()).context("the cluster's key is damaged")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = CertifiedKey::from_der(chain, key, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OnlyIris(Arc::new(certified))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Sessions resume by cursor, not by ticket: a ticket would only cost memory here.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Shows the certificate only to clients that ask for our protocol: rustls by itself lets a client without ALPN through.
#[derive(Debug)]
struct OnlyIris(Arc<CertifiedKey>);

impl ResolvesServerCert for OnlyIris {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut offered = hello.alpn()?;
        offered.any(|protocol| protocol == ALPN).then(|| self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_clusters_certificates_make_a_server() {
        let names = ["node 1".to_owned(), "attic".to_owned(), "10.0.0.7".to_owned(), "attic".to_owned()];
        let pki = found("c1", &names, 2026).unwrap();
        let config = server_config(&pki).unwrap();
        assert_eq!(config.alpn_protocols, vec![b"iris/2".to_vec()]);
        assert_eq!(ca_sha256(&pki).unwrap().len(), 64);
        assert_eq!(subject_names(&names), ["iris.internal", "localhost", "attic", "10.0.0.7"]);
        assert_ne!(found("c1", &names, 2026).unwrap().ca_cert_pem, pki.ca_cert_pem);
    }

    #[test]
    fn damaged_certificates_are_an_error_and_no_key_is_shown() {
        let mut pki = found("c1", &[], 2026).unwrap();
        assert!(!format!("{pki:?}").contains("PRIVATE"));
        pki.leaf_cert_pem = "nonsense".to_owned();
        assert!(server_config(&pki).is_err());
    }
}
