//! The differential: clusters from seeds, every pair of pods, what Cilium does of it and what whydrop
//! says of that.

use std::{net::SocketAddr, time::Duration};

use whydrop_tests::{
    differential::{self, Case, Features, Outcome, Tally, seeds},
    kube::node::cilium::{Delivery, Pod},
};

use crate::stage::{Stage, connect_all};

/// Cilium 1.15 takes a range of ports for its first, and a name in a rule of egress for no port where
/// it is not the same one for all pods.
const FEATURES: Features = Features { end_port: false, egress_names: false, calico: false };
/// How long the reports of one case may take to come.
const REPORTS_WAIT: Duration = Duration::from_secs(30);

#[test]
fn every_drop_is_told_and_none_invented() {
    play(Delivery::Redirected);
}

#[test]
fn every_drop_with_endpoint_routes_is_told_and_none_invented() {
    play(Delivery::Routed);
}

#[test]
fn every_drop_where_answers_pass_by_the_veth_is_told_and_none_invented() {
    play(Delivery::Peered);
}

#[expect(clippy::print_stdout, reason = "what was played, for whoever asks to see it")]
fn play(delivery: Delivery) {
    let mut stage = Stage::new(delivery);
    let seeds = seeds(1..=3).expect("WHYDROP_SEEDS");
    let mut tally = Tally::default();
    for seed in seeds.clone() {
        tally += play_seed(&mut stage, &Case::generate(seed, FEATURES));
    }
    let Tally { probes, dropped } = tally;
    println!("{delivery:?}: seeds {seeds:?}, {probes} probes, {dropped} dropped and reported");
    assert!(dropped > 0 && dropped < probes, "nothing to tell apart: {tally:?}");
}

fn play_seed(stage: &mut Stage, case: &Case) -> Tally {
    let text = |objects: &[serde_json::Value]| {
        let texts: Vec<String> = objects.iter().map(ToString::to_string).collect();
        texts.join("\n---\n")
    };
    stage.apply(&text(&case.namespaces));
    let pods: Vec<Pod> = case.pods.iter().map(|pod| stage.pod_of(&pod.manifest)).collect();
    stage.apply(&text(&case.policies));

    let mut agent = stage.agent();
    let outcomes = try_all(case, &pods);
    let dropped = outcomes.iter().filter(|outcome| **outcome == Outcome::TimedOut).count();
    // One that is missing is found below, with all about it.
    let _ = agent.wait_for(REPORTS_WAIT, |heard| {
        let drops = heard.iter().filter(|heard| heard.record["kind"] == "drop");
        let ids: std::collections::BTreeSet<_> = drops.filter_map(|heard| heard.id()).collect();
        ids.len() >= dropped
    });
    let records = agent.stop_and_read().expect("records");
    let addresses: Vec<_> = pods.iter().map(|pod| pod.address.into()).collect();
    let tally = differential::compare(case, &addresses, &outcomes, &records);

    stage.run(&["delete", "networkpolicies", "--all", "--all-namespaces"]);
    for pod in &pods {
        stage.cilium.remove(pod).expect("removed");
    }
    tally.unwrap_or_else(|difference| panic!("{difference:#}"))
}

/// The outcome of each probe, all of them tried at once.
fn try_all(case: &Case, pods: &[Pod]) -> Vec<Outcome> {
    let probes = case.probes();
    // The probes are in the order of who connects.
    std::thread::scope(|scope| {
        let of_one = |(number, from)| {
            let own = probes.iter().filter(move |probe| probe.from == number);
            let to: Vec<SocketAddr> =
                own.map(|probe| (pods[probe.to].address, probe.port).into()).collect();
            scope.spawn(move || connect_all(from, &to))
        };
        let threads: Vec<_> = pods.iter().enumerate().map(of_one).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("outcomes")).collect()
    })
}
