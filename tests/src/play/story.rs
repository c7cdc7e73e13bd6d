//! A story: what is in force, what changes, what is reported of the flow that the change cuts off,
//! and how the fix is asked for. Data, one file each, that any world can play.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::repository;

/// One file of `tests/changes/` or `tests/stories/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    /// One line.
    pub title: String,
    /// The pod that connects, `namespace/name`.
    #[serde(default = "client")]
    pub from: String,
    /// The pod that it connects to.
    #[serde(default = "server")]
    pub to: String,
    /// The server's port, its own for each story that is played on the same world: a flow that was
    /// dropped once is reported again only later.
    pub port: u16,
    /// What is in force before, beside the pods.
    #[serde(default)]
    pub before: Vec<Value>,
    /// What happens.
    pub change: Change,
    /// What connects although the story's flow does not.
    #[serde(default)]
    pub still: Vec<Attempt>,
    /// What the drop's record is like.
    pub drop: Value,
    /// What the incident's record is like.
    pub incident: Value,
    /// In which form the fix is asked for.
    pub fix: Fix,
}

/// An attempt to connect.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The pod that connects.
    pub from: String,
    /// The pod that it connects to.
    pub to: String,
    /// On which port.
    pub port: u16,
}

/// What happens in a story.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Objects that are applied.
    #[serde(default)]
    pub apply: Vec<Value>,
    /// A command of kubectl's.
    #[serde(default)]
    pub kubectl: Vec<String>,
    /// The agents are killed and started again before the flow is dropped.
    #[serde(default)]
    pub restart: bool,
}

/// In which form a fix is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fix {
    /// New policies.
    New,
    /// Rules for policies that are there.
    Patch,
}

impl Story {
    /// The servers that it needs: a pod and a port each.
    pub fn servers(&self) -> impl Iterator<Item = (&str, u16)> {
        let still = self.still.iter().map(|attempt| (&*attempt.to, attempt.port));
        still.chain([(&*self.to, self.port)])
    }

    /// Reads the story in a file.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        serde_saphyr::from_str(&text).with_context(|| file.display().to_string())
    }
}

/// The stories in a folder of `tests/`, by the names of their files.
pub fn stories(folder: &str) -> Result<BTreeMap<String, Story>> {
    let folder = repository("tests").join(folder);
    let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let read = |file: std::io::Result<fs::DirEntry>| {
        let path = file?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, Story::read(&path)?))
    };
    files.map(read).collect()
}

fn client() -> String {
    "frontend/pod-a".to_owned()
}

fn server() -> String {
    "backend/pod-b".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_story_with_a_port_of_its_own() {
        for folder in ["stories", "changes"] {
            let stories = stories(folder).expect("stories");
            let mut ports: Vec<u16> = stories.values().map(|story| story.port).collect();
            ports.sort_unstable();
            ports.dedup();
            assert!(!stories.is_empty() && ports.len() == stories.len(), "{folder}: {ports:?}");
        }
    }
}
