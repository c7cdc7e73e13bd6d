//! Ends of a flow, written as people write them, and what is said where there is no such thing.

use std::process::Output;

use serde_json::Value;

use client::{stderr, stdout, whydrop};

mod client;

/// A dump: a client, a Service with its pod, a `StatefulSet` with one, and policies over them.
const DUMP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: pulp}
---
apiVersion: v1
kind: Namespace
metadata: {name: job}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.91}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ask-0, namespace: pulp, labels: {app: ask}}
spec: {nodeName: n1, containers: [{name: a, image: img}]}
status: {phase: Running, hostIP: 192.0.2.91, podIP: 10.244.6.4}
---
apiVersion: v1
kind: Pod
metadata: {name: worker, namespace: job}
spec: {nodeName: n1, containers: [{name: a, image: img}]}
status: {phase: Running, hostIP: 192.0.2.91, podIP: 10.244.6.5}
---
apiVersion: v1
kind: Pod
metadata:
  name: page-5d4f-x
  namespace: pulp
  labels: {app: page, pod-template-hash: 5d4f}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: page-5d4f, controller: true, uid: u}]
spec: {nodeName: n1, containers: [{name: p, image: img, ports: [{name: web, containerPort: 8080}]}]}
status: {phase: Running, hostIP: 192.0.2.91, podIP: 10.244.6.12}
---
apiVersion: v1
kind: Pod
metadata:
  name: db-0
  namespace: pulp
  labels: {app: db}
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, controller: true, uid: u}]
spec: {nodeName: n1, containers: [{name: d, image: img, ports: [{name: pg, containerPort: 5432}]}]}
status: {phase: Running, hostIP: 192.0.2.91, podIP: 10.244.6.13}
---
apiVersion: v1
kind: Service
metadata: {name: page, namespace: pulp}
spec: {clusterIP: 10.96.1.12, selector: {app: page}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: pulp}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: pg, port: 5432}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: page, namespace: pulp}
spec:
  podSelector: {matchLabels: {app: page}}
  ingress: [{from: [{podSelector: {matchLabels: {app: ask}}}], ports: [{port: web}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: pulp}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: page}}}]}]}
";

/// Manifests as a repository has them: no pod, no address, no namespace object.
const REPOSITORY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: menu, namespace: bistro}
spec:
  selector: {matchLabels: {app: menu}}
  template:
    metadata: {labels: {app: menu}}
    spec: {containers: [{name: m, image: img, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: refill, namespace: bistro}
spec:
  schedule: "0 3 * * *"
  jobTemplate: {spec: {template: {metadata: {labels: {app: refill}}, spec: {containers: [{name: r, image: img}]}}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: bistro}
spec:
  selector: {matchLabels: {app: agent}}
  template: {metadata: {labels: {app: agent}}, spec: {hostNetwork: true, containers: [{name: a, image: img}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ledger, namespace: books}
spec:
  selector: {matchLabels: {app: ledger}}
  template: {metadata: {labels: {app: ledger}}, spec: {containers: [{name: l, image: img}]}}
---
apiVersion: v1
kind: Service
metadata: {name: menu, namespace: bistro}
spec: {selector: {app: menu}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: menu, namespace: bistro}
spec:
  podSelector: {matchLabels: {app: menu}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: refill}}}]
    ports: [{port: http}]
  - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
    ports: [{port: 9000}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ledger, namespace: books}
spec:
  podSelector: {matchLabels: {app: ledger}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bistro}}}]}]
"#;

fn explain(manifests: &str, from: &str, to: &str, more: &[&str]) -> Output {
    let arguments = [&["explain", "-f", "-", "--from", from, "--to", to], more].concat();
    whydrop(&arguments, manifests)
}

/// Whether a flow gets through, in one word, and the answer's first line or the error.
fn answer(manifests: &str, from: &str, to: &str, more: &[&str]) -> (&'static str, String) {
    let output = explain(manifests, from, to, more);
    match output.status.code() {
        Some(2) => ("error", stderr(&output)),
        code => {
            let text = stdout(&output);
            let passes = if code == Some(0) { "passes" } else { "does not" };
            (passes, text.lines().next().unwrap_or_default().to_owned())
        }
    }
}

