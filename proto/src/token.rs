//! Join tokens and login codes: a secret with what the bearer needs to trust the other side, in one printable word.
//!
//! `muster-<base 64 url>` of: kind (1 byte), cluster (16), SHA-256 of the controller CA's certificate (32), secret (32),
//! and the address to log in at, if any. The controller keeps only the secret's SHA-256.

use crate::id::ClusterId;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// What the bearer may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// An agent.
    Join,
    /// An operator.
    Login,
}

/// A token as it is handed out. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    /// Which installation.
    pub cluster: ClusterId,
    /// SHA-256 of the controller CA's certificate, DER: who may answer.
    pub pin: [u8; 32],
    /// 256 random bits.
    pub secret: [u8; 32],
    /// `HOST:PORT` of the enrolment listener; empty where the bearer is told otherwise.
    pub address: String,
}

const PREFIX: &str = "muster-";

impl Token {
    /// What the controller keeps of the secret.
    pub fn hash(secret: &[u8]) -> [u8; 32] {
        Sha256::digest(secret).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?}, {})", self.kind, self.cluster)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            TokenKind::Join => b'J',
            TokenKind::Login => b'L',
        };
        let mut bytes = vec![kind];
        bytes.extend(self.cluster.as_bytes());
        bytes.extend(self.pin);
        bytes.extend(self.secret);
        bytes.extend(self.address.as_bytes());
        write!(f, "{PREFIX}{}", base64_url(&bytes))
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).filter(|rest| rest.len() <= 1024).ok_or(ParseTokenError)?;
        let bytes = from_base64_url(encoded).ok_or(ParseTokenError)?;
        let (head, address) = bytes.split_at_checked(81).ok_or(ParseTokenError)?;
        let array = |range: std::ops::Range<usize>| head[range].try_into().map_err(|_| ParseTokenError);
        Ok(Self {
            kind: match head[0] {
                b'J' => TokenKind::Join,
                b'L' => TokenKind::Login,
                _ => return Err(ParseTokenError),
            },
            cluster: head[1..17].try_into().map_err(|_| ParseTokenError)?,
            pin: array(17..49)?,
            secret: array(49..81)?,
            address: String::from_utf8(address.to_vec()).map_err(|_| ParseTokenError)?,
        })
    }
}

/// The text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no Muster token or code: copy the whole word that begins with \"muster-\"")]
pub struct ParseTokenError;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// RFC 4648, section 5, without padding. Here by hand because the agent takes no base-64 library for one word.
fn base64_url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let value = group.iter().fold(0_u32, |value, &byte| value << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(ALPHABET[(value >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

fn from_base64_url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut value = 0_u32;
        for place in 0..4 {
            let digit = match group.get(place) {
                Some(character) => ALPHABET.iter().position(|known| known == character)?,
                None => 0,
            };
            value = value << 6 | u32::try_from(digit).ok()?;
        }
        let whole = value.to_be_bytes();
        let length = group.len().checked_sub(1).filter(|length| *length > 0)?;
        if whole[1 + length..].iter().any(|rest| *rest != 0) {
            return None;
        }
        bytes.extend(&whole[1..=length]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_round_trip(cluster: [u8; 16], pin: [u8; 32], secret: [u8; 32], address in "[a-z0-9.:]{0,40}") {
            for kind in [TokenKind::Join, TokenKind::Login] {
                let token = Token { kind, cluster: ClusterId::from_bytes(cluster), pin, secret, address: address.clone() };
                prop_assert_eq!(token.to_string().parse(), Ok(token.clone()));
                let text = token.to_string();
                prop_assert!(text[..text.len() / 2].parse::<Token>().is_err());
            }
        }

        #[test]
        fn any_text_is_a_token_or_an_error(text in ".{0,200}") {
            let _ = text.parse::<Token>();
            let _ = format!("muster-{text}").parse::<Token>();
        }
    }
}
