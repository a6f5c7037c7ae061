//! `strongroom`, the program: commands in, words out.
//!
//! This crate reads the command line, the environment and the configuration file, calls the
//! engine and the vault, and formats their results for people or as JSON. Only this crate prints.
//!
//! It must not know how data is kept, and decides nothing about data: rules of retention, damage and
//! rights live in the crates below.

#![allow(
    clippy::doc_markdown,
    rustdoc::bare_urls,
    rustdoc::invalid_html_tags,
    reason = "comments of commands and options are their help text, which is no Markdown"
)]

use std::{
    env,
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use clap_complete::CompleteEnv;
use strongroom_base::{Cancel, Environment, Kind};
use tracing_subscriber::EnvFilter;

mod args;
mod cli;
mod columns;
mod commands;
mod complete;
mod config;
mod confirm;
mod context;
mod contexts;
#[cfg(test)]
mod docs_tests;
mod error;
mod hints;
mod hosts;
mod human;
mod moments;
mod near;
mod open;
mod out;
mod progress;
#[cfg(test)]
mod reference_tests;
mod session;
mod signals;
mod suspect;
mod tree;
mod values;
mod views;

use cli::Cli;
use context::Context;
use error::Failure;
use out::{Format, Out};

fn main() -> ExitCode {
    Environment::new(env::vars_os()).give();
    let arguments: Vec<OsString> = env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == commands::restore_files::READER) {
        // It locks itself in, which a process with threads cannot do: nothing else runs before.
        return match strongroom_files::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if arguments.get(1).is_some_and(|first| first == commands::restore_files::LAUNCHER) {
        // It changes its user and becomes another program: nothing else runs before.
        out::tell(&format!("{}\n", strongroom_files::launch()));
        return ExitCode::FAILURE;
    }
    if arguments.get(1).is_some_and(|first| first == commands::restore_files::GUEST) {
        strongroom_files::guest();
        return ExitCode::FAILURE;
    }
    if complete(&arguments) {
        return ExitCode::SUCCESS;
    }
    catch_unwind(AssertUnwindSafe(|| run(&arguments))).unwrap_or_else(|_| {
        // The panic's message has been printed already.
        out::tell("Hint: Please report this, with the message above.\nCode: bug\n");
        ExitCode::from(Kind::Bug.exit_code())
    })
}

/// Answers a shell that completes a line, if one asks. What goes wrong is no answer.
fn complete(arguments: &[OsString]) -> bool {
    let asks = env::var_os(commands::reference::COMPLETE).is_some();
    if asks {
        let shell = CompleteEnv::with_factory(Cli::command).var(commands::reference::COMPLETE);
        let here = env::current_dir().ok();
        let answer = || shell.try_complete(arguments.to_vec(), here.as_deref()).ok();
        catch_unwind(AssertUnwindSafe(answer)).ok();
    }
    asks
}

fn run(arguments: &[OsString]) -> ExitCode {
    let mut cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, arguments),
    };
    cli.command.take_config(&mut cli.global);
    match &cli.command {
        // It says itself how its log looks.
        cli::Command::Serve(_) => {}
        _ => log(cli.global.verbose),
    }
    let cancel = Cancel::new();
    let context = match Context::new(&cli.global, cancel.clone()) {
        Ok(context) => context,
        Err(failure) => return fail(Context::early_out(cli.global.output), &failure),
    };
    signals::watch(cancel, &context.stopping);
    match cli.command.run(&context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(context.out, &failure.of_server(context.asked.get())),
    }
}

fn fail(out: Out, failure: &Failure) -> ExitCode {
    out.failure(failure);
    ExitCode::from(failure.code().kind.exit_code())
}

/// Shows help, the version, or what is wrong with the command line.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Failing to print help has no better report.
            error.print().ok();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.print().ok();
            return ExitCode::from(Kind::Invalid.exit_code());
        }
        _ => {}
    }
    // The options are not parsed, so whether JSON or YAML was asked for must be seen by eye.
    let asked = [("json", Format::Json), ("yaml", Format::Yaml)].into_iter().find(|(word, _)| {
        let asks = |pair: &[OsString]| {
            matches!(pair, [a, b] if (a == "--output" || a == "-o") && b == word)
        };
        let at_once = [format!("--output={word}"), format!("-o{word}"), format!("-o={word}")];
        arguments.iter().any(|argument| at_once.iter().any(|word| *argument == **word))
            || arguments.windows(2).any(asks)
    });
    let habit = hints::of_habit(error);
    if let Some((_, format)) = asked {
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text);
        let message = message.split("\n\nFor more information").next().unwrap_or(message).trim();
        let failure = Failure::usage(message);
        let failure = match habit {
            Some(habit) => failure.with_hint(habit),
            None => failure,
        };
        return fail(Context::early_out(Some(format)), &failure);
    }
    match habit {
        Some(habit) => {
            let text = error.render().ansi().to_string();
            // Without the guesses at what was misspelt: this is no slip.
            let first = text.split("\n\n").next().unwrap_or(&text).to_owned();
            let first = if console::colors_enabled_stderr() {
                first
            } else {
                console::strip_ansi_codes(&first).into_owned()
            };
            out::tell(&format!("{first}\n\n  {habit}\n\nFor more information, try '--help'.\n"));
        }
        None => drop(error.print()),
    }
    ExitCode::from(Kind::Invalid.exit_code())
}

/// Sends log lines to standard error: warnings, or more if asked for.
fn log(verbose: u8) {
    let level = match verbose {
        // What the library logs as an error, our own error says better.
        // The kernel asks mounts for much that they do not have.
        0 => "warn,rustls_platform_verifier=off,fuser=error",
        1 => "strongroom=info,info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("STRONGROOM_LOG").unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(console::colors_enabled_stderr())
        .with_target(verbose > 1)
        .without_time()
        .init();
}
