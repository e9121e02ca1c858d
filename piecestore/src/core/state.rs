//! A core put together: executor, ring (or what stands in its place) and QUIC driver, and the tasks that turn them.
//!
//! Nodes and disks of this core share one ring and its buffers. [`Core::close`] ends the driver
//! first, so that its last packets leave, then the ring; whoever adds endpoints closes them before.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use strand_transport::Identity;

use crate::core::counters::{CoreCounters, Counters};
use crate::core::executor::Executor;
use crate::core::gate::Gate;
use crate::core::glommio::Glommio;
use crate::core::heap;
use crate::core::runtime::{CoreError, CoreExecutor, CoreOptions, CoreThread, Io, spawn_core};
use crate::disk::{CoreDisk, FileIo};
use crate::open_files::OpenFiles;
use crate::plain::{PlainDatagram, Pool};
use crate::quic::{BindError, Datagram, Driver, Endpoint, Handler, RingDatagram};
use crate::ring::{Ring, RingOptions};

/// See the module's head. Clones are the same core.
#[derive(Clone)]
pub struct Core {
    executor: CoreExecutor,
    file_io: FileIo,
    driver: Driver<CoreExecutor>,
    counters: Rc<Counters>,
    open_files: Rc<OpenFiles>,
    gate: Gate,
}

/// Starts a thread with a core on it, runs `main` to its end there, and closes the core.
///
/// # Errors
///
/// If the thread or the executor cannot be made; what fails later [`CoreThread::join`] tells.
pub fn start<T, F, Fut>(options: CoreOptions, main: F) -> Result<CoreThread<T>, CoreError>
where
    T: Send + 'static,
    F: FnOnce(Core) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    heap::give_long_runs_back();
    let CoreOptions {
        open_files_max,
        connection_bytes_max,
        ..
    } = options;
    spawn_core(options, move |executor| async move {
        let core = Core::start(executor, open_files_max, connection_bytes_max)?;
        let output = main(core.clone()).await;
        core.close().await;
        Ok(output)
    })
}

impl Core {
    /// Makes what its bytes go through, and starts its tasks and the driver's on the current executor.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the ring or its buffers.
    pub fn start(
        executor: CoreExecutor,
        open_files_max: usize,
        connection_bytes_max: u64,
    ) -> Result<Self, CoreError> {
        let counters = Rc::new(Counters::default());
        let gate = Gate::new();
        let (file_io, datagram): (_, Rc<dyn Datagram>) = match executor {
            CoreExecutor::Glommio(glommio) => {
                let ring = start_ring(glommio, &counters, &gate)?;
                let datagram = Rc::new(RingDatagram::new(Rc::clone(&ring)));
                (FileIo::Ring(ring), datagram)
            }
            CoreExecutor::Tokio(tokio) => {
                let datagram = PlainDatagram::new(tokio, Rc::clone(&counters));
                let pool = Pool::new(tokio, Rc::clone(&counters));
                (FileIo::Pool(pool), datagram)
            }
        };
        let driver = Driver::new(executor, datagram, counters.clone(), connection_bytes_max);
        if let Some(driving) = gate.enter() {
            let driven = driver.clone();
            executor.spawn(async move {
                let _pass = driving;
                driven.run().await;
            });
        }
        Ok(Self {
            executor,
            file_io,
            driver,
            counters,
            open_files: OpenFiles::new(open_files_max),
            gate,
        })
    }

    /// The executor all of this runs on.
    #[must_use]
    pub fn executor(&self) -> CoreExecutor {
        self.executor
    }

    /// What it runs on.
    #[must_use]
    pub fn io(&self) -> Io {
        match self.executor {
            CoreExecutor::Glommio(_) => Io::Uring,
            CoreExecutor::Tokio(_) => Io::Plain,
        }
    }

    /// The blob files in an existing folder.
    ///
    /// # Errors
    ///
    /// If the folder cannot be opened.
    pub fn disk(&self, directory: &Path) -> std::io::Result<CoreDisk<CoreExecutor>> {
        CoreDisk::open(
            self.file_io.clone(),
            self.executor,
            &self.open_files,
            directory,
        )
    }

    /// The blob files in a folder that is open already.
    ///
    /// # Errors
    ///
    /// If the thread that watches the disk cannot be started.
    pub fn disk_in(
        &self,
        path: &Path,
        folder: std::os::fd::OwnedFd,
    ) -> std::io::Result<CoreDisk<CoreExecutor>> {
        let (file_io, files) = (self.file_io.clone(), &self.open_files);
        CoreDisk::in_folder(file_io, self.executor, files, path, folder)
    }

    /// Adds a node to this core: one socket, one endpoint. `handler` gets every request.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound or TLS not be set up.
    pub fn endpoint(
        &self,
        identity: &Identity,
        listen: SocketAddr,
        handler: Handler,
    ) -> Result<Endpoint<CoreExecutor>, BindError> {
        self.driver.add_node(identity, listen, handler)
    }

    /// The driver of its connections.
    #[must_use]
    pub fn driver(&self) -> &Driver<CoreExecutor> {
        &self.driver
    }

    /// What this core has counted so far.
    #[must_use]
    pub fn counters(&self) -> CoreCounters {
        self.counters.read()
    }

    /// Ends the driver and what its bytes go through, and waits for their tasks.
    pub async fn close(&self) {
        self.driver.close().await;
        self.file_io.close();
        self.gate.close().await;
    }
}

/// Makes a ring, and starts the tasks that turn it.
fn start_ring(
    executor: Glommio,
    counters: &Rc<Counters>,
    gate: &Gate,
) -> Result<Rc<Ring>, CoreError> {
    let ring = Ring::new(RingOptions::default(), Rc::clone(counters)).map_err(CoreError::Ring)?;
    if let (Some(turning), Some(bridging), Some(beating)) =
        (gate.enter(), gate.enter(), gate.enter())
    {
        let turned = ring.clone();
        executor.spawn(async move {
            let _pass = turning;
            turned.run(&executor).await;
        });
        let watched = ring.clone();
        executor.spawn(async move {
            let _pass = beating;
            executor.beat(|| watched.is_closing()).await;
        });
        let watched = ring.clone();
        executor
            .bridge(ring.eventfd(), ring.wake_flag(), bridging, move || {
                watched.is_closing()
            })
            .map_err(CoreError::Ring)?;
    }
    Ok(ring)
}

impl std::fmt::Debug for Core {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Core").finish_non_exhaustive()
    }
}
