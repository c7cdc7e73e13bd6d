//! An incident is open exactly while one of its paths fails, and each end that is reported is true.

use std::collections::{BTreeMap, BTreeSet};

use whydrop_core::{
    diagnosis::Class,
    incident::{Happened, IncidentChange, IncidentId, Resolution, SILENCE},
};

use super::{Check, Fault, When, drops::named};
use crate::{
    agent::Report,
    cluster::Pod,
    network::{Fate, Packet},
    policies::Denial,
    run::Outcome,
    time::{Ms, PLUGIN_LAG, WATCH_LAG, ms},
};

/// Within which time an incident is reported: when it gathers drops, and, of one that was over, a minute
/// later.
const OPENED_WITHIN: Ms = 65_000;

/// Within which time its end is: of one whose flows pass again in part a flow that is still dropped would
/// have been reported, see `incident::PASSING`.
const ENDED_WITHIN: Ms = 80_000;

/// How long nobody may have tried what ends with its pods, see `incident::PASSING`.
const GONE: Ms = 75_000;

/// How late an answer shows: within a turn, and another one; and how late a drop shows: when its attempt
/// is judged and the incident has gathered more.
const ANSWER_SHOWS: Ms = 2_000;
const SHOWS: Ms = 12_000;

/// From which pod to which, and on what port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Path {
    client: usize,
    server: Option<usize>,
    to: (std::net::IpAddr, u16),
}

/// Why a path is in an incident.
#[derive(Debug)]
struct Why {
    class: Class,
    says: Denial,
}

#[derive(Debug, Default)]
struct Followed {
    /// Those that were reported of it last, and all that ever were.
    paths: BTreeMap<Path, Why>,
    ever: BTreeSet<Path>,
    /// Those of which others are named by now: what was named before may hold as well.
    beside: BTreeMap<Path, Why>,
    /// When a drop of it was reported first that no report of the incident has followed yet.
    awaited: Option<Ms>,
    is_open: bool,
    /// A drop of it is wrong.
    is_doubtful: bool,
    /// A drop of it arrived, and its client did not wait for the answer: it may be reported, and need not.
    has_arrived: bool,
    /// When it was said to be over.
    ended: Option<Ms>,
}

/// `of_drops`: what is wrong with drops. An incident of such a one is not looked at.
pub(super) fn faults(outcome: &Outcome, of_drops: &[Fault]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut all: BTreeMap<IncidentId, Followed> = BTreeMap::new();
    for (number, (at, report)) in outcome.reports.iter().enumerate() {
        match report {
            Report::Drop(judged) => {
                let diagnosis = &judged.judgement.diagnosis;
                let followed = all.entry(judged.incident).or_default();
                let mut own = of_drops.iter().filter(|fault| fault.report == Some(number));
                followed.is_doubtful |= own.any(|fault| fault.check.is_of_cause());
                // What was dropped before it was over is part of it.
                let is_after_end = followed.ended < Some(ms(judged.drop.evidence.last()));
                if !followed.is_open && is_after_end {
                    followed.awaited =
                        followed.awaited.filter(|_| followed.is_due(outcome, *at)).or(Some(*at));
                }
                let packet = outcome.packet_of(judged);
                followed.has_arrived |= packet.is_some_and(|packet| packet.fate.has_arrived());
                let Some(packet) = packet else { continue };
                let client = outcome.network.attempts[packet.attempt].client;
                let path = Path { client, server: packet.server, to: packet.to };
                // Of one that arrived, in vain, no path fails; the answers to it are the incident's all the
                // same.
                followed.ever.insert(path);
                if !is_answered(&packet.fate) {
                    let (class, says) = (diagnosis.cause.class, named(diagnosis));
                    // It is of the incident that it was reported of last.
                    for other in all.values_mut() {
                        let taken = other.paths.remove_entry(&path);
                        other.beside.extend(taken);
                    }
                    let followed = all.entry(judged.incident).or_default();
                    followed.beside.remove(&path);
                    followed.paths.insert(path, Why { class, says });
                }
            }
            Report::Incident(change) => {
                let followed = all.entry(change.incident.id).or_default();
                let late = followed.awaited.take().filter(|since| at - since > OPENED_WITHIN);
                let late = late.filter(|since| followed.is_due(outcome, since + OPENED_WITHIN));
                if !followed.is_doubtful {
                    faults.extend(late.map(|since| not_opened(change.incident.id, since)));
                    faults.extend(of_change(outcome, followed, *at, change));
                }
                followed.is_open = !matches!(change.happened, Happened::Resolved(_));
                followed.ended = if followed.is_open { None } else { Some(*at) };
            }
            Report::Finding(_) => {}
        }
    }
    for (id, followed) in all.iter().filter(|(_, followed)| !followed.is_doubtful) {
        let late = followed.awaited.filter(|since| outcome.until - since > OPENED_WITHIN);
        let late = late.filter(|since| followed.is_due(outcome, since + OPENED_WITHIN));
        faults.extend(late.map(|since| not_opened(*id, since)));
        if followed.is_open && !followed.has_arrived {
            faults.extend(ended_late(outcome, *id, followed));
        }
    }
    faults
}

