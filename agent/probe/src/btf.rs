//! The running kernel's own description of itself: where structure members are, what its drop
//! reasons are called, and which arguments its tracepoints have.
//!
//! A walker of our own over the bytes, since all that is asked for is some twenty offsets, two
//! function types and one enumeration, while a parsed model of a kernel is 130 000 types and tens
//! of megabytes. The bytes are read once and dropped.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html>

use std::fmt::Write as _;

use super::error::Error;

/// The type kinds that matter here.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const POINTER: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNCTION_TYPE: u32 = 13;
    pub(super) const VARIABLE: u32 = 14;
    pub(super) const SECTION: u32 = 15;
    pub(super) const DECLARATION_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
    pub(super) const LAST: u32 = ENUM64;
}

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
/// Every type begins with its name, its kind and number of parts, and its size or type.
const TYPE_BYTES: usize = 12;
/// Structures within structures, typedefs of typedefs: a few at most. A bound, since the bytes may
/// be anything.
const DEPTH_MAX: u32 = 16;

/// A kernel's type information.
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; the first is type 1, because 0 is `void`.
    starts: Vec<u32>,
    /// Those of the kinds that are looked for by name: one type in five or so, and each is looked at for
    /// every name.
    named: Vec<Named>,
}

/// A type that may be looked for.
struct Named {
    kind: u32,
    name: u32,
    id: u32,
}

/// One type, as far as it is read.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Whether member offsets carry a bit field's width in their upper byte.
    bit_fields: bool,
    parts: usize,
    /// The type pointed at, aliased or qualified.
    target: u32,
    /// Where the parts begin.
    at: usize,
}

/// A tracepoint's place in the type information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tracepoint {
    /// The type that a program names to be attached to it.
    pub(crate) id: u32,
    /// How many arguments a program gets.
    pub(crate) arguments: usize,
}

