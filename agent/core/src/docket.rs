//! What the agent's facts come to: when a case waits, when it is decided, and what is reported.
//!
//! A pure fold: facts in, actions out, in the order in which they are to be done. The caller carries
//! them out, hands in what the kernel saw, says what time it is and what is known of the cluster, and
//! decides nothing.
//!
//! ```text
//! observed ─▶ Correlator ─┬─▶ Folded ─────────────────────────────────────────▶ Folded | Muted
//!                         ├─▶ Drop ────┐            ┌─ LookingUp ─ CatchingUp ─┐
//!                         └─▶ Answered ┴─▶ diagnose ┴──────────────────────────┴─▶ decide
//! last_answers ─▶ Recheck ────▲                                                      │
//!             └─▶ IncidentBook ─▶ Incident, Note   ◀─ hindsight, mute ◀─ last answer ┘─▶ Finding
//!                                                        └─▶ Drop | Muted
//! ```
//!
//! A drop is diagnosed as of its last packets when it comes, and again where more is known by the time
//! at which it is decided. It waits for look-ups, where who is at its ends is not known, and then,
//! where policies do not explain it, for policies that are on their way. What they do not explain
//! and was answered meanwhile is none. How a wait ends:
//!
//! | waits for | ends when | else after |
//! |---|---|---|
//! | look-ups | nothing is missing any more | [`LOOK_UP`] |
//! | the cluster | | [`CATCH_UP`] |
//! | an answer, where nothing was dropped here | | [`ANSWER`] after its first sign |
//! | anything | the queue is full ([`PENDING_MAX`]): it does not begin | |

mod action;
mod answers;
mod cuts;
mod notes;
mod own_path;
mod pending;
mod recheck;
mod share;

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::{
        Cluster, Snapshot,
        history::History,
        look_up::Query,
        resolve::{Endpoint, Holder},
    },
    correlate::{self, Correlated, Correlator, Drop, EvidenceLevel, Folded},
    diagnosis::{Class, Diagnosis, reason::has_arrived, to_look_up},
    flow::{Answer, Flow, Worked},
    incident::{IncidentBook, JudgedDrop},
    judgement::{Diagnosed, Judgement},
    mute::{self, Muted, MutedBy, muted, muted_source},
    observation::Observation,
    own_path::Destination,
    verdict::Question,
};
use action::Then;
pub use action::{Action, AnswersQuery, Asked, CutBy, Note};
use cuts::Cuts;
use notes::Notes;
use own_path::OwnPath;
pub use pending::{ANSWER, CATCH_UP, LOOK_UP, PENDING_MAX};
use pending::{Pending, Queue, Stage, Subject, case_of};
use recheck::Recheck;
use share::Shares;

/// How much further back than the last turn answers are looked for: a turn may be late, and a drop
/// that opens an incident is judged some seconds after the fact.
const LOOK_BACK: SignedDuration = SignedDuration::from_secs(30);

/// What does not change while an agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that it runs on.
    pub node: Arc<str>,
    /// What is expected, and counted instead of reported.
    pub mute: Vec<mute::Rule>,
    /// What the agent must reach.
    pub destinations: Vec<Destination>,
}

/// Where the packets went that this kernel dropped. Each is in one of the parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// All that were observed.
    pub observed: u64,
    /// In drops that are reported.
    pub reported: u64,
    /// Of attempts that were answered after all.
    pub answered: u64,
    /// Of sources with too many flows to keep apart.
    pub folded: u64,
    /// Not kept, because too many attempts or flows were open.
    pub shed: u64,
    /// Of flows with no pod at either end.
    pub of_no_pod: u64,
    /// To a closed port, which its kernel refused: who connects knows.
    pub refused: u64,
    /// In drops that are expected, and counted.
    pub muted: u64,
    /// Of attempts and drops that are not decided yet.
    pub undecided: u64,
}

/// The fold. Only its own methods change it.
#[derive(Debug)]
pub struct Docket {
    node: Arc<str>,
    rules: Vec<mute::Rule>,
    correlator: Correlator,
    cuts: Cuts,
    pending: Queue,
    recheck: Recheck,
    shares: Shares,
    muted: Muted,
    incidents: IncidentBook,
    notes: Notes,
    own_path: OwnPath,
    reported: u64,
    answered_late: u64,
    of_no_pod: u64,
    refused: u64,
    /// It is about to end: nothing waits any more.
    is_flushing: bool,
}

