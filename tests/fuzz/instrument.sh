#!/bin/sh
# In place of rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): compiles our own libraries so
# that libFuzzer sees which of their branches an input takes, and what it is compared with. What they build
# on is shared with every other build as it is, and so are build scripts and the eBPF programs.
set -eu
rustc=$1
shift
case " $* " in
*" bpfel-unknown-none "* | *" bpfeb-unknown-none "*) exec "$rustc" "$@" ;;
*" --crate-type lib "*) ;;
*) exec "$rustc" "$@" ;;
esac
case " $* " in
*" --crate-name whydrop "* | *" --crate-name whydrop_core "* | *" --crate-name whydrop_report "* | \
    *" --crate-name whydrop_kube "* | *" --crate-name whydrop_reader "* | \
    *" --crate-name whydrop_probe "* | *" --crate-name whydrop_sink "* | \
    *" --crate-name whydrop_fuzz "*)
    exec "$rustc" "$@" -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$rustc" "$@" ;;
esac
