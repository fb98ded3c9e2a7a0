//! A plane in front of real sockets: everything that a client can see.

mod plane {
    mod backend;
    mod client;
    mod setup;

    mod basics;
}
