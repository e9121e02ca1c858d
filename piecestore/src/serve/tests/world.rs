//! A node with its store on a simulated disk, a satellite's keys, and a client.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use strand_blob::disk::sim::SimDisk;
use strand_blob::{OpenProgress, Store, StoreOptions};
use strand_codec::Shape;
use strand_protocol::pb::node_request::Verb;
use strand_protocol::pb::node_response::Answer;
use strand_protocol::permit::{LimitAction, LimitFields, Receipt, SatelliteKeys};
use strand_protocol::{Code, NodeId, encode_frame, pb};

use super::memory::{MemoryRecv, MemorySend, pipe};
use crate::core::executor::{Clock, Executor};
use crate::core::simulated::SimExecutor;
use crate::permission::Permission;
pub(super) use crate::serve::simulated::Segment;
use crate::serve::simulated::{Permits, drawn};
use crate::serve::{Admission, FrameError, Service, ServiceOptions, read_frame};
use crate::stream::{RecvStream, Request, SendStream, StreamError};

pub(super) const EPOCH: u32 = 7;
pub(super) const WRITE_BUDGET_BYTES: u64 = 4 << 20;
pub(super) const READ_BUDGET_BYTES: u64 = 4 << 20;

type SimService = Service<SimDisk, SimExecutor, SimExecutor>;

/// Everything a test needs. Clones share it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) executor: SimExecutor,
    pub(super) disk: SimDisk,
    pub(super) opening: Rc<OpenProgress>,
    pub(super) service: Rc<SimService>,
    pub(super) permits: Rc<Permits>,
    pub(super) writes: Rc<Admission>,
    pub(super) reads: Rc<Admission>,
    pub(super) satellite: NodeId,
    pub(super) node: NodeId,
    pub(super) client: NodeId,
}

/// How an exchange ended for the client.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// With this answer, the last frame.
    Answer(Answer),
    /// Reset with this code.
    Reset(Code),
}

/// A client's end of one request.
pub(super) struct Call {
    pub(super) send: MemorySend,
    pub(super) recv: MemoryRecv,
}

/// Runs a test in worlds of several seeds.
pub(super) fn in_worlds<F: Future<Output = ()> + 'static>(test: impl Fn(World) -> F) {
    for seed in 0..4 {
        let executor = SimExecutor::new(seed);
        let inner = executor.clone();
        let disk = SimDisk::new(seed);
        let world = executor.run(World::new(inner, disk, 1 << 40));
        executor.run(test(world));
    }
}

impl World {
    pub(super) async fn new(executor: SimExecutor, disk: SimDisk, capacity_bytes: u64) -> Self {
        let world = Self::unopened(executor, disk);
        world.open_store(capacity_bytes).await;
        world
    }

    /// Opens the store, and has it served.
    pub(super) async fn open_store(&self, capacity_bytes: u64) {
        let options = StoreOptions::new(*self.node.as_bytes(), capacity_bytes);
        let mut random = |bytes: &mut [u8]| bytes.fill(self.executor.random() as u8);
        let disk = self.disk.clone();
        let opened = Store::open_watched(disk, options, 0, &mut random, &self.opening);
        let (store, _) = opened.await.unwrap();
        self.executor.spawn(Rc::clone(&store).run_commits());
        self.service.open(store);
    }

    /// The store, which was opened.
    pub(super) fn store(&self) -> &Rc<Store<SimDisk>> {
        self.service.store().unwrap()
    }

    /// A node whose store is not open.
    pub(super) fn unopened(executor: SimExecutor, disk: SimDisk) -> Self {
        let node = NodeId::from([2; 32]);
        let satellite = NodeId::from([1; 32]);
        let permits = Rc::new(Permits {
            satellite,
            node,
            keys: SatelliteKeys::new([9; 32]),
            epoch: EPOCH,
        });
        let opening = Rc::new(OpenProgress::default());
        let permission = Permission::new(satellite, node);
        permission.update(
            vec![permits.epoch_keys(EPOCH), permits.epoch_keys(EPOCH - 1)],
            executor.now_ms(),
            executor.moment(),
        );
        let writes = Admission::new(WRITE_BUDGET_BYTES);
        let reads = Admission::new(READ_BUDGET_BYTES);
        let service = Service::new(ServiceOptions {
            node_id: node,
            opening: Rc::clone(&opening),
            permission,
            writes: Rc::clone(&writes),
            reads: Rc::clone(&reads),
            executor: executor.clone(),
            clock: executor.clone(),
        });
        let client = NodeId::from([3; 32]);
        Self {
            executor,
            disk,
            opening,
            service,
            permits,
            writes,
            reads,
            satellite,
            node,
            client,
        }
    }

    /// Random bytes.
    pub(super) fn bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.executor.random().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A segment of that shape whose piece `index` has random bytes.
    pub(super) fn segment(&self, required: u8, total: u8, plain_len: u64) -> Segment {
        let shape = Shape::new(required, total, strand_codec::sealed_len(plain_len)).unwrap();
        let index = (self.executor.random() % u64::from(total)) as u8;
        let body = Bytes::from(self.bytes(shape.piece_len() as usize));
        self.segment_of(shape, index, body)
    }

    pub(super) fn segment_of(&self, shape: Shape, index: u8, body: Bytes) -> Segment {
        Segment::draw(shape, index, body, || self.executor.random())
    }

