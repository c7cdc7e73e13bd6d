//! A run: everything that a plan says, and all that follows from it, in the order of time; and what of it
//! must not be.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::SignedDuration;
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        object::{Key, Object},
    },
    flow::{Flow, Protocol},
    heal::{
        Action, Between, CaseId, DropReport, Healer, IncidentReport, Mode, Proposal, Refusal,
        Settings, Standing, Wanted, propose,
    },
    incident::IncidentId,
    observation::AttemptId,
    policy::{PolicyKind, PolicyRef},
    verdict::{Question, evaluate},
};

use crate::{
    agent::{Agent, Report, veth},
    kernel::{Freed, Kernel},
    plan::{Act, Change, Plan},
    time::{Ms, PLUGIN_LAG, at},
    world::{self, BOOKS, Client, LONG_AGO, NAMESPACES, Net, SERVERS, SHOP, Server},
};

/// How often the agent and the healer take their turns.
const TURN: Ms = 4_000;

/// When Linux sends the SYNs of an attempt, as far as clients wait here.
const SYNS: [Ms; 3] = [0, 1_000, 3_000];

/// For how long a path must have worked.
const MIN_WORKED: Ms = 300_000;

fn settings() -> Settings {
    Settings {
        confidence_min: 0.9,
        per_hour: 6,
        per_namespace_and_hour: 3,
        per_client_and_hour: 2,
        min_worked: SignedDuration::from_millis(MIN_WORKED),
        watch: SignedDuration::from_secs(120),
        time_to_live: SignedDuration::from_hours(24),
    }
}

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What was opened that nobody had, or that somebody did not consent to.
    pub(crate) holes: Vec<String>,
    /// What was done about a rightful healing that should not have been, or was not.
    pub(crate) lost: Vec<String>,
    /// How many healings there were, by the clients' namespace.
    pub(crate) healed: BTreeMap<String, usize>,
    /// Why others were refused, without names and numbers.
    pub(crate) refused: BTreeSet<&'static str>,
}

/// Something that is due.
enum Due {
    Act(Act),
    Dial(usize, Server, Ms),
    Syn(usize, Server, AttemptId, usize),
    Forged(usize, Server),
}

/// When a path truly worked.
#[derive(Clone, Copy)]
struct Had {
    first: Ms,
    last: Ms,
    connections: u64,
}

