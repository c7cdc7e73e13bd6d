//! What the book keeps of one incident, and when it is reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    FLOWS_MAX, GATHER, Happened, Incident, IncidentChange, IncidentId, JudgedDrop, LINKED_MAX,
    PASSING, PATHS_REPORTED_MAX, Party, Path, Resolution, SILENCE, Severity, UPDATE_INTERVAL,
    affected::{affected, services_lost},
    affected_flow::{AffectedFlow, affected_pod},
    assessment::{Agreement, assess},
    facts,
    plan::{self, plan, remaining},
    words,
};
use crate::{
    cluster::{Name, Snapshot, look_up::Query, resolve::Endpoint},
    correlate::DropId,
    diagnosis::{
        Cause, Diagnosis, Hindsight,
        reason::{Established, established},
    },
    flow::Flow,
    judgement::Attribution,
    policy::PolicyRef,
    remedy::{
        Remedy,
        choices::{Choice, choices},
    },
    verdict::{Decision, Question, evaluate},
};

/// What was reported of an incident.
#[derive(Clone, Copy, Debug)]
enum Reported {
    /// Nothing yet; its first drop was taken then.
    Nothing { since: Timestamp },
    /// That it is open.
    Open { at: Timestamp, severity: Severity },
    /// That it is over, and whether by traffic that was seen to pass: of what policies merely allow
    /// that is reported once it is.
    Resolved { at: Timestamp, passes: bool },
    /// That it was over; it is back.
    Back { resolved: Timestamp },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The one with most confidence, of those that do not pass by themselves if there are any.
    diagnosis: Diagnosis,
    changed: Attribution,
    pub(super) flows: BTreeMap<Flow, AffectedFlow>,
    /// Some who are affected, and some pods of each.
    parties: BTreeMap<Party, BTreeSet<Name>>,
    /// What was found for one flow of each path, with its diagnosis.
    remedies: Vec<(Diagnosis, Arc<Remedy>)>,
    /// Those of them that were steps when it was reported last.
    steps: Vec<Arc<Remedy>>,
    /// Computed once, as they take many evaluations.
    choices: Option<Vec<Choice>>,
    established: Option<Established>,
    /// Packets of each linked drop.
    drops: BTreeMap<DropId, u64>,
    unlinked: u64,
    first: Timestamp,
    last: Timestamp,
    last_success: Option<Timestamp>,
    reopened: u32,
    reported: Reported,
    /// Something has come since it was reported.
    has_news: bool,
    /// Something has come since it was last assessed.
    is_unassessed: bool,
    /// The latest look-up that it was assessed by.
    facts_at: Option<Timestamp>,
}

impl Entry {
    pub(super) fn new(judged: &JudgedDrop, now: Timestamp) -> Self {
        let evidence = &judged.drop.evidence;
        Self {
            diagnosis: judged.judgement.diagnosis.clone(),
            changed: judged.judgement.changed.clone(),
            flows: BTreeMap::new(),
            parties: BTreeMap::new(),
            facts_at: None,
            remedies: Vec::new(),
            steps: Vec::new(),
            choices: None,
            established: None,
            drops: BTreeMap::new(),
            unlinked: 0,
            first: evidence.first(),
            last: evidence.last(),
            last_success: None,
            reopened: 0,
            reported: Reported::Nothing { since: now },
            has_news: false,
            is_unassessed: false,
        }
    }

    pub(super) fn resolved_at(&self) -> Option<Timestamp> {
        match self.reported {
            Reported::Resolved { at, .. } => Some(at),
            _ => None,
        }
    }

