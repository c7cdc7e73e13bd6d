//! Objects from manifests: YAML and JSON, files, folders and standard input, several documents.

mod fault;
mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use whydrop_core::{
    cluster::{
        Cluster,
        object::{Key, Object},
        profile::detect::{self, Sign},
    },
    kinds::{self, Role, Scope},
    policy::unread::Unread,
};

pub use self::{
    fault::{ManifestError, Origin, Remark, Touches},
    files::files,
};
pub use crate::yaml::{YamlError, value as yaml};
use crate::{
    decode::{Decoded, TypeMeta, decode, is_endpoints, takes_part},
    documents::{self, Content, Fault, Piece},
    yaml::Repeated,
};

/// Every object of a text, with the items of lists, as kubectl would find them; `None` where something
/// in it cannot be read, or is there twice.
pub fn objects(text: &str) -> Option<Vec<Value>> {
    let mut objects = Some(Vec::new());
    documents::read(text.as_bytes(), false, &mut |piece| match (piece.content, &mut objects) {
        (Content::Object(object, None), Some(objects)) => objects.push(object),
        _ => objects = None,
    });
    objects
}

/// What manifests hold.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The objects, in the order of files and documents.
    pub objects: Vec<Object>,
    /// How many objects of kinds that take no part were ignored.
    pub ignored: BTreeMap<String, usize>,
    /// Those that this version does not read, and what they may do.
    pub unread: Vec<Arc<Unread>>,
    /// What the objects show of who enforces policies.
    pub signs: Vec<Sign>,
    /// What is wrong with the others.
    pub errors: Vec<ManifestError>,
    /// What is passed over, and what else is to be known of them.
    pub remarks: Vec<Remark>,
    /// Slices that stand for Endpoints, which count for a Service that no slice stands for.
    pub(crate) endpoints: Vec<Object>,
}

/// A text that is read.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// The file, or `standard input`.
    name: &'a str,
    /// It was not named, but is in a folder, where other files may be beside manifests.
    is_in_folder: bool,
}

impl Manifests {
    /// Reads files, folders with those below them, and `-`.
    pub fn read(paths: &[PathBuf]) -> Self {
        let mut manifests = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                let source = Source { name: "standard input", is_in_folder: false };
                manifests.read_from(source, io::stdin().lock(), false);
            } else if path.is_dir() {
                manifests.read_folder(path);
            } else {
                manifests.open(path, false);
            }
        }
        manifests
    }

    fn read_folder(&mut self, folder: &Path) {
        match files(folder) {
            Ok(files) if files.is_empty() => {
                self.errors.push(ManifestError::Empty { path: folder.display().to_string() });
            }
            Ok(files) => files.iter().for_each(|file| self.open(file, true)),
            Err(source) => self.unreadable(folder.display().to_string(), source),
        }
    }

    /// Reads one file of a folder.
    pub fn read_file(&mut self, file: &Path) {
        self.open(file, true);
    }

    fn open(&mut self, path: &Path, is_in_folder: bool) {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => {
                let is_json = path.extension().is_some_and(|ending| ending == "json");
                self.read_from(Source { name: &name, is_in_folder }, file, is_json);
            }
            Err(source) => self.unreadable(name, source),
        }
    }

    fn unreadable(&mut self, path: String, source: io::Error) {
        self.errors.push(ManifestError::Read { path, source });
    }

    /// Reads the documents of one file.
    pub fn read_text(&mut self, file: &str, text: &str) {
        let is_json = Path::new(file).extension().is_some_and(|ending| ending == "json");
        self.read_from(Source { name: file, is_in_folder: false }, text.as_bytes(), is_json);
    }

    fn read_from(&mut self, source: Source<'_>, input: impl Read, is_json: bool) {
        documents::read(input, is_json, &mut |piece| self.take(source, piece));
    }

    fn take(&mut self, source: Source<'_>, piece: Piece) {
        let mut origin = Origin::of(source.name, piece.place);
        match piece.content {
            Content::Object(Value::Null, _) => {}
            Content::Object(value, repeated) => {
                if let Some(Repeated { key, line: again }) = repeated {
                    origin.object = object_name(&value);
                    self.remark(Remark::Repeated { origin: origin.clone(), key, again });
                }
                self.add(source, &origin, value);
            }
            Content::Template => self.remark(Remark::Template { file: source.name.to_owned() }),
            Content::CutOff => {
                let message = "expected `kind: List` after the items, found the end".to_owned();
                self.errors.push(ManifestError::Syntax { origin, message });
            }
            Content::Fault(Fault::Read(error), _) => {
                self.unreadable(source.name.to_owned(), error);
            }
            Content::Fault(fault, of) => {
                let message = fault.to_string();
                if !of.kind.is_empty() {
                    origin.object.clone_from(&of.kind);
                }
                let error = ManifestError::Syntax { origin, message };
                match of == TypeMeta::default() || takes_part(&of) {
                    true => self.errors.push(error),
                    false => self.remark(Remark::PassedOver(error)),
                }
            }
        }
    }

    fn remark(&mut self, remark: Remark) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    fn add(&mut self, source: Source<'_>, origin: &Origin, value: Value) {
        let origin = Origin { object: object_name(&value), ..origin.clone() };
        let meta = match TypeMeta::of(&value) {
            Ok(meta) => meta,
            // Values of a chart, settings of other tools.
            Err(_) if source.is_in_folder => {
                return self.remark(Remark::NoObject { file: source.name.to_owned() });
            }
            Err(problem) => {
                let touches = Touches::Everything;
                return self.errors.push(ManifestError::Field { origin, problem, touches });
            }
        };
        if meta.kind == "Kustomization" && meta.api_version.starts_with("kustomize.") {
            self.remark(Remark::Kustomization { file: source.name.to_owned() });
        }
        if is_template(&meta, &value) {
            return self.remark(Remark::Template { file: source.name.to_owned() });
        }
        self.signs.extend(detect::signs(&value));
        let (kind, touches) = (meta.to_string(), touches(&meta, &value));
        match decode(value) {
            Ok(Decoded::Object(object)) => self.objects.push(*object),
            Ok(Decoded::Endpoints(slices)) => self.endpoints.extend(slices),
            Ok(Decoded::List(items)) => {
                for item in items {
                    self.add(source, &origin, item);
                }
            }
            Ok(Decoded::NoPart) => *self.ignored.entry(kind).or_default() += 1,
            Ok(Decoded::Unread(unread)) => self.unread.push(Arc::from(unread)),
            Err(problem) if touches == Touches::Nothing => {
                let error = ManifestError::Field { origin, problem, touches };
                self.remark(Remark::PassedOver(error));
            }
            Err(problem) => {
                self.errors.push(ManifestError::Field { origin, problem, touches });
            }
        }
    }

    /// The cluster that these manifests describe: everything in them is synced.
    pub fn cluster(self) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.set_engine(detect::detect(&self.signs));
        cluster.set_unread(self.unread);
        let sliced: BTreeSet<ServiceName> = self.objects.iter().filter_map(sliced).collect();
        let endpoints = self.endpoints.into_iter();
        let endpoints = endpoints.filter(|slice| stands_alone(slice, &sliced));
        for object in self.objects.into_iter().chain(endpoints) {
            cluster.apply(object, None);
        }
        cluster
    }

    /// The keys of the objects.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.objects.iter().map(Object::key)
    }
}

