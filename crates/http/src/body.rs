//! Bodies of requests, which are as large as the face allows.

use axum::body::Body;
use bytes::Bytes;

/// Why a body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than it may be.
    #[error("the request's body is too large")]
    TooLarge,
    /// It ended before its end.
    #[error("the request's body broke off")]
    BrokeOff,
}

/// Reads a body up to a maximum number of bytes.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, BodyError> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return BodyError::TooLarge;
            }
            cause = error.source();
        }
        BodyError::BrokeOff
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_as_large_as_it_may_be() {
        let read = async |text: &'static str| read_body(Body::from(text), 4).await;
        assert_eq!(read("").await, Ok(Bytes::new()));
        assert_eq!(read("four").await, Ok(Bytes::from("four")));
        assert_eq!(read("fives").await, Err(BodyError::TooLarge));
    }
}
