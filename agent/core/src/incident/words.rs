//! What happened, in words.

use jiff::{SignedDuration, Timestamp};

use super::{CutPath, Incident, Party};
use crate::{
    cluster::{
        history::{Change, ChangeKind},
        object::Kind,
    },
    diagnosis::{Class, Situation, reason::Established},
    judgement::Attribution,
    policy::PolicyRef,
};

/// How many names are listed before the others are counted.
const NAMES_MAX: usize = 3;

/// `8 of 8 backend/backend-api cannot reach postgres-primary-0:5432/TCP: CAUSE; CHANGE; WORKED; …`.
pub(super) fn text(incident: &Incident, now: Timestamp) -> String {
    let mut parts = vec![format!("{}: {}", headline(incident), incident.cause.text)];
    parts.extend(change(incident, now));
    if let Some(success) = incident.last_success {
        parts.push(worked(incident, success, now));
    }
    parts.extend(incident.affected.first().and_then(health));
    if !incident.services_lost.is_empty() {
        parts.push(format!("without a ready endpoint: {}", several(&incident.services_lost)));
    }
    parts.extend(incident.established.map(|what| established(what).to_owned()));
    parts.join("; ")
}

/// `worked until 02:54:03, 1 s after the change`; with the date where that is another day's.
fn worked(incident: &Incident, success: Timestamp, now: Timestamp) -> String {
    let day = |at: Timestamp| at.strftime("%F").to_string();
    let at = match day(success) == day(now) {
        true => success.strftime("%H:%M:%S"),
        false => success.strftime("%FT%TZ"),
    };
    let mut text = format!("worked until {at}");
    if let Some(change) = incident.changed.lead() {
        let before = change.at.duration_since(success);
        let distance = match before.is_negative() {
            true => format!(", {} after the change", span(-before)),
            false => format!(", {} before the change", span(before)),
        };
        text += &distance;
    }
    text
}

/// Who cannot do what: the worst, and how many others.
fn headline(incident: &Incident) -> String {
    let Some(worst) = incident.affected.first() else {
        return "nothing is affected any more".to_owned();
    };
    let path = &worst.path;
    let (who, port) = (pods_of(worst), format!("{}/{}", path.port, path.protocol));
    let others: Vec<String> = worst.others.iter().cloned().collect();
    let text = match (incident.cause.situation, incident.cause.class) {
        (Some(Situation::Probe(probe)), _) => {
            format!("the kubelet's {probe} probes of {who} on {port} fail")
        }
        (Some(Situation::Dns), _) => {
            format!("{who} cannot ask the cluster's DNS ({} on {port})", several(&others))
        }
        (_, Class::NotEnforced) => format!("{who} and {} talk on {port}", several(&others)),
        (_, _) if path.affected_party() == &path.source => {
            let other = several(&others);
            let other = if other.contains(':') { format!("[{other}]") } else { other };
            format!("{who} cannot reach {other}:{port}")
        }
        (_, _) => format!("{who} cannot be reached on {port} from {}", several(&others)),
    };
    match incident.affected.len() + incident.affected_untold - 1 {
        0 => text,
        1 => text + " (and 1 more path)",
        more => format!("{text} (and {more} more paths)"),
    }
}

/// `8 of 8 backend/backend-api`, `3 of 8 backend/backend-api (those known to this node)`, `3 of 3
/// backend/backend-api known to this node`, `frontend/pod-a`; `2 pods of backend/backend-api, gone by
/// now,`.
pub(super) fn pods_of(affected: &CutPath) -> String {
    let party = affected.path.affected_party();
    let (cut, replicas) = (affected.pods.len(), affected.replicas);
    match party {
        Party::Workload(..) if affected.are_gone => {
            let pods = if cut == 1 { "pod" } else { "pods" };
            format!("{cut} {pods} of {party}, gone by now,")
        }
        Party::Pod(..) if affected.are_gone => format!("{party}, gone by now,"),
        Party::Workload(..) if affected.knows_all => {
            let known = affected.known;
            let of_node = match cut >= known {
                _ if known >= replicas => String::new(),
                true => " (those known to this node)".to_owned(),
                false => format!(" (of {known} known to this node)"),
            };
            format!("{cut} of {replicas} {party}{of_node}")
        }
        Party::Workload(..) => format!("{cut} of {replicas} {party} known to this node"),
        _ => party.to_string(),
    }
}

