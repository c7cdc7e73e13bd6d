//! What the book keeps of one incident, and when it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    FLOWS_MAX, GATHER, Happened, Incident, IncidentChange, IncidentId, JudgedDrop, LINKED_MAX,
    PASSING, PATHS_TOLD_MAX, Party, Path, Resolution, SILENCE, Severity, UPDATE_INTERVAL,
    affected::{affected, services_lost},
    assessment::{Agreement, assess},
    dying::{Dying, suffers},
    facts,
    plan::{self, plan},
    words,
};
use crate::{
    cluster::{Name, Snapshot, look_up::Sought, resolve::Endpoint},
    correlate::DropId,
    diagnosis::Diagnosis,
    flow::Flow,
    judgement::Attribution,
    policy::PolicyRef,
    remedy::{
        Remedy,
        choices::{Choice, choices},
    },
    verdict::{Decision, Question, evaluate},
};

/// What was told of an incident.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// Nothing yet; its first drop was taken then.
    Nothing { since: Timestamp },
    /// That it is open.
    Open { at: Timestamp, severity: Severity },
    /// That it is over, and whether by traffic that was seen to pass: of what policies merely allow
    /// that is told once it is.
    Resolved { at: Timestamp, passes: bool },
    /// That it was over; it is back.
    Back { resolved: Timestamp },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The one with most confidence.
    diagnosis: Diagnosis,
    changed: Attribution,
    pub(super) flows: BTreeMap<Flow, Dying>,
    /// Some who suffer, and some pods of each.
    sufferers: BTreeMap<Party, BTreeSet<Name>>,
    remedies: Vec<(Path, Arc<Remedy>)>,
    /// Computed once, as they take many evaluations.
    choices: Option<Vec<Choice>>,
    established: Option<&'static str>,
    /// Packets of each linked drop.
    drops: BTreeMap<DropId, u64>,
    unlinked: u64,
    first: Timestamp,
    last: Timestamp,
    last_success: Option<Timestamp>,
    reopened: u32,
    told: Told,
    /// Something has come since it was told.
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
            sufferers: BTreeMap::new(),
            facts_at: None,
            remedies: Vec::new(),
            choices: None,
            established: None,
            drops: BTreeMap::new(),
            unlinked: 0,
            first: evidence.first(),
            last: evidence.last(),
            last_success: None,
            reopened: 0,
            told: Told::Nothing { since: now },
            has_news: false,
            is_unassessed: false,
        }
    }

    pub(super) fn resolved_at(&self) -> Option<Timestamp> {
        match self.told {
            Told::Resolved { at, .. } => Some(at),
            _ => None,
        }
    }

    /// As it was told last, while it is open.
    pub(super) fn severity(&self) -> Option<Severity> {
        match self.told {
            Told::Open { severity, .. } => Some(severity),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, judged: &JudgedDrop, now: Timestamp) {
        let JudgedDrop { drop, judgement, worked } = judged;
        let last_success = worked.map(|worked| worked.last);
        let (evidence, diagnosis) = (&drop.evidence, &judgement.diagnosis);
        if let Told::Resolved { at, .. } = self.told
            && evidence.last() > at
        {
            self.told = Told::Back { resolved: at };
            self.reopened += 1;
        }
        self.first = self.first.min(evidence.first());
        self.last = self.last.max(evidence.last());
        let before = last_success.filter(|success| *success <= evidence.first());
        self.last_success = self.last_success.max(before);
        if diagnosis.cause.confidence > self.diagnosis.cause.confidence {
            self.diagnosis = diagnosis.clone();
        }
        // The flows of one incident may have died by several changes: the latest is news.
        let at = |attribution: &Attribution| attribution.lead().map(|change| change.at);
        if at(&judgement.changed) > at(&self.changed) {
            self.changed = judgement.changed.clone();
        }
        self.established = self.established.or_else(|| words::established(evidence));
        if self.drops.contains_key(&drop.id) || self.drops.len() < LINKED_MAX {
            self.drops.insert(drop.id, evidence.packets());
        } else {
            self.unlinked += 1;
        }
        let dialled =
            drop.dialled.map(|(destination, port)| Flow { destination, port, ..drop.flow });
        let dying = Dying {
            question: diagnosis.question.clone(),
            dialled,
            died: evidence.last().min(now),
            worked: last_success.max(evidence.answered),
            answered: *worked,
            denied_since: judgement.denied_since(),
            restarts_then: suffers(&diagnosis.question).map_or(0, |pod| pod.restarts),
            is_muted: false,
        };
        self.keep_sufferer(&diagnosis.question);
        self.keep_flow(drop.flow, dying);
        if let Some(remedy) = &judgement.remedy {
            let path = Path::of(&diagnosis.question);
            let known = self.remedies.iter().any(|(known, _)| *known == path);
            if !known && self.remedies.len() < plan::REMEDIES_MAX {
                self.remedies.push((path, Arc::new(remedy.clone())));
            }
        }
        self.has_news = true;
        self.is_unassessed = true;
    }

    fn keep_flow(&mut self, flow: Flow, dying: Dying) {
        if let Some(known) = self.flows.get_mut(&flow) {
            let (died, worked) = (known.died.max(dying.died), known.worked.max(dying.worked));
            // Another pod of that name begins anew.
            let uid = |dying: &Dying| suffers(&dying.question).and_then(|pod| pod.uid.clone());
            let is_same = uid(known) == uid(&dying);
            let restarts_then = if is_same { known.restarts_then } else { dying.restarts_then };
            *known = Dying { died, worked, restarts_then, ..dying };
        } else if self.flows.len() < FLOWS_MAX {
            self.flows.insert(flow, dying);
        }
    }

    fn keep_sufferer(&mut self, question: &Question) {
        let (path, pod) = (Path::of(question), suffers(question));
        let Some(pod) = pod.filter(|_| path.sufferer().is_of_pods()) else { return };
        let party = path.sufferer();
        if !self.sufferers.contains_key(party) && self.sufferers.len() >= facts::PARTIES_MAX {
            return;
        }
        let pods = self.sufferers.entry(party.clone()).or_default();
        if pods.len() < facts::PODS_MAX {
            pods.insert((pod.namespace.clone(), pod.name.clone()));
        }
    }

    /// What to look up to tell it, while it goes on.
    pub(super) fn wants(&self, snapshot: &Snapshot, now: Timestamp) -> Vec<Sought> {
        let goes_on = now.duration_since(self.last) < UPDATE_INTERVAL * 2;
        if !goes_on || self.resolved_at().is_some() {
            return Vec::new();
        }
        self.facts(snapshot).collect()
    }

    fn facts<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = Sought> + 'a {
        self.sufferers.iter().flat_map(move |(party, pods)| {
            let is_there = |(namespace, name): &&Name| snapshot.pod(namespace, name).is_some();
            pods.iter().find(is_there).into_iter().flat_map(|pod| facts::of(party, pod))
        })
    }

    /// When the latest of what it wants was looked up.
    fn looked_up_at(&self, snapshot: &Snapshot) -> Option<Timestamp> {
        self.facts(snapshot).filter_map(|sought| Some(snapshot.look_up_of(&sought)?.at)).max()
    }

    /// Whether it is still to be told whether its traffic passes.
    pub(super) fn is_followed(&self) -> bool {
        !matches!(self.told, Told::Resolved { passes: true, .. })
    }

    /// The flows that have not passed since they died, each as dialled as well where that differs.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (&Flow, Option<&Flow>)> {
        let unanswered = self.flows.iter().filter(|(_, dying)| !dying.passes());
        unanswered.map(|(flow, dying)| (flow, dying.dialled.as_ref()))
    }

    pub(super) fn answered(&mut self, flow: &Flow, at: Timestamp) {
        if let Some(dying) = self.flows.get_mut(flow) {
            dying.worked = dying.worked.max(Some(at));
        }
    }

    /// A flow is meant to die, and is told no more.
    pub(super) fn mute(&mut self, flow: &Flow) {
        if let Some(dying) = self.flows.get_mut(flow) {
            dying.is_muted = true;
        }
    }

    /// Whether nothing is left of it that is not meant.
    fn is_muted(&self) -> bool {
        !self.flows.is_empty() && self.flows.values().all(|dying| dying.is_muted)
    }

    /// Tells the incident, if there is something to tell by now.
    pub(super) fn attend(
        &mut self,
        id: IncidentId,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Option<IncidentChange> {
        if self.is_muted() && matches!(self.told, Told::Nothing { .. } | Told::Back { .. }) {
            // Nobody has heard of it, and nobody needs to.
            self.told = Told::Resolved { at: now, passes: true };
            return None;
        }
        let happened = match self.told {
            Told::Nothing { since } if now.duration_since(since) >= GATHER => Happened::Opened,
            Told::Back { resolved } if now.duration_since(resolved) >= UPDATE_INTERVAL => {
                Happened::Reopened
            }
            Told::Open { at, .. } => self.goes_on(at, snapshot, now)?,
            Told::Resolved { passes: false, .. } => Happened::Resolved(self.all_pass()?),
            _ => return None,
        };
        let incident = self.incident(id, snapshot, now, happened);
        self.is_unassessed = false;
        self.facts_at = self.looked_up_at(snapshot);
        let severity = incident.assessment.severity;
        // What has become worse is told at once, all else in its time.
        if let (Happened::Updated, Told::Open { at, severity: before }) = (happened, self.told)
            && severity <= before
            && (now.duration_since(at) < UPDATE_INTERVAL || !self.has_news)
        {
            return None;
        }
        self.has_news = false;
        self.told = match happened {
            Happened::Resolved(Resolution::Allowed) => Told::Resolved { at: now, passes: false },
            Happened::Resolved(_) => {
                Told::Resolved { at: self.resolved_at().unwrap_or(now), passes: true }
            }
            _ => Told::Open { at: now, severity },
        };
        Some(IncidentChange { happened, incident })
    }

    /// What there may be to tell of an incident that was last told then.
    fn goes_on(&self, told: Timestamp, snapshot: &Snapshot, now: Timestamp) -> Option<Happened> {
        if let Some(resolution) = self.resolution(snapshot, now) {
            return Some(Happened::Resolved(resolution));
        }
        let is_due = self.has_news && now.duration_since(told) >= UPDATE_INTERVAL;
        let has_facts = self.looked_up_at(snapshot) > self.facts_at;
        (self.is_unassessed || is_due || has_facts).then_some(Happened::Updated)
    }

    /// That all of its flows pass, if they do.
    fn all_pass(&self) -> Option<Resolution> {
        let all = self.unlinked == 0 && self.flows.values().all(Dying::passes);
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
                now.is_some_and(|now| now.addresses.contains(&end.address))
            })
        };
        let questions = self.flows.values().map(|dying| &dying.question);
        let there = questions.filter(move |q| is_there(&q.source) && is_there(&q.destination));
        there.map(|question| {
            let question = Question {
                source: snapshot.resolve(question.source.address, None),
                destination: snapshot.resolve(question.destination.address, None),
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
        // What is over is told as it was.
        let is_over = matches!(happened, Happened::Resolved(_));
        let agreement = if is_over { Agreement::default() } else { self.agreement(snapshot) };
        let choices =
            self.choices.get_or_insert_with(|| choices(snapshot, &self.diagnosis)).clone();
        let cause = self.diagnosis.cause.clone();
        let is_cut = |dying: &Dying| is_over || !(dying.passes() || dying.is_muted);
        let mut affected = affected(snapshot, &self.flows, is_cut);
        let affected_untold = affected.len().saturating_sub(PATHS_TOLD_MAX);
        let mut incident = Incident {
            id,
            responsible: self.responsible(),
            changed: self.changed.clone(),
            denied_since: self.flows.values().filter_map(|dying| dying.denied_since).min(),
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
        affected.truncate(PATHS_TOLD_MAX);
        incident.affected = affected;
        incident.text = words::text(&incident, now);
        let remedies: Vec<_> = self.remedies.iter().map(|(_, remedy)| remedy.clone()).collect();
        incident.plan = plan(&incident, &self.flows, remedies, choices);
        incident
    }

    fn responsible(&self) -> Vec<PolicyRef> {
        let responsible = self.diagnosis.responsible();
        responsible.iter().map(|policy| policy.reference.clone()).collect()
    }
}
