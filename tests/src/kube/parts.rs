//! The programs of a cluster and of those who install on one, built from the Go modules in
//! `tests/kube`, each once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::cache;

/// Raise it when the way of building changes, so that what is in the cache is built anew.
const RECIPE: &str = "1";

/// A program, and the Go module that pins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The program's name, and where its `main.go` is in the module unless that is the module.
    pub name: &'static str,
    /// The folder of the module below `tests/kube`.
    pub module: &'static str,
    /// The package of a dependency that is the program itself, and has no need of a `main.go` of
    /// ours.
    pub package: Option<&'static str>,
    /// How long it takes on two cores where nothing of it was built or fetched before.
    pub seconds: u64,
}

/// The store behind the API server.
pub const ETCD: Part = Part { name: "etcd", module: "etcd", package: None, seconds: 60 };
/// The API server.
pub const APISERVER: Part = kubernetes("kube-apiserver", 420);
/// The controllers, of which a cluster may run some.
pub const CONTROLLER_MANAGER: Part = kubernetes("kube-controller-manager", 60);
/// The client.
pub const KUBECTL: Part = kubernetes("kubectl", 30);

/// What an API server for tests needs, in the order in which it is built.
pub const API: &[Part] = &[ETCD, APISERVER, KUBECTL, CONTROLLER_MANAGER];

/// Renders the chart, and holds values against its schema.
pub const HELM: Part = deploy("helm", "helm.sh/helm/v3/cmd/helm", 120);
/// Builds the base.
pub const KUSTOMIZE: Part = deploy("kustomize", "sigs.k8s.io/kustomize/kustomize/v5", 10);

/// What the tests of `deploy/` run besides, in the order in which it is built.
pub const DEPLOY: &[Part] = &[HELM, KUSTOMIZE];

const fn kubernetes(name: &'static str, seconds: u64) -> Part {
    Part { name, module: "kubernetes", package: None, seconds }
}

const fn deploy(name: &'static str, package: &'static str, seconds: u64) -> Part {
    Part { name, module: "helm", package: Some(package), seconds }
}

impl Part {
    /// Where the built program is.
    ///
    /// # Errors
    ///
    /// That it is not built; a test does not build it, for that takes longer than a test may.
    pub fn program(&self) -> Result<PathBuf> {
        let path = self.path()?;
        ensure!(
            path.is_file(),
            "{} is not built. `cargo xtask lab build` builds it, once (about {} min)",
            self.name,
            self.seconds.div_ceil(60),
        );
        Ok(path)
    }

    /// Builds it unless it is there; returns how long that took.
    pub fn build(&self) -> Result<Option<Duration>> {
        let started = Instant::now();
        let made = cache::provide(&self.path()?, |new| self.compile(new))
            .with_context(|| format!("build {}", self.name))?;
        Ok(made.then(|| started.elapsed()))
    }

    /// `bin/KEY/NAME`: the key changes with all that decides what the program is.
    fn path(&self) -> Result<PathBuf> {
        let module = self.folder();
        let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
        let own = match self.package {
            None => read(module.join(self.package()).join("main.go"))?,
            Some(package) => package.into(),
        };
        let (pins, sums) = (read(module.join("go.mod"))?, read(module.join("go.sum"))?);
        let key = cache::key([RECIPE.as_bytes(), &pins, &sums, &own]);
        Ok(cache::folder()?.join("bin").join(key).join(self.name))
    }

    fn compile(&self, target: &Path) -> Result<()> {
        let output = Command::new("go")
            .current_dir(self.folder())
            .args(["build", "-trimpath", "-ldflags", &self.linker_flags()?, "-o"])
            .arg(target)
            .arg(self.package())
            // The one toolchain of the machine, pure Go, and nothing of the clone's state.
            .envs([("CGO_ENABLED", "0"), ("GOFLAGS", "-buildvcs=false"), ("GOTOOLCHAIN", "local")])
            .stdin(Stdio::null())
            .output()
            .context("run go, which Debian's golang-go or go.dev/dl has")?;
        if !output.status.success() {
            bail!("go build: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Strips the program, and stamps the version that Kubernetes' own builds stamp: clients and
    /// nodes tell it.
    fn linker_flags(&self) -> Result<String> {
        if self.module != "kubernetes" {
            return Ok("-s -w".into());
        }
        let version = self.pinned("k8s.io/kubernetes")?;
        let minor = version.split('.').nth(1).context("a version is v1.MINOR.PATCH")?;
        let stamp = "k8s.io/component-base/version";
        Ok(format!(
            "-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor=1 \
             -X {stamp}.gitMinor={minor} -X {stamp}.gitTreeState=clean"
        ))
    }

    /// The version of a dependency in the module's `go.mod`.
    fn pinned(&self, dependency: &str) -> Result<String> {
        let text = fs::read_to_string(self.folder().join("go.mod"))?;
        let mut lines = text.lines().map(str::split_whitespace);
        let version = lines.find_map(|mut words| {
            words.find(|word| *word != "require").filter(|word| *word == dependency)?;
            words.next().map(str::to_owned)
        });
        version.with_context(|| format!("no {dependency} in the go.mod of {}", self.module))
    }

    fn package(&self) -> String {
        match self.package {
            Some(package) => package.into(),
            // A module for one program has it at its root.
            None if self.name == self.module => ".".into(),
            None => format!("./{}", self.name),
        }
    }

    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("kube").join(self.module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_pinned_and_stamped() {
        for part in API.iter().chain(DEPLOY) {
            part.path().expect(part.name);
        }
        let flags = APISERVER.linker_flags().expect("flags");
        assert!(flags.contains("gitVersion=v1.36.3") && flags.contains("gitMinor=36 "), "{flags}");
    }
}
