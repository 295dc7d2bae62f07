// SPDX-License-Identifier: GPL-2.0
//! The man page and the completions of shells, made from the parser.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::{Cli, Generated};
use crate::failure::HELP;

pub fn run(out: &mut dyn Write, what: &Generated) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    match what {
        Generated::Man => man(out, &command),
        Generated::Completions { shell } => {
            // It panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, "kvm-mmio", &mut script);
            Ok(out.write_all(&script)?)
        }
    }
}

/// One page, with a section for each subcommand.
fn man(mut out: &mut dyn Write, command: &clap::Command) -> Result<()> {
    let page = Man::new(command.clone()).section("8");
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    for subcommand in command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        if subcommand.get_name() == "help" {
            continue;
        }
        let section = Man::new(subcommand.clone());
        writeln!(
            out,
            ".SH \"KVM-MMIO {}\"",
            subcommand.get_name().to_uppercase()
        )?;
        section.render_synopsis_section(&mut out)?;
        section.render_description_section(&mut out)?;
        section.render_options_section(&mut out)?;
    }
    exit_status(out)
}

/// As it stands in the help, line by line.
fn exit_status(out: &mut dyn Write) -> Result<()> {
    writeln!(out, ".SH \"EXIT STATUS\"\n.nf")?;
    for line in HELP.lines().skip(1) {
        writeln!(out, "{}", line.replace('-', "\\-"))?;
    }
    Ok(writeln!(out, ".fi")?)
}
