//! `uplink access`: making, importing, choosing.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::args::{AccessCommand, Options};
use super::{Failure, show};
use crate::access::{AccessStore, check_passphrase, create_grant, parse_grant, parse_invitation};
use crate::error::AccessError;

pub(super) async fn run(command: AccessCommand, options: &Options) -> Result<(), Failure> {
    let store = AccessStore::of_user()?;
    match command {
        AccessCommand::Create {
            invitation,
            name,
            passphrase_file,
            new_passphrase,
            replace,
        } => {
            let invitation = parse_invitation(&invitation)?;
            let passphrase = read_passphrase(passphrase_file.as_deref())?;
            let grant = create_grant(&invitation, passphrase.to_string(), new_passphrase).await?;
            store.save(&name, &grant, replace, true)?;
            done(
                options,
                &name,
                &format!(
                    "access '{name}' to project '{}' is saved and current",
                    invitation.project_name
                ),
            );
        }
        AccessCommand::Import {
            grant,
            name,
            replace,
        } => {
            let text = if grant == "-" {
                read_stdin()?
            } else {
                Zeroizing::new(grant)
            };
            let grant = parse_grant(&text)?;
            store.save(&name, &grant, replace, true)?;
            done(
                options,
                &name,
                &format!("access '{name}' is saved and current"),
            );
        }
        AccessCommand::List => {
            let (names, current) = store.list()?;
            if options.is_json {
                show::print_json(&serde_json::json!({ "accesses": names, "current": current }));
                return Ok(());
            }
            for name in names {
                let mark = if current.as_ref() == Some(&name) {
                    '*'
                } else {
                    ' '
                };
                println!("{mark} {name}");
            }
        }
        AccessCommand::Use { name } => {
            store.choose(&name)?;
            done(options, &name, &format!("access '{name}' is current"));
        }
        AccessCommand::Export { name } => {
            let grant = store.load(name.as_deref().or(options.access.as_deref()))?;
            let text = Zeroizing::new(grant.to_text());
            if options.is_json {
                show::print_json(&serde_json::json!({ "grant": text.as_str() }));
            } else {
                println!("{}", text.as_str());
            }
        }
    }
    Ok(())
}

fn done(options: &Options, name: &str, text: &str) {
    if options.is_json {
        show::print_json(&serde_json::json!({ "access": name }));
    } else if !options.is_quiet {
        eprintln!("{text}");
    }
}

/// From the file, else the environment, else a person, twice.
fn read_passphrase(file: Option<&Path>) -> Result<Zeroizing<String>, AccessError> {
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| AccessError::File {
                doing: "read",
                path: path.display().to_string(),
                source,
            })?;
        return Ok(Zeroizing::new(text.lines().next().unwrap_or("").to_owned()));
    }
    if let Ok(passphrase) = std::env::var("STRAND_PASSPHRASE") {
        return Ok(Zeroizing::new(passphrase));
    }
    if !io::stdin().is_terminal() {
        return Err(AccessError::NoPassphrase);
    }
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .map_err(|_| AccessError::NoPassphrase)
    };
    let first = ask("Passphrase: ")?;
    // Before it is typed again in vain.
    check_passphrase(&first)?;
    if *ask("Once more: ")? != *first {
        return Err(AccessError::Mistyped);
    }
    Ok(first)
}

fn read_stdin() -> Result<Zeroizing<String>, AccessError> {
    let mut text = Zeroizing::new(String::new());
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|source| AccessError::File {
            doing: "read",
            path: "standard input".to_owned(),
            source,
        })?;
    Ok(text)
}
