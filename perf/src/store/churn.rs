//! A store in which pieces come and go: puts, as many deletes of pieces at random, and gets among them, at a steady pace.
//!
//! Of nine operations four put, four delete and one gets. What is in a store is kept between two runs over it, so that
//! the same pieces are there with compaction and without.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use piecestore::core::executor::Executor;
use piecestore::core::{CoreExecutor, Gate};
use piecestore::disk::CoreDisk;
use piecestore::upkeep::Upkeep;
use strand_blob::{GetError, PutError, Store, Traffic};
use strand_protocol::NodeId;

use super::drive::{Load, Session, quantile};
use super::work::Work;
use crate::random::Random;

/// Operations in a row, and the puts among them; there are as many deletes.
const ROW: u64 = 9;
const ROW_PUTS: u64 = 4;

/// Callers: more than operations that a store at half its pace has under way.
const CALLERS: usize = 160;

/// Pause of a caller whose put found no room, and how often it tries.
const FULL_PAUSE: Duration = Duration::from_millis(5);
const FULL_TRIES_MAX: u32 = 2_000;

/// Which pieces are there, by number.
#[derive(Debug)]
pub(super) struct Stock {
    live: Vec<u64>,
    /// By number: whether its delete was begun.
    is_gone: Vec<bool>,
    random: Random,
}

/// How the pieces come and go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Churn {
    /// As many are deleted.
    pub(super) puts_per_second: f64,
    pub(super) seconds: f64,
    /// Ends the run early.
    pub(super) puts_max: u64,
    /// Whether the store is compacted meanwhile, as a node does it, and afterwards as far as it would go.
    pub(super) is_compacting: bool,
    /// Longest time for the latter.
    pub(super) settle_max: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Churned {
    pub(super) put_p99_us: f64,
    pub(super) get_p99_us: f64,
    pub(super) puts: u64,
    pub(super) deletes: u64,
    /// While the load ran.
    pub(super) seconds: f64,
    /// Compaction without load.
    pub(super) settle_seconds: f64,
    /// By the store, from the first operation to the end of compaction.
    pub(super) written_bytes: u64,
    /// Bodies of deleted pieces that are still on disk.
    pub(super) dead_bytes: u64,
    pub(super) index_bytes: u64,
}

struct Run {
    store: Rc<Store<CoreDisk<CoreExecutor>>>,
    executor: CoreExecutor,
    work: Arc<Work>,
    stock: RefCell<Stock>,
    puts: Cell<u64>,
    deletes: Cell<u64>,
    put_us: RefCell<Vec<f32>>,
    get_us: RefCell<Vec<f32>>,
}

impl Stock {
    /// The pieces `0..count`.
    pub(super) fn new(count: u64) -> Self {
        Self {
            live: (0..count).collect(),
            is_gone: vec![false; count as usize],
            random: Random::new(count, "churn"),
        }
    }

    fn number_of_new(&mut self) -> u64 {
        self.is_gone.push(false);
        self.is_gone.len() as u64 - 1
    }

    fn any(&mut self) -> u64 {
        self.live[self.random.below(self.live.len())]
    }

    fn take_any(&mut self) -> u64 {
        let at = self.random.below(self.live.len());
        let number = self.live.swap_remove(at);
        self.is_gone[number as usize] = true;
        number
    }
}

impl Churn {
    fn load(&self) -> Load {
        let per_put = ROW as f64 / ROW_PUTS as f64;
        let puts = (self.puts_per_second * self.seconds).min(self.puts_max as f64);
        Load {
            callers: CALLERS,
            count: (puts * per_put).ceil() as u64,
            limit: Duration::from_secs_f64(self.seconds),
            is_timed: false,
            per_second: Some(self.puts_per_second * per_put),
        }
    }
}

