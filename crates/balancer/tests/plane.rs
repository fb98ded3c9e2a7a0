//! A plane in front of real sockets: everything that a client can see.
#![allow(clippy::unwrap_used)]

mod plane {
    mod backend;
    mod client;
    mod setup;

    mod basics;
    mod control;
    mod fallback;
    mod framing;
    mod hang;
    mod limits;
    mod load;
    mod processes;
    mod replay;
    mod smuggling;
}
