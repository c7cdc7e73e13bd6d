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
        ("CRITICAL", "a workload has lost all of its replicas' path, or its DNS, or its probes"),
        ("WARNING", "some suffer, and go on suffering"),
        ("info", "it is meant so, or it is nothing yet"),
        ("new", "drops that no agent has told as an incident yet, or whose older log is missing"),
        ("unknown", "it was open when its agent stopped or began anew"),
        ("over", "it is over on every node"),
        ("▁▄█", "how many of its flows were dying, minute by minute; a dot: none"),
    ] {
        page.field(word, what);
    }
    page
}
