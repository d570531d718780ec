//! The embedding API: a program's own server, in about ten lines.
//!
//! ```no_run
//! use handover::Server;
//!
//! fn main() -> std::process::ExitCode {
//!     let mut server = Server::new("hello", env!("CARGO_PKG_VERSION"));
//!     server.listener("http", "127.0.0.1:8080");
//!     let greeting = server.reloadable("greeting", |files| files.read_to_string("greeting.txt".as_ref()));
//!     server.run(move |cx| {
//!         let greeting = greeting.clone();
//!         async move {
//!             let listener = cx.listener("http")?;
//!             loop {
//!                 tokio::select! {
//!                     accepted = listener.accept() => drop((accepted?, greeting.load())), // serve it
//!                     () = cx.draining() => return Ok::<(), std::io::Error>(()),
//!                 }
//!             }
//!         }
//!     })
//! }
//! ```

mod address;
#[cfg(test)]
mod certificate_tests;
mod certificates;
mod context;
mod counters;
mod hosted;
mod movable;
mod moving;
#[cfg(test)]
mod moving_tests;
mod reloadable;
mod run;
#[cfg(test)]
mod tests;
mod track;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use handover_tls::{CertificateStore, Pair};

use crate::host::{HostOptions, host};
use crate::prepare::Prepare;
use crate::types::{Problem, Settings};
use crate::watch::Watch;
use address::Declared;
use hosted::{Declarations, Hosted};
use movable::AnyKind;
use reloadable::Value;

pub use address::LISTEN_VARIABLE_PREFIX;
pub use certificates::Certificates;
pub use context::Context;
pub use counters::Counters;
pub use movable::{Adopted, Kept, Movable, Mover, Moves, Sockets};
pub use reloadable::{LoadError, Reloadable};
pub use track::{Tracked, TrackedStream};

