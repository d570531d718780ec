//! Every number, size and time has bounds; both of them are accepted, and nothing beyond.

use super::{LISTENER, World, good, said};

/// A key, the least and the greatest value it takes, and one below and one above.
const BOUNDED: &[(&str, &str, &str, &str, &str)] = &[
    // table.key, below, least, greatest, above
    ("listeners.web.backlog", "0", "1", "65535", "65536"),
    ("listeners.web.limits.connections", "0", "1", "1_000_000", "1_000_001"),
    ("listeners.web.limits.header_bytes", "1023", "\"1 KiB\"", "\"64 KiB\"", "65537"),
    ("listeners.web.limits.headers", "0", "1", "128", "129"),
    ("listeners.web.limits.target_bytes", "63", "64", "\"64 KiB\"", "\"66 kB\""),
    ("listeners.web.limits.body_bytes", "-1", "0", "\"1024 TiB\"", "\"1025 TiB\""),
    ("listeners.web.timeouts.header", "\"99ms\"", "\"100ms\"", "\"5m\"", "\"5m 1ms\""),
    ("listeners.web.timeouts.idle", "\"99ms\"", "\"100ms\"", "\"1d\"", "\"1d 1ms\""),
    ("listeners.web.timeouts.body", "\"99ms\"", "\"100ms\"", "\"1d\"", "\"1d 1ms\""),
    ("listeners.web.timeouts.tunnel", "\"999ms\"", "\"1s\"", "\"30d\"", "\"31d\""),
    ("services.app.connect_timeout", "\"9ms\"", "\"10ms\"", "\"5m\"", "\"301s\""),
    ("services.app.response_timeout", "\"0s\"", "\"100ms\"", "\"24h\"", "\"25h\""),
    ("services.app.keep_alive.idle", "-1", "0", "100_000", "100_001"),
    ("services.app.keep_alive.idle_timeout", "\"99ms\"", "\"100ms\"", "\"1d\"", "\"2d\""),
    ("control.history", "9", "10", "1_000_000", "1_000_001"),
    ("control.generations", "0", "1", "1000", "1001"),
    ("tickets.rotate", "\"59s\"", "\"1m\"", "\"7d\"", "\"7d 1s\""),
    ("tickets.keep", "-1", "0", "16", "17"),
    ("watch.settle", "\"9ms\"", "\"10ms\"", "\"1m\"", "\"61s\""),
    ("watch.retry", "\"999ms\"", "\"1s\"", "\"1h\"", "\"61m\""),
    ("watch.poll", "\"999ms\"", "\"1s\"", "\"1h\"", "\"61m\""),
    ("guard.watch", "\"999ms\"", "\"1s\"", "\"10m\"", "\"11m\""),
    ("guard.requests", "0", "1", "1_000_000", "1_000_001"),
    ("guard.errors_5xx", "\"0%\"", "\"0.01%\"", "\"100%\"", "\"100.01%\""),
    ("guard.connect_failures", "\"0%\"", "\"0.01%\"", "\"100%\"", "\"101%\""),
    ("guard.handshake_failures", "\"0%\"", "\"0.01%\"", "\"100%\"", "\"101%\""),
    ("drain.timeout", "\"-1s\"", "\"0s\"", "\"1d\"", "\"1441m\""),
    ("program.job.backlog", "0", "1", "65535", "65536"),
    ("program.job.fd", "2", "3", "1000", "1001"),
    ("program.job.copies", "0", "1", "1000", "1001"),
    ("program.job.ready_timeout", "\"99ms\"", "\"100ms\"", "\"1h\"", "\"61m\""),
    ("program.job.settle", "\"-1s\"", "\"0s\"", "\"1h\"", "\"61m\""),
    ("program.job.warm", "\"-1s\"", "\"0s\"", "\"30d\"", "\"31d\""),
    ("program.job.batch", "0", "1", "1000", "1001"),
    ("program.job.max_unhealthy", "-1", "0", "999", "1001"),
    ("program.job.max_held", "0", "1", "10_000_000", "10_000_001"),
    ("program.job.pause_timeout", "\"99ms\"", "\"100ms\"", "\"1h\"", "\"61m\""),
    ("program.job.idle", "\"999ms\"", "\"1s\"", "\"30d\"", "\"31d\""),
    ("program.job.max_processes", "0", "1", "100_000", "100_001"),
    ("program.job.max_per_second", "0", "1", "100_000", "100_001"),
    ("program.job.limits.nofile", "15", "16", "1_073_741_816", "1_073_741_817"),
    ("program.job.limits.memory", "1_048_575", "\"1 MiB\"", "\"1024 TiB\"", "\"1025 TiB\""),
    ("program.job.limits.cpu", "\"0%\"", "\"1%\"", "\"1000000%\"", "\"1000001%\""),
    ("program.job.limits.processes", "0", "1", "4_194_304", "4_194_305"),
    ("program.job.hook.timeout", "\"99ms\"", "\"100ms\"", "\"1h\"", "\"61m\""),
    ("program.job.ready.status", "99", "100", "599", "600"),
    ("program.job.ready.timeout", "\"99ms\"", "\"100ms\"", "\"1h\"", "\"61m\""),
    ("program.job.ready.after", "\"-1s\"", "\"0s\"", "\"1h\"", "\"61m\""),
    ("program.job.reload.timeout", "\"99ms\"", "\"100ms\"", "\"1h\"", "\"61m\""),
    ("program.job.stop.timeout", "\"-1s\"", "\"0s\"", "\"1d\"", "\"25h\""),
    ("program.job.restart.first", "\"9ms\"", "\"10ms\"", "\"1h\"", "\"61m\""),
    ("program.job.restart.longest", "\"9ms\"", "\"10ms\"", "\"1d\"", "\"25h\""),
    ("program.job.restart.reset", "\"99ms\"", "\"100ms\"", "\"1d\"", "\"25h\""),
];

