//! The choke point: every verb passes it, and each needs exactly what docs/wire.md says.

use std::collections::BTreeSet;

use strand_protocol::pb::satellite_request::Verb;
use strand_protocol::pb::satellite_response::Answer;
use strand_protocol::{
    Caveat, Code, Macaroon, Names, Operation, Operations, ProjectId, SatelliteKeys, Scheme,
    StreamId, pb,
};
use strand_transport::{Dialer, Identity};

use super::{Peer, answer};
use crate::clock;
use crate::core::address::Reach;
use crate::core::row::{BucketRow, MacaroonSecret, PendingObjectRow, ProjectRow};
use crate::state::Satellite;
use crate::store::{MetaStore, RedbStore};

const SECRET: [u8; 32] = [4; 32];
const KEY_ID: [u8; 16] = [3; 16];
const STREAM: [u8; 16] = [6; 16];
const BUCKET: &str = "bucket";

struct Fixture {
    satellite: Satellite<RedbStore>,
    peer: Peer,
    _dir: tempfile::TempDir,
}

fn project_id(number: u8) -> ProjectId {
    [number; 16].into()
}

/// A satellite with two projects, a bucket and an upload in the first.
async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&dir.path().join("meta.redb"), &[0; 32], true).unwrap();
    for (number, secret) in [(1, SECRET), (2, [5; 32])] {
        let project = ProjectRow {
            id: project_id(number),
            name: "photos".to_owned(),
            salt: [2; 32],
            secrets: vec![MacaroonSecret {
                key_id: KEY_ID,
                secret,
            }],
            check_value: Vec::new(),
            created_ms: 5,
        };
        store.create_project(project).await.unwrap();
    }
    let bucket = BucketRow {
        name: BUCKET.to_owned(),
        names: Names::Plain,
        created_ms: 6,
    };
    store.create_bucket(project_id(1), bucket).await.unwrap();
    let upload = PendingObjectRow {
        project: project_id(1),
        bucket: BUCKET.to_owned(),
        encrypted_key: b"in/upload".to_vec(),
        scheme: Scheme::DEFAULT,
        created_ms: clock::now_ms(),
        expires_ms: 0,
        committed: None,
    };
    store.begin_object(STREAM.into(), upload).await.unwrap();
    let satellite = Satellite::new(
        Dialer::new(Identity::generate()).unwrap(),
        "127.0.0.1:1".to_owned(),
        SatelliteKeys::new([9; 32]),
        None,
        Reach::Public,
        store,
    );
    let peer = Peer {
        id: [7; 32].into(),
        address: "127.0.0.1:9".parse().unwrap(),
    };
    Fixture {
        satellite: satellite.await.unwrap(),
        peer,
        _dir: dir,
    }
}

impl Fixture {
    /// The code of the answer; `Ok` if it is no error.
    async fn ask(&self, macaroon: &[u8], verb: Verb) -> Code {
        let request = pb::SatelliteRequest {
            macaroon: macaroon.to_vec(),
            verb: Some(verb),
        };
        match answer(&self.satellite, &self.peer, request).await {
            Ok(_) => Code::Ok,
            Err(refusal) => refusal.code,
        }
    }
}

fn root(project: u8, secret: &[u8; 32]) -> Macaroon {
    Macaroon::mint(secret, project_id(project), KEY_ID)
}

fn with(caveats: &[Caveat]) -> Vec<u8> {
    let root = root(1, &SECRET);
    let narrowed = caveats
        .iter()
        .fold(root, |macaroon, caveat| macaroon.attenuate(caveat).unwrap());
    narrowed.as_bytes().to_vec()
}

/// What a verb needs, as docs/wire.md has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    OwnKey,
    /// An operation, on a bucket or not, on a key or not.
    Macaroon {
        operation: Operation,
        bucket: bool,
        key: bool,
    },
}

const fn needs(operation: Operation, bucket: bool, key: bool) -> Needs {
    Needs::Macaroon {
        operation,
        bucket,
        key,
    }
}

