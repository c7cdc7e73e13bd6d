//! Two nodes for as long as one likes: clusters from seeds come and go with all their pods, policies and
//! Services before the same agents, which may neither report anything that is not so nor grow.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use whydrop_tests::{
    kube::{calico::Backend, proxy::Mode},
    play::differential::{NODES, Served},
    world::agent::Agent,
};

use crate::{
    matrix::FEATURES,
    service_matrix::{agents, end_and_compare, play_rounds, start},
};

/// How long it goes on; `cargo xtask soak` says it by `WHYDROP_SOAK_MINUTES`.
const TIME: Duration = Duration::from_secs(3_600);
/// What an agent may grow by from the first half of its time to the second: allocators keep some of what
/// they had.
const GROWTH_MIB_MAX: f64 = 4.0;
/// A kind of canary has 10,000 ports, and each cluster takes two of them: days.
const CLUSTERS_MAX: u16 = 5_000;

/// What an agent holds of the machine.
#[derive(Debug, Clone, Copy)]
struct Held {
    mib: f64,
    /// Of maps, programs, links, sockets and files.
    descriptors: f64,
    threads: f64,
}

impl Held {
    fn by(agent: &Agent) -> Result<Self> {
        let count = |what: &str| -> Result<f64> {
            let count = fs::read_dir(format!("/proc/{}/{what}", agent.pid()))?.count();
            Ok(u32::try_from(count)?.into())
        };
        Ok(Self { mib: agent.resident_mib()?, descriptors: count("fd")?, threads: count("task")? })
    }
}

#[test]
#[ignore = "an hour, by cargo xtask soak"]
fn agents_do_not_grow() {
    let minutes = std::env::var("WHYDROP_SOAK_MINUTES").ok();
    let minutes = minutes.map(|minutes| minutes.parse::<u64>().expect("WHYDROP_SOAK_MINUTES"));
    let time = minutes.map_or(TIME, |minutes| Duration::from_secs(60 * minutes));
    let from = std::env::var("WHYDROP_SOAK_FROM").ok();
    let from = from.map_or(1, |from| from.parse().expect("WHYDROP_SOAK_FROM"));
    play(time, from).unwrap_or_else(|error| panic!("{error:#}"));
}

#[expect(clippy::print_stdout, reason = "what each agent holds, for who waits for the end")]
fn play(time: Duration, from: u64) -> Result<()> {
    let (mut fleet, _outside) = start(Backend::Nft, Mode::Nftables)?;
    let mut agents = agents(&fleet)?;
    let began = Instant::now();
    let (mut rounds, mut held) = (Vec::new(), Vec::new());
    for number in 0..CLUSTERS_MAX {
        if began.elapsed() > time {
            break;
        }
        let served = Served::generate(from + u64::from(number), FEATURES);
        rounds.extend(play_rounds(&mut fleet, &mut agents, number, served)?);
        let now = agents.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
        println!("{:5} s, seed {}: {now:?}", began.elapsed().as_secs(), from + u64::from(number));
        held.push(now);
    }
    let tally = end_and_compare(agents, &rounds)?;
    println!("{} rounds in {:?}: {tally:?}", rounds.len(), began.elapsed());
    for agent in 0..NODES.len() {
        let of_agent: Vec<Held> = held.iter().map(|now| now[agent]).collect();
        does_not_grow(&of_agent)?;
    }
    Ok(())
}

/// Holds the least that one agent held in the second half of its time against the most in the first:
/// while what it keeps of the past fills, it may take more, and what comes with each pod goes with it.
fn does_not_grow(held: &[Held]) -> Result<()> {
    let (first, last) = held.split_at(held.len() / 2);
    let mib = [most(first, |held| held.mib), least(last, |held| held.mib)];
    ensure!(mib[1] <= mib[0] + GROWTH_MIB_MAX, "memory grew: {held:?}");
    ensure!(
        least(last, |held| held.descriptors) <= most(first, |held| held.descriptors),
        "descriptors grew: {held:?}"
    );
    ensure!(
        least(last, |held| held.threads) <= most(first, |held| held.threads),
        "threads grew: {held:?}"
    );
    Ok(())
}

fn most(held: &[Held], of: fn(&Held) -> f64) -> f64 {
    held.iter().map(of).fold(f64::NEG_INFINITY, f64::max)
}

fn least(held: &[Held], of: fn(&Held) -> f64) -> f64 {
    held.iter().map(of).fold(f64::INFINITY, f64::min)
}
