//! The real view in a pseudo-terminal, from its start to the terminal it leaves behind.

use std::{
    io::Read as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    pty::{BINARY, Session, file},
    stream::{fleet, lines},
};

const SIZE: (u16, u16) = (100, 30);

#[test]
fn it_starts_drills_down_filters_and_quits() {
    let (_folder, path) = file(&lines(&fleet(12)));
    let session = Session::view(&path, SIZE);
    session.see("log ended 2026-01-02");
    let list = session.see("3 open (2 critical), 1 over");
    assert!(list.contains("> "), "{list}");
    // Down to the second, and into it.
    session.press("j\r");
    session.see("What to do");
    session.press("r");
    session.see("apiVersion: networking.k8s.io/v1");
    session.press("y");
    session.see("remedy copied");
    // apiVersion: …, in base64.
    session.written("\u{1b}]52;c;YXBpVmVyc2lvbjog");
    session.press("\u{1b}");
    session.see("What to do");
    session.press("\r");
    session.see("8 drops of incident");
    session.press("\r");
    session.see("How the policies were walked");
    // Back to the list; what is typed is searched for.
    session.press("/checkout\r");
    session.see("only “checkout”: 1 of 4");
    session.press("\u{1b}");
    session.see("backend/postgres-primary");
    session.press("a");
    session.see("worker-1  DEGRADED");
    session.press("?");
    session.see("Ctrl-B, Ctrl-F");
    session.press("q");
    let (status, screen) = session.end();
    assert_eq!(status.code(), Some(0));
    assert!(!screen.alternate_screen() && !screen.hide_cursor());
}

#[test]
fn a_pipe_is_followed_paused_and_ends_while_keys_come_from_the_terminal() {
    let lines = lines(&fleet(6));
    let mut session = Session::start(BINARY, &["view"], SIZE, true);
    session.see("No records have come yet");
    let (early, late) = lines.split_at(lines.len() / 2);
    session.feed(&(early.join("\n") + "\n"));
    session.see("postgres-primary");
    session.see("following");
    // By the last of them it is seen that all were read.
    session.feed("{\"schema\":\"whydrop/v1\",\"kin\n");
    session.see("1 line unreadable");
    session.press(" ");
    session.see("PAUSED, 0 held");
    session.feed("no record\n{\"schema\":\"whydrop/v1\",\"kin");
    session.feed("\n");
    session.feed(&(late.join("\n") + "\n"));
    session.see(&format!("PAUSED, {} held", late.len() + 2));
    session.press("p");
    session.see("2 lines unreadable");
    session.see("shop/checkout");
    session.close();
    session.see("log ended");
    // It is still there, and answers.
    session.press("\r");
    session.see("What to do");
    session.press("q");
    assert_eq!(session.end().0.code(), Some(0));
}

#[test]
fn it_follows_the_size_of_the_terminal() {
    let (_folder, path) = file(&lines(&fleet(3)));
    let session = Session::view(&path, SIZE);
    session.see("backend/postgres-primary");
    session.resize(40, 10);
    let small = session.wait("a small screen", |screen| {
        screen.lines().next().is_some_and(|row| row.chars().count() <= 40)
            && screen.contains("? help")
            && !screen.contains("───")
    });
    assert!(small.contains("CRITICAL"), "{small}");
    session.resize(120, 40);
    session.see("Space pause");
    session.press("q");
    assert_eq!(session.end().0.code(), Some(0));
}

/// Runs the view under a shell that says afterwards what has become of the terminal.
fn left_behind(end: impl Fn(&Session)) {
    let (_folder, path) = file(&lines(&fleet(2)));
    let script = r#""$0" view - < "$1" & pid=$!; echo "pid $pid."; wait $pid; echo "exit $?"; stty -a; echo done"#;
    let session = Session::start("sh", &["-c", script, BINARY, &path], SIZE, false);
    session.see("log ended");
    assert!(session.screen().alternate_screen());
    end(&session);
    let screen = session.see("done");
    assert!(screen.contains("exit 0"), "{screen}");
    for mode in ["icanon", "echo", "isig"] {
        assert!(screen.split_whitespace().any(|word| word == mode), "{mode} in {screen}");
    }
    let screen = session.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor());
}

#[test]
fn quitting_leaves_the_terminal_as_it_was() {
    left_behind(|session| session.press("q"));
    left_behind(|session| session.press("\u{3}"));
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        left_behind(|session| {
            let raw = session.written("pid ");
            let pid = raw.split_once("pid ").and_then(|(_, rest)| rest.split_once('.'));
            let pid = pid.and_then(|(pid, _)| pid.parse().ok()).expect("a pid");
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signalled");
        });
    }
}

#[test]
fn it_ends_with_its_terminal() {
    let (_folder, path) = file(&lines(&fleet(2)));
    let (terminal, inner) = pty_process::blocking::open().expect("a pseudo-terminal");
    let command = pty_process::blocking::Command::new(BINARY).args(["view", &path]);
    let mut child = command.env("TERM", "xterm-256color").spawn(inner).expect("it runs");
    (&terminal).read_exact(&mut [0; 16]).expect("it draws");
    drop(terminal);
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("killed");
            panic!("it goes on without a terminal");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_color_is_respected() {
    let (_folder, path) = file(&lines(&fleet(2)));
    let coloured = |session: &Session| {
        session.see("log ended");
        let screen = session.screen();
        let cells = (0..30).flat_map(|row| (0..100).map(move |column| (row, column)));
        cells.filter_map(|(row, column)| screen.cell(row, column)).any(|cell| {
            (cell.fgcolor(), cell.bgcolor()) != (vt100::Color::Default, vt100::Color::Default)
        })
    };
    let session = Session::view(&path, SIZE);
    assert!(coloured(&session));
    let without = Session::start("env", &["NO_COLOR=1", BINARY, "view", &path], SIZE, false);
    assert!(!coloured(&without));
    for session in [session, without] {
        session.signal(Signal::SIGTERM);
        assert_eq!(session.end().0.code(), Some(0));
    }
}

#[test]
fn without_a_terminal_it_prints_a_summary() {
    let (_folder, path) = file(&lines(&fleet(12)));
    let output = Command::new(BINARY).args(["view", &path]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(String::from_utf8(output.stdout).expect("UTF-8"));
}
