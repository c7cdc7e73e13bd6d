//! Runs a program under a seccomp profile in the form that container runtimes read, as they do it:
//! `whydrop-seccomp PROFILE PROGRAM [ARGUMENT…]`. What the profile does not know is refused here, where a
//! runtime may pass over it.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>

use std::{env, ffi::OsString, fs, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context, Result, bail, ensure};
use seccompiler::{BpfProgram, apply_filter, compile_from_json, sock_filter};
use serde::Deserialize;
use serde_json::{Value, json};

/// A program of `linux/bpf_common.h`: load a word of what is filtered, compare, return.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Where `struct seccomp_data` has the number of the call.
const NUMBER: u32 = 0;
/// Refuses a call with the error in the lower half (`linux/seccomp.h`).
const REFUSE: u32 = 0x0005_0000;

/// The call that is refused with an error of its own: the number is that of every processor.
const CLONE3: (&str, u32) = ("clone3", 435);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    default_errno_ret: u32,
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[expect(dead_code, reason = "for people")]
    comment: String,
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let mut next = || arguments.next().context("whydrop-seccomp PROFILE PROGRAM [ARGUMENT…]");
    let (profile, program) = (next()?, next()?);
    let rest: Vec<OsString> = arguments.collect();
    let profile = fs::read_to_string(profile).context("the profile")?;
    apply_filter(&compile(&serde_json::from_str(&profile)?)?)?;
    // Only an error comes back.
    Err(Command::new(program).args(rest).exec()).context("the program")
}

/// The profile as the kernel takes it.
fn compile(profile: &Profile) -> Result<BpfProgram> {
    ensure!(
        profile.default_action == "SCMP_ACT_ERRNO",
        "default action {}",
        profile.default_action
    );
    let (mut allowed, mut refused) = (Vec::new(), None);
    for rule in &profile.syscalls {
        match (rule.action.as_str(), rule.errno_ret) {
            ("SCMP_ACT_ALLOW", None) => {}
            ("SCMP_ACT_ERRNO", Some(error)) if rule.names == [CLONE3.0] && refused.is_none() => {
                refused = Some(error);
                continue;
            }
            (action, _) => bail!("action {action} for {:?}", rule.names),
        }
        let arguments = rule.args.iter().map(argument).collect::<Result<Vec<_>>>()?;
        for name in rule.names.iter().filter(|name| is_of_this_processor(name)) {
            let mut entry = json!({ "syscall": name });
            if !arguments.is_empty() {
                entry["args"] = arguments.clone().into();
            }
            allowed.push(entry);
        }
    }
    let filter = json!({ "all": {
        "mismatch_action": { "errno": profile.default_errno_ret },
        "match_action": "allow", "filter": allowed,
    } });
    let arch = env::consts::ARCH.try_into().map_err(|_| anyhow::anyhow!("this processor"))?;
    let mut compiled = compile_from_json(filter.to_string().as_bytes(), arch)?;
    let filter = compiled.remove("all").context("no filter")?;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let before = refused.into_iter().flat_map(|error| {
        [
            instruction(LOAD_WORD, 0, 0, NUMBER),
            instruction(JUMP_IF_EQUAL, 0, 1, CLONE3.1),
            instruction(RETURN, 0, 0, REFUSE | error),
        ]
    });
    Ok(before.chain(filter).collect())
}

fn argument(argument: &Argument) -> Result<Value> {
    let Argument { index, value, value_two, op } = argument;
    let (op, value) = match op.as_str() {
        "SCMP_CMP_EQ" => (json!("eq"), value),
        "SCMP_CMP_MASKED_EQ" => (json!({ "masked_eq": value }), value_two),
        op => bail!("comparison {op}"),
    };
    Ok(json!({ "index": index, "type": "qword", "op": op, "val": value }))
}

/// Calls that processors have which came first, and that others have for nothing; runtimes pass over them.
fn is_of_this_processor(name: &str) -> bool {
    const OF_X86_ALONE: [&str; 13] = [
        "access",
        "arch_prctl",
        "epoll_wait",
        "getrlimit",
        "lstat",
        "mkdir",
        "newfstatat",
        "open",
        "poll",
        "readlink",
        "rename",
        "stat",
        "unlink",
    ];
    env::consts::ARCH == "x86_64" || !OF_X86_ALONE.contains(&name)
}
