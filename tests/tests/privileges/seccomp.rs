//! The agent under the seccomp profile that `deploy/` has for it: it suffices for what the agent does from its
//! start to its end, and refuses what it never does.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use whydrop_tests::{
    repository,
    world::{World as _, agent::beside, manifest},
};

use crate::{
    kept::{answer, is_reported, node, threads, what_comes_later_is_watched},
    shipped::Shipped,
};

/// What applies the profile and then runs a program.
fn applied() -> [PathBuf; 2] {
    [beside("whydrop-seccomp").expect("a program"), repository("deploy/seccomp/whydrop.json")]
}

#[test]
fn the_profile_suffices_for_all_that_an_agent_does() {
    let mut node = node();
    let shipped = Shipped::new(&node);
    let mut agent = shipped.start_by(&node, &applied());
    for thread in threads(agent.pid()) {
        assert_eq!(thread["Seccomp"], "2", "a filter: {thread:?}");
    }
    is_reported(&mut agent, &mut node, "backend/pod-b");
    what_comes_later_is_watched(&mut agent, &mut node);
    let ask = |path: &str| {
        let mut curl = node.namespace().command("curl");
        let answer = curl.args(["-qsf", &format!("http://127.0.0.1:9472/{path}")]).output();
        String::from_utf8(answer.expect("curl").stdout).expect("UTF-8")
    };
    assert_eq!(ask("readyz"), "ok\n");
    assert!(ask("metrics").contains("whydrop_ready 1"));
    // It connects again, and follows what has come since.
    let server = node.server_mut().expect("a server");
    server.stop_apiserver().expect("stopped");
    server.start_apiserver().expect("started again");
    node.run(&manifest::pod("backend/after")).expect("a pod");
    is_reported(&mut agent, &mut node, "backend/after");
    // What the next agent goes on from.
    answer(&mut node);
    agent.stop().expect("it ends");
    assert_eq!(shipped.state(), ["last-answers.json"]);
}

#[test]
fn the_profile_refuses_what_an_agent_never_does() {
    let run = |program: &[&str]| -> Output {
        let [apply, profile] = applied();
        Command::new(apply).arg(profile).args(program).output().expect("it runs")
    };
    assert!(run(&["/usr/bin/true"]).status.success(), "a program starts");
    for forbidden in [
        &["/usr/bin/unshare", "--user", "/usr/bin/true"][..],
        &["/usr/bin/unshare", "--net", "/usr/bin/true"],
        &["/usr/bin/mount", "-t", "tmpfs", "none", "/mnt"],
    ] {
        let Output { status, stderr, .. } = run(forbidden);
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(!status.success(), "{forbidden:?} succeeds");
        assert!(
            said.contains("not permitted") || said.contains("permission denied"),
            "{forbidden:?}: {said}"
        );
    }
}
