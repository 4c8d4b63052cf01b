//! The wire protocols of `kubectl exec`, `attach` and `port-forward` (J55), as a server speaks them.
//!
//! Two ways to have several streams on one connection: [`spdy`], which older clients ask for and newer ones tunnel
//! through a WebSocket ([`tunnel`]), and the channels of a WebSocket ([`channels`]). What is said on the streams does
//! not depend on the way: [`remote`] is a command with its standard streams, [`forward`] are connections to ports.
//! Nothing here opens a connection or knows a pod.
#![forbid(unsafe_code)]

pub mod channels;
pub mod forward;
pub mod remote;
pub mod spdy;
pub mod tunnel;
