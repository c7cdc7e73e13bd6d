//! The differential: clusters from seeds, every pair of pods, what Cilium does of it and what whydrop
//! says of that.

use whydrop_tests::{
    kube::node::{
        NAME,
        cilium::{Cilium, Delivery},
    },
    play::differential::{self, Case, Features, Tally, play_case, seeds},
    world::{Pod, World as _, manifest::documents},
};

/// Cilium 1.15 takes a range of ports for its first, and a name in a rule of egress for no port where
/// it is not the same one for all pods.
const FEATURES: Features = Features { end_port: false, egress_names: false, calico: false };

#[test]
fn every_drop_is_reported_and_none_invented() {
    play(Delivery::Redirected);
}

#[test]
fn every_drop_with_endpoint_routes_is_reported_and_none_invented() {
    play(Delivery::Routed);
}

#[test]
fn every_drop_where_answers_pass_by_the_veth_is_reported_and_none_invented() {
    play(Delivery::Peered);
}

#[expect(clippy::print_stdout, reason = "what was played, for those who ask to see it")]
fn play(delivery: Delivery) {
    let mut cilium = Cilium::start(delivery).expect("a node");
    let seeds = seeds(1..=3).expect("WHYDROP_SEEDS");
    let mut tally = Tally::default();
    for seed in seeds.clone() {
        tally += play_seed(&mut cilium, &Case::generate(seed, FEATURES));
    }
    let Tally { probes, dropped } = tally;
    println!("{delivery:?}: seeds {seeds:?}, {probes} probes, {dropped} dropped and reported");
    assert!(dropped > 0 && dropped < probes, "nothing to compare: {tally:?}");
}

fn play_seed(cilium: &mut Cilium, case: &Case) -> Tally {
    cilium.apply(&documents(&case.namespaces)).expect("applied");
    let pods: Vec<Pod> =
        case.pods.iter().map(|pod| cilium.run(&pod.manifest).expect("a pod")).collect();
    let _listeners: Vec<_> =
        pods.iter().map(|pod| pod.enter(differential::listen).expect("it listens")).collect();
    cilium.apply(&documents(&case.policies)).expect("applied");
    let agent = cilium.agent(NAME).expect("an agent");
    let tally = play_case(case, &pods, agent);

    cilium.kubectl_run(&["delete", "networkpolicies", "--all", "--all-namespaces"]).expect("gone");
    for pod in &pods {
        cilium.remove(&pod.key).expect("removed");
    }
    tally.unwrap_or_else(|difference| panic!("{difference:#}"))
}
