//! Counts add up: what the kernel side counted, what the docket accounts for, and what reports say.

use std::collections::{BTreeMap, BTreeSet};

use whydrop_core::{correlate::DropId, docket::Account, flow::Flow, incident::IncidentId};

use super::{Check, Fault, When};
use crate::{
    agent::Report,
    cluster::address,
    network::{Fate, Packet},
    run::Outcome,
};

pub(super) fn faults(outcome: &Outcome) -> Vec<Fault> {
    let mut faults = of_account(outcome);
    faults.extend(of_flows(outcome));
    faults.extend(of_incidents(outcome));
    faults
}

fn fault(outcome: &Outcome, what: String) -> Fault {
    Fault { check: Check::Counts, when: When::Plain, at: outcome.until, what, report: None }
}

/// Each dropped packet is in one place in the end.
fn of_account(outcome: &Outcome) -> Vec<Fault> {
    let account = outcome.account;
    let Account { observed, reported, answered, folded, shed, of_no_pod, refused, .. } = account;
    let Account { muted, undecided, .. } = account;
    let sum = reported + answered + folded + shed + of_no_pod + refused + muted + undecided;
    let is_right = sum == observed && undecided == 0 && observed == outcome.dropped;
    let what = || format!("{} were dropped, accounted for are {account:?}", outcome.dropped);
    (!is_right).then(|| fault(outcome, what())).into_iter().collect()
}

/// Of each flow as many packets are reported as were dropped, those of answered attempts left out or not.
fn of_flows(outcome: &Outcome) -> Vec<Fault> {
    let mut reported: BTreeMap<Flow, u64> = BTreeMap::new();
    for (_, report) in &outcome.reports {
        if let Report::Drop(judged) = report {
            *reported.entry(judged.drop.flow).or_default() += judged.drop.unreported_packets();
        }
    }
    let mut truly: BTreeMap<Flow, Vec<&Packet>> = BTreeMap::new();
    let is_dropped = |packet: &&Packet| packet.is_freed_here && !packet.fate.has_arrived();
    for packet in outcome.network.packets.iter().filter(is_dropped) {
        let source = address(outcome.client(packet).address);
        let (destination, port) = packet.to;
        let protocol = whydrop_core::flow::Protocol::Tcp;
        truly.entry(Flow { source, destination, port, protocol }).or_default().push(packet);
    }
    let flows: BTreeSet<Flow> = reported.keys().chain(truly.keys()).copied().collect();
    let mut faults = Vec::new();
    for flow in flows {
        let packets = truly.get(&flow).map_or(&[][..], Vec::as_slice);
        let reported = reported.get(&flow).copied().unwrap_or(0);
        let most = packets.len() as u64;
        // What was only counted may be of an attempt that was answered, heard or not, and who is refused
        // knows.
        let may_be_left_out = |packet: &&Packet| {
            let mut others = outcome.network.packets.iter();
            let is_answered =
                others.any(|other| other.attempt == packet.attempt && other.fate.has_arrived());
            let refused = [Fate::Refused, Fate::ByProxy { rejected: true }];
            is_answered || refused.contains(&packet.fate)
        };
        let least = if packets.iter().any(may_be_left_out) { 0 } else { most };
        let at = packets.last().map_or(outcome.until, |packet| packet.at);
        let when = when(outcome, &flow, packets);
        let what = format!("{flow}: {reported} packets reported, {most} dropped");
        let check = match reported {
            _ if reported > most => Check::Overreported,
            _ if reported < least => Check::Underreported,
            _ => continue,
        };
        faults.push(Fault { check, when, at, what, report: None });
    }
    faults
}

/// What was special about a flow: its client may have sent what went to one backend to another as well.
fn when(outcome: &Outcome, flow: &Flow, packets: &[&Packet]) -> When {
    let dialled: BTreeSet<usize> = packets
        .iter()
        .filter_map(|packet| outcome.network.attempts[packet.attempt].service)
        .collect();
    let of_client = outcome.network.packets.iter().filter(|packet| {
        let service = outcome.network.attempts[packet.attempt].service;
        let is_same = service.is_some_and(|service| dialled.contains(&service));
        is_same && address(outcome.client(packet).address) == flow.source
    });
    let backends: BTreeSet<_> = of_client.map(|packet| packet.to).collect();
    match packets.last() {
        _ if backends.len() > 1 => When::SeveralBackends,
        Some(packet) => outcome.when(packet, outcome.until),
        None => When::Plain,
    }
}

/// An incident has the drops that were reported of it, with their packets.
fn of_incidents(outcome: &Outcome) -> Vec<Fault> {
    let mut drops: BTreeMap<IncidentId, BTreeMap<DropId, u64>> = BTreeMap::new();
    let mut faults = Vec::new();
    for (at, report) in &outcome.reports {
        match report {
            Report::Drop(judged) => {
                let id = judged.incident;
                let packets = judged.drop.evidence.packets();
                drops.entry(id).or_default().insert(judged.drop.id, packets);
            }
            Report::Incident(change) => {
                let incident = &change.incident;
                let own = drops.entry(incident.id).or_default();
                let ids: BTreeSet<DropId> = own.keys().copied().collect();
                let (count, packets) = (own.len() as u64, own.values().sum::<u64>());
                let is_right = incident.drops == ids
                    && (incident.drop_count, incident.packets) == (count, packets);
                if !is_right {
                    let said =
                        format!("{} drops, {} packets", incident.drop_count, incident.packets);
                    let what = format!("incident {}: {said}; {count}, {packets}", incident.id);
                    faults.push(Fault { at: *at, ..fault(outcome, what) });
                }
            }
            Report::Finding(_) => {}
        }
    }
    faults
}
