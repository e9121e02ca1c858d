//! Who asks: a key of their own, one connection that is dialled again when it is gone, and the verbs over it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use piecestore::core::Counters;
use piecestore::core::executor::{Executor, timeout};
use piecestore::core::simulated::SimExecutor;
use piecestore::limits::CONNECTION_BUDGET_BYTES_MIN;
use piecestore::quic::simulated::SimNetwork;
use piecestore::quic::simulated_security::SimIdentity;
use piecestore::quic::{Connection, Driver, Endpoint, Handler, QuicRecv, QuicSend};
use piecestore::serve::simulated::Refusal;
use strand_protocol::{Code, NodeId};
use strand_transport::NODE_ALPN;

use super::host::NODE;

/// How long a client waits for a verb. Shorter than the disk may hang.
const VERB_WAIT: Duration = Duration::from_secs(8);

/// How often a client looks whether it has a connection.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// See the module's head.
pub(super) struct Client {
    pub(super) id: NodeId,
    executor: SimExecutor,
    driver: Driver<SimExecutor>,
    endpoint: Endpoint<SimExecutor>,
    connection: RefCell<Option<Connection>>,
    is_leaving: Cell<bool>,
}

impl Client {
    /// A client that dials the node at `node`, again and again.
    pub(super) fn begin(
        world: &SimExecutor,
        network: &SimNetwork,
        number: u8,
        node: SocketAddr,
    ) -> Rc<Self> {
        let executor = world.process();
        let id = NodeId::from([100 + number; 32]);
        let driver = Driver::new(
            executor.clone(),
            network.host(number.is_multiple_of(2)),
            Rc::new(Counters::default()),
            CONNECTION_BUDGET_BYTES_MIN,
        );
        let running = driver.clone();
        executor.spawn(async move { running.run().await });
        let deaf: Handler = Rc::new(|_request| Box::pin(async {}));
        let listen = SocketAddr::from(([10, 0, 1, number], 9_000));
        let identity = SimIdentity::new(id, executor.random());
        let endpoint = match driver.add_node(&identity, listen, deaf) {
            Ok(endpoint) => endpoint,
            Err(error) => panic!("each client has an address: {error}"),
        };
        let client = Rc::new(Self {
            id,
            executor: executor.clone(),
            driver,
            endpoint,
            connection: RefCell::default(),
            is_leaving: Cell::default(),
        });
        let keeping = Rc::clone(&client);
        executor.spawn(async move { keeping.keep_connected(node).await });
        client
    }

    async fn keep_connected(&self, node: SocketAddr) {
        while !self.is_leaving.get() {
            if !self.is_connected() {
                let dialled = self.endpoint.dial(NodeId::from(NODE), node, NODE_ALPN);
                let connection = dialled.await.ok();
                self.connection.replace(connection);
            }
            self.executor.sleep(LOOK_PERIOD).await;
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        let connection = self.connection.borrow();
        connection.as_ref().is_some_and(|open| !open.is_closed())
    }

    /// Runs one verb on a stream of its own; gives up after a while, and on the connection as well.
    pub(super) async fn ask<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        verb: impl FnOnce(QuicSend, QuicRecv) -> F,
    ) -> Result<T, Refusal> {
        let connection = self.connection.borrow().clone().ok_or(Refusal::Lost)?;
        let asking = async {
            let (send, recv) = connection.open().await.map_err(|_| Refusal::Lost)?;
            verb(send, recv).await
        };
        let answer = timeout(&self.executor, VERB_WAIT, Box::pin(asking)).await;
        answer.unwrap_or_else(|| {
            connection.close(Code::Cancelled);
            Err(Refusal::Lost)
        })
    }

    /// Goes away.
    pub(super) async fn leave(&self) {
        self.is_leaving.set(true);
        self.connection.take();
        self.endpoint.close(Code::Ok).await;
        self.driver.close().await;
    }

    /// Tasks that have not ended.
    pub(super) fn task_count(&self) -> usize {
        self.executor.task_count()
    }

    /// Drops what is left of it.
    pub(super) fn die(&self) {
        self.executor.end_process();
    }
}
