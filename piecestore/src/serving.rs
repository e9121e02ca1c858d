//! What of a node is the same whatever its disk and its clock are: an endpoint, the verbs behind it, a store under them and its upkeep.
//!
//! [`Node`](crate::node::Node) puts the directory, check-ins and jobs around it on a real core; the simulation a disk and a network in memory.
//! A node answers from [`Serving::begin`] on, that it is busy until [`Serving::open`] has its index. [`Serving::stop`] closes what was
//! opened, in the opposite order; dropping it closes nothing.

use std::net::SocketAddr;
use std::rc::Rc;

use futures_lite::future;
use strand_blob::{Disk, OpenError, OpenProgress, Recovery, Store, StoreOptions};
use strand_protocol::{Code, NodeId};

use crate::core::executor::{Clock, Executor};
use crate::core::{Gate, Notify};
use crate::hardware::DiskTurn;
use crate::permission::Permission;
use crate::quic::{BindError, Driver, Endpoint, Handler, Security};
use crate::serve::{Admission, Service, ServiceOptions};
use crate::upkeep;

/// See the module's head.
pub struct Serving<D: Disk, E> {
    executor: E,
    endpoint: Endpoint<E>,
    service: Rc<Service<D, E, E>>,
    opening: Rc<OpenProgress>,
    turn: DiskTurn,
    tasks: Gate,
    stop_opening: Notify,
    stop_upkeep: Rc<Notify>,
    started_ms: u64,
}

/// What a node serves with.
#[derive(Clone, Debug)]
pub struct ServingOptions {
    /// Whose limits it takes.
    pub satellite: NodeId,
    /// Memory for bodies coming in.
    pub writes: Rc<Admission>,
    /// Memory for bodies going out.
    pub reads: Rc<Admission>,
    /// For work in the background on its disk.
    pub turn: DiskTurn,
}

impl<D: Disk, E: Executor + Clock> Serving<D, E> {
    /// Binds the socket and begins to answer: that the node is busy.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub fn begin(
        driver: &Driver<E>,
        executor: E,
        identity: &(impl Security + Clone + 'static),
        listen: SocketAddr,
        options: ServingOptions,
    ) -> Result<Self, BindError> {
        let node_id = identity.node_id();
        let opening = Rc::new(OpenProgress::default());
        let service = Service::new(ServiceOptions {
            node_id,
            opening: Rc::clone(&opening),
            permission: Permission::new(options.satellite, node_id),
            writes: options.writes,
            reads: options.reads,
            executor: executor.clone(),
            clock: executor.clone(),
        });
        let answering: Rc<Service<D, E, E>> = Rc::clone(&service);
        let handler: Handler = Rc::new(move |request| {
            let service = Rc::clone(&answering);
            Box::pin(async move { service.handle(request).await })
        });
        let endpoint = driver.add_node(identity, listen, handler)?;
        Ok(Self {
            started_ms: executor.now_ms(),
            executor,
            endpoint,
            service,
            opening,
            turn: options.turn,
            tasks: Gate::new(),
            stop_opening: Notify::new(),
            stop_upkeep: Rc::default(),
        })
    }

    /// Recovers the store, and begins to serve and to look after it. `None`: the node was told to stop meanwhile.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(
        &self,
        disk: D,
        options: StoreOptions,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Option<(Rc<Store<D>>, Recovery)>, OpenError> {
        let now_s = u32::try_from(self.started_ms / 1000).unwrap_or(u32::MAX);
        let mut first_scrub = [0; 8];
        random(&mut first_scrub);
        // Boxed: an opening's future is 20 KiB wide.
        let opening = Store::open_watched(disk, options, now_s, random, &self.opening);
        let opening = Box::pin(opening);
        let stopped = async {
            self.stop_opening.notified().await;
            None
        };
        let Some(opened) = future::or(async { Some(opening.await) }, stopped).await else {
            return Ok(None);
        };
        let (store, recovery) = opened?;
        let (Some(committing), Some(tidying)) = (self.tasks.enter(), self.tasks.enter()) else {
            return Ok(None);
        };
        let committed = Rc::clone(&store);
        self.executor.spawn(async move {
            let _pass = committing;
            committed.run_commits().await;
        });
        self.service.open(Rc::clone(&store));
        let (node, executor) = (self.endpoint.node_id(), self.executor.clone());
        let permission = Rc::clone(self.service.permission());
        let (stop, turn) = (Rc::clone(&self.stop_upkeep), self.turn.clone());
        let tidied = Rc::clone(&store);
        self.executor.spawn(async move {
            let _pass = tidying;
            let random = u64::from_le_bytes(first_scrub);
            let upkeep = upkeep::run(node, &tidied, &permission, &executor, &turn, random);
            future::or(upkeep, stop.notified()).await;
        });
        Ok(Some((store, recovery)))
    }

    /// Ends [`open`](Self::open) early. Nothing was written, and nobody was promised anything.
    pub fn stop_opening(&self) {
        self.stop_opening.notify();
    }

    /// Closes connections and the store. What was acked is durable already; what was not is dropped. Tasks that others began under
    /// [`tasks`](Self::tasks) must have been told to end.
    pub async fn stop(&self) {
        self.service.drain();
        self.stop_opening();
        self.stop_upkeep.notify();
        self.endpoint.close(Code::Shutdown).await;
        if let Some(store) = self.service.store() {
            store.close().await;
        }
        self.tasks.close().await;
    }

    pub(crate) fn executor(&self) -> &E {
        &self.executor
    }

    /// Its end of the network.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint<E> {
        &self.endpoint
    }

    /// Its verbs.
    #[must_use]
    pub fn service(&self) -> &Rc<Service<D, E, E>> {
        &self.service
    }

    /// How far the opening of the store is.
    #[must_use]
    pub fn opening(&self) -> &Rc<OpenProgress> {
        &self.opening
    }

    /// For tasks that end with the node: [`stop`](Self::stop) waits for them.
    #[must_use]
    pub fn tasks(&self) -> &Gate {
        &self.tasks
    }

    /// When it began, by its steady clock.
    #[must_use]
    pub fn started_ms(&self) -> u64 {
        self.started_ms
    }
}

impl<D: Disk, E> std::fmt::Debug for Serving<D, E> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Serving")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
