//! One binary for all tests of the whole: each module is a promise of the product or a rule of the house.

mod house;

mod run;
