//! The page of `whydrop report`: what the records show, as one HTML document for a post-mortem.
//!
//! Pure: a [`Board`] becomes text. The document needs nothing else: it loads nothing, runs nothing, and
//! says so in its own policy. Every name comes from users; the macro escapes what HTML reads, and
//! what no reader would see is spelt out at the end, for the page as a whole.

mod agents;
mod drops;
mod incident;
mod overview;
mod paths;
mod remedy;
mod timeline;
mod walk;
mod words;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use whydrop_report::escape::escape;
use whydrop_report::records::board::{Board, Incident};

/// How many incidents are shown in full (up to 60 kB each), the most urgent first: what a browser
/// still opens at once on a phone, and more than anyone reads. Others have their line in the
/// overview.
pub const INCIDENTS_IN_FULL_MAX: usize = 64;

/// Nothing is loaded, from anywhere; `img-src` is for the empty icon, without which browsers ask
/// the server for one.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                      base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("page/style.css");

/// All that a board holds, the most urgent first.
pub fn page(board: &Board) -> String {
    document(board, &board.by_urgency())
}

/// One incident of a board.
pub fn page_of(board: &Board, incident: &Incident) -> String {
    document(board, &[incident])
}

fn document(board: &Board, incidents: &[&Incident]) -> String {
    let title = overview::title(incidents);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                meta name="generator" content=(concat!("whydrop ", env!("CARGO_PKG_VERSION")));
                link rel="icon" href="data:,";
                title { (title) " – whydrop report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the incidents" }
                (overview::masthead(board, incidents))
                main id="main" {
                    @if incidents.len() > 1 { (overview::table(incidents)) }
                    @for (incident, number) in incidents.iter().take(INCIDENTS_IN_FULL_MAX).zip(1..) {
                        (incident::section(board, incident, number))
                    }
                    @if incidents.len() > INCIDENTS_IN_FULL_MAX {
                        p.note {
                            "The " (incidents.len() - INCIDENTS_IN_FULL_MAX) " incidents further down \
                             in the overview are not shown in full here. For one of them: "
                            code { "whydrop report --incident ID" } "."
                        }
                    }
                    @if incidents.is_empty() {
                        p.note { "The records hold no incident: nothing was dropped while they \
                                  were written, as far as these agents saw." }
                    }
                    (drops::findings(board))
                    (agents::section(board))
                    (agents::unread(board.lines()))
                }
                (footer(board))
            }
        }
    };
    spelt_out(&page.into_string())
}

fn footer(board: &Board) -> Markup {
    html! {
        footer {
            p {
                "Written by whydrop " (env!("CARGO_PKG_VERSION")) " from "
                (words::count(board.lines().records, "record"))
                ". All times are UTC, by the clocks of the agents' nodes."
            }
        }
    }
}

/// Control characters, and those that turn the direction of text, as escapes: in a name they hide
/// what it is. None is part of the page itself but the ends of lines.
fn spelt_out(page: &str) -> String {
    page.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}
