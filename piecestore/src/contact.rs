//! A node's side of all that it has to do with its satellite: the tasks that check in, and collect what is announced.
//!
//! [`check_in`](crate::check_in) and [`gc`](crate::gc) say what these do; here they are begun and told to end, whatever disk, clock and network the node
//! is on. A node checks in from its first moment on, and collects from the moment when its store is open.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::future;
use strand_blob::{Disk, Store};

use crate::admin::Board;
use crate::check_in::{EndpointLine, ReportedSpace, Reporter, Standing};
use crate::config::Config;
use crate::core::Notify;
use crate::core::executor::{Clock, Executor};
use crate::gc::{Collector, Reports};
use crate::limits::OPENING_GRACE;
use crate::serving::Serving;

/// See the module's head.
#[derive(Debug)]
pub struct Contact {
    config: Config,
    board: Arc<Board>,
    standing: Rc<RefCell<Standing>>,
    reports: Rc<Reports>,
    stop_check_in: Rc<Notify>,
    stop_collector: Rc<Notify>,
}

impl Contact {
    /// Nothing is begun yet. On the board the owner asks to have the trash back.
    #[must_use]
    pub fn new(config: Config, board: Arc<Board>) -> Self {
        Self {
            config,
            board,
            standing: Rc::default(),
            reports: Rc::default(),
            stop_check_in: Rc::default(),
            stop_collector: Rc::default(),
        }
    }

    /// Checks in until [`stop`](Self::stop). `random` keeps nodes from marching in step.
    pub fn begin_check_ins<D: Disk, E: Executor + Clock>(
        &self,
        serving: &Serving<D, E>,
        random: impl Fn() -> u8 + 'static,
    ) {
        let Some(pass) = serving.tasks().enter() else {
            return;
        };
        let config = self.config.clone();
        let executor = serving.executor().clone();
        let permission = Rc::clone(serving.service().permission());
        let standing = Rc::clone(&self.standing);
        let local_address = serving.endpoint().local_addr();
        let line = self.line(serving);
        let (service, opening) = (Rc::clone(serving.service()), Rc::clone(serving.opening()));
        let reports = Rc::clone(&self.reports);
        let stop = Rc::clone(&self.stop_check_in);
        let started_ms = serving.started_ms();
        serving.executor().spawn(async move {
            let _pass = pass;
            let reporter = Reporter {
                line: &line,
                config: &config,
                local_address,
                started_ms,
                permission: &permission,
                standing: &standing,
                reports: &reports,
                executor: &executor,
                clock: &executor,
            };
            let space = || match service.store() {
                Some(store) => {
                    let space = store.space();
                    ReportedSpace {
                        capacity_bytes: space.capacity_bytes,
                        used_bytes: space.file_bytes,
                        free_bytes: store.room_bytes(),
                    }
                }
                // Nothing is put here meanwhile.
                None => ReportedSpace {
                    capacity_bytes: config.capacity.bytes(),
                    used_bytes: opening.bytes_total(),
                    free_bytes: 0,
                },
            };
            let reporting = async {
                // Most stores are open by then, and the first check-in has their figures.
                future::or(executor.sleep(OPENING_GRACE), reports.until_opened()).await;
                reporter.run(space, random).await;
            };
            future::or(reporting, stop.notified()).await;
        });
    }

    /// The store is open: says so, and collects garbage until [`stop`](Self::stop).
    pub fn begin_collecting<D: Disk, E: Executor + Clock>(
        &self,
        serving: &Serving<D, E>,
        store: Rc<Store<D>>,
    ) {
        self.reports.opened();
        let Some(pass) = serving.tasks().enter() else {
            return;
        };
        let (node, satellite) = (self.config.node_id, self.config.satellite.id);
        let executor = serving.executor().clone();
        let permission = Rc::clone(serving.service().permission());
        let line = self.line(serving);
        let (reports, board) = (Rc::clone(&self.reports), Arc::clone(&self.board));
        let stop = Rc::clone(&self.stop_collector);
        serving.executor().spawn(async move {
            let _pass = pass;
            let collector = Collector {
                node,
                satellite,
                store: &store,
                line: &line,
                permission: &permission,
                reports: &reports,
                board: &board,
                executor: &executor,
            };
            future::or(collector.run(), stop.notified()).await;
        });
    }

    /// Tells both to end.
    pub fn stop(&self) {
        self.stop_check_in.notify();
        self.stop_collector.notify();
    }

    /// What is known of the node's standing.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// What the satellite is to be told.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    fn line<D: Disk, E: Executor + Clock>(&self, serving: &Serving<D, E>) -> EndpointLine<E> {
        let satellite = &self.config.satellite;
        EndpointLine::new(
            serving.endpoint().clone(),
            serving.executor().clone(),
            satellite.id,
            satellite.address.clone(),
        )
    }
}