/// What is known at the moment of a call, and what is to be done about it.
struct Moment<'a> {
    now: Timestamp,
    snapshot: Snapshot,
    history: &'a History,
    actions: Vec<Action>,
}

impl<'a> Moment<'a> {
    fn of(cluster: &'a Cluster, now: Timestamp) -> Self {
        let (snapshot, history) = (cluster.snapshot(), cluster.history());
        Self { now, snapshot, history, actions: Vec::new() }
    }
}

impl Docket {
    /// One that knows of no packets yet.
    pub fn new(settings: Settings) -> Self {
        let Settings { node, mute, destinations } = settings;
        Self {
            incidents: IncidentBook::of_node(node.clone()),
            node,
            rules: mute,
            correlator: Correlator::default(),
            cuts: Cuts::default(),
            pending: Queue::default(),
            recheck: Recheck::default(),
            shares: Shares::default(),
            muted: Muted::default(),
            notes: Notes::default(),
            own_path: OwnPath::to(destinations),
            reported: 0,
            answered_late: 0,
            of_no_pod: 0,
            refused: 0,
            is_flushing: false,
        }
    }

    /// Handles what the kernel saw. Of a flow that goes unanswered once more, its table knows whether
    /// it worked in between.
    pub fn observed(&mut self, seen: &Observation) -> Option<Action> {
        if has_arrived(&seen.fact) {
            self.correlator.arrived(seen);
            return None;
        }
        let paths = self.correlator.attempted_again(seen);
        if !paths.is_empty() {
            let asked = paths.iter().flat_map(|(flow, dialled)| [Some(*flow), *dialled]);
            let asked = Asked::Last(asked.flatten().collect());
            let then = Then::Observe(Box::new(seen.clone()), paths.into_iter().collect());
            return Some(Action::AskLastAnswers(AnswersQuery { asked, then }));
        }
        self.correlator.observe(seen);
        None
    }

    /// Policies changed, or what they select by. Other changes, and what was looked up, show in the
    /// cluster.
    pub fn policies_changed(&mut self, now: Timestamp) {
        self.recheck.policies_changed(now);
        self.own_path.policies_changed();
    }

    /// Decides what has become clear by now.
    pub fn tick(&mut self, cluster: &Cluster, now: Timestamp) -> Vec<Action> {
        let mut moment = Moment::of(cluster, now);
        self.cut(&moment);
        for correlated in self.correlator.tick(now) {
            self.correlated(correlated, &mut moment);
        }
        if let Some(since) = self.recheck.due(now) {
            moment.ask(Asked::Since(since), Then::Recheck);
        }
        let (known, missing) = self.pending.looked_up(&moment.snapshot, now);
        moment.look_up(missing);
        for pending in known {
            self.catch_up(pending, &mut moment);
        }
        while let Some(pending) = self.pending.pop_due(now) {
            self.decide(pending, &mut moment);
        }
        moment.actions
    }

    /// When [`Self::tick`] has something to do; `None`: not before the next fact.
    pub fn deadline(&self) -> Option<Timestamp> {
        let due = [self.correlator.deadline(), self.recheck.deadline(), self.pending.deadline()];
        due.into_iter().flatten().min()
    }

    /// What is looked at about once a second: the agent's own path, which flows of open incidents
    /// work again, and whether it is time to report what was muted.
    pub fn turn(&mut self, cluster: &Cluster, now: Timestamp) -> Vec<Action> {
        let mut moment = Moment::of(cluster, now);
        moment.actions = self.own_path.check(&self.node, &moment.snapshot, now);
        let flows: Vec<(Flow, Option<Flow>)> =
            self.incidents.unanswered().map(|(flow, dialled)| (*flow, dialled.copied())).collect();
        let asked: HashSet<Flow> =
            flows.iter().flat_map(|(flow, dialled)| [Some(*flow), *dialled]).flatten().collect();
        let asked = Asked::SinceOf(asked, now - LOOK_BACK);
        moment.ask(asked, Then::FollowIncidents(flows));
        if let Some((since, tallies)) = self.muted.due(now) {
            moment.actions.push(Action::MutedSoFar { since, tallies });
        }
        moment.actions
    }