#[test]
fn ends_are_taken_as_kubectl_dns_and_errors_write_them() {
    for (from, to, port) in [
        ("pulp/ask-0", "pulp/page-5d4f-x", "8080"),
        ("ask-0", "page-5d4f-x", "web"),
        ("pod/ask-0", "svc/page", "80"),
        ("pods/ask-0", "service/page", "http"),
        ("pulp/po/ask-0", "pulp/services/page", "80/TCP"),
        ("pulp/ask-0", "page.pulp", "80"),
        ("pulp/ask-0", "page.pulp.svc", "http"),
        ("pulp/ask-0", "page.pulp.svc.cluster.local.", "80"),
        ("pulp/ask-0", "10.96.1.12", "80"),
        ("10.244.6.4", "10.244.6.12", "8080"),
        ("10-244-6-4.pulp.pod.cluster.local", "10.244.6.12", "web"),
        ("pulp/ask-0", "deploy/page", "8080"),
        ("pulp/ask-0", "pulp/deployments.apps/page", "web"),
        ("pulp/ask-0", "rs/page-5d4f", "8080"),
        ("deploy/page", "sts/db", "5432"),
        ("deploy/page", "db-0.db.pulp.svc.cluster.local", "pg"),
        ("deploy/page", "pulp/svc/db", "pg"),
        ("node/n1", "pulp/deploy/page", "8080"),
    ] {
        let (passes, line) = answer(DUMP, from, to, &["--port", port, "-n", "pulp"]);
        assert_eq!(passes, "passes", "{from} -> {to}:{port}: {line}");
    }
}

#[test]
fn a_port_may_be_behind_the_destination() {
    for (to, port) in [
        ("page.pulp.svc:80", None),
        ("svc/page:http", None),
        ("10.96.1.12:80", Some("80")),
        ("10.244.6.12:8080", None),
        ("http://page.pulp/index.html", None),
        ("http://page.pulp.svc.cluster.local:80/?q=1", None),
        ("_http._tcp.page.pulp.svc.cluster.local", None),
        ("deploy/page:web", Some("web/TCP")),
    ] {
        let port: Vec<&str> = port.into_iter().flat_map(|port| ["--port", port]).collect();
        let more = [&["-n", "pulp"], &port[..]].concat();
        let (passes, line) = answer(DUMP, "pulp/ask-0:43210", to, &more);
        assert_eq!(passes, "passes", "{to}: {line}");
    }
}

