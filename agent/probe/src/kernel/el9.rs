//! A kernel that is old by its release and not by what it has: RHEL 9's, which calls itself 5.14 and has
//! drop reasons of later ones. What is known of its shape, and not where its members are: no file with its
//! description is to be had, so this is one made by hand.
//!
//! - What was replaced is an unnamed union of the new member, a structure `rh_kabi_hidden_N` with the old
//!   one, and an empty union; what is kept for later is called `rh_reservedN` (its `rh_kabi.h`).
//! - The first ones give no reason; then `kfree_skb` has one, and `SKB_CONSUMED` before the first; the
//!   last also have the socket that was to receive.

use super::{super::btf::Btf, Kernel};

const INT: u32 = 1;
const POINTER: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const FUNCTION: u32 = 13;

/// Type information that is being made.
struct Maker {
    types: Vec<u32>,
    strings: Vec<u8>,
    last: u32,
}

/// A member: name, type, offset in bytes.
type Member = (&'static str, u32, u32);

impl Maker {
    fn name(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type with its parts, and returns its number.
    fn add(&mut self, name: &str, kind: u32, parts: usize, rest: &[u32]) -> u32 {
        let name = self.name(name);
        self.types.extend([name, kind << 24 | u32::try_from(parts).unwrap()]);
        self.types.extend(rest);
        self.last += 1;
        self.last
    }

    fn made_of(&mut self, kind: u32, name: &str, members: &[Member]) -> u32 {
        let mut rest = vec![0];
        for (name, of, offset) in members {
            rest.extend([self.name(name), *of, 8 * offset]);
        }
        self.add(name, kind, members.len(), &rest)
    }

    /// A member that took the place of another that was at the beginning.
    fn replaced(&mut self, new: Member, old: &'static str) -> u32 {
        let old = self.made_of(STRUCT, "", &[(old, 1, 0)]);
        let nothing = self.made_of(UNION, "", &[]);
        self.made_of(UNION, "", &[new, ("rh_kabi_hidden_77", old, 0), ("", nothing, 0)])
    }

    fn numbers(&mut self, name: &str, numbers: &[(&str, u32)]) {
        let mut rest = vec![4];
        for (name, number) in numbers {
            rest.extend([self.name(name), *number]);
        }
        self.add(name, ENUM, numbers.len(), &rest);
    }

    fn tracepoint(&mut self, name: &str, arguments: usize) {
        // The tracepoint's own data come first.
        let parts = arguments + 1;
        let function = self.add("", FUNCTION, parts, &[&[0][..], &vec![0; 2 * parts]].concat());
        let pointer = self.add("", POINTER, 0, &[function]);
        self.add(&format!("btf_trace_{name}"), TYPEDEF, 0, &[pointer]);
    }

    fn bytes(self) -> Vec<u8> {
        let length = |bytes: usize| u32::try_from(bytes).unwrap();
        let types: Vec<u8> = self.types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let (of_types, of_strings) = (length(types.len()), length(self.strings.len()));
        for word in [24, 0, of_types, of_types, of_strings] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(self.strings);
        bytes
    }
}

/// A description of this shape, of a kernel whose `kfree_skb` has so many arguments.
fn described(arguments: usize) -> Vec<u8> {
    let mut made = Maker { types: Vec::new(), strings: vec![0], last: 0 };
    let int = made.add("int", INT, 0, &[4, 32]);

    let device = made.made_of(UNION, "", &[("dev", int, 0), ("dev_scratch", int, 0)]);
    let listed = made.made_of(STRUCT, "", &[("next", int, 0), ("prev", int, 8), ("", device, 16)]);
    let first = made.made_of(UNION, "", &[("", listed, 0), ("rbnode", int, 0)]);
    let route = made.made_of(STRUCT, "", &[("_skb_refdst", int, 0), ("destructor", int, 8)]);
    let route = made.made_of(UNION, "", &[("", route, 0), ("_sk_redir", int, 0)]);
    // From Linux 5.18 on most of it is in a group that can be copied whole, and so in RHEL's.
    let headers: &[Member] = &[("protocol", int, 52), ("network_header", int, 56)];
    let group = made.made_of(STRUCT, "", headers);
    let named = made.made_of(STRUCT, "", headers);
    let headers = made.made_of(UNION, "", &[("", group, 0), ("headers", named, 0)]);
    made.made_of(
        STRUCT,
        "sk_buff",
        &[
            ("", first, 0),
            ("sk", int, 24),
            ("", route, 88),
            ("len", int, 112),
            ("data_len", int, 116),
            ("skb_iif", int, 120),
            ("", headers, 128),
            ("head", int, 200),
            ("data", int, 208),
            ("rh_reserved1", int, 216),
        ],
    );

    let space = made.made_of(STRUCT, "", &[("net", int, 0)]);
    let space = made.add("possible_net_t", TYPEDEF, 0, &[space]);
    // As wide as what it replaced, which had the same name as a member that is looked for.
    let space = made.replaced(("nd_net", space, 0), "ifindex");
    made.made_of(STRUCT, "net_device", &[("ifindex", int, 224), ("", space, 1256)]);
    let device = made.replaced(("dev", int, 8), "dev");
    made.made_of(STRUCT, "dst_entry", &[("", device, 0)]);
    let common = made.made_of(STRUCT, "ns_common", &[("inum", int, 16)]);
    made.made_of(STRUCT, "net", &[("ns", common, 120)]);

    let space = made.made_of(STRUCT, "", &[("net", int, 0)]);
    let pair = made.made_of(STRUCT, "", &[("skc_daddr", int, 0), ("skc_rcv_saddr", int, 4)]);
    let pair = made.made_of(UNION, "", &[("skc_addrpair", int, 0), ("", pair, 0)]);
    let ports = made.made_of(STRUCT, "", &[("skc_dport", int, 0), ("skc_num", int, 2)]);
    let ports = made.made_of(UNION, "", &[("skc_portpair", int, 0), ("", ports, 0)]);
    let common: &[Member] = &[
        ("", pair, 0),
        ("", ports, 12),
        ("skc_family", int, 16),
        ("skc_net", space, 48),
        ("skc_v6_daddr", int, 56),
        ("skc_v6_rcv_saddr", int, 72),
    ];
    let common = made.made_of(STRUCT, "sock_common", common);
    let sock: &[Member] =
        &[("__sk_common", common, 0), ("sk_protocol", int, 516), ("sk_err", int, 376)];
    let sock = made.made_of(STRUCT, "sock", sock);
    let inet = made.made_of(STRUCT, "inet_sock", &[("sk", sock, 0), ("inet_sport", int, 782)]);
    made.made_of(STRUCT, "tcp_sock", &[("inet_conn", inet, 0), ("snd_una", int, 1456)]);

    made.tracepoint("inet_sock_set_state", 3);
    made.tracepoint("kfree_skb", arguments);
    let helpers = [("BPF_FUNC_ktime_get_coarse_ns", 160), ("BPF_FUNC_snprintf", 165)];
    made.numbers("bpf_func_id", &helpers);
    if arguments > 2 {
        let reasons = [
            ("SKB_NOT_DROPPED_YET", 0),
            ("SKB_CONSUMED", 1),
            ("SKB_DROP_REASON_NOT_SPECIFIED", 2),
            ("SKB_DROP_REASON_NETFILTER_DROP", 8),
            ("SKB_DROP_REASON_MAX", 69),
        ];
        made.numbers("skb_drop_reason", &reasons);
    }
    made.bytes()
}

fn kernel(arguments: usize) -> Kernel {
    let bytes = described(arguments);
    Kernel::of(&Btf::parse(&bytes).unwrap(), 4_026_531_840).unwrap()
}

#[test]
fn members_are_found_where_they_are_now() {
    for arguments in [2, 3, 4] {
        let layout = kernel(arguments).layout;
        assert_eq!((layout.skb_dev, layout.skb_sk, layout.skb_dst), (16, 24, 88));
        assert_eq!((layout.skb_protocol, layout.skb_network_header), (180, 184));
        assert_eq!((layout.skb_head, layout.skb_data), (200, 208));
        // The replaced ones of the same names are elsewhere.
        assert_eq!((layout.dev_ifindex, layout.dev_net), (224, 1256));
        assert_eq!((layout.dst_dev, layout.net_inum), (8, 136));
        assert_eq!((layout.sock_net, layout.sock_family), (48, 16));
        assert_eq!((layout.sock_destination, layout.sock_source), (0, 4));
        assert_eq!((layout.sock_destination_v6, layout.sock_source_v6), (56, 72));
        assert_eq!((layout.sock_destination_port, layout.sock_source_port), (12, 782));
        assert_eq!((layout.sock_protocol, layout.sock_err), (516, 376));
        assert_eq!(layout.tcp_snd_una, 1456);
    }
}

#[test]
fn what_it_can_say_is_known_by_what_it_has_and_not_by_its_release() {
    let first = kernel(2);
    assert_eq!((first.layout.has_reason, first.layout.name_locations), (0, 1));
    assert_eq!(first.reasons.get(&0).map(|name| &**name), Some("NOT_SPECIFIED"));
    for arguments in [3, 4] {
        let later = kernel(arguments);
        assert_eq!((later.layout.has_reason, later.layout.has_coarse_clock), (1, 1));
        let name = |number: u32| later.reasons.get(&number).map(|name| &**name);
        assert_eq!((name(2), name(8)), (Some("NOT_SPECIFIED"), Some("NETFILTER_DROP")));
        assert_eq!(name(69), None, "the end of the list");
    }
}
