//! Facts in, actions out: the agent's decisions, in virtual time.

mod conservation;
mod outcomes;
mod paths;
mod stage;
mod waits;
