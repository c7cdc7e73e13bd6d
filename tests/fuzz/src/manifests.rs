//! Manifests: of any bytes nothing is lost without a word, and objects are the same in whatever form they
//! are written.

use std::{
    cell::RefCell,
    io::{Seek as _, SeekFrom, Write as _},
};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use whydrop::{
    cluster::manifests::{ManifestError, Manifests, Remark, objects},
    report::escape,
};

use crate::choices::Choices;

/// More objects than this show nothing new.
const OBJECTS_MAX: usize = 6;

/// Any bytes as a file, or objects in several forms.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    match choices.byte() % 4 {
        0 => bytes(".yaml", choices.rest()),
        1 => bytes(".json", choices.rest()),
        _ => forms(&mut choices),
    }
}

thread_local! {
    static FILES: RefCell<Vec<(&'static str, NamedTempFile)>> = const { RefCell::new(Vec::new()) };
}

/// What a file with these bytes holds.
fn read(ending: &'static str, bytes: &[u8]) -> (String, Manifests) {
    FILES.with_borrow_mut(|files| {
        if !files.iter().any(|(its, _)| *its == ending) {
            let file = tempfile::Builder::new().suffix(ending).tempfile().expect("a file");
            files.push((ending, file));
        }
        let file = files.iter_mut().find(|(its, _)| *its == ending).expect("made before");
        let file = &mut file.1;
        file.as_file_mut().set_len(0).expect("emptied");
        file.seek(SeekFrom::Start(0)).expect("the beginning");
        file.write_all(bytes).expect("written");
        let path = file.path().to_owned();
        (path.display().to_string(), Manifests::read(&[path]))
    })
}

fn bytes(ending: &'static str, bytes: &[u8]) {
    let (file, manifests) = read(ending, bytes);
    for error in &manifests.errors {
        let text = error.to_string();
        assert!(text.starts_with(&file), "{text}");
        assert!(!text.is_empty() && !matches!(error, ManifestError::Empty { .. }), "{text}");
    }
    let text = String::from_utf8_lossy(bytes);
    let is_own = ending == ".yaml" && matches!(text, std::borrow::Cow::Borrowed(_));
    let Some(objects) = objects(&text).filter(|_| is_own && !text.contains("{{")) else { return };
    let is_list =
        |object: &Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    if objects.iter().any(|object| is_list(object) || is_endpoints(object)) {
        return;
    }
    let there = objects.iter().filter(|object| !object.is_null()).count();
    let outcome = Outcome::of(&manifests);
    assert_eq!(outcome.all(), there, "{outcome:?} of {objects:?}");
    manifests.cluster();
}

/// One becomes several slices, or none.
fn is_endpoints(object: &Value) -> bool {
    object["kind"] == "Endpoints"
}

/// What became of objects.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    read: Vec<String>,
    ignored: usize,
    unread: usize,
    refused: Vec<String>,
    passed_over: usize,
}

impl Outcome {
    fn of(manifests: &Manifests) -> Self {
        let mut read: Vec<_> = manifests.keys().map(|key| format!("{key:?}")).collect();
        let refused = manifests.errors.iter().map(|error| match error {
            ManifestError::Field { problem, .. } => problem.to_string(),
            other => other.to_string(),
        });
        let mut refused: Vec<_> = refused.collect();
        read.sort();
        refused.sort();
        let is_over = |remark: &&Remark| matches!(remark, Remark::PassedOver(_));
        Self {
            read,
            ignored: manifests.ignored.values().sum(),
            unread: manifests.unread.len(),
            refused,
            passed_over: manifests.remarks.iter().filter(is_over).count(),
        }
    }

    fn all(&self) -> usize {
        let Self { read, ignored, unread, refused, passed_over } = self;
        read.len() + ignored + unread + refused.len() + passed_over
    }
}

