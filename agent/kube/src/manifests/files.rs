//! The manifests of a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// File name endings that count as manifests in a folder, as for `kubectl apply -f`.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// How deep folders are followed, and how many manifests are taken: a repository of all of a company's
/// clusters has some thousands, and what has more is a folder that was named by mistake.
const DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 20_000;

/// The manifests of a folder and of those below it, by name. Hidden folders, such as `.git`, hold none,
/// nor do links to folders, which may lead round in a circle.
///
/// # Errors
/// Where the folder cannot be read, or is too large.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(folder, 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth > DEPTH_MAX {
        let path = folder.display();
        return Err(io::Error::other(format!("expected folders {DEPTH_MAX} deep at most: {path}")));
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                collect(&path, depth + 1, files)?;
            }
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| ENDINGS.contains(&ending)) && path.is_file() {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!("expected {FILES_MAX} manifests at most")));
        }
    }
    Ok(())
}