/// Whether its client hears of a packet, so that no path fails by it.
const fn is_answered(fate: &Fate) -> bool {
    matches!(fate, Fate::Delivered | Fate::Duplicate | Fate::Refused)
}

fn not_opened(id: IncidentId, at: Ms) -> Fault {
    let what = format!("incident {id} of a drop that was reported at {at}");
    Fault { check: Check::NotOpened, when: When::Plain, at, what, report: None }
}

impl Followed {
    /// Whether what is awaited is due: one that was over is only back if a path of it still fails, and
    /// not by what has gone with its pod.
    fn is_due(&self, outcome: &Outcome, at: Ms) -> bool {
        let fails =
            |(path, why): (&Path, &Why)| path.server.is_some() && path.fails(outcome, why, at);
        self.ended.is_none() || self.paths.iter().any(fails)
    }
}

impl Path {
    fn pods(self, outcome: &Outcome) -> Option<(&Pod, &Pod)> {
        Some((&outcome.cluster.pods[self.client], &outcome.cluster.pods[self.server?]))
    }

    fn name(self, outcome: &Outcome) -> String {
        let server = self.server.map(|server| outcome.cluster.pods[server].id());
        let client = outcome.cluster.pods[self.client].id();
        format!("{client} -> {}:{}", server.unwrap_or_else(|| "nobody".to_owned()), self.to.1)
    }

    /// Whether policies let nothing pass between its pods, which are there, all of this time.
    fn is_denied(self, outcome: &Outcome, within: (Ms, Ms)) -> bool {
        let Some((client, server)) = self.pods(outcome) else { return false };
        let are_up = [client, server].iter().all(|pod| pod.is_up(within.0) && pod.is_up(within.1));
        are_up && !outcome.said(client, server, self.to.1, within).passes
    }

    /// When it last failed by then, as far as this node can know.
    fn failed(self, outcome: &Outcome, by: Ms) -> Option<Ms> {
        self.failing(outcome).map(|packet| packet.at).filter(|at| *at <= by).max()
    }

    /// The same of attempts that nobody answered: one that was answered after all is no drop.
    fn failed_for_good(self, outcome: &Outcome, by: Ms) -> Option<Ms> {
        let is_lost =
            |packet: &&Packet| outcome.network.attempts[packet.attempt].answered.is_none();
        self.failing(outcome).filter(is_lost).map(|packet| packet.at).filter(|at| *at <= by).max()
    }

    fn failing(self, outcome: &Outcome) -> impl Iterator<Item = &Packet> {
        outcome.network.packets.iter().filter(move |packet| {
            let client = outcome.network.attempts[packet.attempt].client;
            let is_failed = !is_answered(&packet.fate);
            let is_seen = packet.is_freed_here || outcome.cluster.pods[client].is_local;
            let is_its = (client, packet.server, packet.to) == (self.client, self.server, self.to);
            is_failed && is_seen && is_its
        })
    }

    /// Whether it fails, and nobody has tried it for so long that this may be said to be over.
    fn is_left(self, outcome: &Outcome, resolution: Resolution, at: Ms) -> bool {
        let is_quiet = |of: Ms| self.failed_for_good(outcome, at).is_none_or(|f| at - f >= of);
        match resolution {
            Resolution::Silence => is_quiet(silence()),
            // Who had the address has gone, and nobody has it, whatever became of its other paths.
            Resolution::Gone | Resolution::Passes { .. } | Resolution::Allowed => {
                self.server.is_none() && is_quiet(GONE)
            }
            Resolution::Muted => false,
        }
    }

