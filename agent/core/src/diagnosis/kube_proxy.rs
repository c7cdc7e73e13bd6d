//! What kube-proxy does by itself of a connection to a Service, and what policies have to do with it.
//!
//! A packet that it refuses is never translated: no policy of a backend ever sees it. The policies of
//! its client may, by the Service's own address, and whose rules come first on a node depends on whose
//! were written last. So where those deny it as well, what was seen decides who is named first.

use std::net::{IpAddr, Ipv4Addr};

use super::{Case, Diagnosis, Dialled, Fate, diagnose_packet};
use crate::{
    cluster::{
        Snapshot,
        profile::Denied,
        resolve::{Endpoint, Holder},
    },
    correlate::{Evidence, EvidenceLevel},
    flow::Flow,
    observation::Rejection,
    service::{self, Backend, Course, Entry, Refusal, behind},
    verdict::{Decision, DirectionVerdict, Question, SeenBy},
};

/// Of how many packets that would come of it policies are asked, which takes some ten microseconds
/// each: the endpoints of one Service are mostly pods of one template.
const JUDGED_MAX: usize = 64;

/// That nothing comes of a connection to a Service, whatever policies say: kube-proxy refuses it, or has
/// nothing to translate it by.
#[derive(Clone, Debug)]
pub struct KubeProxy {
    /// The connection, refused.
    pub course: Course,
    /// What is behind the port, ready or not.
    pub behind: Vec<Backend>,
    /// Packets that would come of it if it were sent on, each as policies deny it.
    pub denied: Vec<Diagnosis>,
    /// How many packets policies were asked about.
    pub judged: usize,
    /// The packet as the client's policies deny it when nothing translates it.
    pub denied_as_dialled: Option<Box<Diagnosis>>,
    /// Whether the client's policies deny it before kube-proxy has its say, and afterwards as well.
    is_denied_first: bool,
    /// It was so when packets were dropped, and is over.
    pub is_over: bool,
}

impl KubeProxy {
    /// What kube-proxy refuses; `None`: it does not, or that is unknown.
    pub(crate) fn of(snapshot: &Snapshot, course: &Course) -> Option<Self> {
        course.refusal()?;
        Some(Self::of_refused(snapshot, course.clone()))
    }

    /// What it rejected while no endpoint was ready, of a Service that has one by now.
    pub(super) fn that_is_over(snapshot: &Snapshot, course: &Course) -> Self {
        let otherwise = course.packets().to_vec();
        let fate = service::Fate::Refused { refusal: Refusal::NoEndpoint, otherwise };
        let course = Course { fate, remarks: Vec::new(), ..course.clone() };
        Self { is_over: true, ..Self::of_refused(snapshot, course) }
    }

    fn of_refused(snapshot: &Snapshot, course: Course) -> Self {
        let dialled = dialled(&course);
        let asked = |question| diagnose_packet(snapshot, question, dialled.clone());
        let (mut denied, mut judged, mut leaves_denied) = (Vec::new(), 0, true);
        for packet in course.packets().iter().take(JUDGED_MAX) {
            let legs: Vec<Diagnosis> =
                Question::of_packet(packet, course.protocol).map(asked).collect();
            leaves_denied &= legs.first().is_some_and(|leg| {
                leg.cause.class.is_denial() && leg.verdict.egress.decision == Decision::Denied
            });
            denied.extend(legs.into_iter().find(|leg| leg.cause.class.is_denial()));
            judged += 1;
        }
        let as_dialled =
            course.address.map(|_| asked(as_dialled(snapshot, &course, SeenBy::Source)));
        let as_dialled = as_dialled.filter(|diagnosis| diagnosis.cause.class.is_denial());
        let is_denied_first = as_dialled.as_ref().is_some_and(|diagnosis| match judged {
            0 => is_closed(&diagnosis.verdict.egress),
            _ => leaves_denied,
        });
        let behind = own_port(&course).map(|port| {
            let family = course.client.address.or(course.address);
            let family = family.or(course.service.cluster_addresses.first().copied());
            family.map(|family| behind(snapshot, &course.service, port, course.protocol, family))
        });
        Self {
            behind: behind.flatten().unwrap_or_default(),
            denied,
            judged,
            denied_as_dialled: as_dialled.map(Box::new),
            is_denied_first,
            is_over: false,
            course,
        }
    }

    /// Why nothing comes of it.
    pub fn refusal(&self) -> &Refusal {
        // Made of nothing else.
        self.course.refusal().unwrap_or(&Refusal::NoEndpoint)
    }

    /// Whether policies deny all that would come of it if it were sent on.
    pub const fn is_all_denied(&self) -> bool {
        self.judged > 0 && self.denied.len() == self.judged
    }

