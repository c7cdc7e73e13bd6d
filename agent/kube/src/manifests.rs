//! Objects from manifests: YAML and JSON, files, folders and standard input, several documents.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
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
    policy::unread::Unread,
    problem::Problem,
};

use crate::decode::{Decoded, TypeMeta, decode};

/// File name endings that count as manifests in a folder, as for `kubectl apply -f`.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Where an object comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, or `standard input`.
    pub file: String,
    /// 1-based number of the document in it.
    pub document: usize,
    /// 1-based line where the document starts.
    pub line: usize,
    /// The object, as far as it says: `NetworkPolicy backend/allow-web`.
    pub object: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, line, object } = self;
        write!(f, "{file}, document {document} (line {line})")?;
        if object.is_empty() { Ok(()) } else { write!(f, ", {object}") }
    }
}

/// Why manifests cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or folder that cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder without a manifest in it.
    #[error("{path}: no manifests in this folder: expected files ending in .yaml, .yml or .json")]
    Empty {
        /// Which.
        path: String,
    },
    /// A document that is not YAML or JSON.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser says.
        message: String,
    },
    /// A field that cannot be taken.
    #[error("{origin}: {problem}")]
    Field {
        /// Where.
        origin: Origin,
        /// What is wrong.
        problem: Problem,
    },
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
}

impl Manifests {
    /// Reads files, folders (not below their subfolders, as kubectl does) and `-`.
    pub fn read(paths: &[PathBuf]) -> Self {
        let mut manifests = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                let mut text = String::new();
                match io::stdin().read_to_string(&mut text) {
                    Ok(_) => manifests.read_text("standard input", &text),
                    Err(source) => manifests.unreadable("standard input".as_ref(), source),
                }
            } else if path.is_dir() {
                manifests.read_folder(path);
            } else {
                manifests.read_file(path);
            }
        }
        manifests
    }

    fn read_folder(&mut self, folder: &Path) {
        match files(folder) {
            Ok(files) if files.is_empty() => {
                self.errors.push(ManifestError::Empty { path: folder.display().to_string() });
            }
            Ok(files) => files.iter().for_each(|file| self.read_file(file)),
            Err(source) => self.unreadable(folder, source),
        }
    }

    /// Reads one file.
    pub fn read_file(&mut self, file: &Path) {
        match fs::read_to_string(file) {
            Ok(text) => self.read_text(&file.display().to_string(), &text),
            Err(source) => self.unreadable(file, source),
        }
    }

    fn unreadable(&mut self, path: &Path, source: io::Error) {
        self.errors.push(ManifestError::Read { path: path.display().to_string(), source });
    }

    /// Reads the documents of one file.
    pub fn read_text(&mut self, file: &str, text: &str) {
        let text = text.trim_start_matches('\u{feff}');
        // A brace may open YAML as well, where keys need no quotes.
        let is_json =
            || serde_json::Deserializer::from_str(text).into_iter::<Value>().all(|d| d.is_ok());
        if Path::new(file).extension().is_some_and(|e| e == "json")
            || (text.trim_start().starts_with('{') && is_json())
        {
            return self.read_json(file, text);
        }
        for (index, (line, document)) in yaml_documents(text).into_iter().enumerate() {
            let origin =
                Origin { file: file.to_owned(), document: index + 1, line, object: String::new() };
            match yaml(document, line) {
                Ok(Value::Null) => {}
                Ok(value) => self.add(&origin, value),
                Err(error) => {
                    let message = error.to_string();
                    self.errors.push(ManifestError::Syntax { origin, message });
                }
            }
        }
    }

    /// A stream of JSON documents.
    fn read_json(&mut self, file: &str, text: &str) {
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        for document in 1.. {
            let before = &text[..stream.byte_offset()];
            let line = before.matches('\n').count() + 1;
            let origin = Origin { file: file.to_owned(), document, line, object: String::new() };
            match stream.next() {
                None => return,
                Some(Ok(value)) => self.add(&origin, value),
                Some(Err(error)) => {
                    let message = error.to_string();
                    return self.errors.push(ManifestError::Syntax { origin, message });
                }
            }
        }
    }

    fn add(&mut self, origin: &Origin, value: Value) {
        let origin = Origin { object: object_name(&value), ..origin.clone() };
        let meta = TypeMeta::of(&value).unwrap_or_default();
        self.signs.extend(detect::signs(&value));
        let kind = meta.to_string();
        match decode(value) {
            Ok(Decoded::Object(object)) => self.objects.push(*object),
            Ok(Decoded::List(items)) => items.into_iter().for_each(|item| self.add(&origin, item)),
            Ok(Decoded::NoPart) => *self.ignored.entry(kind).or_default() += 1,
            Ok(Decoded::Unread(unread)) => self.unread.push(Arc::from(unread)),
            Err(problem) => self.errors.push(ManifestError::Field { origin, problem }),
        }
    }

    /// The cluster that these manifests describe: everything in them is synced.
    pub fn cluster(self) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.set_engine(detect::detect(&self.signs));
        cluster.set_unread(self.unread);
        for object in self.objects {
            cluster.apply(object, None);
        }
        cluster
    }

    /// The keys of the objects.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.objects.iter().map(Object::key)
    }
}

/// The manifests of a folder, by name.
///
/// # Errors
/// Where the folder cannot be read.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| ENDINGS.contains(&ending)) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Splits a file at its `---` lines, as kubectl does; a broken document leaves the others whole.
fn yaml_documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + 3, index + 1);
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    // Nothing, or comments alone, is no document.
    documents.retain(|(_, document)| {
        document.lines().any(|line| !matches!(line.trim_start().chars().next(), None | Some('#')))
    });
    documents
}

/// A document that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// The parser knows where.
    #[error("line {line}, column {column}: not YAML: {message}")]
    At {
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: u64,
        /// What the parser says.
        message: String,
    },
    /// It does not.
    #[error("not YAML: {0}")]
    Somewhere(String),
}

/// Reads one YAML (or JSON) document; line numbers in errors count from `start_line`.
///
/// # Errors
/// Where it is not YAML, and in which line and column.
pub fn yaml(document: &str, start_line: usize) -> Result<Value, YamlError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| {
        let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        match error.location() {
            Some(at) => {
                let line = start_line + usize::try_from(at.line()).unwrap_or(1).saturating_sub(1);
                let message =
                    message.split(" at line ").next().unwrap_or(&message).trim().to_owned();
                YamlError::At { line, column: at.column(), message }
            }
            None => YamlError::Somewhere(message),
        }
    })
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
