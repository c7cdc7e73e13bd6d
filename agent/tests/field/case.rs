//! A case as it is written.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, de::DeserializeOwned};
use whydrop::cluster::manifests;

use crate::dump::Dump;

/// By case, by ask: why it does not hold yet.
pub(crate) type Known = BTreeMap<String, BTreeMap<String, String>>;

/// `case.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What is asked about; each ask is made of each.
    #[serde(default = "cluster_yaml")]
    dumps: Vec<Dump>,
    /// What is asked.
    asks: Vec<Ask>,
}

fn cluster_yaml() -> Vec<Dump> {
    vec![Dump::File("cluster.yaml".to_owned())]
}

/// A question with its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    /// As `--from`.
    pub from: String,
    /// As `--to`.
    pub to: String,
    /// As `--port`; several are joined by commas.
    pub port: Option<Ports>,
    /// What `--port` names after the slash.
    pub protocol: Option<String>,
    /// What comes of it.
    pub expect: Expected,
    /// The class of the cause.
    pub class: Option<String>,
    /// The exit code, where `expect` does not say it already.
    pub exit: Option<i32>,
    /// Flags besides.
    #[serde(default)]
    pub args: Vec<String>,
    /// Parts of the text answer; of what is said on standard error, where an error is expected.
    #[serde(default)]
    pub says: Vec<String>,
    /// What it must not contain.
    #[serde(default)]
    pub never: Vec<String>,
    /// Parts of what is said on standard error beside the answer.
    #[serde(default)]
    pub warns: Vec<String>,
    /// What the remedy must do.
    pub remedy: Option<Remedy>,
    /// Whether `check` is asked as well.
    #[serde(default = "yes")]
    pub check: bool,
}

fn yes() -> bool {
    true
}

/// One port or several, each a number or a name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Ports {
    /// `8080`.
    Number(u16),
    /// `http`, `53/UDP`.
    Name(String),
    /// `[53/UDP, 53/TCP]`.
    Several(Vec<Ports>),
}

/// One answer, or several of which any will do.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Expected {
    One(Expect),
    Any(Vec<Expect>),
}

impl Expected {
    pub(crate) fn any(&self) -> &[Expect] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Any(several) => several,
        }
    }
}

/// What comes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expect {
    /// It passes.
    Allow,
    /// It is denied.
    Deny,
    /// It cannot be determined.
    Unknown,
    /// Of several packets that may come of it, some pass.
    Some,
    /// The question cannot be answered as it is put.
    Error,
}

/// What a remedy must do.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Remedy {
    /// None may be offered.
    None(NoRemedy),
    /// Added to the manifests, it lets the flow pass.
    Passes(Passes),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NoRemedy {
    None,
}

/// What else holds of a remedy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Passes {
    /// What else it lets pass.
    #[serde(default)]
    pub also: Vec<Flow>,
    /// What must be as it was before.
    #[serde(default)]
    pub not: Vec<Flow>,
    /// Parts of its manifest.
    #[serde(default)]
    pub says: Vec<String>,
    /// What its manifest must not contain.
    #[serde(default)]
    pub never: Vec<String>,
}

/// A flow, of which it is known what comes of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flow {
    pub from: String,
    pub to: String,
    pub port: Option<Ports>,
    pub protocol: Option<String>,
}

impl Case {
    /// Every ask, of every dump.
    pub(crate) fn questions(&self) -> impl Iterator<Item = (&Ask, &Dump)> {
        self.dumps.iter().flat_map(|dump| self.asks.iter().map(move |ask| (ask, dump)))
    }

    /// How `known.yaml` names a question.
    pub(crate) fn name(&self, ask: &Ask, dump: &Dump) -> String {
        let Ask { from, to, .. } = ask;
        let port = port(ask.port.as_ref(), ask.protocol.as_deref());
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let args: String = ask.args.iter().flat_map(|arg| [" ", arg]).collect();
        let of = if self.dumps.len() > 1 { format!(", of {dump}") } else { String::new() };
        format!("{from} -> {to}{port}{args}{of}")
    }
}

/// What `--port` gets.
pub(crate) fn port(ports: Option<&Ports>, protocol: Option<&str>) -> Option<String> {
    let suffix = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
    Some(match ports? {
        Ports::Number(number) => format!("{number}{suffix}"),
        Ports::Name(name) => format!("{name}{suffix}"),
        Ports::Several(several) => {
            let each = several.iter().filter_map(|one| port(Some(one), protocol));
            each.collect::<Vec<_>>().join(",")
        }
    })
}

/// Reads a file of the cases.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, String> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    let value = manifests::yaml(&text, 1).map_err(|error| format!("{name}: {error}"))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        format!("{name}: {field}: {}", error.inner())
    })
}
