use aead::consts::{U24, U32, U48};
use aead::inout::InOutBuf;
use aead::{AeadCore, AeadInOut, Error, Key, KeyInit, KeySizeUser, Nonce, Tag, TagPosition};

use crate::suite::{Backend, KcXaes256Gcm};

impl<B: Backend> KeySizeUser for KcXaes256Gcm<B> {
    type KeySize = U32;
}

impl<B: Backend> KeyInit for KcXaes256Gcm<B> {
    fn new(key: &Key<Self>) -> Self {
        Self::new(key.as_ref())
    }
}

impl<B: Backend> AeadCore for KcXaes256Gcm<B> {
    type NonceSize = U24;
    type TagSize = U48;
    const TAG_POSITION: TagPosition = TagPosition::Postfix;
}

impl<B: Backend> AeadInOut for KcXaes256Gcm<B> {
    fn encrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        associated_data: &[u8],
        mut buffer: InOutBuf<'_, '_, u8>,
    ) -> Result<Tag<Self>, Error> {
        copy_in_to_out(&mut buffer);
        let tag = self.seal_in_place(nonce.as_ref(), associated_data, buffer.get_out());
        tag.map(Into::into).map_err(|_| Error)
    }

    fn decrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        associated_data: &[u8],
        mut buffer: InOutBuf<'_, '_, u8>,
        tag: &Tag<Self>,
    ) -> Result<(), Error> {
        copy_in_to_out(&mut buffer);
        let opened = self.open_in_place(nonce.as_ref(), associated_data, buffer.get_out(), tag.as_ref());
        opened.map_err(|_| Error)
    }
}

/// The backends work in place; input and output may be one buffer or two.
fn copy_in_to_out(buffer: &mut InOutBuf<'_, '_, u8>) {
    let (blocks, tail) = buffer.reborrow().into_chunks::<U48>();
    for mut block in blocks {
        *block.get_out() = block.clone_in();
    }
    for mut byte in tail {
        *byte.get_out() = byte.clone_in();
    }
}