fn text(key: &str, value: &str) -> String {
    let mut text = format!(
        "{key} = {value}\nlisteners.web.address = \"127.0.0.1:1\"\nservices.app.endpoints = \"127.0.0.1:2\"\n"
    );
    if let Some(key) = key.strip_prefix("program.job.") {
        for line in beside(key) {
            text.push_str(&format!("program.job.{line}\n"));
        }
        text.push_str("program.job.command = \"true\"\n");
    }
    text.push_str("[[routes]]\nservice = \"app\"\n");
    if key == "program.job.warm" {
        text.push_str("[[routes]]\npath = \"/job\"\nprogram = \"job\"\n");
    }
    text
}

/// What a key of a program needs beside it to have an effect.
fn beside(key: &str) -> &'static [&'static str] {
    match key {
        "backlog" | "fd" => &["listen = \"127.0.0.1:9\""],
        "ready.status" => &["listen = \"127.0.0.1:9\"", "ready.http = \"/\""],
        "idle" => &["listen = \"127.0.0.1:9\"", "on_demand = true"],
        "max_processes" | "max_per_second" => &["listen = \"127.0.0.1:9\"", "accept = \"each\""],
        "batch" | "max_unhealthy" => &["copies = 1000"],
        "pause_timeout" => &["swap = \"stop-first\""],
        "hook.timeout" => &["hook.command = \"true\""],
        "ready.timeout" => &["ready.command = \"true\""],
        "reload.timeout" => &["reload.command = \"true\""],
        "restart.first" => &["restart.longest = \"1d\""],
        "restart.longest" => &["restart.first = \"10ms\""],
        _ => &[],
    }
}

#[test]
fn bounds_are_accepted_and_nothing_beyond_them() {
    for (key, below, least, greatest, above) in BOUNDED {
        for value in [least, greatest] {
            let checked = good(&text(key, value));
            assert!(checked.warnings.is_empty(), "{key} = {value}: {}", said(&checked.warnings));
        }
        for value in [below, above] {
            let Err(problems) = World::default().parse(text(key, value)) else {
                panic!("{key} = {value} is accepted")
            };
            assert_eq!(problems.len(), 1, "{key} = {value}: {}", said(&problems));
            assert_eq!(problems[0].pointer.as_deref(), Some(&*format!("/{}", key.replace('.', "/"))));
            assert!(problems[0].help.is_some(), "{key} = {value}: no advice");
        }
    }
}

#[test]
fn every_bounded_key_of_the_schema_is_tested_here() {
    let schema = super::super::schema();
    let mut bounded = Vec::new();
    for (name, table) in schema["$defs"].as_object().unwrap() {
        // Tables with a short form hold their keys in the second alternative.
        let properties = table.get("properties").unwrap_or(&table["anyOf"][1]["properties"]);
        for (key, value) in properties.as_object().unwrap() {
            let text = value.to_string();
            if text.contains("\"maximum\"")
                || text.contains("a time, ")
                || text.contains("a size, ")
                || text.contains("a share, ")
                || text.contains("a share of a processor, ")
            {
                bounded.push(format!("{name}.{key}"));
            }
        }
    }
    let tested_elsewhere = [
        "Fixed.status",
        "Redirect.status",
        "Control.mode",
        "Control.group",
        "Listener.mode",
        "Metrics.mode",
        "Grant.users",
        "Grant.groups",
        "Upgrade.owner",
        "Program.mode",
        "Program.user",
        "Program.group",
    ];
    bounded.retain(|key| !tested_elsewhere.contains(&key.as_str()));
    for key in &bounded {
        let last = key.rsplit('.').next().unwrap();
        assert!(
            BOUNDED.iter().any(|(tested, ..)| tested.ends_with(&format!(".{last}"))),
            "{key} is not tested"
        );
    }
    assert_eq!(bounded.len(), BOUNDED.len(), "{bounded:?}");
}

