//! The whole server over real sockets, among clients, upstreams and an API that do what they should not: right answers or
//! clean failures, bounded, and no answer lost.

mod api;
mod away;
mod connections;
mod differential;
mod floods;
mod lab;
mod packets;
mod reload;
mod upstreams;
mod zones;
