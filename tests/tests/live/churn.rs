//! Five hundred pods come and go while packets are dropped: nobody is taken for somebody else, and
//! the agent does not grow.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use whydrop_tests::world::{
    World as _,
    netns::{NAME, Node},
};

use crate::fixture::{PORT, apply, describe, drop_to, dropped, enforce, node, start_agent};

/// In five parts, each of which gives the destination's address to another pod.
const PARTS: usize = 5;
const PODS_PER_PART: usize = 100;
/// Addresses that the pods of a part have in turn, and leave to those of the next.
const ADDRESSES: usize = 100;
/// What an agent may grow by after the first part: allocators keep some of what they had.
const GROWTH_MIB_MAX: f64 = 8.0;

#[test]
fn five_hundred_pods_come_and_go() {
    let mut node = node(2);
    describe(&mut node, 0, "frontend/client");
    apply(
        &mut node,
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
          metadata: {name: default-deny, namespace: backend}, \
          spec: {podSelector: {}, policyTypes: [Ingress]}}",
    );
    enforce(&node, 1);
    let mut agent = start_agent(&node);
    let contested = node.nth(1).ip.to_string();
    let mut resident = Vec::new();
    for part in 0..PARTS {
        node.namespace()
            .enter(|| churn(&node, part, &contested))
            .unwrap_or_else(|error| panic!("part {part}: {error:#}"));
        // Another port, for another flow: one that keeps being dropped is reported once a minute.
        let port = PORT + u16::try_from(part).expect("a port");
        let destination = (node.nth(1).ip, port).into();
        dropped(&node, "frontend/client", destination);
        // The pod that holds the address in this part, and nobody else.
        let holder = format!("holder-{part}");
        let record = drop_to(&mut agent, &holder);
        assert_eq!(record["flow"]["source"]["pod"], "client", "{record}");
        assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
        resident.push(agent.resident_mib().expect("VmRSS"));
    }
    let growth = resident[PARTS - 1] - resident[0];
    assert!(growth < GROWTH_MIB_MAX, "resident memory in MiB after each part: {resident:?}");
    let records = agent.stop_and_read().expect("records");
    for record in records.iter().filter(|record| record["kind"] == "drop") {
        let pod = record["flow"]["destination"]["pod"].as_str().unwrap_or_default();
        assert!(pod.starts_with("holder-"), "blamed on somebody else: {record}");
    }
}

/// Makes the pods of a part and takes away those of the one before, one by one in turn.
fn churn(node: &Node, part: usize, contested: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(node.server()?.kubeconfig())?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, "backend");
        if let Some(before) = part.checked_sub(1) {
            remove(&pods, &format!("holder-{before}")).await?;
        }
        run(&pods, &format!("holder-{part}"), contested).await?;
        for number in 0..PODS_PER_PART {
            if let Some(before) = part.checked_sub(1) {
                remove(&pods, &format!("pod-{before}-{number}")).await?;
            }
            let address = format!("10.7.0.{}", 100 + number % ADDRESSES);
            run(&pods, &format!("pod-{part}-{number}"), &address).await?;
        }
        Ok(())
    })
}

async fn run(pods: &Api<Pod>, name: &str, address: &str) -> Result<()> {
    let pod = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": "churn" } },
        "spec": { "nodeName": NAME, "containers": [{ "name": "c", "image": "example.com/c" }] },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let ips = json!([{ "ip": address }]);
    let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": ips } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

async fn remove(pods: &Api<Pod>, name: &str) -> Result<()> {
    pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}
