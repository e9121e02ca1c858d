use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::core::simulated::SimExecutor;

/// Fails so many times, then answers; remembers when it was called and with what.
struct Scripted {
    failures: Cell<u32>,
    answer: pb::CheckedIn,
    executor: SimExecutor,
    calls: RefCell<Vec<(Duration, pb::CheckIn)>>,
}

impl Line for Scripted {
    async fn check_in(&self, check_in: pb::CheckIn) -> Result<pb::CheckedIn, CheckInError> {
        self.calls
            .borrow_mut()
            .push((self.executor.elapsed(), check_in));
        if self.failures.get() > 0 {
            self.failures.set(self.failures.get() - 1);
            return Err(CheckInError::Stream(StreamError::Closed));
        }
        Ok(self.answer.clone())
    }

    async fn fetch_filter(&self, _: pb::FetchFilter) -> Result<Vec<u8>, CheckInError> {
        Err(CheckInError::Nonsense)
    }
}

fn answer() -> pb::CheckedIn {
    let key = |epoch| pb::NodeKeys {
        epoch,
        limit_key: vec![1; 32],
        receipt_key: vec![2; 32],
    };
    pb::CheckedIn {
        now_ms: 5_000_000,
        keys: vec![key(7), key(6)],
        reachable: true,
        reason: String::new(),
        observed: "203.0.113.9:40000".to_owned(),
        ..pb::CheckedIn::default()
    }
}

fn config(advertise: Option<&str>) -> Config {
    Config {
        node_id: NodeId::from([1; 32]),
        satellite: format!("{}@127.0.0.1:7777", NodeId::from([2; 32]))
            .parse()
            .unwrap(),
        capacity: "1GB".parse().unwrap(),
        listen: "0.0.0.0:7778".parse().unwrap(),
        advertise: advertise.map(|text| text.parse().unwrap()),
        spinning: None,
    }
}

/// Runs a reporter for some virtual time; gives its calls, its standing, and whether keys arrived.
fn report(
    failures: u32,
    answer: pb::CheckedIn,
    advertise: Option<&'static str>,
    seconds: u64,
) -> (Vec<(Duration, pb::CheckIn)>, Standing, bool) {
    report_with(failures, answer, advertise, seconds, None)
}

/// Something that happens while a node checks in.
type Event = fn(&SimExecutor, &Reports);

/// The same, with something that happens after so many seconds.
fn report_with(
    failures: u32,
    answer: pb::CheckedIn,
    advertise: Option<&'static str>,
    seconds: u64,
    later: Option<(u64, Event)>,
) -> (Vec<(Duration, pb::CheckIn)>, Standing, bool) {
    let executor = SimExecutor::new(1);
    let inner = executor.clone();
    executor.run(async move {
        let config = config(advertise);
        let line = Scripted {
            failures: Cell::new(failures),
            answer,
            executor: inner.clone(),
            calls: RefCell::default(),
        };
        let permission = Permission::new(config.satellite.id, config.node_id);
        let standing = Rc::new(RefCell::default());
        let reports = Rc::new(Reports::default());
        if let Some((later_s, happens)) = later {
            let (reports, executor) = (Rc::clone(&reports), inner.clone());
            inner.spawn(async move {
                executor.sleep(Duration::from_secs(later_s)).await;
                happens(&executor, &reports);
            });
        }
        let reporter = Reporter {
            line: &line,
            config: &config,
            local_address: config.listen,
            started_ms: 77,
            permission: &permission,
            standing: &standing,
            reports: &reports,
            executor: &inner,
            clock: &inner,
        };
        let space = ReportedSpace {
            capacity_bytes: 3,
            used_bytes: 1,
            free_bytes: 2,
        };
        let reporting = reporter.run(|| space, || 0);
        assert_eq!(
            timeout(&inner, Duration::from_secs(seconds), reporting).await,
            None
        );
        (line.calls.take(), standing.take(), permission.has_keys())
    })
}

