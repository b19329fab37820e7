//! Sweeps on real sockets, in network namespaces of the tests' own. What a machine does not allow is skipped loudly.

mod forger;
mod lab;
mod local;
mod network;
mod responder;
