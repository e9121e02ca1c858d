//! A core put together: executor, ring and QUIC driver, and the tasks that turn them.
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
use crate::core::glommio::{CoreError, CoreOptions, CoreThread, Glommio, spawn_core};
use crate::core::heap;
use crate::disk::RingDisk;
use crate::open_files::OpenFiles;
use crate::quic::{BindError, Driver, Endpoint, Handler, RingDatagram};
use crate::ring::{Ring, RingOptions};

/// See the module's head. Clones are the same core.
#[derive(Clone)]
pub struct Core {
    executor: Glommio,
    ring: Rc<Ring>,
    driver: Driver<Glommio>,
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
    let open_files_max = options.open_files_max;
    spawn_core(options, move |executor| async move {
        let core = Core::start(executor, open_files_max)?;
        let output = main(core.clone()).await;
        core.close().await;
        Ok(output)
    })
}

impl Core {
    /// Makes the ring and starts its tasks and the driver's on the current executor.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the ring or its buffers.
    pub fn start(executor: Glommio, open_files_max: usize) -> Result<Self, CoreError> {
        let counters = Rc::new(Counters::default());
        let ring = Ring::new(RingOptions::default(), counters.clone()).map_err(CoreError::Ring)?;
        let gate = Gate::new();
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
        let datagram = Rc::new(RingDatagram::new(ring.clone()));
        let driver = Driver::new(executor, datagram, counters.clone());
        if let Some(driving) = gate.enter() {
            let driven = driver.clone();
            executor.spawn(async move {
                let _pass = driving;
                driven.run().await;
            });
        }
        Ok(Self {
            executor,
            ring,
            driver,
            counters,
            open_files: OpenFiles::new(open_files_max),
            gate,
        })
    }

    /// The executor all of this runs on.
    #[must_use]
    pub fn executor(&self) -> Glommio {
        self.executor
    }

    /// The blob files in an existing folder, through this core's ring.
    ///
    /// # Errors
    ///
    /// If the folder cannot be opened.
    pub fn disk(&self, directory: &Path) -> std::io::Result<RingDisk<Glommio>> {
        RingDisk::open(
            self.ring.clone(),
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
    ) -> std::io::Result<RingDisk<Glommio>> {
        let (ring, files) = (self.ring.clone(), &self.open_files);
        RingDisk::in_folder(ring, self.executor, files, path, folder)
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
    ) -> Result<Endpoint<Glommio>, BindError> {
        self.driver.add_node(identity, listen, handler)
    }

    /// The driver of its connections.
    #[must_use]
    pub fn driver(&self) -> &Driver<Glommio> {
        &self.driver
    }

    /// What this core has counted so far.
    #[must_use]
    pub fn counters(&self) -> CoreCounters {
        self.counters.read()
    }

    /// Ends the driver and the ring and waits for their tasks.
    pub async fn close(&self) {
        self.driver.close().await;
        self.ring.close();
        self.gate.close().await;
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Core").finish_non_exhaustive()
    }
}
