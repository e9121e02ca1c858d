//! `uplink cp`: one side is in the store, the other a file or a pipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::args::{CpArgs, Options};
use super::show::{self, Bar};
use super::{Failure, meter, open_session};
use crate::cancel::Cancel;
use crate::download::{DownloadOptions, DownloadReport, Output, download};
use crate::location::Place;
use crate::upload::{Input, UploadOptions, UploadReport, upload};

pub(super) async fn run(args: CpArgs, options: &Options, cancel: Cancel) -> Result<(), Failure> {
    let is_stored = |text: &str| text.starts_with(Place::SCHEME);
    match (is_stored(&args.source), is_stored(&args.target)) {
        (false, true) if args.range.is_some() => {
            Err(Failure::usage("--range is for copies out of the store"))
        }
        (false, true) => put(&args.source, &args.target, options, cancel).await,
        (true, false) => get(&args, options, cancel).await,
        (true, true) => Err(Failure::usage(
            "copies within the store are not possible yet: copy out, then in",
        )),
        (false, false) => Err(Failure::usage(
            "one of source and target must be in the store: st://BUCKET/KEY",
        )),
    }
}

async fn put(source: &str, target: &str, options: &Options, cancel: Cancel) -> Result<(), Failure> {
    let mut place: Place = target.parse()?;
    if place.key.is_empty() || place.key.ends_with('/') {
        let name = Path::new(source)
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|_| source != "-");
        let name =
            name.ok_or_else(|| Failure::usage(format!("'{target}' needs a key: st://BUCKET/KEY")))?;
        place.key.push_str(name);
    }
    let input = if source == "-" {
        Input::stdin()
    } else {
        Input::file(Path::new(source))?
    };
    let session = open_session(options)?;
    let bar = Arc::new(Bar::new(options, &place.to_string()));
    let begun = Instant::now();
    let outcome = upload(
        &session,
        &place,
        input,
        UploadOptions::default(),
        bar.clone(),
        cancel,
    )
    .await;
    let seconds = begun.elapsed().as_secs_f64();
    bar.finish();
    session.close().await;
    let report = outcome?;
    if options.is_json {
        show::print_json(&upload_json(&report, seconds));
    } else if !options.is_quiet {
        let stored: u64 = report
            .segments
            .iter()
            .map(|segment| segment.piece_bytes)
            .sum();
        let kept = if stored == 0 {
            "inline".to_owned()
        } else {
            format!("{} at nodes", show::bytes(stored))
        };
        eprintln!(
            "{place}: {} stored ({kept}) in {}",
            show::bytes(report.bytes),
            pace(report.bytes, seconds)
        );
        let weak = report
            .segments
            .iter()
            .filter(|segment| segment.data_pieces_missing > 0)
            .count();
        if weak > 0 {
            eprintln!(
                "{weak} segments lack data pieces: their nodes were too slow; reading them costs more"
            );
        }
    }
    Ok(())
}

async fn get(args: &CpArgs, options: &Options, cancel: Cancel) -> Result<(), Failure> {
    let place: Place = args.source.parse()?;
    if place.key.is_empty() {
        return Err(Failure::usage(format!(
            "'{}' names a bucket: copy one object, st://BUCKET/KEY",
            args.source
        )));
    }
    let output = if args.target == "-" {
        Output::Stdout
    } else {
        Output::File(target_file(&args.target, &place)?)
    };
    let is_piped = args.target == "-";
    let session = open_session(options)?;
    let bar = Arc::new(Bar::new(options, &place.to_string()));
    let begun = Instant::now();
    let download_options = DownloadOptions {
        range: args.range,
        ..DownloadOptions::default()
    };
    let outcome = download(
        &session,
        &place,
        output,
        download_options,
        bar.clone(),
        cancel,
    )
    .await;
    let seconds = begun.elapsed().as_secs_f64();
    bar.finish();
    session.close().await;
    let report = outcome?;
    if options.is_json {
        let json = download_json(&report, seconds);
        if is_piped {
            // Standard output is the object's.
            eprintln!("{json}");
        } else {
            show::print_json(&json);
        }
    } else if !options.is_quiet {
        eprintln!(
            "{place}: {} fetched in {}",
            show::bytes(report.bytes),
            pace(report.bytes, seconds)
        );
        if !report.liars.is_empty() {
            eprintln!(
                "{} pieces were altered by their nodes and replaced",
                report.liars.len()
            );
        }
    }
    Ok(())
}

