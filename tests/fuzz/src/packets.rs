//! The programs at a pod's veth, run by the real kernel on packets (`BPF_PROG_TEST_RUN`), against another
//! parser's reading of the same bytes. Needs root, and fails without.

mod build;
mod meaning;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv6Addr},
};

use whydrop::probe::{Config, Hook, Programs};
use whydrop_ebpf::{Attempt, AttemptKey, address, flags, octets};

use self::meaning::{Meaning, Role, meaning};
use crate::choices::Choices;

/// Passed on, for the next program in line to decide: `TCX_NEXT`, `TC_ACT_UNSPEC`.
const PASS: i32 = -1;

/// Longer frames no link of 1500 bytes has, with two tags of VLANs.
const FRAME_BYTES_MAX: usize = 1522;

/// Whether the kernel runs a program on a frame by itself: one that holds a packet, and an IP header where
/// it says that there is one (`bpf_prog_test_run_skb` in `net/bpf/test_run.c`). Shorter ones are for
/// `tests/tests/programs/damaged.rs`.
fn is_run(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 14 + 1,
    };
    (least..=FRAME_BYTES_MAX).contains(&frame.len())
}

thread_local! {
    static PROGRAMS: RefCell<Option<Programs>> = const { RefCell::new(None) };
}

/// Runs the programs on a packet that the bytes are, or that they say how to build.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let frame = match choices.byte() % 2 {
        0 => choices.rest().to_vec(),
        _ => build::frame(&mut choices),
    };
    if !is_run(&frame) {
        return;
    }
    PROGRAMS.with_borrow_mut(|programs| {
        let programs = programs.get_or_insert_with(|| {
            Programs::load(&Config::default()).expect("load the programs, as root")
        });
        programs.forget_attempts().expect("forget");
        hold(programs, &frame);
    });
}

/// Holds what the programs make of a packet against what it means.
fn hold(programs: &mut Programs, frame: &[u8]) {
    let Ok(meaning) = meaning(frame) else {
        // What the other parser refuses has no meaning to compare; it passes untouched anyway.
        pass(programs, Hook::FromPod, frame);
        pass(programs, Hook::ToPod, frame);
        return;
    };
    for (hook, flag) in [(Hook::FromPod, flags::FROM_POD), (Hook::ToPod, flags::TO_POD)] {
        pass(programs, hook, frame);
        let found = programs.attempts().expect("read the attempts");
        match &meaning {
            Some(meaning) if meaning.role == Role::Request => {
                let [(key, attempt)] = found[..] else {
                    panic!("{hook:?}: expected {meaning:?}, found {found:?}: {frame:02x?}");
                };
                assert_eq!(key, key_of(meaning), "{hook:?}: {frame:02x?}");
                let destination = (ip(attempt.destination), attempt.destination_port);
                let (server, port) = meaning.destination;
                assert_eq!(destination, (server.to_canonical(), port), "{hook:?}: {frame:02x?}");
                assert_eq!((attempt.flags, attempt.packets), (flag, 1), "{hook:?}: {frame:02x?}");
            }
            _ => assert_eq!(found, [], "{hook:?}: {meaning:?}: {frame:02x?}"),
        }
        programs.forget_attempts().expect("forget");
    }
    if let Some(meaning) = meaning.filter(|meaning| meaning.role != Role::Request) {
        hold_answer(programs, frame, &meaning);
    }
}

/// The same of a packet about an attempt, which is made before it.
fn hold_answer(programs: &Programs, frame: &[u8], meaning: &Meaning) {
    pass(programs, Hook::FromPod, &build::request(meaning));
    let before = programs.attempts().expect("read the attempts");
    let [(key, asked)] = before[..] else { panic!("{meaning:?}: expected it, found {before:?}") };
    assert_eq!(key, key_of(meaning), "the request");
    pass(programs, Hook::ToPod, frame);
    let after = programs.attempts().expect("read the attempts");
    let rejected = flags::FROM_POD | flags::REJECTED | flags::REPORTED;
    let expected = match meaning.role {
        Role::Answer => None,
        Role::Reset | Role::Unreachable => Some(Attempt { flags: rejected, ..asked }),
        Role::Request | Role::Nothing => Some(asked),
    };
    let expected: Vec<_> = expected.map(|attempt| (key, attempt)).into_iter().collect();
    assert_eq!(after, expected, "{meaning:?}: {frame:02x?}");
}

fn pass(programs: &Programs, hook: Hook, frame: &[u8]) {
    let (returned, after) = programs.run(hook, frame).expect("run a program");
    assert_eq!(returned, PASS, "{hook:?}: {frame:02x?}");
    assert_eq!(after, frame, "{hook:?}: the packet was changed");
}

fn key_of(meaning: &Meaning) -> AttemptKey {
    let source = match meaning.source.0 {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    AttemptKey {
        source: address(source),
        sequence: meaning.sequence,
        source_port: meaning.source.1,
        protocol: meaning.protocol,
        pad: 0,
        sender: 0,
    }
}

fn ip(of: whydrop_ebpf::Address) -> IpAddr {
    Ipv6Addr::from(octets(of)).to_canonical()
}
