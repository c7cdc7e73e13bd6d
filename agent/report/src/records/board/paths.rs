//! Paths that several nodes report, each listed once.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::incident::{AffectedEnd, AffectedPath};

/// How many pods or addresses are named of one end of a path; all are counted.
const NAMES_MAX: usize = 64;

/// One path for all of the same ends, with the pods of all of them.
pub(super) fn merged<'a>(paths: impl Iterator<Item = &'a AffectedPath>) -> Vec<AffectedPath> {
    let mut by_ends: BTreeMap<_, Vec<&AffectedPath>> = BTreeMap::new();
    for path in paths {
        let is_source = path.sufferer == AffectedEnd::Source;
        let (source, destination) = (&path.source.name, &path.destination.name);
        let key = (source, destination, path.port, &path.protocol, is_source);
        by_ends.entry(key).or_default().push(path);
    }
    let mut paths: Vec<AffectedPath> = by_ends.into_values().filter_map(|of| merge(&of)).collect();
    paths.sort_by_key(|path| Reverse(path.pods));
    paths
}

fn merge(paths: &[&AffectedPath]) -> Option<AffectedPath> {
    // What is gone at one node counts where none is affected that is there at another.
    let there: Vec<&AffectedPath> = paths.iter().filter(|path| !path.gone).copied().collect();
    let (gone, paths) = (there.is_empty(), if there.is_empty() { paths } else { &there });
    // What knows all pods of the cluster knows best how many there are.
    let best = paths.iter().max_by_key(|path| (path.knows_all, path.replicas, &path.pod_names))?;
    let names: BTreeSet<&String> = paths.iter().flat_map(|path| &path.pod_names).collect();
    let others: BTreeSet<&String> = paths.iter().flat_map(|path| &path.others).collect();
    let unnamed = paths.iter().map(|path| path.pods.saturating_sub(path.pod_names.len())).max();
    let pods = names.len() + unnamed.unwrap_or(0);
    Some(AffectedPath {
        pods,
        replicas: if gone { best.replicas } else { best.replicas.max(pods) },
        knows_all: best.knows_all,
        pod_names: names.into_iter().take(NAMES_MAX).cloned().collect(),
        others: others.into_iter().take(NAMES_MAX).cloned().collect(),
        last_success: paths.iter().filter_map(|path| path.last_success).max(),
        // At the least, by any node.
        successes: paths.iter().map(|path| path.successes).min().unwrap_or(0),
        ..(*best).clone()
    })
}
