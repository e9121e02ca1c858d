//! The disk of a process that is killed: a real one that ends the process at a named point, or that lies.
//!
//! The lies are controls: with them something that was acknowledged must get lost, or kills and power cuts prove nothing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use piecestore::core::CoreExecutor;
use piecestore::core::executor::Executor;
use piecestore::disk::CoreDisk;
use strand_blob::{BlobId, Disk, DiskError, FailedWrite, FileId, Gather, IoBuffer, WriteOperation};

use crate::part;

use super::points::{Asked, Phase, Point, operation};

/// How far behind its answers a hasty disk writes.
const HASTE: Duration = Duration::from_millis(20);

/// How often a reader looks whether a hasty disk has written.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// What a disk says that is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Lie {
    /// Durable writes are answered before they are begun: a kill loses some.
    Hasty,
    /// Nothing is ever synced: a power cut loses it.
    Unsynced,
}

impl Lie {
    /// As the process is told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hasty => "hasty",
            Self::Unsynced => "unsynced",
        }
    }
}

/// See the module's head. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct WardDisk {
    inner: CoreDisk<CoreExecutor>,
    executor: CoreExecutor,
    point: Option<Point>,
    lie: Option<Lie>,
    shared: Rc<Shared>,
}

#[derive(Default)]
pub(crate) struct Shared {
    /// What upkeep does.
    pub(crate) phase: Cell<Phase>,
    /// Whether the store is open.
    pub(crate) is_open: Cell<bool>,
    /// How often the point was passed.
    passed: Cell<u64>,
    /// Writes that were answered and have not ended.
    owed: Cell<usize>,
}

impl WardDisk {
    pub(crate) fn new(
        inner: CoreDisk<CoreExecutor>,
        executor: CoreExecutor,
        point: Option<Point>,
        lie: Option<Lie>,
    ) -> (Self, Rc<Shared>) {
        let shared = Rc::<Shared>::default();
        let disk = Self {
            inner,
            executor,
            point,
            lie,
            shared: Rc::clone(&shared),
        };
        (disk, shared)
    }

    /// Asks the disk, with a point before and one after.
    async fn at<T>(&self, asked: Asked, file: FileId, answer: impl Future<Output = T>) -> T {
        let pass = |is_after| {
            let name = operation(
                asked,
                file,
                self.shared.phase.get(),
                !self.shared.is_open.get(),
            );
            if let (Some(point), Some(name)) = (self.point, name)
                && let Some(passes) = point.passes_at(name, is_after)
            {
                let passed = self.shared.passed.get();
                self.shared.passed.set(passed + 1);
                if passed == passes {
                    part::kill_self();
                }
            }
        };
        pass(false);
        let answer = answer.await;
        pass(true);
        answer
    }

    /// Until a hasty disk has written what it said it had.
    async fn settle(&self) {
        while self.shared.owed.get() > 0 {
            self.executor.sleep(LOOK_PERIOD).await;
        }
    }

    fn owe(&self, file: WardFile, offset: u64, bytes: Gather) {
        self.shared.owed.set(self.shared.owed.get() + 1);
        let disk = self.clone();
        self.executor.spawn(async move {
            disk.executor.sleep(HASTE).await;
            if let Err(error) = disk.inner.write_durably(&file.inner, offset, bytes).await {
                eprintln!("a hasty disk could not write: {error:?}");
            }
            disk.shared.owed.set(disk.shared.owed.get() - 1);
        });
    }
}

/// An open file, and which.
#[derive(Clone)]
pub(crate) struct WardFile {
    id: FileId,
    inner: <CoreDisk<CoreExecutor> as Disk>::File,
}

impl Disk for WardDisk {
    type File = WardFile;

    async fn list(&self) -> Result<Vec<(BlobId, u64)>, DiskError> {
        self.inner.list().await
    }

    async fn list_checkpoints(&self) -> Result<Vec<u64>, DiskError> {
        self.inner.list_checkpoints().await
    }

    async fn create(&self, id: impl Into<FileId>) -> Result<WardFile, DiskError> {
        let id = id.into();
        let inner = self.at(Asked::Create, id, self.inner.create(id)).await?;
        Ok(WardFile { id, inner })
    }

    async fn open(&self, id: impl Into<FileId>) -> Result<WardFile, DiskError> {
        let id = id.into();
        let inner = self.inner.open(id).await?;
        Ok(WardFile { id, inner })
    }

    async fn read(
        &self,
        file: &WardFile,
        offset: u64,
        buffer: IoBuffer,
    ) -> (Result<usize, DiskError>, IoBuffer) {
        self.settle().await;
        self.inner.read(&file.inner, offset, buffer).await
    }

    fn look<T>(
        &self,
        file: &WardFile,
        file_len: u64,
        offset: u64,
        len: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        self.inner.look(&file.inner, file_len, offset, len, look)
    }

    fn bring_to_memory(&self, file: &WardFile, file_len: u64, offset: u64, len: usize) {
        self.inner
            .bring_to_memory(&file.inner, file_len, offset, len);
    }

    async fn write(
        &self,
        file: &WardFile,
        offset: u64,
        buffer: IoBuffer,
        len: usize,
    ) -> (Result<(), DiskError>, IoBuffer) {
        let asked = Asked::Write(first_bytes(&buffer));
        let writing = self.inner.write(&file.inner, offset, buffer, len);
        self.at(asked, file.id, writing).await
    }

    async fn write_durably(
        &self,
        file: &WardFile,
        offset: u64,
        bytes: Gather,
    ) -> Result<(), FailedWrite> {
        let asked = Asked::Write(first_bytes(bytes.runs()[0]));
        match self.lie {
            None => {
                let writing = self.inner.write_durably(&file.inner, offset, bytes);
                self.at(asked, file.id, writing).await
            }
            Some(Lie::Hasty) => {
                self.owe(file.clone(), offset, bytes);
                Ok(())
            }
            Some(Lie::Unsynced) => {
                let all = bytes.runs().concat();
                let mut buffer = IoBuffer::zeroed(all.len());
                buffer.copy_from_slice(&all);
                let writing = self.inner.write(&file.inner, offset, buffer, all.len());
                let failed = |error| FailedWrite {
                    operation: WriteOperation::Write,
                    error,
                };
                writing.await.0.map_err(failed)
            }
        }
    }

    async fn sync(&self, file: &WardFile) -> Result<(), DiskError> {
        self.settle().await;
        if self.lie == Some(Lie::Unsynced) {
            return Ok(());
        }
        self.at(Asked::Sync, file.id, self.inner.sync(&file.inner))
            .await
    }

    async fn named_len(&self, file: &WardFile) -> Result<Option<u64>, DiskError> {
        self.settle().await;
        self.inner.named_len(&file.inner).await
    }

    async fn remove(&self, id: impl Into<FileId>) -> Result<(), DiskError> {
        self.settle().await;
        let id = id.into();
        self.at(Asked::Remove, id, self.inner.remove(id)).await
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.inner.free_bytes()
    }
}

fn first_bytes(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk().copied().unwrap_or_default()
}