    /// As it was reported last, while it is open.
    pub(super) fn severity(&self) -> Option<Severity> {
        match self.reported {
            Reported::Open { severity, .. } => Some(severity),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, judged: &JudgedDrop, now: Timestamp) {
        let JudgedDrop { drop, judgement, worked } = judged;
        let last_success = worked.map(|worked| worked.last);
        let (evidence, diagnosis) = (&drop.evidence, &judgement.diagnosis);
        // The tail of what was lifted meanwhile does not bring it back.
        let is_lifted = matches!(diagnosis.cause.hindsight, Some(Hindsight::LiftedSince(_)));
        if let Reported::Resolved { at, .. } = self.reported
            && evidence.last() > at
            && !is_lifted
        {
            self.reported = Reported::Back { resolved: at };
            self.reopened += 1;
        }
        self.first = self.first.min(evidence.first());
        self.last = self.last.max(evidence.last());
        let before = last_success.filter(|success| *success <= evidence.first());
        self.last_success = self.last_success.max(before);
        let rank = |cause: &Cause| (!cause.passes_by_itself(), cause.confidence);
        if rank(&diagnosis.cause) > rank(&self.diagnosis.cause) {
            self.diagnosis = diagnosis.clone();
        }
        // The flows of one incident may have been cut by several changes: the latest is news.
        let at = |attribution: &Attribution| attribution.lead().map(|change| change.at);
        if at(&judgement.changed) > at(&self.changed) {
            self.changed = judgement.changed.clone();
        }
        self.established = self.established.or_else(|| established(evidence));
        if self.drops.contains_key(&drop.id) || self.drops.len() < LINKED_MAX {
            self.drops.insert(drop.id, evidence.packets());
        } else {
            self.unlinked += 1;
        }
        let dialled =
            drop.dialled.map(|(destination, port)| Flow { destination, port, ..drop.flow });
        let affected = AffectedFlow {
            question: diagnosis.question.clone(),
            dialled,
            dropped: evidence.last().min(now),
            worked: last_success.max(evidence.answered),
            answered: *worked,
            denied_since: judgement.denied_since(),
            restarts_then: affected_pod(&diagnosis.question).map_or(0, |pod| pod.restarts),
            is_muted: false,
        };
        self.keep_party(&diagnosis.question);
        self.keep_flow(drop.flow, affected);
        if let Some(remedy) = &judgement.remedy {
            let path = Path::of(&diagnosis.question);
            let mut known = self.remedies.iter().map(|(known, _)| Path::of(&known.question));
            if !known.any(|known| known == path) && self.remedies.len() < plan::REMEDIES_MAX {
                self.remedies.push((diagnosis.clone(), Arc::new(remedy.clone())));
            }
        }
        self.has_news = true;
        self.is_unassessed = true;
    }

    fn keep_flow(&mut self, flow: Flow, affected: AffectedFlow) {
        if let Some(known) = self.flows.get_mut(&flow) {
            let dropped = known.dropped.max(affected.dropped);
            let worked = known.worked.max(affected.worked);
            // Another pod of that name starts over.
            let uid = |affected: &AffectedFlow| {
                affected_pod(&affected.question).and_then(|pod| pod.uid.clone())
            };
            let is_same = uid(known) == uid(&affected);
            let restarts_then = if is_same { known.restarts_then } else { affected.restarts_then };
            *known = AffectedFlow { dropped, worked, restarts_then, ..affected };
        } else if self.flows.len() < FLOWS_MAX {
            self.flows.insert(flow, affected);
        }
    }

    fn keep_party(&mut self, question: &Question) {
        let (path, pod) = (Path::of(question), affected_pod(question));
        let Some(pod) = pod.filter(|_| path.affected_party().is_of_pods()) else { return };
        let party = path.affected_party();
        if !self.parties.contains_key(party) && self.parties.len() >= facts::PARTIES_MAX {
            return;
        }
        let pods = self.parties.entry(party.clone()).or_default();
        if pods.len() < facts::PODS_MAX {
            pods.insert((pod.namespace.clone(), pod.name.clone()));
        }
    }

    /// What to look up to report it, while it goes on.
    pub(super) fn queries(&self, snapshot: &Snapshot, now: Timestamp) -> Vec<Query> {
        let goes_on = now.duration_since(self.last) < UPDATE_INTERVAL * 2;
        if !goes_on || self.resolved_at().is_some() {
            return Vec::new();
        }
        self.facts(snapshot).collect()
    }

    fn facts<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = Query> + 'a {
        self.parties.iter().flat_map(move |(party, pods)| {
            let is_there = |(namespace, name): &&Name| snapshot.pod(namespace, name).is_some();
            pods.iter().find(is_there).into_iter().flat_map(|pod| facts::queries_of(party, pod))
        })
    }