    /// All packets that would come of it, as policies see them.
    pub(crate) fn packets(&self, snapshot: &Snapshot) -> Vec<Diagnosis> {
        let dialled = dialled(&self.course);
        let packets = self.course.packets().iter();
        let questions =
            packets.flat_map(|packet| Question::of_packet(packet, self.course.protocol));
        let judged = questions.map(|question| diagnose_packet(snapshot, question, dialled.clone()));
        judged.collect()
    }

    /// Whether policies are named first. Where they deny it as it leaves, both may have stopped it: a
    /// rejection is kube-proxy's, as policies deny in silence.
    pub(crate) fn is_policys_first(&self, snapshot: &Snapshot, fate: Fate<'_>) -> bool {
        let rejects = self.course.is_rejected();
        match fate {
            // No policy of theirs rejects.
            Fate::Dropped(evidence)
                if is_of_reject(evidence) && snapshot.profile().denied == Denied::Dropped =>
            {
                false
            }
            // Who refuses it would have been seen to: it went on, when an endpoint was ready still.
            Fate::Dropped(evidence) if rejects && evidence.level() == EvidenceLevel::Unanswered => {
                self.is_all_denied()
            }
            Fate::Dropped(_) | Fate::Asked | Fate::Policed | Fate::Answered => self.is_denied_first,
        }
    }

    /// The packet when nothing has translated it.
    pub(super) fn question(&self, snapshot: &Snapshot) -> Question {
        as_dialled(snapshot, &self.course, SeenBy::Both)
    }

    /// What speaks against it: kube-proxy would have rejected it, and no rejection was seen. And what the
    /// confidence is worth then. What rejects a node's own packet, no veth can see.
    pub(super) fn doubt(&self, fate: Fate<'_>) -> Option<(&'static str, f64)> {
        let Fate::Dropped(evidence) = fate else { return None };
        let is_of_pod = !matches!(self.course.client.holder, Holder::Node(_));
        let is_unheard = self.course.is_rejected() && evidence.rejected.is_none() && is_of_pod;
        is_unheard.then_some(("kube-proxy rejects it, and no rejection was seen", UNHEARD))
    }

    /// The connection as a question of what would come of it.
    pub(crate) fn asked(&self) -> Case<'static> {
        let Course { client, port, protocol, .. } = &self.course;
        let address = |address: Option<IpAddr>| address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let (source, destination) = (address(client.address), address(self.course.address));
        let flow = Flow { source, destination, port: *port, protocol: *protocol };
        Case { flow, dialled: None, at: None, fate: Fate::Asked }
    }
}

/// What the confidence is worth where no rejection was seen: the kernel sends few of them a second.
const UNHEARD: f64 = 0.9;

/// Whether it was rejected as kube-proxy rejects: ICMP, port unreachable (RFC 792, RFC 4443), by a
/// filter, as it is only where this kernel dropped it.
pub(super) fn is_of_reject(evidence: &Evidence) -> bool {
    let is_port_unreachable = matches!(
        evidence.rejected,
        Some(
            Rejection::Icmp { v6: false, kind: 3, code: 3 }
                | Rejection::Icmp { v6: true, kind: 1, code: 4 }
        )
    );
    is_port_unreachable && evidence.kernel_packets() > 0
}

/// Whether it is what policies without any rule deny, or one by name: whatever is behind the Service.
fn is_closed(egress: &DirectionVerdict) -> bool {
    egress.denied_by.is_some()
        || egress.trace.iter().filter(|t| !t.is_staged()).all(|trace| trace.rules.is_empty())
}

/// The packet when nothing has translated it.
fn as_dialled(snapshot: &Snapshot, course: &Course, seen_by: SeenBy) -> Question {
    let of_service =
        |address| Endpoint { address, holder: Holder::Service(course.service.clone()) };
    let destination = match (&course.entry, course.address) {
        (Entry::NodePort(_), Some(address)) => snapshot.resolve(address, None),
        (_, address) => of_service(address),
    };
    let question = Question::new(course.client.clone(), destination, course.port, course.protocol);
    Question { seen_by, ..question }
}

/// The number of the Service's own port.
fn own_port(course: &Course) -> Option<u16> {
    let mut ports = course.service.ports.iter().filter(|port| port.protocol == course.protocol);
    let own = ports.find(|port| match course.entry {
        Entry::NodePort(_) => port.node_port == Some(course.port),
        _ => port.port == course.port,
    });
    own.map(|port| port.port)
}

/// The Service as it was dialled, where it has an address.
pub(crate) fn dialled(course: &Course) -> Option<Dialled> {
    let Course { service, entry, port, .. } = course;
    Some(Dialled {
        service: service.clone(),
        entry: entry.clone(),
        address: course.address?,
        port: *port,
    })
}
