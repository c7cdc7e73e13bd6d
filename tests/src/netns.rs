//! The smallest lab there is: a node that routes between pods, without scenario, policies or agent.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::namespace::{Namespace, feed};

/// A node and its pods, each a network namespace; all are removed when this is dropped.
#[derive(Debug)]
pub struct Node {
    run: u32,
    namespace: Namespace,
    pods: Vec<Pod>,
}

/// A pod: a namespace with one interface, whose other end is the node's.
#[derive(Debug)]
pub struct Pod {
    /// Where it lives.
    pub namespace: Namespace,
    /// The name of the node's side of its veth.
    pub veth: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address.
    pub ip6: Ipv6Addr,
}

impl Node {
    /// A node with so many pods, numbered from zero.
    pub fn new(pods: u8) -> Result<Self> {
        /// Tells the nodes of one process apart.
        static RUNS: AtomicU32 = AtomicU32::new(0);

        ensure!(nix::unistd::geteuid().is_root(), "this test needs root: network namespaces");
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::create(run, "node")?;
        namespace.ip("link set lo up\n")?;
        namespace.set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let mut node = Self { run, namespace, pods: Vec::new() };
        for _ in 0..pods {
            node.add()?;
        }
        Ok(node)
    }

    /// The node's own namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The pod of this number.
    pub fn pod(&self, number: usize) -> &Pod {
        &self.pods[number]
    }

    /// One more pod, as a routing network plugin makes it: a veth, and a route for each address.
    pub fn add(&mut self) -> Result<&Pod> {
        let number = u8::try_from(self.pods.len()).context("too many pods")?;
        let namespace = Namespace::create(self.run, &format!("pod{number}"))?;
        let veth = format!("veth{number}");
        let ip = Ipv4Addr::new(10, 7, 0, 10 + number);
        let ip6 = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 10 + u16::from(number));
        // Made within the pod, so that the node sees a veth whose other end is elsewhere.
        namespace.ip(&format!(
            "link set lo up\n\
             link add eth0 type veth peer name {veth} netns {node}\n\
             link set eth0 up\n\
             addr add {ip}/32 dev eth0\n\
             addr add {ip6}/128 dev eth0 nodad\n",
            node = self.namespace.name(),
        ))?;
        self.namespace.ip(&format!(
            "link set {veth} up\n\
             addr add 169.254.1.1/32 dev {veth}\n\
             addr add fe80::1/64 dev {veth} nodad\n\
             route add {ip}/32 dev {veth}\n\
             route add {ip6}/128 dev {veth}\n",
        ))?;
        namespace.ip("route add 169.254.1.1 dev eth0\n\
             route add default via 169.254.1.1 dev eth0\n\
             route add ::/0 via fe80::1 dev eth0\n")?;
        self.pods.push(Pod { namespace, veth, ip, ip6 });
        Ok(&self.pods[usize::from(number)])
    }

    /// Takes the last pod away, and its veth with it.
    pub fn remove(&mut self) {
        self.pods.pop();
    }

    /// Loads nftables rules into the node.
    pub fn nft(&self, rules: &str) -> Result<()> {
        nft(&self.namespace, rules)
    }

    /// The packets that the first rule with this comment has counted.
    pub fn counted(&self, comment: &str) -> Result<u64> {
        let mut command = self.namespace.command("nft");
        let output = command.args(["list", "ruleset"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let rule = text
            .lines()
            .find(|line| line.contains(&format!("comment \"{comment}\"")))
            .with_context(|| format!("no rule with comment {comment} in\n{text}"))?;
        let mut words = rule.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        Ok(words.next().context("the rule has no counter")?.parse()?)
    }
}

/// Loads nftables rules into a namespace.
pub fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    feed(namespace.command("nft").args(["-f", "-"]), rules)
}

/// Loads rules of the older iptables into a namespace.
pub fn iptables(namespace: &Namespace, rules: &str) -> Result<()> {
    feed(&mut namespace.command("iptables-legacy-restore"), rules)
}