    /// When its answers came: where the client is, and where the server is.
    ///
    /// Of a path to a Service with nobody behind it, those of anybody who is behind it later.
    fn answers(self, outcome: &Outcome) -> impl Iterator<Item = Ms> {
        let own = outcome.network.packets.iter().filter(move |packet| {
            let attempt = &outcome.network.attempts[packet.attempt];
            let is_answered = matches!(packet.fate, Fate::Delivered | Fate::Duplicate);
            // Of an address that nobody had, those of whoever has it later.
            let is_server = self.server.is_none() || packet.server == self.server;
            let is_its = is_server && packet.to == self.to;
            is_answered && attempt.client == self.client && (is_its || attempt.dialled == self.to)
        });
        let is_local = |pod: usize| outcome.cluster.pods[pod].is_local;
        own.flat_map(move |packet| {
            let attempt = &outcome.network.attempts[packet.attempt];
            let at_client = attempt.answered.filter(|_| is_local(attempt.client));
            // Where both are here and nothing is translated, or was, only the client's veth is asked.
            let is_translated = attempt.service.is_some() && self.server.is_some();
            let is_asked = !is_local(attempt.client) || is_translated;
            let at_server = packet.server.filter(|server| is_asked && is_local(*server));
            let at_server = at_server.map(|_| packet.at);
            at_client.into_iter().chain(at_server)
        })
    }

    /// Whether it fails at a time, for all that anybody can know.
    fn fails(self, outcome: &Outcome, why: &Why, time: Ms) -> bool {
        let Some(failed) = self.failed(outcome, time) else { return false };
        let passes = self.answers(outcome).any(|answer| answer > failed && answer <= time);
        let client = &outcome.cluster.pods[self.client];
        let is_recent = time - failed < silence();
        client.is_up(time) && !passes && is_recent && self.would_fail(outcome, client, why, time)
    }

    /// Whether it would fail if it were tried.
    fn would_fail(self, outcome: &Outcome, client: &Pod, why: &Why, time: Ms) -> bool {
        // That somebody is there by now shows by nothing but that it passes. What was lost elsewhere may be
        // taken for what policies deny, which ends with them.
        let Some(server) = self.server else { return !why.class.is_denial() };
        let server = &outcome.cluster.pods[server];
        let within = (time - PLUGIN_LAG - WATCH_LAG, time);
        let said = outcome.said(client, server, self.to.1, within);
        let is_denied = match why.class {
            Class::CannotTell => !said.passes,
            class => !class.is_denial() || (!said.passes && said.denials.contains(&why.says)),
        };
        server.is_up(time) && is_denied
    }
}

fn silence() -> Ms {
    Ms::try_from(SILENCE.as_millis()).expect("some minutes")
}

fn of_change(
    outcome: &Outcome,
    followed: &Followed,
    at: Ms,
    change: &IncidentChange,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |check, when, what: String| {
        let what = format!("{} {what}", change.incident.id);
        faults.push(Fault { check, when, at, what, report: None });
    };
    let Happened::Resolved(resolution) = change.happened else {
        if let Some(what) = shows_passing(outcome, followed, at, change) {
            fault(Check::ShowsPassing, When::Plain, what);
        }
        let is_begin = matches!(change.happened, Happened::Opened | Happened::Reopened);
        if is_begin && !followed.has_arrived && is_over(outcome, followed, (at - SHOWS, at)) {
            let when = match change.happened {
                Happened::Reopened => When::Reopened,
                _ => When::Plain,
            };
            fault(Check::OpenedLate, when, format!("{:?}", change.happened));
        }
        return faults;
    };
    let when = match resolution {
        Resolution::Passes { .. } => When::Passes,
        Resolution::Allowed => When::Allowed,
        Resolution::Silence | Resolution::Gone => When::Silence,
        Resolution::Muted => When::Plain,
    };
    let fails = |(path, why): &(&Path, &Why)| {
        // A pod that was deleted by force has no object while it still runs, and nobody can know.
        let client = &outcome.cluster.pods[path.client];
        let is_known = client.states.at(at).is_some();
        is_known && path.fails(outcome, why, at) && !path.is_left(outcome, resolution, at)
    };
    let failing = followed.paths.iter().find(fails);
    if let Some((path, why)) = failing {
        let what = format!("{resolution:?}, and {} fails: {}", path.name(outcome), why.class);
        fault(Check::EndedEarly, when, what);
    }
    let mut paths = followed.paths.keys();
    let is_true = match resolution {
        Resolution::Passes { at: answer } => {
            let answer = ms(answer);
            followed.ever.iter().any(|path| path.answers(outcome).any(|own| own == answer))
        }
        Resolution::Allowed => paths.all(|path| {
            let Some((client, server)) = path.pods(outcome) else { return true };
            let within = (at - WATCH_LAG, at);
            let is_gone = !client.is_up(at) || !server.is_up(at);
            is_gone || outcome.said(client, server, path.to.1, within).passes
        }),
        Resolution::Silence => paths.all(|path| {
            let is_client_gone = !outcome.cluster.pods[path.client].is_up(at);
            is_client_gone || path.is_left(outcome, resolution, at)
        }),
        Resolution::Gone => paths.all(|path| {
            path.pods(outcome).is_none_or(|(client, server)| !client.is_up(at) || !server.is_up(at))
        }),
        Resolution::Muted => false,
    };
    // An incident of nothing that truly failed has no true end; its drops are faults of their own.
    if !is_true && !followed.paths.is_empty() {
        fault(Check::UntrueEnd, when, format!("{resolution:?}"));
    }
    faults
}

