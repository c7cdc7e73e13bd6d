//! Loading the programs, with what they must know about the running kernel.

use std::{collections::HashMap, sync::Arc};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness,
    maps::{Array, HashMap as KernelHashMap, MapError},
    programs::{BtfTracePoint, ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use whydrop_ebpf::{ABI_VERSION, Attempt, AttemptKey};

use super::{
    capabilities,
    config::Config,
    error::{Error, refusal},
    kernel::{self, Kernel},
    names::{FROM_POD, KFREE_SKB, SOCK_STATE, TO_POD},
    part::{Part, PartState},
};
use whydrop_core::chain::chain;

/// The programs, as the build script left them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/whydrop-programs"));

const LOADING: &str = "loading the eBPF programs";

/// The loaded programs.
pub struct Programs {
    pub(crate) ebpf: Ebpf,
    pub(crate) parts: Vec<Part>,
    pub(crate) reasons: HashMap<u32, Arc<str>>,
}

impl Programs {
    /// Loads all programs and attaches none. Without those on the veths there is no probe; each of
    /// the others may be missing, which its [`Part`] says.
    pub fn load(config: &Config) -> Result<Self, Error> {
        capabilities::check()?;
        let Kernel { mut layout, reasons, tracepoints } = Kernel::read(&config.btf)?;
        let tracepoints = Btf::parse(&tracepoints, Endianness::default())
            .map_err(|error| Error::Btf(error.to_string()))?;
        let mut parts = Vec::new();

        let mut ebpf = object(&layout)?;
        let named = load_tracepoint(&mut ebpf, KFREE_SKB, kernel::KFREE_SKB, &tracepoints);
        let drops = match named {
            Ok(()) => {
                parts.push(Part { name: "drop locations", state: PartState::Active });
                Ok(())
            }
            Err(error) => {
                // It may be only the helper that names functions which this kernel refuses.
                layout.name_locations = 0;
                ebpf = object(&layout)?;
                let unnamed =
                    load_tracepoint(&mut ebpf, KFREE_SKB, kernel::KFREE_SKB, &tracepoints);
                if unnamed.is_ok() {
                    let why = PartState::Unavailable(refusal(&error));
                    parts.push(Part { name: "drop locations", state: why });
                }
                unnamed
            }
        };
        parts.push(part("drops", drops));
        parts.push(Part {
            name: "drop reasons",
            state: if layout.has_reason != 0 {
                PartState::Active
            } else {
                PartState::Unavailable("kfree_skb gives no reason before Linux 5.17".to_owned())
            },
        });
        let states = load_tracepoint(&mut ebpf, SOCK_STATE, kernel::SOCK_STATE, &tracepoints);
        parts.push(part("socket states", states));
        for program in [FROM_POD, TO_POD] {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|error| Error::kernel(LOADING, error))?;
        }
        Ok(Self { ebpf, parts, reasons })
    }

    /// Runs one of the two programs for veths on a packet, without any interface: for tests. The
    /// packet comes back as the program left it, with what the program returned.
    pub fn run(&self, on: Hook, packet: &[u8]) -> Result<(i32, Vec<u8>), Error> {
        let name = match on {
            Hook::FromPod => FROM_POD,
            Hook::ToPod => TO_POD,
        };
        let program: &SchedClassifier = self
            .ebpf
            .program(name)
            .ok_or(ProgramError::NotLoaded)
            .and_then(TryInto::try_into)
            .map_err(|error| Error::kernel(LOADING, error))?;
        let mut out = vec![0; packet.len()];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            })
            .map_err(|error| Error::kernel("running a program on a packet", error))?;
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
        Ok((result.return_value.cast_signed(), out))
    }

    /// The attempts that the programs remember: for tests.
    pub fn attempts(&self) -> Result<Vec<(AttemptKey, Attempt)>, Error> {
        let map = self.ebpf.map("ATTEMPTS").ok_or_else(|| missing("ATTEMPTS"))?;
        let map = KernelHashMap::<_, AttemptKey, Attempt>::try_from(map).map_err(wrong)?;
        map.iter().collect::<Result<_, _>>().map_err(wrong)
    }

    /// Attaches what is attached once for the whole node.
    pub(crate) fn attach(&mut self) {
        for (program, name) in [(KFREE_SKB, "drops"), (SOCK_STATE, "socket states")] {
            let Some(found) = self.parts.iter_mut().find(|part| part.name == name) else {
                continue;
            };
            if found.state == PartState::Active
                && let Err(error) = attach_tracepoint(&mut self.ebpf, program)
            {
                found.state = PartState::Failed(chain(&error));
            }
        }
    }
}

/// Where a packet is, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The pod has sent it.
    FromPod,
    /// It is about to reach the pod.
    ToPod,
}

/// The object with its maps, and no program loaded yet.
fn object(layout: &whydrop_ebpf::Layout) -> Result<Ebpf, Error> {
    let ebpf = EbpfLoader::new()
        .override_global("LAYOUT", layout, true)
        .load(OBJECT)
        .map_err(|error| Error::kernel(LOADING, error))?;
    let abi = ebpf.map("ABI").ok_or_else(|| missing("ABI"))?;
    let found = Array::<_, u8>::try_from(abi).map_err(wrong)?.len();
    if found == ABI_VERSION { Ok(ebpf) } else { Err(Error::Abi { found, expected: ABI_VERSION }) }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(TryInto::try_into)
        .map_err(|error| Error::kernel(LOADING, error))
}

fn tracepoint<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn load_tracepoint(
    ebpf: &mut Ebpf,
    program: &str,
    name: &str,
    btf: &Btf,
) -> Result<(), ProgramError> {
    tracepoint(ebpf, program)?.load(name, btf)
}

fn attach_tracepoint(ebpf: &mut Ebpf, program: &str) -> Result<(), ProgramError> {
    // The link stays with the program, which stays with the object.
    tracepoint(ebpf, program)?.attach().map(drop)
}

fn part(name: &'static str, result: Result<(), ProgramError>) -> Part {
    let state = match result {
        Ok(()) => PartState::Active,
        Err(error) => PartState::Failed(refusal(&error)),
    };
    Part { name, state }
}

pub(crate) fn missing(name: &str) -> Error {
    Error::Btf(format!("the embedded programs have no map {name}"))
}

pub(crate) fn wrong(error: MapError) -> Error {
    Error::kernel(LOADING, error)
}