    /// Handles what the kernel's table answers: of the flows that were asked about and were answered,
    /// which connections; only the last of each counts but for [`Asked::Worked`]. Nothing, where the
    /// table cannot be read.
    pub fn last_answers(
        &mut self,
        query: AnswersQuery,
        answers: &[(Flow, Worked)],
        cluster: &Cluster,
        now: Timestamp,
    ) -> Vec<Action> {
        let mut moment = Moment::of(cluster, now);
        match query.then {
            Then::Observe(seen, paths) => {
                for (flow, answer, at) in answers::of(&moment.snapshot, &paths, answers) {
                    if answer == Answer::OfPath {
                        self.correlator.worked(&flow, at);
                    }
                }
                self.correlator.observe(&seen);
            }
            Then::Decide { drop, diagnosed } => {
                self.judge(*drop, *diagnosed, answers, &mut moment);
            }
            Then::Recheck => {
                for (flow, worked) in answers {
                    self.answered(*flow, worked.last, &mut moment);
                }
            }
            Then::FollowIncidents(flows) => self.follow_incidents(&flows, answers, &mut moment),
        }
        moment.actions
    }

    /// Decides everything that waits, as the last thing. What is not looked up by now will not be.
    pub fn flush(&mut self, cluster: &Cluster, now: Timestamp) -> Vec<Action> {
        let mut moment = Moment::of(cluster, now);
        self.is_flushing = true;
        for note in self.notes.take() {
            self.write_note(note, &mut moment);
        }
        for correlated in self.correlator.flush(now) {
            self.correlated(correlated, &mut moment);
        }
        let (known, _) = self.pending.looked_up(&moment.snapshot, Timestamp::MAX);
        for pending in known {
            // An answer by somebody unknown shows nothing.
            if matches!(pending.subject, Subject::Drop(_)) {
                self.catch_up(pending, &mut moment);
            }
        }
        while let Some(pending) = self.pending.pop_due(Timestamp::MAX) {
            self.decide(pending, &mut moment);
        }
        moment.actions.retain(|action| !matches!(action, Action::LookUp(_)));
        moment.actions
    }

    /// From now on, drops of flows that are not known yet are counted and not kept, or are kept again.
    pub fn shed_new(&mut self, sheds: bool) {
        self.correlator.shed_new(sheds);
    }

    /// What was muted and is not reported yet, as the very last thing.
    pub fn take_muted(&mut self) -> Option<Action> {
        let (since, tallies) = self.muted.take()?;
        Some(Action::MutedSoFar { since, tallies })
    }

    /// Where dropped packets went so far.
    pub fn account(&self) -> Account {
        let correlate::Account { observed, recovered, folded, shed } = self.correlator.account();
        Account {
            observed,
            reported: self.reported,
            answered: recovered + self.answered_late,
            folded,
            shed,
            of_no_pod: self.of_no_pod,
            refused: self.refused,
            muted: self.muted.packets(),
            undecided: self.correlator.undecided() + self.pending.kernel_packets(),
        }
    }

    /// How many cases wait for look-ups, and how many for the cluster to catch up.
    pub fn pending(&self) -> (usize, usize) {
        self.pending.lengths()
    }

    /// How many cases were decided at once, since too many waited.
    pub fn decided_early(&self) -> u64 {
        self.pending.decided_early()
    }

    /// How many judged drops belong to no incident, since there were too many of those.
    pub fn incidents_shed(&self) -> u64 {
        self.incidents.shed()
    }

    fn correlated(&mut self, correlated: Correlated, moment: &mut Moment<'_>) {
        match correlated {
            Correlated::Drop(drop) => self.dropped(drop, moment),
            Correlated::Answered { flow, at } => self.answered(flow, at, moment),
            Correlated::Folded(folded) => self.folded(folded, moment),
        }
    }

