//! Manifests read a second time, on purpose: not by the agent's own reader, so that a fault of that
//! one cannot hide here.
//!
//! What a world needs of them is who holds which address, on which node.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;

/// The nodes and pods that a folder of manifests describes.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Every Node with its internal addresses.
    pub nodes: Vec<DescribedNode>,
    /// Every Pod that holds addresses of its own.
    pub pods: Vec<DescribedPod>,
}

/// A Node object, as far as the lab plays it.
#[derive(Debug)]
pub struct DescribedNode {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses` of type `InternalIP`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDR`.
    pub pods: Option<IpNet>,
}

/// A Pod object, as far as the lab plays it.
#[derive(Debug)]
pub struct DescribedPod {
    /// `namespace/name`.
    pub key: String,
    /// `spec.nodeName`.
    pub node: String,
    /// `status.podIPs`, else `status.podIP`.
    pub addresses: Vec<IpAddr>,
}

impl Cluster {
    /// Reads every `.yaml` file of a folder, in the order of their names.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .with_context(|| folder.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        let mut cluster = Self::default();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
            let text = fs::read_to_string(file)?;
            cluster.read_text(&text).with_context(|| file.display().to_string())?;
        }
        Ok(cluster)
    }

    /// Reads one text of manifests.
    pub fn parse(text: &str) -> Result<Self> {
        let mut cluster = Self::default();
        cluster.read_text(text)?;
        Ok(cluster)
    }

    fn read_text(&mut self, text: &str) -> Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
        documents.iter().try_for_each(|object| self.add(object))
    }

    /// The pod called `namespace/name`.
    pub fn pod(&self, key: &str) -> Result<&DescribedPod> {
        self.pods.iter().find(|pod| pod.key == key).with_context(|| format!("no pod {key}"))
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Result<&DescribedNode> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    fn add(&mut self, object: &Value) -> Result<()> {
        let name = text(&object["metadata"]["name"]);
        match text(&object["kind"]).as_str() {
            "List" => list(&object["items"]).iter().try_for_each(|item| self.add(item))?,
            "Node" => {
                let addresses = list(&object["status"]["addresses"])
                    .iter()
                    .filter(|entry| entry["type"] == "InternalIP")
                    .map(|entry| address(&entry["address"]))
                    .collect::<Result<_>>()?;
                let pods = text(&object["spec"]["podCIDR"]).parse().ok();
                self.nodes.push(DescribedNode { name, addresses, pods });
            }
            "Pod" if object["spec"]["hostNetwork"] != true => {
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
                let key = format!("{namespace}/{name}");
                let node = text(&object["spec"]["nodeName"]);
                let status = &object["status"];
                let mut addresses = list(&status["podIPs"])
                    .iter()
                    .map(|entry| address(&entry["ip"]))
                    .collect::<Result<Vec<_>>>()?;
                if addresses.is_empty() && status["podIP"].is_string() {
                    addresses.push(address(&status["podIP"])?);
                }
                if !addresses.is_empty() {
                    ensure!(!node.is_empty(), "pod {key} has an address and no spec.nodeName");
                    self.pods.push(DescribedPod { key, node, addresses });
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn address(value: &Value) -> Result<IpAddr> {
    text(value).parse().with_context(|| format!("{value} is no address"))
}
