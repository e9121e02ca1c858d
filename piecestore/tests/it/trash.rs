//! `piecestore restore-trash` against a running node.

use crate::world::{Process, Satellite, block_on, eventually, run, set_up, status};

#[test]
fn the_owner_asks_for_the_trash_and_is_told_how_much_came_back() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, _) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let dir_text = dir.to_str().unwrap();
        let refused = run(&["restore-trash", "--dir", dir_text]);
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.stderr.contains("is not running"),
            "{}",
            refused.stderr
        );
        let _process = Process::start(&[&dir], &[]);
        eventually("a check-in", async || {
            (status(&dir)["standing"]["reachable"] == true).then_some(())
        })
        .await;
        // What it does to a store is tested beside the collector; here, that question and answer find each other.
        let json = run(&["restore-trash", "--json", "--dir", dir_text]);
        assert_eq!(json.stdout.trim(), r#"{"restored":0}"#, "{}", json.stderr);
        let for_people = run(&["restore-trash", "--dir", dir_text]);
        assert_eq!(for_people.stdout, "0 pieces came back from the trash\n");
    });
}
