//! What a start is to do: found a cluster, take up a place, or ask for one. The one decision on which hangs that no folder ever
//! belongs to two clusters. Pure, save for the look into the folder.

use std::path::Path;

use super::membership::Membership;
use super::token::JoinToken;
use crate::config::Config;

/// What a start is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Found a cluster, or go on with one whose founding was not noted yet.
    Found,
    /// Take up the place this folder has.
    Resume(Membership),
    /// Ask to be let in.
    Join(JoinToken),
}

/// Decides what to do with a data folder, given the token of `--join` if there is one.
///
/// # Errors
/// The token and the folder don't go together: the sentence says why and what to do. Nothing was changed.
pub fn begin(config: &Config, token: Option<JoinToken>) -> anyhow::Result<Begin> {
    let data = &config.node.data;
    // Both are made only after a place was found or taken.
    let has_data = ["meta", "log"].iter().any(|name| data.join(name).exists());
    let has_token = token.is_some();
    let begin = decide(data, Membership::load(data)?, token, has_data, !config.members.is_empty())?;
    if let Begin::Resume(place) = &begin
        && has_token
    {
        tracing::info!(node = %place.node, "this data folder belongs to that cluster already; the token was not needed");
    }
    Ok(begin)
}

fn decide(
    data: &Path,
    known: Option<Membership>,
    token: Option<JoinToken>,
    has_data: bool,
    has_list: bool,
) -> anyhow::Result<Begin> {
    let folder = data.display();
    let (place, token) = match (known, token) {
        (Some(place), None) => return Ok(Begin::Resume(place)),
        (Some(place), Some(token)) => (place, token),
        (None, None) => return Ok(Begin::Found),
        (None, Some(_)) if has_data => anyhow::bail!(
            "{folder} holds a cluster of its own already, with its messages; joining another would leave them behind. Start with an empty folder \
             (--data DIR), or move {folder} away if nothing in it is needed. Nothing was changed and the token is still good"
        ),
        (None, Some(_)) if has_list => anyhow::bail!(
            "the configuration lists members, and --join asks to join a cluster that lists its members itself: leave out one of the two"
        ),
        (None, Some(token)) => return Ok(Begin::Join(token)),
    };
    anyhow::ensure!(
        place.cluster == token.cluster,
        "{folder} belongs to cluster {} as node {}, and the token is for cluster {}. A node belongs to one cluster: start with an empty folder \
         (--data DIR) to join the other. Nothing was changed and the token is still good",
        place.cluster,
        place.node,
        token.cluster
    );
    Ok(Begin::Resume(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::membership::Origin;
    use crate::admission::token::JoinSecret;
    use crate::cluster::meta::admission::TokenId;
    use iris_protocol::NodeId;

    fn place() -> Membership {
        Membership {
            node: NodeId(2),
            key: iris_p2p::Identity::ephemeral().peer_id(),
            cluster: "ours".to_owned(),
            origin: Origin::Joined,
            settled: true,
            seeds: Vec::new(),
            ca_pem: String::new(),
        }
    }

    fn token(cluster: &str) -> JoinToken {
        JoinToken {
            cluster: cluster.to_owned(),
            ca_sha256: [0; 32],
            addresses: vec!["a:1".to_owned()],
            id: TokenId([0; 8]),
            secret: JoinSecret::new([0; 32]),
            expires_ms: 0,
        }
    }

    #[track_caller]
    fn check(known: Option<Membership>, token: Option<JoinToken>, has_data: bool, has_list: bool, expect: &str) {
        let begin = decide("/d".as_ref(), known, token, has_data, has_list);
        let text = begin.map_or_else(|error| error.to_string(), |begin| format!("{begin:?}"));
        assert!(text.contains(expect), "{text}");
    }

    #[test]
    fn a_folder_belongs_to_one_cluster_for_ever() {
        for has_data in [false, true] {
            for has_list in [false, true] {
                check(None, None, has_data, has_list, "Found");
                check(Some(place()), None, has_data, has_list, "Resume");
                check(Some(place()), Some(token("ours")), has_data, has_list, "Resume");
                check(
                    Some(place()),
                    Some(token("theirs")),
                    has_data,
                    has_list,
                    "as node 2, and the token is for cluster theirs",
                );
            }
            check(None, Some(token("ours")), true, has_data, "holds a cluster of its own");
        }
        check(None, Some(token("ours")), false, false, "Join");
        check(None, Some(token("ours")), false, true, "leave out one of the two");
    }
}
