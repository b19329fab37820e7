//! Feeds the target language with whatever an operator, a group's file or a program of groups might hold.
#![no_main]

#[path = "../body.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| body::expression(text));
