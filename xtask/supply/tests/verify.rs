//! A signed image is verified as it was made; of one that was changed in any way what is wrong is
//! said.

use std::{collections::BTreeMap, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use object::{Object as _, ObjectSection as _};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tar::{Builder, Header};
use whydrop_supply::{
    attach::attach,
    compare::differences,
    layout::{Layout, MANIFEST, sha256},
    sign::{Private, Public},
    verify::verify,
};

const NAME: &str = "example.com/whydrop:1.0.0";
const PROGRAM: &[u8] = b"what the nodes run";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A key that this test alone has.
struct Keys {
    private: Private,
    public: Public,
}

fn keys() -> Keys {
    // The default is ECDSA on P-256, made and written by another library than the one that reads it.
    let pair = KeyPair::generate().expect("of its form");
    Keys {
        private: Private::from_pem(&pair.serialize_pem()).expect("of its form"),
        public: Public::from_pem(&pair.public_key_pem()).expect("of its form"),
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn pack(files: &Files) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes.as_slice()).expect("of its form");
    }
    archive.into_inner().expect("of its form")
}

fn unpack(archive: &[u8]) -> Files {
    let layout = Layout::read(archive).expect("of its form");
    let files = layout
        .paths()
        .map(|path| (path.to_owned(), layout.file(path).expect("of its form").to_owned()));
    files.collect()
}

fn add(files: &mut Files, bytes: Vec<u8>, media_type: &str) -> Value {
    let digest = sha256(&bytes);
    let size = bytes.len();
    files.insert(format!("blobs/sha256/{digest}"), bytes);
    json!({"digest": format!("sha256:{digest}"), "mediaType": media_type, "size": size})
}

/// An image as `cargo xtask image` lays it out.
fn image(program: &[u8]) -> Vec<u8> {
    let mut files = Files::new();
    let tar = pack(&Files::from([("whydrop".to_owned(), program.to_owned())]));
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    packed.write_all(&tar).expect("of its form");
    let layer = add(&mut files, packed.finish().expect("of its form"), GZIP);
    let config = json!({
        "architecture": "amd64", "config": {}, "os": "linux",
        "rootfs": {"diff_ids": [format!("sha256:{}", sha256(&tar))], "type": "layers"},
    });
    let config = add(&mut files, config.to_string().into_bytes(), CONFIG);
    let path = |described: &Value| {
        format!(
            "blobs/sha256/{}",
            described["digest"].as_str().expect("of its form").replace("sha256:", "")
        )
    };
    let docker = json!([{"Config": path(&config), "Layers": [path(&layer)], "RepoTags": [NAME]}]);
    let manifest = json!({
        "config": config, "layers": [layer], "mediaType": MANIFEST, "schemaVersion": 2,
    });
    let mut entry = add(&mut files, manifest.to_string().into_bytes(), MANIFEST);
    entry["annotations"] = json!({
        "io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1.0.0",
    });
    let index = json!({
        "manifests": [entry],
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "schemaVersion": 2,
    });
    files.insert("index.json".to_owned(), index.to_string().into_bytes());
    files.insert("manifest.json".to_owned(), docker.to_string().into_bytes());
    files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    pack(&files)
}

fn sbom(program: &[u8]) -> Value {
    json!({
        "bomFormat": "CycloneDX",
        "components": [{"name": "serde", "type": "library", "version": "1.0.0"}],
        "metadata": {"component": {"hashes": [{"alg": "SHA-256", "content": sha256(program)}]}},
        "specVersion": "1.5",
    })
}

fn provenance() -> Value {
    json!({"buildDefinition": {"resolvedDependencies": [{"uri": "git+https://example.com@0a1b"}]}})
}

fn signed_with(archive: &[u8], sbom: &Value, key: Option<&Private>) -> Vec<u8> {
    let mut layout = Layout::read(archive).expect("of its form");
    attach(&mut layout, sbom.to_string().as_bytes(), provenance(), key).expect("of its form");
    let mut out = Vec::new();
    layout.write(&mut out).expect("of its form");
    out
}

fn signed(keys: &Keys) -> Vec<u8> {
    signed_with(&image(PROGRAM), &sbom(PROGRAM), Some(&keys.private))
}

/// What is wrong with an archive.
fn wrong(archive: &[u8], keys: &Keys) -> String {
    verify(archive, &keys.public).expect_err("it was changed").to_string()
}

/// The index, changed, of an archive that is packed again.
fn with_index(archive: &[u8], change: impl FnOnce(&mut Vec<Value>)) -> Vec<u8> {
    let mut files = unpack(archive);
    let mut index: Value = serde_json::from_slice(&files["index.json"]).expect("of its form");
    change(index["manifests"].as_array_mut().expect("of its form"));
    files.insert("index.json".to_owned(), index.to_string().into_bytes());
    pack(&files)
}