    /// None of its flows is judged, so that only what is said of the source itself mutes it: of many sources,
    /// nothing.
    fn folded(&mut self, folded: Folded, moment: &mut Moment<'_>) {
        let of_one = folded.sender.is_none();
        let by = of_one.then(|| muted_source(&moment.snapshot, &self.rules, folded.source));
        match by.flatten() {
            Some(by) => {
                moment.actions.push(Action::Muted(by.0.clone()));
                let example = folded.example.to_string();
                self.muted.add_folded(moment.now, by, folded.packets, example);
            }
            None => moment.actions.push(Action::Folded(folded)),
        }
    }

    fn dropped(&mut self, drop: Drop, moment: &mut Moment<'_>) {
        let snapshot = &moment.snapshot;
        let diagnosed = Diagnosed::new(moment.history, snapshot, &case_of(&drop));
        if drop.foreign.is_none() {
            let own = self.own_path.dropped(&drop, &diagnosed.diagnosis, snapshot, moment.now);
            moment.actions.extend(own);
        }
        if !concerns_pods(&drop, &diagnosed.diagnosis, &self.node, snapshot) {
            self.of_no_pod += drop.unreported_packets();
            self.correlator.is_of_no_use(&drop);
            return;
        }
        let pending = Pending::new(Subject::Drop(Box::new(drop)), diagnosed, snapshot);
        self.look_up(pending, moment);
    }

    /// A flow was answered: if policies deny it, then the CNI does not enforce them, unless they
    /// are about to say otherwise.
    fn answered(&mut self, flow: Flow, at: Timestamp, moment: &mut Moment<'_>) {
        let (snapshot, subject) = (&moment.snapshot, Subject::Answer { flow, at });
        let diagnosed = Diagnosed::new(moment.history, snapshot, &subject.case());
        // Without a policy over a pod of this node there is nothing to enforce here.
        let verdict = &diagnosed.diagnosis.verdict;
        if !verdict.egress.trace.is_empty() || !verdict.ingress.trace.is_empty() {
            self.look_up(Pending::new(subject, diagnosed, snapshot), moment);
        }
    }

    /// Lets a case wait until it is known who is at its ends.
    fn look_up(&mut self, pending: Pending, moment: &mut Moment<'_>) {
        let missing = to_look_up(&moment.snapshot, &pending.subject.case(), moment.now);
        if missing.is_empty() {
            return self.catch_up(pending, moment);
        }
        moment.look_up(missing.clone());
        let generation = moment.snapshot.generation();
        self.wait(Stage::LookingUp { missing, generation }, pending, moment);
    }

    /// Lets a case wait that policies do not explain, for they may be on their way.
    fn catch_up(&mut self, mut pending: Pending, moment: &mut Moment<'_>) {
        pending.refresh(&moment.snapshot, moment.history);
        let class = pending.diagnosed.diagnosis.cause.class;
        match (&pending.subject, class) {
            (Subject::Drop(_), Class::OutOfSync | Class::NotPolicy | Class::CannotTell)
            | (Subject::Answer { .. }, Class::NotEnforced) => {
                self.wait(Stage::CatchingUp, pending, moment);
            }
            (Subject::Drop(_), _) => self.decide(pending, moment),
            (Subject::Answer { .. }, _) => {}
        }
    }

    fn wait(&mut self, stage: Stage, pending: Pending, moment: &mut Moment<'_>) {
        if let Some(early) = self.pending.push(stage, pending, moment.now) {
            self.decide(early, moment);
        }
    }

    fn decide(&mut self, mut pending: Pending, moment: &mut Moment<'_>) {
        pending.refresh(&moment.snapshot, moment.history);
        let Pending { subject, diagnosed, .. } = pending;
        match subject {
            Subject::Drop(drop) => self.decide_drop(drop, diagnosed, moment),
            Subject::Answer { flow, at } => {
                self.decide_answer(flow, at, Box::new(diagnosed.diagnosis), moment);
            }
        }
    }

    fn decide_answer(
        &mut self,
        flow: Flow,
        at: Timestamp,
        diagnosis: Box<Diagnosis>,
        moment: &mut Moment<'_>,
    ) {
        let is_finding = diagnosis.cause.class == Class::NotEnforced
            && answers::is_of_one_backend(moment, &flow, at);
        if !is_finding || !self.recheck.is_news(flow, moment.now) {
            return;
        }
        match muted(&moment.snapshot, &self.rules, &diagnosis) {
            Some(by) => self.mute(by, 0, &diagnosis, moment),
            None => moment.actions.push(Action::Finding { at, diagnosis }),
        }
    }

