//! Update: change the resource limits of a container.
//!
//! Invariant: the runtime gets the resources as the client wrote them; what is no JSON object is
//! refused before the runtime is asked.
//!
//! Annotations have nowhere to go: `update` of the OCI runtimes takes resources and nothing else,
//! and a container's annotations are those of its config.json. The Go shim drops them without a
//! word. Here a line in the log names them.

use std::collections::HashMap;

use serde::de::IgnoredAny;

use crate::container::Container;
use crate::container::state::{InitOp, init_allows};
use crate::error::{Error, Result};

impl Container {
    /// Changes the limits; `resources` is the OCI `linux.resources` object as JSON. Without any
    /// there is nothing to do. Of `annotations`, given by their keys, it is only said that they
    /// have no effect.
    ///
    /// # Errors
    /// The state's refusal, resources that are no JSON object, or the runtime's error.
    pub async fn update(
        &self,
        resources: Option<&[u8]>,
        mut annotations: Vec<String>,
    ) -> Result<()> {
        let allowed = || init_allows(self.state_of_init(), InitOp::Update);
        allowed()?;
        if !annotations.is_empty() {
            annotations.sort();
            let keys = annotations.join(", ");
            let (id, keys) = (&self.id, keys.escape_debug());
            log::info!("container {id}: update: annotations without effect: {keys}");
        }
        let Some(resources) = resources else {
            return Ok(());
        };
        if let Err(why) = serde_json::from_slice::<HashMap<String, IgnoredAny>>(resources) {
            return Err(Error::invalid_argument(format!("resources: {why}")));
        }
        let _turn = self.turn("update").await?;
        allowed()?;
        self.runtime.update(&self.id, resources).await?;
        self.sensed().look_at_pids();
        Ok(())
    }
}