/// One request of each verb and what it needs. `count_of_verbs` makes sure that none is missing.
fn verbs() -> Vec<(Verb, Needs)> {
    let bucket = || BUCKET.to_owned();
    let key = || b"in/key".to_vec();
    let stream_id = || STREAM.to_vec();
    let read = needs(Operation::Read, true, true);
    let write = needs(Operation::Write, true, true);
    vec![
        (Verb::Ping(pb::Ping {}), Needs::Nothing),
        (Verb::CheckIn(pb::CheckIn::default()), Needs::OwnKey),
        (Verb::FetchFilter(pb::FetchFilter::default()), Needs::OwnKey),
        (
            Verb::GetProject(pb::GetProject {}),
            needs(Operation::Any, false, false),
        ),
        (
            Verb::SetCheckValue(pb::SetCheckValue::default()),
            needs(Operation::Write, false, false),
        ),
        (
            Verb::CreateBucket(pb::CreateBucket {
                name: bucket(),
                name_mode: 0,
            }),
            needs(Operation::Write, true, false),
        ),
        (
            Verb::DeleteBucket(pb::DeleteBucket { name: bucket() }),
            needs(Operation::Delete, true, false),
        ),
        (
            Verb::ListBuckets(pb::ListBuckets {}),
            needs(Operation::List, false, false),
        ),
        (
            Verb::GetBucket(pb::GetBucket { name: bucket() }),
            needs(Operation::Any, true, false),
        ),
        (
            Verb::BeginObject(pb::BeginObject {
                bucket: bucket(),
                encrypted_key: key(),
                expires_ms: 0,
            }),
            write,
        ),
        (
            Verb::BeginSegment(pb::BeginSegment {
                stream_id: stream_id(),
                ..Default::default()
            }),
            write,
        ),
        (
            Verb::ReplacePieces(pb::ReplacePieces {
                stream_id: stream_id(),
                ..Default::default()
            }),
            write,
        ),
        (
            Verb::CommitSegment(pb::CommitSegment {
                stream_id: stream_id(),
                ..Default::default()
            }),
            write,
        ),
        (
            Verb::InlineSegment(pb::InlineSegment {
                stream_id: stream_id(),
                ..Default::default()
            }),
            write,
        ),
        (
            Verb::CommitObject(pb::CommitObject {
                stream_id: stream_id(),
                ..Default::default()
            }),
            write,
        ),
        (
            Verb::AbortObject(pb::AbortObject {
                stream_id: stream_id(),
            }),
            write,
        ),
        (
            Verb::GetObject(pb::GetObject {
                bucket: bucket(),
                encrypted_key: key(),
                header_only: false,
            }),
            read,
        ),
        (
            Verb::GetSegment(pb::GetSegment {
                bucket: bucket(),
                encrypted_key: key(),
                ..Default::default()
            }),
            read,
        ),
        (
            Verb::ListObjects(pb::ListObjects {
                bucket: bucket(),
                prefix: b"in/".to_vec(),
                ..Default::default()
            }),
            needs(Operation::List, true, true),
        ),
        (
            Verb::DeleteObject(pb::DeleteObject {
                bucket: bucket(),
                encrypted_key: key(),
            }),
            needs(Operation::Delete, true, true),
        ),
    ]
}

/// A number for each verb, and how many there are. No wildcard: a new verb must be added here.
fn number_of(verb: &Verb) -> (u32, usize) {
    let number = match verb {
        Verb::GetProject(_) => 0,
        Verb::SetCheckValue(_) => 1,
        Verb::CreateBucket(_) => 2,
        Verb::DeleteBucket(_) => 3,
        Verb::ListBuckets(_) => 4,
        Verb::GetBucket(_) => 5,
        Verb::BeginObject(_) => 6,
        Verb::BeginSegment(_) => 7,
        Verb::ReplacePieces(_) => 8,
        Verb::CommitSegment(_) => 9,
        Verb::InlineSegment(_) => 10,
        Verb::CommitObject(_) => 11,
        Verb::GetObject(_) => 12,
        Verb::GetSegment(_) => 13,
        Verb::ListObjects(_) => 14,
        Verb::DeleteObject(_) => 15,
        Verb::CheckIn(_) => 16,
        Verb::Ping(_) => 17,
        Verb::AbortObject(_) => 18,
        Verb::FetchFilter(_) => 19,
    };
    (number, 20)
}

#[test]
fn the_table_has_every_verb() {
    let numbers: BTreeSet<u32> = verbs().iter().map(|(verb, _)| number_of(verb).0).collect();
    assert_eq!(numbers.len(), number_of(&verbs()[0].0).1);
}

#[tokio::test]
async fn without_a_genuine_macaroon_every_verb_is_denied() {
    let fixture = fixture().await;
    let forged = [
        Vec::new(),
        b"not a macaroon".to_vec(),
        root(1, &[8; 32]).as_bytes().to_vec(),
        // Another project's secret, an unknown project, an unknown key.
        root(1, &[5; 32]).as_bytes().to_vec(),
        root(9, &SECRET).as_bytes().to_vec(),
        Macaroon::mint(&SECRET, project_id(1), [0; 16])
            .as_bytes()
            .to_vec(),
    ];
    for (verb, needs) in verbs() {
        for macaroon in &forged {
            let code = fixture.ask(macaroon, verb.clone()).await;
            let is_denied = code == Code::Denied;
            assert_eq!(
                is_denied,
                matches!(needs, Needs::Macaroon { .. }),
                "{verb:?}: {code}"
            );
        }
    }
}

