//! Route tables.

use crate::config::{Config, ListenerIndex};

/// What a request matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// This route.
    Found(Match),
    /// No route for this method, but at least one for another: 405, with [`RouteTable::allowed`].
    MethodNotAllowed,
    /// No route: 404.
    NotFound,
}

/// The route that a request matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Position of the route in [`Config::routes`].
    pub route: u32,
    /// How many bytes at the start of the path the route's prefix took: what follows names the file in a directory. 0
    /// for an exact path and for a route without path.
    pub prefix: u32,
}

/// The routes of all listeners.
#[derive(Debug, Clone, Default)]
pub struct Routes {}

/// The routes that exist on one listener.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {}

impl Routes {
    /// Builds the tables of a configuration.
    #[must_use]
    pub fn build(config: &Config) -> Self {
        let _ = config;
        Self {}
    }

    /// The table of a listener; `None` if it has none, because it does not speak HTTP.
    #[must_use]
    pub fn table(&self, listener: ListenerIndex) -> Option<&std::sync::Arc<RouteTable>> {
        let _ = listener;
        None
    }
}

impl RouteTable {
    /// Finds the route of a request, without allocation.
    ///
    /// `host` as in the request's authority, with or without port, in any case; empty if there is none. `path` without
    /// query.
    #[must_use]
    pub fn lookup(&self, host: &[u8], path: &[u8], method: &[u8]) -> Lookup {
        let _ = (host, path, method);
        Lookup::NotFound
    }

    /// The value of `Allow` for a request that met [`Lookup::MethodNotAllowed`]: `GET, HEAD, POST`.
    #[must_use]
    pub fn allowed(&self, host: &[u8], path: &[u8]) -> String {
        let _ = (host, path);
        String::new()
    }
}
