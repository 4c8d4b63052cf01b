//! The plugins as processes, in namespaces of their own, called as runtimes call them; and the reference plugins beside
//! them, where they are installed.

mod host_local;
mod lab;
mod networks;
mod ports;
mod routed;
mod storm;
mod vlans;
