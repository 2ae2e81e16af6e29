//! What the tests share: guests and what to tell them, small pools of real workers, and questions to the kernel.

pub mod balancer;
pub mod bitcoind;
pub mod cgroup;
pub mod command;
pub mod daemon;
pub mod following;
pub mod guests;
pub mod hosts;
pub mod load;
pub mod node;
pub mod operations;
mod output;
pub mod peer;
pub mod pool;
pub mod random;
pub mod regtest;
pub mod seccomp;
pub mod serve;
pub mod stand_in;
