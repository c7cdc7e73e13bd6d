//! The keys.

use super::{Page, Theme};
use crate::view::keys::HELP;

pub(super) fn page(width: usize, theme: Theme) -> Page {
    let mut page = Page::new(width, theme);
    for (about, keys) in HELP {
        page.heading(about);
        for key in *keys {
            page.field(key.keys, key.what);
        }
    }
    page.heading("What the words mean");
    for (word, what) in [
        ("CRITICAL", "all replicas of a workload are cut off, or its DNS or its probes are"),
        ("WARNING", "some are affected, and stay so"),
        ("info", "it is expected, or too little to matter yet"),
        (
            "new",
            "drops that no agent has reported as an incident yet, or whose older log is missing",
        ),
        ("unknown", "it was open when its agent stopped or restarted"),
        ("over", "it is over on every node"),
        ("▁▄█", "how many of its flows were dropped, minute by minute; a dot: none"),
    ] {
        page.field(word, what);
    }
    page
}
