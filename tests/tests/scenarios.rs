//! Plays every scenario of `scenarios/`, one test each.

use std::path::Path;

use whydrop_tests::play::{
    narration::Narrator,
    player::{Watched, play},
    scenario::Scenario,
};

datatest_stable::harness! {
    { test = scenario, root = "scenarios", pattern = r"^[^/]+/scenario\.yaml$" },
}

fn scenario(file: &Path) -> datatest_stable::Result<()> {
    let folder = file.parent().ok_or("a file in a folder")?;
    let scenario = Scenario::read(folder)?;
    let mut narrator = Narrator::plain(Vec::new());
    play(&scenario, Watched::ByAgent, &mut narrator).map_err(|error| {
        let shown = String::from_utf8_lossy(&narrator.into_inner()).into_owned();
        print(&format!("{error}\nwhat happened:\n{shown}"));
        "the scenario went otherwise; see above".into()
    })
}

#[expect(clippy::print_stderr, reason = "the harness prints an error on one line, escaped")]
fn print(text: &str) {
    eprintln!("{text}");
}