type Action = dyn Fn(&mut Call<'_>) -> Result<String, String> + Send + Sync;

/// A program's server: what it listens on, what it can load anew, what else can be asked of it.
///
/// [`Server::run`] makes the program two processes. See the crate's documentation for what that means, and
/// `examples/` for whole programs.
pub struct Server {
    options: HostOptions,
    listeners: Vec<Declared>,
    values: Vec<Arc<dyn Value>>,
    certificates: Vec<Certificates>,
    actions: BTreeMap<String, Arc<Action>>,
    counters: Option<Counters>,
    watch: Option<Watch>,
    told: bool,
    kinds: Vec<Arc<dyn AnyKind>>,
    state_formats: RangeInclusive<u16>,
    settings: Settings,
    state_is_set: bool,
    /// What the program declared twice: found out when it is started, answered like a wrong configuration.
    mistakes: Vec<Problem>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("options", &self.options)
            .field("listeners", &self.listeners)
            .field("values", &self.values.iter().map(|value| value.name()).collect::<Vec<_>>())
            .field("actions", &self.actions.keys())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server of this name and version. The name is in the path of its control socket, so that several programs
    /// of one user do not meet there.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            options: HostOptions::new(name, version),
            listeners: Vec::new(),
            values: Vec::new(),
            certificates: Vec::new(),
            actions: BTreeMap::new(),
            counters: None,
            watch: None,
            told: false,
            kinds: Vec::new(),
            state_formats: 1..=1,
            settings: Settings::default(),
            state_is_set: false,
            mistakes: Vec::new(),
        }
    }

    /// Puts the control socket there, instead of into the user's runtime directory.
    pub fn control(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.options.control = path.into();
        if !self.state_is_set {
            self.options.state = handover_supervisor::paths::state_directory(&self.options.control);
        }
        self
    }

    /// Keeps the journal there, instead of in the user's state directory.
    pub fn state(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.options.state = directory.into();
        self.state_is_set = true;
        self
    }

    /// Declares a listener: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock` or `unix:@app`.
    ///
    /// The environment variable `HANDOVER_LISTEN_<NAME>` moves it (see [`LISTEN_VARIABLE_PREFIX`]). If the service
    /// manager has passed a socket with that address (`LISTEN_FDS`), that one is used.
    pub fn listener(&mut self, name: &str, address: &str) -> &mut Self {
        if self.listeners.iter().any(|known| known.name == name) {
            self.mistakes.push(Problem::new(format!("two listeners are named {name:?}")));
        }
        self.listeners.push(Declared { name: name.to_owned(), default: address.to_owned() });
        self
    }

    /// Declares a value that is loaded at start and anew with every reload (`handover reload`, SIGHUP,
    /// `POST /v1/reload`). If any of a server's values cannot be loaded, none is changed.
    ///
    /// Files that the loader reads through [`Prepare::read`] belong to the generation: a worker that must be
    /// replaced loads the very same bytes again, whatever stands on the disk by then.
    ///
    /// Two values are published one after the other; what must change in one moment should be one value.
    pub fn reloadable<T, E>(
        &mut self,
        name: &str,
        load: impl Fn(&mut Prepare) -> Result<T, E> + Send + Sync + 'static,
    ) -> Reloadable<T>
    where
        T: Send + Sync + 'static,
        E: Into<LoadError>,
    {
        if self.values.iter().any(|known| known.name() == name) {
            self.mistakes.push(Problem::new(format!("two reloadable values are named {name:?}")));
        }
        let value = Reloadable::new(
            name.to_owned(),
            Box::new(move |files: &mut Prepare| load(files).map_err(Into::into)),
        );
        self.values.push(Arc::new(value.clone()));
        value
    }

    /// Declares certificates: read, checked and published as one set, at start and with every reload, those of certificates
    /// only (`handover reload --certs`) among them. Give the store to rustls as its resolver.
    ///
    /// They take part in the same commit as all other values: if any of those cannot be loaded, no certificate is
    /// changed, and the other way round. Relative paths are relative to the directory in which the server was started.
    pub fn certificates(
        &mut self,
        store: &Arc<CertificateStore>,
        pairs: impl IntoIterator<Item = Pair>,
    ) -> Certificates {
        let certificates = Certificates::new(Arc::clone(store), pairs.into_iter().collect());
        self.values.push(Arc::new(certificates.clone()));
        self.certificates.push(certificates.clone());
        certificates
    }

    /// Counters for what clients see: with them, a guarded reload (`handover reload --guard`) is taken back if the new
    /// generation fares worse than the one before. Without, a guard sees only whether the worker lives.
    pub fn counters(&mut self) -> Counters {
        self.counters.get_or_insert_default().clone()
    }

    /// Watches every file that is read through [`Prepare`], and asks for a reload when one of them has changed. Nothing is
    /// watched otherwise.
    pub fn watch(&mut self, watch: Watch) -> &mut Self {
        self.watch = Some(watch);
        self
    }

    /// Declares an action: `POST /v1/actions/<name>` on the control socket calls it and answers the sentence it
    /// returns, with status 200 or 500.
    pub fn action(
        &mut self,
        name: &str,
        run: impl Fn(&mut Call<'_>) -> Result<String, String> + Send + Sync + 'static,
    ) -> &mut Self {
        if self.actions.insert(name.to_owned(), Arc::new(run)).is_some() {
            self.mistakes.push(Problem::new(format!("two actions are named {name:?}")));
        }
        self
    }

    /// Declares connections that can move to the worker of a new binary while they are open (`handover upgrade`), with the
    /// state `T` of each. `name` is what they are counted under, say that of their listener, and the same in every version
    /// of the program. Whatever is not moved drains.
    pub fn movable<T: Movable>(&mut self, name: &'static str) -> Moves<T> {
        let moves = Moves::new(name);
        if self.kinds.iter().any(|known| known.name() == name) {
            self.mistakes.push(Problem::new(format!("two kinds of movable connections are named {name:?}")));
        }
        self.kinds.push(moves.kind());
        moves
    }

    /// The oldest and the newest format in which this program writes and reads the states of its connections; `1..=1` unless
    /// it is said. Two versions of the program use the newest that both know, so that going back works too.
    pub fn state_formats(&mut self, formats: RangeInclusive<u16>) -> &mut Self {
        self.state_formats = formats;
        self
    }

    /// Who may do what over the control socket, how long a drain may take, how much history is kept. By default
    /// only root and the user that runs the program may do anything.
    pub fn settings(&mut self, settings: Settings) -> &mut Self {
        self.settings = settings;
        self
    }

    /// The server is ready when it calls [`Context::ready`], and not already when its future waits for something
    /// for the first time.
    pub fn ready_when_told(&mut self) -> &mut Self {
        self.told = true;
        self
    }

    /// Runs the program: as the supervisor, or, started by it, as the worker, which calls `serve`.
    ///
    /// Call it first thing in `main`, before there are other threads. `serve` is called in the worker once the values
    /// are loaded and the listeners are open, on a tokio runtime of its own, and again after a drain was taken back.
    /// Its future is to end when [`Context::draining`] does; if it ends before, the worker is replaced.
    pub fn run<F, S, E>(self, serve: S) -> ExitCode
    where
        S: Fn(Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let (options, declared) = self.declare(serve);
        host(options, move || Hosted::new(declared))
    }

    fn declare<F, S, E>(self, serve: S) -> (HostOptions, Declarations)
    where
        S: Fn(Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let body = Arc::new(move |cx: Context| -> run::Running {
            let future = serve(cx);
            Box::pin(async move { future.await.map_err(|error| error.to_string()) })
        });
        let Self { options, listeners, values, certificates, actions, .. } = self;
        let Self { counters, watch, told, kinds, state_formats, settings, mistakes, .. } = self;
        let declared = Declarations {
            listeners,
            values,
            certificates,
            actions,
            counters,
            watch,
            told,
            kinds,
            state_formats,
            settings,
            mistakes,
            body,
        };
        (options, declared)
    }
}

/// One call of an action.
#[derive(Debug)]
pub struct Call<'a> {
    body: &'a str,
    files: &'a mut Prepare,
    /// Whether something was reloaded, for the log.
    reloaded: Vec<String>,
}

impl Call<'_> {
    /// What the caller sent with the request.
    #[must_use]
    pub fn body(&self) -> &str {
        self.body
    }

    /// Loads one value anew and publishes it. The files that it reads take the place of those of the generation
    /// that serves.
    ///
    /// # Errors
    /// What the loader failed with; the old value stays.
    pub fn reload<T: Send + Sync + 'static>(&mut self, value: &Reloadable<T>) -> Result<(), LoadError> {
        value.load_anew(self.files).map_err(|failed| failed.error)?.publish();
        self.reloaded.push(value.name().to_owned());
        Ok(())
    }

    /// The same for certificates: all of them, or none.
    ///
    /// # Errors
    /// Everything that is wrong with any of them; what serves goes on.
    pub fn reload_certificates(&mut self, certificates: &Certificates) -> Result<(), LoadError> {
        certificates.load_anew(self.files).map_err(|errors| certificates::as_one(&errors))?.commit();
        self.reloaded.push(Value::name(certificates).to_owned());
        Ok(())
    }
}
