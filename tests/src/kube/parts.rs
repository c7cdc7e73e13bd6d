//! The programs of a cluster, built from the Go modules in `tests/kube`, each once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::cache;

/// Raise it when the way of building changes, so that what is in the cache is built again.
const RECIPE: &str = "1";

/// A program, and the Go module that pins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The program's name.
    pub name: &'static str,
    /// The folder of the module below `tests/kube`.
    pub module: &'static str,
    /// The package that is built: of the module, or of another that it pins.
    pub package: &'static str,
    /// How long it takes on two cores where nothing of it was built or fetched before.
    pub seconds: u64,
}

/// The store behind the API server.
pub const ETCD: Part = Part { name: "etcd", module: "etcd", package: ".", seconds: 60 };
/// The API server.
pub const APISERVER: Part = kubernetes("kube-apiserver", "./kube-apiserver", 530);
/// The controllers, of which a cluster may run some.
pub const CONTROLLER_MANAGER: Part =
    kubernetes("kube-controller-manager", "./kube-controller-manager", 80);
/// The client.
pub const KUBECTL: Part = kubernetes("kubectl", "./kubectl", 50);
/// Places pods on nodes.
pub const SCHEDULER: Part = kubernetes("kube-scheduler", "./kube-scheduler", 15);
/// Runs the pods of a node.
pub const KUBELET: Part = kubernetes("kubelet", "./kubelet", 70);
/// Leads what is sent to a Service to its pods.
pub const PROXY: Part = kubernetes("kube-proxy", "./kube-proxy", 25);
/// Calico's network plugin.
pub const CALICO: Part =
    calico("calico", "github.com/projectcalico/calico/cni-plugin/cmd/calico", 10);
/// Calico's agent, which enforces policies.
pub const FELIX: Part =
    calico("calico-felix", "github.com/projectcalico/calico/felix/cmd/calico-felix", 250);
/// Cilium's agent, which enforces policies with eBPF programs.
pub const CILIUM: Part = cilium("cilium-agent", ".", 280);
/// Cilium's network plugin.
pub const CILIUM_CNI: Part =
    cilium("cilium-cni", "github.com/cilium/cilium/plugins/cilium-cni", 10);
/// Resolves the names of Services.
pub const COREDNS: Part = Part { name: "coredns", module: "coredns", package: ".", seconds: 60 };

/// Takes what agents send, and passes it on.
pub const COLLECTOR: Part =
    Part { name: "otelcol", module: "collector", package: ".", seconds: 130 };

/// What the tests of sending run.
pub const OTLP: &[Part] = &[COLLECTOR];

/// What an API server for tests needs, in the order in which it is built.
pub const API: &[Part] = &[ETCD, APISERVER, KUBECTL, CONTROLLER_MANAGER];
/// What a node needs besides.
pub const NODE: &[Part] = &[SCHEDULER, KUBELET, PROXY, FELIX, CALICO, COREDNS];

/// What a node needs whose pods Cilium connects, besides an API server.
pub const CILIUM_NODE: &[Part] = &[CILIUM, CILIUM_CNI];

/// Renders the chart, and holds values against its schema.
pub const HELM: Part = deploy("helm", "helm.sh/helm/v3/cmd/helm", 120);
/// Builds the base.
pub const KUSTOMIZE: Part = deploy("kustomize", "sigs.k8s.io/kustomize/kustomize/v5", 10);

/// Reads flows as Hubble's own programs do.
pub const HUBBLE: Part =
    Part { name: "hubble-reader", module: "hubble", package: ".", seconds: 30 };

/// What the tests of `deploy/` and of records run besides, in the order in which it is built.
pub const DEPLOY: &[Part] = &[HELM, KUSTOMIZE, HUBBLE];

const fn kubernetes(name: &'static str, package: &'static str, seconds: u64) -> Part {
    Part { name, module: "kubernetes", package, seconds }
}

const fn deploy(name: &'static str, package: &'static str, seconds: u64) -> Part {
    Part { name, module: "helm", package, seconds }
}

const fn calico(name: &'static str, package: &'static str, seconds: u64) -> Part {
    Part { name, module: "calico", package, seconds }
}

const fn cilium(name: &'static str, package: &'static str, seconds: u64) -> Part {
    Part { name, module: "cilium", package, seconds }
}

/// The release whose branch the module is the head of: Go's modules have it under no such name.
pub const CALICO_VERSION: &str = "v3.28.5";
const CALICO_STAMP: &str = "github.com/projectcalico/calico/felix/buildinfo.GitVersion";
const CILIUM_STAMP: &str = "github.com/cilium/cilium/pkg/version.ciliumVersion";

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
            "{} is not built. `cargo xtask test` builds it, once (about {} min)",
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
        let key = cache::key([
            RECIPE.as_bytes(),
            &read(module.join("go.mod"))?,
            &read(module.join("go.sum"))?,
            // A package that is not the module's own is in what these two pin.
            &if self.package.starts_with('.') {
                read(module.join(self.package).join("main.go"))?
            } else {
                self.package.into()
            },
        ]);
        Ok(cache::folder()?.join("bin").join(key).join(self.name))
    }

    fn compile(&self, target: &Path) -> Result<()> {
        let output = go(self.module)
            .args(["build", "-trimpath", "-ldflags", &self.linker_flags()?, "-o"])
            .arg(target)
            .arg(self.package)
            .output()
            .context("run go, which Debian's golang-go or go.dev/dl has")?;
        if !output.status.success() {
            bail!("go build: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Strips the program, and stamps the version that Kubernetes' own builds stamp: clients and
    /// nodes report it.
    fn linker_flags(&self) -> Result<String> {
        match self.module {
            "kubernetes" => {}
            "calico" => return Ok(format!("-s -w -X {CALICO_STAMP}={CALICO_VERSION}")),
            "cilium" => {
                let version = self.pinned("github.com/cilium/cilium")?;
                let version = version.trim_start_matches('v');
                return Ok(format!("-s -w -X {CILIUM_STAMP}={version}"));
            }
            _ => return Ok("-s -w".into()),
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

    fn folder(&self) -> PathBuf {
        module(self.module)
    }
}

/// The folder of a Go module in `tests/kube`.
pub(crate) fn module(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kube").join(name)
}

/// A call of go there: the one toolchain of the machine, pure Go, nothing of the clone's state.
pub(super) fn go(module_name: &str) -> Command {
    let mut command = Command::new("go");
    command.current_dir(module(module_name)).stdin(Stdio::null());
    command.envs([("CGO_ENABLED", "0"), ("GOFLAGS", "-buildvcs=false"), ("GOTOOLCHAIN", "local")]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_pinned_and_stamped() {
        for part in API.iter().chain(NODE).chain(CILIUM_NODE).chain(DEPLOY).chain(OTLP) {
            part.path().expect(part.name);
        }
        let flags = APISERVER.linker_flags().expect("flags");
        assert!(flags.contains("gitVersion=v1.36.3") && flags.contains("gitMinor=36 "), "{flags}");
        let flags = CILIUM.linker_flags().expect("flags");
        assert!(flags.ends_with("ciliumVersion=1.15.19"), "{flags}");
    }
}
