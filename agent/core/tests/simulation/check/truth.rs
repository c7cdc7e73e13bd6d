//! What may rightly be said of a packet. Policies and pods reach the network plugin and the agent some
//! time after the API server has them; only for that long are several answers right.

use std::collections::BTreeSet;

use whydrop_core::cluster::resolve::{Endpoint, Holder};

use super::When;
use crate::{
    cluster::{CAST, Pod, PodState},
    network::{Fate, Packet, last_of},
    policies::{Denial, End, Labels, Net, denials},
    run::Outcome,
    time::{Ms, PLUGIN_LAG, Timeline, WATCH_LAG},
};

/// How long it takes until an address that changes hands has done so everywhere: the kubelet reports it
/// within a second, and a watch brings that within another.
const HAND_OVER: Ms = 2_000;

/// How many clusters are made of changes that are on their way; with more it is anybody's guess.
const MIXTURES_MAX: usize = 512;

/// What policies may have said of a packet, by all that may have been in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) denials: BTreeSet<Denial>,
    /// They may have let it pass.
    pub(super) passes: bool,
    /// So much changed at that time that nobody can say.
    pub(super) is_in_flux: bool,
}

/// What an object may have been.
type May<'a, T> = Vec<Option<&'a T>>;

impl Outcome {
    pub(super) fn client(&self, packet: &Packet) -> &Pod {
        &self.cluster.pods[self.network.attempts[packet.attempt].client]
    }

    pub(super) fn server(&self, packet: &Packet) -> Option<&Pod> {
        packet.server.map(|server| &self.cluster.pods[server])
    }

    /// What policies may have said of a packet when it was sent.
    pub(super) fn said_of(&self, packet: &Packet) -> Said {
        let (from, to) = (packet.at - PLUGIN_LAG, packet.at + WATCH_LAG);
        let mut said = match self.server(packet) {
            Some(server) => self.said(self.client(packet), server, packet.to.1, (from, to)),
            None => Said { passes: true, ..Said::default() },
        };
        if let Fate::Denied(denial) = &packet.fate {
            said.denials.insert(denial.clone());
        }
        said
    }

