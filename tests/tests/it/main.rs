//! One binary for all tests of the whole: each module is a promise of the product or a rule of the house.

mod house;

mod away;
mod cancel;
mod chaos;
mod contract;
mod dev;
mod escape;
mod execute;
mod many;
mod output;
mod restart;
mod run;
mod select;
mod stdin;
mod trust;
