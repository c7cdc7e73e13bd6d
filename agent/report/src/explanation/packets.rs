//! The packets that may come of a question, and the Service that makes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use whydrop_core::{
    answer::{Answer, Effective, Way},
    diagnosis::Diagnosis,
    flow::Protocol,
    service::{
        Course, Entry, EntryKind, Fate, FateKind, Refusal, RefusalKind, Source, SourceKind, words,
    },
};

use super::{Trace, outcome, trace, walks};
use crate::{
    convert::{cause_of, flow_of, verdict_of},
    schema::{Cause, End, Flow, Verdict},
    text,
};

/// How many backends are named of those that fare alike.
const NAMES_SHOWN: usize = 8;

/// A packet that may come of the question.
#[derive(Debug, Serialize)]
pub struct PacketStep {
    /// Whether it gets through.
    pub effective: Effective,
    /// As it arrives.
    pub flow: Flow,
    /// As it leaves, where that is otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves: Option<Flow>,
    /// Whose address it has for a source when it arrives.
    pub source: SourceKind,
    /// What the policies say: of its source as it leaves, of its destination as it arrives.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// The walk; of the first of those that fare alike.
    #[serde(skip)]
    trace: Option<Trace>,
    /// Its place among those that fare differently.
    #[serde(skip)]
    group: usize,
    /// How its source comes about, for a person.
    #[serde(skip)]
    how: Option<String>,
}

/// The Service that is between the ends.
#[derive(Debug, Serialize)]
pub struct Through {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// By what it is dialled.
    pub by: EntryKind,
    /// The address dialled, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The port dialled.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// What becomes of the connection.
    pub fate: FateKind,
    /// Why nothing comes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalKind>,
    /// What kube-proxy does by itself, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What is worth knowing besides, for a person.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Which Service an address is that was asked about, for a person.
    #[serde(skip)]
    identity: Option<String>,
    /// Whether the text is not the answer's cause, but stands beside it.
    #[serde(skip)]
    is_beside: bool,
}

impl Through {
    /// The Service that leads an answer.
    pub(super) fn of(answer: &Answer, by_address: bool) -> Option<Self> {
        let course = answer.leading_course()?;
        let Course { service, entry, address, port, protocol, fate, .. } = course;
        let mut remarks = Vec::new();
        for course in &answer.courses {
            for remark in &course.remarks {
                let text = words::remark(course, remark);
                if !remarks.contains(&text) {
                    remarks.push(text);
                }
            }
        }
        Some(Self {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
            by: entry.into(),
            ip: address.map(|address| address.to_string()),
            port: *port,
            protocol: *protocol,
            fate: fate.into(),
            refusal: match fate {
                Fate::Refused { refusal, .. } => Some(Refusal::into(refusal.clone())),
                _ => None,
            },
            text: words::fate(course),
            remarks,
            identity: words::identity(course)
                .filter(|_| by_address || matches!(entry, Entry::NodePort(_))),
            is_beside: answer.beside().is_some(),
        })
    }

    /// `Service mart/web:80/TCP`.
    pub(super) fn destination(&self) -> String {
        let Self { namespace, name, by, ip, port, protocol, .. } = self;
        match (by, ip) {
            (EntryKind::NodePort, Some(ip)) if ip.contains(':') => {
                format!("[{ip}]:{port}/{protocol}")
            }
            (EntryKind::NodePort, Some(ip)) => format!("{ip}:{port}/{protocol}"),
            _ => format!("Service {namespace}/{name}:{port}/{protocol}"),
        }
    }

    /// What is said of it below the headline.
    pub(super) fn write(&self, lines: &mut Vec<String>) {
        let Self { namespace, name, ip, port, .. } = self;
        lines.push(match (&self.identity, ip) {
            (Some(identity), _) => identity.clone(),
            (None, Some(ip)) if ip.contains(':') => {
                format!("through Service {namespace}/{name}, [{ip}]:{port}")
            }
            (None, Some(ip)) => format!("through Service {namespace}/{name}, {ip}:{port}"),
            (None, None) => format!("through Service {namespace}/{name}, port {port}"),
        });
        if self.is_beside {
            lines.extend(self.text.iter().map(|text| format!("besides: {text}")));
        }
        lines.extend(self.remarks.iter().map(|remark| format!("note: {remark}")));
    }
}