    /// What the satellite would permit for that piece.
    pub(super) fn fields(&self, action: LimitAction, segment: &Segment) -> LimitFields {
        let serial = drawn(|| self.executor.random());
        let now_ms = self.executor.now_ms();
        let permits = &self.permits;
        permits.fields(action, segment, self.client, serial, now_ms)
    }

    pub(super) fn mint(&self, fields: &LimitFields) -> Vec<u8> {
        self.permits.mint(fields)
    }

    pub(super) fn limit(&self, action: LimitAction, segment: &Segment) -> Vec<u8> {
        self.mint(&self.fields(action, segment))
    }

    /// Opens a stream to the node.
    pub(super) fn open(&self) -> Call {
        let (send, node_recv) = pipe();
        let (node_send, recv) = pipe();
        let service = Rc::clone(&self.service);
        let request = Request {
            peer: self.client,
            send: node_send,
            recv: node_recv,
        };
        self.executor
            .spawn(async move { service.handle(request).await });
        Call { send, recv }
    }

    /// Opens a stream and sends its first frame.
    pub(super) async fn call(&self, verb: Verb) -> Call {
        let mut call = self.open();
        call.frame(&pb::NodeRequest { verb: Some(verb) }).await;
        call
    }

    pub(super) async fn begin_put(&self, limit: Vec<u8>) -> Call {
        self.call(Verb::Put(pb::PutRequest { limit })).await
    }

    /// A whole put by the book.
    pub(super) async fn put_with(&self, limit: Vec<u8>, segment: &Segment) -> End {
        let mut call = self.begin_put(limit).await;
        let first = call.end().await;
        if first != End::Answer(Answer::PutAdmitted(pb::PutAdmitted {})) {
            return first;
        }
        call.body(&segment.body).await;
        call.frame(&segment.commit()).await;
        call.send.finish();
        call.end().await
    }

    /// Puts a piece that must be taken; gives its receipt, verified.
    pub(super) async fn put(&self, segment: &Segment) -> Receipt {
        let end = self
            .put_with(self.limit(LimitAction::Put, segment), segment)
            .await;
        let End::Answer(Answer::PutReceipt(pb::PutReceipt { receipt })) = end else {
            panic!("{end:?}")
        };
        let key = self.permits.keys.receipt_key(&self.node, EPOCH);
        Receipt::parse(&receipt).unwrap().verify(&key).unwrap()
    }

    pub(super) async fn delete(&self, segment: &Segment) -> End {
        let limit = self.limit(LimitAction::Delete, segment);
        self.call(Verb::Delete(pb::DeleteRequest { limit }))
            .await
            .end()
            .await
    }

    /// Lets tasks that can run do so, and some virtual time pass.
    pub(super) async fn settle(&self) {
        self.executor.sleep(Duration::from_millis(10)).await;
    }

    /// That nothing is held any more.
    pub(super) async fn assert_idle(&self) {
        self.settle().await;
        assert_eq!(self.service.in_flight(), 0);
        assert_eq!(self.writes.usage().budget.bytes_used, 0);
        assert_eq!(self.reads.usage().budget.bytes_used, 0);
    }

    /// Flips a bit in the middle of that share of a stored piece.
    pub(super) fn damage(&self, segment: &Segment, share: u32) {
        let start = segment.shape.share_offset(share) as usize;
        let bytes = &segment.body[start..start + segment.shape.share_len(share)];
        let mut hits = 0;
        for (blob, file) in self.disk.files() {
            if let Some(at) = file.windows(bytes.len()).position(|window| window == bytes) {
                self.disk.edit(blob, |file| file[at + bytes.len() / 2] ^= 1);
                hits += 1;
            }
        }
        assert_eq!(hits, 1, "the share is on disk once");
    }
}

impl Call {
    pub(super) async fn frame<M: Message>(&mut self, message: &M) {
        self.send
            .send(Bytes::from(encode_frame(message)))
            .await
            .unwrap();
    }

    /// Sends bytes in chunks as small as datagrams.
    pub(super) async fn body(&mut self, body: &Bytes) {
        for start in (0..body.len()).step_by(1_400) {
            self.send
                .send(body.slice(start..body.len().min(start + 1_400)))
                .await
                .unwrap();
        }
    }

    /// The next answer, or how the exchange ended.
    pub(super) async fn end(&mut self) -> End {
        match read_frame::<pb::NodeResponse, _>(&mut self.recv, 65_536).await {
            Ok(response) => End::Answer(response.answer.unwrap()),
            Err(FrameError::Stream(StreamError::Reset(code))) => {
                End::Reset(Code::try_from(code).unwrap())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// All bytes to the end, or the code of a reset.
    pub(super) async fn rest(&mut self) -> Result<Vec<u8>, Code> {
        let mut rest = Vec::new();
        loop {
            match self.recv.chunk(usize::MAX).await {
                Ok(Some(chunk)) => rest.extend_from_slice(&chunk),
                Ok(None) => return Ok(rest),
                Err(StreamError::Reset(code)) => return Err(Code::try_from(code).unwrap()),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl End {
    /// The code of an error answer.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Answer(Answer::Error(error)) => Code::of_error(error),
            other => panic!("not an error answer: {other:?}"),
        }
    }
}