/// A pod that a report of an incident shows as cut off, and which is not.
fn shows_passing(
    outcome: &Outcome,
    followed: &Followed,
    at: Ms,
    change: &IncidentChange,
) -> Option<String> {
    // Where nothing goes on any more, it is reported as it was.
    if !followed.paths.iter().any(|(path, why)| path.fails(outcome, why, at)) {
        return None;
    }
    let shown = change.incident.affected.iter().flat_map(|cut| {
        cut.pods.iter().map(move |pod| (pod, cut.path.destination.to_string(), cut.path.port))
    });
    for (name, destination, port) in shown {
        let is_it = |pod: &Pod| pod.id() == *name;
        let of_pod: Vec<_> = followed
            .paths
            .iter()
            .filter(|(path, _)| is_it(&outcome.cluster.pods[path.client]) && path.to.1 == port)
            .filter(|(path, _)| outcome.cluster.pods[path.client].is_up(at))
            .collect();
        let may_fail = |(path, why): &(&Path, &Why)| {
            [at - ANSWER_SHOWS, at].iter().any(|time| path.fails(outcome, why, *time))
                || !why.class.is_denial()
        };
        let is_lifted = |(path, why): &(&Path, &Why)| {
            let passes = path.answers(outcome).any(|answer| {
                path.failed(outcome, at).is_some_and(|f| answer > f) && answer + ANSWER_SHOWS < at
            });
            why.class.is_denial() && !passes
        };
        if !of_pod.is_empty() && !of_pod.iter().any(|p| may_fail(p) || is_lifted(p)) {
            return Some(format!("{name} is cut off from {destination}:{port}"));
        }
    }
    None
}

/// Whether none of its paths failed at any time of these.
fn is_over(outcome: &Outcome, followed: &Followed, within: (Ms, Ms)) -> bool {
    let fails = |(path, why): (&Path, &Why)| {
        path.fails(outcome, why, within.0)
            || path.fails(outcome, why, within.1)
            || path.failed(outcome, within.1).is_some_and(|failed| failed > within.0)
    };
    !followed.paths.is_empty() && !followed.paths.iter().any(fails)
}

/// An open incident none of whose paths fails any more, and has not for long.
fn ended_late(outcome: &Outcome, id: IncidentId, followed: &Followed) -> Option<Fault> {
    let before = outcome.until - ENDED_WITHIN;
    // What other policies deny by now, as seen elsewhere or not tried again, neither passes nor may.
    let is_denied = |path: &Path| path.is_denied(outcome, (before, outcome.until));
    let is_over = is_over(outcome, followed, (before, outcome.until));
    let mut beside = followed.beside.iter();
    let is_over = is_over && !beside.any(|(path, why)| path.fails(outcome, why, outcome.until));
    if !is_over || followed.paths.keys().chain(followed.beside.keys()).any(is_denied) {
        return None;
    }
    let is_gone = |path: &Path| {
        let ends = [Some(path.client), path.server];
        !ends.into_iter().flatten().all(|pod| outcome.cluster.pods[pod].is_up(before))
    };
    let is_any_gone = followed.paths.keys().any(is_gone);
    let when = if is_any_gone { When::PodsGone } else { When::Passes };
    let paths: Vec<String> = followed.paths.keys().map(|path| path.name(outcome)).collect();
    let what = format!("incident {id} of {}", paths.join(", "));
    Some(Fault { check: Check::EndedLate, when, at: outcome.until, what, report: None })
}
