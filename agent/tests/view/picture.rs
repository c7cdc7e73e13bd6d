//! The picture in the documentation is what the real view shows.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::{
    pty::{Session, file},
    stream::{fleet, lines},
};

const COLUMNS: u16 = 100;
const ROWS: u16 = 30;

/// Of a cell, in pixels.
const WIDTH: f32 = 8.4;
const HEIGHT: u16 = 18;

/// A dark terminal's ground and text.
const GROUND: &str = "#16181d";
const TEXT: &str = "#d7dae0";

/// The first 16 colours.
const COLOURS: [&str; 16] = [
    "#16181d", "#b3261e", "#3f9142", "#d9a521", "#2f6fb0", "#9b59b6", "#2a9d8f", "#d7dae0",
    "#5c6370", "#e06c60", "#7ec27e", "#f0c25a", "#6aa5e0", "#c39bd3", "#6fcfc2", "#ffffff",
];

fn colour(colour: vt100::Color, default: &'static str) -> &'static str {
    match colour {
        vt100::Color::Idx(index) => COLOURS.get(usize::from(index)).copied().unwrap_or(default),
        vt100::Color::Default | vt100::Color::Rgb(..) => default,
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Look {
    text: &'static str,
    ground: &'static str,
    is_bold: bool,
    is_dim: bool,
}

fn look(cell: &vt100::Cell) -> Look {
    let (text, ground) = (colour(cell.fgcolor(), TEXT), colour(cell.bgcolor(), GROUND));
    let (text, ground) = if cell.inverse() { (ground, text) } else { (text, ground) };
    Look { text, ground, is_bold: cell.bold(), is_dim: cell.dim() }
}

fn x(column: u16) -> f32 {
    f32::from(column) * WIDTH
}

/// The screen as a drawing: a rectangle and a text for each run of cells that look alike.
fn svg(screen: &vt100::Screen) -> String {
    let (width, height) = (x(COLUMNS) + 16.0, ROWS * HEIGHT + 16);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\">\n<title>whydrop view: incidents of two nodes</title>\n<rect \
         width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{GROUND}\"/>\n<g \
         transform=\"translate(8 8)\" xml:space=\"preserve\">\n"
    );
    for row in 0..ROWS {
        let mut column = 0;
        while column < COLUMNS {
            let begin = column;
            let cell = |column| screen.cell(row, column).expect("a cell");
            let (of_run, mut text) = (look(cell(begin)), String::new());
            while column < COLUMNS && look(cell(column)) == of_run {
                let cell = cell(column);
                if !cell.is_wide_continuation() {
                    text += if cell.has_contents() { cell.contents() } else { " " };
                }
                column += 1;
            }
            run(&mut svg, row, (begin, column), of_run, &text);
        }
    }
    svg + "</g>\n</svg>\n"
}

fn run(svg: &mut String, row: u16, columns: (u16, u16), look: Look, text: &str) {
    let (x, y, width) = (x(columns.0), row * HEIGHT, x(columns.1 - columns.0));
    if look.ground != GROUND {
        let fill = look.ground;
        writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{fill}\"/>")
            .expect("memory");
    }
    if text.trim().is_empty() {
        return;
    }
    let weight = if look.is_bold { " font-weight=\"bold\"" } else { "" };
    let opacity = if look.is_dim { " opacity=\"0.6\"" } else { "" };
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Whatever font there is, the columns stay where they are.
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
         fill=\"{}\"{weight}{opacity}>{text}</text>",
        y + 13,
        look.text
    )
    .expect("memory");
}

#[test]
fn the_picture_in_docs_is_what_it_shows() {
    let (_folder, path) = file(&lines(&fleet(15)));
    let session = Session::view(&path, (COLUMNS, ROWS));
    session.see("log ended");
    // The one with a database. What is selected is drawn last, at the bottom: once that has changed,
    // everything has.
    session.see("reports/allow-nightly-dns");
    session.press("j");
    session.see("backend/allow-backend-api-to-postgres-primary-5432");
    let drawn = svg(&session.screen());
    session.press("q");
    session.end();
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/view.svg");
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        fs::write(&committed, &drawn).expect("written");
    }
    let committed = fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        committed == drawn,
        "docs/view.svg differs: INSTA_UPDATE=always cargo test -p whydrop --test view picture"
    );
}
