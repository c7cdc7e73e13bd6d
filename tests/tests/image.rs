//! The image is what the specification of images wants and what the manifests name, holds one static
//! program and no shell, and comes out the same each time.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Output},
};

use object::{
    Endianness,
    elf::{EM_AARCH64, EM_X86_64, FileHeader64, Machine, PT_INTERP},
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, OciLayout, Os,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use whydrop_tests::world::agent::beside;

/// What `deploy/` names.
const NAME: &str = concat!("ghcr.io/whydrop/whydrop:", env!("CARGO_PKG_VERSION"));

/// This machine's processor, as images and as programs call it.
const PROCESSOR: (Arch, Machine) = if cfg!(target_arch = "aarch64") {
    (Arch::ARM64, EM_AARCH64)
} else {
    (Arch::Amd64, EM_X86_64)
};

/// What is at a path of an archive.
struct Entry {
    mode: u32,
    bytes: Vec<u8>,
}

type Entries = BTreeMap<String, Entry>;

fn xtask(arguments: &[&str]) -> Output {
    let mut xtask = Command::new(beside("xtask").expect("xtask"));
    xtask.arg("image").args(arguments).env_remove("SOURCE_DATE_EPOCH");
    xtask.output().expect("cargo xtask image")
}

/// Makes an image of this machine's kind.
fn image(folder: &TempDir, name: &str) -> Vec<u8> {
    let path = folder.path().join(name);
    let output = xtask(&["-o", path.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    fs::read(path).expect("an archive")
}

/// Reads an archive in which everything is root's and of one time.
fn entries(archive: &[u8]) -> Entries {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("an archive").map(|entry| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let header = entry.header();
        let ids = (header.uid().expect("a uid"), header.gid().expect("a gid"));
        assert_eq!((ids, header.mtime().expect("a time")), ((0, 0), 0), "{path}");
        let mode = header.mode().expect("a mode");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("a file");
        (path, Entry { mode, bytes })
    });
    entries.collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The blob that a descriptor describes.
fn blob<'a>(entries: &'a Entries, descriptor: &Descriptor) -> &'a [u8] {
    let bytes = &entries[&format!("blobs/sha256/{}", descriptor.digest().digest())].bytes;
    assert_eq!(sha256(bytes), descriptor.digest().digest());
    assert_eq!(bytes.len() as u64, descriptor.size());
    bytes
}

#[test]
fn the_image_is_well_formed_and_comes_out_the_same_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = image(&folder, "one.tar");
    assert!(archive == image(&folder, "two.tar"), "two runs differ");
    let left: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
    assert_eq!(left.len(), 2, "something is left behind: {left:?}");
    let entries = entries(&archive);

    let layout = OciLayout::from_reader(&entries["oci-layout"].bytes[..]).expect("a layout");
    assert_eq!(layout.image_layout_version(), "1.0.0");
    let index = ImageIndex::from_reader(&entries["index.json"].bytes[..]).expect("an index");
    let [described, beside @ ..] = index.manifests().as_slice() else { panic!("an image") };
    let beside: Vec<_> = beside.iter().map(|other| refers_to(&entries, described, other)).collect();
    assert_eq!(beside, ["application/vnd.cyclonedx+json", "application/vnd.in-toto+json"]);
    assert_eq!(*described.media_type(), MediaType::ImageManifest);
    let platform = described.platform().as_ref().expect("a platform");
    assert_eq!((platform.os(), platform.architecture()), (&Os::Linux, &PROCESSOR.0));
    let name = described.annotations().as_ref().and_then(|all| all.get("io.containerd.image.name"));
    assert_eq!(name.map(String::as_str), Some(NAME));

    let manifest = ImageManifest::from_reader(blob(&entries, described)).expect("a manifest");
    let config = manifest.config();
    assert_eq!(*config.media_type(), MediaType::ImageConfig);
    let [layer] = manifest.layers().as_slice() else { panic!("one layer") };
    assert_eq!(*layer.media_type(), MediaType::ImageLayerGzip);
    // Docker reads its own index of the same blobs.
    let docker: Value = serde_json::from_slice(&entries["manifest.json"].bytes).expect("JSON");
    let path = |descriptor: &Descriptor| format!("blobs/sha256/{}", descriptor.digest().digest());
    let expected = json!([{"Config": path(config), "Layers": [path(layer)], "RepoTags": [NAME]}]);
    assert_eq!(docker, expected);

    let mut files = Vec::new();
    let packed = blob(&entries, layer);
    flate2::read::GzDecoder::new(packed).read_to_end(&mut files).expect("gzip");
    configured(blob(&entries, config), &files);
    holds_one_program(&self::entries(&files));
}

