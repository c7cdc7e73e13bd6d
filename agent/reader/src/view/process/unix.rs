//! A process with a terminal that can go away, signals, and a job that can be stopped.

use std::{
    io,
    os::fd::AsFd as _,
    process,
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Sets `stop` once a signal asks the process to end.
pub(in crate::view) fn stop_on_signals(stop: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(())
}

/// Ends the process once its terminal is gone: nothing is left to restore, and a read of such a
/// terminal comes back at once, empty, for ever.
pub(in crate::view) fn end_with_terminal() {
    thread::spawn(|| {
        let terminal = io::stdout();
        loop {
            // That it is gone is reported without being asked for.
            let mut asked = [PollFd::new(terminal.as_fd(), PollFlags::empty())];
            match poll(&mut asked, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                // Some systems do not poll a terminal: there it is not known when it goes.
                Ok(_) if asked[0].revents().is_some_and(|s| s.contains(PollFlags::POLLNVAL)) => {
                    return;
                }
                Ok(_) | Err(_) => process::exit(0),
            }
        }
    });
}

/// Stops the whole job, as the terminal's driver would: kubectl before the pipe as well. Returns once
/// it goes on.
pub(in crate::view) fn suspend() -> io::Result<()> {
    kill(Pid::from_raw(0), Signal::SIGTSTP).map_err(Into::into)
}
