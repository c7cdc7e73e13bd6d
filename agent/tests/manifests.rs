//! Manifests as people write them: what is taken, and what an error says.

use std::{fs, path::Path};

use whydrop::cluster::manifests::{Manifests, Touches};
use whydrop_core::{
    cluster::{
        object::{Key, Object},
        profile::{EngineName, detect::detect},
    },
    policy::Policy,
};

fn read(text: &str) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.read_text("policies.yaml", text);
    manifests
}

fn error(text: &str) -> String {
    let manifests = read(text);
    let errors: Vec<_> = manifests.errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

/// A `NetworkPolicy` with this spec, as flow YAML.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

fn lowered(spec: &str) -> Policy {
    let manifests = read(&policy(spec));
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    match manifests.objects.into_iter().next() {
        Some(Object::Policy(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn documents_lists_and_json_are_taken() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: NAME}, spec: {containers: []}}";
    let manifests = read(&format!(
        "# a comment alone is no document\n---\n{}\n---\n\
         apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n---\n\
         apiVersion: v1\nkind: PodList\nitems:\n- {{metadata: {{name: d}}, spec: {{containers: []}}}}\n",
        pod.replace("NAME", "a"),
        pod.replace("NAME", "b"),
        pod.replace("NAME", "c"),
    ));
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    let names: Vec<_> = manifests.keys().map(|Key { name, .. }| name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);

    let json = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}
                  {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"y"}}"#;
    assert_eq!(read(json).objects.len(), 2);
}

#[test]
fn absent_fields_are_defaulted_as_the_api_server_does() {
    let both = lowered("{podSelector: {}, egress: [{}]}");
    assert!(both.ingress.is_some() && both.egress.is_some());
    let ingress = lowered("{podSelector: {}, egress: []}");
    assert!(ingress.ingress.is_some() && ingress.egress.is_none());
    let nothing = lowered("{}");
    assert_eq!(nothing.ingress.as_deref(), Some(&[][..]));
    let only_egress = lowered("{policyTypes: [Egress], ingress: [{}]}");
    assert!(only_egress.ingress.is_none() && only_egress.egress.is_some());
    let absent = lowered("{ingress: [{ports: [{port: 80}]}]}");
    let explicit = lowered("{ingress: [{ports: [{port: 80, protocol: TCP}], from: []}]}");
    assert_eq!(absent.ingress, explicit.ingress);
    let namespaceless = policy("{}").replace(", namespace: shop", "");
    let keys: Vec<_> = read(&namespaceless).keys().map(|key| key.to_string()).collect();
    assert_eq!(keys, ["NetworkPolicy default/p"]);
}

#[test]
fn an_error_names_file_document_object_field_and_what_was_expected() {
    let text = format!("{}---\n{}", policy("{}"), policy("{ingress: [{ports: [{port: 99999}]}]}"));
    assert_eq!(
        error(&text),
        "policies.yaml, document 2 (line 5), NetworkPolicy shop/p: \
         spec.ingress[0].ports[0].port: expected a port from 1 to 65535, found 99999"
    );
}

#[test]
fn what_the_api_server_refuses_is_refused() {
    for (spec, field, expected) in [
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}", "ipBlock.cidr", "a CIDR"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "ipBlock.except[0]",
            "a strict part of 10.0.0.0/8",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "from[0]",
            "ipBlock alone",
        ),
        ("{ingress: [{from: [{}]}]}", "from[0]", "podSelector, namespaceSelector or ipBlock"),
        ("{ingress: [{ports: [{port: 0}]}]}", "ports[0].port", "1 to 65535"),
        ("{ingress: [{ports: [{port: HTTP}]}]}", "ports[0].port", "port name"),
        ("{ingress: [{ports: [{port: 90, endPort: 80}]}]}", "endPort", "90 or more"),
        ("{ingress: [{ports: [{endPort: 80}]}]}", "endPort", "port to be set"),
        ("{ingress: [{ports: [{port: web, endPort: 80}]}]}", "endPort", "a numeric port"),
        ("{ingress: [{ports: [{port: 80, protocol: tcp}]}]}", "protocol", "TCP, UDP or SCTP"),
        ("{policyTypes: [ingress]}", "policyTypes[0]", "Ingress or Egress"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}",
            "matchExpressions[0].operator",
            "In, NotIn, Exists or DoesNotExist",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "matchExpressions[0].values",
            "at least one value",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "matchExpressions[0].values",
            "no values",
        ),
        ("{ingres: [{}]}", "spec.ingres", "a field of the API"),
        ("{ingress: [{form: [{podSelector: {}}]}]}", "spec.ingress[0].form", "a field of the API"),
        ("{ingress: {}}", "spec.ingress", "found map"),
    ] {
        let error = error(&policy(spec));
        assert!(error.contains(field) && error.contains(expected), "{spec}: {error}");
    }
}

