//! What the tests share: guests and what to tell them, small pools of real workers, and questions to the kernel.

pub mod balancer;
mod binary;
pub mod bitcoind;
mod blocks;
pub mod cgroup;
mod client;
pub mod command;
pub mod daemon;
pub mod following;
pub mod guests;
pub mod hosts;
pub mod load;
mod metrics;
pub mod node;
pub mod operations;
mod output;
pub mod peer;
pub mod pool;
pub mod random;
pub mod regtest;
mod running;
pub mod seccomp;
pub mod serve;
pub mod stand_in;
mod waiting;
