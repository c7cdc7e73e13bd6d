//! Every program of the machine that we, or an engine that we run, call: one table, with the Debian
//! package that has it.

use super::Need;

/// A program that is called by name.
pub(super) struct Program {
    /// What is looked for in `$PATH`.
    pub(super) name: &'static str,
    /// The Debian package that has it.
    pub(super) package: &'static str,
    /// What it is called for, to be read after "which".
    pub(super) purpose: &'static str,
    /// What of ours calls it, itself or by an engine.
    pub(super) need: Need,
}

/// The table. An engine's own calls are found by watching `execve` while its tests run.
pub(super) const PROGRAMS: &[Program] = &[
    // Scenarios.
    row("ip", "iproute2", "makes the network namespaces and veths of a scenario", Need::Play),
    row("tc", "iproute2", "looks at what is attached to an interface", Need::Play),
    row("nft", "nftables", "stands in for a CNI that uses nftables", Need::Play),
    row("iptables-legacy", "iptables", "stands in for a CNI that uses iptables", Need::Play),
    row("ipset", "ipset", "holds the addresses of a policy that Calico enforces", Need::Play),
    row("curl", "curl", "is the client of the demo", Need::Play),
    row(
        "setpriv",
        "util-linux",
        "ends the agent with its test, or takes rights from it",
        Need::Play,
    ),
    row("prlimit", "util-linux", "takes an agent's descriptors from it", Need::Play),
    row("nsenter", "util-linux", "runs a client in a pod's namespaces", Need::Play),
    row("unshare", "util-linux", "makes the namespaces of a node", Need::Play),
    row("timeout", "coreutils", "bounds what a test runs", Need::Play),
    row("cc", "gcc", "links our own programs", Need::Play),
    // What pins come from.
    row("git", "git", "names the commit that an image is made of", Need::Image),
    row("git", "git", "fetches the database of advisories", Need::Lint),
    // A whole node: the kubelet, kube-proxy, containerd, Calico's Felix.
    row("mount", "mount", "is called by the kubelet for the volumes of pods", Need::Node),
    row(
        "modprobe",
        "kmod",
        "is called by kube-proxy and Felix for the kernel's modules",
        Need::Node,
    ),
    row(
        "conntrack",
        "conntrack",
        "is called by Felix for connections of pods that are gone",
        Need::Node,
    ),
    row("iptables-restore", "iptables", "is called by kube-proxy and Felix", Need::Node),
    // Cilium's agent.
    row(
        "clang",
        "clang",
        "is called by Cilium's agent for what it loads into the kernel",
        Need::Cilium,
    ),
    row(
        "bpftool",
        "bpftool",
        "is called by Cilium's agent for what the kernel can do",
        Need::Cilium,
    ),
    // A collector and its store.
    row("java", "default-jre-headless", "runs Kafka, which stores what agents send", Need::Store),
    row("mvn", "maven", "fetches Kafka", Need::Store),
    row("jq", "jq", "merges a fleet's incidents as docs/otlp.md says", Need::Store),
    // The page of `whydrop report`, shown. 98 MB to fetch, 301 MB on disk.
    row(
        "chromium-headless-shell",
        "chromium-headless-shell",
        "shows the page of `whydrop report`",
        Need::Page,
    ),
    // Other kernels.
    row("qemu-system-x86_64", "qemu-system-x86", "boots other kernels", Need::Kernels),
    row("depmod", "kmod", "lists the modules of a kernel", Need::Kernels),
    row("xz", "xz-utils", "uncompresses them", Need::Kernels),
    row("zstd", "zstd", "uncompresses those of Ubuntu's", Need::Kernels),
    row("strip", "binutils", "makes our programs small for a guest's memory", Need::Kernels),
    row("qemu-system-aarch64", "qemu-system-arm", "boots a kernel for arm64", Need::Arm64),
    // The client for other platforms.
    row("pip3", "python3-pip", "fetches zig, which links for other platforms", Need::Dist),
    row("qemu-aarch64", "qemu-user", "runs the client for arm64", Need::Dist),
    row("wine", "wine", "runs the client for Windows", Need::Dist),
    // The jobs of xtask itself.
    row("debootstrap", "debootstrap", "makes a bare Debian", Need::Bare),
    row("c++", "g++", "compiles libFuzzer", Need::Fuzz),
    row("cc", "gcc", "links the fuzzer", Need::Fuzz),
    row("bpftrace", "bpftrace", "is what whydrop's cost is compared with", Need::Bench),
];

/// Debian packages without a program that is called, what each is for, and what of ours needs it.
pub(super) const PACKAGES: &[(&str, &str, Need)] = &[
    ("fonts-dejavu-core", "which pages are shown in", Need::Page),
    ("debian-archive-keyring", "which Debian's packages are checked with", Need::Bare),
    ("debian-archive-keyring", "which Debian's kernels are checked with", Need::Kernels),
];

/// What bpf-linker is compiled against: packages without a program of their own.
pub(super) const LLVM: &[&str] =
    &["g++", "llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev", "libxml2-dev"];

const fn row(
    name: &'static str,
    package: &'static str,
    purpose: &'static str,
    need: Need,
) -> Program {
    Program { name, package, purpose, need }
}