/// The file to write: the target, or the object's name in it if it is a directory.
fn target_file(target: &str, place: &Place) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(target);
    if !path.is_dir() && !target.ends_with('/') {
        return Ok(path);
    }
    let name = place.key.rsplit('/').next().unwrap_or("");
    // Keys are any text; only an ordinary name may become a file by itself.
    if matches!(name, "" | "." | "..") {
        return Err(Failure::usage(format!(
            "'{target}' is a directory and the key ends in no file name: name a file"
        )));
    }
    Ok(path.join(name))
}

fn pace(bytes: u64, seconds: f64) -> String {
    let rate = if seconds > 0.0 {
        bytes as f64 / seconds
    } else {
        0.0
    };
    format!("{seconds:.1} s ({}/s)", show::bytes(rate as u64))
}

fn upload_json(report: &UploadReport, seconds: f64) -> serde_json::Value {
    let total = |count: fn(&crate::upload::SegmentReport) -> u64| {
        report.segments.iter().map(count).sum::<u64>()
    };
    json!({
        "direction": "up",
        "bytes": report.bytes,
        "seconds": seconds,
        "scheme": report.scheme,
        "replaced_object": report.replaced_object,
        "pieces": total(|segment| segment.pieces.into()),
        "pieces_stored": total(|segment| segment.pieces_stored.into()),
        "piece_bytes": total(|segment| segment.piece_bytes),
        "replaced": total(|segment| segment.replaced.into()),
        "cancelled": total(|segment| segment.cancelled.into()),
        "retreats": total(|segment| segment.retreats.into()),
        "data_pieces_missing": total(|segment| segment.data_pieces_missing.into()),
        "segments": report.segments,
        "cpu_seconds": meter::cpu_seconds(),
        "peak_rss_bytes": meter::peak_rss_bytes(),
    })
}

fn download_json(report: &DownloadReport, seconds: f64) -> serde_json::Value {
    let total = |count: fn(&crate::download::SegmentReport) -> u64| {
        report.segments.iter().map(count).sum::<u64>()
    };
    let with_pieces = || report.segments.iter().filter(|segment| !segment.inline);
    let lost = || with_pieces().map(|segment| segment.data_pieces_lost);
    let liars = || with_pieces().map(|segment| segment.liars.len());
    json!({
        "direction": "down",
        "bytes": report.bytes,
        "object_bytes": report.object_bytes,
        "seconds": seconds,
        "pieces": total(|segment| segment.pieces.into()),
        "pieces_stored": total(|segment| segment.pieces_stored.into()),
        "replaced": total(|segment| segment.replaced.into()),
        "cancelled": total(|segment| segment.cancelled.into()),
        "gone": total(|segment| segment.gone.into()),
        "missing": total(|segment| segment.missing.into()),
        "liars": report.liars,
        "liars_min": liars().min(),
        "data_pieces_lost": total(|segment| segment.data_pieces_lost.into()),
        "data_pieces_lost_min": lost().min(),
        "data_pieces_lost_max": lost().max(),
        "segments": report.segments,
        "cpu_seconds": meter::cpu_seconds(),
        "peak_rss_bytes": meter::peak_rss_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_becomes_a_file_name_only_if_it_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().to_str().unwrap();
        let file = |key: &str| {
            let place = Place {
                bucket: "photos".to_owned(),
                key: key.to_owned(),
            };
            target_file(target, &place).map_err(|failure| failure.message)
        };
        assert_eq!(file("2024/cat.jpg"), Ok(directory.path().join("cat.jpg")));
        assert!(file("2024/..").is_err());
        assert!(file("2024/").is_err());
    }
}
