//! `--help` keeps to the words of CONTRIBUTING.

#[path = "../../xtask/tests/words/table.rs"]
mod table;

use clap::{Command, CommandFactory as _};
use table::{found, unused_words};
use whydrop::command::Cli;

/// The whole of it, as it is when arguments are parsed.
fn cli() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Every help text of a command and of those below it, with where it stands.
fn texts(command: &Command, texts: &mut Vec<(String, String)>) {
    let name = command.get_name();
    let mut add = |what: &str, help: Option<String>| {
        texts.extend(help.map(|help| (format!("{name} {what}"), help)));
    };
    add("about", command.get_about().map(ToString::to_string));
    add("about", command.get_long_about().map(ToString::to_string));
    add("about", command.get_after_help().map(ToString::to_string));
    for argument in command.get_arguments() {
        let what = argument.get_id().as_str();
        add(what, argument.get_help().map(ToString::to_string));
        add(what, argument.get_long_help().map(ToString::to_string));
        for value in argument.get_possible_values() {
            add(what, value.get_help().map(ToString::to_string));
        }
    }
    for subcommand in command.get_subcommands() {
        self::texts(subcommand, texts);
    }
}

fn faults(command: &Command, unused: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    texts(command, &mut all);
    let fault = |(place, text): &(String, String)| {
        let words = found(text, unused);
        (!words.is_empty()).then(|| format!("{place}: {words:?} in {text:?}"))
    };
    all.iter().filter_map(fault).collect()
}

#[test]
fn help_uses_the_words_that_we_agreed_on() {
    let faults = faults(&cli(), &unused_words(env!("CARGO_MANIFEST_DIR")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_word_is_found_in_the_help_of_a_command_a_flag_and_a_value() {
    let value = clap::builder::PossibleValue::new("x").help("Told");
    let flag = clap::Arg::new("flag").help("It is told").value_parser([value]);
    let below = Command::new("below").about("Nothing untold").arg(flag);
    let command = Command::new("above").about("What is told").subcommand(below);
    let faults = faults(&command, &["told".to_owned()]);
    assert_eq!(faults.len(), 3, "{faults:?}");
}

#[test]
fn every_command_flag_and_value_has_help() {
    fn without(command: &Command, missing: &mut Vec<String>) {
        let name = command.get_name();
        if command.get_about().is_none() {
            missing.push(name.to_owned());
        }
        for argument in command.get_arguments() {
            let id = argument.get_id();
            let is_explained = argument.get_help().is_some()
                && argument.get_possible_values().iter().all(|value| value.get_help().is_some());
            if !is_explained {
                missing.push(format!("{name} {id}"));
            }
        }
        command.get_subcommands().for_each(|subcommand| without(subcommand, missing));
    }
    let mut missing = Vec::new();
    without(&cli(), &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}