#[tokio::test]
async fn each_verb_needs_its_operation_and_no_other() {
    for granted in [
        Operation::Read,
        Operation::Write,
        Operation::List,
        Operation::Delete,
    ] {
        let operations = match granted {
            Operation::Read => Operations::READ,
            Operation::Write => Operations::WRITE,
            Operation::List => Operations::LIST,
            _ => Operations::DELETE,
        };
        let macaroon = with(&[Caveat::Operations(operations)]);
        // Verbs that are allowed change things, so each granted operation has a new satellite.
        let fixture = fixture().await;
        for (verb, needs) in verbs() {
            let is_allowed = match needs {
                Needs::Nothing | Needs::OwnKey => true,
                Needs::Macaroon { operation, .. } => {
                    operation == Operation::Any || operation == granted
                }
            };
            let code = fixture.ask(&macaroon, verb.clone()).await;
            assert_eq!(
                code != Code::Denied,
                is_allowed,
                "{granted:?}: {verb:?}: {code}"
            );
        }
    }
}

#[tokio::test]
async fn buckets_and_prefixes_confine_every_verb() {
    let fixture = fixture().await;
    let other_bucket = with(&[Caveat::Buckets(vec!["other".to_owned()])]);
    let other_prefix = with(&[Caveat::Prefixes(vec![(
        BUCKET.to_owned(),
        b"out/".to_vec(),
    )])]);
    let this_prefix = with(&[Caveat::Prefixes(vec![(BUCKET.to_owned(), b"in/".to_vec())])]);
    for (verb, needs) in verbs() {
        let Needs::Macaroon {
            operation,
            bucket,
            key,
        } = needs
        else {
            continue;
        };
        let is_any = operation == Operation::Any;
        let code = fixture.ask(&other_bucket, verb.clone()).await;
        assert_eq!(
            code != Code::Denied,
            is_any && !bucket,
            "other bucket: {verb:?}: {code}"
        );
        let code = fixture.ask(&other_prefix, verb.clone()).await;
        assert_eq!(
            code != Code::Denied,
            is_any,
            "other prefix: {verb:?}: {code}"
        );
        let code = fixture.ask(&this_prefix, verb.clone()).await;
        assert_eq!(
            code != Code::Denied,
            is_any || key,
            "this prefix: {verb:?}: {code}"
        );
    }
}

#[tokio::test]
async fn time_limits_hold_for_every_verb() {
    let fixture = fixture().await;
    let now_ms = clock::now_ms();
    for caveat in [
        Caveat::NotAfter(now_ms - 60_000),
        Caveat::NotBefore(now_ms + 60_000),
    ] {
        let macaroon = with(&[caveat]);
        for (verb, needs) in verbs() {
            let code = fixture.ask(&macaroon, verb.clone()).await;
            let is_denied = code == Code::Denied;
            assert_eq!(
                is_denied,
                matches!(needs, Needs::Macaroon { .. }),
                "{verb:?}: {code}"
            );
        }
    }
    // Objects that never expire are not for a macaroon that limits their life.
    let short = with(&[Caveat::MaxObjectTtl(1_000_000)]);
    for (verb, needs) in verbs() {
        let is_object_write = needs == self::needs(Operation::Write, true, true);
        let code = fixture.ask(&short, verb.clone()).await;
        // AbortObject and its like stop at the choke point as well.
        assert_eq!(code == Code::Denied, is_object_write, "{verb:?}: {code}");
    }
}

#[tokio::test]
async fn an_upload_of_another_project_does_not_exist() {
    let fixture = fixture().await;
    let stranger = root(2, &[5; 32]).as_bytes().to_vec();
    let own = with(&[]);
    for (verb, _) in verbs() {
        let missing = |stream_id: Vec<u8>| match verb.clone() {
            Verb::BeginSegment(r) => Some(Verb::BeginSegment(pb::BeginSegment { stream_id, ..r })),
            Verb::ReplacePieces(r) => {
                Some(Verb::ReplacePieces(pb::ReplacePieces { stream_id, ..r }))
            }
            Verb::CommitSegment(r) => {
                Some(Verb::CommitSegment(pb::CommitSegment { stream_id, ..r }))
            }
            Verb::InlineSegment(r) => {
                Some(Verb::InlineSegment(pb::InlineSegment { stream_id, ..r }))
            }
            Verb::CommitObject(r) => Some(Verb::CommitObject(pb::CommitObject { stream_id, ..r })),
            Verb::AbortObject(_) => Some(Verb::AbortObject(pb::AbortObject { stream_id })),
            _ => None,
        };
        let Some(to_ours) = missing(STREAM.to_vec()) else {
            continue;
        };
        assert_eq!(
            fixture.ask(&stranger, to_ours).await,
            Code::NotFound,
            "{verb:?}"
        );
        let nowhere = missing(vec![1; 16]).unwrap();
        assert_eq!(fixture.ask(&own, nowhere).await, Code::NotFound, "{verb:?}");
        let short = missing(vec![1; 15]).unwrap();
        assert_eq!(fixture.ask(&own, short).await, Code::BadRequest, "{verb:?}");
    }
    let upload = fixture
        .satellite
        .store
        .upload(StreamId::from(STREAM))
        .await
        .unwrap();
    assert!(upload.is_some(), "nobody aborted it");
}

