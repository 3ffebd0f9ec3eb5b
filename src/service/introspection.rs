//! The request for a dump: a service of our own beside the task API, which managers do not know.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::r#async::TtrpcContext;

use super::convert;
use crate::dump::Inspector;
use crate::error::Error;
use crate::proto::introspection::{DumpRequest, DumpResponse, Introspection, create_introspection};

struct Service(Arc<Inspector>);

#[async_trait]
impl Introspection for Service {
    async fn dump(&self, _ctx: &TtrpcContext, req: DumpRequest) -> ttrpc::Result<DumpResponse> {
        let work = async {
            let dump = self.0.look();
            let json = dump.to_json();
            if !req.quiet {
                self.0.keep(dump);
            }
            Ok::<_, Error>(DumpResponse {
                json,
                ..Default::default()
            })
        };
        super::guarded(work).await.map_err(convert::status)
    }
}

/// The service to register.
pub fn services(inspector: Arc<Inspector>) -> HashMap<String, ttrpc::r#async::Service> {
    create_introspection(Arc::new(Service(inspector)))
}
