//! What a scenario is: data, one folder each under `tests/scenarios/`.
//!
//! ```text
//! NAME/scenario.yaml     this module's [`Scenario`]
//! NAME/manifests/*.yaml  what the cluster holds when the agent starts: plain Kubernetes objects
//! NAME/filter/*          rules that stand in for the CNI
//! NAME/later/*.yaml      manifests that a step applies
//! NAME/*.yaml            rules of what is muted, where the scenario names them
//! ```

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::world::slow::Way;

/// One story: a cluster, the filter that enforces its policies, traffic, and what is reported.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// One line.
    pub title: String,
    /// What it shows, for the reader of the file and of the demo.
    pub shows: String,
    /// The node on which the agent runs.
    #[serde(default = "default_node")]
    pub node: String,
    /// What stands in for the CNI; none where nothing is filtered.
    pub filter: Option<Filter>,
    /// Addresses outside the cluster that answer.
    #[serde(default)]
    pub outside: Vec<IpAddr>,
    /// How strictly the node checks that a source is where its route leads.
    #[serde(default)]
    pub reverse_path: ReversePath,
    /// Who listens where.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// The agent's rules of what is muted: a file in the scenario's folder.
    pub mute: Option<PathBuf>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// Records that are among those the agent reports when it is stopped at the end.
    #[serde(default)]
    pub stops_with: Vec<Value>,
    /// The folder it was read from.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Rules that stand in for a CNI.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Filter {
    /// Whose way of dropping these rules have, and why this scenario uses it.
    pub stands_for: String,
    /// What is in force when the agent starts.
    pub rules: Rules,
}

/// Files of rules, relative to the scenario's folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Rules {
    /// For `nft -f`; all in `table inet cni`, which is replaced as a whole.
    Nftables(PathBuf),
    /// For `iptables-legacy-restore`, which replaces the tables named.
    IptablesLegacy(PathBuf),
    /// iptables rules that steer packets to queue 100, and the verdicts given there.
    Nfqueue {
        /// For `iptables-legacy-restore`.
        steer: PathBuf,
        /// A list of [`Rule`]s; the first that matches decides, and no match accepts.
        verdicts: PathBuf,
    },
    /// Not in the node but behind its uplink, as another node's filter: for `nft -f`.
    Elsewhere(PathBuf),
}

/// What the user-space filter behind an NFQUEUE decides; an absent field matches all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// Why.
    pub comment: String,
    /// Source addresses.
    pub from: Option<ipnet::IpNet>,
    /// Destination addresses.
    pub to: Option<ipnet::IpNet>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Destination port.
    pub port: Option<u16>,
    /// The verdict.
    pub accept: bool,
}

/// Strictness of `rp_filter` on the node.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReversePath {
    /// Not checked.
    #[default]
    Off,
    /// A packet whose source is routed elsewhere is dropped.
    Strict,
}

/// Who listens, at `namespace/pod:port` or an address and port outside.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Server {
    /// Answers every request with 200.
    Http(String),
    /// Answers every query, over UDP and TCP.
    Dns(String),
    /// Answers every INIT with an INIT-ACK, from a raw socket: this needs no kernel SCTP.
    Sctp(String),
    /// Listens and never accepts, and its queue is full.
    Full(String),
}

/// One thing that happens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Step {
    /// Words for those who watch.
    Say(String),
    /// The real curl, run in a pod.
    Curl(Curl),
    /// TCP connections by real sockets, from each client at the same time, with an HTTP request.
    Connect(Connect),
    /// DNS queries, as a resolver sends them.
    Dns(Dns),
    /// SCTP INITs from a raw socket, sent again while nothing answers.
    Sctp(Connect),
    /// One TCP SYN with a source address that is not the sender's own.
    Spoof(Spoof),
    /// Steps at the same time.
    Together(Vec<Step>),
    /// A manifest from `later/` goes into the folder that the agent watches; pods in it that are
    /// new get their namespace and veth before.
    Apply(PathBuf),
    /// A manifest goes from that folder.
    Remove(PathBuf),
    /// A pod's veth is deleted while the agent is attached to it.
    Unplug(String),
    /// From now on some packets take long.
    Slow(Slow),
    /// Another set of rules, as the CNI would program after a change of policies.
    Filter(Rules),
    /// The remedy that was reported is applied, and the CNI follows.
    Remedy(Remedy),
    /// The agent says these words on standard error, sooner or later.
    Complains(Vec<String>),
    /// Exactly these records, in any order, since the last such step. Each needs only have the
    /// fields that are given here.
    Report(Vec<Value>),
    /// A command of `whydrop` other than the agent, with `-f` and the manifests added.
    Whydrop(Whydrop),
}

/// What takes long, for a server's port.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Slow {
    /// The server's port.
    pub port: u16,
    /// SYNs to it, or its answers.
    pub way: Way,
    /// How long, in milliseconds.
    pub milliseconds: u64,
}

/// A run of curl.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Curl {
    /// The pod.
    pub from: String,
    /// What is fetched.
    pub url: String,
    /// `host:port:who` for names that a cluster's DNS would know; `who` as in `from`, or an address.
    #[serde(default)]
    pub resolve: Vec<String>,
    /// What curl says.
    pub gets: Gets,
}

/// Connections of one or several clients to one or several servers, each client to each server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Connect {
    /// `namespace/pod`, `node`, or an address outside.
    pub from: OneOrMany,
    /// `namespace/pod:port` or `address:port`.
    pub to: OneOrMany,
    /// What each client sees.
    pub gets: Gets,
}

/// One query of a resolver.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Dns {
    /// The pod.
    pub from: String,
    /// The server.
    pub to: String,
    /// The name that is asked for.
    pub name: String,
    /// `udp` or `tcp`.
    pub over: Transport,
    /// What the resolver sees.
    pub gets: Gets,
}

/// How a DNS query travels.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// One datagram, sent again after a second.
    Udp,
    /// A connection.
    Tcp,
}

/// A forged SYN.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spoof {
    /// Who sends it.
    pub from: String,
    /// Whose address it bears.
    pub source: IpAddr,
    /// Where it goes.
    pub to: String,
}

/// How the reported remedy is taken up.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Remedy {
    /// What the remedy has to be, as far as given: `rules` below are written for exactly this.
    pub like: Value,
    /// What the CNI programs once the remedy is applied.
    pub rules: Rules,
}

/// A command and what it answers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Whydrop {
    /// The command and its flags.
    pub run: Vec<String>,
    /// Its exit code.
    pub exit: i32,
    /// What its output has to be, as far as given: read as YAML, of which JSON is a part.
    pub prints: Option<Value>,
}

/// One, or a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// What a client sees of its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gets {
    /// An answer.
    Answer,
    /// Nothing, until it gave up.
    Timeout,
    /// Somebody said no, by RST or ICMP.
    Refusal,
}

impl Scenario {
    /// Reads the scenario in a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("scenario.yaml");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let mut scenario: Self =
            serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
        folder.clone_into(&mut scenario.folder);
        Ok(scenario)
    }

    /// The name of the folder.
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The folder that holds all scenarios.
pub fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn default_node() -> String {
    "worker-1".to_owned()
}