/// `8 of 8 backend-api not ready, 12 restarts since`: the health of who is affected most.
fn health(affected: &CutPath) -> Option<String> {
    let name = match affected.path.affected_party() {
        Party::Workload(_, workload) => &workload.name,
        Party::Pod(_, name) => name,
        Party::Node(_) | Party::Outside | Party::Other(_) => return None,
    };
    if affected.are_gone {
        return None;
    }
    let health = &affected.health;
    // The workload's status may be some seconds behind the pods.
    let of_pods = health.not_ready.unwrap_or(0);
    let (not_ready, of) = match affected.replicas_ready {
        Some(ready) => (of_pods.max(affected.replicas.saturating_sub(ready)), affected.replicas),
        None => (of_pods, affected.pods.len()),
    };
    let restarts =
        |count: u64| if count == 1 { "1 restart".into() } else { format!("{count} restarts") };
    let restarted = match (health.restarts_since, health.restarts) {
        (Some(0), _) | (None, None | Some(0)) => None,
        (Some(since), _) => Some(restarts(since) + " since"),
        (None, Some(all)) => Some(restarts(all) + " ever"),
    };
    let not_ready = (not_ready > 0).then(|| match affected.path.affected_party() {
        Party::Pod(..) => format!("{name} not ready"),
        _ => format!("{not_ready} of {of} {name} not ready"),
    });
    let parts: Vec<String> = [not_ready, restarted].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// `policy applied 10 minutes ago, 3 s before the first drop`.
fn change(incident: &Incident, now: Timestamp) -> Option<String> {
    match &incident.changed {
        Attribution::None => None,
        Attribution::Seen { changes, admitted_by } => {
            let all = changes.iter().map(|change| one_change(incident, change, now));
            let all = all.collect::<Vec<_>>().join(" and ");
            let distance = changes.first().map(|c| distance(incident, c)).unwrap_or_default();
            let is_other = |policy: &&PolicyRef| {
                changes.iter().all(|c| c.object.policy().as_ref() != Some(policy))
            };
            let until = admitted_by.as_ref().filter(is_other);
            let until = until.map(|by| format!("; until then {} {by} admitted it", by.kind));
            Some(all + &distance + &until.unwrap_or_default())
        }
        Attribution::Older { own: Some(own), .. } => {
            let distance = distance(incident, own);
            Some(format!("{}{distance}, by its own timestamp", one_change(incident, own, now)))
        }
        Attribution::Older { known_since, own: None } => {
            let since = known_since.map(|at| format!(", since {}", at.strftime("%FT%TZ")));
            let since = since.unwrap_or_default();
            Some(format!("denied for as long as this agent knows{since}"))
        }
    }
}

fn one_change(incident: &Incident, change: &Change, now: Timestamp) -> String {
    let Change { object, kind, difference, at } = change;
    let is_cause = incident.cause.policy.as_ref().is_some_and(|policy| {
        let reference = &policy.reference;
        object.kind == Kind::Policy(reference.kind)
            && (&object.namespace, &object.name) == (&reference.namespace, &reference.name)
    });
    let object = if is_cause { "policy".to_owned() } else { object.to_string() };
    let verb = match kind {
        ChangeKind::Created => "applied",
        other => other.name(),
    };
    let ago = span(now.duration_since(*at));
    let difference = difference.as_deref().map(|d| format!(" ({d})")).unwrap_or_default();
    format!("{object} {verb} {ago} ago{difference}")
}

/// `, 3 s before the first drop`.
fn distance(incident: &Incident, change: &Change) -> String {
    let after = incident.first_of_lead().duration_since(change.at);
    match after.is_negative() {
        true => format!(", {} after the first drop", span(-after)),
        false => format!(", {} before the first drop", span(after)),
    }
}

/// What becomes of established connections by a filter.
pub const fn established(established: Established) -> &'static str {
    match established {
        Established::Accepted => {
            "this filter accepts established connections before policy: what is connected stays so"
        }
        Established::Judged => {
            "this filter judges established connections as well: they are cut too"
        }
    }
}

/// `3 s`, `10 minutes`, `7 days`: whole units, the largest that is not less than two of it.
pub fn span(duration: SignedDuration) -> String {
    let secs = duration.as_secs().max(0);
    match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} minutes", secs / 60),
        7_200..172_800 => format!("{} hours", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}

/// The first names, and how many more.
pub(super) fn several(names: &[String]) -> String {
    let listed = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}