#[test]
fn broken_yaml_is_told_with_its_line_and_leaves_the_other_documents() {
    let text = format!("{}---\nkind: [\n---\n{}", policy("{}"), policy("{}"));
    let manifests = read(&text);
    assert_eq!(manifests.objects.len(), 2);
    let error = manifests.errors[0].to_string();
    assert!(error.starts_with("policies.yaml, document 2 (line 5): line "), "{error}");
}

#[test]
fn what_is_no_api_object_is_told() {
    assert!(error("just text\n").contains("expected an API object"));
    assert!(error("a: 1\n").contains("apiVersion: expected a string such as v1, found none"));
}

#[test]
fn kinds_that_take_no_part_are_counted_and_policies_of_others_are_noted() {
    let manifests = read(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n\
         {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: b}}\n---\n\
         {apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: c}}\n",
    );
    assert!(manifests.errors.is_empty() && manifests.objects.is_empty());
    assert_eq!(manifests.ignored.len(), 2);
    let unread: Vec<_> = manifests.unread.iter().map(ToString::to_string).collect();
    assert_eq!(unread, ["CiliumNetworkPolicy default/b"]);
}

fn calico(kind: &str, group: &str, spec: &str) -> Manifests {
    read(&format!(
        "apiVersion: {group}\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    ))
}

#[test]
fn calicos_policies_are_read_in_both_groups() {
    let kinds = [
        ("NetworkPolicy", "NetworkPolicy.projectcalico.org shop/p"),
        ("GlobalNetworkPolicy", "GlobalNetworkPolicy p"),
        ("StagedNetworkPolicy", "StagedNetworkPolicy shop/p"),
        ("StagedGlobalNetworkPolicy", "StagedGlobalNetworkPolicy p"),
        ("StagedKubernetesNetworkPolicy", "StagedKubernetesNetworkPolicy shop/p"),
        ("Tier", "Tier p"),
        ("NetworkSet", "NetworkSet shop/p"),
        ("GlobalNetworkSet", "GlobalNetworkSet p"),
    ];
    for (kind, key) in kinds {
        for group in ["projectcalico.org/v3", "crd.projectcalico.org/v1"] {
            let manifests = calico(kind, group, "{}");
            assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
            let keys: Vec<_> = manifests.keys().map(|key| key.to_string()).collect();
            assert_eq!(keys, [key]);
            assert_eq!(detect(&manifests.signs).name, EngineName::Calico);
        }
    }
}

#[test]
fn what_calico_would_refuse_is_told_with_its_field() {
    let rule = |text: &str| format!("{{ingress: [{{action: Allow, {text}}}]}}");
    let cases = [
        ("{selector: app = 1}".to_owned(), "spec.selector: expected ==, !=, in", "column 5"),
        (rule("source: {selector: 'has('}"), "spec.ingress[0].source.selector", "column 5"),
        (rule("source: {nets: [10.0.0]}"), "spec.ingress[0].source.nets[0]", "a CIDR"),
        (rule("protocol: TPC"), "spec.ingress[0].protocol", "\"TPC\""),
        (rule("protocol: 300"), "spec.ingress[0].protocol", "300"),
        (rule("destination: {ports: [80]}"), "spec.ingress[0].protocol", "as ports are named"),
        (
            rule("protocol: TCP, destination: {ports: ['9:8']}"),
            "spec.ingress[0].destination.ports[0]",
            "a range such as 8000:8080",
        ),
        (rule("ipVersion: 5"), "spec.ingress[0].ipVersion", "4 or 6"),
        (rule("source: {domains: [a.b]}"), "spec.ingress[0].source.domains", "a field of the API"),
        ("{ingress: [{action: Reject}]}".to_owned(), "spec.ingress[0].action", "\"Reject\""),
        ("{types: [Both]}".to_owned(), "spec.types[0]", "Ingress or Egress"),
        ("{namespaceSelector: all()}".to_owned(), "spec.namespaceSelector", "another kind"),
        ("{stagedAction: Set}".to_owned(), "spec.stagedAction", "another kind"),
    ];
    for (spec, field, found) in cases {
        let manifests = calico("NetworkPolicy", "projectcalico.org/v3", &spec);
        let errors: Vec<_> = manifests.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 1, "{spec}: {errors:?}");
        assert!(errors[0].contains(field) && errors[0].contains(found), "{spec}: {}", errors[0]);
    }
}

/// Whether a policy of Calico's governs ingress and egress.
fn governed(kind: &str, group: &str, spec: &str) -> (bool, bool) {
    let manifests = calico(kind, group, spec);
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    match manifests.objects.into_iter().next() {
        Some(Object::Policy(policy)) => (policy.ingress.is_some(), policy.egress.is_some()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_directions_of_calicos_policies_default_by_group() {
    let both = "{ingress: [{action: Allow}], egress: [{action: Allow}]}";
    let cases = [
        ("{}", (true, false)),
        ("{types: [], ingress: [], egress: []}", (true, false)),
        ("{ingress: [{action: Allow}]}", (true, false)),
        ("{egress: [{action: Allow}]}", (false, true)),
        (both, (true, true)),
        ("{types: [Egress], ingress: [{action: Allow}]}", (false, true)),
    ];
    for (spec, by_api) in cases {
        assert_eq!(governed("NetworkPolicy", "projectcalico.org/v3", spec), by_api, "{spec}");
        let stored = if spec.contains("types: [E") { by_api } else { (true, true) };
        assert_eq!(governed("NetworkPolicy", "crd.projectcalico.org/v1", spec), stored, "{spec}");
    }
    // For host endpoints, or to be taken away.
    for spec in ["{preDNAT: true}", "{doNotTrack: true}"] {
        let governs = governed("GlobalNetworkPolicy", "projectcalico.org/v3", spec);
        assert_eq!(governs, (false, false), "{spec}");
    }
    let deleted = governed("StagedNetworkPolicy", "projectcalico.org/v3", "{stagedAction: Delete}");
    assert_eq!(deleted, (false, false));
}

#[test]
fn a_finished_pod_holds_no_address() {
    let pod = |phase: &str| {
        let manifests = read(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: []}}, \
             status: {{phase: {phase}, podIP: 10.0.0.1}}}}"
        ));
        match manifests.objects.into_iter().next() {
            Some(Object::Pod(pod)) => pod.addresses.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([pod("Running"), pod("Succeeded"), pod("Failed")], [1, 0, 0]);
}

#[test]
fn a_folder_without_manifests_and_a_file_that_is_not_there_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("notes.txt"), "no manifest").expect("a file");
    let paths = [folder.path().to_owned(), folder.path().join("absent.yaml")];
    let manifests = Manifests::read(&paths);
    let errors: Vec<_> = manifests.errors.iter().map(ToString::to_string).collect();
    assert!(errors[0].contains("no manifests in this folder"), "{errors:?}");
    assert!(errors[1].contains("absent.yaml: No such file"), "{errors:?}");
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
}

