//! `uplink mb`, `rb`, `ls`, `rm`, `stat`.

use std::sync::Arc;

use serde_json::json;
use strand_protocol::path::Names;

use super::args::{Command, Options};
use super::{Failure, open_session, show};
use crate::error::{ManageError, NameError};
use crate::listing::{self, Entry};
use crate::location::Place;
use crate::session::Session;

pub(super) async fn run(command: Command, options: &Options) -> Result<(), Failure> {
    let session = open_session(options)?;
    let outcome = dispatch(&session, command, options).await;
    session.close().await;
    outcome
}

async fn dispatch(
    session: &Arc<Session>,
    command: Command,
    options: &Options,
) -> Result<(), Failure> {
    match command {
        Command::Mb {
            bucket,
            plain_names,
        } => {
            let bucket = only_bucket(bucket)?;
            let names = if plain_names {
                Names::Plain
            } else {
                Names::Sealed
            };
            listing::create_bucket(session, &bucket, names).await?;
            done(
                options,
                json!({ "bucket": bucket }),
                &format!("made st://{bucket}"),
            );
        }
        Command::Rb { bucket } => {
            let bucket = only_bucket(bucket)?;
            listing::delete_bucket(session, &bucket).await?;
            done(
                options,
                json!({ "bucket": bucket }),
                &format!("removed st://{bucket}"),
            );
        }
        Command::Ls { place: None, .. } => {
            let buckets = listing::list_buckets(session).await?;
            if options.is_json {
                show::print_json(&json!({ "buckets": buckets }));
                return Ok(());
            }
            for bucket in buckets {
                let names = if bucket.plain_names {
                    "plain names"
                } else {
                    "sealed names"
                };
                println!(
                    "{}  {names:<12}  st://{}",
                    show::time(bucket.created_ms),
                    bucket.name
                );
            }
        }
        Command::Ls {
            place: Some(place),
            recursive,
        } => ls(session, &place, recursive, options).await?,
        Command::Rm {
            place,
            recursive: false,
        } => {
            only_object(&place)?;
            listing::remove(session, &place).await?;
            done(
                options,
                json!({ "removed": [place.to_string()] }),
                &format!("removed {place}"),
            );
        }
        Command::Rm {
            place,
            recursive: true,
        } => {
            let removed = remove_all(session, &place).await?;
            let text = format!("removed {} objects", removed.len());
            done(options, json!({ "removed": removed }), &text);
        }
        Command::Stat { place } => stat(session, &place, options).await?,
        // Handled by the caller.
        Command::Access(_) | Command::Cp(_) => {}
    }
    Ok(())
}

fn done(options: &Options, json: serde_json::Value, text: &str) {
    if options.is_json {
        show::print_json(&json);
    } else if !options.is_quiet {
        eprintln!("{text}");
    }
}

fn only_bucket(place: Place) -> Result<String, NameError> {
    if place.key.is_empty() {
        return Ok(place.bucket);
    }
    Err(NameError::Kind {
        location: place.to_string(),
        what: "names more than a bucket: write st://BUCKET",
    })
}

fn only_object(place: &Place) -> Result<(), NameError> {
    if !place.key.is_empty() {
        return Ok(());
    }
    Err(NameError::Kind {
        location: place.to_string(),
        what: "names a bucket: write st://BUCKET/KEY",
    })
}

/// As people mean it: a prefix with its slash lists what is below; without it, the object of that
/// name and what is below.
async fn find(
    session: &Session,
    place: &Place,
    is_recursive: bool,
) -> Result<Vec<Entry>, ManageError> {
    if place.key.is_empty() || place.key.ends_with('/') {
        return listing::list(session, place, is_recursive).await;
    }
    let mut entries = Vec::new();
    match listing::stat(session, place).await {
        Ok(info) => entries.push(Entry::Object {
            key: info.key,
            bytes: info.bytes,
            piece_bytes: info.piece_bytes,
            created_ms: info.created_ms,
            modified_ms: info.modified_ms,
        }),
        Err(ManageError::NoObject { .. }) => {}
        Err(error) => return Err(error),
    }
    let below = place.with_key(format!("{}/", place.key));
    entries.extend(listing::list(session, &below, is_recursive).await?);
    if entries.is_empty() {
        return Err(ManageError::NoObject {
            bucket: place.bucket.clone(),
            key: place.key.clone(),
        });
    }
    Ok(entries)
}

async fn ls(
    session: &Session,
    place: &Place,
    is_recursive: bool,
    options: &Options,
) -> Result<(), Failure> {
    let entries = find(session, place, is_recursive).await?;
    if options.is_json {
        show::print_json(
            &json!({ "bucket": place.bucket, "prefix": place.key, "entries": entries }),
        );
        return Ok(());
    }
    for entry in entries {
        match entry {
            Entry::Prefix { key } => println!("{:>19}  {:>10}  {key}", "", "-"),
            Entry::Object {
                key,
                bytes,
                created_ms,
                modified_ms,
                ..
            } => {
                let time = show::time(modified_ms.unwrap_or(created_ms));
                println!("{time}  {:>10}  {key}", show::bytes(bytes));
            }
        }
    }
    Ok(())
}

async fn remove_all(session: &Session, place: &Place) -> Result<Vec<String>, ManageError> {
    let mut removed = Vec::new();
    for entry in find(session, place, true).await? {
        let Entry::Object { key, .. } = entry else {
            continue;
        };
        let place = place.with_key(key);
        match listing::remove(session, &place).await {
            // Somebody else was faster.
            Ok(()) | Err(ManageError::NoObject { .. }) => removed.push(place.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

async fn stat(session: &Session, place: &Place, options: &Options) -> Result<(), Failure> {
    if place.key.is_empty() {
        let bucket = listing::stat_bucket(session, &place.bucket).await?;
        if options.is_json {
            show::print_json(&json!({ "bucket": bucket }));
        } else {
            println!("bucket     {}", bucket.name);
            println!(
                "names      {}",
                if bucket.plain_names {
                    "plain"
                } else {
                    "sealed"
                }
            );
            println!("created    {}", show::time(bucket.created_ms));
        }
        return Ok(());
    }
    let info = listing::stat(session, place).await?;
    if options.is_json {
        show::print_json(&json!(info));
        return Ok(());
    }
    println!("object     {place}");
    println!("bytes      {} ({})", info.bytes, show::bytes(info.bytes));
    let stored = if info.piece_bytes == 0 {
        "inline".to_owned()
    } else {
        show::bytes(info.piece_bytes)
    };
    println!("stored     {stored} in {} segments", info.segments);
    println!("created    {}", show::time(info.created_ms));
    if let Some(modified_ms) = info.modified_ms {
        println!("modified   {}", show::time(modified_ms));
    }
    if info.expires_ms > 0 {
        println!("expires    {}", show::time(info.expires_ms));
    }
    for (name, len) in &info.metadata {
        println!("metadata   {name} ({len} bytes)");
    }
    Ok(())
}