impl<'a> Btf<'a> {
    /// Finds its way through the bytes of `/sys/kernel/btf/vmlinux`.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let malformed = || Error::Btf("its header or a type in it is cut off".to_owned());
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(Error::Btf("it does not begin as BTF does".to_owned()));
        }
        let length = |at| word(bytes, at).map(|value| value as usize).ok_or_else(malformed);
        let section = |at: usize, count: usize| {
            let at = HEADER_BYTES.checked_add(at)?;
            bytes.get(at..at.checked_add(count)?)
        };
        let types = section(length(8)?, length(12)?).ok_or_else(malformed)?;
        let strings = section(length(16)?, length(20)?).ok_or_else(malformed)?;

        let starts = Vec::with_capacity(types.len() / 32);
        let mut btf = Self { types, strings, starts, named: Vec::new() };
        let mut at = 0;
        while at < types.len() {
            let header = btf.header(at).ok_or_else(malformed)?;
            let part = match header.kind {
                kind::INT | kind::VARIABLE | kind::DECLARATION_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::SECTION | kind::ENUM64 => 12 * header.parts,
                kind::ENUM | kind::FUNCTION_TYPE => 8 * header.parts,
                unknown if unknown > kind::LAST => {
                    let mut text = String::new();
                    let _ = write!(text, "it has types of kind {unknown}, newer than this agent");
                    return Err(Error::Btf(text));
                }
                _ => 0,
            };
            if let kind::STRUCT | kind::ENUM | kind::TYPEDEF = header.kind {
                btf.named.push(Named { kind: header.kind, name: header.name, id: btf.len() });
            }
            btf.starts.push(u32::try_from(at).map_err(|_| malformed())?);
            at = header.at + part;
        }
        if at != types.len() {
            return Err(malformed());
        }
        Ok(btf)
    }

    /// How many types there are, `void` among them.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.starts.len() + 1).unwrap_or(u32::MAX)
    }

    /// The offset in bytes of a member of a structure. The path names members of members with dots;
    /// members of unnamed structures and unions are found by their own name, as in C.
    pub(crate) fn offset(&self, structure: &str, path: &str) -> Result<u32, Error> {
        let missing =
            || Error::Btf(format!("this kernel's struct {structure} has no member {path}"));
        let mut at = self.find(kind::STRUCT, structure).ok_or_else(missing)?;
        let mut bits = 0_u32;
        for name in path.split('.') {
            let (offset, member) = self.member(at, name, DEPTH_MAX).ok_or_else(missing)?;
            bits = bits.checked_add(offset).ok_or_else(missing)?;
            at = member;
        }
        if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(missing()) }
    }

    /// The tracepoint of this name, if programs may be attached to it through its types.
    pub(crate) fn tracepoint(&self, name: &str) -> Option<Tracepoint> {
        let id = self.find(kind::TYPEDEF, &format!("btf_trace_{name}"))?;
        let pointer = self.get(self.get(id)?.target)?;
        let function = self.get(pointer.target)?;
        if pointer.kind != kind::POINTER || function.kind != kind::FUNCTION_TYPE {
            return None;
        }
        // The first parameter is the tracepoint's own data, which programs do not get.
        Some(Tracepoint { id, arguments: function.parts.checked_sub(1)? })
    }

    /// The numbers and names of an enumeration; none if there is no such.
    pub(crate) fn enumerators(&self, name: &str) -> Vec<(u32, &'a str)> {
        let Some(list) = self.find(kind::ENUM, name).and_then(|id| self.get(id)) else {
            return Vec::new();
        };
        (0..list.parts)
            .map_while(|part| {
                let at = list.at + 8 * part;
                let name = self.string(word(self.types, at)?)?;
                Some((word(self.types, at + 4)?, name))
            })
            .collect()
    }

    /// The id of the type of this kind and name.
    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        let mut named = self.named.iter();
        named
            .find(|found| found.kind == kind && self.is_string(found.name, name))
            .map(|found| found.id)
    }

    /// Whether the string at a place is this one.
    fn is_string(&self, at: u32, wanted: &str) -> bool {
        let rest = usize::try_from(at).ok().and_then(|at| self.strings.get(at..));
        let rest = rest.and_then(|rest| rest.strip_prefix(wanted.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The offset in bits and the type of a member, looking into unnamed members as well.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let owner = self.resolve(id)?;
        let depth = depth.checked_sub(1)?;
        (0..owner.parts).find_map(|part| {
            let at = owner.at + 12 * part;
            let member = self.string(word(self.types, at)?)?;
            let id = word(self.types, at + 4)?;
            let offset = word(self.types, at + 8)?;
            let offset = if owner.bit_fields { offset & 0x00ff_ffff } else { offset };
            if member == name {
                Some((offset, id))
            } else if member.is_empty() {
                let (inner, id) = self.member(id, name, depth)?;
                Some((offset.checked_add(inner)?, id))
            } else {
                None
            }
        })
    }

    /// The structure or union behind aliases and qualifiers.
    fn resolve(&self, id: u32) -> Option<Type> {
        let mut found = self.get(id)?;
        for _ in 0..DEPTH_MAX {
            match found.kind {
                kind::STRUCT | kind::UNION => return Some(found),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    found = self.get(found.target)?;
                }
                _ => return None,
            }
        }
        None
    }

    fn get(&self, id: u32) -> Option<Type> {
        let index = usize::try_from(id.checked_sub(1)?).ok()?;
        self.header(usize::try_from(*self.starts.get(index)?).ok()?)
    }

    fn header(&self, at: usize) -> Option<Type> {
        let info = word(self.types, at + 4)?;
        Some(Type {
            name: word(self.types, at)?,
            kind: info >> 24 & 0x1f,
            bit_fields: info >> 31 != 0,
            parts: usize::try_from(info & 0xffff).ok()?,
            target: word(self.types, at + 8)?,
            at: at + TYPE_BYTES,
        })
    }

    fn string(&self, at: u32) -> Option<&'a str> {
        let rest = self.strings.get(usize::try_from(at).ok()?..)?;
        let length = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&rest[..length]).ok()
    }
}

