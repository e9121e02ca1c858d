//! What a store needs when nobody asks anything of it: compaction, now and then and never at full speed.
//!
//! After each compacted blob the task rests as long as the work took, so that at most half of the disk's time goes into it; it
//! rests long when there is nothing to do. Pieces expire by the satellite's time, known from a check-in: a node whose own clock is far
//! off drops nothing.

use std::time::Duration;

use strand_blob::{Disk, PutError, Store};
use strand_protocol::NodeId;

use crate::core::executor::{Clock, Executor};
use crate::limits::UPKEEP_PAUSE;
use crate::permission::Permission;

/// Compacts whenever it is worth it, until dropped or the store takes no more writes.
pub(crate) async fn run<D: Disk, E: Executor + Clock>(
    node: NodeId,
    store: &Store<D>,
    permission: &Permission,
    executor: &E,
) {
    loop {
        let begun = executor.now();
        let pause = match store
            .compact(permission.expiry_time_s(executor.now_ms()))
            .await
        {
            Ok(Some(done)) => {
                tracing::info!(%node, removed_bytes = done.removed_bytes, moved_bytes = done.moved_bytes, "compacted a blob");
                for (satellite, id) in &done.lost {
                    let (satellite, id) = (NodeId::from(*satellite), NodeId::from(*id));
                    tracing::error!(%node, %satellite, piece = %id, "a piece is damaged; it is lost to this node");
                }
                executor.now().saturating_duration_since(begun)
            }
            Ok(None) => UPKEEP_PAUSE,
            Err(PutError::Closed | PutError::ReadOnly) => return,
            Err(error) => {
                tracing::warn!(%node, %error, "cannot compact now");
                UPKEEP_PAUSE
            }
        };
        executor.sleep(pause.max(PAUSE_MIN)).await;
    }
}

/// Lets others run, however quick a compaction was.
const PAUSE_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bytes::Bytes;
    use strand_blob::disk::sim::SimDisk;
    use strand_blob::{NewPiece, StoreOptions};

    use super::*;
    use crate::core::simulated::SimExecutor;
    use crate::permission::EpochKeys;

    const NODE: [u8; 32] = [2; 32];
    const SATELLITE: [u8; 32] = [1; 32];

    async fn store(disk: SimDisk, executor: &SimExecutor) -> Rc<Store<SimDisk>> {
        let mut options = StoreOptions::new(NODE, 1 << 30);
        options.blob_records_max = 4;
        let opened = Store::open(disk, options, 0, &mut |bytes: &mut [u8]| bytes.fill(7)).await;
        let (store, _) = opened.unwrap();
        executor.spawn(Rc::clone(&store).run_commits());
        store
    }

    fn piece(key: u8, expiry_s: u32) -> NewPiece {
        let body = vec![key; 9_000];
        NewPiece {
            satellite: SATELLITE,
            id: [key; 32],
            created_s: 0,
            expiry_s,
            root: blake3_of(&body),
            body: vec![Bytes::from(body)],
            share_hashes: Vec::new(),
            path: Vec::new(),
            commitment: [0; 32],
        }
    }

    fn blake3_of(body: &[u8]) -> [u8; 32] {
        let mut hasher = strand_codec::PieceHasher::new(body.len() as u64);
        hasher.push_share(body);
        hasher.finish().root
    }

    fn permission(executor: &SimExecutor, satellite_ahead_ms: u64) -> Rc<Permission> {
        let permission = Permission::new(NodeId::from(SATELLITE), NodeId::from(NODE));
        let keys = EpochKeys {
            epoch: 1,
            limit_key: [1; 32].into(),
            receipt_key: [1; 32].into(),
        };
        let now_ms = executor.now_ms();
        permission.update(vec![keys], now_ms + satellite_ahead_ms, now_ms);
        permission
    }

    #[test]
    fn dead_blobs_leave_the_disk_by_themselves() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let disk = SimDisk::new(1);
            let store = store(disk.clone(), &inner).await;
            for key in 0..9 {
                store.put(piece(key, 0)).await.unwrap();
            }
            for key in 0..4 {
                assert_eq!(store.delete(&SATELLITE, &[key; 32], 0).await, Ok(true));
            }
            let (working, waiting) = (Rc::clone(&store), inner.clone());
            let permission = permission(&inner, 0);
            inner.spawn(async move {
                run(NodeId::from(NODE), &working, &permission, &waiting).await;
            });
            inner.sleep(UPKEEP_PAUSE).await;
            assert_eq!(store.counters().blobs_removed, 1);
            assert_eq!(store.space().dead_bytes, 0);
            for key in 4..9 {
                assert!(store.piece(&SATELLITE, &[key; 32], 0).await.is_ok());
            }
        });
    }

    #[test]
    fn pieces_expire_by_satellite_time_and_only_if_it_is_near_ours() {
        let executor = SimExecutor::new(1);
        let inner = executor.clone();
        executor.run(async move {
            let now_ms = inner.now_ms();
            let near = permission(&inner, 60_000);
            assert_eq!(
                u64::from(near.expiry_time_s(now_ms)),
                (now_ms + 60_000) / 1000
            );
            let far = permission(&inner, 601_000);
            assert_eq!(far.expiry_time_s(now_ms), 0);
            let unknown = Permission::new(NodeId::from(SATELLITE), NodeId::from(NODE));
            assert_eq!(unknown.expiry_time_s(now_ms), 0);
        });
    }
}