#[tokio::test]
async fn an_unknown_verb_is_unsupported() {
    let fixture = fixture().await;
    let request = pb::SatelliteRequest {
        macaroon: Vec::new(),
        verb: None,
    };
    let refusal = answer(&fixture.satellite, &fixture.peer, request)
        .await
        .unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported);
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let fixture = fixture().await;
    let macaroon = with(&[]);
    for name in ["", "ab", "Bucket", "-bucket", "a".repeat(64).as_str()] {
        let create = Verb::CreateBucket(pb::CreateBucket {
            name: name.to_owned(),
            name_mode: 0,
        });
        assert_eq!(
            fixture.ask(&macaroon, create).await,
            Code::BadRequest,
            "{name}"
        );
    }
    let mode = Verb::CreateBucket(pb::CreateBucket {
        name: "fine".to_owned(),
        name_mode: 7,
    });
    assert_eq!(fixture.ask(&macaroon, mode).await, Code::BadRequest);
    let begin = |encrypted_key: Vec<u8>| {
        let bucket = BUCKET.to_owned();
        Verb::BeginObject(pb::BeginObject {
            bucket,
            encrypted_key,
            expires_ms: 0,
        })
    };
    assert_eq!(
        fixture.ask(&macaroon, begin(Vec::new())).await,
        Code::BadRequest
    );
    assert_eq!(
        fixture.ask(&macaroon, begin(b"a\0b".to_vec())).await,
        Code::BadRequest
    );
    assert_eq!(
        fixture.ask(&macaroon, begin(vec![b'a'; 4_001])).await,
        Code::TooLarge
    );
    let past = pb::BeginObject {
        bucket: BUCKET.to_owned(),
        encrypted_key: b"k".to_vec(),
        expires_ms: 1,
    };
    assert_eq!(
        fixture.ask(&macaroon, Verb::BeginObject(past)).await,
        Code::BadRequest
    );
    let list = |prefix: &[u8], after: Vec<u8>| {
        Verb::ListObjects(pb::ListObjects {
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_vec(),
            after,
            ..Default::default()
        })
    };
    assert_eq!(
        fixture.ask(&macaroon, list(b"half", Vec::new())).await,
        Code::BadRequest
    );
    assert_eq!(
        fixture.ask(&macaroon, list(b"", vec![1; 5_000])).await,
        Code::TooLarge
    );
    assert_eq!(
        fixture.ask(&macaroon, list(b"whole/", Vec::new())).await,
        Code::Ok
    );
}

#[tokio::test]
async fn an_upload_needs_nodes_and_says_how_many() {
    let fixture = fixture().await;
    let begin = pb::BeginObject {
        bucket: BUCKET.to_owned(),
        encrypted_key: b"k".to_vec(),
        expires_ms: 0,
    };
    let request = pb::SatelliteRequest {
        macaroon: with(&[]),
        verb: Some(Verb::BeginObject(begin)),
    };
    let refusal = answer(&fixture.satellite, &fixture.peer, request)
        .await
        .unwrap_err();
    assert_eq!(refusal.code, Code::NoNodes);
    assert!(
        refusal.message.contains("1 needed") && refusal.message.contains("0 found"),
        "{refusal}"
    );
    assert!(refusal.retry_after_ms > 0);
}

#[tokio::test]
async fn nobody_points_a_public_satellite_at_its_own_network() {
    let fixture = fixture().await;
    for advertise in [
        "127.0.0.1:7777",
        "10.0.0.1:1",
        "[::1]:5",
        "169.254.169.254:80",
        "",
    ] {
        let check_in = Verb::CheckIn(pb::CheckIn {
            advertise: advertise.to_owned(),
            now_ms: clock::now_ms(),
            ..Default::default()
        });
        let request = pb::SatelliteRequest {
            macaroon: Vec::new(),
            verb: Some(check_in),
        };
        let answer = answer(&fixture.satellite, &fixture.peer, request)
            .await
            .unwrap();
        let Answer::CheckedIn(checked_in) = answer else {
            panic!("{answer:?}")
        };
        assert!(!checked_in.reachable, "{advertise}");
        assert!(
            checked_in.reason.contains("public internet"),
            "{}",
            checked_in.reason
        );
        // Keys are given all the same: they are worth nothing without limits.
        assert_eq!(checked_in.keys.len(), 2);
    }
}
