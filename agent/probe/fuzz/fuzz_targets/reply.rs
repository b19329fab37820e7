//! Feeds the parser of answers and ICMP errors with what strangers might send: it must neither panic nor take for an
//! answer what does not bear the sweep's key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_probe::SocketKind;
use muster_probe::packet::{Family, Form};

const KEY: [u8; 8] = *b"unguesse";

fuzz_target!(|bytes: &[u8]| {
    let form = Form::new(56, KEY, 0);
    for family in [Family::V4, Family::V6] {
        for kind in [SocketKind::Raw, SocketKind::Datagram] {
            if let Some(reply) = form.reply(family, kind, bytes) {
                let number = reply.mark.number(1 << 20);
                assert!(!form.is_intact(number, reply.body) || reply.body.starts_with(&KEY));
            }
            if let Some((mark, quote)) = form.quoted(family, kind, bytes) {
                let _ = form.is_quote(mark.number(1 << 20), &quote);
            }
        }
    }
});
