//! Connections that move in the middle of whatever they do: to whoever is at their other ends, nothing has happened.

mod fixture;
mod hostile;
mod made;
mod moves;
mod places;
mod rig;
mod sizes;
mod tls;
mod tunnels;
