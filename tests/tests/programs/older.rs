//! What kernels older than this one refuse, looked for here: so that a compiler's next idea shows on any
//! machine, and not first on a node that runs Linux 5.10.

use std::{collections::BTreeMap, thread};

use caps::{CapSet, Capability};
use object::{Object as _, ObjectSection as _, SectionKind};
use whydrop::probe::{self, Config, Programs, Walk};

/// The last helper that Linux 5.10 has, `bpf_redirect_peer` (include/uapi/linux/bpf.h).
const LAST_HELPER: i32 = 155;
/// Helpers that came later, each called only behind a value of `Layout` that says whether it is there:
/// `bpf_ktime_get_coarse_ns` (5.11) and `bpf_snprintf` (5.13).
const GUARDED_HELPERS: [i32; 2] = [160, 165];

/// Bits of an instruction (include/uapi/linux/bpf.h, `bpf_common.h`).
mod bits {
    pub(super) const CLASS: u8 = 0x07;
    pub(super) const LDX: u8 = 0x01;
    pub(super) const STX: u8 = 0x03;
    pub(super) const ALU: u8 = 0x04;
    pub(super) const JMP: u8 = 0x05;
    pub(super) const JMP32: u8 = 0x06;
    pub(super) const ALU64: u8 = 0x07;
    pub(super) const MODE: u8 = 0xe0;
    pub(super) const ATOMIC: u8 = 0xc0;
    pub(super) const MEMSX: u8 = 0x80;
    pub(super) const OPERATION: u8 = 0xf0;
    pub(super) const CALL: u8 = 0x80;
    pub(super) const JA: u8 = 0x00;
    pub(super) const DIV: u8 = 0x30;
    pub(super) const MOD: u8 = 0x90;
    pub(super) const MOV: u8 = 0xb0;
    pub(super) const END: u8 = 0xd0;
    /// `BPF_LD | BPF_IMM | BPF_DW`, which takes two places.
    pub(super) const LOAD_WIDE: u8 = 0x18;
}

/// An instruction.
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: [u8; 8]) -> Self {
        let [code, registers, o0, o1, immediate @ ..] = bytes;
        Self {
            code,
            source: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
            immediate: i32::from_le_bytes(immediate),
        }
    }

    /// What Linux 5.10 would say against it.
    fn objection(self) -> Option<String> {
        use bits::{
            ALU, ALU64, ATOMIC, CALL, CLASS, DIV, END, JA, JMP, JMP32, LDX, MEMSX, MOD, MODE, MOV,
            OPERATION, STX,
        };
        let (class, operation) = (self.code & CLASS, self.code & OPERATION);
        let is_there = self.immediate <= LAST_HELPER || GUARDED_HELPERS.contains(&self.immediate);
        match class {
            // Of the kernel's own addition alone, without what was there before.
            STX if self.code & MODE == ATOMIC && self.immediate != 0 => {
                Some(format!("an atomic operation {:#x} but addition: 5.12", self.immediate))
            }
            JMP if operation == CALL && self.source == 0 && !is_there => {
                Some(format!("helper {}, which nothing guards", self.immediate))
            }
            JMP if operation == CALL && self.source > 1 => {
                Some("a function of the kernel's: 5.13".to_owned())
            }
            JMP32 if operation == JA => Some("a jump by 32 bits: 6.6".to_owned()),
            LDX if self.code & MODE == MEMSX => Some("a load that keeps the sign: 6.6".to_owned()),
            ALU64 if operation == END => Some("a swap of bytes without condition: 6.6".to_owned()),
            ALU | ALU64 if [DIV, MOD, MOV].contains(&operation) && self.offset != 0 => {
                Some("signed arithmetic: 6.6".to_owned())
            }
            _ => None,
        }
    }
}

/// The instructions of every program and function, by section.
fn instructions() -> BTreeMap<String, Vec<Instruction>> {
    let object = object::File::parse(Programs::object()).expect("an ELF object");
    let sections = object.sections().filter(|section| section.kind() == SectionKind::Text);
    let read = |bytes: &[u8]| {
        let (places, rest) = bytes.as_chunks::<8>();
        assert_eq!(rest, b"", "instructions of eight bytes");
        let mut places = places.iter().map(|bytes| Instruction::read(*bytes));
        let mut all = Vec::new();
        while let Some(instruction) = places.next() {
            if instruction.code == bits::LOAD_WIDE {
                places.next();
            }
            all.push(instruction);
        }
        all
    };
    sections
        .map(|section| {
            let name = section.name().expect("a name").to_owned();
            (name, read(section.data().expect("its bytes")))
        })
        .filter(|(_, all)| !all.is_empty())
        .collect()
}