    /// What policies may have said of a flow by all that the API server had within this time.
    pub(super) fn said(&self, client: &Pod, server: &Pod, port: u16, within: (Ms, Ms)) -> Said {
        let during = |timeline: &'_ Timeline<PodState>| timeline.during(within.0, within.1).len();
        let ends = [client, server];
        let namespaces = ends.map(|pod| &self.cluster.namespaces[pod.workload().namespace]);
        let of: [May<'_, Labels>; 2] = namespaces.map(|labels| labels.during(within.0, within.1));
        let states = ends.map(|pod| pod.states.during(within.0, within.1));
        let policies: Vec<May<'_, Net>> =
            self.cluster.policies.values().map(|p| p.during(within.0, within.1)).collect();
        let sizes: Vec<usize> = [of[0].len(), of[1].len(), during(&client.states)]
            .into_iter()
            .chain([during(&server.states)])
            .chain(policies.iter().map(Vec::len))
            .collect();
        let count: usize = sizes.iter().product();
        if count > MIXTURES_MAX {
            return Said { is_in_flux: true, passes: true, ..Said::default() };
        }
        let mut said = Said::default();
        for mixture in 0..count {
            let mut rest = mixture;
            let mut choose = |size: usize| {
                let chosen = rest % size;
                rest /= size;
                chosen
            };
            let of = [of[0][choose(sizes[0])], of[1][choose(sizes[1])]];
            let states = [states[0][choose(sizes[2])], states[1][choose(sizes[3])]];
            let in_force: Vec<&Net> =
                policies.iter().filter_map(|may| may[choose(may.len())]).collect();
            let end = |which: usize| {
                let state = states[which].filter(|state| state.has_address)?;
                let namespace = ends[which].workload().namespace;
                Some(End { namespace, of: of[which]?, labels: &state.labels })
            };
            let (source, destination) = (end(0), end(1));
            let denied = denials(&in_force, source.as_ref(), destination.as_ref(), port);
            said.passes |= denied.is_empty();
            said.denials.extend(denied);
        }
        said
    }

    /// Whether a report may name this at an end, which truly was that pod's, of a packet of that time.
    pub(super) fn may_be_held(
        &self,
        end: &Endpoint,
        truly: Option<&Pod>,
        last: u8,
        times: (Ms, Ms),
    ) -> bool {
        let (time, reported) = times;
        let around = |pod: &&Pod| {
            let begins = pod.up.is_some_and(|up| up <= time + HAND_OVER);
            let known = pod.states.during(time - HAND_OVER, time + HAND_OVER);
            let is_known = known.into_iter().flatten().any(|state| state.has_address);
            let ends = pod.down.is_none_or(|down| down >= time - HAND_OVER);
            pod.address == last && begins && (ends || is_known)
        };
        let candidates: Vec<&Pod> = self.cluster.pods.iter().filter(around).collect();
        match &end.holder {
            Holder::Pod(named) => {
                let is_named = |pod: &&Pod| pod.name == *named.name;
                let former =
                    self.cluster.pods.iter().filter(|pod| {
                        pod.address == last && pod.down.is_some_and(|down| down <= time)
                    });
                let latest = former.max_by_key(|pod| pod.down);
                truly.is_some_and(|pod| is_named(&pod))
                    || candidates.iter().any(is_named)
                    || (truly.is_none() && latest.is_some_and(|pod| is_named(&pod)))
            }
            Holder::Unknown(_) | Holder::Outside => {
                let Some(pod) = truly else { return true };
                let is_known = |time: Ms| pod.states.at(time).is_some_and(|s| s.has_address);
                let is_looked_up = self.looks_up && !pod.is_local;
                let until = if is_looked_up { reported } else { time + HAND_OVER };
                let is_settled = is_known(time - WATCH_LAG) && is_known(until);
                candidates.len() != 1 || !is_settled
            }
            _ => false,
        }
    }

    /// Whether the holders that a report names are those of the packet, or nobody.
    pub(super) fn are_ends(
        &self,
        packet: &Packet,
        source: &Endpoint,
        destination: &Endpoint,
    ) -> bool {
        let is = |end: &Endpoint, pod: Option<&Pod>| {
            end.pod().is_none_or(|named| pod.is_some_and(|pod| pod.name == *named.name))
        };
        is(source, Some(self.client(packet))) && is(destination, self.server(packet))
    }

    /// What was special about a packet, of a report of that time.
    pub(super) fn when(&self, packet: &Packet, reported: Ms) -> When {
        let attempt = &self.network.attempts[packet.attempt];
        let own = || self.network.packets.iter().filter(|other| other.attempt == packet.attempt);
        let is_reused =
            |last: u8| self.cluster.pods.iter().filter(|p| p.address == last).count() > 1;
        let client = self.client(packet);
        let server = last_of(packet.to.0);
        match packet.fate {
            Fate::ByProxy { .. } => When::ByProxy,
            Fate::Gone => When::NobodyThere,
            Fate::Refused => When::Refused,
            Fate::Duplicate => When::AnsweredLater,
            _ if own().any(|other| other.to != packet.to) => When::SeveralBackends,
            _ if self.has_changed(packet, reported) => When::PoliciesChanged,
            _ if is_reused(client.address) || is_reused(server) => When::AddressReused,
            _ if attempt.answered.is_some() => When::AnsweredLater,
            _ if !packet.is_freed_here => When::DroppedElsewhere,
            _ => When::Plain,
        }
    }

    /// Whether policies say something else of a packet within the minute before or until the report.
    fn has_changed(&self, packet: &Packet, reported: Ms) -> bool {
        const BEFORE: Ms = 60_000;
        let Some(server) = self.server(packet) else { return false };
        let within = (packet.at - BEFORE, reported);
        let ever = self.said(self.client(packet), server, packet.to.1, within);
        ever != self.said_of(packet)
    }
}

/// For people: `shop/web-0 -> back/api-3 (10.1.0.11):8080`.
pub(crate) fn described(outcome: &Outcome, packet: &Packet) -> String {
    let server = outcome.server(packet).map_or_else(|| "nobody".to_owned(), Pod::id);
    let (address, port) = packet.to;
    let attempt = &outcome.network.attempts[packet.attempt];
    let by = attempt.service.map(|service| format!(" by Service {}", CAST[service].name));
    format!(
        "{} -> {server} ({address}):{port}{} at {}: {:?}",
        outcome.client(packet).id(),
        by.unwrap_or_default(),
        packet.at,
        packet.fate
    )
}
