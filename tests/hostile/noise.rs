//! Random bytes and requests bent at random.
