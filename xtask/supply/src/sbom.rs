//! What an image's program is made of, as CycloneDX has it: every crate that is linked into it, the
//! eBPF object in it with its own crates, and Rust's standard library.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::Package;
use cyclonedx_bom::{
    external_models::{
        normalized_string::NormalizedString,
        spdx::SpdxExpression,
        uri::{Purl, Uri},
    },
    models::{
        bom::{Bom, SpecVersion},
        component::{Classification, Component, Components},
        dependency::{Dependencies, Dependency},
        external_reference::{ExternalReference, ExternalReferenceType, ExternalReferences},
        hash::{Hash, HashAlgorithm, HashValue, Hashes},
        license::{LicenseChoice, Licenses},
        metadata::Metadata,
        tool::{Tool, Tools},
    },
    validation::Validate as _,
};
use memchr::memmem;

use crate::{
    crates::{Build, Id, Links, checksums, linked, packages},
    layout::sha256,
};

/// The media type of an SBOM, and the type of what refers to an image with one.
pub const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";
/// The file that the eBPF programs are compiled to.
pub const OBJECT: &str = "whydrop-programs";

/// The one program, and the target of what is in it for the kernel.
const PROGRAM: &str = "whydrop";
const EBPF: Build<'_> =
    Build { package: "whydrop-ebpf", features: &["programs"], target: "bpfel-unknown-none" };
/// What the eBPF programs declare to the kernel is narrower than what their sources may be used for:
/// the object is under the latter.
const EBPF_LICENSE: &str = "MIT OR Apache-2.0 OR GPL-2.0-only";
/// Of Rust's standard library.
const STANDARD: &str = "rust-std";
const STANDARD_LICENSE: &str = "MIT OR Apache-2.0";

/// What the SBOM is of.
pub struct Contents<'a> {
    /// The repository.
    pub root: &'a Path,
    /// What the program was built for, as Rust calls it.
    pub target: &'a str,
    /// The program.
    pub program: &'a [u8],
    /// The eBPF object.
    pub object: &'a [u8],
    /// The compiler's version, and its standard library's.
    pub rust: &'a str,
}

/// Writes the SBOM: the same input makes the same bytes.
///
/// # Errors
/// That the object is not in the program, or that a crate says no licence.
pub fn write(contents: &Contents<'_>) -> Result<Vec<u8>> {
    ensure!(
        !contents.object.is_empty() && memmem::find(contents.program, contents.object).is_some(),
        "the program does not hold the eBPF object that was built with it"
    );
    let root = contents.root;
    let build = Build { package: PROGRAM, features: &[], target: contents.target };
    let program = linked(root, &build)?;
    let object = linked(root, &EBPF)?;
    let facts = Facts {
        packages: packages(root, &[contents.target, EBPF.target])?,
        checksums: checksums(root)?,
    };

    let all: BTreeSet<&Id> = program.keys().chain(object.keys()).collect();
    let (mut components, mut this) = (Vec::new(), None);
    for id in all {
        let component = facts.component(id)?;
        if id.name == PROGRAM { this = Some(component) } else { components.push(component) }
    }
    let mut this = this.context("the program's own crate is not among those linked into it")?;
    this.component_type = Classification::Application;
    this.hashes = Some(hash(&sha256(contents.program)));
    components.push(object_component(contents.object, &this));
    components.push(standard(contents.rust)?);

    let bom = Bom {
        metadata: Some(Metadata {
            tools: Some(Tools::List(vec![Tool::new(
                "whydrop",
                "cargo xtask image",
                env!("CARGO_PKG_VERSION"),
            )])),
            component: Some(this),
            // No time: the same sources make the same bytes.
            ..Metadata::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(dependencies(&program, &object, contents.rust)),
        // Random, else.
        serial_number: None,
        ..Bom::default()
    };
    let validation = bom.validate_version(SpecVersion::V1_5);
    ensure!(validation.passed(), "the SBOM is not valid: {validation:?}");
    let mut bytes = Vec::new();
    bom.output_as_json_v1_5(&mut bytes).context("write the SBOM")?;
    Ok(bytes)
}

/// What is known of crates.
struct Facts {
    packages: BTreeMap<Id, Package>,
    checksums: BTreeMap<Id, String>,
}

impl Facts {
    fn component(&self, id: &Id) -> Result<Component> {
        let package = self.packages.get(id).with_context(|| format!("no manifest of {id}"))?;
        let mut component = library(&id.name, &id.version, reference(id));
        component.description = package.description.as_deref().map(NormalizedString::new);
        component.licenses = Some(licenses(package)?);
        component.hashes = self.checksums.get(id).map(|checksum| hash(checksum));
        component.purl = Some(purl(package, id)?);
        let repository = package.repository.clone().map(Uri::try_from).transpose();
        component.external_references = repository.ok().flatten().map(|uri| {
            ExternalReferences(vec![ExternalReference::new(ExternalReferenceType::Vcs, uri)])
        });
        Ok(component)
    }
}

fn library(name: &str, version: &str, reference: String) -> Component {
    Component::new(Classification::Library, name, version, Some(reference))
}

/// What a component is called within the SBOM.
fn reference(id: &Id) -> String {
    format!("pkg:cargo/{id}")
}

/// Where a crate comes from: crates.io, or, of our own, which are not published, our repository.
fn purl(package: &Package, id: &Id) -> Result<Purl> {
    let purl = Purl::new("cargo", &id.name, &id.version).context("a package URL")?;
    if package.source.is_some() {
        return Ok(purl);
    }
    let repository = package.repository.as_deref().context("a repository in each manifest")?;
    let purl = format!("{purl}?vcs_url=git%2B{repository}");
    purl.parse().map_err(|()| anyhow::anyhow!("not a package URL: {purl}"))
}

fn licenses(package: &Package) -> Result<Licenses> {
    let choice = match (&package.license, &package.license_file) {
        (Some(license), _) => {
            // How crates said it before there were expressions.
            let license = license.replace('/', " OR ");
            let expression = SpdxExpression::try_from(license.clone());
            LicenseChoice::Expression(expression.with_context(|| license)?)
        }
        (None, Some(file)) => LicenseChoice::license(&format!("{file} in the crate")),
        (None, None) => anyhow::bail!("{} says no licence", package.name),
    };
    Ok(Licenses(vec![choice]))
}

fn hash(sha256: &str) -> Hashes {
    Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(sha256.to_owned()) }])
}

