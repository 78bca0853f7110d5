//! Which key a body is sealed or opened with, from what the request says about encryption.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use s3s::{S3Error, S3Result, s3_error};

use super::{Store, answer};
use crate::bucket::{BucketState, Document};
use crate::object::Encryption;
use crate::seal::{CustomerKey, KEY, Key, SealError};

/// The only algorithm of both kinds.
pub(super) const AES256: &str = "AES256";

/// What a request wants of encryption.
#[derive(Clone, Default)]
pub(super) struct Wish {
    /// `x-amz-server-side-encryption: AES256`.
    store: bool,
    /// SSE-C.
    customer: Option<CustomerKey>,
}

/// The fields of SSE-C as a request has them.
pub(super) struct CustomerFields<'a> {
    pub(super) algorithm: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) md5: Option<&'a str>,
}

/// The SSE-C fields of an input.
macro_rules! customer_of {
    ($input:expr) => {
        $crate::s3::encryption::CustomerFields {
            algorithm: $input.sse_customer_algorithm.as_deref(),
            key: $input.sse_customer_key.as_deref(),
            md5: $input.sse_customer_key_md5.as_deref(),
        }
    };
}
pub(super) use customer_of;

/// What an input wants of encryption.
macro_rules! wish_of {
    ($input:expr) => {
        $crate::s3::encryption::Wish::new(
            $input.server_side_encryption.as_ref().map(|e| e.as_str()),
            $input.ssekms_key_id.is_some() || $input.ssekms_encryption_context.is_some(),
            $crate::s3::encryption::customer_of!($input),
        )
    };
}
pub(super) use wish_of;

impl CustomerFields<'_> {
    /// The key, if there is one.
    pub(super) fn read(&self) -> S3Result<Option<CustomerKey>> {
        let Some(algorithm) = self.algorithm else {
            if self.key.is_some() || self.md5.is_some() {
                return Err(s3_error!(InvalidArgument, "A customer's key comes with its algorithm"));
            }
            return Ok(None);
        };
        if algorithm != AES256 {
            return Err(s3_error!(InvalidEncryptionAlgorithmError, "The only algorithm is AES256"));
        }
        let key = self.key.and_then(|key| STANDARD.decode(key).ok());
        let key: [u8; KEY] = key
            .and_then(|key| key.try_into().ok())
            .ok_or_else(|| s3_error!(InvalidArgument, "A customer's key is 256 bits in base64"))?;
        let md5: [u8; 16] = Md5::digest(key).into();
        if self.md5.is_none_or(|said| said != STANDARD.encode(md5)) {
            return Err(s3_error!(InvalidArgument, "The MD5 is not that of the customer's key"));
        }
        Ok(Some(CustomerKey { key: Key::new(key), md5 }))
    }
}

impl Wish {
    pub(super) fn new(algorithm: Option<&str>, kms: bool, customer: CustomerFields<'_>) -> S3Result<Wish> {
        let customer = customer.read()?;
        let store = match algorithm {
            None if kms => {
                return Err(s3_error!(InvalidArgument, "A key of a key service comes with aws:kms"));
            }
            None => false,
            Some(AES256) if kms => {
                return Err(s3_error!(InvalidArgument, "A key of a key service does not go with AES256"));
            }
            Some(AES256) => true,
            Some("aws:kms" | "aws:kms:dsse") => {
                return Err(s3_error!(NotImplemented, "Keys of a key service are not offered"));
            }
            Some(_) => return Err(s3_error!(InvalidArgument, "The encryption is AES256")),
        };
        if store && customer.is_some() {
            return Err(s3_error!(InvalidArgument, "A customer's key does not go with AES256 by the store"));
        }
        Ok(Wish { store, customer })
    }

    /// A new object's key and how it is kept; `None` for bytes that lie in the clear.
    pub(super) fn settle(&self, store: &Store, bucket: &BucketState) -> S3Result<Option<(Key, Encryption)>> {
        if let Some(customer) = &self.customer {
            return customer.new_object().map(Some).map_err(failed);
        }
        match store.keys.new_object() {
            Some(made) => made.map(Some).map_err(failed),
            // A bucket gets its default only where there is a key; the key may be gone since.
            None if self.store || bucket.documents.contains(&Document::Encryption) => Err(no_key_file()),
            None => Ok(None),
        }
    }
}

pub(super) fn no_key_file() -> S3Error {
    s3_error!(
        NotImplemented,
        "The store has no key file to encrypt with: set encryption_key_file in its store block"
    )
}

pub(super) fn failed(error: SealError) -> S3Error {
    match error {
        SealError::Refused => s3_error!(AccessDenied, "The object does not open with this key"),
        SealError::UnknownKey => {
            tracing::error!("an object's key is not in the key file: restore the key to encryption_key_file");
            answer::internal("the key that the object was encrypted with is not in the store's key file")
        }
        SealError::NoRandom => answer::internal("the system gives no random bytes"),
    }
}

/// The key of a stored object or upload; `None` where its bytes lie in the clear.
pub(super) fn key_of(
    store: &Store,
    encryption: Option<&Encryption>,
    customer: Option<&CustomerKey>,
) -> S3Result<Option<Key>> {
    match (encryption, customer) {
        (Some(Encryption::Customer { md5, wrapped }), Some(customer)) => {
            let other = |_| s3_error!(InvalidRequest, "The object was stored with another customer's key");
            customer.open(md5, wrapped).map(Some).map_err(other)
        }
        (Some(Encryption::Customer { .. }), None) => Err(s3_error!(
            InvalidRequest,
            "The object was stored with a customer's key, which must come with the request"
        )),
        (_, Some(_)) => Err(s3_error!(
            InvalidRequest,
            "The object was not stored with a customer's key, and none may come with the request"
        )),
        (Some(Encryption::Store { key, wrapped }), None) => {
            store.keys.open(key, wrapped).map(Some).map_err(failed)
        }
        (None, None) => Ok(None),
    }
}

/// Fills the fields of an answer that say how the bytes are encrypted.
macro_rules! show_encryption {
    ($output:expr, $encryption:expr) => {
        match $encryption {
            None => {}
            Some($crate::object::Encryption::Store { .. }) => {
                $output.server_side_encryption =
                    Some(s3s::dto::ServerSideEncryption::from_static($crate::s3::encryption::AES256));
            }
            Some($crate::object::Encryption::Customer { md5, .. }) => {
                use base64::Engine as _;
                $output.sse_customer_algorithm = Some($crate::s3::encryption::AES256.to_owned());
                $output.sse_customer_key_md5 = Some(base64::engine::general_purpose::STANDARD.encode(md5));
            }
        }
    };
}
pub(super) use show_encryption;
