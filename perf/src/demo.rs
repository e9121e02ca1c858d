//! The demo: a network on this machine stores a file, loses all it may lose, and gives the file back.
//!
//! Everything between start and verdict happens through the programs' own command lines and wire protocols; the harness
//! only starts them, damages what they stored, compares bytes and reads counters. It prints its progress to standard
//! error, and its findings to standard output: a table and a line that begins `VERIFIED` or `FAILED`, or one JSON object.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strand_protocol::Scheme;
use strand_protocol::grant::Invitation;

use crate::content::{first_difference, write_seeded};
use crate::counters::Counters;
use crate::damage::Damage;
use crate::folder;
use crate::ground;
use crate::local::{self, Network, Plan, json_output};
use crate::narrator::Narrator;
use crate::part;
use crate::pieces::{Committed, Prober};
use crate::report::{Path as BytePath, Phase, Report};
use crate::sample::{self, Sampler};
use crate::units::{human_bytes, parse_size};

const BUCKET: &str = "demo";
const KEY: &str = "file";

/// `strand-perf demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The file to store; without it the demo makes one of --size bytes
    pub file: Option<PathBuf>,
    /// Size of the file that the demo makes: bytes, or a number with kB, MB, GB, KiB, MiB, GiB
    #[arg(long, default_value = "256MiB", value_parser = parse_size, conflicts_with = "file")]
    pub size: u64,
    /// Nodes, each with a /24 of its own
    #[arg(long, default_value_t = 110)]
    pub nodes: usize,
    /// required/repair/optimal/total; by default what fits the number of nodes
    #[arg(long)]
    pub scheme: Option<Scheme>,
    /// Seed of the file's bytes and of the damage; random if not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// An existing folder on a real disk for the network's data; it is used through a fresh folder in it
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Leave the network running and say how to use it
    #[arg(long, conflicts_with = "json")]
    pub keep: bool,
}

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every comparison and every counter held.
    Verified,
    /// Something did not.
    Failed,
}

/// Runs the demo in `program`'s parts.
///
/// # Errors
///
/// Whatever kept the demo from reaching a verdict.
pub fn run(program: PathBuf, options: &Options) -> Result<Verdict> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let fitting =
        Scheme::for_domains(options.nodes).context("a network needs at least one node")?;
    let scheme = options.scheme.unwrap_or(fitting);
    ensure!(
        options.nodes >= usize::from(scheme.total),
        "scheme {scheme} needs {} nodes, not {}: pass --nodes {}",
        scheme.total,
        options.nodes,
        scheme.total
    );
    let bytes = match &options.file {
        Some(file) => {
            let metadata =
                fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
            ensure!(metadata.is_file(), "{} is not a file", file.display());
            metadata.len()
        }
        None => options.size,
    };
    ground::raise_descriptors()?;
    let needed_bytes = folder::room_needed(bytes, scheme);
    let folder = folder::make(options.dir.as_deref(), &program, needed_bytes)?;
    folder::leave_on_signals(folder.clone())?;

    let demo = Demo {
        program,
        options,
        seed,
        scheme,
        bytes,
        folder: &folder,
        narrator: Narrator::default(),
    };
    let ran = demo.run();
    let is_verified = matches!(&ran, Ok(Outcome::Report(_)));
    folder::remove(&folder, is_verified);
    // Last of all, so that it is the last line.
    let outcome = ran?;
    if !options.keep {
        print(&outcome, options.json)?;
    }
    Ok(if is_verified {
        Verdict::Verified
    } else {
        Verdict::Failed
    })
}

/// What the demo found.
enum Outcome {
    /// All is well.
    Report(Box<Report>),
    /// The bytes that came back are others.
    Differs { what: &'static str, seed: u64 },
}

struct Demo<'a> {
    program: PathBuf,
    options: &'a Options,
    seed: u64,
    scheme: Scheme,
    bytes: u64,
    folder: &'a Path,
    narrator: Narrator,
}

