//! A rule of Calico's that names a Service: who is behind it is looked up when the rule may decide.

use whydrop_tests::{
    kube::wait::{Look, until},
    world::{ENFORCED_WAIT, fleet::Settings},
};

use crate::{NEIGHBOUR, SERVER, agents, apply, connects, record, stage};

/// The frontend may reach what is behind one Service, and nothing else.
const BEHIND_A_SERVICE: &str = "
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: default.to-the-api, namespace: frontend}
spec:
  selector: all()
  types: [Egress]
  egress:
    - action: Allow
      destination: {services: {name: pod-b, namespace: backend}}
";

#[test]
fn a_service_that_a_rule_names_is_looked_up() {
    let stage = stage(Settings { services: true, ..Settings::default() });
    let [mut agent, _] = agents(&stage);
    apply(&stage.world, BEHIND_A_SERVICE);
    // pod-c is behind no Service.
    until("policy in force", ENFORCED_WAIT, || {
        let connects = connects(&stage, NEIGHBOUR);
        Ok(if connects { Look::NotYet("it connects".into()) } else { Look::Seen(()) })
    })
    .expect("in force");
    assert!(connects(&stage, SERVER), "behind the Service");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["flow"]["destination"]["pod"], "pod-c", "{drop}");
    assert_eq!(drop["cause"]["policy"]["name"], "default.to-the-api", "{drop}");
    assert_eq!(drop["verdict"]["egress"]["decision"], "denied", "{drop}");
    let drops = agent.records().iter().filter(|heard| heard.record["kind"] == "drop");
    let others = drops.filter(|heard| heard.record["flow"]["destination"]["pod"] != "pod-c");
    assert_eq!(others.count(), 0);
}
