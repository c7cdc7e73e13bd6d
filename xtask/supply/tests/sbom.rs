//! The SBOM of this very workspace: what is linked into the program, and nothing that only builds or
//! tests it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use whydrop_supply::{
    layout::sha256,
    sbom::{Contents, write},
};

const OBJECT: &[u8] = b"\x7fELF programs for the kernel";

/// Stands in for the program, which takes minutes to build: the SBOM says of it only its hash, and
/// that it holds the object.
fn program() -> Vec<u8> {
    [b"the program, with ".as_slice(), OBJECT, b" in it"].concat()
}

fn contents<'a>(program: &'a [u8], object: &'a [u8]) -> Contents<'a> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the repository");
    Contents { root, target: "x86_64-unknown-linux-musl", program, object, rust: "1.98.0" }
}

/// The field of a component.
fn of<'a>(component: &'a Value, field: &str) -> &'a str {
    component[field].as_str().unwrap_or_default()
}

#[test]
fn what_is_linked_into_the_program_is_listed_with_where_it_comes_from() {
    let program = program();
    let bytes = write(&contents(&program, OBJECT)).expect("the repository");
    assert_eq!(
        bytes,
        write(&contents(&program, OBJECT)).expect("the repository"),
        "it comes out the same"
    );
    let sbom: Value = serde_json::from_slice(&bytes).expect("the repository");
    assert_eq!((of(&sbom, "bomFormat"), of(&sbom, "specVersion")), ("CycloneDX", "1.5"));
    let this = &sbom["metadata"]["component"];
    assert_eq!((of(this, "name"), of(this, "type")), ("whydrop", "application"));
    assert_eq!(this["hashes"][0]["content"], sha256(&program));

    let components = sbom["components"].as_array().expect("the repository");
    let by_name: BTreeMap<&str, &Value> =
        components.iter().map(|component| (of(component, "name"), component)).collect();
    // The agent's, the client's, the kernel's.
    for name in ["whydrop-core", "whydrop-probe", "aya", "rustls", "kube", "ring", "aya-ebpf"] {
        assert!(by_name.contains_key(name), "{name} is in the program");
    }
    // Run while it is compiled; used by tests; xtask's own; of other systems.
    for name in ["serde_derive", "syn", "aya-build", "insta", "proptest", "p256", "windows-sys"] {
        assert!(!by_name.contains_key(name), "{name} is not in the program");
    }
    assert_eq!(by_name["whydrop-programs"]["hashes"][0]["content"], sha256(OBJECT));

    let lock = fs::read_to_string(contents(&program, OBJECT).root.join("Cargo.lock"))
        .expect("the repository");
    for component in components {
        let (name, version) = (of(component, "name"), of(component, "version"));
        let what = format!("{name} {version}");
        assert!(!component["licenses"].as_array().expect("the repository").is_empty(), "{what}");
        let purl = of(component, "purl");
        if purl.starts_with("pkg:cargo/") && !purl.contains("vcs_url") {
            assert_eq!(purl, format!("pkg:cargo/{name}@{version}").replace('+', "%2B"), "{what}");
            let checksum = component["hashes"][0]["content"].as_str().expect(&what);
            let pinned = format!(
                "name = \"{name}\"\nversion = \"{version}\"\nsource = \
                 \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \
                 \"{checksum}\""
            );
            assert!(lock.contains(&pinned), "{what}");
        } else if name.starts_with("whydrop") && name != "whydrop-programs" {
            // Not published: crates.io may have others of these names.
            assert!(purl.contains("?vcs_url=git%2Bhttps://"), "{what}: {purl}");
        }
    }
}

#[test]
fn every_component_is_reached_from_the_program() {
    let program = program();
    let bytes = write(&contents(&program, OBJECT)).expect("the repository");
    let sbom: Value = serde_json::from_slice(&bytes).expect("the repository");
    let linked: BTreeMap<&str, Vec<&str>> = sbom["dependencies"]
        .as_array()
        .expect("the repository")
        .iter()
        .map(|entry| {
            let on = entry["dependsOn"].as_array().map(Vec::as_slice).unwrap_or_default();
            (of(entry, "ref"), on.iter().filter_map(Value::as_str).collect())
        })
        .collect();
    let mut reached = BTreeSet::new();
    let mut next = vec![of(&sbom["metadata"]["component"], "bom-ref")];
    while let Some(one) = next.pop() {
        if reached.insert(one) {
            next.extend(&linked[one]);
        }
    }
    let all =
        sbom["components"].as_array().expect("the repository").iter().map(|one| of(one, "bom-ref"));
    let lost: Vec<_> = all.filter(|one| !reached.contains(one)).collect();
    assert_eq!(lost, Vec::<&str>::new());
}

#[test]
fn an_object_that_is_not_in_the_program_is_refused() {
    let program = program();
    for object in [b"another object".as_slice(), b""] {
        let said = write(&contents(&program, object)).unwrap_err().to_string();
        assert!(said.contains("does not hold the eBPF object"), "{said}");
    }
}
