//! What the book keeps of one incident, and when it is reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Assessment, CutPath, FLOWS_MAX, GATHER, Happened, Incident, IncidentChange, IncidentId,
    JudgedDrop, LINKED_MAX, PASSING, PATHS_REPORTED_MAX, Party, Path, Resolution, Severity,
    UPDATE_INTERVAL,
    affected::{affected, services_lost},
    affected_flow::{AffectedFlow, Standing, affected_pod},
    assessment::{Agreement, assess},
    cut::Cut,
    facts,
    plan::{self, plan, remaining},
    recovered::recovered,
    words,
};
use crate::{
    cluster::{Name, Snapshot, look_up::Query},
    correlate::{
        DropId,
        places::{Places, Sending, Way},
    },
    diagnosis::{Class, Diagnosis, Hindsight},
    flow::{Answer, Flow},
    policy::PolicyRef,
    remedy::{
        Remedy,
        choices::{Choice, choices},
    },
    verdict::{Decision, Question, evaluate},
};

/// Of how many paths of an incident it is known why they are cut: those that are reported one by one.
const CUTS_MAX: usize = PATHS_REPORTED_MAX;

/// What was reported of an incident.
#[derive(Clone, Copy, Debug)]
enum Reported {
    /// Nothing yet; its first drop was taken then.
    Nothing { since: Timestamp },
    /// That it is open.
    Open { at: Timestamp, severity: Severity },
    /// That it is over.
    Resolved { at: Timestamp },
    /// That it was over; it is back.
    Back { resolved: Timestamp },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    flows: BTreeMap<Flow, AffectedFlow>,
    /// Whose these are.
    places: Places<Flow>,
    /// Why each path is cut.
    cuts: BTreeMap<Path, Cut>,
    /// Some who are affected, and some pods of each.
    parties: BTreeMap<Party, BTreeSet<Name>>,
    /// The remedies that were steps when it was reported last.
    steps: Vec<Arc<Remedy>>,
    /// Computed once for a cause, as they take many evaluations.
    choices: Option<(ChoicesOf, Vec<Choice>)>,
    /// Packets of each linked drop.
    drops: BTreeMap<DropId, u64>,
    unlinked: u64,
    /// There were flows beside those that are kept.
    has_others: bool,
    first: Timestamp,
    last: Timestamp,
    reopened: u32,
    reported: Reported,
    /// Something has come since it was reported.
    has_news: bool,
    /// Something has come since it was last assessed.
    is_unassessed: bool,
    /// The latest look-up that it was assessed by.
    facts_at: Option<Timestamp>,
    /// How many of its flows went on when it was reported last.
    going_on: usize,
    /// The generation of the cluster by which its flows were last looked at.
    looked_at: Option<u64>,
}

/// What other choices than the remedy there are for.
type ChoicesOf = (Path, Class, Vec<PolicyRef>);

impl Entry {
    pub(super) fn new(judged: &JudgedDrop, now: Timestamp) -> Self {
        let evidence = &judged.drop.evidence;
        Self {
            flows: BTreeMap::new(),
            places: Places::default(),
            cuts: BTreeMap::new(),
            parties: BTreeMap::new(),
            facts_at: None,
            steps: Vec::new(),
            choices: None,
            drops: BTreeMap::new(),
            unlinked: 0,
            has_others: false,
            first: evidence.first(),
            last: evidence.last(),
            reopened: 0,
            reported: Reported::Nothing { since: now },
            has_news: false,
            is_unassessed: false,
            going_on: 0,
            looked_at: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.reported, Reported::Resolved { .. })
    }

    /// Whether this flow is one of its own.
    pub(super) fn has_flow(&self, flow: &Flow) -> bool {
        self.flows.contains_key(flow)
    }

    /// Whether this flow is one of its own of which it could not be said why it was dropped.
    pub(super) fn could_not_tell(&self, flow: &Flow) -> bool {
        self.flows.get(flow).is_some_and(AffectedFlow::is_unclear)
    }

    /// Whether a flow of this path is one of its own.
    pub(super) fn has_path(&self, diagnosis: &Diagnosis) -> bool {
        self.cuts.contains_key(&Path::of(&diagnosis.question))
    }

