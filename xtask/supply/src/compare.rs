//! What differs between two archives of what should be the same image, down to the section of the
//! program.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use object::{Object as _, ObjectSection as _};
use serde_json::Value;

use crate::layout::{Layout, SIZE_MAX, sha256};

/// How many bytes are shown around the first that differs: enough for a path.
const SHOWN: usize = 48;
/// What of them is shown, at most, of one file: the first say what it is.
const SECTIONS_MAX: usize = 8;

/// What differs, a line each; none where all bytes are the same.
///
/// # Errors
/// That one of the two is no archive of an image.
pub fn differences(first: &[u8], second: &[u8]) -> Result<Vec<String>> {
    if first == second {
        return Ok(Vec::new());
    }
    let (first, second) = (parts(first)?, parts(second)?);
    let mut lines = Vec::new();
    let paths: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    for path in paths {
        match (first.get(path), second.get(path)) {
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) => lines.extend(within(path, one, other)),
            (Some(_), None) => lines.push(format!("{path}: only in the first")),
            _ => lines.push(format!("{path}: only in the second")),
        }
    }
    if lines.is_empty() {
        // Such as the order of files, or how they are packed.
        lines.push("the archives differ, and nothing that is in them".to_owned());
    }
    Ok(lines)
}

/// What an archive holds, by what it is and not by its digest: files of the image, its configuration,
/// and what refers to it.
fn parts(archive: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let layout = Layout::read(archive)?;
    let (_, manifest) = layout.image()?;
    let mut parts = BTreeMap::new();
    parts.insert("the configuration".to_owned(), layout.blob(manifest.config())?.to_owned());
    for layer in manifest.layers() {
        let mut tar = Vec::new();
        let mut unpacked = GzDecoder::new(layout.blob(layer)?).take(SIZE_MAX);
        unpacked.read_to_end(&mut tar).context("a layer")?;
        let files = Layout::read(tar.as_slice())?;
        for path in files.paths() {
            parts.insert(format!("/{path}"), files.file(path)?.to_owned());
        }
    }
    for (descriptor, manifest) in layout.referrers()? {
        let layer = manifest.layers().first().context("a layer of what refers to the image")?;
        let kind = descriptor.artifact_type().as_ref().map(ToString::to_string).unwrap_or_default();
        let annotations = descriptor.annotations().clone().unwrap_or_default();
        let said: BTreeMap<_, _> = annotations.into_iter().collect();
        let said: Vec<_> = said.values().map(String::as_str).collect();
        parts.insert(format!("{kind} {}", said.join(" ")), layout.blob(layer)?.to_owned());
    }
    Ok(parts)
}

/// What differs within a part.
fn within(path: &str, first: &[u8], second: &[u8]) -> Vec<String> {
    let json = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    if let (Some(one), Some(other)) = (json(first), json(second)) {
        let mut lines = Vec::new();
        fields(path, &one, &other, &mut lines);
        return lines;
    }
    let sections = sections(path, first, second);
    if sections.is_empty() { vec![bytes(path, first, second)] } else { sections }
}

/// The fields of JSON that differ.
fn fields(path: &str, first: &Value, second: &Value, lines: &mut Vec<String>) {
    match (first, second) {
        (one, other) if one == other => {}
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let (one, other) = (one.get(key), other.get(key));
                let absent = &Value::Null;
                let path = format!("{path} .{key}");
                fields(&path, one.unwrap_or(absent), other.unwrap_or(absent), lines);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (at, (one, other)) in one.iter().zip(other).enumerate() {
                fields(&format!("{path} [{at}]"), one, other, lines);
            }
        }
        (one, other) => {
            let (one, other) = (one.to_string(), other.to_string());
            lines.push(bytes(path, one.as_bytes(), other.as_bytes()));
        }
    }
}

/// The sections of a program that differ.
fn sections(path: &str, first: &[u8], second: &[u8]) -> Vec<String> {
    let read = |bytes| {
        let program = object::File::parse(bytes).ok()?;
        let sections = program.sections().filter_map(|section| {
            let name = section.name().ok()?.to_owned();
            Some((name, section.data().ok()?.to_owned()))
        });
        Some(sections.collect::<BTreeMap<_, _>>())
    };
    let (Some(first), Some(second)) = (read(first), read(second)) else { return Vec::new() };
    let empty = Vec::new();
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let pairs = names.into_iter().map(|name| {
        let (one, other) = (first.get(name).unwrap_or(&empty), second.get(name).unwrap_or(&empty));
        (name, one, other)
    });
    let differ = pairs.filter(|(_, one, other)| one != other);
    differ
        .take(SECTIONS_MAX)
        .map(|(name, one, other)| bytes(&format!("{path} section {name}"), one, other))
        .collect()
}

/// Where bytes begin to differ, and what is there.
fn bytes(path: &str, first: &[u8], second: &[u8]) -> String {
    let at = first.iter().zip(second).take_while(|(one, other)| one == other).count();
    let shown = |bytes: &[u8]| {
        let from = at.saturating_sub(SHOWN / 2).min(bytes.len());
        let to = (at + SHOWN).min(bytes.len());
        bytes[from..to].escape_ascii().to_string()
    };
    let (one, other) = (sha256(first), sha256(second));
    format!(
        "{path}: from byte {at} of {} and {} on: \"{}\" and \"{}\" (SHA-256 {}.. and {}..)",
        first.len(),
        second.len(),
        shown(first),
        shown(second),
        &one[..12],
        &other[..12],
    )
}
