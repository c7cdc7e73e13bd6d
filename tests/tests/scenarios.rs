//! Plays every scenario of `scenarios/`, one test each.

use std::path::Path;

use whydrop_tests::{
    play::{Watched, play},
    scenario::Scenario,
    story::Story,
};

datatest_stable::harness! {
    { test = scenario, root = "scenarios", pattern = r"^[^/]+/scenario\.yaml$" },
}

fn scenario(file: &Path) -> datatest_stable::Result<()> {
    let folder = file.parent().ok_or("a file in a folder")?;
    let scenario = Scenario::read(folder)?;
    let mut story = Story::plain(Vec::new());
    play(&scenario, Watched::ByAgent, &mut story).map_err(|error| {
        let told = String::from_utf8_lossy(&story.into_inner()).into_owned();
        tell(&format!("{error}\nwhat happened:\n{told}"));
        "the scenario went otherwise; see above".into()
    })
}

#[expect(clippy::print_stderr, reason = "the harness prints an error on one line, escaped")]
fn tell(text: &str) {
    eprintln!("{text}");
}
