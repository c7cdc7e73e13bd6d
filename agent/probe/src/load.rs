//! Loading the programs, with what they must know about the running kernel.

use std::{collections::HashMap, sync::Arc};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, VerifierLogLevel,
    maps::{Array, HashMap as KernelHashMap, MapError},
    programs::{
        BtfTracePoint, ProgramError, SchedClassifier, TestRun as _, TestRunOptions,
        tp_btf::{BtfTracePointLink, BtfTracePointLinkId},
    },
};
use whydrop_ebpf::{ABI_VERSION, Attempt, AttemptKey, Layout};

use super::{
    capabilities,
    config::Config,
    error::{Error, is_denied, refusal},
    kernel::{self, Kernel, release},
    names::{FROM_POD, KFREE_SKB, SOCK_STATE, TO_POD},
    part::{Part, PartState},
};
use whydrop_core::chain::chain;

/// The programs, as the build script left them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/whydrop-programs"));

const LOADING: &str = "loading the eBPF programs";

/// The parts that are attached once for the whole node.
pub(crate) const DROPS: &str = "drops";
const SOCKET_STATES: &str = "socket states";

/// The loaded programs.
pub struct Programs {
    pub(crate) ebpf: Ebpf,
    pub(crate) parts: Vec<Part>,
    pub(crate) reasons: HashMap<u32, Arc<str>>,
    /// As long as it lives, drops are seen.
    pub(crate) drops: Option<BtfTracePointLink>,
}

impl Programs {
    /// Loads all programs and attaches none. Without those on the veths there is no probe; each of
    /// the others may be missing, which its [`Part`] says.
    pub fn load(config: &Config) -> Result<Self, Error> {
        capabilities::check()?;
        let Kernel { layout, reasons, tracepoints } = Kernel::read(&config.btf)?;
        let tracepoints = Btf::parse(&tracepoints, Endianness::default())
            .map_err(|error| Error::Btf(error.to_string()))?;
        let mut ebpf = object(&layout, VerifierLogLevel::default())?;
        let drops = load_tracepoint(&mut ebpf, KFREE_SKB, kernel::KFREE_SKB, &tracepoints);
        let mut parts = drop_parts(drops, &layout);
        let states = load_tracepoint(&mut ebpf, SOCK_STATE, kernel::SOCK_STATE, &tracepoints);
        parts.push(part(SOCKET_STATES, states));
        for program in [FROM_POD, TO_POD] {
            classifier(&mut ebpf, program)?.load().map_err(|error| refused(program, error))?;
        }
        Ok(Self { ebpf, parts, reasons, drops: None })
    }

    /// The object that holds the programs, an ELF file: for tests.
    pub fn object() -> &'static [u8] {
        OBJECT
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

    /// Lets the programs forget all attempts: for tests.
    pub fn forget_attempts(&mut self) -> Result<(), Error> {
        let map = self.ebpf.map_mut("ATTEMPTS").ok_or_else(|| missing("ATTEMPTS"))?;
        let mut map = KernelHashMap::<_, AttemptKey, Attempt>::try_from(map).map_err(wrong)?;
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>().map_err(wrong)?;
        keys.iter().try_for_each(|key| map.remove(key)).map_err(wrong)
    }

    /// Attaches what is attached once for the whole node.
    pub(crate) fn attach(&mut self) {
        let Self { ebpf, parts, drops, .. } = self;
        attach_part(parts, DROPS, || {
            *drops = Some(attach_drops(ebpf)?);
            Ok(())
        });
        // The link stays with the program, which stays with the object.
        attach_part(parts, SOCKET_STATES, || attach_tracepoint(ebpf, SOCK_STATE).map(drop));
    }
}

/// Attaches a part, if its program was loaded.
pub(crate) fn attach_part(
    parts: &mut [Part],
    name: &str,
    attach: impl FnOnce() -> Result<(), ProgramError>,
) {
    let Some(found) = parts.iter_mut().find(|part| part.name == name) else { return };
    if found.state == PartState::Active
        && let Err(error) = attach()
    {
        found.state = PartState::Failed(chain(&error));
    }
}

/// Attaches the program that sees drops, until the link is dropped. The program stays loaded: to load it
/// takes privileges that the agent has given up by the time that it starts again.
pub(crate) fn attach_drops(ebpf: &mut Ebpf) -> Result<BtfTracePointLink, ProgramError> {
    let id = attach_tracepoint(ebpf, KFREE_SKB)?;
    tracepoint(ebpf, KFREE_SKB)?.take_link(id)
}

/// What of drops works on this kernel.
fn drop_parts(drops: Result<(), ProgramError>, layout: &Layout) -> Vec<Part> {
    let is_seen = drops.is_ok();
    let of_drops = |is_there: bool, why: &str| match (is_seen, is_there) {
        (true, true) => PartState::Active,
        (true, false) => PartState::Unavailable(why.to_owned()),
        (false, _) => PartState::Unavailable("no drop is seen".to_owned()),
    };
    let locations = of_drops(
        layout.name_locations != 0,
        "programs cannot name the kernel's functions before Linux 5.13",
    );
    let reasons = of_drops(layout.has_reason != 0, "kfree_skb gives no reason before Linux 5.17");
    vec![
        part(DROPS, drops),
        Part { name: "drop locations", state: locations },
        Part { name: "drop reasons", state: reasons },
    ]
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
pub(crate) fn object(layout: &Layout, log: VerifierLogLevel) -> Result<Ebpf, Error> {
    let ebpf = EbpfLoader::new()
        .verifier_log_level(log)
        .override_global("LAYOUT", layout, true)
        .load(OBJECT)
        .map_err(|error| Error::kernel(LOADING, error))?;
    let abi = ebpf.map("ABI").ok_or_else(|| missing("ABI"))?;
    let found = Array::<_, u8>::try_from(abi).map_err(wrong)?.len();
    if found == ABI_VERSION { Ok(ebpf) } else { Err(Error::Abi { found, expected: ABI_VERSION }) }
}

/// Why a program is refused without which there is no probe: lack of privilege, or what the verifier
/// objects to. All that it printed is for those who ask for it.
fn refused(program: &'static str, error: ProgramError) -> Error {
    if !matches!(error, ProgramError::LoadError { .. }) || is_denied(&error) {
        return Error::kernel(LOADING, error);
    }
    tracing::debug!(program, "{error}");
    let objection = refusal(&error);
    Error::Refused { program, release: release(), objection }
}

pub(crate) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, Error> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(TryInto::try_into)
        .map_err(|error| Error::kernel(LOADING, error))
}

fn tracepoint<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

pub(crate) fn load_tracepoint(
    ebpf: &mut Ebpf,
    program: &str,
    name: &str,
    btf: &Btf,
) -> Result<(), ProgramError> {
    tracepoint(ebpf, program)?.load(name, btf)
}

fn attach_tracepoint(ebpf: &mut Ebpf, name: &str) -> Result<BtfTracePointLinkId, ProgramError> {
    tracepoint(ebpf, name)?.attach()
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
