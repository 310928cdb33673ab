//! The cluster's own certificate authority, its one leaf certificate, and the TLS settings made from them (D10, B1). The leaf
//! is reissued with the same key when the nodes' names change or its end comes near; who does so, and when, is
//! `node/certificates`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use iris_protocol::NodeId;
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

use crate::admission::JOIN_ALPN;
use crate::cluster::meta::{Leaf, MetaState, NodeRecord, Pki, Secret};

/// The name every client checks, whatever address it dialled (docs/protocol.md, Connection).
pub const SERVER_NAME: &str = "iris.internal";

const MS_PER_DAY: u64 = 24 * 3_600 * 1_000;
const MS_PER_YEAR: u64 = 31_556_952_000;

/// The CA lives longer than the machines: every client would have to be told a new one.
const CA_LIFE_MS: u64 = 10 * MS_PER_YEAR;

/// The leaf lives a year, as long as certificates that clients check may; nobody notices when it is renewed.
const LEAF_LIFE_MS: u64 = 365 * MS_PER_DAY;

/// It is renewed this long before its end: also a cluster that is off for a summer comes back with a valid one.
const LEAF_RENEW_MS: u64 = 180 * MS_PER_DAY;

/// A new leaf is worth its while only if it lives this much longer than the one before: whatever the clock says, and however
/// near the CA's own end, certificates are not made in a loop.
const LEAF_GAIN_MS_MIN: u64 = 30 * MS_PER_DAY;

/// Certificates count from this year, and are made as if no clock stood before [`CLOCK_MS_MIN`]: a machine without a battery
/// may boot in 1970 and found a cluster.
const NOT_BEFORE_YEAR: i32 = 2000;
const CLOCK_MS_MIN: u64 = 1_767_225_600_000;