fn says(entry: &Value, predicate_type: &str) -> bool {
    entry["annotations"]["dev.sigstore.bundle.predicateType"] == predicate_type
}

/// Takes a referrer out, with what only it leads to.
fn without(archive: &[u8], is_it: impl Fn(&Value) -> bool) -> Vec<u8> {
    let mut files = unpack(archive);
    let index: Value = serde_json::from_slice(&files["index.json"]).expect("of its form");
    let entries = index["manifests"].as_array().expect("of its form");
    let gone = entries.iter().find(|entry| is_it(entry)).expect("it is there");
    let path = |described: &Value| {
        format!(
            "blobs/sha256/{}",
            described["digest"].as_str().expect("of its form").replace("sha256:", "")
        )
    };
    let manifest: Value = serde_json::from_slice(&files.remove(&path(gone)).expect("of its form"))
        .expect("of its form");
    files.remove(&path(&manifest["layers"][0])).expect("of its form");
    let digest = gone["digest"].clone();
    with_index(&pack(&files), |entries| entries.retain(|entry| entry["digest"] != digest))
}

/// Puts others' bytes in the place of a referrer's, with digests that go with them.
fn replaced(archive: &[u8], is_it: impl Fn(&Value) -> bool, bytes: &[u8]) -> Vec<u8> {
    let mut files = unpack(archive);
    let index: Value = serde_json::from_slice(&files["index.json"]).expect("of its form");
    let entries = index["manifests"].as_array().expect("of its form");
    let old = entries.iter().find(|entry| is_it(entry)).expect("it is there").clone();
    let path = |described: &Value| {
        format!(
            "blobs/sha256/{}",
            described["digest"].as_str().expect("of its form").replace("sha256:", "")
        )
    };
    let mut manifest: Value =
        serde_json::from_slice(&files.remove(&path(&old)).expect("of its form"))
            .expect("of its form");
    files.remove(&path(&manifest["layers"][0])).expect("of its form");
    let media_type = manifest["layers"][0]["mediaType"].as_str().expect("of its form").to_owned();
    manifest["layers"][0] = add(&mut files, bytes.to_owned(), &media_type);
    let mut entry = add(&mut files, manifest.to_string().into_bytes(), MANIFEST);
    entry["annotations"] = old["annotations"].clone();
    entry["artifactType"] = old["artifactType"].clone();
    with_index(&pack(&files), |entries| {
        let place =
            entries.iter_mut().find(|entry| entry["digest"] == old["digest"]).expect("of its form");
        *place = entry;
    })
}

fn is_sbom(entry: &Value) -> bool {
    entry["artifactType"] == "application/vnd.cyclonedx+json"
}

#[test]
fn a_signed_image_is_verified_and_said_to_hold() {
    let keys = keys();
    let held = verify(&signed(&keys), &keys.public).expect("of its form");
    let parts: Vec<&str> =
        held.iter().map(|line| line.split(':').next().expect("of its form")).collect();
    assert_eq!(parts, ["image", "whole", "signature", "SBOM", "provenance"], "{held:?}");
    assert!(held[0].contains(NAME) && held[3].contains(&sha256(PROGRAM)), "{held:?}");
    assert!(held[4].contains("git+https://example.com@0a1b"), "{held:?}");
}

#[test]
fn the_same_image_and_key_make_the_same_bytes() {
    let keys = keys();
    assert_eq!(signed(&keys), signed(&keys));
}

#[test]
fn any_byte_of_any_blob_counts() {
    let keys = keys();
    let files = unpack(&signed(&keys));
    let blobs: Vec<_> = files.keys().filter(|path| path.starts_with("blobs/")).collect();
    assert!(blobs.len() > 10, "{blobs:?}");
    for path in blobs {
        for at in [0, files[path].len() / 2, files[path].len() - 1] {
            let mut changed = files.clone();
            changed.get_mut(path).expect("of its form")[at] ^= 1;
            let said = wrong(&pack(&changed), &keys);
            assert!(said.starts_with(&format!("{path} has been changed")), "{said}");
        }
    }
}

#[test]
fn another_program_under_digests_that_go_with_it_is_refused() {
    let keys = keys();
    // All that was attached to the real image, beside another one.
    let mut files = unpack(&signed(&keys));
    let other = unpack(&image(b"something else"));
    let index: Value = serde_json::from_slice(&other["index.json"]).expect("of its form");
    let entry = index["manifests"][0].clone();
    files.extend(other.into_iter().filter(|(path, _)| path != "index.json"));
    let archive = with_index(&pack(&files), |entries| entries[0] = entry);
    let said = wrong(&archive, &keys);
    assert!(said.contains("refers to") && said.contains("not to this image"), "{said}");
}