/// The same objects as documents, as a list, in block style, one after the other as JSON.
fn forms(choices: &mut Choices<'_>) {
    let objects: Vec<_> = (0..=choices.below(OBJECTS_MAX)).map(|_| object(choices)).collect();
    let json = |object: &Value| escape::json(object).expect("JSON");
    let yaml = |object: &Value| escape::yaml(object).expect("YAML");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let kind_last = |items: &str| format!("apiVersion: v1\nitems:\n{items}kind: List\n");
    let items: Vec<_> = objects.iter().map(|object| format!("- {}\n", json(object))).collect();
    let documents: Vec<String> = objects.iter().map(json).collect();
    let blocks: Vec<String> = objects.iter().map(yaml).collect();
    let written = [
        (".yaml", documents.join("\n---\n")),
        (".yaml", format!("# before\n---\n---\n{}\n---\n", documents.join("\n--- \n"))),
        (".yaml", blocks.join("---\n")),
        (".yaml", blocks.join("---\n").replace('\n', "\r\n")),
        (".yaml", format!("\u{feff}{}", blocks.join("...\n---\n"))),
        (".yaml", documents.join("\n")),
        (".json", documents.join("\n")),
        (".json", documents.concat()),
        (".json", json(&list)),
        (".yaml", yaml(&list)),
        (".yaml", kind_last(&items.concat())),
    ];
    let mut first: Option<(Outcome, String)> = None;
    // Two of them an input: the engine tries the others.
    let other = 1 + choices.below(written.len() - 1);
    for (ending, text) in [&written[0], &written[other]] {
        let (_, manifests) = read(ending, text.as_bytes());
        let outcome = Outcome::of(&manifests);
        assert_eq!(outcome.all(), objects.len(), "{outcome:?} {:?}: {text}", manifests.errors);
        match &first {
            None => first = Some((outcome, text.clone())),
            Some((expected, other)) => assert_eq!(&outcome, expected, "{text}\nand\n{other}"),
        }
    }
    if !choices.rarely(4) {
        return;
    }
    let utf16 = |text: &str| -> Vec<u8> {
        let units = [0xfeff].into_iter().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    };
    let (expected, text) = first.expect("one at least");
    let (_, manifests) = read(".yaml", &utf16(&text));
    assert_eq!(Outcome::of(&manifests), expected, "as UTF-16: {text}");
}

/// An object of a kind that takes part or takes none, and rarely something in it that may not be there.
fn object(choices: &mut Choices<'_>) -> Value {
    const KINDS: [(&str, &str); 9] = [
        ("v1", "Pod"),
        ("v1", "Namespace"),
        ("v1", "Service"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("v1", "ConfigMap"),
        ("crd.projectcalico.org/v1", "NetworkPolicy"),
        ("projectcalico.org/v3", "GlobalNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
    ];
    let (version, kind) = choices.one(&KINDS);
    let mut object = json!({
        "apiVersion": version, "kind": kind,
        "metadata": {"name": format!("n{}", choices.below(4)), "namespace": "shop", "labels": {}},
    });
    object["spec"] = match *kind {
        "Pod" => json!({"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}),
        "Service" => json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}], "selector": {}}),
        "NetworkPolicy" if version.starts_with("networking") => {
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}]}]})
        }
        "NetworkPolicy" | "GlobalNetworkPolicy" => {
            json!({"selector": "app == 'web'", "types": ["Ingress"], "ingress": [{"action": "Allow"}]})
        }
        "AdminNetworkPolicy" => json!({"priority": 10, "subject": {"namespaces": {}}}),
        _ => Value::Null,
    };
    for _ in 0..choices.below(4) {
        let text = choices.text(24).replace('{', "(");
        let any = match choices.byte() % 8 {
            0..=3 => Value::from(text.clone()),
            4 => Value::Null,
            5 => Value::from(i64::from(i32::from_le_bytes(choices.bytes()))),
            6 => json!([text]),
            _ => json!({ text.clone(): [] }),
        };
        let labels = &mut object["metadata"]["labels"];
        match choices.byte() % 8 {
            0 => labels[text] = any,
            1 => labels["app"] = any,
            2 => object["metadata"]["name"] = any,
            3 => object["metadata"]["annotations"] = json!({ text: any }),
            4 => object["spec"]["selector"] = any,
            5 => object["spec"][text] = any,
            6 => object["metadata"]["namespace"] = any,
            _ => object[text] = any,
        }
    }
    object
}
