//! A run: everything that a plan says, and all that follows from it, in the order of time.

mod pods;

use std::collections::BTreeMap;

use whydrop_core::{
    cluster::{
        look_up::Query,
        object::{Key, Kind, Object, Scale},
    },
    docket::Account,
    observation::Observation,
};

use pods::{PodStep, fresh};

use crate::{
    agent::{Agent, Report},
    cluster::{API, Cluster, DB, NAMESPACES, PodState, TEAM, address},
    kernel::Kernel,
    network::{Network, Next, veth},
    objects,
    plan::{Event, Plan, Steps},
    random::Random,
    time::{Lag, Ms, Timeline, at},
};

/// How often the agent takes its turns.
const TURN: Ms = 1_000;

/// How long an event may lie in the ring, and a look-up be under way.
const RING: Ms = 50;
const LOOK_UP: Ms = 800;

/// Something that is due.
enum Due {
    Plan(Event),
    Attempt(usize, Next),
    /// A pod's network comes.
    Up(usize, Steps, Lag),
    /// Its network goes.
    Down(usize),
    /// A pod is a step further at the API server.
    Pod(usize, PodStep, Steps, Lag),
    /// The endpoint slice controller looks at a Service's pods.
    Slice(usize, Steps, Lag),
    Heard(Box<Result<Object, Key>>),
    Link(usize, bool),
    Ring,
    /// The API server answers a look-up, and then the agent has it.
    LookUp(Query),
    LookedUp(Query, Vec<Object>, Option<Scale>),
}

/// What happened in a run, all of it, and what the agent reported.
pub(crate) struct Outcome {
    pub(crate) cluster: Cluster,
    pub(crate) network: Network,
    pub(crate) reports: Vec<(Ms, Report)>,
    /// How many packets the kernel side counted as dropped, and where the docket says they went.
    pub(crate) dropped: u64,
    pub(crate) account: Account,
    /// Until when it went on before it was ended.
    pub(crate) until: Ms,
    pub(crate) looks_up: bool,
}

struct Run {
    now: Ms,
    looks_up: bool,
    due: BTreeMap<(Ms, u64), Due>,
    scheduled: u64,
    seed: u64,
    cluster: Cluster,
    network: Network,
    kernel: Kernel,
    agent: Agent,
    /// When the watch last brought an object of a kind.
    heard: BTreeMap<Kind, Ms>,
    next_turn: Ms,
}

pub(crate) fn play(plan: &Plan) -> Outcome {
    let mut run = Run {
        now: 0,
        looks_up: plan.looks_up,
        due: BTreeMap::new(),
        scheduled: 0,
        seed: plan.seed,
        cluster: Cluster { keeps_local: plan.keeps_local, ..Cluster::default() },
        network: Network::default(),
        kernel: Kernel::default(),
        agent: Agent::new(plan.looks_up),
        heard: BTreeMap::new(),
        next_turn: 300,
    };
    let is_start = |(time, _): &&(Ms, Event)| *time < 0;
    for (time, event) in plan.events.iter().filter(is_start) {
        run.begins_with(*time, event);
    }
    run.start();
    for (time, event) in plan.events.iter().filter(|event| !is_start(event)) {
        run.schedule(*time, Due::Plan(event.clone()));
    }
    run.until(plan.until);
    run.stop();
    Outcome {
        cluster: run.cluster,
        network: run.network,
        reports: run.agent.reports.clone(),
        dropped: run.kernel.dropped,
        account: run.agent.account(),
        until: plan.until,
        looks_up: run.looks_up,
    }
}

impl Run {
    fn schedule(&mut self, time: Ms, due: Due) {
        self.scheduled += 1;
        self.due.insert((time.max(self.now), self.scheduled), due);
    }

    /// How long something takes: by chance, and the same whatever else happens.
    fn takes(&self, first: Ms, last: Ms) -> Ms {
        let now = self.now.unsigned_abs();
        Random::new(self.seed ^ now.wrapping_mul(0xff51_afd7_ed55_8ccd)).between(first, last)
    }