/// All packets of an answer, each with its place among those that fare differently.
pub(super) fn steps(answer: &Answer) -> Vec<PacketStep> {
    let mut known: Vec<Likeness> = Vec::new();
    let step = |way: &Way| {
        let diagnosis = way.diagnosis();
        let effective = way.effective();
        let likeness = Likeness::of(&diagnosis, effective, way);
        let place = known.iter().position(|other| *other == likeness);
        let group = place.unwrap_or_else(|| {
            known.push(likeness);
            known.len() - 1
        });
        PacketStep {
            effective,
            flow: flow_of(way.arrival()),
            leaves: way.departure().map(flow_of),
            source: (&way.source).into(),
            verdict: verdict_of(&diagnosis.verdict),
            cause: cause_of(&diagnosis.cause, None),
            trace: place.is_none().then(|| trace(&diagnosis.verdict)),
            group,
            how: how(&way.source),
        }
    };
    answer.ways.iter().map(step).collect()
}

/// What packets have in common that fare alike.
#[derive(PartialEq)]
struct Likeness {
    effective: Effective,
    class: &'static str,
    responsible: Vec<String>,
    nearest: Option<(String, usize)>,
    unknown: Vec<String>,
    source: Source,
    is_exempt: bool,
}

impl Likeness {
    fn of(diagnosis: &Diagnosis, effective: Effective, way: &Way) -> Self {
        let policies = diagnosis.responsible().into_iter();
        Self {
            effective,
            class: diagnosis.cause.class.name(),
            responsible: policies
                .map(|policy| format!("{} {}", policy.reference.kind, policy.reference))
                .collect(),
            nearest: diagnosis
                .cause
                .nearest_miss
                .as_ref()
                .map(|miss| (miss.rule.policy.to_string(), miss.rule.rule)),
            unknown: diagnosis.verdict.unknowns().map(ToString::to_string).collect(),
            source: way.source.clone(),
            is_exempt: diagnosis.verdict.exempt.is_some(),
        }
    }
}

fn how(source: &Source) -> Option<String> {
    Some(match source {
        Source::Kept => return None,
        Source::Hairpin => {
            "it connects to itself through its Service: its source is replaced by its \
                            node's address, after policies were asked"
                .to_owned()
        }
        Source::Replaced(node) => {
            format!("its source is replaced by the address of node {node}, which translates it")
        }
        Source::PerhapsReplaced(node) => format!(
            "if the network plugin replaces pods' addresses on the way to other nodes: its source is \
             then node {node}"
        ),
    })
}

/// The client: the source of the packet as it leaves.
pub(super) fn source_of<'a>(packets: &'a [PacketStep], flow: &'a Flow) -> &'a End {
    let leaves = packets.iter().find_map(|packet| packet.leaves.as_ref());
    let kept = || packets.iter().find(|packet| packet.source == SourceKind::Kept);
    match leaves.or_else(|| kept().map(|packet| &packet.flow)) {
        Some(own) => &own.source,
        None => &flow.source,
    }
}

impl PacketStep {
    /// How it goes, where its addresses are replaced.
    pub(super) fn way(&self) -> Option<String> {
        let how = self.how.as_ref()?;
        let leaves = self.leaves.as_ref().map(|leaves| format!("leaves for {}, ", to(leaves)));
        let from = text::end(&self.flow.source);
        Some(format!("{}arrives from {from}: {how}", leaves.unwrap_or_default()))
    }
}

/// `backend/pod-b:8080/TCP`.
fn to(flow: &Flow) -> String {
    format!("{}/{}", text::destination_text(&flow.destination), flow.protocol)
}

/// The backends that packets go to, by name; with its address, where one has several of them.
fn backends(packets: &[&PacketStep]) -> BTreeMap<(String, String), String> {
    let mut all = BTreeMap::new();
    for PacketStep { flow, .. } in packets {
        let end = &flow.destination;
        let address = (text::end(end) != end.ip).then(|| format!(" ({})", end.ip));
        all.insert((to(flow), end.ip.clone()), address.unwrap_or_default());
    }
    all
}

