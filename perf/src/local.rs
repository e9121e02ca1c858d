//! A network on one machine: a satellite and its nodes as separate processes over real sockets and a real disk.
//!
//! The satellite listens on 127.0.0.1, node number i on 127.a.b.1, each in a /24 of its own, so that the rule of
//! distinct domains holds for real. Every process is this very program, re-executed as the part it plays
//! (`strand-perf part ...`), and dies with it. Layout of the folder:
//!
//! ```text
//! satellite/   node-000/ .. node-109/   client/   log/satellite.log   log/nodes-0.log ..   work/
//! ```

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use piecestore::config::{Capacity, SatelliteAddress};
use piecestore::directory::{Choices, Directory};
use strand_protocol::permit::SatelliteKeys;
use strand_protocol::{NodeId, Scheme};
use strand_transport::read_secret;

use crate::part::{self, Finished, Part};

/// How long all nodes together may take until the satellite has reached each of them.
pub const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Node processes of a network that is large enough to fill them.
pub const NODE_PROCESSES: usize = 5;

/// The most nodes: one /24 of 127.1.0.0 to 127.250.255.0 each is far more, memory and descriptors are not.
pub const NODES_MAX: usize = 1_000;

/// Times that a node is asked how it is.
const STATUS_TRIES: u32 = 3;

/// Setups that run at once.
const SETUPS_AT_ONCE: usize = 8;

/// Ports tried before giving up; below the range from which Linux takes ephemeral ports.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What a network is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `strand-perf` program, which is re-executed as each part.
    pub program: PathBuf,
    /// An existing, empty folder.
    pub dir: PathBuf,
    /// Nodes, at least one.
    pub node_count: usize,
    /// `required/repair/optimal/total`; none leaves the choice to the number of nodes.
    pub scheme: Option<Scheme>,
    /// Capacity of each node, as `piecestore setup` reads it.
    pub capacity: String,
}

/// One node of the network.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its folder.
    pub dir: PathBuf,
    /// Where it listens.
    pub address: SocketAddrV4,
    /// Its identity.
    pub node_id: NodeId,
    /// The process that runs it.
    pub process: usize,
}

/// A network that is set up and does not run.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The satellite's identity.
    pub satellite_id: NodeId,
    /// Where the satellite will listen.
    pub satellite_address: SocketAddrV4,
    /// The satellite's folder.
    pub satellite_dir: PathBuf,
    /// The nodes, by number.
    pub seats: Vec<Seat>,
}

impl Layout {
    /// Makes the directories of the satellite and of all nodes.
    pub fn set_up(plan: &Plan) -> Result<Self> {
        ensure!(
            (1..=NODES_MAX).contains(&plan.node_count),
            "a local network has 1 to {NODES_MAX} nodes, not {}",
            plan.node_count
        );
        let port = free_port(plan.node_count)?;
        let satellite_address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let satellite_dir = satellite_dir(&plan.dir);
        let satellite_id = setup_satellite(plan, &satellite_dir, satellite_address)?;
        let seats = setup_nodes(plan, satellite_id, satellite_address)?;
        Ok(Self {
            satellite_id,
            satellite_address,
            satellite_dir,
            seats,
        })
    }
}

/// A running network. Dropping it kills its processes; the folder stays.
#[derive(Debug)]
pub struct Network {
    plan: Plan,
    satellite_id: NodeId,
    satellite_address: SocketAddrV4,
    satellite: Part,
    seats: Vec<Seat>,
    processes: Vec<Option<Part>>,
    /// When each process was started last, milliseconds since 1970.
    started_ms: Vec<u64>,
}

impl Network {
    /// Sets everything up, starts it, and returns once the satellite has reached every node.
    ///
    /// Processes are bound to the calling thread: it has to outlive the network.
    pub fn start(plan: Plan) -> Result<Self> {
        for folder in ["log", "work", "client"] {
            fs::create_dir_all(plan.dir.join(folder))
                .context("cannot make the network's folder")?;
        }
        let Layout {
            satellite_id,
            satellite_address,
            seats,
            ..
        } = Layout::set_up(&plan)?;

        let satellite = start_satellite(&plan)?;
        let process_count = process_count(plan.node_count);
        let mut network = Self {
            plan,
            satellite_id,
            satellite_address,
            satellite,
            seats,
            processes: (0..process_count).map(|_| None).collect(),
            started_ms: vec![0; process_count],
        };
        network.wait_for_satellite()?;
        for process in 0..process_count {
            network.start_process(process)?;
        }
        network.wait_for_nodes()?;
        Ok(network)
    }

    /// The satellite's identity.
    pub fn satellite_id(&self) -> NodeId {
        self.satellite_id
    }

    /// Where the satellite listens.
    pub fn satellite_address(&self) -> SocketAddrV4 {
        self.satellite_address
    }

