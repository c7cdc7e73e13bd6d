//! What a machine needs to build whydrop, to play its scenarios and to test it.
//!
//! Installed is only what is missing, and each thing is named with what it is for.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cargo::{cargo, path, root},
    plan::{Plan, say},
};

/// Links eBPF programs; its version goes with the LLVM it is linked to.
const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    ask: &["bpf-linker", "--version"],
    options: &["--no-default-features", "--features", "llvm-22"],
    environment: &[
        ("LLVM_PREFIX", "/usr/lib/llvm-22"),
        ("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22"),
    ],
    purpose: "links the eBPF programs",
    seconds: 80,
};

/// Runs tests, each in a process of its own, several at a time and with a bound on each.
///
/// Not optimised and without its self-update, it compiles in a third of the time, and runs no
/// slower than the tests do.
const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.151",
    ask: &["cargo-nextest", "nextest", "--version"],
    options: &["--debug", "--no-default-features"],
    environment: &[("CARGO_PROFILE_DEV_DEBUG", "0")],
    purpose: "runs the tests",
    seconds: 100,
};

/// Checks `deny.toml`. Built as [`NEXTEST`] is, and for the same reason.
const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    ask: &["cargo-deny", "--version"],
    options: &["--debug", "--no-default-features"],
    environment: &[("CARGO_PROFILE_DEV_DEBUG", "0")],
    purpose: "checks the licences and sources of what we build on",
    seconds: 80,
};

/// The `go` line of the modules in `tests/kube`.
const GO: &str = "1.26.0";

/// What bpf-linker is compiled against.
const LLVM: &[&str] =
    &["g++", "llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev", "libxml2-dev"];
const LLVM_SECONDS: u64 = 60;

/// Programs that scenarios run: the program, its Debian package, and what for.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("ip", "iproute2", "makes the network namespaces and veths of a scenario"),
    ("nft", "nftables", "stands in for a CNI that uses nftables"),
    ("iptables-legacy", "iptables", "stands in for a CNI that uses iptables or an NFQUEUE"),
    ("ipset", "ipset", "holds the addresses of a policy that Calico enforces"),
    ("curl", "curl", "is the client of the demo"),
    ("setpriv", "util-linux", "starts the agent so that it ends with its test, or without rights"),
    ("timeout", "coreutils", "bounds what a test runs"),
];
/// What a node with Cilium runs besides.
const CILIUM_PROGRAM: (&str, &str, &str) =
    ("clang", "clang", "compiles what Cilium's agent loads into the kernel");
/// What stores what agents send, in tests: Kafka, and what reads from it.
const STORE_PROGRAMS: [(&str, &str, &str); 3] = [
    ("java", "default-jre-headless", "runs Kafka, which stores what agents send"),
    ("mvn", "maven", "fetches Kafka"),
    ("jq", "jq", "is what docs/otlp.md reads incidents of a fleet with"),
];
/// What shows a page in a test: a browser without a window, and the fonts of its pictures. 98 MB to
/// fetch, 301 MB on disk.
const BROWSER: (&str, &str, &str) =
    ("chromium-headless-shell", "chromium-headless-shell", "shows the page of `whydrop report`");
const BROWSER_SECONDS: u64 = 30;
const FONTS: &str = "fonts-dejavu-core";
/// What measuring runs besides.
const BENCH_PROGRAM: (&str, &str, &str) =
    ("bpftrace", "bpftrace", "is what whydrop's cost is compared with");
const PROGRAMS_SECONDS: u64 = 15;
/// A standard library, 30 MB, from rustup.
const TARGET_SECONDS: u64 = 10;
/// A C compiler for another processor, 40 MB.
const COMPILER_SECONDS: u64 = 20;

/// Fails where this is not root, which `what` needs.
pub(crate) fn require_root(what: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "{what} needs root. Try: sudo -E env \"PATH=$PATH\" cargo xtask ..."
    );
    Ok(())
}

/// Fails where there is no Go that builds the modules in `tests/kube`.
///
/// It is not installed from here: no Debian release has one that is new enough, and which Go a
/// machine has is its owner's choice.
fn require_go() -> Result<()> {
    const WHY: &str = "the tests run a real Kubernetes, which is built from pinned Go modules";

    let output = Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        bail!("missing: go {GO}, for {WHY}. Install it from https://go.dev/dl and have it in PATH");
    };
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = |text: &str| -> Vec<u32> {
        text.split(['.', ' ']).map_while(|number| number.trim().parse().ok()).collect()
    };
    let found = numbers(words.trim_start_matches("go"));
    ensure!(
        found >= numbers(GO),
        "go is {}, older than {GO}: {WHY}. Install a newer one from https://go.dev/dl",
        words.trim()
    );
    Ok(())
}

/// What the set-up is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building and playing scenarios.
    Demo,
    /// The same, and running tests.
    Test,
    /// Building and measuring.
    Bench,
    /// Building, and running a Kubernetes.
    Lab,
    /// Building alone.
    Image,
}

/// A program that cargo installs.
struct Tool {
    name: &'static str,
    version: &'static str,
    /// Prints the version.
    ask: &'static [&'static str],
    options: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    purpose: &'static str,
    seconds: u64,
}

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<ExitCode> {
    let mut plan = Plan::default();
    prepare(&mut plan, Purpose::Test)?;
    plan.run()?;
    say("everything is there; nothing else was changed");
    Ok(ExitCode::SUCCESS)
}