fn expression(license: &str) -> Licenses {
    Licenses(vec![LicenseChoice::expression(license)])
}

/// The eBPF programs as the kernel gets them.
fn object_component(object: &[u8], program: &Component) -> Component {
    let version = program.version.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut component =
        Component::new(Classification::File, OBJECT, &version, Some(OBJECT.to_owned()));
    component.description =
        Some(NormalizedString::new("The eBPF programs, in the program that loads them"));
    component.hashes = Some(hash(&sha256(object)));
    component.licenses = Some(expression(EBPF_LICENSE));
    component
}

/// What every Rust program is linked with and no `Cargo.lock` has.
fn standard(rust: &str) -> Result<Component> {
    let mut component = library(STANDARD, rust, standard_reference(rust));
    component.description = Some(NormalizedString::new(
        "Rust's standard library and what is linked into it, with the musl that it brings for \
         static programs",
    ));
    component.licenses = Some(expression(STANDARD_LICENSE));
    component.purl = Some(Purl::new("generic", STANDARD, rust).context("a package URL")?);
    Ok(component)
}

fn standard_reference(rust: &str) -> String {
    format!("pkg:generic/{STANDARD}@{rust}")
}

/// Who is linked with whom.
fn dependencies(program: &Links, object: &Links, rust: &str) -> Dependencies {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (id, others) in program.iter().chain(object) {
        all.entry(reference(id)).or_default().extend(others.iter().map(reference));
    }
    let standard = standard_reference(rust);
    for (id, _) in program.iter().filter(|(id, _)| id.name == PROGRAM) {
        let linked = [OBJECT.to_owned(), standard.clone()];
        all.entry(reference(id)).or_default().extend(linked);
    }
    let programs = object.keys().filter(|id| id.name == EBPF.package).map(reference);
    all.insert(OBJECT.to_owned(), programs.chain([standard.clone()]).collect());
    all.insert(standard, BTreeSet::new());
    let dependency = |(dependency_ref, on): (String, BTreeSet<String>)| Dependency {
        dependency_ref,
        dependencies: on.into_iter().collect(),
    };
    Dependencies(all.into_iter().map(dependency).collect())
}