struct Run<'p> {
    plan: &'p Plan,
    now: Ms,
    due: BTreeMap<(Ms, u64), Due>,
    scheduled: u64,
    attempts: u32,
    /// The attempts that a server answered.
    answered: BTreeSet<u32>,
    /// The cluster as the API server has it, and as it was enforced since when.
    cluster: Cluster,
    enforced: VecDeque<(Ms, Snapshot)>,
    objects: BTreeMap<Key, Object>,
    clients: Vec<Client>,
    kernel: Kernel,
    agent: Agent,
    healer: Healer,
    heard: Vec<Report>,
    /// The healer's policies, and those that look like them.
    standing: Vec<Standing>,
    forged: Vec<Standing>,
    had: BTreeMap<(&'static str, Server), Had>,
    /// Who has forged answers of whom.
    forgers: BTreeSet<(&'static str, Server)>,
    /// Why the victims were refused.
    why_not: Vec<String>,
    outcome: Outcome,
}

/// What admits the clients of the books before anything happens.
fn allow_list(plan: &Plan) -> Net {
    Net {
        namespace: BOOKS,
        name: "allow-list".to_owned(),
        created: LONG_AGO,
        written: LONG_AGO,
        is_egress: false,
        app: None,
        admits: plan.admitted.clone(),
    }
}

pub(crate) fn play(plan: &Plan) -> Outcome {
    let allow_list = allow_list(plan);
    let mut objects = vec![world::node(), Object::Policy(allow_list.object())];
    objects.extend(NAMESPACES.map(world::namespace));
    objects.extend(SERVERS.map(world::server));
    let mut run = Run {
        plan,
        now: 0,
        due: BTreeMap::new(),
        scheduled: 0,
        attempts: 0,
        answered: BTreeSet::new(),
        cluster: Cluster::default(),
        enforced: VecDeque::new(),
        objects: BTreeMap::new(),
        clients: Vec::new(),
        kernel: Kernel::default(),
        agent: Agent::starts(objects.clone(), 0),
        healer: Healer::new(settings()),
        heard: Vec::new(),
        standing: Vec::new(),
        forged: Vec::new(),
        had: BTreeMap::new(),
        forgers: BTreeSet::new(),
        why_not: Vec::new(),
        outcome: Outcome::default(),
    };
    for object in objects {
        run.cluster.apply(object.clone(), None);
        run.objects.insert(object.key(), object);
    }
    run.enforced.push_back((0, run.cluster.snapshot()));
    for (time, act) in &plan.acts {
        run.schedule(*time, Due::Act(act.clone()));
    }
    run.goes_on();
    run.ends();
    run.outcome
}

impl Run<'_> {
    fn schedule(&mut self, time: Ms, due: Due) {
        self.scheduled += 1;
        self.due.insert((time.max(self.now), self.scheduled), due);
    }

    fn goes_on(&mut self) {
        let mut turn = 0;
        while turn < self.plan.until {
            turn += TURN;
            while let Some(entry) = self.due.first_entry().filter(|due| due.key().0 <= turn) {
                self.now = entry.key().0;
                let due = entry.remove();
                self.happens(due);
            }
            self.now = turn;
            let reports = self.agent.turn(&mut self.kernel, turn);
            for report in &reports {
                hear(&mut self.healer, report);
            }
            self.heard.extend(reports);
            let mut actions = VecDeque::from(self.healer.tick(at(turn), true));
            while let Some(action) = actions.pop_front() {
                actions.extend(self.acts(action));
            }
        }
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Act(act) => self.act(act),
            Due::Dial(client, server, every) => {
                self.schedule(self.now + every, Due::Dial(client, server, every));
                let id = self.attempt(client);
                for (nth, after) in SYNS.into_iter().enumerate() {
                    self.schedule(self.now + after, Due::Syn(client, server, id, nth));
                }
            }
            Due::Syn(client, server, id, nth) => self.syn(client, server, id, nth),
            Due::Forged(client, server) => {
                let (id, of) = (self.attempt(client), &self.clients[client]);
                let flow = of.flow(server);
                self.kernel.request_from_pod(self.now, id, flow, veth(of.address));
                self.kernel.answer_to_pod(self.now, id, flow);
            }
        }
    }

    fn attempt(&mut self, client: usize) -> AttemptId {
        self.attempts += 1;
        AttemptId {
            protocol: Protocol::Tcp,
            source: self.clients[client].address,
            source_port: u16::try_from(30_000 + self.attempts % 30_000).expect("a port"),
            sequence: self.attempts,
            foreign: None,
        }
    }

    fn syn(&mut self, client: usize, server: Server, id: AttemptId, nth: usize) {
        let of = &self.clients[client];
        let (flow, device, namespace) = (of.flow(server), veth(of.address), of.namespace);
        if nth > 0 && self.answered.contains(&id.sequence) {
            return;
        }
        self.kernel.request_from_pod(self.now, id, flow, device);
        while self.enforced.get(1).is_some_and(|(since, _)| *since <= self.now) {
            self.enforced.pop_front();
        }
        if !passes(&self.enforced[0].1, &flow) {
            return self.kernel.freed(self.now, id, flow, Freed::Filter, device);
        }
        self.kernel.request_to_pod(self.now, id, flow);
        self.kernel.answer_from_pod(self.now, id, flow);
        self.kernel.answer_to_pod(self.now, id, flow);
        self.answered.insert(id.sequence);
        let now = self.now;
        let had = self.had.entry((namespace, server));
        let had = had.or_insert(Had { first: now, last: now, connections: 0 });
        (had.last, had.connections) = (now, had.connections + 1);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Dials(client, server, every) => {
                let client = self.client(client);
                self.schedule(self.now, Due::Dial(client, server, every));
            }
            Act::Forges(client, server, count) => {
                self.forgers.insert((client.namespace, server));
                let client = self.client(client);
                for nth in 0..count {
                    self.schedule(self.now + nth * 20_000, Due::Forged(client, server));
                }
            }
            Act::CutsOff(namespace, cuts_off) => {
                let own = Net {
                    namespace,
                    name: "own".to_owned(),
                    created: self.now,
                    written: self.now,
                    is_egress: true,
                    app: None,
                    admits: Vec::new(),
                };
                self.set(&own, cuts_off);
            }
            Act::LooksLikeTheHealers { namespace, expires, is_kept } => {
                self.forge(namespace, expires, is_kept);
            }
            Act::Rewrites => {
                let key = Object::Policy(allow_list(self.plan).object()).key();
                if let Some(Object::Policy(mut policy)) = self.objects.get(&key).cloned() {
                    policy.written = Some(at(self.now));
                    self.apply(Object::Policy(policy));
                }
            }
            Act::Change(Change::Edit) => {
                let edited = Net { written: self.now, admits: Vec::new(), ..allow_list(self.plan) };
                self.set(&edited, true);
            }
            Act::Change(Change::Replace) => {
                let (name, now) = ("default-deny".to_owned(), self.now);
                let other = Net { name, created: now, admits: Vec::new(), ..allow_list(self.plan) };
                self.set(&Net { written: now, ..other }, true);
                self.set(&allow_list(self.plan), false);
            }
            Act::AgentRestarts => {
                self.agent = Agent::starts(self.objects.values().cloned(), self.now);
            }
            Act::TakesOver => self.takes_over(),
        }
    }

    /// The pod, which is made if it is not there.
    fn client(&mut self, client: Client) -> usize {
        if let Some(known) = self.clients.iter().position(|known| known.address == client.address) {
            return known;
        }
        let created = client.created.min(self.now);
        let client = Client { created, ..client };
        self.apply(client.object());
        self.clients.push(client);
        self.clients.len() - 1
    }

    fn set(&mut self, policy: &Net, is_there: bool) {
        let object = Object::Policy(policy.object());
        if is_there {
            return self.apply(object);
        }
        let key = object.key();
        if self.objects.remove(&key).is_some() {
            self.cluster.delete(&key, at(self.now));
            self.agent.heard_gone(&key, self.now);
            self.enforces();
        }
    }

    fn apply(&mut self, object: Object) {
        self.cluster.apply(object.clone(), Some(at(self.now)));
        self.agent.heard(object.clone(), self.now);
        self.objects.insert(object.key(), object);
        self.enforces();
    }

    fn enforces(&mut self) {
        self.enforced.push_back((self.now + PLUGIN_LAG, self.cluster.snapshot()));
    }

    /// A policy that says that it is of the victims' healing: its marks are no secret.
    fn forge(&mut self, namespace: &'static str, expires: Ms, is_kept: bool) {
        let of_victims = self.heard.iter().rev().find_map(|report| match report {
            Report::Drop(drop) if drop.between.client.as_deref() == Some(SHOP) => {
                Some(CaseId { incident: drop.incident, between: drop.between.clone() })
            }
            _ => None,
        });
        let guess = || CaseId { incident: IncidentId(1), between: Between::default() };
        self.forged.push(Standing {
            case: of_victims.unwrap_or_else(guess),
            policies: vec![PolicyRef {
                kind: PolicyKind::NetworkPolicy,
                namespace: Some(namespace.into()),
                name: format!("forged-{}", self.forged.len()).into(),
            }],
            applied: at(self.now),
            expires: at(self.now + expires),
            is_kept,
        });
    }

    /// Another healer, which has read the logs from the beginning.
    fn takes_over(&mut self) {
        let ledger = self.healer.ledger().clone();
        self.healer = Healer::new(settings());
        for report in &self.heard {
            hear(&mut self.healer, report);
        }
        let mut found = self.forged.clone();
        for standing in &self.standing {
            let each = standing
                .policies
                .iter()
                .map(|policy| Standing { policies: vec![policy.clone()], ..standing.clone() });
            found.extend(each);
        }
        self.healer.take_over(ledger, found, at(self.now));
    }

    /// What is done about an action; more to do.
    fn acts(&mut self, action: Action) -> Option<Action> {
        match action {
            Action::Examine { wanted, .. } => {
                let found = self.examine(&wanted);
                return self.healer.examined(&wanted.case, Some(found), at(self.now));
            }
            Action::Apply { case, proposal, mode: Mode::Apply, expires } => {
                self.judge(&case, &proposal);
                let applied = at(self.now);
                let policies = proposal.policies.clone();
                let standing =
                    Standing { case: case.clone(), policies, applied, expires, is_kept: false };
                for manifest in &proposal.manifests {
                    let mut policy = manifest.lower().expect("a policy");
                    policy.created = Some(applied);
                    self.apply(Object::Policy(policy));
                }
                self.standing.push(standing.clone());
                return self.healer.applied(&case, Ok(standing), at(self.now));
            }
            Action::Apply { mode: Mode::DryRun, .. } | Action::Warn(_) => {}
            Action::Keep(kept, _) => {
                let own = self.standing.iter_mut().filter(|standing| standing.case == kept.case);
                own.for_each(|standing| standing.is_kept = true);
            }
            Action::RollBack(standing, outcome) => {
                let is_victims = standing.case.between.client.as_deref() == Some(SHOP);
                if is_victims && self.plan.is_rightful {
                    self.outcome.lost.push(format!("rolled back: {outcome}"));
                }
                self.remove(&standing);
            }
            Action::Expire(standing) => self.remove(&standing),
            Action::Refuse { case, why } => {
                if case.between.client.as_deref() == Some(SHOP) {
                    self.why_not.push(why.to_string());
                }
                self.outcome.refused.insert(kind(&why));
            }
        }
        None
    }

    fn remove(&mut self, standing: &Standing) {
        if self.standing.iter().any(|own| own.policies == standing.policies) {
            for policy in &standing.policies {
                let key = self.objects.keys().find(|key| key.policy().as_ref() == Some(policy));
                if let Some(key) = key.cloned() {
                    self.objects.remove(&key);
                    self.cluster.delete(&key, at(self.now));
                    self.agent.heard_gone(&key, self.now);
                }
            }
            self.enforces();
        }
        self.standing.retain(|own| own.policies != standing.policies);
        self.forged.retain(|own| own.policies != standing.policies);
        self.healer.removed(standing);
    }

    fn examine(&self, wanted: &Wanted) -> Result<(Proposal, Mode), Refusal> {
        let proposal = propose(&self.cluster.snapshot(), wanted)?;
        let says = |name: &str| self.plan.consents.get(name).map(ToString::to_string);
        let mode = Mode::agreed_by(&proposal.consenting(), says)?;
        Ok((proposal, mode))
    }

    /// What is opened, by what truly was before: nothing of it is taken from what anyone reported.
    fn judge(&mut self, case: &CaseId, proposal: &Proposal) {
        let before = self.cluster.snapshot();
        let mut after = before.clone();
        for manifest in &proposal.manifests {
            after = after.with_policy(manifest.lower().expect("a policy"));
        }
        for client in &self.clients {
            for server in SERVERS {
                let flow = client.flow(server);
                if passes(&before, &flow) || !passes(&after, &flow) {
                    continue;
                }
                let what = format!("{} to {BOOKS}/{}", client.party(), server.name);
                let consents = [client.namespace, BOOKS]
                    .iter()
                    .all(|of| self.plan.consents.get(of) == Some(&"apply"));
                if !consents {
                    self.outcome.holes.push(format!("{what}, without consent"));
                }
                let had = self
                    .had
                    .get(&(client.namespace, server))
                    .is_some_and(|had| had.connections > 1 && had.last - had.first >= MIN_WORKED);
                // Who was admitted could have had it: that its answers are forged gains it nothing.
                let is_forged = self.forgers.contains(&(client.namespace, server));
                let was_admitted = self.plan.admitted.contains(&client.namespace);
                if !(had || is_forged && was_admitted) {
                    self.outcome.holes.push(format!("{what}, which it never had"));
                }
            }
        }
        let client: Arc<str> = case.between.client.clone().unwrap_or_default();
        *self.outcome.healed.entry(client.to_string()).or_default() += 1;
    }

    /// What the victims have in the end.
    fn ends(&mut self) {
        let is_theirs =
            |standing: &&Standing| standing.case.between.client.as_deref() == Some(SHOP);
        let kept = self.standing.iter().find(is_theirs);
        let last = self.had.get(&(SHOP, world::DB)).map_or(Ms::MIN, |had| had.last);
        if self.plan.is_rightful {
            match kept {
                None => {
                    let why = self.why_not.join("; ");
                    self.outcome.lost.push(format!("not healed: {why}"));
                }
                Some(standing) if !standing.is_kept => {
                    self.outcome.lost.push("not kept".to_owned());
                }
                Some(_) if last < self.plan.until - 60_000 => {
                    self.outcome.lost.push("healed, and does not pass".to_owned());
                }
                Some(_) => {}
            }
        }
    }
}

fn hear(healer: &mut Healer, report: &Report) {
    match report {
        Report::Drop(drop) => healer.drop_reported(&DropReport::clone(drop)),
        Report::Incident(incident) => {
            healer.incident_reported(IncidentReport::clone(incident));
        }
    }
}

fn passes(snapshot: &Snapshot, flow: &Flow) -> bool {
    let (source, destination) =
        (snapshot.resolve(flow.source, None), snapshot.resolve(flow.destination, None));
    let question = Question::new(source, destination, flow.port, flow.protocol);
    evaluate(snapshot, &question).decision().lets_pass()
}

/// What kind of refusal it is.
const fn kind(why: &Refusal) -> &'static str {
    match why {
        Refusal::NeverWorked(_) => "never worked",
        Refusal::WorkedTooLittle { .. } => "worked too little",
        Refusal::WorkedTooShort { .. } => "worked too short",
        Refusal::DenialOlder { .. } => "denial older",
        Refusal::NoConsent(_) | Refusal::BadConsent { .. } => "no consent",
        Refusal::TooManyForClients { .. } => "too many for its clients",
        Refusal::Tried { .. } => "tried",
        Refusal::Severity(_) => "severity",
        _ => "other",
    }
}
