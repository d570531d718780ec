//! Certificates that stand in `tls/` of every world: made once, good for as long as the tests run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use handover_testkit::authority::DAY;
use handover_testkit::{Authority, KeyType, Pair};
use std::time::SystemTime;

/// Everything by its file name.
static FILES: LazyLock<BTreeMap<String, Arc<[u8]>>> = LazyLock::new(|| {
    let root = Authority::new("Test Root");
    let mut files = BTreeMap::new();
    let mut put = |name: &str, text: &str| {
        files.insert(name.to_owned(), Arc::from(text.as_bytes()));
    };
    put("ca.pem", root.pem());
    put("internal-ca.pem", root.pem());
    put("other-ca.pem", Authority::new("Other Root").pem());
    for domain in ["example.org", "example.com", "example.net"] {
        let pair = root.pair(&[domain, &format!("*.{domain}")]);
        put(&format!("{domain}.pem"), &pair.certificate());
        put(&format!("{domain}.key"), &pair.key);
        put(&format!("{domain}.both.pem"), &format!("{}{}", pair.certificate(), pair.key));
        let renewed =
            root.leaf(&[domain, &format!("*.{domain}")]).not_after(SystemTime::now() + DAY * 365).make();
        put(&format!("{domain}.renewed.pem"), &renewed.certificate());
        put(&format!("{domain}.renewed.key"), &renewed.key);
    }
    let mut pair = |name: &str, pair: Pair| {
        put(&format!("{name}.pem"), &pair.certificate());
        put(&format!("{name}.key"), &pair.key);
    };
    pair("rsa", root.leaf(&["example.org", "*.example.org"]).key_type(KeyType::Rsa2048).make());
    pair("expired", root.leaf(&["old.example"]).expired().make());
    pair("client", root.leaf(&["client"]).client().make());
    put("empty.pem", "");
    put("text.pem", "hello\n");
    put("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n");
    files
});

/// The file at a path below `tls/`, if there is one.
pub(super) fn file(path: &Path) -> Option<Arc<[u8]>> {
    let name = path.strip_prefix(super::BASE).ok()?.strip_prefix("tls").ok()?.to_str()?;
    FILES.get(name).cloned()
}
