//! Who may do what, and that every endpoint is described.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::http::Request;
use handover_api::{Kind, Operation, Refused};
use handover_handoff::peer::Peer;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::{driver, soon};
use crate::control::role::Visitor;
use crate::control::server::{App, router};
use crate::control::{Role, description};
use crate::handle::{Command, DriverHandle};
use crate::journal::now;

/// What somebody with this uid and these groups is answered.
async fn ask_as(handle: DriverHandle, uid: u32, groups: &[u32], method: &str, path: &str) -> (u16, String) {
    let visitor = Visitor::made_up(Peer { pid: 0, uid, gid: groups[0] }, groups);
    let router = router(App::new(handle, 500)).layer(Extension(Arc::new(visitor)));
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = TowerToHyperService::new(router).call(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_change_that_is_not_permitted_is_403_with_a_reason_and_in_the_journal() {
    let (mut driver, handle) = driver();
    driver.settings.send_modify(|settings| settings.roles.read.groups = vec![77]);
    let asked = tokio::spawn(ask_as(handle, 1000, &[1000, 77], "POST", "/v1/reload"));
    let Command::Refuse(new, why, reply) = driver.next().await else { panic!() };
    assert_eq!(new.actor.uid, Some(1000));
    assert!(matches!(why, Refused::Forbidden { .. }));
    let operation = Operation::running("x", Kind::Reload, new.actor.clone(), now()).refused(&why, Some(1));
    reply.send(operation).unwrap();
    let (status, body) = soon("the answer", asked).await.unwrap();
    assert_eq!(status, 403);
    assert_eq!(body, "not permitted: uid 1000 has the role read, and reload needs operate\n");
}

#[tokio::test]
async fn each_endpoint_asks_for_its_role() {
    let table = [
        ("GET", "/v1/status", Role::Read),
        ("GET", "/v1/history", Role::Read),
        ("GET", "/v1/generations", Role::Read),
        ("GET", "/v1/generations/1", Role::Read),
        ("GET", "/v1/operations/a", Role::Read),
        ("GET", "/v1/connections", Role::Read),
        ("GET", "/v1/certificates", Role::Read),
        ("GET", "/v1/events", Role::Read),
        ("GET", "/metrics", Role::Read),
        ("GET", "/openapi.json", Role::Read),
        ("GET", "/", Role::Read),
        ("GET", "/v1/diff", Role::Operate),
        ("GET", "/v1/config", Role::Operate),
        ("POST", "/v1/validate", Role::Operate),
        ("POST", "/v1/reload", Role::Operate),
        ("POST", "/v1/confirm", Role::Operate),
        ("POST", "/v1/cancel", Role::Operate),
        ("POST", "/v1/rollback", Role::Operate),
        ("POST", "/v1/drain", Role::Operate),
        ("POST", "/v1/resume", Role::Operate),
        ("POST", "/v1/actions/a", Role::Operate),
        ("GET", "/v1/programs", Role::Read),
        ("GET", "/v1/programs/a", Role::Read),
        ("GET", "/v1/programs/a/logs", Role::Read),
        ("POST", "/v1/programs/a/start", Role::Operate),
        ("POST", "/v1/programs/a/stop", Role::Operate),
        ("POST", "/v1/programs/a/restart", Role::Operate),
        ("POST", "/v1/programs/a/reload", Role::Operate),
        ("POST", "/v1/programs/a/deploy?slot=b", Role::Operate),
        ("POST", "/v1/programs/a/deploy?directory=/b", Role::Admin),
        ("POST", "/v1/programs/a/rollback", Role::Operate),
        ("POST", "/v1/programs/a/confirm", Role::Operate),
        ("POST", "/v1/programs/a/cancel", Role::Operate),
        ("POST", "/v1/pause?name=a", Role::Operate),
        ("POST", "/v1/resume?name=a", Role::Operate),
        ("POST", "/v1/endpoints/a/drain", Role::Operate),
        ("POST", "/v1/endpoints/a/enable", Role::Operate),
        ("POST", "/v1/stop", Role::Admin),
        ("POST", "/v1/upgrade", Role::Admin),
        ("POST", "/v1/rollback?binary", Role::Admin),
        ("GET", "/v1/backup", Role::Admin),
        ("POST", "/v1/restore", Role::Admin),
    ];
    for (method, path, needs) in table {
        for has in [Role::None, Role::Read, Role::Operate, Role::Admin] {
            let (driver, handle) = driver();
            driver.settings.send_modify(|settings| {
                let grant = match has {
                    Role::None => return,
                    Role::Read => &mut settings.roles.read,
                    Role::Operate => &mut settings.roles.operate,
                    Role::Admin => &mut settings.roles.admin,
                };
                grant.users = vec![1000];
            });
            // Without a driver, whoever gets past the check is told 503 (or 200, where none is asked).
            drop(driver.commands);
            let asked = ask_as(handle, 1000, &[1000], method, path);
            let status = if path == "/v1/events" && has >= needs {
                continue;
            } else {
                soon("the answer", asked).await.0
            };
            assert_eq!(status == 403, has < needs, "{has} asks {method} {path}: {status}");
        }
    }
}

/// Run with `UPDATE_GOLDEN=1` to write the file anew.
#[test]
fn docs_openapi_json_is_what_the_server_describes() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, description()).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == description(),
        "docs/openapi.json is not what the server describes: UPDATE_GOLDEN=1 cargo test -p handover-supervisor openapi"
    );
}

/// A route that is served and not described, or described and not served, is found by asking for all.
#[tokio::test]
async fn every_described_endpoint_is_served_and_has_a_description() {
    let description: serde_json::Value = serde_json::from_str(&description()).unwrap();
    let paths = description["paths"].as_object().unwrap();
    assert!(paths.len() >= 38, "{}", paths.len());
    for (path, methods) in paths {
        for (method, endpoint) in methods.as_object().unwrap() {
            assert!(!endpoint["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path}");
            let (driver, handle) = driver();
            drop(driver.commands);
            let path = path.replace("{number}", "1").replace("{id}", "a").replace("{name}", "a");
            let method = method.to_uppercase();
            let asked = ask_as(handle, 0, &[0], &method, &path);
            if path == "/v1/events" {
                continue;
            }
            let (status, body) = soon("the answer", asked).await;
            // A restore is refused before a driver is asked: what was sent is no archive.
            let expected = match path.as_str() {
                "/v1/restore" => vec![422],
                // It does not say what is to be paused.
                "/v1/pause" => vec![400],
                _ => vec![503, 200],
            };
            assert!(expected.contains(&status), "{method} {path}: {status} {body}");
        }
    }
}