#[test]
fn times_are_whole_numbers_with_units_from_large_to_small() {
    let time = |value: &str| {
        World::default()
            .parse(text("listeners.web.timeouts.tunnel", &format!("\"{value}\"")))
            .map(|checked| checked.config.listeners[0].timeouts.tunnel.as_millis())
            .map_err(|problems| problems[0].to_string())
    };
    for (value, ms) in [
        ("1s", 1000),
        ("1500ms", 1500),
        ("90s", 90_000),
        ("1m 30s", 90_000),
        ("1m30s", 90_000),
        ("2 h", 7_200_000),
        (" 1d  2h 3m 4s 5ms ", 93_784_005),
        ("1_000s", 1_000_000),
    ] {
        assert_eq!(time(value), Ok(ms), "{value}");
    }
    for (value, reason) in [
        ("", "is not a time"),
        ("10", "has no unit"),
        ("1m 30", "has no unit"),
        ("s", "is not a time"),
        ("1.5s", "has a fraction"),
        ("30s 1m", "is not a time"),
        ("1s 1s", "is not a time"),
        ("10sec", "did you mean \"s\"?"),
        ("5min", "did you mean \"m\"?"),
        ("5M", "did you mean \"m\"?"),
        ("1w", "the units are ms, s, m, h, d"),
        ("+1s", "is not a time"),
        ("_1s", "is not a time"),
        ("99999999999999999999s", "is too large"),
        ("18446744073709551615d", "is too large"),
    ] {
        let said = time(value).unwrap_err();
        assert!(said.contains(reason), "{value:?}: {said}");
    }
}

#[test]
fn sizes_have_a_unit_or_are_bytes() {
    let size = |value: &str| {
        World::default()
            .parse(text("listeners.web.limits.body_bytes", value))
            .map(|checked| checked.config.listeners[0].limits.body_bytes)
            .map_err(|problems| problems[0].to_string())
    };
    for (value, bytes) in [
        ("0", Some(0)),
        ("1_000", Some(1000)),
        ("0x10", Some(16)),
        ("+5", Some(5)),
        ("\"7 B\"", Some(7)),
        ("\"1kB\"", Some(1000)),
        ("\"1 KiB\"", Some(1024)),
        ("\"2 MB\"", Some(2_000_000)),
        ("\"2 MiB\"", Some(2_097_152)),
        ("\"3 GB\"", Some(3_000_000_000)),
        ("\" 1 GiB \"", Some(1_073_741_824)),
        ("\"1 TB\"", Some(1_000_000_000_000)),
        ("\"1 TiB\"", Some(1_099_511_627_776)),
        ("\"unlimited\"", None),
    ] {
        assert_eq!(size(value), Ok(bytes), "{value}");
    }
    for (value, reason) in [
        ("\"16k\"", "did you mean \"KiB\"?"),
        ("\"16 KB\"", "did you mean \"KiB\"?"),
        ("\"1 gib\"", "did you mean \"GiB\"?"),
        ("\"1.5 GiB\"", "has a fraction"),
        ("\"16\"", "has no unit"),
        ("\"1 GiB 1 B\"", "is not a size"),
        ("\"Unlimited\"", "is not a size"),
        ("\"1 parsec\"", "the units are B, kB"),
        ("-5", "is too small"),
        ("1.5", "expected a size"),
        ("99999999999999999999", "is too large"),
        ("\"99999999999 TiB\"", "is too large"),
    ] {
        let said = size(value).unwrap_err();
        assert!(said.contains(reason), "{value}: {said}");
    }
}

#[test]
fn modes_are_octal() {
    let mode = |value: &str| {
        World::default()
            .parse(format!("{LISTENER}[[routes]]\nfixed = \"x\"\n[control]\nmode = {value}\n"))
            .map(|checked| checked.config.control.mode)
            .map_err(|problems| problems[0].to_string())
    };
    for (value, bits) in [("\"0660\"", 0o660), ("\"600\"", 0o600), ("0o777", 0o777), ("\"0\"", 0)] {
        assert_eq!(mode(value), Ok(bits), "{value}");
    }
    for (value, reason) in [
        ("660", "write \"0660\" or 0o660"),
        ("\"0680\"", "is not permission bits"),
        ("\"1777\"", "is not permission bits"),
        ("\"\"", "is not permission bits"),
        ("\"-660\"", "is not permission bits"),
        ("0o1777", "is not permission bits"),
        ("true", "expected permission bits"),
    ] {
        let said = mode(value).unwrap_err();
        assert!(said.contains(reason), "{value}: {said}");
    }
}
