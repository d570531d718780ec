//! Backup and restore over the control socket.

use handover_handoff::Bundle;

use super::*;
use crate::archive::{self, Keys};
use crate::handle::{BackupParts, Carried, Terms};

const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

fn parts(key: &std::path::Path) -> BackupParts {
    let mut bundle = Bundle::new();
    bundle.insert_top(std::path::Path::new("/etc/site/site.toml"), Arc::from(&b"a = 1\n"[..])).unwrap();
    bundle.insert(key, Arc::from(KEY)).unwrap();
    BackupParts {
        name: "handover".to_owned(),
        version: "0.0.0".to_owned(),
        generation: status().generation.unwrap(),
        bundle,
        carried: Some(Carried(Arc::from(&b"ticket keys"[..]))),
        history: Vec::new(),
    }
}

async fn taken(server: &mut Server, target: &str, parts: &BackupParts) -> Answer {
    let answer = server.ask(Call::get(target));
    let Command::Backup(reply) = server.driver.next().await else { panic!() };
    reply.send(Some(Box::new(parts.clone()))).unwrap();
    answer.await.unwrap()
}

#[tokio::test]
async fn a_backup_that_is_sent_back_is_restored_to_the_very_same_bytes() {
    let mut server = server();
    let parts = parts(std::path::Path::new("/etc/site/site.key"));
    let backup = taken(&mut server, "/v1/backup", &parts).await;
    assert_eq!((backup.status, backup.content_type.as_str()), (200, "application/zstd"));
    assert_eq!(backup.etag.as_deref(), Some("\"1\""));
    for (target, dry) in [("/v1/restore", false), ("/v1/restore?dry_run", true)] {
        let answer = server.ask(Call::post(target).body(backup.body.clone()));
        let (new, operation, done) = server.driver.admit().await;
        let Ask::Restore { restored, dry_run, terms } = &new.ask else { panic!("{:?}", new.ask) };
        assert_eq!((*dry_run, *terms), (dry, Terms::default()));
        assert_eq!((&restored.bundle, &restored.carried), (&parts.bundle, &parts.carried));
        assert!(restored.source.starts_with("the backup of generation 1, made "), "{}", restored.source);
        assert!(restored.notes.is_empty());
        done.send(applied(operation)).unwrap();
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn without_keys_nothing_secret_leaves_and_the_key_on_disk_is_taken() {
    let mut server = server();
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("site.key");
    let parts = parts(&key);
    let backup = taken(&mut server, "/v1/backup?without_keys", &parts).await;
    let archive = archive::read(&backup.body[..]).unwrap();
    assert_eq!((archive.manifest.keys, archive.manifest.carried.is_some()), (Keys::LeftOut, false));
    assert!(archive.files().all(|(_, bytes)| !archive::has_private_key(bytes)));

    let answer = server.ask(Call::post("/v1/restore").body(backup.body.clone()));
    let Command::Refuse(_, why, reply) = server.driver.next().await else { panic!() };
    assert!(why.to_string().contains("was made without private keys, and "), "{why}");
    let refused = Operation::running("x", Kind::Restore, handover_api::Actor::supervisor(), now());
    reply.send(refused.refused(&why, Some(1))).unwrap();
    assert_eq!(answer.await.unwrap().status, 422);

    std::fs::write(&key, KEY).unwrap();
    let answer = server.ask(Call::post("/v1/restore").body(backup.body.clone()));
    let (new, operation, done) = server.driver.admit().await;
    let Ask::Restore { restored, .. } = &new.ask else { panic!("{:?}", new.ask) };
    assert_eq!((&restored.bundle, &restored.carried), (&parts.bundle, &None));
    assert_eq!(restored.notes.len(), 1);
    assert!(restored.notes[0].detail.contains("the one on disk, the same"), "{}", restored.notes[0]);
    done.send(applied(operation)).unwrap();
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_no_archive_is_refused_and_written_into_the_history() {
    let mut server = server();
    for (body, says) in [
        (&b"not one"[..], "this is no backup of handover: it does not begin like one"),
        (
            b"age-encryption.org/v1\n-> scrypt",
            "this backup is encrypted: 'handover restore FILE' asks for its passphrase",
        ),
        (b"\x28\xb5\x2f\xfd", "the backup is cut short or damaged: "),
    ] {
        let answer = server.ask(text(Call::post("/v1/restore").body(body)));
        let Command::Refuse(new, why, reply) = server.driver.next().await else { panic!() };
        assert!(matches!((&new.ask, &why), (Ask::Restore { .. }, Refused::Archive(_))), "{new:?}");
        let operation = Operation::running("x", Kind::Restore, new.actor.clone(), now());
        reply.send(operation.refused(&why, Some(1))).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 422);
        assert!(answer.text().starts_with(says), "{}", answer.text());
    }
}

#[tokio::test]
async fn nothing_that_serves_gives_no_backup() {
    let mut server = server();
    let answer = server.ask(text(Call::get("/v1/backup")));
    let Command::Backup(reply) = server.driver.next().await else { panic!() };
    reply.send(None).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (409, "the server has not started yet\n"));
}

#[tokio::test]
async fn one_archive_is_transferred_at_a_time() {
    let mut server = server();
    let first = server.ask(Call::get("/v1/backup"));
    let Command::Backup(held) = server.driver.next().await else { panic!() };
    for call in [Call::get("/v1/backup"), Call::post("/v1/restore").body(&b"x"[..])] {
        let answer = server.ask(call).await.unwrap();
        assert_eq!((answer.status, answer.problem().unwrap().kind.as_str()), (409, "busy"));
    }
    held.send(Some(Box::new(parts(std::path::Path::new("/k"))))).unwrap();
    assert_eq!(first.await.unwrap().status, 200);
}