    /// Asks which connections of the flow, as dialled or as translated, were answered, and then judges
    /// the drop.
    fn decide_drop(&mut self, drop: Box<Drop>, diagnosed: Box<Diagnosed>, moment: &mut Moment<'_>) {
        if !diagnosed.diagnosis.is_reportable(&drop.evidence) {
            self.refused += drop.unreported_packets();
            self.correlator.is_of_no_use(&drop);
            return;
        }
        // No answer to whoever has the address says anything of what others send in its name.
        let mut asked = Vec::new();
        if drop.foreign.is_none() {
            asked = answers::before(&moment.snapshot, &drop, &diagnosed.diagnosis);
            asked.extend(share::counted_for(&drop).map(|dialled| (dialled, None)));
        }
        moment.ask(Asked::Worked(asked), Then::Decide { drop, diagnosed });
    }

    /// Whether a drop that no policy explains was answered after its last sign, none of its attempts having
    /// failed that is not reported yet: it was late, and not lost. What this kernel dropped was
    /// late only to its own attempts: where others were answered, or a pod that has the address next did,
    /// it is lost.
    fn is_answered(&self, drop: &Drop, class: Class, answers: &[(Flow, Worked)]) -> bool {
        let is_held = matches!(class, Class::OutOfSync | Class::NotPolicy | Class::CannotTell);
        let by_now = self.correlator.evidence_of(drop).unwrap_or(&drop.evidence);
        let rescued = by_now.rescued();
        let may_be_late = drop.evidence.level() == EvidenceLevel::Unanswered
            || (rescued > 0 && rescued >= by_now.attempts());
        // Another way by which the same was dialled says nothing of this one.
        let own = answers.iter().filter(|(flow, _)| may_be_late && *flow == drop.flow);
        let by_table = own.map(|(_, worked)| worked.last).max();
        // Of what is reported all that is new is late.
        let is_new = !drop.evidence.is_reported() || drop.unreported_packets() == 0;
        let has_ended = drop.evidence.rejected.is_some() || drop.evidence.ends_in_vain(by_now);
        let is_open = is_new && !has_ended;
        is_held && is_open && by_table.max(by_now.answered) >= Some(drop.evidence.last())
    }

    fn judge(
        &mut self,
        drop: Drop,
        diagnosed: Diagnosed,
        answers: &[(Flow, Worked)],
        moment: &mut Moment<'_>,
    ) {
        // What other backends answered is not asked for to say that this one worked.
        let counted = share::counted_for(&drop);
        let of_others = |flow: &Flow| Some(*flow) == counted;
        let own = answers.iter().filter(|(flow, _)| !of_others(flow));
        let worked = own.map(|(_, worked)| *worked).reduce(Worked::or);
        let by_others = answers.iter().find(|(flow, _)| of_others(flow)).map(|(_, worked)| *worked);
        let last_success = worked.map(|worked| worked.last);
        let (snapshot, case) = (&moment.snapshot, case_of(&drop));
        let judgement = Judgement::new(snapshot, moment.history, &case, diagnosed, last_success);
        let diagnosis = &judgement.diagnosis;
        if !diagnosis.is_reportable(&drop.evidence) {
            self.refused += drop.unreported_packets();
            self.correlator.is_of_no_use(&drop);
            return;
        }
        if self.is_answered(&drop, diagnosis.cause.class, answers) {
            self.answered_late += drop.unreported_packets();
            self.pending.was_answered(drop.id);
            return self.correlator.recovered(&drop);
        }
        if let Some(by) = muted(snapshot, &self.rules, diagnosis) {
            // What is reported once it is expected no more is another drop.
            if drop.foreign.is_none() {
                self.incidents.mute(&drop.flow);
            }
            self.correlator.conclude(&drop);
            return self.mute(by, drop.unreported_packets(), diagnosis, moment);
        }
        self.reported += drop.unreported_packets();
        let share = self.shares.of(&drop, by_others);
        let mut judged = JudgedDrop { share, ..JudgedDrop::new(drop, judgement, worked) };
        if judged.drop.evidence.sender.is_spoofed() {
            // It is in its sender's account: no incident and no pod of whoever has the address hears of it.
            judged.incident = judged.incident.of_sender(judged.drop.evidence.sender.interface);
            return moment.actions.push(Action::Drop(Arc::new(judged)));
        }
        judged.incident = self.incidents.add(&judged, moment.now);
        let judged = Arc::new(judged);
        self.note(&judged, moment);
        moment.actions.push(Action::Drop(judged));
    }