impl Demo<'_> {
    fn run(&self) -> Result<Outcome> {
        let say = &self.narrator;
        say.line(&format!(
            "seed {}; data in {}",
            self.seed,
            self.folder.display()
        ));
        let mut network = self.start()?;
        let sampler = Sampler::start(network.node_pids(), network.satellite_pid());
        let source = self.source(&network)?;
        let access = self.make_access(&network)?;
        let remote = format!("st://{BUCKET}/{KEY}");

        let source_text = source.to_str().context("the file's name is not UTF-8")?;
        let (up, _) = self.transfer(&network, "uploading it", &[source_text, &remote])?;
        let disk_bytes_used = nodes_disk_bytes(&network)?;
        let runtime = small_runtime()?;
        let prober = runtime.block_on(access.prober(&network))?;
        let committed = runtime.block_on(prober.committed(BUCKET, &access.encrypted_key()?))?;
        ensure!(
            committed.plain_len == self.bytes,
            "the satellite knows {} bytes, the file has {}",
            committed.plain_len,
            self.bytes
        );

        let before = Counters::of_network(&mut network)?;
        let (down, _) = self.download(&network, "downloading it healthy", &remote, &source)?;
        let Some(down) = down else {
            return Ok(Outcome::Differs {
                what: "the healthy download",
                seed: self.seed,
            });
        };
        let after = Counters::of_network(&mut network)?;

        let damage = self.draw_damage(&network, &committed)?;
        runtime.block_on(damage.inflict(&mut network, &prober))?;
        runtime.block_on(prober.close());
        sampler.set_node_pids(network.node_pids());
        let (damaged, client) =
            self.download(&network, "downloading it damaged", &remote, &source)?;
        let Some(damaged) = damaged else {
            return Ok(Outcome::Differs {
                what: "the damaged download",
                seed: damage.seed(),
            });
        };

        network.check_alive()?;
        let peaks = sampler.peaks();
        drop(sampler);
        let report = Report {
            verified: true,
            bytes: self.bytes,
            nodes: self.options.nodes,
            scheme: committed
                .segments
                .first()
                .map_or_else(String::new, |segment| segment.scheme.clone()),
            coded_segments: committed.segments.len(),
            inline_segments: committed.inline_segments,
            pieces: committed
                .segments
                .iter()
                .map(|segment| segment.pieces.len() as u64)
                .sum(),
            piece_bytes: committed.piece_bytes,
            disk_bytes_used,
            up,
            down,
            damaged,
            node_peak_rss_anon_bytes: peaks.nodes_rss_anon_bytes,
            node_process_peak_rss_anon_bytes: peaks.node_process_rss_anon_bytes,
            satellite_peak_rss_bytes: peaks.satellite_rss_bytes,
            damaged_pieces: damage.counts(),
            data_pieces_lost: damage.data_pieces_lost(),
            liars_named: damage.liars_named(&client)?,
            replaced: client["replaced"]
                .as_u64()
                .context("the client's JSON has no number replaced")?,
            seed: damage.seed(),
            counters: byte_path(after, after - before),
        };
        let outcome = Outcome::Report(Box::new(report));
        if self.options.keep {
            print(&outcome, self.options.json)?;
            self.keep(network, &access, &damage)?;
        } else {
            say.during("stopping", || network.stop())?;
        }
        Ok(outcome)
    }

    fn start(&self) -> Result<Network> {
        let nodes = self.options.nodes;
        let step = format!(
            "starting a satellite and {nodes} nodes in {} processes, scheme {}",
            local::process_count(nodes),
            self.scheme
        );
        let plan = Plan {
            program: self.program.clone(),
            dir: self.folder.to_owned(),
            node_count: nodes,
            scheme: Some(self.scheme),
            capacity: capacity(self.bytes).to_owned(),
        };
        self.narrator.during(&step, || Network::start(plan))
    }

    /// The file to store: the one given, or a new one.
    fn source(&self, network: &Network) -> Result<PathBuf> {
        if let Some(file) = &self.options.file {
            self.narrator
                .line(&format!("the file has {}", human_bytes(self.bytes)));
            return Ok(file.clone());
        }
        let path = network.work_dir().join("source");
        let step = format!("making {} of pseudo-random bytes", human_bytes(self.bytes));
        self.narrator
            .during(&step, || write_seeded(&path, self.seed, self.bytes))
            .context("cannot make the file")?;
        Ok(path)
    }

    /// Project, grant and bucket, as a user would make them.
    fn make_access(&self, network: &Network) -> Result<Access> {
        self.narrator
            .line("making a project, an access grant and a bucket");
        let access = Access {
            invitation: network.create_project("demo")?,
            passphrase: passphrase()?,
        };
        let mut create = network.client_command(&["access", "create", &access.invitation]);
        create.env("STRAND_PASSPHRASE", &access.passphrase);
        let created = part::run("uplink access create", create)?;
        ensure!(
            created.is_success(),
            "uplink access create: {}",
            created.stderr.trim()
        );
        let made = part::run(
            "uplink mb",
            network.client_command(&["mb", &format!("st://{BUCKET}")]),
        )?;
        ensure!(made.is_success(), "uplink mb: {}", made.stderr.trim());
        Ok(access)
    }

    /// One `uplink cp`, measured; and the JSON that it printed.
    fn transfer(
        &self,
        network: &Network,
        step: &str,
        arguments: &[&str],
    ) -> Result<(Phase, Value)> {
        let mut all = vec!["--json", "cp"];
        all.extend_from_slice(arguments);
        let machine_before = sample::machine_busy_seconds()?;
        let nodes_before = node_cpu_seconds(network);
        let finished = self.narrator.during(step, || {
            part::run("uplink cp", network.client_command(&all))
        })?;
        let phase = Phase {
            seconds: finished.seconds,
            client_cpu_seconds: finished.ended.usage.cpu_seconds,
            node_cpu_seconds: node_cpu_seconds(network) - nodes_before,
            machine_cpu_seconds: sample::machine_busy_seconds()? - machine_before,
            client_peak_rss_bytes: finished.ended.usage.peak_rss_bytes,
        };
        let rate = phase.bytes_per_second(self.bytes) / 1e6;
        let client = json_output("uplink cp", &finished)?;
        self.narrator
            .line(&format!("took {:.2} s, {rate:.1} MB/s", phase.seconds));
        Ok((phase, client))
    }

    /// A download into a fresh file, compared byte by byte; no phase if they differ.
    fn download(
        &self,
        network: &Network,
        step: &str,
        remote: &str,
        source: &Path,
    ) -> Result<(Option<Phase>, Value)> {
        let target = network.work_dir().join("download");
        let target_text = target.to_str().context("the folder's name is not UTF-8")?;
        let (phase, client) = self.transfer(network, step, &[remote, target_text])?;
        let difference = self
            .narrator
            .during("comparing it byte by byte", || {
                first_difference(source, &target)
            })
            .context("cannot compare")?;
        fs::remove_file(&target).context("cannot remove the download")?;
        if let Some(offset) = difference {
            self.narrator
                .line(&format!("the files differ at byte {offset}"));
        }
        Ok((difference.is_none().then_some(phase), client))
    }

    fn draw_damage(&self, network: &Network, committed: &Committed) -> Result<Damage> {
        if committed.segments.is_empty() {
            self.narrator
                .line("everything is inline: nothing to damage");
        }
        let damage = Damage::draw(network, &committed.segments, self.seed)?;
        if damage.seed() != self.seed {
            self.narrator.line(&format!(
                "seed {} damages too few data pieces: taking {}",
                self.seed,
                damage.seed()
            ));
        }
        let counts = damage.counts();
        if !committed.segments.is_empty() {
            self.narrator.line(&format!(
                "damaging with seed {}: stopping {}, deleting {} pieces, altering {}",
                damage.seed(),
                damage.stopped_process().map_or_else(
                    || "no node process".to_owned(),
                    |process| format!("node process {process} ({} pieces)", counts.stopped)
                ),
                counts.deleted,
                counts.altered
            ));
        }
        Ok(damage)
    }

    /// Brings the stopped process back and waits for ctrl-C.
    fn keep(&self, mut network: Network, access: &Access, damage: &Damage) -> Result<()> {
        if let Some(process) = damage.stopped_process() {
            network.start_process(process)?;
            network.wait_for_nodes()?;
        }
        let program = self.program.display();
        let client = network.client_dir();
        let client = client.display();
        println!(
            "\nThe network runs until ctrl-C, which also removes {}.\n\n\
             Its invitation (for `access create`; the passphrase is {}):\n  {}\n\n\
             To use it from another terminal:\n  \
             export STRAND_CONFIG_DIR={client}\n  \
             {program} part uplink ls st://{BUCKET}\n  \
             {program} part uplink cp FILE st://{BUCKET}/NAME\n  \
             {program} part uplink cp st://{BUCKET}/{KEY} COPY\n  \
             {program} part satellite node list --dir {}\n  \
             {program} part piecestore status --dir {}",
            self.folder.display(),
            access.passphrase,
            access.invitation,
            network.satellite_dir().display(),
            network.seats()[0].dir.display(),
        );
        loop {
            // The signal thread ends the process. Whoever plays with the network may kill its parts: that is news, no failure.
            for news in network.take_ended()? {
                self.narrator.line(&news);
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    }
}

/// Findings on standard output; the last line is the verdict.
fn print(outcome: &Outcome, is_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match outcome {
        Outcome::Report(report) if is_json => {
            writeln!(out, "{}", serde_json::to_string_pretty(&report.to_json())?)?
        }
        Outcome::Report(report) => writeln!(out, "{}\n{}", report.to_table(), report.verdict())?,
        Outcome::Differs { what, seed } if is_json => {
            let reason = format!("{what} differs from the file");
            let json = serde_json::json!({ "verified": false, "seed": seed, "reason": reason });
            writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        }
        Outcome::Differs { what, seed } => {
            writeln!(out, "FAILED: {what} differs from the file (seed {seed})")?
        }
    }
    Ok(out.flush()?)
}

/// A user's secrets.
struct Access {
    invitation: String,
    passphrase: String,
}

impl Access {
    async fn prober(&self, network: &Network) -> Result<Prober> {
        Prober::dial(network, self.invitation()?.macaroon.as_bytes()).await
    }

    fn invitation(&self) -> Result<Invitation> {
        Invitation::from_text(&self.invitation).context("the invitation does not parse")
    }

    fn encrypted_key(&self) -> Result<Vec<u8>> {
        use strand_protocol::grant::Grant;
        use strand_protocol::path::{KdfParams, Names, ObjectKey};
        let grant =
            Grant::from_invitation(&self.invitation()?, &self.passphrase, KdfParams::default())?;
        let key = ObjectKey::parse(KEY)?;
        let (encrypted, _) = grant.path_key(BUCKET, Names::Sealed, &key)?;
        Ok(encrypted)
    }
}

/// `all` counts from the start to the end of the healthy download, `download` that download alone.
fn byte_path(all: Counters, download: Counters) -> BytePath {
    BytePath {
        multishot_share: all.multishot_share(),
        datagrams_received: all.datagrams_received,
        gso_train_mean: download.gso_train_mean(),
        send_datagrams_mean: download.send_mean(),
        ring_write_bytes: all.ring_write_bytes,
        piece_bytes_stored: all.piece_bytes,
        acks: all.acks - all.tombstones,
        pieces_stored: all.pieces_stored,
        acks_before_sync: all.acks_before_sync,
        syncs: all.syncs,
    }
}

fn node_cpu_seconds(network: &Network) -> f64 {
    network
        .node_pids()
        .into_iter()
        .filter_map(|pid| sample::process_cpu_seconds(pid).ok())
        .sum()
}

fn nodes_disk_bytes(network: &Network) -> Result<u64> {
    let mut used = 0;
    for seat in network.seats() {
        used += ground::disk_bytes_used(&seat.dir).context("cannot measure the nodes' folders")?;
    }
    Ok(used)
}

/// Capacity of a node: more than enough for its share of any file that fits the disk.
fn capacity(bytes: u64) -> &'static str {
    if bytes < 64 << 30 { "16GB" } else { "1TB" }
}

fn small_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")
}

fn random_seed() -> Result<u64> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).context("no random bytes")?;
    // 32 bits are enough to differ and short enough to type.
    Ok(u64::from(u32::from_le_bytes(bytes)))
}

fn passphrase() -> Result<String> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).context("no random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
