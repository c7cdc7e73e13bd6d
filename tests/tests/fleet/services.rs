//! A rule of Calico's that names a Service: who is behind it is looked up when the rule may decide.

use whydrop_tests::{
    fleet::Settings,
    kube::wait::{Look, until},
};

use crate::{ENFORCED_WAIT, Stage, record};

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
    let stage = Stage::new(Settings { services: true, ..Settings::default() });
    let [mut agent, _] = stage.agents();
    stage.fleet.kubectl().apply(BEHIND_A_SERVICE).expect("applied");
    // pod-c is behind no Service.
    until("policy in force", ENFORCED_WAIT, || {
        let connects = stage.connects(stage.neighbour);
        Ok(if connects { Look::NotYet("it connects".into()) } else { Look::Seen(()) })
    })
    .expect("in force");
    assert!(stage.connects(stage.server), "behind the Service");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["flow"]["destination"]["pod"], "pod-c", "{drop}");
    assert_eq!(drop["cause"]["policy"]["name"], "default.to-the-api", "{drop}");
    assert_eq!(drop["verdict"]["egress"]["decision"], "denied", "{drop}");
    let drops = agent.records().iter().filter(|heard| heard.record["kind"] == "drop");
    let others = drops.filter(|heard| heard.record["flow"]["destination"]["pod"] != "pod-c");
    assert_eq!(others.count(), 0);
}