#[test]
fn a_node_checks_in_at_once_and_every_minute() {
    let (calls, standing, has_keys) = report(0, answer(), None, 130);
    let times: Vec<_> = calls.iter().map(|(time, _)| time.as_secs()).collect();
    assert_eq!(times, [0, 60, 120]);
    assert!(has_keys);
    assert_eq!(standing.reachable, Some(true));
    assert_eq!(
        (
            calls[0].1.capacity_bytes,
            calls[0].1.used_bytes,
            calls[0].1.free_bytes
        ),
        (3, 1, 2)
    );
    assert_eq!(calls[0].1.started_ms, 77);
}

#[test]
fn the_satellite_hears_at_once_that_the_store_is_open() {
    let (calls, ..) = report_with(
        0,
        answer(),
        None,
        70,
        Some((2, |_, reports| reports.opened())),
    );
    let times: Vec<_> = calls.iter().map(|(time, _)| time.as_secs()).collect();
    assert_eq!(times, [0, 2, 62]);
}

#[test]
fn a_corrected_clock_is_believed_and_reported_at_the_next_check_ins() {
    const AHEAD_MS: u64 = 86_400_000;
    let began_ms = SimExecutor::new(1).now_ms();
    let checked_in = pb::CheckedIn {
        now_ms: began_ms + AHEAD_MS,
        ..answer()
    };
    let corrected =
        |executor: &SimExecutor, _: &Reports| executor.set_wall_ahead_ms(AHEAD_MS as i64);
    let (calls, ..) = report_with(0, checked_in, None, 130, Some((30, corrected)));
    let reported: Vec<_> = calls
        .iter()
        .map(|(_, call)| call.now_ms - began_ms)
        .collect();
    assert_eq!(reported, [0, 60_000, AHEAD_MS + 120_000]);
}

#[test]
fn failures_are_retried_with_growing_waits_and_shown() {
    let (calls, standing, has_keys) = report(5, answer(), None, 20);
    let times: Vec<_> = calls.iter().map(|(time, _)| time.as_secs()).collect();
    assert_eq!(times, [0, 1, 3, 7, 15]);
    assert!(!has_keys);
    assert_eq!(standing.failures, 5);
    assert!(standing.reason.contains("broke"), "{}", standing.reason);
    let (_, standing, has_keys) = report(5, answer(), None, 40);
    assert!(has_keys);
    assert_eq!((standing.failures, standing.reason.as_str()), (0, ""));
}

#[test]
fn the_retry_wait_never_exceeds_the_period() {
    let (calls, ..) = report(20, answer(), None, 600);
    let gaps: Vec<_> = calls
        .windows(2)
        .map(|pair| (pair[1].0 - pair[0].0).as_secs())
        .collect();
    assert_eq!(gaps.iter().max(), Some(&60));
}

#[test]
fn an_address_is_advertised_as_told_or_as_seen() {
    let (calls, ..) = report(0, answer(), Some("nas.example.org:9"), 70);
    assert_eq!(calls[0].1.advertise, "nas.example.org:9");
    let (calls, ..) = report(0, answer(), None, 70);
    assert_eq!(calls[0].1.advertise, "", "we cannot know");
    assert_eq!(
        calls[1].1.advertise, "203.0.113.9:7778",
        "seen there, with our port"
    );
}

#[test]
fn keys_of_the_wrong_length_or_none_are_nonsense() {
    let mut short = answer();
    short.keys[1].receipt_key.pop();
    for bad in [
        short,
        pb::CheckedIn {
            keys: Vec::new(),
            ..answer()
        },
    ] {
        let (_, standing, has_keys) = report(0, bad, None, 1);
        assert!(!has_keys);
        assert!(standing.failures > 0);
    }
}

#[test]
fn v4_addresses_are_mapped_for_a_v6_socket() {
    let v4: SocketAddr = "192.0.2.1:5".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::1]:5".parse().unwrap();
    assert_eq!(as_sent_from("0.0.0.0:1".parse().unwrap(), v4), Some(v4));
    assert_eq!(as_sent_from("0.0.0.0:1".parse().unwrap(), v6), None);
    assert_eq!(
        as_sent_from("[::]:1".parse().unwrap(), v4),
        Some("[::ffff:192.0.2.1]:5".parse().unwrap())
    );
    assert_eq!(as_sent_from("[::1]:1".parse().unwrap(), v4), None);
}