#[test]
fn another_sbom_beside_the_image_is_refused() {
    let keys = keys();
    let mut other = sbom(PROGRAM);
    other["components"] = json!([]);
    let archive = replaced(&signed(&keys), is_sbom, other.to_string().as_bytes());
    assert_eq!(wrong(&archive, &keys), "the SBOM beside the image is not the one that was signed");
    let archive = without(&signed(&keys), is_sbom);
    assert_eq!(wrong(&archive, &keys), "the SBOM is missing from the archive");
}

#[test]
fn a_signed_sbom_of_another_program_is_refused() {
    let keys = keys();
    let other = sbom(b"something else");
    let archive = signed_with(&image(PROGRAM), &other, Some(&keys.private));
    let said = wrong(&archive, &keys);
    assert!(said.starts_with("the SBOM is of a program with SHA-256"), "{said}");
}

#[test]
fn another_provenance_beside_the_image_is_refused() {
    let keys = keys();
    let is_it = |entry: &Value| entry["artifactType"] == "application/vnd.in-toto+json";
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "predicate": {}, "predicateType": "x",
        "subject": [],
    });
    let archive = replaced(&signed(&keys), is_it, statement.to_string().as_bytes());
    assert_eq!(
        wrong(&archive, &keys),
        "the provenance beside the image is not the one that was signed"
    );
}

#[test]
fn another_key_is_refused() {
    let (keys, others) = (keys(), keys());
    let said = wrong(&signed(&others), &keys);
    assert!(said.starts_with("the image was signed with another key"), "{said}");
    // One that names this key instead of itself.
    let hint = |keys: &Keys| keys.public.hint().expect("of its form");
    let is_it = |entry: &Value| says(entry, "https://sigstore.dev/cosign/sign/v1");
    let archive = signed(&others);
    let bundle = bundle(&archive, is_it).replace(&hint(&others), &hint(&keys));
    let said = wrong(&replaced(&archive, is_it, bundle.as_bytes()), &keys);
    assert!(said.starts_with("the signature of the image is not by this key"), "{said}");
}

/// The bundle of a referrer.
fn bundle(archive: &[u8], is_it: impl Fn(&Value) -> bool) -> String {
    let layout = Layout::read(archive).expect("of its form");
    let files = unpack(archive);
    let index: Value = serde_json::from_slice(&files["index.json"]).expect("of its form");
    let at = index["manifests"]
        .as_array()
        .expect("of its form")
        .iter()
        .position(is_it)
        .expect("of its form");
    let (_, manifest) = &layout.referrers().expect("of its form")[at - 1];
    String::from_utf8(layout.blob(&manifest.layers()[0]).expect("of its form").to_owned())
        .expect("of its form")
}

#[test]
fn what_is_signed_cannot_be_changed_under_its_signature() {
    let keys = keys();
    let archive = signed(&keys);
    let is_it = |entry: &Value| says(entry, "https://cyclonedx.org/bom");
    let mut changed: Value = serde_json::from_str(&bundle(&archive, is_it)).expect("of its form");
    // That of the image itself, which is signed as well.
    let other = bundle(&archive, |entry| says(entry, "https://sigstore.dev/cosign/sign/v1"));
    let other_value: Value = serde_json::from_str(&other).expect("of its form");
    changed["dsseEnvelope"]["payload"] = other_value["dsseEnvelope"]["payload"].clone();
    let said = wrong(&replaced(&archive, is_it, changed.to_string().as_bytes()), &keys);
    assert!(said.starts_with("the signature of the SBOM is not by this key"), "{said}");
    // One statement in another's place, signature and all.
    let said = wrong(&replaced(&archive, is_it, other.as_bytes()), &keys);
    assert!(said.starts_with("the signed statement about the SBOM has predicateType"), "{said}");
}

#[test]
fn a_missing_signature_is_said_to_be_missing() {
    let keys = keys();
    let unsigned = signed_with(&image(PROGRAM), &sbom(PROGRAM), None);
    assert_eq!(wrong(&unsigned, &keys), "there is no signature of the image");
    for (predicate_type, what) in [
        ("https://sigstore.dev/cosign/sign/v1", "image"),
        ("https://cyclonedx.org/bom", "SBOM"),
        ("https://slsa.dev/provenance/v1", "provenance"),
    ] {
        let archive = without(&signed(&keys), |entry| says(entry, predicate_type));
        assert_eq!(wrong(&archive, &keys), format!("there is no signature of the {what}"));
    }
}

