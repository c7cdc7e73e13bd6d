//! What is printed, read by kubectl and a real API server, which checks every field of it and gives back
//! what it makes of it; with that, the question is asked again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Deserializer, Value, json};
use whydrop::cluster::manifests::Manifests;
use whydrop_core::cluster::Snapshot;
use whydrop_tests::{
    kube::{
        api::{Api, Settings},
        calico,
        kubectl::Kubectl,
        wait::{Look, until},
    },
    world::manifest,
};

use crate::{
    conformance,
    dump::{Dump, with_text},
    field,
    forms::{self, Part},
    property::{self, Printed, Tally},
};

/// About every how manieth denied packet of a conformance cluster is asked.
const EVERY: usize = 16;

/// Printed for a question, and the cluster that it was asked of.
struct Remedied {
    before: Snapshot,
    printed: Printed,
}

/// What is printed of these clusters that is, or is not, of Calico's kinds.
fn printed_of(dumps: impl IntoIterator<Item = Dump>, part: Part, calico: bool) -> Vec<Remedied> {
    // Why nothing is printed is held against the verdicts without the lab.
    let mut tally = Tally::default();
    let mut all = Vec::new();
    for dump in dumps {
        for variant in forms::all(&dump, part) {
            let printed = property::printed(&variant, &mut tally).into_iter();
            let of_kind = printed.filter(|of| of.text.contains("projectcalico.org/") == calico);
            let before = &variant.snapshot;
            all.extend(of_kind.map(|printed| Remedied { before: before.clone(), printed }));
        }
    }
    all
}

/// As if it were created: nothing is stored.
const CREATE: [&str; 7] =
    ["create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"];

/// What kubectl and the API server make of texts, each of several objects.
fn read_again(kubectl: &Kubectl, texts: &BTreeSet<&str>) -> BTreeMap<String, Vec<Value>> {
    let all: Vec<&str> = texts.iter().copied().collect();
    let given = kubectl.fed(&CREATE, &all.join("---\n")).expect("the API server takes it");
    let mut given = Deserializer::from_str(&given).into_iter::<Value>();
    let mut by_text = BTreeMap::new();
    for text in all {
        let mut manifests = Manifests::default();
        manifests.read_text("the remedy", text);
        let objects: Vec<Value> = given.by_ref().take(manifests.objects.len()).flatten().collect();
        assert_eq!(objects.len(), manifests.objects.len(), "{objects:?}\n{text}");
        for object in &objects {
            let name = object["metadata"]["name"].as_str().expect("a name");
            assert!(text.contains(&format!("name: {name}\n")), "{name}:\n{text}");
        }
        by_text.insert(text.to_owned(), objects);
    }
    assert!(given.next().is_none(), "more is given back than was printed");
    by_text
}

/// Holds what was printed against the clusters, as the API server has it.
fn check(api: &Api, all: &[Remedied]) {
    let kubectl = api.kubectl().expect("kubectl");
    let texts: BTreeSet<&str> = all.iter().map(|one| one.printed.text.as_str()).collect();
    let namespaces = texts.iter().flat_map(|text| text.lines()).filter_map(|line| {
        line.strip_prefix("  namespace: ").map(|name| name.trim_matches(['"', '\'']))
    });
    let mut namespaces: BTreeSet<&str> = namespaces.collect();
    namespaces.retain(|name| !["default", "kube-system"].contains(name));
    let objects: Vec<Value> = namespaces.into_iter().map(manifest::namespace).collect();
    kubectl.apply(&manifest::documents(&objects)).expect("namespaces");
    let objects = read_again(&kubectl, &texts);
    let mut tally = Tally::default();
    for Remedied { before, printed } in all {
        tally.fixed(printed);
        let again = manifest::documents(&objects[&printed.text]);
        let after = with_text(before, &again);
        property::passes(before, &after, printed, &mut tally);
    }
    tally.assert();
}

/// Clusters without Calico's kinds.
fn of_kubernetes() -> Vec<Remedied> {
    // Not those that are asked about without the lab.
    let part = Part::of(1, EVERY);
    let files = ["np.jsonl", "anp.jsonl", "traps.jsonl"];
    let dumps = files.into_iter().flat_map(conformance::dumps);
    let mut all = printed_of(dumps, part, false);
    all.extend(printed_of(field::dumps(), Part::ALL, false));
    all
}

#[test]
fn what_is_printed_is_taken_by_the_api_server_and_lets_pass() {
    let api = Api::start(Settings::default()).expect("an API server");
    check(&api, &of_kubernetes());
}

/// Defines Calico's `NetworkPolicy` as its versions from 3.30 on do: with the tier, in which the lab's
/// version has none; and in the group that users write as in the one that stores it.
fn define_with_tiers(kubectl: &Kubectl) {
    let stored = "networkpolicies.crd.projectcalico.org";
    let mut definition = kubectl.json(["get", "crd", stored, "-o", "json"]).expect("Calico's");
    let version = &mut definition["spec"]["versions"][0];
    let fields = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    fields["tier"] = json!({"type": "string"});
    definition["metadata"] = json!({"name": stored});
    definition["status"] = Value::Null;
    let mut of_users = definition.clone();
    of_users["metadata"] = json!({"name": "networkpolicies.projectcalico.org"});
    of_users["spec"]["group"] = "projectcalico.org".into();
    of_users["spec"]["versions"][0]["name"] = "v3".into();
    let both = [definition, of_users];
    let apply = ["--server-side", "--force-conflicts"];
    kubectl.apply_with(&apply, &manifest::documents(&both)).expect("defined");
    for definition in both {
        let name = definition["metadata"]["name"].as_str().expect("a name");
        let name = format!("crd/{name}");
        let wait = ["wait", "--for=condition=Established", "--timeout=30s", &name];
        kubectl.run(wait).expect("established");
    }
}

/// How long a definition that was changed may take until objects are read by it.
const DEFINED_WAIT: Duration = Duration::from_secs(20);

#[test]
fn calico_takes_what_is_printed_and_it_lets_pass() {
    let api = Api::start(Settings::default()).expect("an API server");
    calico::install(&api).expect("Calico's definitions");
    let kubectl = api.kubectl().expect("kubectl");
    define_with_tiers(&kubectl);
    let probe = "{apiVersion: GROUP, kind: NetworkPolicy, \
        metadata: {name: ops.probe, namespace: default}, spec: {tier: ops}}";
    for group in ["crd.projectcalico.org/v1", "projectcalico.org/v3"] {
        let probe = probe.replace("GROUP", group);
        until("a definition", DEFINED_WAIT, || {
            Ok(match kubectl.fed(&CREATE, &probe) {
                Ok(_) => Look::Seen(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .expect("the tier is known");
    }
    let mut all = printed_of(conformance::dumps("calico.jsonl"), Part::of(1, EVERY), true);
    all.extend(printed_of(field::dumps(), Part::ALL, true));
    check(&api, &all);
}
