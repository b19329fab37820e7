//! One binary for all tests of the whole: each module is a promise of the product or a rule of the house.

mod house;

mod audit;
mod away;
mod cancel;
mod chaos;
mod clones;
mod contract;
mod cuts;
mod danger;
mod dev;
mod disk;
mod escape;
mod execute;
mod groups;
mod hostile;
mod identity;
mod limits;
mod many;
mod nodeset;
mod output;
mod ping;
mod ping_schedule;
mod plan;
mod renew;
mod rerun;
mod restart;
mod retain;
mod rollout;
mod run;
mod select;
mod sim;
mod stdin;
mod trust;
mod upgrade;
mod why;
