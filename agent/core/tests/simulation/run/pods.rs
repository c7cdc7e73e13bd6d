//! Pods as they come and go: what the API server, the network and the agent's node see of it.

use super::{Due, Run};
use crate::{
    cluster::{CANARY, CAST, Pod, PodState, ROLE},
    objects,
    plan::Steps,
    time::{Lag, Ms, Timeline},
};

/// How long a link takes until it is seen.
const LINK: Ms = 100;

/// What becomes of a pod at the API server.
#[derive(Clone, Copy, Debug)]
pub(super) enum PodStep {
    Created {
        is_canary: bool,
    },
    /// Its address is known.
    Addressed,
    Ready(bool),
    Client(bool),
    Terminating,
    Gone,
}

impl Run {
    pub(super) fn make_pod(
        &mut self,
        deployment: usize,
        slot: usize,
        is_local: bool,
        created: Ms,
    ) -> usize {
        let number = self.cluster.pods.len();
        self.cluster.pods.push(Pod {
            deployment,
            slot,
            name: format!("{}-{number}", CAST[deployment].name),
            created,
            is_local,
            address: 0,
            up: None,
            down: None,
            states: Timeline::default(),
        });
        number
    }

    pub(super) fn up(&mut self, pod: usize, steps: Steps, lag: Lag) {
        let last = self.cluster.free_address(self.cluster.pods[pod].is_local, self.now);
        let own = &mut self.cluster.pods[pod];
        if own.states.latest().is_none_or(|state| state.is_terminating) {
            return;
        }
        (own.address, own.up) = (last, Some(self.now));
        self.link(pod, true);
        let addressed = self.now + steps.status;
        self.schedule(addressed, Due::Pod(pod, PodStep::Addressed, steps, lag));
        self.schedule(addressed + steps.ready, Due::Pod(pod, PodStep::Ready(true), steps, lag));
    }

    pub(super) fn pod_is(&mut self, pod: usize, step: PodStep, steps: Steps, lag: Lag) {
        let before = objects::pod(&self.cluster.pods[pod]);
        let own = &mut self.cluster.pods[pod];
        let state = match (step, own.states.latest().cloned()) {
            (PodStep::Created { is_canary }, _) => Some(fresh(own.deployment, is_canary)),
            (_, None) => return,
            (_, Some(state)) => step.made_of(state),
        };
        own.states.change(self.now, lag.plugin, state);
        let (is_local, deployment) = (own.is_local, own.deployment);
        let news = match (objects::pod(own), before) {
            (Some(now), _) => Ok(now),
            (None, Some(before)) => Err(before.key()),
            (None, None) => return,
        };
        if is_local || !self.looks_up {
            self.watch(news, lag);
        }
        if CAST[deployment].port.is_some() {
            self.schedule(self.now + steps.slice, Due::Slice(deployment, steps, lag));
        }
    }

    pub(super) fn pod_goes(&mut self, pod: usize, grace: Option<Ms>, steps: Steps, lag: Lag) {
        let ends = self.now + grace.unwrap_or(steps.network);
        self.schedule(ends, Due::Down(pod));
        match grace {
            Some(_) => {
                self.pod_is(pod, PodStep::Terminating, steps, lag);
                self.schedule(ends + steps.status, Due::Pod(pod, PodStep::Gone, steps, lag));
            }
            None => self.pod_is(pod, PodStep::Gone, steps, lag),
        }
    }

    pub(super) fn link(&mut self, pod: usize, is_there: bool) {
        if self.cluster.pods[pod].is_local && self.cluster.pods[pod].up.is_some() {
            let time = self.now + self.takes(0, LINK);
            self.schedule(time, Due::Link(pod, is_there));
        }
    }
}

/// A pod as it is created.
pub(super) fn fresh(deployment: usize, is_canary: bool) -> PodState {
    let app = ("app", CAST[deployment].name);
    PodState {
        labels: [app].into_iter().chain(is_canary.then_some(CANARY)).collect(),
        has_address: false,
        is_ready: false,
        is_terminating: false,
    }
}

impl PodStep {
    fn made_of(self, state: PodState) -> Option<PodState> {
        Some(match self {
            Self::Created { .. } => state,
            Self::Addressed => PodState { has_address: true, ..state },
            Self::Ready(is_ready) => PodState { is_ready: is_ready && state.has_address, ..state },
            Self::Client(is_client) => {
                let mut labels = state.labels;
                labels.retain(|label| *label != ROLE);
                labels.extend(is_client.then_some(ROLE));
                PodState { labels, ..state }
            }
            Self::Terminating => PodState { is_terminating: true, ..state },
            Self::Gone => return None,
        })
    }
}
