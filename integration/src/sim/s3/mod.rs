//! Clients that speak something of the shape of S3, and the host's side of their requests.