/// The type of what refers to the image, all of which is there.
fn refers_to(entries: &Entries, image: &Descriptor, other: &Descriptor) -> String {
    let manifest = ImageManifest::from_reader(blob(entries, other)).expect("a manifest");
    let subject = manifest.subject().as_ref().expect("a subject");
    assert_eq!((subject.digest(), subject.size()), (image.digest(), image.size()));
    let [layer] = manifest.layers().as_slice() else { panic!("one document") };
    let document: Value = serde_json::from_slice(blob(entries, layer)).expect("JSON");
    assert!(document.is_object(), "{document}");
    assert_eq!(blob(entries, manifest.config()), b"{}");
    assert_eq!(manifest.artifact_type(), other.artifact_type());
    manifest.artifact_type().as_ref().expect("a type").to_string()
}

#[test]
fn a_signed_image_is_verified_and_another_key_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let key = |name: &str| {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let (private, public) = (path(&format!("{name}.key")), path(&format!("{name}.pub")));
        fs::write(&private, pair.serialize_pem()).expect("a key");
        fs::write(&public, pair.public_key_pem()).expect("a key");
        (private, public)
    };
    let ((private, public), (_, other)) = (key("ours"), key("others"));
    let archive = path("whydrop.tar");
    let made = xtask(&["-o", &archive, "--key", &private]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    let verify = |key: &str| {
        let mut xtask = Command::new(beside("xtask").expect("xtask"));
        let output = xtask.args(["verify", &archive, "--key", key]).output();
        let output = output.expect("cargo xtask verify");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (holds, said) = verify(&public);
    assert!(holds && said.ends_with("verified\n"), "{said}");
    for part in ["image: ", "whole: ", "signature: ", "SBOM: ", "provenance: "] {
        assert!(said.contains(&format!("holds  {part}")), "no {part} in {said}");
    }
    let (holds, said) = verify(&other);
    assert!(!holds && said.contains("wrong  the image was signed with another key"), "{said}");
}

/// What a container starts with.
fn configured(config: &[u8], files: &[u8]) {
    let config = ImageConfiguration::from_reader(config).expect("a configuration");
    assert_eq!((config.os(), config.architecture()), (&Os::Linux, &PROCESSOR.0));
    assert_eq!(*config.rootfs().diff_ids(), [format!("sha256:{}", sha256(files))]);
    let start = config.config().as_ref().expect("how to start");
    assert_eq!(start.entrypoint().as_deref(), Some(&["/whydrop".to_owned()][..]));
    assert_eq!(start.cmd(), &None, "arguments come from the manifest");
    assert_eq!(start.user().as_deref(), Some("0:0"));
    let labels = config.labels_of_config().expect("labels");
    let label = |name: &str| labels[&format!("org.opencontainers.image.{name}")].as_str();
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("title"), "whydrop");
    assert_eq!(label("created"), "1970-01-01T00:00:00Z");
    for name in ["description", "licenses", "source", "url"] {
        assert!(!label(name).is_empty(), "{name}");
    }
}

fn holds_one_program(files: &Entries) {
    let programs: Vec<_> =
        files.iter().filter(|(path, _)| !path.starts_with("licenses/")).collect();
    let [(path, program)] = programs.as_slice() else { panic!("one file besides the licences") };
    assert_eq!((path.as_str(), program.mode), ("whydrop", 0o555));
    let header = FileHeader64::<Endianness>::parse(program.bytes.as_slice()).expect("ELF");
    let endian = header.endian().expect("an endianness");
    assert_eq!(header.e_machine(endian), PROCESSOR.1);
    let segments = header.program_headers(endian, program.bytes.as_slice()).expect("segments");
    let loader = segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP);
    assert!(!loader, "it asks for a dynamic loader, and the image has none");
}

#[test]
fn the_manifests_name_the_image() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let base = repository.join("deploy/kustomize/base/daemonset.yaml");
    let base: Value =
        serde_saphyr::from_str(&fs::read_to_string(base).expect("a base")).expect("YAML");
    assert_eq!(base["spec"]["template"]["spec"]["containers"][0]["image"], NAME);
}

#[test]
fn bad_input_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing/image.tar");
    let missing = missing.to_str().expect("a path");
    for (arguments, word) in [
        (&["--arch", "s390x"][..], "amd64, arm64"),
        (&["--name", "whydrop"], "expected REPOSITORY:TAG"),
        (&["--name", "registry:5000/whydrop"], "expected REPOSITORY:TAG"),
        (&["-o", missing], "no such folder"),
        (&["--key", missing], "no such file"),
    ] {
        let output = xtask(arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success() && said.contains(word), "{arguments:?}: {said}");
    }
}
