//! What happened to a cluster, step by step in virtual time, and what is reported of it.

mod build;
mod cluster;
mod docket;
mod ends;
mod engine;
mod engine_differences;
mod facts;
mod hindsight;
mod history;
mod incidents;
mod mute;
mod own_path;
mod remedies;
mod services;
mod situations;
mod unread;