/// Several packets: what comes of each, those that fare alike together, and why.
/// What comes of them as a whole need not be what policies say: the Service may refuse all of them.
pub(super) fn write(lines: &mut Vec<String>, packets: &[PacketStep], effective: Effective) {
    let everything = backends(&packets.iter().collect::<Vec<_>>());
    lines.push(String::new());
    lines.push(headline(packets, effective, &everything));
    let count = packets.iter().map(|packet| packet.group).max().map_or(0, |last| last + 1);
    let of_group = |group: usize| -> Vec<&PacketStep> {
        packets.iter().filter(|packet| packet.group == group).collect()
    };
    let mut groups: Vec<Vec<&PacketStep>> = (0..count).map(of_group).collect();
    // What is denied is what one looks for.
    groups.sort_by_key(|alike| match alike.first().map(|first| first.effective) {
        Some(Effective::Deny | Effective::Some) => 0,
        Some(Effective::Unknown) => 1,
        Some(Effective::Allow) | None => 2,
    });
    let clients = clients_of(&packets.iter().collect::<Vec<_>>());
    for alike in &groups {
        let Some(first) = alike.first() else { continue };
        let names = named(&backends(alike), &everything);
        let from = match clients.len() {
            0 | 1 => String::new(),
            _ => format!(" from {}", listed(&clients_of(alike))),
        };
        let how = first.how.as_ref().map(|how| format!(" ({how})")).unwrap_or_default();
        lines.push(format!("  {}: {names}{from}{how}", outcome(first.effective)));
        if first.effective != Effective::Allow {
            lines.push(format!("    {}", first.cause.text));
        }
    }
    // Those that pass are of interest where nothing else is to be seen.
    let is_shown = |first: &PacketStep| {
        first.effective != Effective::Allow || (effective == Effective::Allow && first.group == 0)
    };
    for alike in &groups {
        let Some(first) = alike.first().filter(|first| is_shown(first)) else { continue };
        let Some(trace) = &first.trace else { continue };
        lines.push(String::new());
        lines.extend(first.verdict.exempt.map(|exempt| {
            let what = text::exemption(exempt);
            format!("exempt by the specification, whatever the policies say: {what}")
        }));
        lines.extend(first.way());
        let source = first.leaves.as_ref().map_or(&first.flow.source, |leaves| &leaves.source);
        walks(lines, source, &first.flow, &first.verdict, trace);
    }
}

/// `2 backends`, and at how many addresses where one has several.
fn counted(backends: &BTreeMap<(String, String), String>) -> String {
    let number = by_name(backends);
    let s = if number == 1 { "" } else { "s" };
    match backends.len() {
        addresses if addresses > number => format!("{number} backend{s} at {addresses} addresses"),
        _ => format!("{number} backend{s}"),
    }
}

/// How many backends there are, whatever their addresses.
fn by_name(backends: &BTreeMap<(String, String), String>) -> usize {
    backends.keys().map(|(name, _)| name).collect::<BTreeSet<_>>().len()
}

/// How many of the backends are denied.
fn headline(
    packets: &[PacketStep],
    effective: Effective,
    all: &BTreeMap<(String, String), String>,
) -> String {
    let denied: Vec<&PacketStep> =
        packets.iter().filter(|packet| packet.effective == Effective::Deny).collect();
    if effective == Effective::Deny && denied.len() < packets.len() {
        let all = counted(all);
        return format!("none of {all} is reached (see cause); policies by themselves say:");
    }
    match (effective, all.len()) {
        (Effective::Some, 1) => format!(
            "{} of {} packets that may come of it are denied, as to where they come from:",
            denied.len(),
            packets.len()
        ),
        (Effective::Some, addresses) => {
            let denied = backends(&denied);
            match by_name(all) {
                number if number == addresses => {
                    format!("{} of {number} backends may not be reached:", denied.len())
                }
                _ => format!("{} of {addresses} addresses may not be reached:", denied.len()),
            }
        }
        (Effective::Allow, 1) => "all packets that may come of it pass:".to_owned(),
        (Effective::Allow, _) => format!("{}, all pass:", counted(all)),
        (Effective::Deny, 1) => "all packets that may come of it are denied:".to_owned(),
        (Effective::Deny, _) => format!("{}, all denied:", counted(all)),
        (Effective::Unknown, 1) => {
            "it depends on where the packet comes from, which the objects do not say:".to_owned()
        }
        (Effective::Unknown, _) => format!("{}:", counted(all)),
    }
}

fn named(
    backends: &BTreeMap<(String, String), String>,
    all: &BTreeMap<(String, String), String>,
) -> String {
    let is_twice = |name: &str| all.keys().filter(|(other, _)| other == name).count() > 1;
    let names: Vec<String> = backends
        .iter()
        .map(|((name, _), address)| match is_twice(name) {
            true => format!("{name}{address}"),
            false => name.clone(),
        })
        .collect();
    listed(&names)
}

/// Who connects, as they leave: where each packet comes from, if it is not the same for all; with its
/// address, where one has several.
fn clients_of(packets: &[&PacketStep]) -> Vec<String> {
    let source = |packet: &PacketStep| {
        let end = &packet.leaves.as_ref().unwrap_or(&packet.flow).source;
        (text::end(end), end.ip.clone())
    };
    let mut ends: Vec<(String, String)> = packets.iter().map(|packet| source(packet)).collect();
    ends.sort();
    ends.dedup();
    let is_node = |name: &str| name.starts_with("node/");
    let name = |(name, ip): &(String, String)| match is_node(name) {
        true => format!("{name} ({ip})"),
        false => name.clone(),
    };
    let mut names: Vec<String> = ends.iter().map(name).collect();
    names.dedup();
    names
}

/// As many names as are read, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
