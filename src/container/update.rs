//! Update: change the resource limits of a container.
//!
//! Invariant: the runtime gets the resources as the client wrote them; what is no JSON object is
//! refused before the runtime is asked.

use std::collections::HashMap;

use serde::de::IgnoredAny;

use super::Container;
use super::state::{InitOp, init_allows};
use crate::error::{Error, Result};

impl Container {
    /// Changes the limits; `resources` is the OCI `linux.resources` object as JSON. Without any
    /// there is nothing to do: no OCI runtime takes the annotations of a running container, the
    /// only other thing that a request can hold.
    ///
    /// # Errors
    /// The state's refusal, resources that are no JSON object, or the runtime's error.
    pub async fn update(&self, resources: Option<&[u8]>) -> Result<()> {
        let allowed = || init_allows(self.state_of_init(), InitOp::Update);
        allowed()?;
        let Some(resources) = resources else {
            return Ok(());
        };
        if let Err(why) = serde_json::from_slice::<HashMap<String, IgnoredAny>>(resources) {
            return Err(Error::invalid_argument(format!("resources: {why}")));
        }
        let _turn = self.init.turn.lock().await;
        allowed()?;
        self.runtime.update(&self.id, resources).await?;
        Ok(())
    }
}
