//! What happened to a cluster, step by step in virtual time, and what is told of it.

mod build;
mod docket;
mod facts;
mod history;
mod incidents;
mod mute;
mod own_path;
