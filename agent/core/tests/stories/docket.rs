//! Facts in, actions out: the agent's decisions, in virtual time.

mod conservation;
mod late;
mod lifetimes;
mod lifted;
mod outcomes;
mod stage;
mod waits;