    /// The satellite's folder.
    pub fn satellite_dir(&self) -> PathBuf {
        satellite_dir(&self.plan.dir)
    }

    /// The satellite's master key, with which limits are minted and believed.
    pub fn satellite_keys(&self) -> Result<SatelliteKeys> {
        let path = self.satellite_dir().join("master.key");
        let master = read_secret::<32>(&path).context("cannot read the satellite's master key")?;
        Ok(SatelliteKeys::new(*master))
    }

    /// A folder for files that come and go.
    pub fn work_dir(&self) -> PathBuf {
        self.plan.dir.join("work")
    }

    /// The client's folder (`STRAND_CONFIG_DIR`).
    pub fn client_dir(&self) -> PathBuf {
        self.plan.dir.join("client")
    }

    /// The nodes, by number.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Which process runs each node.
    pub fn process_of_node(&self) -> Vec<usize> {
        self.seats.iter().map(|seat| seat.process).collect()
    }

    /// The number of the node with this identity.
    pub fn node_number(&self, node_id: &NodeId) -> Option<usize> {
        self.seats.iter().position(|seat| seat.node_id == *node_id)
    }

    /// Process id of the satellite.
    pub fn satellite_pid(&self) -> u32 {
        self.satellite.pid()
    }

    /// The satellite's process.
    pub fn satellite(&mut self) -> &mut Part {
        &mut self.satellite
    }

    /// Process ids of the node processes that run.
    pub fn node_pids(&self) -> Vec<u32> {
        self.processes.iter().flatten().map(Part::pid).collect()
    }

    /// A node process, if it runs.
    pub fn process(&mut self, process: usize) -> Option<&mut Part> {
        self.processes[process].as_mut()
    }

    /// Ends a node process with kill -9.
    pub fn kill_process(&mut self, process: usize) -> Result<()> {
        if let Some(mut part) = self.processes[process].take() {
            part.kill()
                .with_context(|| format!("cannot kill {}", part.name()))?;
        }
        Ok(())
    }

    /// Kills the satellite as kill -9 does.
    pub fn kill_satellite(&mut self) -> Result<()> {
        self.satellite.kill().context("cannot kill the satellite")?;
        Ok(())
    }

    /// Starts the satellite again after [`Network::kill_satellite`].
    pub fn restart_satellite(&mut self) -> Result<()> {
        self.satellite = start_satellite(&self.plan)?;
        self.wait_for_satellite()
    }