    fn mute(
        &mut self,
        by: (MutedBy, Arc<str>),
        packets: u64,
        diagnosis: &Diagnosis,
        moment: &mut Moment<'_>,
    ) {
        moment.actions.push(Action::Muted(by.0.clone()));
        self.muted.add(moment.now, by, packets, diagnosis.question.to_string());
    }

    /// Notes a denial on the pod that is affected. The note waits until its incident is reported.
    fn note(&mut self, judged: &Arc<JudgedDrop>, moment: &mut Moment<'_>) {
        let diagnosis = &judged.judgement.diagnosis;
        let Question { source, destination, .. } = &diagnosis.question;
        let affected = source.pod().or(destination.pod());
        let Some(pod) = affected.filter(|_| diagnosis.cause.class.is_denial()) else { return };
        let note = Note {
            pod: pod.clone(),
            judged: judged.clone(),
            incident: judged.incident,
            severity: None,
            at: moment.now,
        };
        let due = if self.is_flushing { Some(note) } else { self.notes.push(note) };
        if let Some(note) = due {
            self.write_note(note, moment);
        }
    }

    fn write_note(&self, note: Note, moment: &mut Moment<'_>) {
        let severity = self.incidents.severity(note.incident);
        moment.actions.push(Action::Note(Note { severity, ..note }));
    }

    fn follow_incidents(
        &mut self,
        flows: &[(Flow, Option<Flow>)],
        answers: &[(Flow, Worked)],
        moment: &mut Moment<'_>,
    ) {
        for (flow, answer, at) in answers::of(&moment.snapshot, flows, answers) {
            let answer = (&flow, answer, at);
            self.incidents.answered(answer, &moment.snapshot, moment.now);
        }
        let wanted = self.incidents.to_look_up(&moment.snapshot, moment.now);
        moment.look_up(wanted);
        let changes = self.incidents.tick(&moment.snapshot, moment.now).into_iter();
        moment.actions.extend(changes.map(|change| Action::Incident(Box::new(change))));
        for note in self.notes.due(&self.incidents, moment.now) {
            self.write_note(note, moment);
        }
    }
}

impl Moment<'_> {
    fn ask(&mut self, asked: Asked, then: Then) {
        self.actions.push(Action::AskLastAnswers(AnswersQuery { asked, then }));
    }

    fn look_up(&mut self, missing: Vec<Query>) {
        if !missing.is_empty() {
            self.actions.push(Action::LookUp(missing));
        }
    }
}

/// Whether a pod is at either end: the kernel drops much else on a node.
fn concerns_pods(drop: &Drop, diagnosis: &Diagnosis, node: &Arc<str>, snapshot: &Snapshot) -> bool {
    let node = snapshot.node(node);
    let may_be_pod = |end: &Endpoint| match end.holder {
        Holder::Pod(_) | Holder::Hidden(_) => true,
        // Where all pods are followed, nobody but an unknown one can hold it. Else it is one of this
        // node where the kernel routes the address to a pod's interface.
        Holder::Unknown(_) => {
            let is_of_node = |address: IpAddr| {
                node.is_some_and(|n| n.pod_networks.iter().any(|n| n.contains(&address)))
            };
            snapshot.knows_all_pods()
                || end.address.is_some_and(|address| {
                    snapshot.node_facts().is_routed_to_pod(address) || is_of_node(address)
                })
        }
        Holder::Node(_) | Holder::SecondNetwork(..) | Holder::Service(_) | Holder::Outside => false,
    };
    drop.evidence.entered.is_some()
        || drop.evidence.delivered
        || diagnosis.cause.kube_proxy.is_some()
        || may_be_pod(&diagnosis.question.source)
        || may_be_pod(&diagnosis.question.destination)
}