fn remarks(manifests: &Manifests) -> Vec<String> {
    manifests.remarks.iter().map(ToString::to_string).collect()
}

#[test]
fn folders_are_read_with_those_below_and_what_is_no_manifest_is_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let namespace =
        |name: &str| format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n");
    let kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
    let template = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {{ .Values.name }}\n";
    let quoted = policy("{}").replace("name: p", "name: \"{{ include x }}\"");
    let control = "{{- if .Values.on }}\nkind: Namespace\n{{- end }}\n";
    write(
        folder.path(),
        &[
            ("a.yaml", &namespace("a")),
            ("base/deep/b.yml", &namespace("b")),
            ("base/kustomization.yaml", kustomization),
            (".git/c.yaml", &namespace("c")),
            ("chart/Chart.yaml", "apiVersion: v2\nname: chart\n"),
            ("chart/values.yaml", "replicas: 1\n"),
            ("chart/templates/one.yaml", template),
            ("chart/templates/two.yaml", &quoted),
            ("chart/templates/three.yaml", control),
            ("chart/list.json", "[1, 2]"),
            ("readme.md", "none"),
        ],
    );
    let manifests = Manifests::read(&[folder.path().to_owned()]);
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    let keys: Vec<_> = manifests.keys().map(|key| key.to_string()).collect();
    assert_eq!(keys, ["Namespace a", "Namespace b"]);
    let remarks = remarks(&manifests);
    assert_eq!(remarks.len(), 7, "{remarks:#?}");
    for (file, why) in [
        ("base/kustomization.yaml", "kubectl kustomize"),
        ("chart/Chart.yaml", "not an object"),
        ("chart/values.yaml", "not an object"),
        ("chart/list.json", "not an object"),
        ("one.yaml", "a template"),
        ("two.yaml", "a template"),
        ("three.yaml", "a template"),
    ] {
        let is_about = |remark: &&String| remark.contains(file) && remark.contains(why);
        assert!(remarks.iter().any(|remark| is_about(&remark)), "{file}: {remarks:#?}");
    }
}