/// Namespace and name of a Service.
pub(crate) type ServiceName = (Arc<str>, Arc<str>);

/// The Service that a slice is of.
pub(crate) fn sliced(object: &Object) -> Option<ServiceName> {
    match object {
        Object::EndpointSlice(slice) => Some((slice.namespace.clone(), slice.service.clone()?)),
        _ => None,
    }
}

/// Whether a slice that stands for Endpoints is of a Service that has no others.
pub(crate) fn stands_alone(slice: &Object, services: &BTreeSet<ServiceName>) -> bool {
    sliced(slice).is_none_or(|service| !services.contains(&service))
}

/// What a fault of this object can make a difference to.
fn touches(meta: &TypeMeta, value: &Value) -> Touches {
    let name = |field: &str, default: &str| {
        let name = value["metadata"][field].as_str().filter(|name| !name.is_empty());
        Touches::Namespace(name.unwrap_or(default).to_owned())
    };
    let row = match kinds::named(&meta.api_version, &meta.kind) {
        Some(row) => row,
        None if is_endpoints(meta) => return name("namespace", "default"),
        None => return Touches::Everything,
    };
    match (row.role, row.scope) {
        (Role::Staged, _) => Touches::Nothing,
        (_, Scope::Namespace) => name("namespace", "default"),
        _ if row.kind == "Namespace" => name("name", ""),
        _ => Touches::Everything,
    }
}

/// Whether an object that takes part has `{{` where no object can have it, but a template of one.
fn is_template(meta: &TypeMeta, value: &Value) -> bool {
    let Some(row) = kinds::named(&meta.api_version, &meta.kind) else { return false };
    let metadata = &value["metadata"];
    let places = [&metadata["name"], &metadata["namespace"], &metadata["labels"]];
    let spec = row.decides().then(|| &value["spec"]);
    places.into_iter().chain(spec).any(has_braces)
}

fn has_braces(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{"),
        Value::Array(items) => items.iter().any(has_braces),
        Value::Object(map) => {
            map.iter().any(|(key, value)| key.contains("{{") || has_braces(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// `NetworkPolicy backend/allow-web`, as far as it says.
fn object_name(value: &Value) -> String {
    let kind = value["kind"].as_str().unwrap_or("(no kind)");
    let name = value["metadata"]["name"].as_str().unwrap_or("(no name)");
    match value["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
