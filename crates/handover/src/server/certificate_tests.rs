//! Certificates beside other values: one commit for all, certificates alone, and what a generation is made of.

use std::path::Path;
use std::time::Duration;

use handover_handoff::Bundle;
use handover_testkit::Workspace;
use handover_testkit::authority::{Authority, Pair as Made};

use super::*;
use crate::prepare::{BindError, Bound, CalledOff, Origin};
use crate::service::{Candidate, Service};
use crate::types::{ChangeKind, ListenerSpec, What};

/// Two values and a certificate between them.
struct Site {
    workspace: Workspace,
    authority: Authority,
    one: Reloadable<String>,
    three: Reloadable<String>,
    certificates: Certificates,
    hosted: Hosted,
}

impl Site {
    fn new() -> Self {
        let (workspace, authority) = (Workspace::new(), Authority::new("test"));
        workspace.write("one", "1");
        workspace.write("three", "3");
        authority.pair(&["first.example"]).write(&workspace, "site");
        let mut server = Server::new("site", "1");
        let text = |name: &'static str| move |files: &mut Prepare| files.read_to_string(Path::new(name));
        let one = server.reloadable("one", text("one"));
        let store = Arc::new(CertificateStore::new());
        let certificates = server.certificates(&store, [Pair::new("site.pem", "site.key")]);
        let three = server.reloadable("three", text("three"));
        let again = certificates.clone();
        server.action("reload_certs", move |call| match call.reload_certificates(&again) {
            Ok(()) => Ok("Successfully reloaded cert".to_owned()),
            Err(error) => Err(format!("could not reload cert: {error}")),
        });
        server.counters().request(500);
        server.watch(Watch { settle: Duration::from_secs(1), ..Watch::default() });
        let hosted = Hosted::new(
            server
                .declare(|cx: Context| async move {
                    cx.draining().await;
                    Ok::<(), String>(())
                })
                .1,
        );
        Self { workspace, authority, one, three, certificates, hosted }
    }

    fn started() -> Self {
        let site = Self::new();
        site.prepare(Origin::default()).unwrap().0.commit();
        site
    }

    fn prepare(&self, origin: Origin) -> Result<(Box<dyn Candidate>, Bundle), Vec<Problem>> {
        let base = self.workspace.root().to_owned();
        let nothing =
            Box::new(|_: &[ListenerSpec]| -> Option<Vec<Result<Bound, BindError>>> { Some(Vec::new()) });
        let mut cx = Prepare::new(2, false, base, origin, CalledOff::default(), nothing);
        let candidate = self.hosted.prepare(&mut cx)?;
        Ok((candidate, cx.into_bundle()))
    }

    /// Certificates anew, all else as it serves.
    fn certificates_only(&self, serving: &Bundle) -> Result<(Box<dyn Candidate>, Bundle), Vec<Problem>> {
        self.prepare(Origin { serving: Some(Arc::new(serving.clone())), ..Origin::default() })
    }

    fn renew(&self, names: &[&str]) -> Made {
        let pair = self.authority.pair(names);
        pair.write(&self.workspace, "site");
        pair
    }

    fn now(&self) -> (String, String, String) {
        let names = self.certificates.serving()[0].names.join(" ");
        (self.one.load().to_string(), names, self.three.load().to_string())
    }
}

fn state(one: &str, names: &str, three: &str) -> (String, String, String) {
    (one.to_owned(), names.to_owned(), three.to_owned())
}

#[test]
fn certificates_that_do_not_fit_keep_every_other_value_back_and_the_other_way_round() {
    let site = Site::started();
    assert_eq!(site.now(), state("1", "first.example", "3"));
    site.workspace.write("one", "new");
    site.workspace.write("three", "new");
    // The certificate is renewed, its key is not yet.
    site.authority.pair(&["second.example"]).write_certificate(&site.workspace, "site");
    let problems = site.prepare(Origin::default()).err().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].detail.contains("site.key does not belong"), "{problems:?}");
    assert_eq!(site.now(), state("1", "first.example", "3"));

    site.renew(&["second.example"]);
    site.workspace.remove("three");
    assert_eq!(site.prepare(Origin::default()).err().unwrap().len(), 1);
    assert_eq!(site.now(), state("1", "first.example", "3"));

    site.workspace.write("three", "newest");
    let (candidate, _) = site.prepare(Origin::default()).unwrap();
    assert_eq!(site.now(), state("1", "first.example", "3"), "nothing is published before the commit");
    let kinds: Vec<_> = candidate.changes().iter().map(|change| (change.what, change.kind)).collect();
    assert!(kinds.contains(&(What::Changed, ChangeKind::Value)), "{kinds:?}");
    assert!(kinds.iter().any(|(_, kind)| *kind == ChangeKind::Certificate), "{kinds:?}");
    candidate.commit();
    assert_eq!(site.now(), state("new", "second.example", "newest"));
}