    /// Whether it is of this denial, as it was before policies came or went.
    pub(super) fn goes_on_as(&self, latest: &Diagnosis, flow: &Flow) -> bool {
        let own = self.flows.get(flow);
        let is_known = own.is_some_and(|own| latest.question.is_same_of_unknown(&own.question));
        self.cuts.values().any(|cut| cut.goes_on_as(latest, is_known))
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
        let (drop, evidence) = (&judged.drop, &judged.drop.evidence);
        let cause = &judged.judgement.diagnosis.cause;
        // The tail of what was lifted meanwhile does not bring it back.
        let is_lifted = matches!(cause.hindsight, Some(Hindsight::LiftedSince(_)));
        self.first = self.first.min(evidence.first());
        self.last = self.last.max(evidence.last());
        if self.drops.contains_key(&drop.id) || self.drops.len() < LINKED_MAX {
            self.drops.insert(drop.id, evidence.packets());
        } else {
            self.unlinked += 1;
        }
        let affected = AffectedFlow::of(judged, now);
        self.keep_party(&affected.question);
        if let Some(known) = self.flows.get_mut(&drop.flow) {
            known.judged_again(affected);
        } else if self.has_room(&Sending::of_drop(drop)) {
            self.places.insert(drop.flow, Sending::of_drop(drop));
            self.flows.insert(drop.flow, affected);
        }
        // Nor do packets that were dropped before their path worked again.
        let standing = self.flows.get(&drop.flow).map(|affected| affected.standing(now));
        let has_passed = matches!(standing, Some(Standing::Passes(_)));
        if let Reported::Resolved { at } = self.reported
            && evidence.last() > at
            && !is_lifted
            && !has_passed
        {
            self.reported = Reported::Back { resolved: at };
            self.reopened += 1;
        }
        let cut = Cut::of(judged);
        let path = cut.path();
        if let Some(known) = self.cuts.get_mut(&path) {
            known.add(cut);
        } else if self.cuts.len() < CUTS_MAX {
            self.cuts.insert(path, cut);
        }
        self.has_news = true;
        self.is_unassessed = true;
        self.looked_at = None;
    }

    /// Whether one more flow of a party is kept apart; else, or where one of whoever has most gives way, there
    /// are others than those that are.
    fn has_room(&mut self, party: &Sending) -> bool {
        if self.flows.len() < FLOWS_MAX {
            return true;
        }
        self.has_others = true;
        let Way::Gives(flow) = self.places.way(party) else { return false };
        self.places.remove(&flow);
        self.flows.remove(&flow);
        true
    }

