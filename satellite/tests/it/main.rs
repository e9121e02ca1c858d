//! Tests of the satellite over real QUIC.
