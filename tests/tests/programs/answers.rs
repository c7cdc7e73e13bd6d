//! Answers that are counted and remembered, in a network of its own each: a whole probe attaches to
//! what it finds there.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use whydrop::probe::{ANSWERS_MAX, Answered, Answers, Attach, Hook, LOOKED_UP_MAX, SinceBoot};
use whydrop_core::flow::{Flow, Protocol};
use whydrop_tests::world::netns::Node;

use crate::{
    Kernel,
    packets::{
        ACK, CLIENT, CLIENT_PORT, FROM_WEB, IPV4, ISN, SERVER, SYN, TCP, TO_WEB, UDP, dns,
        ethernet, ipv4, tcp, udp,
    },
};

/// Of each connection one answer counts: of local pods' to each other, through a Service or not, of a
/// kubelet's probes, and of look-ups at the DNS. An answer that is sent again is the same one's.
#[test]
fn each_connection_that_is_answered_is_counted_once() {
    const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
    let lab = Node::new(0).unwrap();
    let counted = lab.namespace().enter(|| {
        let kernel = Kernel::new();
        let run = |hook, from, to, protocol, payload: &[u8]| {
            kernel.run(hook, &ethernet(IPV4, &ipv4(protocol, from, to, payload)));
        };
        let request = |isn| tcp(TO_WEB, isn, 0, SYN);
        let answer = |isn: u32| tcp(FROM_WEB, 7, isn + 1, SYN | ACK);
        let (to_dns, from_dns) = ((CLIENT_PORT, 53), (53, CLIENT_PORT));
        for n in 0..3 {
            let isn = ISN + 1_000 * n;
            run(Hook::FromPod, CLIENT, SERVER, TCP, &request(isn));
            run(Hook::FromPod, SERVER, CLIENT, TCP, &answer(isn));
            run(Hook::ToPod, SERVER, CLIENT, TCP, &answer(isn));
            run(Hook::ToPod, SERVER, CLIENT, TCP, &answer(isn));
            // A probe: the kubelet's end is on no veth.
            run(Hook::ToPod, NODE, SERVER, TCP, &request(isn));
            run(Hook::FromPod, SERVER, NODE, TCP, &answer(isn));
            run(Hook::FromPod, SERVER, NODE, TCP, &answer(isn));
            let id = u16::try_from(n).unwrap();
            run(Hook::FromPod, CLIENT, SERVER, UDP, &udp(to_dns, &dns(id, false)));
            run(Hook::ToPod, SERVER, CLIENT, UDP, &udp(from_dns, &dns(id, true)));
        }
        // Through a Service, with an answer that is lost on its way to the client's veth.
        let backend = Ipv4Addr::new(10, 1, 0, 30);
        for n in 0..2 {
            let isn = ISN + 1_000 * n;
            run(Hook::FromPod, CLIENT, SERVICE, TCP, &request(isn));
            run(Hook::ToPod, CLIENT, backend, TCP, &request(isn));
            run(Hook::FromPod, backend, CLIENT, TCP, &answer(isn));
            run(Hook::FromPod, backend, CLIENT, TCP, &answer(isn));
            run(Hook::ToPod, SERVICE, CLIENT, TCP, &answer(isn));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter();
        let mut probe = kernel.0.start(Attach::Auto)?;
        let flow = |source: Ipv4Addr, destination: Ipv4Addr, port, protocol| Flow {
            source: source.into(),
            destination: destination.into(),
            port,
            protocol,
        };
        let direct = flow(CLIENT, SERVER, 80, Protocol::Tcp);
        for (flow, connections) in [
            (direct, 3),
            (flow(NODE, SERVER, 80, Protocol::Tcp), 3),
            (flow(CLIENT, SERVER, 53, Protocol::Udp), 3),
            (flow(CLIENT, SERVICE, 80, Protocol::Tcp), 2),
            (flow(CLIENT, backend, 80, Protocol::Tcp), 2),
        ] {
            let (_, worked) = probe.successes.worked_of([(flow, None)])?[0];
            assert_eq!(worked.connections, connections, "{flow}");
            assert!(worked.first <= worked.last, "{flow}: {worked:?}");
        }
        // What an agent before this one has counted is counted as well, and handed on.
        let before = SinceBoot::from_secs(-300);
        probe.successes.remember([(direct, Answered::once(before))]);
        for _ in 0..2 {
            let (_, worked) = probe.successes.worked_of([(direct, None)])?[0];
            assert_eq!(worked.connections, 4);
            assert!(worked.first < worked.last);
            let all = probe.successes.all()?;
            let (_, handed_on) = all.of.iter().find(|(flow, _)| *flow == direct).unwrap();
            assert_eq!((handed_on.first, handed_on.connections), (before, 4));
        }
        Ok(())
    });
    counted.unwrap();
}

#[test]
fn last_answers_that_give_way_are_counted() {
    const CLIENTS: u32 = 20_000;
    let lab = Node::new(0).unwrap();
    let counted = lab.namespace().enter(|| {
        let kernel = Kernel::new();
        for client in 0..CLIENTS {
            let client = Ipv4Addr::from_bits(CLIENT.to_bits() + client);
            let syn = ipv4(TCP, client, SERVER, &tcp(TO_WEB, ISN, 0, SYN));
            kernel.run(Hook::FromPod, &ethernet(IPV4, &syn));
            let answer = ipv4(TCP, SERVER, client, &tcp(FROM_WEB, 7, ISN + 1, SYN | ACK));
            kernel.run(Hook::ToPod, &ethernet(IPV4, &answer));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter();
        let mut probe = kernel.0.start(Attach::Auto)?;
        assert_eq!(probe.observations.totals()?.answers_kept, u64::from(CLIENTS));
        // Of what another agent knew, the latest find room beside these.
        let known = |n: u8| {
            let source = IpAddr::from([10, 9, 0, n]);
            Flow { source, destination: SERVER.into(), port: 8080, protocol: Protocol::Tcp }
        };
        let at = |n: u8| SinceBoot::from_secs(i64::from(n) - 300);
        probe.successes.remember((0..200).map(|n| (known(n), Answered::once(at(n)))));
        assert_eq!(probe.successes.last_of([&known(7)])?.len(), 1);
        // A few flows are looked up, and many found by reading all, with the same result.
        let lately = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1);
        let web = |client: u32| {
            let source = Ipv4Addr::from_bits(CLIENT.to_bits() + client).into();
            Flow { source, destination: SERVER.into(), port: 80, protocol: Protocol::Tcp }
        };
        let many: HashSet<Flow> = (0..CLIENTS).map(web).collect();
        let found = probe.successes.since_of(&many, lately)?;
        assert!(found.len() > ANSWERS_MAX / 2, "{}", found.len());
        let few: HashSet<Flow> = found.keys().copied().take(LOOKED_UP_MAX - 1).collect();
        let unanswered = known(1);
        let asked = few.iter().copied().chain([unanswered]).collect();
        let looked_up = probe.successes.since_of(&asked, lately)?;
        assert_eq!(looked_up.keys().copied().collect::<HashSet<_>>(), few);
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(1);
        assert!(probe.successes.since_of(&many, later)?.is_empty());
        assert!(probe.successes.since_of(&few, later)?.is_empty());
        let all = probe.successes.all()?;
        let is_remembered = |flow: &Flow| (0..200).any(|n| known(n) == *flow);
        let remembered = all.of.iter().filter(|(flow, _)| is_remembered(flow)).count();
        assert_eq!(remembered, 200 - all.forgotten);
        assert_eq!(all.of.len(), all.in_kernel + remembered);
        Ok(all)
    });
    let Answers { of, in_kernel, forgotten } = counted.unwrap();
    assert!(of.len() <= ANSWERS_MAX);
    assert!((ANSWERS_MAX / 2..=ANSWERS_MAX).contains(&in_kernel), "{in_kernel} of {CLIENTS}");
    assert_eq!(forgotten, (in_kernel + 200).saturating_sub(ANSWERS_MAX));
}
