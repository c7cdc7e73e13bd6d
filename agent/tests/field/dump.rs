//! What is asked about: files of the case as they are, in another encoding, or generated.

use std::{fmt, fs, path::Path};

use serde::Deserialize;

/// One dump.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Dump {
    /// A file or folder of the case.
    File(String),
    /// Several.
    Files(Vec<String>),
    /// A file, written otherwise.
    Written(Written),
    /// As `kubectl get pods,networkpolicies -A -o yaml` prints so many pods.
    Pods(Pods),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    file: String,
    #[serde(rename = "as")]
    form: Form,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pods {
    pods: usize,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Form {
    /// As Windows PowerShell writes what a program prints.
    Utf16Le,
    Utf16Be,
    /// With the mark that some editors put before UTF-8.
    Utf8Mark,
    Crlf,
}

/// What a question gets for its `-f`, and for standard input.
pub(crate) struct Inputs {
    pub(crate) paths: Vec<String>,
    pub(crate) stdin: Vec<u8>,
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.write_str(file),
            Self::Files(files) => f.write_str(&files.join(" ")),
            Self::Written(Written { file, form }) => write!(f, "{file} as {form:?}"),
            Self::Pods(Pods { pods }) => write!(f, "{pods} pods"),
        }
    }
}

impl Dump {
    /// What is given to the program.
    pub(crate) fn inputs(&self, folder: &Path) -> Result<Inputs, String> {
        let path = |file: &String| folder.join(file).display().to_string();
        let piped = |stdin| Inputs { paths: vec!["-".to_owned()], stdin };
        Ok(match self {
            Self::File(file) => Inputs { paths: vec![path(file)], stdin: Vec::new() },
            Self::Files(files) => {
                Inputs { paths: files.iter().map(path).collect(), stdin: Vec::new() }
            }
            Self::Written(Written { file, form }) => {
                let text = fs::read_to_string(folder.join(file));
                piped(form.bytes(&text.map_err(|error| format!("{file}: {error}"))?))
            }
            Self::Pods(Pods { pods }) => piped(list_of_pods(*pods).into_bytes()),
        })
    }
}

impl Form {
    fn bytes(self, text: &str) -> Vec<u8> {
        let marked = format!("\u{feff}{text}");
        match self {
            Self::Utf16Le => marked.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Self::Utf16Be => marked.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            Self::Utf8Mark => marked.into_bytes(),
            Self::Crlf => text.replace('\n', "\r\n").into_bytes(),
        }
    }
}

/// A List of ordinary pods of 40 namespaces, and one policy that closes one of these.
fn list_of_pods(count: usize) -> String {
    let pods: String = (0..count).map(pod).collect();
    format!("apiVersion: v1\nitems:\n{pods}{POLICY}")
}

fn pod(index: usize) -> String {
    // 250 addresses of a /24 each.
    let [net, subnet, host] = [64 + index / 62_500, index / 250 % 250, index % 250 + 1];
    [
        ("<i>", index.to_string()),
        ("<i5>", format!("{index:05}")),
        ("<i12>", format!("{index:012}")),
        ("<i64>", format!("{index:064}")),
        ("<minute>", format!("{:02}", index % 60)),
        ("<version>", (100_000 + index).to_string()),
        ("<patch>", (index % 9).to_string()),
        ("<namespace>", (index % 40).to_string()),
        ("<host>", (index % 25 + 1).to_string()),
        ("<ip>", format!("10.{net}.{subnet}.{host}")),
    ]
    .iter()
    .fold(POD.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// An item of the list, with names for what differs.
const POD: &str = include_str!("pod.yaml");

const POLICY: &str = "\
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata:
    name: closed
    namespace: ns-1
  spec:
    podSelector: {}
    policyTypes:
    - Ingress
kind: List
metadata:
  resourceVersion: \"\"
";
