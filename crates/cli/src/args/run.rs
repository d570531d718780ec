//! The options of `handover run`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Default, Args)]
pub(crate) struct Run {
    /// Name of the program: for 'handover restart NAME' and the log. That of the command if it is not given.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Address on which the program accepts; may be given several times. The socket is held and passed to it.
    ///
    /// 8080 is 127.0.0.1:8080, :8080 is all addresses; or 192.0.2.1:8080, [::1]:8080, unix:/run/app.sock, unix:@name.
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Accept connections here and pass requests (HTTP) to an address that each copy has for itself.
    ///
    /// So is done in any case where the command or a variable says {port}: for programs that can only bind a port themselves.
    /// Then requests can be held, and a deploy can be taken back in no time.
    #[arg(long, requires = "listen")]
    pub(crate) proxy: bool,
    /// Variable that gets the numbers of the descriptors, besides LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES.
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) fd_env: Option<String>,
    /// Number of the first descriptor, where it is not 3; LISTEN_FDS is not set then.
    #[arg(long, value_name = "N")]
    pub(crate) fd: Option<u32>,
    /// Pass sockets on which accept returns at once instead of waiting, as nginx needs it with --env 'NGINX={fd};'.
    #[arg(long)]
    pub(crate) nonblocking: bool,
    /// How a copy is known to be ready: notify, tcp, /PATH (answers GET with 2xx), sh:COMMAND (exits with 0), or a time.
    #[arg(long, value_name = "HOW", value_parser = way_to_be_ready)]
    pub(crate) ready: Option<String>,
    /// The longest time until a copy is ready (30s).
    #[arg(long, value_name = "TIME")]
    pub(crate) ready_timeout: Option<String>,
    /// How a copy is told to read its configuration anew: notify, /PATH (by POST), sh:COMMAND, or a signal.
    #[arg(long, value_name = "HOW")]
    pub(crate) reload: Option<String>,
    /// Signal by which a copy is asked to end (TERM).
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// What still lives after this long is killed (10s).
    #[arg(long, value_name = "TIME")]
    pub(crate) stop_timeout: Option<String>,
    /// Copies that run side by side.
    #[arg(long, value_name = "N")]
    pub(crate) copies: Option<u32>,
    /// End the old copy before the next one is started.
    #[arg(long)]
    pub(crate) stop_first: bool,
    /// When a copy is started again: always, on-failure or never.
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<String>,
    /// Variable beside those of this process; may be given several times.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Where the program is started; the working directory if it is not given.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Directory of a version, which a deploy calls by the last part of it; given at least twice.
    #[arg(long, value_name = "DIR")]
    pub(crate) slot: Vec<PathBuf>,
    /// User that the program runs as.
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Group that it runs as; the user's if it is not given.
    #[arg(long, value_name = "GROUP", requires = "user")]
    pub(crate) group: Option<String>,
    /// Start it when the first connection comes.
    #[arg(long, requires = "listen")]
    pub(crate) on_demand: bool,
    /// Stop it when there was no connection for so long.
    #[arg(long, value_name = "TIME", requires = "on_demand")]
    pub(crate) idle: Option<String>,
    /// Memory that a copy may use, e.g. 512MB.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Share of a processor that a copy may use, e.g. 50%.
    #[arg(long, value_name = "SHARE")]
    pub(crate) cpu: Option<String>,
    /// Files that a copy may have open.
    #[arg(long, value_name = "N")]
    pub(crate) nofile: Option<u32>,
    /// Directory of the journal; the user's state directory if it is not given.
    #[arg(long, env = "HANDOVER_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Do not print the lines at the start.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The command and its arguments. {port}, {socket} and {fd} stand for those of the first socket, {copy} for the copy's
    /// number; {{ and }} are braces.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// What `--ready` may be; whether a time or a command is one, the configuration that is made of it is asked.
fn way_to_be_ready(text: &str) -> Result<String, String> {
    let begins = |c: char| c == '/' || c.is_ascii_digit();
    if matches!(text, "notify" | "tcp") || text.starts_with("sh:") || text.starts_with(begins) {
        return Ok(text.to_owned());
    }
    Err("write notify, tcp, a path such as /health, sh:COMMAND, or a time such as 2s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_to_be_ready_is_a_word_a_path_a_command_or_a_time() {
        for good in ["notify", "tcp", "/health", "sh:test -e done", "2s"] {
            assert_eq!(way_to_be_ready(good).as_deref(), Ok(good));
        }
        for bad in ["", "http", "health", "READY", "sh"] {
            assert!(way_to_be_ready(bad).is_err_and(|why| why.contains("/health")), "{bad}");
        }
    }
}