#[test]
fn certificates_alone_are_read_anew_and_the_generation_keeps_all_other_bytes() {
    let site = Site::started();
    let (_, serving) = site.prepare(Origin::default()).unwrap();
    site.workspace.write("one", "not wanted");
    site.workspace.remove("three");
    site.renew(&["second.example"]);
    let (candidate, bundle) = site.certificates_only(&serving).unwrap();
    assert!(candidate.changes().iter().all(|change| change.kind == ChangeKind::Certificate));
    candidate.commit();
    assert_eq!(site.now(), state("1", "second.example", "3"));
    assert_eq!(&**bundle.get(&site.workspace.path("one")).unwrap(), b"1");
    assert_eq!(&**bundle.get(&site.workspace.path("three")).unwrap(), b"3");
    let key = site.workspace.read("site.key");
    assert_eq!(&**bundle.get(&site.workspace.path("site.key")).unwrap(), key.as_bytes());

    // Going back takes the very bytes of that generation.
    let back = Origin { from: Some(Arc::new(serving)), ..Origin::default() };
    site.prepare(back).unwrap().0.commit();
    assert_eq!(site.now(), state("1", "first.example", "3"));
}

#[test]
fn a_certificate_that_has_expired_is_refused_unless_it_served_before() {
    let site = Site::started();
    site.authority.leaf(&["old.example"]).expired().make().write(&site.workspace, "site");
    let problems = site.prepare(Origin::default()).err().unwrap();
    assert!(problems[0].detail.contains("expired"), "{problems:?}");
    let mut bundle = Bundle::new();
    for name in ["one", "three", "site.pem", "site.key"] {
        let bytes = std::fs::read(site.workspace.path(name)).unwrap();
        bundle.insert(&site.workspace.path(name), bytes.into()).unwrap();
    }
    let (candidate, _) = site.prepare(Origin { from: Some(Arc::new(bundle)), ..Origin::default() }).unwrap();
    assert_eq!(candidate.warnings().len(), 1, "{:?}", candidate.warnings());
    candidate.commit();
    assert_eq!(site.now().1, "old.example");
}

#[test]
fn an_action_reloads_certificates_in_its_own_words() {
    let site = Site::started();
    let act = || {
        let mut files =
            Prepare::stand_alone(1, false, site.workspace.root(), |_| Vec::<Result<Bound, BindError>>::new());
        site.hosted.action("reload_certs", "", &mut files)
    };
    site.renew(&["second.example"]);
    assert_eq!(act(), Ok("Successfully reloaded cert".to_owned()));
    assert_eq!(site.now().1, "second.example");
    site.workspace.remove("site.key");
    let error = act().unwrap_err();
    assert!(error.starts_with("could not reload cert: site.key: "), "{error}");
    assert_eq!(site.now().1, "second.example");
}

#[test]
fn what_a_server_counts_watches_and_presents_is_told_to_who_asks() {
    let site = Site::started();
    assert_eq!(site.hosted.figures().unwrap().errors_5xx, 1);
    assert!(site.hosted.certificates().contains("\"first.example\""), "{}", site.hosted.certificates());
    let (candidate, _) = site.prepare(Origin::default()).unwrap();
    assert_eq!(candidate.watch().unwrap().settle, Duration::from_secs(1));

    let plain = Hosted::new(Server::new("plain", "1").declare(|_| async { Ok::<(), String>(()) }).1);
    assert_eq!((plain.figures(), plain.certificates()), (None, String::new()));
}
