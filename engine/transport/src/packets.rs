//! Who protects packets: the assembly of aws-lc, or our own kernel, of which a call costs less.
//!
//! What is sent is the same. Which of them takes less time depends on the generation of the CPU (a packet is short, so what a call costs
//! before its first byte counts as much as how wide the vectors are), so the first connection of a process lets both race for some hundred
//! microseconds. Where our kernel does not run, or `STRAND_LEVEL` forbids it, there is nothing to decide.

#[cfg(target_arch = "x86_64")]
mod own;

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};

/// Who protects packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketProtection {
    /// aws-lc.
    AwsLc,
    /// Our own kernel.
    #[cfg(target_arch = "x86_64")]
    Own(strand_codec::Vaes),
}

impl PacketProtection {
    /// The one that is faster on this machine.
    #[cfg(target_arch = "x86_64")]
    pub fn fastest() -> Self {
        static FASTEST: std::sync::OnceLock<PacketProtection> = std::sync::OnceLock::new();
        *FASTEST.get_or_init(|| match strand_codec::Vaes::of_process() {
            Some(vaes) if own::wins(vaes) => Self::Own(vaes),
            _ => Self::AwsLc,
        })
    }

    /// The one that there is.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn fastest() -> Self {
        Self::AwsLc
    }

    /// The suites to offer, the best first.
    pub(crate) fn suites(self) -> Vec<SupportedCipherSuite> {
        let suites = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
        let suites = suites.map(|suite| match self {
            Self::AwsLc => suite,
            #[cfg(target_arch = "x86_64")]
            Self::Own(vaes) => own::suite(vaes, suite),
        });
        [&suites[..], &[TLS13_CHACHA20_POLY1305_SHA256]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_the_same_whoever_protects_packets() {
        let names = |protection: PacketProtection| {
            let suites = protection.suites();
            suites.iter().map(|suite| suite.suite()).collect::<Vec<_>>()
        };
        let theirs = names(PacketProtection::AwsLc);
        assert_eq!(theirs.len(), 3);
        assert_eq!(names(PacketProtection::fastest()), theirs);
    }
}
