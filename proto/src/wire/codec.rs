//! Messages to bytes and back, with little memory for a stream that is open and idle.
//!
//! There are as many idle streams as agents: what each holds in buffers decides how many a controller bears.

use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{self, BufferSettings, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// What a buffer has at the beginning, and grows by: an acknowledgement and the like fit.
const BUFFER_BYTES: usize = 1 << 10;
/// Messages that are ready together travel together up to this size.
const BATCH_BYTES: usize = 32 << 10;

/// Encodes `T`, decodes `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, BATCH_BYTES)
}

impl<T: Message + 'static, U: Message + Default + 'static> codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ExactEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ExactEncoder<T> {
        ExactEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(settings())
    }
}

/// Makes room for a message once, however large it is.
#[derive(Debug)]
pub struct ExactEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ExactEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
