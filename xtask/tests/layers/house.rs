//! The modules of the house, which of them uses which, and whether that is in order.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{self, Path, Source};

/// A target of a crate.
pub(crate) struct Target {
    /// As others call it; none of a binary, which is not called.
    pub(crate) name: &'static str,
    /// Its root file.
    pub(crate) root: &'static str,
    /// Its rooms (the modules of its root) in order: each may use those above it. None: their order
    /// is not written.
    pub(crate) rooms: &'static [&'static str],
    /// Whether circles below the rooms are asked for as well.
    pub(crate) has_no_circles: bool,
}

/// A module: its target, by place in the order, and its path from the target's root.
type Module = (usize, Vec<String>);

fn within((target, path): &Module, name: &str) -> Module {
    let mut path = path.clone();
    path.push(name.to_owned());
    (*target, path)
}

/// Every module of some targets.
pub(crate) struct House<'a> {
    targets: &'a [Target],
    files: BTreeMap<Module, (String, Source)>,
    /// Files that could not be read.
    pub(crate) problems: Vec<String>,
}

/// That one module uses another, and where it says so.
#[derive(Clone, Debug)]
struct Arrow {
    from: Module,
    to: Module,
    place: String,
}

impl<'a> House<'a> {
    /// Reads targets from their root files on. `text` gives a file's text by its path.
    pub(crate) fn read(targets: &'a [Target], text: &impl Fn(&str) -> Option<String>) -> Self {
        let mut house = Self { targets, files: BTreeMap::new(), problems: Vec::new() };
        for (index, target) in targets.iter().enumerate() {
            let (folder, _) = target.root.rsplit_once('/').unwrap_or_default();
            house.read_module((index, Vec::new()), target.root, folder, text);
        }
        house
    }

    fn read_module(
        &mut self,
        module: Module,
        path: &str,
        folder: &str,
        text: &impl Fn(&str) -> Option<String>,
    ) {
        let source = match text(path).map(|text| source::read(&text)) {
            Some(Ok(source)) => source,
            Some(Err(error)) => return self.problems.push(format!("{path}: {error}")),
            None => return self.problems.push(format!("{path}: no such file")),
        };
        for name in &source.modules {
            let child = within(&module, name);
            let path = format!("{folder}/{name}.rs");
            self.read_module(child, &path, &format!("{folder}/{name}"), text);
        }
        self.files.insert(module, (path.to_owned(), source));
    }

    /// The files that were read.
    pub(crate) fn paths(&self) -> BTreeSet<&str> {
        self.files.values().map(|(path, _)| path.as_str()).collect()
    }