    /// What is there before the agent is.
    fn begins_with(&mut self, time: Ms, event: &Event) {
        match event {
            Event::PodComes { deployment, slot, is_local, is_canary, .. } => {
                let pod = self.make_pod(*deployment, *slot, *is_local, time);
                let last = self.cluster.free_address(*is_local, time);
                let own = &mut self.cluster.pods[pod];
                (own.address, own.up) = (last, Some(time));
                let state = PodState {
                    has_address: true,
                    is_ready: true,
                    ..fresh(*deployment, *is_canary)
                };
                own.states.change(time, 0, Some(state));
            }
            Event::NamespaceLabelled { namespace, has_team, .. } => {
                let labels = has_team.then_some(TEAM).into_iter().collect();
                self.cluster.namespaces.entry(namespace).or_default().change(time, 0, Some(labels));
            }
            Event::Policy { name, is, .. } => {
                self.cluster.policies.entry(name).or_default().change(time, 0, is.clone());
            }
            _ => {}
        }
    }

    fn start(&mut self) {
        let mut objects: Vec<Object> = objects::nodes().into();
        for namespace in NAMESPACES {
            let labels = self.cluster.namespaces.entry(namespace).or_default();
            if labels.latest().is_none() {
                labels.change(Ms::MIN / 2, 0, Some(Vec::new()));
            }
            objects.extend(labels.latest().map(|labels| objects::namespace(namespace, labels)));
        }
        for (pod, own) in self.cluster.pods.iter().enumerate() {
            if own.is_local {
                self.agent.interface(veth(pod), address(own.address), true, 0);
            }
            if own.is_local || !self.looks_up {
                objects.extend(objects::pod(own));
            }
        }
        for policy in self.cluster.policies.values().filter_map(Timeline::latest) {
            objects.push(Object::Policy(policy.object(-3_600_000)));
        }
        for server in [API, DB] {
            let endpoints = self.cluster.endpoints(server);
            self.cluster.slices.entry(server).or_default().change(0, 0, Some(endpoints));
            if !self.looks_up {
                objects.push(objects::service(server, self.cluster.keeps_local));
                objects.push(objects::slice(server, &self.cluster));
            }
        }
        for object in objects {
            self.agent.cluster.apply(object, None);
        }
        self.agent.cluster.history_begins(at(0));
    }

    fn until(&mut self, end: Ms) {
        loop {
            let scheduled = self.due.first_key_value().map(|((time, _), _)| *time);
            let due = self.agent.due(self.now);
            let next = [scheduled, due, Some(self.next_turn)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            if scheduled == Some(next) {
                let (_, due) = self.due.pop_first().expect("what is due");
                self.happens(due);
            } else if self.next_turn == next {
                self.next_turn += TURN;
                let counted = self.kernel.turn();
                self.agent.turn(&counted, &self.kernel, next);
            }
            self.agent.tick(&self.kernel, next);
            self.look_up();
        }
        self.now = end;
    }

    /// Hands over what is left, as the agent does when it stops.
    fn stop(&mut self) {
        let (rest, counted) = (self.kernel.drain(), self.kernel.turn());
        self.agent.observed(&rest, &self.kernel, self.now);
        self.agent.turn(&counted, &self.kernel, self.now);
        self.agent.flush(&self.kernel, self.now);
    }

    fn look_up(&mut self) {
        for query in std::mem::take(&mut self.agent.asks) {
            let time = self.now + self.takes(20, LOOK_UP / 2);
            self.schedule(time, Due::LookUp(query));
        }
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Plan(event) => self.planned(event),
            Due::Attempt(attempt, next) => {
                let of = (&self.cluster, &mut self.kernel);
                let follows = self.network.go_on(attempt, next, of, self.now);
                self.follow(attempt, follows);
                let ring = self.now + self.takes(0, RING);
                self.schedule(ring, Due::Ring);
            }
            Due::Up(pod, steps, lag) => self.up(pod, steps, lag),
            Due::Down(pod) => {
                self.cluster.pods[pod].down = Some(self.now);
                self.link(pod, false);
            }
            Due::Pod(pod, step, steps, lag) => self.pod_is(pod, step, steps, lag),
            Due::Slice(server, steps, lag) => {
                let endpoints = self.cluster.endpoints(server);
                let slice = self.cluster.slices.entry(server).or_default();
                slice.change(self.now, steps.proxy, Some(endpoints));
                if !self.looks_up {
                    self.watch(Ok(objects::slice(server, &self.cluster)), lag);
                }
            }
            Due::Heard(news) => self.agent.heard(*news, self.now),
            Due::Link(pod, is_there) => {
                let own = address(self.cluster.pods[pod].address);
                self.agent.interface(veth(pod), own, is_there, self.now);
            }
            Due::Ring => {
                let seen: Vec<Observation> = self.kernel.drain();
                self.agent.observed(&seen, &self.kernel, self.now);
            }
            Due::LookUp(query) => {
                let (objects, scale) = objects::found(&query, &self.cluster);
                let time = self.now + self.takes(20, LOOK_UP / 2);
                self.schedule(time, Due::LookedUp(query, objects, scale));
            }
            Due::LookedUp(query, objects, scale) => {
                self.agent.looked_up(&query, objects, scale, self.now);
            }
        }
    }

