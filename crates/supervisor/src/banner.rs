//! The four lines that are printed when the first generation serves: what, where, how to talk to it, what next.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use handover_api::ListenerStatus;

use crate::options::Options;

/// Addresses that are named; of more, only their number.
const MAX_ADDRESSES: usize = 4;

/// Prints the banner on stdout. That nobody reads it is no reason to stop.
pub(crate) fn print(
    options: &Options,
    summary: &[String],
    generation: u64,
    listeners: &[ListenerStatus],
    control: &Path,
) {
    let text = text(options, summary, generation, listeners, control);
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn text(
    options: &Options,
    summary: &[String],
    generation: u64,
    listeners: &[ListenerStatus],
    control: &Path,
) -> String {
    let what = if summary.is_empty() { "ready".to_owned() } else { summary.join("; ") };
    let mut text = format!("{} {} serves: {what}\n", options.name, options.version);
    let _ = write!(text, "generation {generation} listens on ");
    match listeners {
        [] => text.push_str("nothing"),
        listeners => {
            let named: Vec<&str> = listeners.iter().take(MAX_ADDRESSES).map(|l| l.address.as_str()).collect();
            text.push_str(&named.join(", "));
            if listeners.len() > MAX_ADDRESSES {
                let _ = write!(text, " and {} more", listeners.len() - MAX_ADDRESSES);
            }
        }
    }
    let _ = write!(text, "\ncontrol socket: {}\nnext: {}\n", control.display(), options.next_command);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_four_lines_whatever_is_served() {
        let mut options = Options::new("app", "1.0.0");
        options.next_command = "app status".to_owned();
        let listener =
            ListenerStatus { name: "web".into(), address: "127.0.0.1:80".into(), inherited: false };
        for count in [0, 1, 9] {
            let listeners = vec![listener.clone(); count];
            let text = text(&options, &["one route".into()], 3, &listeners, Path::new("/run/app.sock"));
            assert_eq!(text.lines().count(), 4, "{text}");
            assert!(text.starts_with("app 1.0.0 serves: one route\ngeneration 3 listens on "));
            assert!(text.ends_with("control socket: /run/app.sock\nnext: app status\n"));
        }
    }
}
