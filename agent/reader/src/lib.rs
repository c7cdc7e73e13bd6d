//! Readers of what agents wrote: `whydrop view` in a terminal, `whydrop report` as a page.
//!
//! Both are drawn from a [`Board`](whydrop_report::records::board::Board): the records of many nodes,
//! folded into one.

#![forbid(unsafe_code)]

pub mod page;
pub mod view;
mod words;
