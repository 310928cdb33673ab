//! Certificates as other software reads them: names, keys, lifetimes; and when a new leaf is due.

use iris_p2p::Identity;
use x509_parser::prelude::*;

use super::*;
use crate::cluster::meta::DedupSettings;

const NOW_MS: u64 = 1_795_000_000_000;

fn node(name: &str, client: &str) -> NodeRecord {
    let key = Identity::ephemeral().peer_id();
    NodeRecord { name: name.to_owned(), key, p2p: Vec::new(), client: client.to_owned() }
}

fn state(nodes: &[(u64, NodeRecord)]) -> MetaState {
    let nodes: BTreeMap<NodeId, NodeRecord> = nodes.iter().map(|(id, node)| (NodeId(*id), node.clone())).collect();
    MetaState {
        cluster: "c1".to_owned(),
        pki: found("c1", &node_names(&nodes), NOW_MS).unwrap(),
        token_keys: Vec::new(),
        nodes,
        shards: Vec::new(),
        vnodes: Vec::new(),
        dedup: DedupSettings { window_ms: 1, keys_max: 1 },
        admissions: Default::default(),
    }
}

/// The leaf's names, its public key, its end in seconds, and whether the CA signed it.
fn read(pki: &Pki) -> (Vec<String>, Vec<u8>, i64, bool) {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (leaf, ca) = (der(&pki.leaf.cert_pem), der(&pki.ca_cert_pem));
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.iter();
    let names = names.map(|name| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => IpAddr::from(<[u8; 4]>::try_from(*bytes).unwrap()).to_string(),
        other => panic!("{other:?}"),
    });
    let is_signed = leaf.issuer() == ca.subject()
        && leaf
            .extensions()
            .iter()
            .any(|extension| extension.oid == oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER);
    (names.collect(), leaf.public_key().raw.to_vec(), leaf.validity().not_after.timestamp(), is_signed)
}

#[test]
fn a_new_clusters_certificates_make_a_server() {
    let names = ["node 1".to_owned(), "attic".to_owned(), "10.0.0.7".to_owned(), "attic".to_owned()];
    let pki = found("c1", &names, NOW_MS).unwrap();
    let tls = ServerTls::new(&pki).unwrap();
    assert_eq!(tls.config().alpn_protocols, vec![b"iris/2".to_vec(), b"iris-join/1".to_vec()]);
    assert_eq!(ca_sha256(&pki).unwrap().len(), 64);
    assert_eq!(subject_names(&names), ["iris.internal", "localhost", "attic", "10.0.0.7"]);
    assert_ne!(found("c1", &names, NOW_MS).unwrap().ca_cert_pem, pki.ca_cert_pem);
}

#[test]
fn damaged_certificates_are_an_error_and_no_key_is_shown() {
    let mut pki = found("c1", &[], NOW_MS).unwrap();
    let tls = ServerTls::new(&pki).unwrap();
    assert!(!format!("{pki:?}").contains("PRIVATE"));
    pki.leaf.cert_pem = "nonsense".to_owned();
    assert!(ServerTls::new(&pki).is_err());
    assert!(tls.update(&pki).is_err());
}

#[test]
fn a_reissued_leaf_names_every_node_and_keeps_its_key() {
    let mut state = state(&[(1, node("attic", "10.0.0.7:8443"))]);
    let (names, key, until_s, signed) = read(&state.pki);
    assert_eq!(names, ["iris.internal", "localhost", "attic", "10.0.0.7"]);
    assert!(signed);
    assert_eq!(until_s as u64, (NOW_MS + LEAF_LIFE_MS) / 1000);
    assert_eq!(needs_new_leaf(&state, NOW_MS), None);

    state.nodes.insert(NodeId(2), node("nas", "nas.lan:8443"));
    assert_eq!(needs_new_leaf(&state, NOW_MS), Some(NewLeaf::Names));
    let later_ms = NOW_MS + MS_PER_DAY;
    state.pki.leaf = reissue("c1", &state.pki, &node_names(&state.nodes), later_ms).unwrap();
    let (names, same_key, later_s, signed) = read(&state.pki);
    assert_eq!(names, ["iris.internal", "localhost", "attic", "nas", "10.0.0.7", "nas.lan"]);
    assert_eq!((same_key, later_s), (key, until_s + 24 * 3_600));
    assert!(signed);
    assert_eq!(needs_new_leaf(&state, later_ms), None);
    ServerTls::new(&state.pki).unwrap();
}

#[test]
fn a_leaf_is_renewed_well_before_its_end_and_not_in_a_loop() {
    let mut state = state(&[(1, node("attic", "10.0.0.7:8443"))]);
    let leaf_until_ms = state.pki.leaf.until_ms;
    assert!(leaf_until_ms < state.pki.ca_until_ms, "the leaf ends before the CA");
    assert_eq!(needs_new_leaf(&state, leaf_until_ms - LEAF_RENEW_MS), None);
    assert_eq!(needs_new_leaf(&state, leaf_until_ms - LEAF_RENEW_MS + 1), Some(NewLeaf::Ends));
    // Clocks that are wrong: in 1970, after the leaf's end, after the CA's.
    for (now_ms, due) in [(0, false), (leaf_until_ms + MS_PER_YEAR, true), (state.pki.ca_until_ms + MS_PER_YEAR, true)]
    {
        assert_eq!(needs_new_leaf(&state, now_ms).is_some(), due, "{now_ms}");
        let mut renewed = state.clone();
        renewed.pki.leaf = reissue("c1", &state.pki, &node_names(&state.nodes), now_ms).unwrap();
        assert_eq!(needs_new_leaf(&renewed, now_ms), None, "{now_ms}: once is enough");
    }
    // Near the CA's end there is nothing to gain.
    state.pki.leaf.until_ms = state.pki.ca_until_ms - MS_PER_DAY;
    assert_eq!(needs_new_leaf(&state, state.pki.ca_until_ms - 2 * MS_PER_DAY), None);
}
