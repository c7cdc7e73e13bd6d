//! libFuzzer on one target, which `WHYDROP_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use whydrop_fuzz::{Target, target};

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("WHYDROP_FUZZ_TARGET").unwrap_or_default();
        target(&name).unwrap_or_else(|| panic!("WHYDROP_FUZZ_TARGET: no target {name:?}"))
    });
    (target.run)(data);
});