#[test]
fn the_fault_of_an_object_says_what_it_can_make_a_difference_to() {
    let manifests = read(
        "apiVersion: v1\nkind: List\nitems:\n\
         - {apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIP: 10.0.0}}\n\
         - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b}, spec: 1}\n\
         - {apiVersion: v1, kind: Node, metadata: {name: c}, spec: {podCIDR: none}}\n\
         - {apiVersion: projectcalico.org/v3, kind: StagedNetworkPolicy, metadata: {name: d}, spec: 1}\n\
         - {apiVersion: v1, kind: Namespace, metadata: {name: e}}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: f}\ndata: [\n\
         ---\napiVersion: v1\nkind: Namespace\nmetadata: {name: g, name: h}\n",
    );
    let keys: Vec<_> = manifests.keys().map(|key| key.to_string()).collect();
    assert_eq!(keys, ["Namespace e", "Namespace h"]);
    let touches: Vec<_> = manifests.errors.iter().map(|error| error.touches().clone()).collect();
    let namespace = |name: &str| Touches::Namespace(name.to_owned());
    assert_eq!(touches, [namespace("x"), namespace("default"), Touches::Everything]);
    assert!(
        manifests.errors[0].to_string().starts_with(
            "policies.yaml, document 1, item 1 (line 4), Pod x/a: status.podIPs: expected an IP"
        ),
        "{}",
        manifests.errors[0]
    );
    let remarks = remarks(&manifests);
    assert_eq!(remarks.len(), 3, "{remarks:#?}");
    assert!(remarks[0].starts_with("passed over: policies.yaml, document 1, item 4 (line 7)"));
    assert!(remarks[1].starts_with("passed over: policies.yaml, document 2 (line 9), ConfigMap"));
    assert!(remarks[2].contains("name is there again in line 17"), "{}", remarks[2]);
}

#[test]
fn policies_of_the_group_that_they_came_from_are_read() {
    for api_version in ["extensions/v1beta1", "networking.k8s.io/v1beta1"] {
        let spec = "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}";
        let text = policy(spec).replace("networking.k8s.io/v1", api_version);
        let manifests = read(&text);
        assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
        let keys: Vec<_> = manifests.keys().map(|key| key.to_string()).collect();
        assert_eq!(keys, ["NetworkPolicy shop/p"]);
    }
}

#[test]
fn endpoints_stand_for_a_service_that_no_slice_stands_for() {
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: db, namespace: shop}\nsubsets:\n\
        - {addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], notReadyAddresses: [{ip: 10.0.0.2}], \
           ports: [{name: sql, port: 5432}]}\n\
        - {addresses: [{ip: 10.0.0.3}], ports: [{name: sql, port: 5433}]}\n";
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\n\
        spec: {clusterIP: 10.96.0.1, ports: [{name: sql, port: 1}]}\n";
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
        metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}\n\
        addressType: IPv4\nendpoints: [{addresses: [10.0.0.9]}]\nports: [{name: sql, port: 1}]\n";
    let slices = |text: &str| {
        let manifests = read(text);
        assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
        let snapshot = manifests.cluster().snapshot();
        let service = snapshot.service("shop", "db").expect("a Service").clone();
        snapshot.slices(&service).count()
    };
    // One for each subset and family.
    assert_eq!(slices(&format!("{endpoints}{service}")), 3);
    assert_eq!(slices(&format!("{endpoints}{service}{slice}")), 1);
    let skipped = endpoints.replace(
        "namespace: shop}",
        "namespace: shop, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}",
    );
    assert_eq!(slices(&format!("{skipped}{service}")), 0);
    let broken = read(&endpoints.replace("10.0.0.3", "10.0.0"));
    assert_eq!(broken.errors.len(), 1, "{:?}", broken.errors);
    assert_eq!(broken.errors[0].touches(), &Touches::Namespace("shop".to_owned()));
}

#[test]
fn ports_of_native_sidecars_are_ports_of_the_pod() {
    let manifests = read(
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {initContainers: [\
         {name: setup, ports: [{name: none, containerPort: 1}]}, \
         {name: agent, restartPolicy: Always, ports: [{name: metrics, containerPort: 8077}], \
          readinessProbe: {httpGet: {port: metrics}}}], \
         containers: [{name: b, ports: [{name: http, containerPort: 80}]}]}}",
    );
    match manifests.objects.into_iter().next() {
        Some(Object::Pod(pod)) => {
            let ports: Vec<_> = pod.ports.iter().map(|port| (&*port.name, port.number)).collect();
            assert_eq!(ports, [("http", 80), ("metrics", 8077)]);
            assert_eq!(pod.probes.iter().map(|probe| probe.port).collect::<Vec<_>>(), [8077]);
        }
        other => panic!("{other:?}"),
    }
}