    /// The module that a path leads to, through what others pass on.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        /// More names that stand for each other than this are a circle of their own.
        const DEPTH_MAX: usize = 16;
        let mut module = from.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => module.1.clear(),
            "self" => {}
            "super" => {
                module.1.pop()?;
            }
            other => {
                let child = within(&module, other);
                if self.files.contains_key(&child) {
                    module = child;
                } else {
                    let target = self.targets.iter().position(|target| target.name == other)?;
                    module = (target, Vec::new());
                }
            }
        }
        rest = &rest[1..];
        while let Some((next, after)) = rest.split_first() {
            if next == "super" {
                module.1.pop()?;
                rest = after;
                continue;
            }
            let child = within(&module, next);
            if self.files.contains_key(&child) {
                module = child;
                rest = after;
                continue;
            }
            let (_, source) = self.files.get(&module)?;
            let passes_on = |path: &&Path| path.name.as_ref() == Some(next);
            let given = source.paths.iter().find(passes_on).filter(|_| depth < DEPTH_MAX);
            let Some(given) = given else { break };
            let whole: Vec<String> = given.segments.iter().chain(after).cloned().collect();
            return self.resolve(&module, &whole, depth + 1);
        }
        Some(module)
    }

    fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        for (from, (file, source)) in &self.files {
            for path in &source.paths {
                let to = self.resolve(from, &path.segments, 0).filter(|to| to != from);
                let place = format!("{file}:{}: {}", path.line, path.segments.join("::"));
                arrows.extend(to.map(|to| Arrow { from: from.clone(), to, place }));
            }
        }
        arrows
    }

    /// What is not in the written order: rooms that are not listed or not there, and rooms that use
    /// what is below them.
    pub(crate) fn out_of_order(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (index, target) in self.targets.iter().enumerate() {
            let listed: BTreeSet<_> = target.rooms.iter().map(|room| (*room).to_owned()).collect();
            if listed.is_empty() {
                continue;
            }
            let rooms = self.files.keys().filter(|(of, path)| *of == index && path.len() == 1);
            let there: BTreeSet<_> = rooms.map(|(_, path)| path[0].clone()).collect();
            let name = target.root;
            faults.extend(
                there.difference(&listed).map(|room| format!("{name}: {room} is not listed")),
            );
            faults.extend(
                listed.difference(&there).map(|room| format!("{name}: {room} is not there")),
            );
        }
        let floor = |module: &Module| {
            let rooms = self.targets[module.0].rooms;
            let room = module.1.first()?;
            rooms.iter().position(|listed| listed == room)
        };
        for Arrow { from, to, place } in self.arrows() {
            let is_in_order = match (from.0 == to.0, floor(&from), floor(&to)) {
                (false, ..) => to.0 < from.0,
                // The root of a target may use all of its rooms.
                (true, None, _) => true,
                // Nothing in a room may use the root.
                (true, Some(user), used) => used.is_some_and(|used| used <= user),
            };
            if !is_in_order {
                faults.push(format!("{place}: {} is below {}", self.name(&from), self.name(&to)));
            }
        }
        faults
    }

    /// Circles of modules of one parent, each counted with everything in it. What a module and those
    /// within it use of each other is no circle.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut families: BTreeMap<Module, BTreeMap<String, BTreeMap<String, String>>> =
            BTreeMap::new();
        for Arrow { from, to, place } in self.arrows() {
            let common = from.1.iter().zip(&to.1).take_while(|(a, b)| a == b).count();
            let is_within = common == from.1.len() || common == to.1.len();
            if from.0 != to.0 || is_within || !self.targets[from.0].has_no_circles {
                continue;
            }
            let family = families.entry((from.0, from.1[..common].to_vec())).or_default();
            let uses = family.entry(from.1[common].clone()).or_default();
            uses.entry(to.1[common].clone()).or_insert(place);
        }
        families.iter().filter_map(|(parent, uses)| self.circle(parent, uses)).collect()
    }

    /// Takes away what uses nothing that is left, until nothing or a circle is.
    fn circle(
        &self,
        parent: &Module,
        uses: &BTreeMap<String, BTreeMap<String, String>>,
    ) -> Option<String> {
        let mut left: BTreeSet<&String> = uses.keys().collect();
        loop {
            let before = left.len();
            let is_used = |name: &String, left: &BTreeSet<&String>| {
                left.iter().any(|other| uses[*other].contains_key(name))
            };
            let uses_some = |name: &String| uses[name].keys().any(|used| left.contains(used));
            let next: BTreeSet<&String> = left
                .iter()
                .copied()
                .filter(|name| uses_some(name) && is_used(name, &left))
                .collect();
            left = next;
            if left.len() == before {
                break;
            }
        }
        let places = left.iter().flat_map(|name| {
            uses[*name]
                .iter()
                .filter(|(used, _)| left.contains(used))
                .map(|(_, place)| place.clone())
        });
        let places: Vec<_> = places.collect();
        let name = self.name(parent);
        (!places.is_empty()).then(|| format!("a circle in {name}:\n  {}", places.join("\n  ")))
    }

    fn name(&self, (target, path): &Module) -> String {
        let target = &self.targets[*target];
        let name = if target.name.is_empty() { target.root } else { target.name };
        [&[name.to_owned()], &path[..]].concat().join("::")
    }
}