#[test]
fn every_instruction_is_one_that_linux_5_10_has() {
    let all = instructions();
    assert!(all.values().map(Vec::len).sum::<usize>() > 1_000, "{:?}", all.keys());
    let calls = |id| {
        let mut all = all.values().flatten();
        all.any(|i| i.code == bits::JMP | bits::CALL && i.source == 0 && i.immediate == id)
    };
    for helper in GUARDED_HELPERS {
        assert!(calls(helper), "helper {helper} is no longer called: take it out of the list");
    }
    let objections: Vec<String> = all
        .iter()
        .flat_map(|(section, all)| all.iter().map(move |instruction| (section, instruction)))
        .filter_map(|(section, one)| Some(format!("{section}: {}", one.objection()?)))
        .collect();
    assert!(objections.is_empty(), "{objections:#?}");
}

#[test]
fn what_is_newer_is_objected_to() {
    let one = |code, source, offset, immediate| Instruction { code, source, offset, immediate };
    for (newer, instruction) in [
        (false, one(0xdb, 1, 0, 0)),   // lock *(u64 *) += r1
        (true, one(0xdb, 1, 0, 0x40)), // lock *(u64 *) |= r1
        (true, one(0xdb, 1, 0, 0x01)), // r1 = atomic_fetch_add
        (false, one(0x85, 0, 0, 1)),   // bpf_map_lookup_elem
        (false, one(0x85, 0, 0, 165)), // bpf_snprintf, guarded
        (true, one(0x85, 0, 0, 174)),  // bpf_get_func_ip
        (false, one(0x85, 1, 0, 7)),   // a call within the program
        (true, one(0x85, 2, 0, 7)),    // kfunc
        (true, one(0x06, 0, 0, 1)),    // gotol
        (true, one(0x99, 1, 0, 0)),    // r0 = *(s64 *)
        (true, one(0xd7, 0, 0, 16)),   // bswap16
        (false, one(0xdc, 0, 0, 16)),  // be16
        (true, one(0xbf, 1, 8, 0)),    // r0 = (s8) r1
        (false, one(0xbf, 1, 0, 0)),   // r0 = r1
    ] {
        let said = instruction.objection();
        assert_eq!(said.is_some(), newer, "{:#x}: {said:?}", instruction.code);
    }
}

/// Kernels before 6.3 refuse a program that reads what it has not written of its stack; later ones allow
/// it to whom they trust with their memory. Without that trust this one is as strict.
#[test]
fn nothing_is_read_of_the_stack_that_was_not_written() {
    let walks = thread::spawn(|| {
        for trusted in [Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN] {
            caps::drop(None, CapSet::Effective, trusted).expect("give up a capability");
        }
        probe::walk(&Config::default()).expect("an object")
    });
    let walks = walks.join().expect("no panic");
    // Programs at tracepoints read the kernel's memory, which is no longer allowed at all.
    let at_veths: Vec<&Walk> = walks.iter().filter(|walk| walk.program.ends_with("_pod")).collect();
    assert_eq!(at_veths.len(), 2, "{walks:?}");
    for walk in at_veths {
        assert!(walk.result.is_ok(), "{walk:#?}");
    }
}

/// The verifier's work is the start's time on a slow node: a probe of Kubernetes does not wait for long.
#[test]
fn the_verifier_walks_few_instructions() {
    /// The kernel gives up at a million.
    const WALKED_MAX: u64 = 60_000;

    assert!(nix::unistd::geteuid().is_root(), "this test needs root: it loads eBPF programs");
    let walks = probe::walk(&Config::default()).expect("an object");
    assert_eq!(walks.len(), 4);
    for walk in walks {
        let walked = walk.result.as_ref().unwrap_or_else(|why| panic!("{}: {why}", walk.program));
        assert!(walked.instructions <= WALKED_MAX, "{walk:?}");
    }
}
