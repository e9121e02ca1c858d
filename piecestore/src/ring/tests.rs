//! The ring alone, turned by an executor, on real sockets.

use std::net::UdpSocket;
use std::rc::Rc;
use std::time::Duration;

use super::{Outgoing, Ring, RingOptions};
use crate::core::counters::{CoreCounters, Counters};
use crate::core::executor::{Executor, timeout};
use crate::core::gate::Gate;
use crate::core::glommio::{Glommio, spawn_core};
use crate::core::notify::Notify;
use crate::core::runtime::CoreOptions;

/// Runs `test` beside a ring of these sizes; gives what was counted.
fn check<F: Future<Output = ()> + 'static>(
    options: RingOptions,
    test: impl FnOnce(Glommio, Rc<Ring>) -> F + Send + 'static,
) -> CoreCounters {
    let core = spawn_core(CoreOptions::default(), move |executor| async move {
        let counters = Rc::new(Counters::default());
        let ring = Ring::new(options, counters.clone()).unwrap();
        let gate = Gate::new();
        let (turning, bridging) = (gate.enter().unwrap(), gate.enter().unwrap());
        let turned = ring.clone();
        executor.spawn(async move {
            let _pass = turning;
            turned.run(&executor).await;
        });
        let watched = ring.clone();
        executor
            .bridge(ring.eventfd(), ring.wake_flag(), bridging, move || {
                watched.is_closing()
            })
            .unwrap();
        test(executor, ring.clone()).await;
        ring.close();
        gate.close().await;
        Ok(counters.read())
    });
    core.unwrap().join().unwrap().unwrap()
}

/// Takes trains until `count` datagrams have come or nothing does for a while.
async fn take(executor: &Glommio, ring: &Ring, reader: &Notify, count: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    while datagrams.len() < count {
        match ring.try_receive() {
            Some(received) => {
                datagrams.extend(received.datagrams.iter().map(|bytes| bytes.to_vec()));
            }
            None => {
                let wait = Duration::from_secs(10);
                if timeout(executor, wait, reader.notified()).await.is_none() {
                    break;
                }
            }
        }
    }
    datagrams
}

#[test]
fn receives_that_ran_out_of_buffers_go_on_when_these_are_read() {
    let options = RingOptions {
        receive_buffer_count: 4,
        ..RingOptions::default()
    };
    let counters = check(options, |executor, ring| async move {
        let reader = Rc::new(Notify::new());
        ring.set_reader(reader.clone());
        let socket = ring.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = ring.local_address(socket).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for round in 0..5u8 {
            for index in 0..50u8 {
                sender.send_to(&[round, index], address).unwrap();
            }
            // Long enough for the four buffers to fill and the receive to end.
            executor.sleep(Duration::from_millis(20)).await;
            let datagrams = take(&executor, &ring, &reader, 50).await;
            let expected: Vec<_> = (0..50).map(|index| vec![round, index]).collect();
            assert_eq!(datagrams, expected);
        }
        ring.unbind(socket);
    });
    assert_eq!(counters.datagrams_received, 250);
    assert!(counters.receives_starved >= 5, "{counters:?}");
    assert!(counters.receives_armed > counters.receives_starved / 2);
}

#[test]
fn trains_arrive_as_trains_with_their_marks_and_addresses() {
    let counters = check(RingOptions::default(), |executor, ring| async move {
        let reader = Rc::new(Notify::new());
        ring.set_reader(reader.clone());
        let from = ring.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = ring.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let payload: Vec<u8> = (0..45 * 1_452 - 100).map(|at| (at % 251) as u8).collect();
        assert!(ring.send_room() > 0);
        ring.send(
            from,
            Outgoing {
                destination: ring.local_address(to).unwrap(),
                source_ip: None,
                ecn: 2,
                segment_bytes: Some(1_452),
                payload: payload.clone(),
            },
        );
        let mut whole = Vec::new();
        while whole.len() < payload.len() {
            let Some(received) = ring.try_receive() else {
                let wait = Duration::from_secs(10);
                timeout(&executor, wait, reader.notified()).await.unwrap();
                continue;
            };
            assert_eq!((received.socket, received.ecn), (to, 2));
            assert_eq!(received.remote, ring.local_address(from).unwrap());
            assert_eq!(received.local_ip, Some("127.0.0.1".parse().unwrap()));
            for datagram in received.datagrams {
                // One that is kept keeps no memory of the others.
                assert!(datagram.len() <= 1_452 && datagram.capacity() <= 2 * 1_452);
                whole.extend_from_slice(&datagram);
            }
        }
        assert!(whole == payload);
        assert!(ring.has_segmentation(from));
    });
    assert_eq!(
        (counters.gso_trains_sent, counters.gso_datagrams_sent),
        (1, 45)
    );
    assert_eq!(
        (counters.datagrams_sent, counters.datagrams_received),
        (45, 45)
    );
    assert!(counters.trains_received <= 2, "{counters:?}");
}

#[test]
fn a_closed_socket_receives_nothing_and_its_place_is_used_again() {
    check(RingOptions::default(), |executor, ring| async move {
        let reader = Rc::new(Notify::new());
        ring.set_reader(reader.clone());
        for _ in 0..20 {
            let socket = ring.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = ring.local_address(socket).unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(b"one", address).unwrap();
            assert_eq!(take(&executor, &ring, &reader, 1).await, [b"one"]);
            ring.unbind(socket);
            assert_eq!(ring.local_address(socket), None);
            // The address is free once the kernel has let go of the receive.
            let mut again = UdpSocket::bind(address);
            for _ in 0..1_000 {
                if again.is_ok() {
                    break;
                }
                executor.sleep(Duration::from_millis(1)).await;
                again = UdpSocket::bind(address);
            }
            again.unwrap();
            assert!(socket.0 < 2, "places are not reused: {socket:?}");
        }
    });
}

/// The kernel may raise its flag for deferred work after it was done; nothing lowers it until there is more.
#[test]
fn a_flag_that_stays_raised_leaves_others_their_turn() {
    let (tell, told) = std::sync::mpsc::channel();
    // In a thread of its own, because a core that never comes back cannot be waited for.
    let core = std::thread::spawn(move || {
        let counters = check(RingOptions::default(), |executor, ring| async move {
            ring.look(|state| state.danger_flag_stays = true);
            let (reader, sender) = (
                Rc::new(Notify::new()),
                UdpSocket::bind("127.0.0.1:0").unwrap(),
            );
            ring.set_reader(reader.clone());
            let socket = ring.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = ring.local_address(socket).unwrap();
            for round in 0..5u8 {
                executor.sleep(Duration::from_millis(5)).await;
                sender.send_to(&[round], address).unwrap();
                assert_eq!(take(&executor, &ring, &reader, 1).await, [[round]]);
            }
            ring.unbind(socket);
        });
        tell.send(counters.datagrams_received).unwrap();
    });
    assert_eq!(
        told.recv_timeout(Duration::from_secs(60)),
        Ok(5),
        "the core hangs"
    );
    core.join().unwrap();
}