#[test]
fn what_is_not_there_is_answered_with_what_is() {
    for (from, to, port, says) in [
        (
            "pulp/ask-1",
            "pulp/svc/page",
            "80",
            "--from: no pod ask-1 in namespace pulp; there are: ask-0, db-0, page-5d4f-x",
        ),
        (
            "pulp/ask-0",
            "pulp/page",
            "80",
            "--to: no pod page in namespace pulp; pulp/page is a Service: pulp/svc/page, and a Deployment: pulp/deploy/page",
        ),
        (
            "pulp/ask-0",
            "pulp/sts/page",
            "80",
            "--to: no StatefulSet page in namespace pulp; pulp/page is a Service: pulp/svc/page",
        ),
        (
            "pulp/ask-0",
            "pulp/svc/ask-0",
            "80",
            "--to: no Service ask-0 in namespace pulp; pulp/ask-0 is a pod: pulp/ask-0",
        ),
        (
            "pulp/ask-0",
            "pulp/svc/pge",
            "80",
            "--to: no Service pge in namespace pulp; there are: db, page",
        ),
        (
            "pulb/ask-0",
            "pulp/svc/page",
            "80",
            "--from: no pod ask-0 in namespace pulb, of which nothing is known; is it pulp?",
        ),
        (
            "job/worker",
            "pulp/svc/page",
            "80",
            "--from: no Job worker in any namespace; worker is a pod: job/pod/worker",
        ),
        ("node/n2", "pulp/svc/page", "80", "--from: no node n2; there is: n1"),
        (
            "pulp/ask-0",
            "db.example.com",
            "5432",
            "--to: db.example.com is no name of the cluster's DNS",
        ),
        (
            "pulp/ask-0",
            "page.pulp.svc:80",
            "8080",
            "--to: it has the port 80 behind it, and the port asked for is 8080",
        ),
        (
            "pulp/ask-0",
            "svc/page",
            "https",
            "--to: no port is named https; there are: http (80/TCP)",
        ),
        (
            "pulp/ask-0",
            "deploy/page",
            "https",
            "--to: no port is named https; there are: web (8080/TCP)",
        ),
        ("pulp/ask-0", "203.0.113.7", "https", "gives no names to ports"),
        ("pulp/ask-0", "svc/page", "8080", "has no port 8080/TCP"),
        ("ghost", "svc/page", "80", "--from: no pod ghost in any namespace"),
    ] {
        let (error, text) = answer(DUMP, from, to, &["--port", port]);
        assert_eq!(error, "error", "{from} -> {to}: {text}");
        assert!(text.contains(says), "{from} -> {to}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let (error, text) = answer(DUMP, "pulp/ask-0", "svc/page", &[]);
    assert_eq!(
        (error, text.as_str()),
        ("error", "whydrop: --to: the port is missing: Service pulp/page has 80/TCP\n")
    );
}

#[test]
fn a_name_without_a_namespace_is_the_only_one_of_that_name() {
    let twice = DUMP.to_owned()
        + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: ask-0, namespace: job}\n";
    let (error, text) = answer(&twice, "ask-0", "svc/page", &["--port", "80"]);
    assert_eq!(error, "error", "{text}");
    assert!(text.contains("ask-0 is in the namespaces job, pulp: write which"), "{text}");
    assert_eq!(answer(&twice, "ask-0", "svc/page", &["--port", "80", "-n", "pulp"]).0, "passes");
}

#[test]
fn a_repository_is_judged_by_its_templates() {
    for (from, to, port, passes) in [
        ("bistro/cronjob/refill", "bistro/deploy/menu", "8080", "passes"),
        ("cj/refill", "svc/menu", "80", "passes"),
        ("bistro/deploy/menu", "bistro/svc/menu", "80", "does not"),
        ("bistro/cronjob/refill", "bistro/deploy/menu", "8081", "does not"),
        ("bistro/deploy/menu", "books/sts/ledger", "5432", "passes"),
        ("bistro/deploy/menu", "ledger-0", "5432", "passes"),
        ("books/sts/ledger", "books/sts/ledger", "5432", "does not"),
        ("bistro/ds/agent", "books/sts/ledger", "5432", "does not"),
    ] {
        let (found, line) = answer(REPOSITORY, from, to, &["--port", port]);
        assert_eq!(found, passes, "{from} -> {to}:{port}: {line}");
    }
}

#[test]
fn what_a_repository_leaves_open_is_named() {
    let ask = |to: &str, port: &str, form: &str| {
        let more = ["--port", port, "-o", form];
        explain(REPOSITORY, "bistro/cronjob/refill", to, &more)
    };
    let text = stdout(&ask("bistro/deploy/menu", "9000", "text"));
    let hangs = "ipBlock 192.0.2.0/24 of bistro/menu ingress[1] against the address of \
                 bistro/cronjob/refill, which is not known yet";
    assert!(text.contains(hangs), "{text}");
    let json: Value =
        serde_json::from_str(&stdout(&ask("bistro/deploy/menu", "9000", "json"))).expect("JSON");
    assert_eq!(json["effective"], "unknown");
    assert_eq!(json["cause"]["class"], "cannot-tell");
    let source = &json["flow"]["source"];
    assert_eq!(
        (&source["namespace"], &source["workload"]["kind"]),
        (&"bistro".into(), &"CronJob".into())
    );
    assert_eq!((&source["pod"], &source["ip"]), (&Value::Null, &Value::Null), "it is no pod");
}

#[test]
fn one_bad_flow_of_many_is_an_error_of_its_own() {
    let flows = tempfile::NamedTempFile::new().expect("a file");
    let text = "# a comment\n\
                - {from: bistro/cronjob/refill, to: bistro/svc/menu, port: 80, expect: allow}\n\
                - {from: bistro/cronjob/refil, to: bistro/svc/menu, port: 80, expect: allow}\n\
                - {from: bistro/deploy/menu, to: bistro/svc/menu:80, expect: deny}\n\
                - {from: bistro/deploy/menu, to: bistro/svc/menu, expects: deny}\n\
                - {from: bistro/deploy/menu, to: bistro/svc/menu, port: 80, expect: allow}\n";
    std::fs::write(flows.path(), text).expect("written");
    let path = flows.path().to_str().expect("UTF-8");
    let output = whydrop(&["check", "-f", "-", "--flows", path], REPOSITORY);
    assert_eq!(output.status.code(), Some(2));
    let text = stdout(&output);
    let marks: Vec<_> =
        text.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(marks, ["ok", "ERROR", "ok", "ERROR", "DIFFERS", "5"], "{text}");
    assert!(text.ends_with("5 flows, 1 differ, 2 cannot be judged\n"), "{text}");
    let said = stderr(&output);
    assert!(
        said.contains(
            "flow 2 (line 3): from: no CronJob refil in namespace bistro; there is: refill"
        ),
        "{said}"
    );
    assert!(said.contains("flow 4 (line 5): expects: no such field; is it expect?"), "{said}");
    let output = whydrop(&["check", "-f", "-", "--flows", path, "-o", "json"], REPOSITORY);
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!((&lines[0]["effective"], &lines[1]["effective"]), (&"allow".into(), &Value::Null));
    assert!(lines[1]["error"].as_str().is_some_and(|error| error.starts_with("from: no CronJob")));
}
