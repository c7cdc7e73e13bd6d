//! Who sends has places of its own for its attempts, and what gives way is counted.

use std::net::Ipv4Addr;

use whydrop::probe::{Attach, Hook};
use whydrop_ebpf::ATTEMPTS_OF_SENDER;
use whydrop_tests::world::netns::Node;

use crate::{
    Kernel,
    packets::{ACK, CLIENT, FROM_WEB, IPV4, ISN, SERVER, SYN, TCP, TO_WEB, ethernet, ipv4, tcp},
};

/// A sender's attempts give way to its own alone: here all come by one interface. What was answered leaves its
/// place, and is no loss; nor is what others hand to a pod.
#[test]
fn attempts_give_way_to_their_senders_own_and_are_counted() {
    let lab = Node::new(0).unwrap();
    let (kept, evicted) = lab
        .namespace()
        .enter(|| {
            let kernel = Kernel::new();
            let run = |hook, from, to, payload: &[u8]| {
                kernel.run(hook, &ethernet(IPV4, &ipv4(TCP, from, to, payload)));
            };
            for isn in (0..10 * ATTEMPTS_OF_SENDER).map(|n| ISN + 10 * n) {
                run(Hook::FromPod, CLIENT, SERVER, &tcp(TO_WEB, isn, 0, SYN));
                run(Hook::ToPod, SERVER, CLIENT, &tcp(FROM_WEB, 7, isn + 1, SYN | ACK));
            }
            assert_eq!(kernel.attempts().len(), 0);
            for n in 0..3 * ATTEMPTS_OF_SENDER {
                let client = Ipv4Addr::from_bits(CLIENT.to_bits() + n);
                run(Hook::FromPod, client, SERVER, &tcp(TO_WEB, ISN, 0, SYN));
                if n < ATTEMPTS_OF_SENDER {
                    let remote = Ipv4Addr::from_bits(0x0b00_0000 + n);
                    run(Hook::ToPod, remote, SERVER, &tcp(TO_WEB, ISN, 0, SYN));
                }
            }
            let kept = kernel.attempts().len();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let _inside = runtime.enter();
            let probe = kernel.0.start(Attach::Auto)?;
            Ok((kept, probe.observations.totals()?.attempts_evicted))
        })
        .unwrap();
    assert_eq!(kept, 2 * ATTEMPTS_OF_SENDER as usize);
    assert_eq!(evicted, u64::from(2 * ATTEMPTS_OF_SENDER));
}