    /// When the latest of its facts was looked up.
    fn looked_up_at(&self, snapshot: &Snapshot) -> Option<Timestamp> {
        self.facts(snapshot).filter_map(|query| Some(snapshot.look_up_of(&query)?.at)).max()
    }

    /// Whether it is still to be reported whether its traffic passes.
    pub(super) fn is_followed(&self) -> bool {
        !matches!(self.reported, Reported::Resolved { passes: true, .. })
    }

    /// The flows that have not passed since they were dropped, each as dialled as well where that
    /// differs.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (&Flow, Option<&Flow>)> {
        let unanswered = self.flows.iter().filter(|(_, affected)| !affected.passes());
        unanswered.map(|(flow, affected)| (flow, affected.dialled.as_ref()))
    }

    pub(super) fn answered(&mut self, flow: &Flow, at: Timestamp) {
        if let Some(affected) = self.flows.get_mut(flow) {
            affected.worked = affected.worked.max(Some(at));
        }
    }

    /// A flow is expected to be dropped, and is no longer reported.
    pub(super) fn mute(&mut self, flow: &Flow) {
        if let Some(affected) = self.flows.get_mut(flow) {
            affected.is_muted = true;
        }
    }

    /// Whether nothing is left of it that is not expected.
    fn is_muted(&self) -> bool {
        !self.flows.is_empty() && self.flows.values().all(|affected| affected.is_muted)
    }

    /// Reports the incident, if there is something to report by now.
    pub(super) fn attend(
        &mut self,
        id: IncidentId,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Option<IncidentChange> {
        if self.is_muted()
            && matches!(self.reported, Reported::Nothing { .. } | Reported::Back { .. })
        {
            // Nobody has heard of it, and nobody needs to.
            self.reported = Reported::Resolved { at: now, passes: true };
            return None;
        }
        let happened = match self.reported {
            Reported::Nothing { since } if now.duration_since(since) >= GATHER => Happened::Opened,
            Reported::Back { resolved } if now.duration_since(resolved) >= UPDATE_INTERVAL => {
                Happened::Reopened
            }
            Reported::Open { at, .. } => self.goes_on(at, snapshot, now)?,
            Reported::Resolved { passes: false, .. } => Happened::Resolved(self.all_pass()?),
            _ => return None,
        };
        let incident = self.incident(id, snapshot, now, happened);
        self.is_unassessed = false;
        self.facts_at = self.looked_up_at(snapshot);
        let severity = incident.assessment.severity;
        // What has become worse is reported at once, all else in its time.
        if let (Happened::Updated, Reported::Open { at, severity: before }) =
            (happened, self.reported)
            && severity <= before
            && (now.duration_since(at) < UPDATE_INTERVAL || !self.has_news)
        {
            return None;
        }
        self.has_news = false;
        self.reported = match happened {
            Happened::Resolved(Resolution::Allowed) => {
                Reported::Resolved { at: now, passes: false }
            }
            Happened::Resolved(_) => {
                Reported::Resolved { at: self.resolved_at().unwrap_or(now), passes: true }
            }
            _ => Reported::Open { at: now, severity },
        };
        Some(IncidentChange { happened, incident })
    }

    /// What there may be to report of an incident that was last reported then.
    fn goes_on(
        &self,
        reported: Timestamp,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Option<Happened> {
        if let Some(resolution) = self.resolution(snapshot, now) {
            return Some(Happened::Resolved(resolution));
        }
        let is_due = self.has_news && now.duration_since(reported) >= UPDATE_INTERVAL;
        let has_facts = self.looked_up_at(snapshot) > self.facts_at;
        (self.is_unassessed || is_due || has_facts).then_some(Happened::Updated)
    }

    /// That all of its flows pass, if they do.
    fn all_pass(&self) -> Option<Resolution> {
        let all = self.unlinked == 0 && self.flows.values().all(AffectedFlow::passes);
        let at = self.flows.values().filter_map(|flow| flow.worked).max()?;
        (all && at > self.last).then_some(Resolution::Passes { at })
    }

    /// Whether the incident is over, and why.
    fn resolution(&self, snapshot: &Snapshot, now: Timestamp) -> Option<Resolution> {
        if self.is_muted() {
            return Some(Resolution::Muted);
        }
        let quiet = now.duration_since(self.last);
        if let Some(passes) = self.all_pass() {
            return Some(passes);
        }
        let answered = self.flows.values().filter(|f| f.passes()).filter_map(|f| f.worked).max();
        if let Some(at) = answered.filter(|at| *at > self.last && quiet >= PASSING) {
            return Some(Resolution::Passes { at });
        }
        if self.diagnosis.cause.class.is_denial() && self.is_allowed(snapshot) {
            return Some(Resolution::Allowed);
        }
        (quiet >= SILENCE).then_some(Resolution::Silence)
    }

    /// What policies say now of the flows whose pods still are what they were.
    fn decisions<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = Decision> + 'a {
        let is_there = |end: &Endpoint| {
            end.pod().is_none_or(|pod| {
                let now = snapshot.pod(&pod.namespace, &pod.name);
                now.zip(end.address).is_some_and(|(now, address)| now.addresses.contains(&address))
            })
        };
        let questions = self.flows.values().map(|affected| &affected.question);
        let there = questions.filter(move |q| is_there(&q.source) && is_there(&q.destination));
        there.map(|question| {
            let question = Question {
                source: question.source.now(snapshot),
                destination: question.destination.now(snapshot),
                ..*question
            };
            evaluate(snapshot, &question).decision()
        })
    }

    /// Whether policies let all of its flows pass now. The first that they do not decides.
    fn is_allowed(&self, snapshot: &Snapshot) -> bool {
        let mut decisions = self.decisions(snapshot).peekable();
        decisions.peek().is_some() && decisions.all(Decision::lets_pass)
    }

    fn agreement(&self, snapshot: &Snapshot) -> Agreement {
        let mut agreement = Agreement::default();
        for decision in self.decisions(snapshot) {
            match decision {
                Decision::Denied => agreement.denied += 1,
                _ => agreement.others += 1,
            }
        }
        agreement
    }

    fn incident(
        &mut self,
        id: IncidentId,
        snapshot: &Snapshot,
        now: Timestamp,
        happened: Happened,
    ) -> Incident {
        // What is over is reported as it was.
        let is_over = matches!(happened, Happened::Resolved(_));
        let agreement = if is_over { Agreement::default() } else { self.agreement(snapshot) };
        let choices =
            self.choices.get_or_insert_with(|| choices(snapshot, &self.diagnosis)).clone();
        let cause = self.diagnosis.cause.clone();
        let is_cut = |affected: &AffectedFlow| is_over || !(affected.passes() || affected.is_muted);
        let mut affected = affected(snapshot, &self.flows, is_cut);
        let affected_untold = affected.len().saturating_sub(PATHS_REPORTED_MAX);
        let mut incident = Incident {
            id,
            responsible: self.responsible(),
            changed: self.changed.clone(),
            denied_since: self.flows.values().filter_map(|affected| affected.denied_since).min(),
            services_lost: services_lost(snapshot, &self.flows),
            established: self.established.filter(|_| cause.class.is_denial()),
            drops: self.drops.keys().copied().collect(),
            drop_count: self.drops.len() as u64 + self.unlinked,
            packets: self.drops.values().sum(),
            first: self.first,
            last: self.last,
            last_success: self.last_success,
            reopened: self.reopened,
            affected: Vec::new(),
            affected_untold,
            assessment: super::Assessment::default(),
            text: String::new(),
            plan: Vec::new(),
            cause,
        };
        incident.assessment = assess(&incident, &affected, agreement, now);
        affected.truncate(PATHS_REPORTED_MAX);
        incident.affected = affected;
        incident.text = words::text(&incident, now);
        // Those whose flows pass already were steps before.
        let steps = if is_over { Vec::new() } else { remaining(snapshot, &self.remedies) };
        if !steps.is_empty() {
            self.steps = steps;
        }
        incident.plan = plan(&incident, &self.flows, self.steps.clone(), choices);
        incident
    }

    fn responsible(&self) -> Vec<PolicyRef> {
        let responsible = self.diagnosis.responsible();
        responsible.iter().map(|policy| policy.reference.clone()).collect()
    }
}