/// Adds to a plan what is missing on this machine.
pub(crate) fn prepare(plan: &mut Plan, purpose: Purpose) -> Result<()> {
    if matches!(purpose, Purpose::Test | Purpose::Lab) {
        require_go()?;
    }
    let mut packages = Vec::new();
    let programs = if purpose == Purpose::Image { &[] } else { PROGRAMS };
    let mut besides = match purpose {
        Purpose::Test | Purpose::Lab => vec![CILIUM_PROGRAM],
        Purpose::Bench => vec![BENCH_PROGRAM],
        Purpose::Demo | Purpose::Image => Vec::new(),
    };
    if purpose == Purpose::Test {
        besides.extend(STORE_PROGRAMS);
    }
    for (program, package, what_for) in programs.iter().chain(&besides) {
        if !found(program) {
            say(&format!("missing: {program} (Debian package {package}), which {what_for}"));
            packages.push(*package);
        }
    }
    let mut seconds = if packages.is_empty() { 0 } else { PROGRAMS_SECONDS };
    if purpose == Purpose::Test {
        let (program, package, what_for) = BROWSER;
        if !found(program) {
            say(&format!("missing: {program} (Debian package {package}), which {what_for}"));
            packages.push(package);
            seconds += BROWSER_SECONDS;
        }
        if !installed(FONTS) {
            say(&format!("missing: {FONTS} (Debian package), which pages are shown in"));
            packages.push(FONTS);
        }
    }
    let mut tools = vec![&BPF_LINKER];
    if purpose == Purpose::Test {
        tools.extend([&NEXTEST, &DENY]);
    }
    tools.retain(|tool| !tool.present());
    for tool in &tools {
        let Tool { name, version, purpose, .. } = tool;
        say(&format!(
            "missing: {name} {version} (from crates.io, into cargo's bin), which {purpose}"
        ));
    }
    if tools.iter().any(|tool| tool.name == BPF_LINKER.name) {
        let mut missing = LLVM.to_vec();
        missing.retain(|package| !installed(package));
        if !missing.is_empty() {
            seconds += LLVM_SECONDS;
            let names = missing.join(" ");
            say(&format!("missing: {names} (Debian packages), which bpf-linker is compiled with"));
        }
        packages.extend(missing);
    }
    if !packages.is_empty() {
        install(plan, &packages, seconds)?;
    }
    for tool in tools {
        plan.add(format!("{} {}", tool.name, tool.version), tool.install(), tool.seconds);
    }
    Ok(())
}

/// Adds to a plan what is missing of a C compiler, which these Debian packages have.
pub(crate) fn prepare_compiler(plan: &mut Plan, program: &str, packages: &[&str]) -> Result<()> {
    if found(program) {
        return Ok(());
    }
    let names = packages.join(" ");
    say(&format!("missing: {program} (Debian packages {names}), which compiles what TLS has of C"));
    install(plan, packages, COMPILER_SECONDS)
}

/// Adds to a plan Rust's standard library for a target, where the toolchain is without it.
pub(crate) fn prepare_target(plan: &mut Plan, target: &str) -> Result<()> {
    let mut ask = Command::new("rustc");
    ask.args(["--print", "target-libdir", "--target", target]).current_dir(root());
    let output = ask.output().context("run rustc")?;
    ensure!(output.status.success(), "rustc knows no target {target}");
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !Path::new(&folder).is_dir() {
        say(&format!("missing: {target} (from rustup, into the toolchain), the image's target"));
        let mut add = Command::new("rustup");
        add.args(["target", "add", target]).current_dir(root());
        plan.add(format!("rustup target {target}"), add, TARGET_SECONDS);
    }
    Ok(())
}

/// Adds the installation of Debian packages.
fn install(plan: &mut Plan, packages: &[&str], seconds: u64) -> Result<()> {
    if !found("apt-get") {
        bail!(
            "this machine has no apt-get; install by other means what these Debian packages hold, \
             then try again: {}\n\
             For bpf-linker any LLVM 22 does: compile it with LLVM_SYS_221_PREFIX set to where that \
             LLVM is, and have it in PATH.",
            packages.join(" ")
        );
    }
    require_root("installing packages")?;
    let mut update = Command::new("apt-get");
    update.args(["-q", "update"]);
    plan.add("package lists", update, 10);
    // In one shell, so that a package that is not to be had is explained before it is tried.
    let mut apt = Command::new("sh");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["-ec", INSTALL, "install"]).args(packages);
    plan.add(format!("Debian packages {}", packages.join(" ")), apt, seconds);
    Ok(())
}

/// Installs its arguments; names those that apt does not know, and what to do then.
const INSTALL: &str = r#"
for package; do
    if ! apt-cache show "$package" >/dev/null 2>&1; then
        echo "apt knows no package $package."
        case $package in *-22-dev)
            echo "Debian 12 has LLVM 22 in bookworm-security: see that a file in"
            echo "/etc/apt/sources.list.d names that suite. Elsewhere apt.llvm.org has it, or compile"
            echo "bpf-linker yourself against any LLVM 22 and have it in PATH." ;;
        esac
        exit 1
    fi
done
exec apt-get -q install -y --no-install-recommends "$@"
"#;

impl Tool {
    /// Whether the right version is there.
    fn present(&self) -> bool {
        let [program, arguments @ ..] = self.ask else { return false };
        let Ok(output) = Command::new(program).args(arguments).output() else { return false };
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        words.split_whitespace().nth(1) == Some(self.version)
    }

    fn install(&self) -> Command {
        let mut command = cargo(["install", self.name, "--locked", "--version", self.version]);
        command.args(self.options).envs(self.environment.iter().copied());
        command
    }
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}

fn found(program: &str) -> bool {
    env::split_paths(&path()).any(|folder| folder.join(program).is_file())
}
