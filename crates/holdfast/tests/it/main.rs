//! The one integration executable: drives the real binary, real programs, real signals.

mod database;
mod disk;
mod documented;
#[path = "../../../sqs/tests/clients/environment.rs"]
mod environment;
mod flows;
mod proof;
mod queues;
mod rate;
mod site;
mod tiny;

mod adoption;
mod bad_input;
mod cluster;
mod fixed_rate;
mod footprint;
mod incident_times;
mod lifecycle;
mod notify;
mod standby;
mod starting;
mod torture;
mod traffic;
mod virtual_ip;