/// A copy of the type information that is empty but for the tracepoints, at their own ids.
///
/// aya takes parsed type information to find the id of a tracepoint by. Given the kernel's, it
/// builds 130 000 types, some tens of megabytes, to look up two.
pub(crate) fn only(tracepoints: &[(&str, Tracepoint)], len: u32) -> Vec<u8> {
    let mut strings = vec![0_u8];
    let mut types = Vec::with_capacity(len as usize * TYPE_BYTES);
    for id in 1..len {
        let (name, kind) = match tracepoints.iter().find(|(_, tracepoint)| tracepoint.id == id) {
            Some((name, _)) => {
                let at = strings.len();
                strings.extend_from_slice(b"btf_trace_");
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
                (u32::try_from(at).unwrap_or(0), kind::TYPEDEF)
            }
            None => (0, kind::CONST),
        };
        for value in [name, kind << 24, 0] {
            types.extend_from_slice(&value.to_ne_bytes());
        }
    }
    let length = |part: &[u8]| u32::try_from(part.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + types.len() + strings.len());
    bytes.extend_from_slice(&MAGIC.to_ne_bytes());
    bytes.extend_from_slice(&[1, 0]); // version and flags
    for value in [24, 0, length(&types), length(&types), length(&strings)] {
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    bytes.extend_from_slice(&types);
    bytes.extend_from_slice(&strings);
    bytes
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Type information made by hand: the parts of each type after its header are words.
    fn btf(types: &[(u32, u32, &[u32])], strings: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, info, rest) in types {
            for value in [*name, *info].iter().chain(*rest) {
                body.extend_from_slice(&value.to_ne_bytes());
            }
        }
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let (types, strings) = (body, strings.as_bytes());
        for value in [24, 0, types.len(), types.len(), strings.len()] {
            bytes.extend(u32::try_from(value).unwrap().to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    fn name(strings: &str, name: &str) -> u32 {
        u32::try_from(strings.find(&format!("\0{name}\0")).unwrap() + 1).unwrap()
    }

    const STRINGS: &str =
        "\0int\0sk_buff\0dev\0len\0btf_trace_x\0reason\0REASON_A\0REASON_B\0wrap\0inner\0";

    fn sample() -> Vec<u8> {
        let n = |text| name(STRINGS, text);
        btf(
            &[
                (n("int"), kind::INT << 24, &[4, 32]),                     // 1
                (0, kind::UNION << 24 | 2, &[8, n("dev"), 1, 0, 0, 5, 0]), // 2
                (n("sk_buff"), kind::STRUCT << 24 | 2, &[16, 0, 2, 64, n("len"), 1, 128]), // 3
                (n("btf_trace_x"), kind::TYPEDEF << 24, &[7]),             // 4
                (0, kind::STRUCT << 24 | 1 << 31 | 1, &[4, n("inner"), 1, 8 << 24 | 16]), // 5
                (0, kind::FUNCTION_TYPE << 24 | 3, &[0, 0, 1, 0, 1, 0, 1]), // 6
                (0, kind::POINTER << 24, &[6]),                            // 7
                (n("reason"), kind::ENUM << 24 | 2, &[4, n("REASON_A"), 0, n("REASON_B"), 9]), // 8
                (n("wrap"), kind::STRUCT << 24 | 1, &[24, n("inner"), 3, 32]), // 9
            ],
            STRINGS,
        )
    }

    #[test]
    fn members_are_found_through_unnamed_and_named_ones() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("sk_buff", "dev").unwrap(), 8);
        assert_eq!(btf.offset("sk_buff", "len").unwrap(), 16);
        assert_eq!(btf.offset("sk_buff", "inner").unwrap(), 10);
        assert_eq!(btf.offset("wrap", "inner.len").unwrap(), 20);
        let error = btf.offset("sk_buff", "nothing").unwrap_err().to_string();
        assert!(error.contains("struct sk_buff has no member nothing"), "{error}");
    }

    #[test]
    fn tracepoints_and_enumerations_are_found() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.tracepoint("x"), Some(Tracepoint { id: 4, arguments: 2 }));
        assert_eq!(btf.tracepoint("y"), None);
        assert_eq!(btf.enumerators("reason"), [(0, "REASON_A"), (9, "REASON_B")]);
        assert_eq!(btf.enumerators("absent"), []);
    }

    #[test]
    fn the_reduced_copy_has_the_tracepoints_at_their_ids() {
        let tracepoint = Tracepoint { id: 1234, arguments: 3 };
        let bytes = only(&[("kfree_skb", tracepoint)], 2000);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.len(), 2000);
        assert_eq!(btf.find(kind::TYPEDEF, "btf_trace_kfree_skb"), Some(1234));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read_everything(&bytes);
        }

        #[test]
        fn damage_is_refused_or_read(at in 2_usize..400, value: u8) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = value;
            read_everything(&bytes);
        }
    }

    fn read_everything(bytes: &[u8]) {
        if let Ok(btf) = Btf::parse(bytes) {
            let _ = btf.offset("sk_buff", "dev.dev");
            let _ = btf.tracepoint("x");
            let _ = btf.enumerators("reason");
        }
    }
}