    /// Starts a node process that does not run.
    pub fn start_process(&mut self, process: usize) -> Result<()> {
        let mut command = self.part_command("piecestore");
        command.arg("run");
        for seat in self.seats.iter().filter(|seat| seat.process == process) {
            command.arg("--dir").arg(&seat.dir);
        }
        command.args(["--cores", "1"]);
        let name = format!("nodes-{process}");
        let log = self.plan.dir.join("log").join(format!("{name}.log"));
        let started_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)?
            .as_millis()
            .try_into()?;
        let part =
            Part::start(&name, command, &log).with_context(|| format!("cannot start {name}"))?;
        self.processes[process] = Some(part);
        self.started_ms[process] = started_ms;
        Ok(())
    }

    /// A command that plays one of the parts: `piecestore`, `satellite` or `uplink`.
    pub fn part_command(&self, part: &str) -> Command {
        part_command(&self.plan.program, part)
    }

    /// A command line of the client with this network's configuration.
    pub fn client_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.part_command("uplink");
        command
            .args(arguments)
            .env("STRAND_CONFIG_DIR", self.client_dir());
        command
    }

    /// Makes a project and returns the invitation that is printed once.
    pub fn create_project(&self, name: &str) -> Result<String> {
        let mut command = self.part_command("satellite");
        command
            .args(["project", "create", name, "--json", "--dir"])
            .arg(self.satellite_dir());
        let finished = part::run("satellite project create", command)?;
        let json = json_output("satellite project create", &finished)?;
        let invitation = json["invitation"]
            .as_str()
            .context("project create printed no invitation")?;
        Ok(invitation.to_owned())
    }

    /// Waits until every node whose process runs has checked in since that process was started, and can be reached.
    pub fn wait_for_nodes(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let waiting = self.nodes_not_reached()?;
            if waiting.is_empty() {
                return Ok(());
            }
            if started.elapsed() > READY_PATIENCE {
                let mut logs = format!("log of the satellite:\n{}", self.satellite.log_tail());
                let mut processes: Vec<usize> = waiting
                    .iter()
                    .map(|&node| self.seats[node].process)
                    .collect();
                processes.dedup();
                for part in processes
                    .into_iter()
                    .filter_map(|process| self.processes[process].as_ref())
                {
                    logs.push_str(&format!("\nlog of {}:\n{}", part.name(), part.log_tail()));
                }
                bail!(
                    "{} nodes were not reached within {} s\n{logs}",
                    waiting.len(),
                    READY_PATIENCE.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a node says of itself over its admin socket.
    pub fn node_status(&self, node: usize) -> Result<serde_json::Value> {
        // A core that is busy with something long answers the next time.
        let mut asked = 0;
        loop {
            let answer = piecestore::admin::ask_status(&self.seats[node].dir)?;
            let status: serde_json::Value =
                serde_json::from_str(&answer).context("a node's status is no JSON")?;
            let Some(error) = status["error"].as_str() else {
                return Ok(status);
            };
            asked += 1;
            ensure!(
                asked < STATUS_TRIES,
                "node {node} cannot say how it is: {error}"
            );
        }
    }

    /// Fails with the tail of its log if a process that should run has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        for part in std::iter::once(&mut self.satellite).chain(self.processes.iter_mut().flatten())
        {
            if !part.is_running()? {
                bail!(
                    "{}; its log ends:\n{}",
                    how_it_ended(part)?,
                    part.log_tail()
                );
            }
        }
        Ok(())
    }

    /// A line for each process that has ended since the last call; node processes may be started again then.
    pub fn take_ended(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for slot in &mut self.processes {
            if let Some(part) = slot
                && !part.is_running()?
            {
                lines.push(how_it_ended(part)?);
                *slot = None;
            }
        }
        ensure!(
            self.satellite.is_running()?,
            "{}",
            how_it_ended(&mut self.satellite)?
        );
        Ok(lines)
    }

    /// Ends everything in an orderly way.
    pub fn stop(mut self) -> Result<()> {
        for part in self.processes.iter_mut().flatten() {
            part.signal(libc::SIGTERM)?;
        }
        for part in self.processes.iter_mut().flatten() {
            part.stop()?;
        }
        self.satellite.stop()?;
        Ok(())
    }

    /// Nodes whose process runs and that the satellite has not heard of since, or could not reach.
    fn nodes_not_reached(&self) -> Result<Vec<usize>> {
        let last_contact_ms = last_contacts(&self.plan.program, &self.satellite_dir())?;
        let is_reached = |seat: &Seat| {
            let contact_ms = last_contact_ms.get(&seat.node_id.to_string());
            contact_ms.is_some_and(|&contact_ms| contact_ms >= self.started_ms[seat.process])
        };
        let runs = |seat: &Seat| self.processes[seat.process].is_some();
        Ok((0..self.seats.len())
            .filter(|&node| runs(&self.seats[node]) && !is_reached(&self.seats[node]))
            .collect())
    }

    /// Waits until the satellite answers over its admin socket.
    fn wait_for_satellite(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            match self.nodes_not_reached() {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > READY_PATIENCE => {
                    return Err(error.context(format!(
                        "the satellite did not answer; its log ends:\n{}",
                        self.satellite.log_tail()
                    )));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn how_it_ended(part: &mut Part) -> Result<String> {
    let ended = part.wait()?;
    Ok(match (ended.code, ended.signal) {
        (Some(code), _) => format!("{} ended with exit code {code}", part.name()),
        (None, signal) => format!(
            "{} was ended by signal {}",
            part.name(),
            signal.unwrap_or(0)
        ),
    })
}

/// When a running satellite heard last of each node that it can reach: node id and milliseconds since 1970.
pub fn last_contacts(program: &Path, satellite_dir: &Path) -> Result<HashMap<String, u64>> {
    let mut command = part_command(program, "satellite");
    command
        .args(["node", "list", "--json", "--dir"])
        .arg(satellite_dir);
    let list = json_output(
        "satellite node list",
        &part::run("satellite node list", command)?,
    )?;
    let nodes = list["nodes"]
        .as_array()
        .context("node list printed no list")?;
    Ok(nodes
        .iter()
        .filter(|node| node["reachable"] == true)
        .filter_map(|node| {
            let node_id = node["node_id"].as_str()?;
            Some((node_id.to_owned(), node["last_contact_ms"].as_u64()?))
        })
        .collect())
}

/// A command that re-executes `program` as one of the parts.
pub fn part_command(program: &Path, part: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["part", part]);
    command
}

/// Node processes for so many nodes.
pub fn process_count(node_count: usize) -> usize {
    node_count.min(NODE_PROCESSES)
}

/// Address of node `number` without its port: a /24 of its own.
///
/// # Panics
///
/// If `number` is beyond [`NODES_MAX`].
pub fn node_ip(number: usize) -> Ipv4Addr {
    assert!(number < NODES_MAX, "node {number} has no address");
    // 127.0.x.y stays free for the satellite and for whatever else runs here.
    Ipv4Addr::new(127, 1 + (number / 250) as u8, 1 + (number % 250) as u8, 1)
}

/// Standard output as JSON; any failure of the command becomes an error that shows what it said.
pub fn json_output(name: &str, finished: &Finished) -> Result<serde_json::Value> {
    ensure!(
        finished.is_success(),
        "{name} failed ({}): {}",
        finished
            .ended
            .code
            .map_or_else(|| "killed".to_owned(), |code| format!("exit code {code}")),
        finished.stderr.trim()
    );
    serde_json::from_slice(&finished.stdout).with_context(|| format!("{name} printed no JSON"))
}

/// A port that is free on the satellite's and every node's address.
fn free_port(node_count: usize) -> Result<u16> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("no random bytes")?;
    let first = usize::try_from(u64::from_le_bytes(random) % PORTS.len() as u64)?;
    for step in 0..100 {
        let port = PORTS.start + ((first + step * 97) % PORTS.len()) as u16;
        let is_free = std::iter::once(Ipv4Addr::LOCALHOST)
            .chain((0..node_count).map(node_ip))
            .all(|ip| UdpSocket::bind((ip, port)).is_ok());
        if is_free {
            return Ok(port);
        }
    }
    bail!(
        "no UDP port is free on 127.0.0.1 and on all of {} to {}",
        node_ip(0),
        node_ip(node_count - 1)
    )
}

fn satellite_dir(dir: &Path) -> PathBuf {
    dir.join("satellite")
}

fn setup_satellite(plan: &Plan, dir: &Path, address: SocketAddrV4) -> Result<NodeId> {
    let options = satellite::SetupOptions {
        dir: dir.to_owned(),
        listen: address.into(),
        advertise: Some(address.to_string()),
        scheme: plan.scheme,
    };
    let (satellite_id, _) = satellite::setup(&options).context("satellite setup")?;
    Ok(satellite_id)
}

fn start_satellite(plan: &Plan) -> Result<Part> {
    let mut command = part_command(&plan.program, "satellite");
    command
        .arg("run")
        .arg("--dir")
        .arg(satellite_dir(&plan.dir));
    Part::start("satellite", command, &plan.dir.join("log/satellite.log"))
        .context("cannot start the satellite")
}

/// Sets all nodes up. What takes time is the disk, so a few wait for it at once.
fn setup_nodes(
    plan: &Plan,
    satellite: NodeId,
    satellite_address: SocketAddrV4,
) -> Result<Vec<Seat>> {
    let satellite: SatelliteAddress = format!("{satellite}@{satellite_address}").parse()?;
    let capacity: Capacity = plan.capacity.parse()?;
    let process_count = process_count(plan.node_count);
    let setup = |number: usize| -> Result<Seat> {
        let dir = plan.dir.join(format!("node-{number:03}"));
        let address = SocketAddrV4::new(node_ip(number), satellite_address.port());
        let choices = Choices {
            satellite: satellite.clone(),
            capacity,
            listen: address.into(),
            advertise: Some(address.to_string().parse()?),
        };
        let config =
            Directory::set_up(&dir, choices).with_context(|| format!("setup of node {number}"))?;
        let process = number * process_count / plan.node_count;
        Ok(Seat {
            node_id: config.node_id,
            dir,
            address,
            process,
        })
    };
    let numbers: Vec<usize> = (0..plan.node_count).collect();
    let per_thread = plan.node_count.div_ceil(SETUPS_AT_ONCE);
    std::thread::scope(|scope| {
        let workers: Vec<_> = numbers
            .chunks(per_thread)
            .map(|numbers| scope.spawn(|| numbers.iter().map(|&number| setup(number)).collect()))
            .collect();
        let mut seats = Vec::with_capacity(plan.node_count);
        for worker in workers {
            let of_worker: Result<Vec<Seat>> = worker
                .join()
                .unwrap_or_else(|_| bail!("a setup thread panicked"));
            seats.extend(of_worker?);
        }
        Ok(seats)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_slash_24_of_its_own() {
        let mut networks: Vec<[u8; 3]> = (0..NODES_MAX)
            .map(|number| {
                let [a, b, c, d] = node_ip(number).octets();
                assert_eq!((a, d), (127, 1));
                [a, b, c]
            })
            .collect();
        networks.sort_unstable();
        networks.dedup();
        assert_eq!(networks.len(), NODES_MAX);
    }

    #[test]
    fn a_hundred_and_ten_nodes_are_five_processes_of_22() {
        assert_eq!(process_count(110), 5);
        for process in 0..5 {
            assert_eq!(
                (0..110)
                    .filter(|number| number * 5 / 110 == process)
                    .count(),
                22
            );
        }
        assert_eq!(process_count(3), 3);
    }

    #[test]
    fn a_free_port_is_free_everywhere() {
        let port = free_port(10).unwrap();
        assert!(PORTS.contains(&port));
        let taken = UdpSocket::bind((node_ip(3), port)).unwrap();
        drop(taken);
    }
}
