use super::*;

/// The story of a network card without checksum offload: the kernel answers EIO to a train.
#[test]
fn a_train_the_kernel_will_not_split_goes_out_one_by_one_and_so_do_later_ones() {
    let counters = Counters::default();
    let mut datagrams = Datagrams::new(4);
    let udp = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let socket = datagrams.add(Rc::new(udp));
    for (errno, round) in [(Some(libc::EIO), 1), (None, 2)] {
        let outgoing = Outgoing {
            destination: "127.0.0.1:9".parse().unwrap(),
            source_ip: None,
            ecn: 2,
            segment_bytes: Some(1_000),
            payload: vec![7; 2_500],
        };
        let mut entry = datagrams.send(socket, outgoing);
        if let Some(errno) = errno {
            assert_eq!(datagrams.sends[0].vector.iov_len, 2_500);
            entry = datagrams.sent(0, Err(errno), &counters);
        }
        let mut lens = Vec::new();
        while entry.is_some() {
            let len = datagrams.sends[0].vector.iov_len;
            lens.push(len);
            entry = datagrams.sent(0, Ok(len as u32), &counters);
        }
        assert_eq!(lens, [1_000, 1_000, 500]);
        assert_eq!(datagrams.sends_in_flight(), 0);
        assert!(!datagrams.socket(socket).unwrap().has_segmentation);
        let counted = counters.read();
        assert_eq!(
            (counted.datagrams_sent, counted.bytes_sent),
            (3 * round, 2_500 * round)
        );
        assert_eq!((counted.gso_trains_sent, counted.sends_failed), (0, 0));
    }
}

#[test]
fn other_errors_of_a_send_lose_the_datagram_and_free_the_place() {
    let counters = Counters::default();
    let mut datagrams = Datagrams::new(1);
    let udp = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let socket = datagrams.add(Rc::new(udp));
    for round in 1..=3 {
        let outgoing = Outgoing {
            destination: "127.0.0.1:9".parse().unwrap(),
            source_ip: None,
            ecn: 0,
            segment_bytes: None,
            payload: vec![7; 1_400],
        };
        assert!(datagrams.send(socket, outgoing).is_some());
        assert!(datagrams.sent(0, Err(libc::EMSGSIZE), &counters).is_none());
        assert_eq!(
            (datagrams.sends_in_flight(), counters.read().sends_failed),
            (0, round)
        );
    }
}
