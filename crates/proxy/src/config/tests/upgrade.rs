//! Which binaries an upgrade may run: what is written, what becomes of it, and what is told when it changes.

use super::super::*;
use super::{good, with_route};

const DIGEST: &str = "1A2B3C4D5E6F0718293A4B5C6D7E8F901A2B3C4D5E6F0718293A4B5C6D7E8F90";
const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

fn rules(text: &str) -> Config {
    good(&(with_route("service = \"app\"") + text)).config
}

#[test]
fn without_a_table_or_with_an_empty_one_there_are_no_rules() {
    assert_eq!(rules("").upgrade, Upgrade::default());
    assert_eq!(rules("[upgrade]\n").upgrade, Upgrade::default());
}

#[test]
fn rules_are_whole_paths_numbers_and_digests_in_small_letters() {
    let config = rules(&format!(
        "[upgrade]\ndirectories = [\"/usr/bin\", \"bin\"]\nowner = 7\nsha256 = \"{DIGEST}\"\npublic_key = \" {KEY}\\n\"\n"
    ));
    assert_eq!(
        config.upgrade,
        Upgrade {
            directories: vec!["/usr/bin".into(), "/etc/handover/bin".into()],
            owner: Some(7),
            sha256: Some(DIGEST.to_lowercase()),
            public_key: Some(KEY.to_owned()),
        }
    );
}

#[test]
fn a_changed_rule_is_told() {
    let old = rules("[upgrade]\ndirectories = \"/usr/bin\"\n");
    let new = rules(&format!("[upgrade]\nowner = 0\npublic_key = \"{KEY}\"\n"));
    let lines: Vec<String> = diff(&old, &new).iter().map(handover_api::Change::line).collect();
    assert_eq!(
        lines,
        [
            "changed setting upgrade.directories: /usr/bin → any".to_owned(),
            "changed setting upgrade.owner: default → 0".to_owned(),
            format!("changed setting upgrade.public_key: none → {KEY}"),
        ]
    );
}