#[test]
fn another_name_than_the_signed_one_is_refused() {
    let keys = keys();
    let name = "example.com/whydrop:2.0.0";
    let archive = with_index(&signed(&keys), |entries| {
        let names = &mut entries[0]["annotations"];
        names["io.containerd.image.name"] = json!(name);
        names["org.opencontainers.image.ref.name"] = json!("2.0.0");
    });
    assert!(wrong(&archive, &keys).contains("names another RepoTags"));
    let mut files = unpack(&archive);
    let mut docker: Value = serde_json::from_slice(&files["manifest.json"]).expect("of its form");
    docker[0]["RepoTags"] = json!([name]);
    files.insert("manifest.json".to_owned(), docker.to_string().into_bytes());
    let said = wrong(&pack(&files), &keys);
    assert!(said.contains(&format!("name {NAME}, expected {name}")), "{said}");
}

#[test]
fn what_only_docker_would_load_is_refused() {
    let keys = keys();
    let mut files = unpack(&signed(&keys));
    let tar = pack(&Files::from([("whydrop".to_owned(), b"something else".to_vec())]));
    let layer = add(&mut files, tar, GZIP);
    let mut docker: Value = serde_json::from_slice(&files["manifest.json"]).expect("of its form");
    let path = layer["digest"].as_str().expect("of its form").replace("sha256:", "blobs/sha256/");
    docker[0]["Layers"] = json!([path]);
    files.insert("manifest.json".to_owned(), docker.to_string().into_bytes());
    assert!(wrong(&pack(&files), &keys).contains("names another Layers"));
}

#[test]
fn what_nobody_signed_does_not_travel_with_it() {
    let keys = keys();
    let mut files = unpack(&signed(&keys));
    files.insert("install.sh".to_owned(), b"#!/bin/sh".to_vec());
    assert!(wrong(&pack(&files), &keys).contains("the archive holds install.sh"));

    let second = with_index(&signed(&keys), |entries| {
        let name = json!({"io.containerd.image.name": "example.com/other:1"});
        entries[1]["annotations"] = name;
    });
    assert!(wrong(&second, &keys).contains("a name for blobs/sha256/"));

    // Twice the same path: tar takes the last one, others the first.
    let archive = signed(&keys);
    let mut twice = Builder::new(Vec::new());
    for _ in 0..2 {
        for (path, bytes) in unpack(&archive) {
            let mut header = Header::new_ustar();
            header.set_size(bytes.len() as u64);
            twice.append_data(&mut header, path, bytes.as_slice()).expect("of its form");
        }
    }
    let said = wrong(&twice.into_inner().expect("of its form"), &keys);
    assert!(said.contains("is in the archive twice"), "{said}");
}

#[test]
fn an_image_takes_one_set_of_documents() {
    let keys = keys();
    let mut layout = Layout::read(signed(&keys).as_slice()).expect("of its form");
    let again = attach(&mut layout, b"{}", json!({}), Some(&keys.private));
    assert!(again.unwrap_err().to_string().contains("attached to this image already"));
}

#[test]
fn keys_of_another_kind_are_refused_in_words() {
    let said =
        Public::from_pem("-----BEGIN CERTIFICATE-----").err().expect("of its form").to_string();
    assert!(said.contains("expected a public key for ECDSA on P-256"), "{said}");
    let said = Private::from_pem("").err().expect("of its form").to_string();
    assert!(said.contains("openssl genpkey"), "{said}");
}

#[test]
fn what_differs_between_two_images_is_named() {
    let keys = keys();
    let (one, same) = (signed(&keys), signed(&keys));
    assert!(differences(&one, &same).expect("of its form").is_empty());
    let other = b"what the NODES run";
    let other = signed_with(&image(other), &sbom(other), Some(&keys.private));
    let lines = differences(&one, &other).expect("of its form");
    let of = |path: &str| lines.iter().filter(|line| line.starts_with(path)).count();
    assert_eq!(of("/whydrop: from byte 9 "), 1, "{lines:?}");
    assert_eq!(of("the configuration .rootfs .diff_ids [0]: "), 1, "{lines:?}");
    assert_eq!(of("application/vnd.cyclonedx+json  .metadata"), 1, "{lines:?}");
}

#[test]
fn the_section_of_a_program_that_differs_is_named() {
    // A program that is at hand.
    let one = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let file = object::File::parse(one.as_slice()).unwrap();
    let (at, _) = file.section_by_name(".rodata").unwrap().file_range().unwrap();
    let mut other = one.clone();
    other[usize::try_from(at).unwrap() + 100] ^= 1;
    let lines = differences(&image(&one), &image(&other)).unwrap();
    let programs: Vec<_> = lines.iter().filter(|line| line.starts_with("/whydrop ")).collect();
    let [line] = programs.as_slice() else { panic!("{lines:?}") };
    assert!(line.starts_with("/whydrop section .rodata: from byte 100 of "), "{line}");
}