impl Session {
    /// Lets pieces come and go; the stock afterwards.
    pub(super) async fn churn(
        &self,
        work: &Arc<Work>,
        stock: Stock,
        churn: Churn,
    ) -> Result<(Churned, Stock)> {
        let run = Rc::new(Run {
            store: Rc::clone(self.store()),
            executor: self.executor(),
            work: Arc::clone(work),
            stock: RefCell::new(stock),
            puts: Cell::new(0),
            deletes: Cell::new(0),
            put_us: RefCell::default(),
            get_us: RefCell::default(),
        });
        let written_before = run.store.counters().bytes_written;
        let upkeep = Gate::new();
        let is_over = Rc::new(Cell::new(false));
        if churn.is_compacting
            && let Some(pass) = upkeep.enter()
        {
            let (run, is_over) = (Rc::clone(&run), Rc::clone(&is_over));
            self.executor().spawn(async move {
                let _pass = pass;
                run.compact_until(&is_over).await;
            });
        }
        let loaded = Rc::clone(&run);
        let load = self.side_by_side(churn.load(), move |number| {
            let run = Rc::clone(&loaded);
            async move { run.operate(number).await }
        });
        let load = load.await;
        is_over.set(true);
        upkeep.close().await;
        let seconds = load?.seconds;
        let settling = Instant::now();
        if churn.is_compacting {
            let now_s = work.now_s();
            while settling.elapsed() < churn.settle_max
                && run.store.compact_in(Traffic::Quiet, now_s).await?.is_some()
            {}
        }
        let counters = run.store.counters();
        let churned = Churned {
            put_p99_us: quantile(&run.put_us.borrow(), 0.99),
            get_p99_us: quantile(&run.get_us.borrow(), 0.99),
            puts: run.puts.get(),
            deletes: run.deletes.get(),
            seconds,
            settle_seconds: settling.elapsed().as_secs_f64(),
            written_bytes: counters.bytes_written - written_before,
            dead_bytes: run.store.space().dead_bytes,
            index_bytes: counters.index_bytes,
        };
        let stock = run.stock.replace(Stock::new(0));
        ensure!(
            counters.pieces == stock.live.len() as u64,
            "{} pieces are there, not {}",
            counters.pieces,
            stock.live.len()
        );
        Ok((churned, stock))
    }
}

impl Run {
    async fn operate(&self, number: u64) -> Result<()> {
        let at = number % ROW;
        if at == ROW - 1 {
            self.get().await
        } else if at.is_multiple_of(2) {
            self.put().await
        } else {
            self.delete().await
        }
    }

    async fn put(&self) -> Result<()> {
        let number = self.stock.borrow_mut().number_of_new();
        let asked = Instant::now();
        let mut tries = 0;
        loop {
            match self.store.put(self.work.piece(number)).await {
                Ok(_) => break,
                Err(PutError::Full) if tries < FULL_TRIES_MAX => {
                    tries += 1;
                    self.executor.sleep(FULL_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let latency_us = asked.elapsed().as_secs_f32() * 1e6;
        self.put_us.borrow_mut().push(latency_us);
        self.puts.set(self.puts.get() + 1);
        self.stock.borrow_mut().live.push(number);
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        let number = self.stock.borrow_mut().take_any();
        let (satellite, id) = self.work.key(number);
        let was_there = self
            .store
            .delete(&satellite, &id, self.work.now_s())
            .await?;
        ensure!(was_there, "piece {number} was not there to be deleted");
        self.deletes.set(self.deletes.get() + 1);
        Ok(())
    }

    async fn get(&self) -> Result<()> {
        let number = self.stock.borrow_mut().any();
        let (satellite, id) = self.work.key(number);
        let asked = Instant::now();
        let got = match self.store.piece(&satellite, &id, 0).await {
            Ok(piece) => {
                let shares = 0..piece.share_count();
                self.store.read_shares(&piece, shares).await
            }
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) => {
                let latency_us = asked.elapsed().as_secs_f32() * 1e6;
                self.get_us.borrow_mut().push(latency_us);
                let is_right = bytes == self.work.body(number);
                ensure!(is_right, "piece {number} is not what was put");
            }
            // Somebody's delete came first.
            Err(GetError::NotFound) if self.stock.borrow().is_gone[number as usize] => {}
            Err(error) => bail!("piece {number}: {error}"),
        }
        Ok(())
    }

    async fn compact_until(&self, is_over: &Cell<bool>) {
        let mut upkeep = Upkeep::new(NodeId::from([0; 32]), self.executor.now());
        while !is_over.get() {
            let work = upkeep.work(&self.store, self.work.now_s(), &self.executor);
            let Some(pause) = work.await else { return };
            self.executor.sleep(pause).await;
        }
    }
}
