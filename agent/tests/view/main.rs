//! What records of many nodes come to: the board, the view that is drawn from it, and the view in
//! a terminal.

mod board;
mod draw;
mod load;
mod page;
mod picture;
mod pty;
mod stream;
mod terminal;
