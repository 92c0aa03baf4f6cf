//! Completions for shells and manual pages, from the very definition that parses the command line. Knows
//! clap's generators and how pages are named; ignores what the verbs do.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Exit, Problem, files::write_file, print};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into DIR, which must exist [default: the main page to stdout]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<Exit, Problem> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cfs-dag", &mut text);
    print(&String::from_utf8(text)?)?;
    Ok(Exit::Done)
}

pub(super) fn man(args: &ManArgs) -> Result<Exit, Problem> {
    let mut command = Cli::command();
    // Flags that all verbs have are told on their pages too.
    command.build();
    let main = command.get_name().to_owned();
    let Some(out) = &args.out else {
        print(&page(&command, &main)?)?;
        return Ok(Exit::Done);
    };
    write(out, &main, &page(&command, &main)?)?;
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let name = format!("{main}-{}", verb.get_name());
        write(out, &name, &page(verb, &name)?)?;
    }
    Ok(Exit::Done)
}

/// A manual page in roff.
fn page(command: &Command, name: &str) -> Result<String, Problem> {
    let mut page = Vec::new();
    // A page is named with a hyphen, but what is typed has a blank.
    let typed = command.get_bin_name().unwrap_or(name).to_owned();
    let command = command.clone().display_name(name.to_owned()).bin_name(typed);
    Man::new(command).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), Problem> {
    write_file(&folder.join(format!("{name}.1")), "the page", text)
}
