//! What is sent is known again, whatever else comes is not, and nothing that comes can do harm.

use super::*;
use proptest::prelude::*;

const WAYS: [(Family, SocketKind); 4] = [
    (Family::V4, SocketKind::Raw),
    (Family::V4, SocketKind::Datagram),
    (Family::V6, SocketKind::Raw),
    (Family::V6, SocketKind::Datagram),
];

/// What a host answers, as it comes through the socket.
fn answer(form: &mut Form, (family, kind): (Family, SocketKind), number: u64) -> Vec<u8> {
    let mut message = form.request(family, kind, number).to_vec();
    message[0] = family.reply();
    if (family, kind) != (Family::V4, SocketKind::Raw) {
        return message;
    }
    message[2..4].fill(0);
    let checksum = !fold(sum(&message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x46];
    packet.resize(24, 0);
    packet.extend(message);
    packet
}

/// What the engine makes of it: the number of the packet that it answers, if it does.
fn accept(form: &Form, (family, kind): (Family, SocketKind), first: u64, bytes: &[u8]) -> Option<u64> {
    let reply = form.reply(family, kind, bytes)?;
    let number = reply.mark.number(first);
    (reply.sound && form.is_intact(number, reply.body)).then_some(number)
}

proptest! {
    #[test]
    fn answers_and_quotes_are_known_again(
        size in prop_oneof![0_u16..40, Just(1_472), Just(65_467)],
        number in 0_u64..1 << 40,
        before in 0_u64..60_000,
        key: [u8; 8],
        prefix: u8,
    ) {
        let mut form = Form::new(size, key, prefix);
        let first = number.saturating_sub(before);
        for way in WAYS {
            let (family, kind) = way;
            let request = form.request(family, kind, number).to_vec();
            prop_assert_eq!(request.len(), HEADER + usize::from(size));
            if way == (Family::V4, SocketKind::Raw) {
                prop_assert_eq!(fold(sum(&request)), u16::MAX, "the checksum");
            }
            let packet = answer(&mut form, way, number);
            prop_assert_eq!(accept(&form, way, first, &packet), Some(number));
            for length in [HEADER, 12, 20, request.len()] {
                let bytes = &request[..length.min(request.len())];
                let (mark, quote) = form.quoted(family, kind, bytes).expect("ours");
                prop_assert_eq!(mark.number(first), number);
                prop_assert!(form.is_quote(number, &quote));
                prop_assert!(!form.is_quote(number + (1 << 16), &quote) || bytes.len() < HEADER + 16);
            }
            prop_assert!(form.reply(family, kind, &request).is_none_or(|reply| !reply.sound), "a request is no answer");
        }
    }

    #[test]
    fn random_bytes_are_nothing(bytes in prop::collection::vec(any::<u8>(), 0..120), size in 16_u16..80, number: u64) {
        let form = Form::new(size, *b"unguesse", 7);
        for (family, kind) in WAYS {
            prop_assert_eq!(accept(&form, (family, kind), number, &bytes), None);
            if let Some((_, quote)) = form.quoted(family, kind, &bytes) {
                prop_assert!(!form.is_quote(number, &quote) || bytes.len() < HEADER + 8);
            }
        }
    }
}

/// xorshift64*: the same mutations in every run.
fn next(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits")
}

#[test]
fn a_million_mutated_answers_are_not_taken_for_answers() {
    let mut state = 20_261_122;
    let mut form = Form::new(56, *b"unguesse", 0x5a);
    for way in WAYS {
        let good = answer(&mut form, way, 70_000);
        let begin = good.len() - HEADER - 56;
        for _ in 0..250_000 {
            let mut bad = good.clone();
            for _ in 0..=next(&mut state) % 4 {
                // The IP header is not ours to judge, nor is a checksum that the kernel has checked.
                let at = begin + next(&mut state) % (bad.len() - begin);
                bad[at] ^= 1 << (next(&mut state) % 8);
            }
            match next(&mut state) % 8 {
                0 => bad.truncate(next(&mut state) % bad.len()),
                1 => bad.extend([0; 3]),
                _ => {}
            }
            let significant = |packet: &[u8]| {
                let mut packet = packet.to_vec();
                if way != (Family::V4, SocketKind::Raw) {
                    packet[2..4].fill(0);
                }
                if way.1 == SocketKind::Datagram {
                    packet[4..6].fill(0);
                }
                packet
            };
            let same = bad.len() == good.len() && significant(&bad) == significant(&good);
            let accepted = accept(&form, way, 65_536, &bad);
            assert_eq!(accepted == Some(70_000), same, "{way:?} {bad:02x?}");
        }
    }
}

#[test]
fn each_error_has_its_word() {
    use FailureKind as Kind;
    for (family, kind, code, word) in [
        (Family::V4, 3, 0, Some(Kind::NetworkUnreachable)),
        (Family::V4, 3, 1, Some(Kind::HostUnreachable)),
        (Family::V4, 3, 2, Some(Kind::ProtocolUnreachable)),
        (Family::V4, 3, 3, Some(Kind::OtherError)),
        (Family::V4, 3, 4, Some(Kind::TooBig)),
        (Family::V4, 3, 13, Some(Kind::Prohibited)),
        (Family::V4, 3, 200, Some(Kind::OtherError)),
        (Family::V4, 11, 0, Some(Kind::TtlExceeded)),
        (Family::V4, 11, 1, Some(Kind::OtherError)),
        (Family::V4, 12, 0, Some(Kind::OtherError)),
        (Family::V4, 4, 0, None),
        (Family::V4, 0, 0, None),
        (Family::V6, 1, 0, Some(Kind::NetworkUnreachable)),
        (Family::V6, 1, 1, Some(Kind::Prohibited)),
        (Family::V6, 1, 3, Some(Kind::HostUnreachable)),
        (Family::V6, 1, 4, Some(Kind::OtherError)),
        (Family::V6, 2, 0, Some(Kind::TooBig)),
        (Family::V6, 3, 0, Some(Kind::TtlExceeded)),
        (Family::V6, 4, 1, Some(Kind::ProtocolUnreachable)),
        (Family::V6, 129, 0, None),
    ] {
        assert_eq!(meaning(family, kind, code), word, "{family:?} {kind} {code}");
    }
}

#[test]
fn sums_of_version_six_cover_addresses_length_and_message() {
    let [from, to] = ["fd66::2", "fd66::1"].map(|address| address.parse::<Ipv6Addr>().expect("an address"));
    let message = [0x81, 0x00, 0x9e, 0x4f, 0x12, 0x34, 0x00, 0x01, 0x6f, 0x64, 0x64];
    assert!(is_sound(from, to, &message));
    assert!(!is_sound(from, "fd66::3".parse().expect("an address"), &message));
    assert!(!is_sound(from, to, &message[..message.len() - 1]));
    for at in 0..message.len() {
        let mut changed = message;
        changed[at] ^= 4;
        assert!(!is_sound(from, to, &changed), "{at}");
    }
}