/// Makes a CA and a leaf certificate that carries these names besides [`SERVER_NAME`] and `localhost`: node names and
/// addresses, for clients that check those.
///
/// # Errors
/// The crypto library failed.
pub fn found(cluster: &str, names: &[String], now_ms: u64) -> anyhow::Result<Pki> {
    let ca_until_ms = now_ms.max(CLOCK_MS_MIN) + CA_LIFE_MS;
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, format!("Iris CA {cluster}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.not_before = rcgen::date_time_ymd(NOT_BEFORE_YEAR, 1, 1);
    ca.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(ca_until_ms);
    let ca_cert = ca.self_signed(&ca_key)?;
    let leaf_key = KeyPair::generate()?;
    let leaf = leaf(cluster, names, &leaf_key, &Issuer::from_params(&ca, &ca_key), now_ms, ca_until_ms)?;
    Ok(Pki {
        ca_cert_pem: ca_cert.pem(),
        ca_key_pem: Secret::new(ca_key.serialize_pem()),
        ca_until_ms,
        leaf,
        leaf_key_pem: Secret::new(leaf_key.serialize_pem()),
    })
}

/// A leaf certificate with other names or a later end: same key, same CA, so that clients that pin either don't notice (D10).
///
/// # Errors
/// The crypto library failed, or the keys in the meta state are damaged.
pub fn reissue(cluster: &str, pki: &Pki, names: &[String], now_ms: u64) -> anyhow::Result<Leaf> {
    let ca_key = KeyPair::from_pem(pki.ca_key_pem.expose()).context("the CA's key is damaged")?;
    let issuer = Issuer::from_ca_cert_pem(&pki.ca_cert_pem, ca_key).context("the CA's certificate is damaged")?;
    let leaf_key = KeyPair::from_pem(pki.leaf_key_pem.expose()).context("the cluster's key is damaged")?;
    leaf(cluster, names, &leaf_key, &issuer, now_ms, pki.ca_until_ms)
}

fn leaf<S: rcgen::SigningKey>(
    cluster: &str,
    names: &[String],
    key: &KeyPair,
    issuer: &Issuer<'_, S>,
    now_ms: u64,
    ca_until_ms: u64,
) -> anyhow::Result<Leaf> {
    let names = subject_names(names);
    let until_ms = leaf_until_ms(now_ms, ca_until_ms);
    let mut leaf = CertificateParams::new(names.clone())?;
    leaf.distinguished_name.push(DnType::CommonName, format!("Iris {cluster}"));
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    leaf.not_before = rcgen::date_time_ymd(NOT_BEFORE_YEAR, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(until_ms);
    Ok(Leaf { cert_pem: leaf.signed_by(key, issuer)?.pem(), names, until_ms })
}

fn leaf_until_ms(now_ms: u64, ca_until_ms: u64) -> u64 {
    (now_ms.max(CLOCK_MS_MIN) + LEAF_LIFE_MS).min(ca_until_ms)
}

/// What the leaf certificate should name: every node by its name and by the host clients reach it at.
#[must_use]
pub fn node_names(nodes: &BTreeMap<NodeId, NodeRecord>) -> Vec<String> {
    let hosts = nodes.values().filter_map(|record| record.client.rsplit_once(':'));
    let hosts = hosts.map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    nodes.values().map(|record| record.name.clone()).chain(hosts).collect()
}

/// Why the leaf certificate should be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewLeaf {
    /// Its end has come near.
    Ends,
    /// A node it does not name, or a name it should not have any more.
    Names,
}

/// Whether the leaf certificate should be made anew, and why.
#[must_use]
pub fn needs_new_leaf(state: &MetaState, now_ms: u64) -> Option<NewLeaf> {
    let (pki, leaf) = (&state.pki, &state.pki.leaf);
    let ends_soon = leaf.until_ms.saturating_sub(now_ms) < LEAF_RENEW_MS;
    let gain_ms = leaf_until_ms(now_ms, pki.ca_until_ms).saturating_sub(leaf.until_ms);
    if ends_soon && gain_ms >= LEAF_GAIN_MS_MIN {
        return Some(NewLeaf::Ends);
    }
    (leaf.names != subject_names(&node_names(&state.nodes))).then_some(NewLeaf::Names)
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
    Ok(ca_sha256_bytes(pki)?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// SHA-256 of the CA's certificate (its DER).
///
/// # Errors
/// The certificate in the meta state is damaged.
pub fn ca_sha256_bytes(pki: &Pki) -> anyhow::Result<[u8; 32]> {
    let der = CertificateDer::from_pem_slice(pki.ca_cert_pem.as_bytes()).context("the CA's certificate is damaged")?;
    Ok(Sha256::digest(&der).into())
}

/// The client port's TLS: 1.3 only; `iris/2` and the door for new nodes only; the leaf followed by the CA. The leaf can be
/// exchanged while it serves: connections that stand don't use it any more.
pub struct ServerTls {
    config: Arc<ServerConfig>,
    shown: Arc<ArcSwap<CertifiedKey>>,
}

impl ServerTls {
    /// With the certificates as they are now.
    ///
    /// # Errors
    /// They are damaged.
    pub fn new(pki: &Pki) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let shown = Arc::new(ArcSwap::from_pointee(certified(pki)?));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(OnlyIris(shown.clone())));
        config.alpn_protocols = vec![ALPN.to_vec(), JOIN_ALPN.to_vec()];
        // Sessions resume by cursor, not by ticket: a ticket would only cost memory here.
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), shown })
    }

    /// For the listener.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Shows new connections the certificate as it is now.
    ///
    /// # Errors
    /// It is damaged; the one before is still shown.
    pub fn update(&self, pki: &Pki) -> anyhow::Result<()> {
        self.shown.store(Arc::new(certified(pki)?));
        Ok(())
    }
}

fn certified(pki: &Pki) -> anyhow::Result<CertifiedKey> {
    let chain = [&pki.leaf.cert_pem, &pki.ca_cert_pem].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
    let chain = chain.into_iter().collect::<Result<Vec<_>, _>>().context("the cluster's certificates are damaged")?;
    let key =
        PrivateKeyDer::from_pem_slice(pki.leaf_key_pem.expose().as_bytes()).context("the cluster's key is damaged")?;
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?)
}

/// Shows the certificate only to those that ask for a protocol of ours: rustls by itself lets a client without ALPN through.
#[derive(Debug)]
struct OnlyIris(Arc<ArcSwap<CertifiedKey>>);

impl ResolvesServerCert for OnlyIris {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut offered = hello.alpn()?;
        offered.any(|protocol| protocol == ALPN || protocol == JOIN_ALPN).then(|| self.0.load_full())
    }
}

#[cfg(test)]
mod tests;
