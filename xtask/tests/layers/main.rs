//! The order of the house, written down once and held against what every source file uses.
//!
//! Targets and their rooms stand in order: what is further down may use what is further up, never
//! the other way round. A new room is one line here, and so is a new crate.

mod house;
mod made_up;
mod source;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use house::{House, Target};

/// Code for tests and tools: nothing else may use it; its own order is not written.
const fn tool(name: &'static str, root: &'static str) -> Target {
    Target { name, root, rooms: &[], has_no_circles: false }
}

const HOUSE: &[Target] = &[
    // The types that both sides of the kernel boundary share.
    Target {
        name: "whydrop_ebpf",
        root: "agent-ebpf/src/lib.rs",
        rooms: &[],
        has_no_circles: true,
    },
    Target {
        name: "",
        root: "agent-ebpf/src/main.rs",
        rooms: &[
            "maps",
            "parse",
            "skb",
            "sender",
            "report",
            "from_pod",
            "to_pod",
            "kernel_memory",
            "kfree_skb",
            "sock_state",
        ],
        has_no_circles: true,
    },
    Target {
        name: "whydrop_core",
        root: "agent/core/src/lib.rs",
        rooms: &[
            "chain",       // errors in one line
            "hash",        // short names for what several nodes see
            "problem",     // what is wrong with an object, and where in it
            "flow",        // who connects to whom, on what port
            "observation", // what a probe saw
            "policy",      // model, lowerings, selectors, index
            "cluster",     // snapshot, history
            "kinds",       // a row for each kind that verdicts depend on
            "service",     // what kube-proxy makes of a packet to a Service
            "verdict",     // what policies say of a flow
            "correlate",   // observations to drops
            "diagnosis",   // why it was dropped, and what must be looked up to say so
            "remedy",      // the rule that lets it pass
            "answer",      // a question over all packets that may come of it
            "judgement",   // adds remedy, hindsight and since which change
            "mute",        // what is expected
            "incident",    // groups
            "own_path",    // what cuts the agent itself off
            "docket",      // when a case waits and is decided, and what is reported
            "heal",        // what a healer does
        ],
        has_no_circles: true,
    },
    Target {
        name: "whydrop_report", // records, their text, and records read back
        root: "agent/report/src/lib.rs",
        rooms: &[
            "escape",      // what objects say, made harmless
            "yaml",        // policies as manifests
            "time",        // a moment as records write it
            "word",        // a value that a newer agent may know more of
            "schema",      // the types of a record
            "heal",        // of the healer's
            "incident",    // of incidents
            "record",      // any of them
            "convert",     // from the core's values
            "text",        // a record as a line
            "reporter",    // writes records
            "explanation", // the answer of `whydrop explain`
            "patch",       // a remedy as commands
            "hubble",      // a drop as Hubble exports it
            "records",     // read back, and the board
        ],
        has_no_circles: true,
    },
    Target {
        name: "whydrop_kube", // where objects come from
        root: "agent/kube/src/lib.rs",
        rooms: &[
            "api_error",  // why the API server did not do what it was asked
            "resource",   // kinds as its client wants them
            "connect",    // the client
            "agent_logs", // the logs of the agents' pods
            "decode",     // what an object is to us
            "sections",   // a text in its parts
            "yaml",       // one as kubectl reads it
            "documents",  // the objects in it, as YAML or JSON
            "manifests",  // files of objects
            "folder",     // a folder of them, followed
            "update",     // what came of a change
            "live",       // an API server, followed or asked
            "source",     // either
        ],
        has_no_circles: true,
    },
    Target {
        name: "whydrop_probe", // the edge to the kernel
        root: "agent/probe/src/lib.rs",
        rooms: &[
            "error",        // why the probe cannot start or run
            "sys",          // system calls
            "names",        // of the programs
            "log",          // the programs' diagnostics
            "clock",        // the programs' clock and ours
            "btf",          // the kernel's types
            "kernel",       // what the programs must know of it
            "config",       // how the probe is set up
            "part",         // what works on this kernel
            "capabilities", // whether the process may do what it does
            "load",         // the programs
            "walk",         // what the verifier does to load them
            "decode",       // bytes to observations
            "counters",     // totals and costs
            "observations", // the ring and the counts
            "successes",    // which answers flows got
            "connections",  // conntrack's counters
            "filters",      // messages about tc filters
            "netlink",      // links, addresses, routes, filters
            "claim",        // one agent on a node
            "topology",     // whose interfaces and addresses these are
            "interfaces",   // attaches to pods' veths
            "senders",      // who sends by which interface
            "probe",        // all of it, started
        ],
        has_no_circles: true,
    },
    Target {
        name: "whydrop_sink", // where records go
        root: "agent/sink/src/lib.rs",
        rooms: &[
            "reading",  // metrics, queues, losses
            "note",     // what an Event says
            "outgoing", // what sinks are handed
            "sink",     // the trait
            "host",     // where the agent runs
            "log",      // lines on standard output
            "metrics",  // what a scrape gets
            "http",     // health and metrics
            "events",   // Kubernetes Events
            "otlp",     // a collector
            "sinks",    // all of them
        ],
        has_no_circles: true,
    },
    Target {
        name: "whydrop_reader",
        root: "agent/reader/src/lib.rs",
        rooms: &[
            "words", // that both share
            "page",  // a board as HTML
            "view",  // on a terminal
        ],
        has_no_circles: true,
    },
    Target {
        name: "whydrop",
        root: "agent/src/lib.rs",
        rooms: &[
            "mute",    // rules of the configuration
            "state",   // what outlives an agent
            "confine", // what the process gives up
            "heal",    // carries out what the core's healer decides
            "agent",   // the one task that hands facts to the docket
            "command", // subcommands
        ],
        has_no_circles: true,
    },
    Target { name: "", root: "agent/src/main.rs", rooms: &[], has_no_circles: true },
    tool("whydrop_tests", "tests/src/lib.rs"),
    tool("", "tests/src/main.rs"),
    tool("", "tests/src/bin/whydrop-bench.rs"),
    tool("", "tests/src/bin/whydrop-fleet-load.rs"),
    tool("", "tests/src/bin/whydrop-kernels.rs"),
    tool("", "tests/src/bin/whydrop-lab.rs"),
    tool("", "tests/src/bin/whydrop-otlp-load.rs"),
    tool("", "tests/src/bin/whydrop-seccomp.rs"),
    tool("whydrop_fuzz", "tests/fuzz/src/lib.rs"),
    tool("", "tests/fuzz/src/bin/whydrop-fuzz.rs"),
    Target {
        name: "whydrop_supply", // what lies beside an image
        root: "xtask/supply/src/lib.rs",
        rooms: &[
            "fault",      // what can be wrong
            "layout",     // an archive with an image
            "sign",       // keys and signatures
            "statement",  // what is said of an image
            "crates",     // what is linked into a program
            "sbom",       // what it is made of
            "provenance", // how it was made
            "attach",     // all of it, put beside the image
            "verify",     // and held against a key
            "compare",    // two of them
        ],
        has_no_circles: true,
    },
    Target { name: "", root: "xtask/supply/src/main.rs", rooms: &[], has_no_circles: true },
    Target {
        name: "",
        root: "xtask/src/main.rs",
        rooms: &[
            "cache",     // where what is made once is kept
            "budget",    // how long stages may take
            "arch",      // the processors of nodes
            "plan",      // commands one after the other, and how far they are
            "toolchain", // the pinned one
            "cargo",
            "setup",  // what the machine lacks
            "supply", // what attaches and verifies
            // The jobs; those above are parts of others.
            "image",
            "verify",
            "reproduce",
            "lab",
            "lint",
            "dist",
            "demo",
            "test",
            "differential",
            "churn",
            "soak",
            "kernels",
            "fleet",
            "fuzz",
            "bench",
            "bare",
        ],
        has_no_circles: true,
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn the_house() -> House<'static> {
    let house = House::read(HOUSE, &|path| fs::read_to_string(root().join(path)).ok());
    assert_eq!(house.problems, Vec::<String>::new());
    house
}

#[test]
fn rooms_use_only_what_is_above_them() {
    let faults = the_house().out_of_order();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn there_is_no_circle_of_modules() {
    let circles = the_house().circles();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn every_source_file_of_the_workspace_has_its_place() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, members) = manifest.split_once("members = [").unwrap();
    let (members, _) = members.split_once(']').unwrap();
    let members: Vec<String> =
        serde_json::from_str(&format!("[{}]", members.trim().trim_end_matches(','))).unwrap();
    let mut there = BTreeSet::new();
    for member in members {
        sources(&format!("{member}/src"), &mut there).unwrap();
    }
    let house = the_house();
    let read: BTreeSet<String> = house.paths().into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(there, read);
}

fn sources(folder: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(root().join(folder))? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().display());
        if entry.file_type()?.is_dir() {
            sources(&path, found)?;
        } else if Path::new(&path).extension().is_some_and(|extension| extension == "rs") {
            found.insert(path);
        }
    }
    Ok(())
}