    /// How many drops belong to it.
    pub(super) fn drop_count(&self) -> u64 {
        u64::try_from(self.drops.len()).unwrap_or(u64::MAX).saturating_add(self.unlinked)
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

    /// The addresses of pods at the ends of what goes on, that are not known to be gone.
    pub(super) fn ends(&self, now: Timestamp) -> impl Iterator<Item = IpAddr> {
        let goes_on =
            self.flows.values().filter(move |flow| flow.standing(now) == Standing::GoesOn);
        let ends = goes_on.flat_map(|flow| [&flow.question.source, &flow.question.destination]);
        ends.filter(|end| end.pod().is_some()).filter_map(|end| end.address)
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

    /// The flows that have not passed since they were dropped, each as dialled as well where that
    /// differs.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (&Flow, Option<&Flow>)> {
        let unanswered = self.flows.iter().filter(|(_, affected)| !affected.is_answered());
        unanswered.map(|(flow, affected)| (flow, affected.dialled.as_ref()))
    }

    pub(super) fn answered(
        &mut self,
        (flow, answer, at): (&Flow, Answer, Timestamp),
        snapshot: &Snapshot,
        now: Timestamp,
    ) {
        // That another pod has the address by now, and is answered there, is no end of this path.
        let own = self.flows.get_mut(flow).filter(|flow| flow.is_of_its_pods(snapshot, at));
        if let Some(affected) = own {
            affected.answered(answer, at, now);
        }
    }

    /// A flow is expected to be dropped, and is no longer reported.
    pub(super) fn mute(&mut self, flow: &Flow) {
        if let Some(affected) = self.flows.get_mut(flow) {
            affected.is_muted = true;
        }
    }

    /// Looks at what the ends of its flows and the policies are now, where that may be news.
    pub(super) fn look(&mut self, snapshot: &Snapshot, own_node: Option<&str>, now: Timestamp) {
        let generation = Some(snapshot.generation());
        if !self.is_open() || self.looked_at == generation {
            return;
        }
        self.looked_at = generation;
        for (flow, affected) in &mut self.flows {
            if !affected.is_answered() {
                affected.look(flow, snapshot, own_node, now);
            }
        }
    }

    /// Reports the incident, if there is something to report by now.
    pub(super) fn attend(
        &mut self,
        id: IncidentId,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Option<IncidentChange> {
        let happened = match self.reported {
            Reported::Nothing { since } => {
                if self.resolution(now) == Some(Resolution::Muted) {
                    // Nobody has heard of it, and nobody needs to.
                    self.reported = Reported::Resolved { at: now };
                    return None;
                }
                (now.duration_since(since) >= GATHER).then_some(Happened::Opened)?
            }
            Reported::Back { resolved } => {
                if self.resolution(now).is_some() {
                    // It was over again before anybody has heard of it.
                    self.reopened -= 1;
                    self.reported = Reported::Resolved { at: now };
                    return None;
                }
                // Nor is it back by those alone that have gone meanwhile; who comes after them may be.
                let is_due = now.duration_since(resolved) >= UPDATE_INTERVAL;
                (is_due && self.may_go_on(now)).then_some(Happened::Reopened)?
            }
            Reported::Open { at, .. } => self.goes_on(at, snapshot, now)?,
            Reported::Resolved { .. } => return None,
        };
        let incident = self.incident(id, snapshot, now, happened)?;
        self.is_unassessed = false;
        self.facts_at = self.looked_up_at(snapshot);
        let severity = incident.assessment.severity;
        // What has become worse is reported at once, all else in its time.
        if let (Happened::Updated, Reported::Open { at, severity: before }) =
            (happened, self.reported)
            && severity <= before
            && (now.duration_since(at) < UPDATE_INTERVAL || !self.is_news(now))
        {
            return None;
        }
        self.has_news = false;
        self.going_on = self.count_going_on(now);
        self.reported = match happened {
            Happened::Resolved(_) => Reported::Resolved { at: now },
            _ => Reported::Open { at: now, severity },
        };
        Some(IncidentChange { happened, incident })
    }

    /// Whether something has come, or has ended, since it was reported last.
    fn is_news(&self, now: Timestamp) -> bool {
        self.has_news || self.going_on != self.count_going_on(now)
    }

    fn count_going_on(&self, now: Timestamp) -> usize {
        self.flows.values().filter(|affected| affected.standing(now) == Standing::GoesOn).count()
    }

    /// What there may be to report of an incident that was last reported then.
    fn goes_on(
        &self,
        reported: Timestamp,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Option<Happened> {
        if let Some(resolution) = self.resolution(now) {
            return Some(Happened::Resolved(resolution));
        }
        let is_due = now.duration_since(reported) >= UPDATE_INTERVAL && self.is_news(now);
        let has_facts = self.looked_up_at(snapshot) > self.facts_at;
        (self.is_unassessed || is_due || has_facts).then_some(Happened::Updated)
    }

    /// Whether any of its flows may go on.
    fn may_go_on(&self, now: Timestamp) -> bool {
        self.has_others || self.flows.values().any(|affected| affected.may_go_on(now))
    }

    /// Whether the incident is over, and why: none of its flows goes on.
    fn resolution(&self, now: Timestamp) -> Option<Resolution> {
        if self.flows.values().any(|affected| affected.may_go_on(now)) {
            return None;
        }
        let quiet = now.duration_since(self.last);
        let (mut passes, mut is_allowed) = (None, false);
        let (mut all_muted, mut all_gone) = (true, true);
        for affected in self.flows.values() {
            let standing = affected.standing(now);
            match standing {
                Standing::Passes(at) => passes = passes.max(Some(at)),
                Standing::Allowed => is_allowed = true,
                Standing::GoesOn | Standing::Gone | Standing::Silent | Standing::Muted => {}
            }
            all_muted &= standing == Standing::Muted;
            all_gone &= matches!(standing, Standing::Gone | Standing::Muted);
        }
        if all_muted {
            return Some(Resolution::Muted);
        }
        // Of the others it is only known that none was reported.
        if self.has_others && quiet < PASSING {
            return None;
        }
        match passes {
            Some(at) => Some(Resolution::Passes { at }),
            None if is_allowed => Some(Resolution::Allowed),
            // What a rollout has made instead may try the same.
            None if all_gone => (quiet >= PASSING).then_some(Resolution::Gone),
            None => Some(Resolution::Silence),
        }
    }

    /// What policies say now of those flows that go on, whose pods still are what they were.
    fn agreement(&self, snapshot: &Snapshot, now: Timestamp) -> Agreement {
        let mut agreement = Agreement::default();
        let goes_on = |affected: &&AffectedFlow| affected.standing(now) == Standing::GoesOn;
        for affected in self.flows.values().filter(goes_on).filter(|f| f.is_there(snapshot)) {
            match evaluate(snapshot, &affected.question_now(snapshot)).decision() {
                Decision::Denied => agreement.denied += 1,
                _ => agreement.others += 1,
            }
        }
        agreement
    }

    /// The flows that it is reported of: those that go on; where none does any more, or it is over, as
    /// it was.
    fn reported_flows(&self, now: Timestamp, is_over: bool) -> BTreeMap<&Flow, &AffectedFlow> {
        let goes_on = |affected: &AffectedFlow| affected.standing(now) == Standing::GoesOn;
        let is_all = is_over || !self.flows.values().any(goes_on);
        self.flows.iter().filter(|(_, affected)| is_all || goes_on(affected)).collect()
    }

    fn incident(
        &mut self,
        id: IncidentId,
        snapshot: &Snapshot,
        now: Timestamp,
        happened: Happened,
    ) -> Option<Incident> {
        // What is over is reported as it was.
        let is_over = matches!(happened, Happened::Resolved(_));
        let agreement = if is_over { Agreement::default() } else { self.agreement(snapshot, now) };
        let flows = self.reported_flows(now, is_over);
        let is_known = |path: &Path| self.cuts.contains_key(path);
        let mut affected = affected(snapshot, flows.values().copied(), is_known);
        let lead = affected.first().and_then(|lead| self.cuts.get(&lead.path))?;
        let mut incident = Incident {
            last_success: worked_before(&flows, affected.first()),
            denied_since: flows.values().filter_map(|affected| affected.denied_since).min(),
            services_lost: services_lost(snapshot, flows.values().copied()),
            recovered: recovered(self.flows.values(), now),
            ..self.led_by(id, lead)
        };
        incident.affected_untold = affected.len().saturating_sub(PATHS_REPORTED_MAX);
        let others = affected.split_off(affected.len() - incident.affected_untold);
        incident.affected = affected;
        incident.assessment = assess(&incident, &others, agreement, now);
        incident.text = words::text(&incident, now);
        // Those whose flows pass already were steps before.
        let steps = if is_over { Vec::new() } else { self.remaining(snapshot, &incident.affected) };
        let choices_of = (lead.path(), incident.cause.class, incident.responsible.clone());
        let choices = match &self.choices {
            Some((of, choices)) if *of == choices_of => choices.clone(),
            _ => choices(snapshot, &lead.diagnosis),
        };
        let steps = if steps.is_empty() { self.steps.clone() } else { steps };
        incident.plan = plan(&incident, &flows, steps.clone(), choices.clone());
        self.steps = steps;
        self.choices = Some((choices_of, choices));
        Some(incident)
    }

    /// What it is as a whole, and what one path of it says of its cause.
    fn led_by(&self, id: IncidentId, lead: &Cut) -> Incident {
        let cause = lead.diagnosis.cause.clone();
        let verdict = &lead.diagnosis.verdict;
        let is_denial = cause.class.is_denial();
        Incident {
            id,
            responsible: lead.responsible(),
            denied: verdict.denied_directions().filter(|_| is_denial).collect(),
            changed: lead.changed.clone(),
            established: lead.established.filter(|_| is_denial),
            drops: self.drops.keys().copied().collect(),
            drop_count: self.drops.len() as u64 + self.unlinked,
            packets: self.drops.values().sum(),
            first: self.first,
            last: self.last,
            reopened: self.reopened,
            denied_since: None,
            services_lost: Vec::new(),
            last_success: None,
            affected: Vec::new(),
            affected_untold: 0,
            recovered: Vec::new(),
            assessment: Assessment::default(),
            text: String::new(),
            plan: Vec::new(),
            cause,
        }
    }

    /// The remedies of these paths, as far as each is a step beside the others.
    fn remaining(&self, snapshot: &Snapshot, affected: &[CutPath]) -> Vec<Arc<Remedy>> {
        let cuts = affected.iter().filter_map(|of_path| self.cuts.get(&of_path.path));
        let found = cuts.filter_map(|cut| Some((&cut.diagnosis, cut.remedy.as_ref()?)));
        remaining(snapshot, found.take(plan::REMEDIES_MAX))
    }
}

/// When one of the flows of a path was last answered before its first packet was dropped.
fn worked_before(
    flows: &BTreeMap<&Flow, &AffectedFlow>,
    of_path: Option<&CutPath>,
) -> Option<Timestamp> {
    let path = &of_path?.path;
    let own = flows.values().filter(|affected| Path::of(&affected.question) == *path);
    own.filter_map(|affected| affected.worked_before).max()
}