    fn planned(&mut self, event: Event) {
        match event {
            Event::Connect(connect) => {
                let follows = self.network.connect(&self.cluster, connect, self.now);
                let attempt = self.network.attempts.len().saturating_sub(1);
                self.follow(attempt, follows);
            }
            Event::PodComes { deployment, slot, is_local, is_canary, steps, lag } => {
                if self.cluster.in_slot(deployment, slot).is_none() {
                    let pod = self.make_pod(deployment, slot, is_local, self.now);
                    self.pod_is(pod, PodStep::Created { is_canary }, steps, lag);
                    self.schedule(self.now + steps.network, Due::Up(pod, steps, lag));
                }
            }
            Event::PodGoes { deployment, slot, grace, steps, lag } => {
                let Some(pod) = self.cluster.in_slot(deployment, slot) else { return };
                self.pod_goes(pod, grace, steps, lag);
            }
            Event::PodReady { deployment, slot, is_ready, steps, lag } => {
                let Some(pod) = self.cluster.in_slot(deployment, slot) else { return };
                self.pod_is(pod, PodStep::Ready(is_ready), steps, lag);
            }
            Event::PodLabelled { deployment, slot, is_client, lag } => {
                let Some(pod) = self.cluster.in_slot(deployment, slot) else { return };
                self.pod_is(pod, PodStep::Client(is_client), Steps::default(), lag);
            }
            Event::NamespaceLabelled { namespace, has_team, lag } => {
                let labels: Vec<_> = has_team.then_some(TEAM).into_iter().collect();
                self.watch(Ok(objects::namespace(namespace, &labels)), lag);
                let of = self.cluster.namespaces.entry(namespace).or_default();
                of.change(self.now, lag.plugin, Some(labels));
            }
            Event::Policy { name, is, lag } => {
                let of = self.cluster.policies.entry(name).or_default();
                let before = of.latest().cloned();
                if before == is {
                    return;
                }
                of.change(self.now, lag.plugin, is.clone());
                let created = of.created().unwrap_or(self.now);
                let gone = before.map(|before| Object::Policy(before.object(0)).key());
                let news = match (is, gone) {
                    (Some(policy), _) => Ok(Object::Policy(policy.object(created))),
                    (None, Some(gone)) => Err(gone),
                    (None, None) => return,
                };
                self.watch(news, lag);
            }
        }
    }

    fn follow(&mut self, attempt: usize, follows: Vec<(Ms, Next)>) {
        for (time, next) in follows {
            self.schedule(time, Due::Attempt(attempt, next));
        }
    }

    /// The watch brings it, after what it brings of the same kind before.
    fn watch(&mut self, news: Result<Object, Key>, lag: Lag) {
        let kind = news.as_ref().map_or_else(|key| key.kind, |object| object.key().kind);
        let last = self.heard.entry(kind).or_insert(Ms::MIN);
        *last = (*last).max(self.now + lag.watch);
        let time = *last;
        self.schedule(time, Due::Heard(Box::new(news)));
    }
}
